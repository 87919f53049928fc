//! What a run is told while it waits: looks at the machine, events, and what both mean for a step.
//!
//! The driver is asked for a [`Look`] and answers with a [`Sight`]; QEMU's events arrive as [`Event`]. Whether a
//! proof holds is decided here, once, for every driver.

mod judge;
mod whole;

pub use judge::Judgement;

use crate::observed::{Dimm, Disk, GuestVcpu, MemBlock, VirtioMem};
use crate::plan::Act;
use crate::setting::{Setting, SettingName};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A question to the machine, as narrow as a proof needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// Is there a backend of this id?
    Backend(String),
    /// A DIMM as QEMU lists it, and the guest's blocks in its range.
    Dimm(String),
    /// A DIMM as QEMU lists it; the guest is not asked.
    DimmDevice(String),
    /// A virtio-mem device as QEMU lists it.
    VirtioMem(String),
    /// The guest's memory blocks in the range of a DIMM or virtio-mem device.
    Blocks(String),
    /// The same, with the zones that they are in.
    Zones(String),
    /// The guest's total memory by its balloon driver's account, freshly told.
    GuestTotal,
    /// The balloon.
    Balloon,
    /// A vCPU device as QEMU lists it, and the guest's vCPUs.
    Vcpu(String),
    /// A vCPU device as QEMU lists it; the guest is not asked.
    VcpuDevice(String),
    /// The guest's vCPUs.
    Vcpus,
    /// A limit, read from where it acts: the control group's files, QEMU, the host's traffic control.
    Setting(SettingName),
    /// A disk as QEMU lists it, and what the guest shows of it.
    Disk(String),
    /// A disk as QEMU lists it; the guest is not asked ([`Disk::guest`] says so).
    DiskDevice(String),
}

/// The answer to a [`Look`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    /// Whether the backend exists.
    Backend(bool),
    /// The DIMM, if it is plugged.
    Dimm(Option<DimmSight>),
    /// The virtio-mem device, if there is one.
    VirtioMem(Option<VirtioMem>),
    /// The guest's blocks of a device, if QEMU lists the device.
    Blocks(Option<GuestView<BlocksSight>>),
    /// The guest's blocks of a device with their zones, if QEMU lists the device.
    Zones(Option<GuestView<ZonesSight>>),
    /// MemTotal, if the balloon driver tells it.
    GuestTotal(Option<Bytes>),
    /// The balloon's `actual`, if there is a balloon.
    Balloon(Option<Bytes>),
    /// A vCPU.
    Vcpu {
        /// Whether QEMU lists it.
        plugged: bool,
        /// What the guest shows, where it can be asked.
        guest: GuestView<Vec<GuestVcpu>>,
    },
    /// The guest's vCPUs.
    Vcpus(GuestView<Vec<GuestVcpu>>),
    /// The limit, if there is that whose it is.
    Setting(Option<Setting>),
    /// The disk, if QEMU lists it.
    Disk(Option<Box<Disk>>),
}

/// A DIMM and the guest's blocks of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DimmSight {
    /// As QEMU lists it.
    pub device: Dimm,
    /// As the guest shows it.
    pub guest: GuestView<BlocksSight>,
}

/// The guest's memory blocks in a device's range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlocksSight {
    /// The size of a block.
    pub block: Bytes,
    /// How many blocks the guest is to show: all of a DIMM; of virtio-mem as many as its present size fills, and Linux
    /// may spread that over more.
    pub covers: u64,
    /// Those that the guest shows.
    pub blocks: Vec<MemBlock>,
}

/// The guest's memory blocks in a device's range, and the zones of those that are online.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ZonesSight {
    /// The blocks.
    pub shown: BlocksSight,
    /// The zone of each online block in Linux's word, `Normal` or `Movable`; a block whose zone the guest does not tell
    /// is not in it.
    pub zones: BTreeMap<u64, String>,
}

/// The guest's side of a look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestView<T> {
    /// The guest cannot be asked, for this reason. It was not to be asked, or it has no agent.
    Unasked(String),
    /// The guest was asked and did not answer in time or sensibly.
    Silent(String),
    /// The guest shows this.
    Shows(T),
}

/// Something that QEMU told by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// `ACPI_DEVICE_OST`: what the guest's ACPI driver reports of an insertion or an ejection.
    Ost {
        /// `DIMM` or `CPU`.
        slot_type: String,
        /// The slot's number, as QEMU writes it.
        slot: String,
        /// The device, where the slot still holds one.
        device: Option<String>,
        /// 1 or 0x200 for insertion, 3 or 0x103 for ejection.
        source: u64,
        /// 0 for success; see [`ost_refusal`].
        status: u64,
    },
    /// `DEVICE_DELETED` with a device id.
    DeviceDeleted {
        /// The device.
        id: String,
    },
    /// `DEVICE_UNPLUG_GUEST_ERROR` or `MEM_UNPLUG_ERROR`: the removal failed after the guest had agreed.
    UnplugError {
        /// The device.
        id: String,
        /// What QEMU says of it.
        message: String,
    },
    /// `MEMORY_DEVICE_SIZE_CHANGE` (at most one a second) or `BALLOON_CHANGE`: a hint to look.
    SizeChanged,
    /// `RESET`: the guest restarted.
    GuestReset,
    /// `SHUTDOWN`, or the end of the connection.
    Gone {
        /// Why.
        why: String,
    },
    /// Events were lost, or one came that says nothing to a run: a hint to look.
    Other {
        /// Its name.
        name: String,
    },
}

/// What an ejection's OST status says, if it is a refusal. Codes: ACPI 6.5 table 6-11 and Linux
/// drivers/acpi/scan.c; 0x84 (in progress) and 0 (done) are no refusals.
pub fn ost_refusal(status: u64) -> Option<&'static str> {
    match status {
        1 => Some("the guest's ACPI driver failed"),
        2 => Some("the guest does not know the notification"),
        0x80 => Some("the guest does not allow the removal"),
        0x81 => Some("the device is in use in the guest"),
        0x82 => Some("the device is busy in the guest"),
        0x83 => Some("something in the guest that depends on the device is busy"),
        _ => None,
    }
}

impl Event {
    /// Why the guest will not do `act`, if this event says so.
    pub fn refuses(&self, act: &Act) -> Option<String> {
        let asked = act.removal()?;
        match self {
            Event::Ost { slot_type, slot, device, source: 3 | 0x103, status } => {
                let same = match device {
                    Some(device) => device == asked.id,
                    None => asked.slot.is_some_and(|number| number.to_string() == *slot),
                };
                let refusal = ost_refusal(*status).filter(|_| same && slot_type == asked.slot_type);
                refusal.map(|why| format!("{why} (ACPI _OST status {status:#x})"))
            }
            Event::UnplugError { id, message } if id == asked.id => Some(message.clone()),
            Event::Ost { .. }
            | Event::UnplugError { .. }
            | Event::DeviceDeleted { .. }
            | Event::SizeChanged
            | Event::GuestReset
            | Event::Gone { .. }
            | Event::Other { .. } => None,
        }
    }

    /// True if this event is the guest's acknowledgement that it processed the insertion of DIMM `id`.
    pub fn acknowledges(&self, id: &str) -> bool {
        matches!(self, Event::Ost { device: Some(d), source: 1 | 0x200, status: 0, .. } if d == id)
    }
}
