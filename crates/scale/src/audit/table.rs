//! What belongs to each act: the proof that shows it, how strong that can be, and the way back.

use super::dimms::can_switch_blocks;
use super::disks;
use super::{Auditor, Kind};
use crate::guests::{Can, lookup};
use crate::observed::Observed;
use crate::plan::{Act, Proof, Step, Strength, Zone};

impl Auditor<'_> {
    pub(super) fn table(&mut self, step: &Step) {
        let virtio_mem = match &step.act {
            Act::OnlineBlocks { device, .. } | Act::AwaitOnline { device } => {
                self.ledger.is_virtio_mem(device)
            }
            Act::CreateBackend { .. }
            | Act::DeleteBackend { .. }
            | Act::PlugDimm { .. }
            | Act::UnplugDimm { .. }
            | Act::MakeKnown { .. }
            | Act::OfflineBlocks { .. }
            | Act::ResizeVirtioMem { .. }
            | Act::SettleVirtioMem { .. }
            | Act::SetBalloon { .. }
            | Act::PlugVcpu { .. }
            | Act::UnplugVcpu { .. }
            | Act::OnlineVcpus { .. }
            | Act::Set { .. }
            | Act::GrowDisk { .. }
            | Act::GrowInGuest { .. } => false,
        };
        let holds = shows(&step.proof, &step.act, virtio_mem) && self.shows_zone(step);
        self.require(holds, Kind::WrongProof, || {
            format!("{:?} does not show that one did {:?}", step.proof, step.act)
        });
        self.present(step);
        let most = strongest(&step.proof, self.seen);
        self.require(step.strength <= most, Kind::Overclaimed, || {
            format!("the proof is called {} and can be {most} at most", step.strength)
        });
        let owed = self.owes(step);
        let right = match self.never_leaves(&step.act) {
            true => step.undo.is_empty(),
            false => leads_back(&step.undo, &step.act, owed),
        };
        self.require(right, Kind::WrongUndo, || {
            format!("{:?} is not the way back from {:?}", step.undo, step.act)
        });
    }

    /// Where a DIMM is to be movable and nothing of it was in use before, each block must show that it is.
    fn shows_zone(&mut self, step: &Step) -> bool {
        let Act::OnlineBlocks { device, zone } = &step.act else { return true };
        let movable = matches!(step.proof, Proof::BlocksMovable { .. });
        let unused = self.ledger.stick(device).is_some_and(|s| s.in_use.is_zero());
        match zone {
            Zone::Movable => movable || !unused,
            Zone::Default | Zone::PreferMovable | Zone::AsBefore => !movable,
        }
    }

    /// True where an act plugs what the guest's system is known never to give back: to ask for it would leave a removal that
    /// is pending for ever.
    fn never_leaves(&self, act: &Act) -> bool {
        let system = self.seen.guest.heard().and_then(|h| h.system.as_ref());
        let Some(row) = system.filter(|system| !system.is_linux()).and_then(lookup) else { return false };
        match act {
            Act::PlugDimm { .. } => row.memory.remove == Can::No,
            Act::PlugVcpu { .. } => row.vcpus.remove == Can::No && !self.seen.vcpus.removed_before,
            Act::CreateBackend { .. }
            | Act::DeleteBackend { .. }
            | Act::UnplugDimm { .. }
            | Act::MakeKnown { .. }
            | Act::OnlineBlocks { .. }
            | Act::OfflineBlocks { .. }
            | Act::AwaitOnline { .. }
            | Act::ResizeVirtioMem { .. }
            | Act::SettleVirtioMem { .. }
            | Act::SetBalloon { .. }
            | Act::UnplugVcpu { .. }
            | Act::OnlineVcpus { .. }
            | Act::Set { .. }
            | Act::GrowDisk { .. }
            | Act::GrowInGuest { .. } => false,
        }
    }

    /// True where an act on a DIMM's blocks must be taken back if its group breaks: blocks of a DIMM that this group
    /// plugged, which is to be unplugged then, and blocks that were in use.
    fn owes(&mut self, step: &Step) -> bool {
        let can = self.seen.guest.heard().is_some_and(can_switch_blocks);
        match &step.act {
            Act::MakeKnown { device, .. } | Act::OnlineBlocks { device, .. } => {
                let stick = self.ledger.stick(device);
                can && stick.is_some_and(|s| s.unused_by.is_some_and(|(_, by)| by == step.group))
            }
            Act::OfflineBlocks { device } => self.ledger.stick(device).is_some_and(|s| !s.in_use.is_zero()),
            Act::CreateBackend { .. }
            | Act::DeleteBackend { .. }
            | Act::PlugDimm { .. }
            | Act::UnplugDimm { .. }
            | Act::AwaitOnline { .. }
            | Act::ResizeVirtioMem { .. }
            | Act::SettleVirtioMem { .. }
            | Act::SetBalloon { .. }
            | Act::PlugVcpu { .. }
            | Act::UnplugVcpu { .. }
            | Act::OnlineVcpus { .. }
            | Act::Set { .. }
            | Act::GrowDisk { .. }
            | Act::GrowInGuest { .. } => false,
        }
    }

    /// The number of vCPUs that the guest must show counts the new one, and none that will not be there.
    fn present(&mut self, step: &Step) {
        let Proof::VcpuSeen { present, .. } = &step.proof else { return };
        let Act::PlugVcpu { props, .. } = &step.act else { return };
        let added = self.ledger.vcpus.iter().find(|p| p.props == *props).map_or(1, |p| p.count);
        let most = self.ledger.sizes().vcpus.saturating_add(added);
        self.require((added + 1..=most).contains(present), Kind::WrongProof, || {
            format!("the guest is to show {present} vCPUs of {most}")
        });
    }
}

