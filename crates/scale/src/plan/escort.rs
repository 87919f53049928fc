//! Limits that move with a machine's memory: they are raised before memory comes and lowered after it is gone, by as
//! much, so that what is between the two stays what it was. One that is below the machine's memory (a guest that never
//! touched all of it) is not lowered below what is left.
//!
//! A limit that is raised for a DIMM belongs to the DIMM's group and is set back with it. Where a virtio-mem device
//! grows it is a group before: what the guest took of a growth that broke stays, and needs the limit. One that is
//! lowered is a group behind: nothing could bring back what is gone. A limit of which nothing is known is not touched.

use super::make::{Part, Scene, step};
use super::{Act, Proof, Step, Strength};
use crate::observed::Manager;
use crate::setting::Setting;
use crate::units::Bytes;
use std::collections::BTreeMap;

/// Has the machine's limits move with the memory that the parts bring and take.
pub(super) fn escort(scene: &Scene<'_>, parts: &mut [Part]) {
    for limit in scene.seen.host.moving_limits() {
        let mut escort = Escort::of(scene, limit);
        for part in &mut *parts {
            let groups = std::mem::take(&mut part.groups);
            part.groups = groups.into_iter().flat_map(|group| escort.beside(group)).collect();
        }
    }
}

struct Escort<'a> {
    scene: &'a Scene<'a>,
    now: Setting,
    /// What it was.
    was: i128,
    /// What QEMU held then.
    held: i128,
    /// How much more QEMU holds by now.
    more: i128,
    /// What each backend holds.
    backends: BTreeMap<String, Bytes>,
    /// What each virtio-mem device holds.
    devices: BTreeMap<String, Bytes>,
}

/// What a group does to the memory that QEMU holds.
enum Change {
    Brings(Bytes),
    Takes(Bytes),
}

impl<'a> Escort<'a> {
    fn of(scene: &'a Scene<'a>, now: Setting) -> Escort<'a> {
        let memory = &scene.seen.memory;
        let dimms = memory.dimms.iter().map(|dimm| (dimm.memdev.clone(), dimm.size));
        let spare = memory.unused_backends.iter().map(|backend| (backend.id.clone(), backend.size));
        let devices = memory.virtio_mem.iter().map(|device| (device.id.clone(), device.size)).collect();
        let was = i128::from(now.bytes().unwrap_or_default().get());
        let held = i128::from(memory.held().get());
        Escort { scene, now, was, held, more: 0, backends: dimms.chain(spare).collect(), devices }
    }

    /// The group with what is set before or behind it.
    fn beside(&mut self, mut group: Vec<Step>) -> Vec<Vec<Step>> {
        let apart = group.iter().any(|step| matches!(step.act, Act::ResizeVirtioMem { .. }));
        match self.change(&group) {
            None => vec![group],
            Some(Change::Brings(by)) => {
                let raise = self.set(i128::from(by.get()));
                match (raise, apart) {
                    (None, _) => vec![group],
                    (Some(raise), true) => vec![vec![raise], group],
                    (Some(raise), false) => {
                        group.insert(0, raise);
                        vec![group]
                    }
                }
            }
            Some(Change::Takes(by)) => {
                let lower = self.set(-i128::from(by.get()));
                [Some(group), lower.map(|lower| vec![lower])].into_iter().flatten().collect()
            }
        }
    }

    fn set(&mut self, more: i128) -> Option<Step> {
        self.more += more;
        let due = (self.was + self.more).max(self.was.min(self.held + self.more));
        let most = u64::try_from(due).ok().map(Bytes::new)?;
        let there = self.now.with_bytes(most).filter(|there| *there != self.now)?;
        let (from, to) = (Box::new(self.now.clone()), Box::new(there.clone()));
        self.now = there;
        Some(step(
            Act::Set { from: from.clone(), to: to.clone() },
            Proof::SetAt { setting: to.clone() },
            Strength::DeviceOnly,
            self.scene.limits.monitor,
            vec![Act::Set { from: to, to: from }],
        ))
    }

    fn change(&mut self, group: &[Step]) -> Option<Change> {
        let by_libvirt = self.scene.seen.machine.manager == Manager::Libvirt;
        let (mut brings, mut takes) = (Bytes::ZERO, Bytes::ZERO);
        for step in group {
            match &step.act {
                Act::CreateBackend { memdev, size, .. }
                | Act::PlugDimm { memdev, brings: Some(size), .. } => {
                    self.backends.insert(memdev.clone(), *size);
                    brings = brings + *size;
                }
                Act::UnplugDimm { memdev, .. } if by_libvirt => takes = takes + self.gone(memdev),
                Act::DeleteBackend { memdev } => takes = takes + self.gone(memdev),
                Act::ResizeVirtioMem { id, to, .. } => {
                    let held = self.devices.insert(id.clone(), *to).unwrap_or(*to);
                    brings = brings + to.saturating_sub(held);
                    takes = takes + held.saturating_sub(*to);
                }
                Act::PlugDimm { brings: None, .. }
                | Act::UnplugDimm { .. }
                | Act::MakeKnown { .. }
                | Act::OnlineBlocks { .. }
                | Act::OfflineBlocks { .. }
                | Act::SettleVirtioMem { .. }
                | Act::SetBalloon { .. }
                | Act::PlugVcpu { .. }
                | Act::UnplugVcpu { .. }
                | Act::AwaitOnline { .. }
                | Act::OnlineVcpus { .. }
                | Act::Set { .. }
                | Act::GrowDisk { .. }
                | Act::GrowInGuest { .. } => {}
            }
        }
        match brings.cmp(&takes) {
            core::cmp::Ordering::Equal => None,
            core::cmp::Ordering::Greater => Some(Change::Brings(brings - takes)),
            core::cmp::Ordering::Less => Some(Change::Takes(takes - brings)),
        }
    }

    fn gone(&mut self, memdev: &str) -> Bytes {
        self.backends.remove(memdev).unwrap_or_default()
    }
}
