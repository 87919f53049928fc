//! How a disk is attached, as QEMU's objects tell: its bus, its serial number, and the place by which its guest can tell
//! it from others.

use scale::observed::DiskBus;
use serde::Deserialize;
use serde_json::Value;

use super::drive::Drive;
use crate::ObserveError;
use crate::qmp::monitor::Monitor;

/// The most PCI devices that are looked at: bridges are nested at most so often.
const MOST_PCI: usize = 65_536;

/// How one disk is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) bus: DiskBus,
    pub(super) serial: Option<String>,
    pub(super) place: Option<Place>,
}

/// A place in the guest's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pci: Pci,
    /// Channel, target and unit on a SCSI adapter.
    pub(super) scsi: Option<[u32; 3]>,
}

/// A PCI function, in domain 0: the only one that QEMU's machines for x86 and arm64 have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pci {
    pub(super) bus: u8,
    pub(super) slot: u8,
    pub(super) function: u8,
}

/// `query-pci`: a bus or, in a bridge, the one behind it.
#[derive(Debug, Deserialize)]
struct PciBus {
    devices: Vec<PciDevice>,
}

#[derive(Debug, Deserialize)]
struct PciDevice {
    qdev_id: String,
    pci_bridge: Option<PciBridge>,
}

#[derive(Debug, Deserialize)]
struct PciBridge {
    bus: BridgeBus,
    #[serde(default)]
    devices: Vec<PciDevice>,
}

#[derive(Debug, Deserialize)]
struct BridgeBus {
    secondary: u8,
}

/// Looks at one disk's device; nothing where it is no disk (the flash of a firmware). Its place is told where `placed` asks
/// for it.
pub(super) async fn look(
    monitor: &Monitor,
    drive: &Drive,
    placed: bool,
) -> Result<Option<Attached>, ObserveError> {
    let path = drive.path.as_str();
    let (kind, serial) = tokio::try_join!(
        monitor.property::<String>(path, "type"),
        monitor.property::<Value>(path, "serial"),
    )?;
    let mut above = None;
    let bus = match kind.as_deref().unwrap_or_default() {
        "virtio-blk-device" => DiskBus::Virtio,
        "scsi-hd" | "scsi-block" | "scsi-disk" | "scsi-generic" => {
            let bus = monitor.property::<String>(path, "parent_bus").await?;
            // `.../sc0/virtio-backend/sc0.0`: the bus of the adapter before it.
            above = bus.and_then(|bus| Some(bus.rsplit_once('/')?.0.to_owned()));
            let adapter = above.as_deref().unwrap_or_default();
            scsi_bus(&monitor.property::<String>(adapter, "type").await?.unwrap_or_default())
        }
        "ide-hd" | "ide-cf" => DiskBus::Ide,
        "nvme" | "nvme-ns" => DiskBus::Nvme,
        "xen-disk" | "sd-card" => DiskBus::Other,
        _ => return Ok(None),
    };
    let function = match bus {
        DiskBus::VirtioScsi | DiskBus::Scsi => above.as_deref(),
        DiskBus::Virtio | DiskBus::Nvme => Some(path),
        DiskBus::Ide | DiskBus::Usb | DiskBus::Other => None,
    };
    let place = match function.filter(|_| placed) {
        Some(function) => {
            let function = function.strip_suffix("/virtio-backend").unwrap_or(function);
            let is_scsi = above.is_some();
            let (pci, scsi) = tokio::try_join!(pci(monitor, function), async {
                if is_scsi { scsi(monitor, path).await } else { Ok(None) }
            })?;
            pci.map(|pci| Place { pci, scsi })
        }
        None => None,
    };
    let serial = serial.and_then(|serial| Some(serial.as_str()?.to_owned()));
    Ok(Some(Attached { bus, serial: serial.filter(|serial| !serial.is_empty()), place }))
}

/// Channel, target and unit of a disk on a SCSI adapter.
async fn scsi(monitor: &Monitor, path: &str) -> Result<Option<[u32; 3]>, ObserveError> {
    let get = |name: &'static str| monitor.property::<Value>(path, name);
    let (channel, target, lun) = tokio::try_join!(get("channel"), get("scsi-id"), get("lun"))?;
    let number = |value: Option<Value>| u32::try_from(value?.as_u64()?).ok();
    Ok(number(channel)
        .zip(number(target))
        .zip(number(lun))
        .map(|((channel, target), lun)| [channel, target, lun]))
}

fn scsi_bus(adapter: &str) -> DiskBus {
    match adapter {
        "virtio-scsi-device" | "vhost-scsi" => DiskBus::VirtioScsi,
        usb if usb.starts_with("usb-") => DiskBus::Usb,
        _ => DiskBus::Scsi,
    }
}

/// The PCI function of a device. The bus of a bridge has the number that the guest's firmware gave it.
async fn pci(monitor: &Monitor, path: &str) -> Result<Option<Pci>, ObserveError> {
    let (addr, bus) = tokio::try_join!(
        monitor.property::<i64>(path, "addr"),
        monitor.property::<String>(path, "parent_bus")
    )?;
    let (Some(addr), Some(bus)) = (addr.and_then(|addr| u8::try_from(addr).ok()), bus) else {
        return Ok(None);
    };
    let above = bus.rsplit_once('/').map_or("", |(above, _)| above);
    let bus = match above.strip_prefix("/machine/peripheral/") {
        // The machine's own bus.
        None if !above.starts_with("/machine/peripheral-anon/") => Some(0),
        None => None,
        Some(bridge) => {
            let buses: Option<Vec<PciBus>> = monitor.ask_if("query-pci", Value::Null).await?;
            behind(&buses.unwrap_or_default(), bridge)
        }
    };
    Ok(bus.map(|bus| Pci { bus, slot: addr >> 3, function: addr & 7 }))
}

/// The number of the bus behind the bridge of this id.
fn behind(buses: &[PciBus], bridge: &str) -> Option<u8> {
    let mut rest: Vec<&PciDevice> = buses.iter().flat_map(|bus| &bus.devices).collect();
    for _ in 0..MOST_PCI {
        let device = rest.pop()?;
        let Some(found) = &device.pci_bridge else { continue };
        if device.qdev_id == bridge {
            // 0 until a firmware has numbered it.
            return Some(found.bus.secondary).filter(|number| *number > 0);
        }
        rest.extend(&found.devices);
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bus_behind_bridges_is_found_by_its_bridge() {
        let inner = json!({"qdev_id": "rp2", "pci_bridge": {"bus": {"secondary": 5}, "devices": []}});
        let outer = json!({"qdev_id": "rp1", "pci_bridge": {"bus": {"secondary": 4}, "devices": [inner]}});
        let fresh = json!({"qdev_id": "rp3", "pci_bridge": {"bus": {"secondary": 0}}});
        let list = json!([{"bus": 0, "devices": [{"qdev_id": "vd0"}, outer, fresh]}]);
        let buses: Vec<PciBus> = serde_json::from_value(list).expect("buses");
        let found = ["rp1", "rp2", "rp3", "vd0", "none"].map(|bridge| behind(&buses, bridge));
        assert_eq!(found, [Some(4), Some(5), None, None, None]);
    }

    #[test]
    fn the_adapter_tells_how_its_guest_hears_of_a_new_size() {
        let buses = ["virtio-scsi-device", "usb-storage", "usb-uas", "lsi53c895a"].map(scsi_bus);
        assert_eq!(buses, [DiskBus::VirtioScsi, DiskBus::Usb, DiskBus::Usb, DiskBus::Scsi]);
    }
}
