//! What QEMU's events mean for a run. Pure; events that no run waits for are [`Event::Other`].

use scale::sight::Event;
use serde_json::Value;

use super::message;
use crate::wire::shown;

/// What an event says.
pub fn meaning(event: &message::Event) -> Event {
    let data = &event.data;
    known(&event.name, data).unwrap_or_else(|| Event::Other { name: shown(&event.name) })
}

fn known(name: &str, data: &Value) -> Option<Event> {
    Some(match name {
        "ACPI_DEVICE_OST" => ost(data.get("info")?)?,
        // Parts of a device end too, with a path and without an id (a vCPU's local APIC on 7.2).
        "DEVICE_DELETED" => Event::DeviceDeleted { id: text(data, "device")? },
        "DEVICE_UNPLUG_GUEST_ERROR" => Event::UnplugError {
            id: text(data, "device")?,
            message: "QEMU could not remove it after the guest had agreed".into(),
        },
        // Up to 9.0, besides the event above and with the reason.
        "MEM_UNPLUG_ERROR" => Event::UnplugError { id: text(data, "device")?, message: text(data, "msg")? },
        "MEMORY_DEVICE_SIZE_CHANGE" | "BALLOON_CHANGE" => Event::SizeChanged,
        "RESET" => Event::GuestReset,
        "SHUTDOWN" => {
            let reason = text(data, "reason").unwrap_or_else(|| "no reason given".into());
            Event::Gone { why: format!("the machine shuts down ({reason})") }
        }
        _ => return None,
    })
}

fn ost(info: &Value) -> Option<Event> {
    let number = |key| info.get(key).and_then(Value::as_u64);
    Some(Event::Ost {
        slot_type: text(info, "slot-type")?,
        slot: text(info, "slot")?,
        device: text(info, "device"),
        source: number("source")?,
        status: number("status")?,
    })
}

fn text(data: &Value, key: &str) -> Option<String> {
    data.get(key).and_then(Value::as_str).map(shown)
}
