//! What the driver makes of QEMU's events, in the forms in which 7.2 and 10.0 send them.

use drive::qmp::message;
use drive::qmp::news::meaning;
use scale::sight::Event;
use serde_json::{Value, json};

fn news(name: &str, data: Value) -> Event {
    meaning(&message::Event { name: name.into(), data, micros: Some(1) })
}

#[test]
fn the_guest_s_word_on_a_slot_keeps_every_part() {
    let info =
        json!({"info": {"device": "dimm0", "slot": "3", "slot-type": "DIMM", "source": 1, "status": 0}});
    let ost = |device: Option<&str>, source, status| Event::Ost {
        slot_type: "DIMM".into(),
        slot: "3".into(),
        device: device.map(str::to_owned),
        source,
        status,
    };
    assert_eq!(news("ACPI_DEVICE_OST", info), ost(Some("dimm0"), 1, 0));
    let gone = json!({"info": {"slot": "3", "slot-type": "DIMM", "source": 3, "status": 0}});
    assert_eq!(news("ACPI_DEVICE_OST", gone), ost(None, 3, 0));
}

#[test]
fn a_deleted_part_of_a_device_is_not_the_device() {
    let data = json!({"device": "dimm0", "path": "/machine/peripheral/dimm0"});
    assert_eq!(news("DEVICE_DELETED", data), Event::DeviceDeleted { id: "dimm0".into() });
    let part = json!({"path": "/machine/peripheral/cpu1/lapic"});
    assert_eq!(news("DEVICE_DELETED", part), Event::Other { name: "DEVICE_DELETED".into() });
}

#[test]
fn both_forms_of_a_failed_removal_are_understood() {
    let old = news("MEM_UNPLUG_ERROR", json!({"device": "dimm0", "msg": "busy"}));
    assert_eq!(old, Event::UnplugError { id: "dimm0".into(), message: "busy".into() });
    let new =
        news("DEVICE_UNPLUG_GUEST_ERROR", json!({"device": "dimm0", "path": "/machine/peripheral/dimm0"}));
    assert!(matches!(new, Event::UnplugError { id, .. } if id == "dimm0"));
}

#[test]
fn sizes_restarts_and_ends_are_understood() {
    assert_eq!(news("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 1})), Event::SizeChanged);
    assert_eq!(news("BALLOON_CHANGE", json!({"actual": 1})), Event::SizeChanged);
    assert_eq!(news("RESET", json!({"guest": true, "reason": "guest-reset"})), Event::GuestReset);
    let end = news("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"}));
    assert!(matches!(end, Event::Gone { why } if why.contains("guest-shutdown")));
}

#[test]
fn what_is_unknown_or_malformed_is_a_hint_to_look() {
    for (name, data) in [
        ("STOP", Value::Null),
        ("OF_THE_FUTURE", json!([1])),
        ("ACPI_DEVICE_OST", json!({"info": {"slot": 3}})),
        ("ACPI_DEVICE_OST", Value::Null),
        ("DEVICE_DELETED", json!({"device": 7})),
        ("MEM_UNPLUG_ERROR", json!({})),
    ] {
        assert_eq!(news(name, data), Event::Other { name: name.into() });
    }
    assert_eq!(news("A\u{1b}[2J", Value::Null), Event::Other { name: "A\\u{1b}[2J".into() });
}
