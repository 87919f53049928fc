//! What is true of each act by itself: how it reads, what proves it, whether it can be called back.

use super::{Act, Proof, Zone};
use std::fmt;

/// A device that the guest is asked to give up.
pub(crate) struct Removal<'a> {
    /// The device.
    pub(crate) id: &'a str,
    /// What ACPI calls its kind of slot.
    pub(crate) slot_type: &'static str,
    /// Its slot, where that is known.
    pub(crate) slot: Option<u32>,
}

impl Act {
    /// The proof of an act that is sent as an undo; absent for an act that is never one.
    pub fn own_proof(&self) -> Option<Proof> {
        match self {
            Act::DeleteBackend { memdev } => Some(Proof::BackendGone { memdev: memdev.clone() }),
            Act::UnplugDimm { id, .. } => Some(Proof::DimmGone { id: id.clone() }),
            Act::OnlineBlocks { device, .. } => {
                Some(Proof::BlocksOnline { device: device.clone(), whole: false })
            }
            Act::OfflineBlocks { device } => Some(Proof::BlocksOffline { device: device.clone() }),
            Act::SettleVirtioMem { id } => Some(Proof::VirtioMemSettled { id: id.clone() }),
            Act::SetBalloon { to, .. } => Some(Proof::BalloonAt { actual: *to }),
            Act::UnplugVcpu { id } => Some(Proof::VcpuGone { id: id.clone() }),
            Act::Set { to, .. } => Some(Proof::SetAt { setting: to.clone() }),
            Act::CreateBackend { .. }
            | Act::PlugDimm { .. }
            | Act::MakeKnown { .. }
            | Act::ResizeVirtioMem { .. }
            | Act::PlugVcpu { .. }
            | Act::AwaitOnline { .. }
            | Act::OnlineVcpus { .. }
            | Act::GrowDisk { .. }
            | Act::GrowInGuest { .. } => None,
        }
    }