/// True if this proof shows this act. `virtio_mem` tells whether the act's device is a virtio-mem device.
fn shows(proof: &Proof, act: &Act, virtio_mem: bool) -> bool {
    match (act, proof) {
        (Act::CreateBackend { memdev, .. }, Proof::BackendExists { memdev: p })
        | (Act::DeleteBackend { memdev }, Proof::BackendGone { memdev: p }) => memdev == p,
        (Act::PlugDimm { id, .. }, Proof::DimmSeen { id: p } | Proof::DimmPlugged { id: p })
        | (Act::MakeKnown { device: id, .. }, Proof::DimmSeen { id: p })
        | (Act::UnplugDimm { id, .. }, Proof::DimmGone { id: p })
        | (Act::SettleVirtioMem { id }, Proof::VirtioMemSettled { id: p })
        | (Act::PlugVcpu { id, .. }, Proof::VcpuSeen { id: p, .. })
        | (Act::UnplugVcpu { id }, Proof::VcpuGone { id: p }) => id == p,
        (
            Act::OnlineBlocks { device, .. } | Act::AwaitOnline { device },
            Proof::BlocksOnline { device: p, whole },
        )
        | (Act::OnlineBlocks { device, .. }, Proof::BlocksMovable { device: p, whole }) => {
            device == p && *whole != virtio_mem
        }
        (Act::AwaitOnline { .. }, Proof::GuestTotal { at_least }) => !at_least.is_zero(),
        (Act::AwaitOnline { device }, Proof::VcpuSeen { id, present }) => device == id && *present > 1,
        (Act::OfflineBlocks { device }, Proof::BlocksOffline { device: p }) => device == p,
        (Act::ResizeVirtioMem { id, to, .. }, Proof::VirtioMemSize { id: p, size }) => id == p && to == size,
        (Act::SetBalloon { to, .. }, Proof::BalloonAt { actual }) => to == actual,
        (Act::OnlineVcpus { count }, Proof::VcpusOnline { count: p }) => count == p,
        (Act::Set { to, .. }, Proof::SetAt { setting }) => to == setting,
        (Act::GrowDisk { disk, to, .. }, Proof::DiskAt { disk: p, size, .. }) => disk == p && to == size,
        (Act::GrowInGuest { disk, layer, .. }, Proof::LayerAt { disk: p, layer: name, at_least }) => {
            disk == p && layer.name() == *name && *at_least > layer.size
        }
        _other_pairs => false,
    }
}

