//! What a run is told while it waits: looks at the machine, events, and what both mean for a step.
//!
//! The driver is asked for a [`Look`] and answers with a [`Sight`]; QEMU's events arrive as [`Event`]. Whether a
//! [`Proof`] holds is decided here, once, for every driver.

use crate::observed::{Dimm, GuestVcpu, MemBlock, VirtioMem};
use crate::plan::{Act, Proof, Strength};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

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

/// What a look means for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It holds, this strongly.
    Holds(Strength),
    /// Not yet: this is missing.
    NotYet(String),
}

impl Proof {
    /// What must be looked at to judge this. `ask_guest` is false where the plan expects no answer from the guest.
    pub fn look(&self, ask_guest: bool) -> Look {
        match self {
            Proof::BackendExists { memdev } | Proof::BackendGone { memdev } => Look::Backend(memdev.clone()),
            Proof::DimmSeen { id } if ask_guest => Look::Dimm(id.clone()),
            Proof::DimmSeen { id } | Proof::DimmPlugged { id } | Proof::DimmGone { id } => {
                Look::DimmDevice(id.clone())
            }
            Proof::BlocksOnline { device, .. } | Proof::BlocksOffline { device } => {
                Look::Blocks(device.clone())
            }
            Proof::VirtioMemSize { id, .. } | Proof::VirtioMemSettled { id } => Look::VirtioMem(id.clone()),
            Proof::GuestTotal { .. } => Look::GuestTotal,
            Proof::BalloonAt { .. } => Look::Balloon,
            Proof::VcpuSeen { id, .. } if ask_guest => Look::Vcpu(id.clone()),
            Proof::VcpuSeen { id, .. } | Proof::VcpuGone { id } => Look::VcpuDevice(id.clone()),
            Proof::VcpusOnline { .. } => Look::Vcpus,
        }
    }

    /// What a look means for this proof. `acknowledged` tells whether the guest's ACPI driver has reported the
    /// insertion of the device: enough where the guest cannot be asked for more.
    pub fn judge(&self, sight: &Sight, acknowledged: bool) -> Judgement {
        use Judgement::NotYet;
        use Strength::{DeviceOnly, DriverConfirmed};
        match (self, sight) {
            (Proof::BackendExists { .. }, Sight::Backend(exists)) => {
                holds_if(*exists, DeviceOnly, "QEMU does not list the backend")
            }
            (Proof::BackendGone { .. }, Sight::Backend(exists)) => {
                holds_if(!exists, DeviceOnly, "QEMU still lists the backend")
            }
            (Proof::DimmSeen { .. }, Sight::Dimm(Some(dimm))) => dimm_seen(&dimm.guest, acknowledged),
            (Proof::DimmPlugged { .. }, Sight::Dimm(Some(_))) => Judgement::Holds(DeviceOnly),
            (Proof::DimmSeen { .. } | Proof::DimmPlugged { .. }, Sight::Dimm(None)) => {
                NotYet("QEMU does not list the DIMM".into())
            }
            (Proof::DimmGone { .. }, Sight::Dimm(dimm)) => holds_if(
                dimm.is_none(),
                DriverConfirmed,
                "QEMU still lists the DIMM: the guest has not let it go",
            ),
            (Proof::BlocksOnline { whole, .. }, Sight::Blocks(Some(view))) => blocks_online(view, *whole),
            (Proof::BlocksOffline { .. }, Sight::Blocks(Some(view))) => blocks_offline(view),
            (Proof::BlocksOnline { .. }, Sight::Blocks(None)) => {
                NotYet("QEMU does not list the device".into())
            }
            // What is not there has no block online: the undo of a plug that QEMU refused passes by here.
            (Proof::BlocksOffline { .. }, Sight::Blocks(None)) => Judgement::Holds(DeviceOnly),
            (Proof::VirtioMemSize { size, .. }, Sight::VirtioMem(Some(device))) => holds_if(
                device.size == *size,
                DriverConfirmed,
                &format!("the device holds {} of {size}", device.size),
            ),
            (Proof::VirtioMemSettled { .. }, Sight::VirtioMem(Some(device))) => {
                let gap = format!("the device holds {} with {} requested", device.size, device.requested);
                holds_if(device.size == device.requested, DriverConfirmed, &gap)
            }
            (Proof::VirtioMemSize { .. } | Proof::VirtioMemSettled { .. }, Sight::VirtioMem(None)) => {
                NotYet("QEMU does not list the virtio-mem device".into())
            }
            (Proof::BalloonAt { actual }, Sight::Balloon(Some(now))) => {
                holds_if(now == actual, DriverConfirmed, &format!("the balloon is at {now} of {actual}"))
            }
            (Proof::BalloonAt { .. }, Sight::Balloon(None)) => NotYet("there is no balloon".into()),
            (Proof::GuestTotal { at_least }, Sight::GuestTotal(Some(total))) => holds_if(
                total >= at_least,
                DriverConfirmed,
                &format!("the guest counts {total} of {at_least}"),
            ),
            (Proof::GuestTotal { .. }, Sight::GuestTotal(None)) => {
                NotYet("the guest's balloon driver tells nothing".into())
            }
            (Proof::VcpuSeen { present, .. }, Sight::Vcpu { plugged: true, guest }) => {
                vcpu_seen(guest, *present, acknowledged)
            }
            (Proof::VcpuSeen { .. }, Sight::Vcpu { plugged: false, .. }) => {
                NotYet("QEMU does not list the vCPU".into())
            }
            (Proof::VcpuGone { .. }, Sight::Vcpu { plugged, .. }) => {
                holds_if(!plugged, DriverConfirmed, "QEMU still lists the vCPU: the guest has not let it go")
            }
            (Proof::VcpusOnline { count }, Sight::Vcpus(view)) => vcpus_online(view, *count),
            (proof, sight) => NotYet(format!("the driver answered {proof:?} with {sight:?}")),
        }
    }
}