    /// The removal that is asked of the guest, if this asks for one.
    pub(crate) fn removal(&self) -> Option<Removal<'_>> {
        match self {
            Act::UnplugDimm { id, slot, .. } => Some(Removal { id, slot_type: "DIMM", slot: Some(*slot) }),
            Act::UnplugVcpu { id } => Some(Removal { id, slot_type: "CPU", slot: None }),
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
            | Act::AwaitOnline { .. }
            | Act::OnlineVcpus { .. }
            | Act::Set { .. }
            | Act::GrowDisk { .. }
            | Act::GrowInGuest { .. } => None,
        }
    }

    /// The device that the guest is asked to give up, if this asks for one.
    pub fn removed(&self) -> Option<&str> {
        self.removal().map(|removal| removal.id)
    }

    /// True for an act that makes something under a name. Where it is refused and something of that name is there, somebody
    /// else made it.
    pub fn makes(&self) -> bool {
        matches!(self, Act::CreateBackend { .. } | Act::PlugDimm { .. } | Act::PlugVcpu { .. })
    }

    /// True for a removal that the guest is asked for. QEMU has no command to withdraw it
    /// (hw/acpi/memory_hotplug.c, hw/acpi/cpu.c; 7.2 and 10.0).
    pub fn has_no_cancel(&self) -> bool {
        self.removed().is_some()
    }

    /// True if QEMU sends an event when the guest has acted on it, so that waiting beats looking.
    pub fn is_announced(&self) -> bool {
        self.has_no_cancel() || matches!(self, Act::PlugDimm { .. } | Act::PlugVcpu { .. })
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::CreateBackend { memdev, size, backing, placement } => {
                write!(f, "make {size} of host memory {memdev}")?;
                if let Some(page) = backing.page() {
                    write!(f, " in huge pages of {page}")?;
                }
                let nodes: Vec<String> = placement.host_nodes.iter().map(u32::to_string).collect();
                if !nodes.is_empty() {
                    write!(f, " on host node {}", nodes.join(", "))?;
                }
                Ok(())
            }
            Act::DeleteBackend { memdev } => write!(f, "give host memory {memdev} back"),
            Act::PlugDimm { id, slot, node, brings: None, .. } => {
                write!(f, "plug DIMM {id} into slot {slot}, node {node}")
            }
            Act::PlugDimm { id, slot, node, brings: Some(size), .. } => {
                write!(f, "plug DIMM {id} of {size} into slot {slot}, node {node}")
            }
            Act::UnplugDimm { id, .. } => write!(f, "unplug DIMM {id}"),
            Act::MakeKnown { device, after } => {
                write!(f, "tell the guest of the blocks of {device} that it has not found in {after}")
            }
            Act::OnlineBlocks { device, zone: Zone::Movable } => {
                write!(f, "online the blocks of {device}, movable only")
            }
            Act::OnlineBlocks { device, zone: Zone::PreferMovable } => {
                write!(f, "online the blocks of {device}, movable")
            }
            Act::OnlineBlocks { device, zone: Zone::AsBefore } => {
                write!(f, "online the blocks of {device} as they were")
            }
            Act::OnlineBlocks { device, zone: Zone::Default } => write!(f, "online the blocks of {device}"),
            Act::OfflineBlocks { device } => write!(f, "take the blocks of {device} offline"),
            Act::ResizeVirtioMem { id, from, to } => write!(f, "resize {id} from {from} to {to}"),
            Act::SettleVirtioMem { id } => write!(f, "settle {id} at what the guest holds"),
            Act::SetBalloon { from, to } => write!(f, "set the balloon's target from {from} to {to}"),
            Act::PlugVcpu { id, .. } => write!(f, "plug vCPU {id}"),
            Act::UnplugVcpu { id } => write!(f, "unplug vCPU {id}"),
            Act::AwaitOnline { device } => write!(f, "wait for the guest to take {device} in"),
            Act::OnlineVcpus { count } => write!(f, "put vCPUs online until {count} are online"),
            Act::Set { from, to } => write!(f, "set {} from {} to {}", to.name(), from.value(), to.value()),
            Act::GrowDisk { disk, from, to } => write!(f, "grow disk {disk} from {from} to {to}"),
            Act::GrowInGuest { disk, layer, tool, .. } => {
                write!(f, "grow {} on {disk} with {tool} in the guest", layer.name())
            }
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::BackendExists { .. } => write!(f, "QEMU lists it"),
            Proof::BackendGone { .. } => write!(f, "QEMU lists it no more"),
            Proof::DimmPlugged { .. } => write!(f, "QEMU lists it"),
            Proof::DimmSeen { .. } => write!(f, "the guest shows its blocks"),
            Proof::DimmGone { .. } => write!(f, "the guest let it go (DEVICE_DELETED)"),
            Proof::BlocksOnline { .. } => write!(f, "the guest shows its blocks online"),
            Proof::BlocksMovable { .. } => write!(f, "the guest shows its blocks online and movable"),
            Proof::BlocksOffline { .. } => write!(f, "the guest shows its blocks offline"),
            Proof::VirtioMemSize { size, .. } => write!(f, "its size is {size}"),
            Proof::VirtioMemSettled { .. } => write!(f, "its size is what is requested"),
            Proof::BalloonAt { actual } => write!(f, "the balloon is at {actual}"),
            Proof::GuestTotal { at_least } => write!(f, "the guest counts {at_least} or more"),
            Proof::VcpuSeen { present, .. } => write!(f, "the guest shows {present} vCPUs"),
            Proof::VcpuGone { .. } => write!(f, "the guest let it go (DEVICE_DELETED)"),
            Proof::VcpusOnline { count } => write!(f, "the guest shows {count} vCPUs online"),
            Proof::SetAt { .. } => write!(f, "it is read back from where it acts"),
            Proof::DiskAt { size, .. } => write!(f, "the disk shows {size}"),
            Proof::LayerAt { layer, at_least, .. } => {
                write!(f, "the guest shows {layer} at {at_least} or more")
            }
        }
    }
}