/// The most that a proof can be worth on this machine.
fn strongest(proof: &Proof, seen: &Observed) -> Strength {
    let heard = seen.guest.heard();
    match proof {
        Proof::BackendExists { .. }
        | Proof::BackendGone { .. }
        | Proof::DimmPlugged { .. }
        | Proof::SetAt { .. } => Strength::DeviceOnly,
        Proof::DiskAt { in_guest: false, .. } => Strength::DeviceOnly,
        Proof::DiskAt { disk, .. } | Proof::LayerAt { disk, .. } => {
            match disks::guest_shows(seen.disks().iter().find(|d| d.name == *disk)) {
                true => Strength::GuestConfirmed,
                false => Strength::DeviceOnly,
            }
        }
        Proof::DimmSeen { .. }
        | Proof::BlocksOnline { .. }
        | Proof::BlocksMovable { .. }
        | Proof::BlocksOffline { .. } => match heard.is_some_and(|h| h.block.is_some()) {
            true => Strength::GuestConfirmed,
            false => Strength::DriverConfirmed,
        },
        Proof::VcpuSeen { .. } | Proof::VcpusOnline { .. } => {
            match heard.is_some_and(|h| !h.vcpus.is_empty()) {
                true => Strength::GuestConfirmed,
                false => Strength::DriverConfirmed,
            }
        }
        Proof::DimmGone { .. }
        | Proof::VirtioMemSize { .. }
        | Proof::VirtioMemSettled { .. }
        | Proof::BalloonAt { .. }
        | Proof::GuestTotal { .. }
        | Proof::VcpuGone { .. } => Strength::DriverConfirmed,
    }
}

/// True if these acts, in this order, take that act back. What has no way back must name none, and what may be left as
/// it is may name none where none is owed.
fn leads_back(undo: &[Act], act: &Act, owed: bool) -> bool {
    match act {
        Act::CreateBackend { memdev, .. } => {
            matches!(undo, [Act::DeleteBackend { memdev: back }] if back == memdev)
        }
        Act::PlugDimm { id, memdev, slot, .. } => match undo {
            [Act::UnplugDimm { id: i, memdev: m, slot: s }] => (i, m, s) == (id, memdev, slot),
            [Act::OfflineBlocks { device }, Act::UnplugDimm { id: i, memdev: m, slot: s }] => {
                device == id && (i, m, s) == (id, memdev, slot)
            }
            _other_ways => false,
        },
        Act::OnlineBlocks { device, .. } | Act::AwaitOnline { device } => match undo {
            [] => !owed,
            [Act::OfflineBlocks { device: back }] => back == device,
            _other_ways => false,
        },
        // What was in use before is not to be taken offline because more of it could not be made known.
        Act::MakeKnown { device, .. } => match undo {
            [] => !owed,
            [Act::OfflineBlocks { device: back }] => owed && back == device,
            _other_ways => false,
        },
        Act::OfflineBlocks { device } => match undo {
            [] => !owed,
            // Not into another zone than the one that a block had.
            [Act::OnlineBlocks { device: back, zone: Zone::Default | Zone::AsBefore }] => back == device,
            _other_ways => false,
        },
        Act::ResizeVirtioMem { id, .. } => {
            matches!(undo, [Act::SettleVirtioMem { id: back }] if back == id)
        }
        Act::SetBalloon { from, to } => {
            matches!(undo, [Act::SetBalloon { from: f, to: t }] if f == to && t == from)
        }
        Act::PlugVcpu { id, .. } => matches!(undo, [Act::UnplugVcpu { id: back }] if back == id),
        Act::Set { from, to } => matches!(undo, [Act::Set { from: f, to: t }] if f == to && t == from),
        // What is gone is gone; what is settled or online stays so without harm; what is larger cannot be cut.
        Act::DeleteBackend { .. }
        | Act::UnplugDimm { .. }
        | Act::UnplugVcpu { .. }
        | Act::SettleVirtioMem { .. }
        | Act::OnlineVcpus { .. }
        | Act::GrowDisk { .. }
        | Act::GrowInGuest { .. } => undo.is_empty(),
    }
}