fn holds_if(holds: bool, strength: Strength, otherwise: &str) -> Judgement {
    if holds { Judgement::Holds(strength) } else { Judgement::NotYet(otherwise.to_owned()) }
}

fn dimm_seen(guest: &GuestView<BlocksSight>, acknowledged: bool) -> Judgement {
    match guest {
        GuestView::Shows(sight) => {
            let shown = sight.blocks.len() as u64;
            let missing = format!("the guest shows {shown} of the {} memory blocks", sight.covers);
            holds_if(shown >= sight.covers, Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) => {
            let missing = format!("the guest has not acknowledged the DIMM and cannot be asked ({why})");
            holds_if(acknowledged, Strength::DriverConfirmed, &missing)
        }
        GuestView::Silent(why) => Judgement::NotYet(format!("the guest does not answer ({why})")),
    }
}

fn blocks_online(view: &GuestView<BlocksSight>, whole: bool) -> Judgement {
    match view {
        GuestView::Shows(sight) => {
            let online = sight.blocks.iter().filter(|b| b.online).count() as u64;
            let shown = sight.blocks.len() as u64;
            let of = if whole { sight.covers } else { sight.covers.max(shown) };
            let missing = format!("{online} of {of} memory blocks are online in the guest");
            holds_if(online >= of, Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            Judgement::NotYet(format!("the guest does not answer ({why})"))
        }
    }
}

fn blocks_offline(view: &GuestView<BlocksSight>) -> Judgement {
    match view {
        GuestView::Shows(sight) => {
            let online = sight.blocks.iter().filter(|b| b.online).count();
            let missing = format!("{online} of {} memory blocks are still online in the guest", sight.covers);
            holds_if(online == 0, Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            Judgement::NotYet(format!("the guest does not answer ({why})"))
        }
    }
}

fn vcpu_seen(guest: &GuestView<Vec<GuestVcpu>>, present: u32, acknowledged: bool) -> Judgement {
    match guest {
        GuestView::Shows(vcpus) => {
            let missing = format!("the guest shows {} of {present} vCPUs", vcpus.len());
            holds_if(vcpus.len() as u64 >= u64::from(present), Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) => {
            let missing = format!("the guest has not acknowledged the vCPU and cannot be asked ({why})");
            holds_if(acknowledged, Strength::DriverConfirmed, &missing)
        }
        GuestView::Silent(why) => Judgement::NotYet(format!("the guest does not answer ({why})")),
    }
}

fn vcpus_online(view: &GuestView<Vec<GuestVcpu>>, count: u32) -> Judgement {
    match view {
        GuestView::Shows(vcpus) => {
            let online = vcpus.iter().filter(|v| v.online).count() as u64;
            let missing = format!("{online} of {count} vCPUs are online in the guest");
            holds_if(online >= u64::from(count), Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            Judgement::NotYet(format!("the guest does not answer ({why})"))
        }
    }
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
        let (id, slot_type, slot) = match act {
            Act::UnplugDimm { id, slot, .. } => (id, "DIMM", Some(slot.to_string())),
            Act::UnplugVcpu { id } => (id, "CPU", None),
            Act::CreateBackend { .. }
            | Act::DeleteBackend { .. }
            | Act::PlugDimm { .. }
            | Act::MakeKnown { .. }
            | Act::OnlineBlocks { .. }
            | Act::OfflineBlocks { .. }
            | Act::ResizeVirtioMem { .. }
            | Act::SettleVirtioMem { .. }
            | Act::SetBalloon { .. }
            | Act::PlugVcpu { .. }
            | Act::OnlineVcpus { .. }
            | Act::AwaitOnline { .. } => return None,
        };
        match self {
            Event::Ost { slot_type: t, slot: s, device, source: 3 | 0x103, status } => {
                let same = match device {
                    Some(device) => device == id,
                    None => slot.as_ref() == Some(s),
                };
                if t != slot_type || !same {
                    return None;
                }
                ost_refusal(*status).map(|why| format!("{why} (ACPI _OST status {status:#x})"))
            }
            Event::UnplugError { id: other, message } if other == id => Some(message.clone()),
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
