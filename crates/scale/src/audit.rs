//! A second opinion on a finished plan.
//!
//! [`audit`] walks a plan's steps over a small account of the machine of its own and says where a rule of QEMU, of
//! Linux or of ours is broken. It shares the *words* of a plan with the planner (`Plan`, `Act`, `Proof`) and none of
//! its code, so that one mistake cannot hide behind itself. It reports only what is certainly wrong: where a fact is
//! unknown (a guest that says nothing), no finding follows from it. It mends nothing and chooses nothing.

mod devices;
mod dimms;
mod disks;
mod host;
mod known;
mod ledger;
mod settings;
mod table;
#[cfg(test)]
mod tests;

use crate::limits::Limits;
use crate::observed::Observed;
use crate::plan::{Act, Basis, Plan, Proof, Sizes, Step};
use crate::units::Bytes;
use ledger::Ledger;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The step (counted from zero) at which it shows; absent for the plan as a whole.
    pub step: Option<usize>,
    /// Which rule is broken.
    pub kind: Kind,
    /// How.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {}: {}", step + 1, self.message),
            None => write!(f, "plan: {}", self.message),
        }
    }
}

/// The rules that a plan can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The plan was made for another state of the machine, or misstates where it stands.
    Basis,
    /// The machine is paused or occupied, and the plan would change it all the same.
    NotReady,
    /// Group numbers descend or interleave.
    GroupOrder,
    /// An id is in use, or is not one of ours for something that we make.
    Id,
    /// A slot is taken, pending or beyond the last.
    Slot,
    /// A DIMM's size does not fit QEMU's alignment, the guest's blocks or the limits.
    DimmSize,
    /// An address is unaligned or meets another device.
    Address,
    /// Boot memory and memory devices exceed what the machine was started for.
    Ceiling,
    /// There is no such NUMA node.
    Node,
    /// A backend is missing, in use, of another backing than the machine's, or deleted while a device uses it.
    Backend,
    /// Something that the plan makes or frees is left over at its end.
    Leftover,
    /// A DIMM is unplugged while the guest may be using it, although the guest could be asked to empty it.
    NotOffline,
    /// A DIMM is plugged and nobody brings it into use.
    NotOnlined,
    /// A device is removed that cannot be: an NVDIMM, a boot vCPU, a device without an id, a device that is not there.
    NotRemovable,
    /// The guest is asked for something that it or its agent cannot do.
    GuestCannot,
    /// The guest is told of memory that it shows already, or that is no whole DIMM of this machine.
    Probe,
    /// The guest would be left with less than it uses and the margin.
    BelowUsed,
    /// The machine would for a time be smaller than both where it stands and where it goes, and the guest does not
    /// tell whether it can bear that.
    Dip,
    /// A virtio-mem request that the device would refuse, or that does not start where the last one ended.
    VirtioMem,
    /// A balloon target out of bounds, from a wrong start, or in one plan with DIMM steps.
    Balloon,
    /// A growth needs more kernel memory for its page tables than the guest has free.
    Metadata,
    /// More memory regions than a vhost backend maps.
    VhostRegions,
    /// A vCPU goes where none can be, or more are to be online than are plugged.
    Vcpu,
    /// The host cannot hold it: locked memory, huge pages or the cgroup's limit.
    Host,
    /// A limit that is not known, not where the act starts from, or not one that can be expressed.
    Setting,
    /// A disk that would not grow, or whose layers would grow in the wrong order.
    Disk,
    /// A pair of acts that is known to kill this QEMU.
    KnownDanger,
    /// The proof does not show the act.
    WrongProof,
    /// The proof is claimed to be stronger than this machine can give.
    Overclaimed,
    /// No time is left for the proof.
    NoDeadline,
    /// The way back is missing, or leads elsewhere.
    WrongUndo,
    /// The steps do not lead where the plan says.
    EndState,
    /// The plan does not lead to what was asked.
    NotAsAsked,
}

/// Everything that is certainly wrong with `plan` for the machine as `seen`, in the order of its steps. Empty for a
/// sound plan.
pub fn audit(plan: &Plan, seen: &Observed, limits: &Limits) -> Vec<Finding> {
    let mut auditor = Auditor {
        seen,
        limits,
        plan,
        ledger: Ledger::open(seen, limits),
        at: None,
        findings: Vec::new(),
        since_vcpu_removal: seen.vcpus.removed_before,
        vcpus_started: seen.vcpus.started(),
        made: Bytes::ZERO,
        freed: Bytes::ZERO,
        wells: Vec::new(),
        held: 0,
    };
    auditor.frame();
    for (index, step) in plan.steps.iter().enumerate() {
        auditor.at = Some(index);
        auditor.step(step);
    }
    auditor.at = None;
    auditor.end();
    auditor.findings
}

/// One audit under way.
struct Auditor<'a> {
    seen: &'a Observed,
    limits: &'a Limits,
    plan: &'a Plan,
    ledger: Ledger,
    at: Option<usize>,
    findings: Vec<Finding>,
    since_vcpu_removal: bool,
    /// In this QEMU's life, up to the present step.
    vcpus_started: u32,
    /// Host memory that the steps so far have made.
    made: Bytes,
    /// Host memory that they gave back.
    freed: Bytes,
    /// The same for each kind of memory and set of the host's nodes.
    wells: Vec<host::Well>,
    /// What QEMU holds more than at the start.
    held: i128,
}

impl Auditor<'_> {
    fn find(&mut self, kind: Kind, message: impl Into<String>) {
        self.findings.push(Finding { step: self.at, kind, message: message.into() });
    }

    fn require(&mut self, holds: bool, kind: Kind, message: impl FnOnce() -> String) {
        if !holds {
            self.find(kind, message());
        }
    }

    /// What must hold before the first step.
    fn frame(&mut self) {
        let (plan, seen) = (self.plan, self.seen);
        self.require(plan.basis == Basis::of(seen), Kind::Basis, || {
            "the plan was made for another state of the machine".into()
        });
        let here = self.ledger.sizes();
        self.require(plan.from == here, Kind::Basis, || {
            format!("the plan starts from {}, the machine stands at {}", show(plan.from), show(here))
        });
        if !plan.steps.is_empty() {
            let busy = &seen.machine.busy;
            self.require(busy.is_empty(), Kind::NotReady, || {
                format!("the machine is occupied by {}", busy.join(", "))
            });
            self.require(seen.machine.is_running(), Kind::NotReady, || {
                format!("the machine is {}", seen.machine.state)
            });
        }
        for (index, pair) in plan.steps.windows(2).enumerate() {
            if pair[1].group < pair[0].group {
                self.at = Some(index + 1);
                self.find(
                    Kind::GroupOrder,
                    format!("group {} comes after group {}", pair[1].group, pair[0].group),
                );
            }
        }
        self.at = None;
        self.mixture();
    }

    /// A balloon and DIMMs are never changed together: the balloon's target means something else after each DIMM
    /// (`balloon` counts pages at call time; hw/virtio/virtio-balloon.c, 7.2).
    fn mixture(&mut self) {
        let balloon = self.plan.steps.iter().position(|s| matches!(s.act, Act::SetBalloon { .. }));
        let dimm = self.plan.steps.iter().any(|s| {
            matches!(s.act, Act::PlugDimm { .. } | Act::UnplugDimm { .. } | Act::OfflineBlocks { .. })
        });
        if let (Some(at), true) = (balloon, dimm) {
            self.at = Some(at);
            self.find(Kind::Balloon, "the balloon moves in one plan with DIMMs");
            self.at = None;
        }
    }

    fn step(&mut self, step: &Step) {
        self.require(step.deadline.as_millis() > 0, Kind::NoDeadline, || {
            format!("no time is left to {}", step.act)
        });
        self.disks_last(&step.act);
        self.table(step);
        self.act(step);
        let now = self.ledger.sizes();
        let (from, to) = (self.plan.from, self.plan.to);
        let (memory, vcpus) = (from.memory.min(to.memory), from.vcpus.min(to.vcpus));
        // A guest that tells what it uses may be taken lower for a time, as long as that is not touched.
        let watched = self.ledger.guest_floor.is_some();
        self.require((now.memory >= memory || watched) && now.vcpus >= vcpus, Kind::Dip, || {
            format!("the machine is at {} for a time, below both ends of the plan", show(now))
        });
    }

    fn act(&mut self, step: &Step) {
        match &step.act {
            Act::CreateBackend { memdev, size, backing, placement } => {
                self.create_backend(memdev, *size, backing, placement);
            }
            Act::DeleteBackend { memdev } => self.delete_backend(memdev),
            Act::PlugDimm { id, memdev, brings, slot, node, addr } => {
                if let Some(size) = self.backend_of((id, memdev), *node, *brings) {
                    self.plug_dimm((id, memdev, size), *slot, *node, *addr, step.group);
                }
                if matches!(step.proof, Proof::DimmPlugged { .. }) {
                    self.plugged_unshown(id, step.group);
                }
            }
            Act::UnplugDimm { id, memdev, slot } => self.unplug_dimm(id, memdev, *slot),
            Act::MakeKnown { device, .. } => self.make_known(device, step.group),
            Act::OnlineBlocks { device, zone } => self.online(device, Some(*zone), step.group),
            Act::AwaitOnline { device } => self.online(device, None, step.group),
            Act::OfflineBlocks { device } => self.offline(device),
            Act::ResizeVirtioMem { id, from, to } => self.resize_virtio_mem(id, *from, *to),
            Act::SettleVirtioMem { id } => self.settle_virtio_mem(id),
            Act::SetBalloon { from, to } => self.set_balloon(*from, *to),
            Act::PlugVcpu { id, driver, props } => self.plug_vcpu(id, driver, props),
            Act::UnplugVcpu { id } => self.unplug_vcpu(id),
            Act::OnlineVcpus { count } => self.online_vcpus(*count),
            Act::Set { from, to } => self.set(from, to),
            Act::GrowDisk { disk, from, to } => self.grow_disk(disk, *from, *to),
            Act::GrowInGuest { disk, device, layer, tool } => {
                self.grow_in_guest(disk, device, layer, *tool);
            }
        }
    }

    /// What must hold after the last step.
    fn end(&mut self) {
        let here = self.ledger.sizes();
        let (to, asked) = (self.plan.to, &self.plan.asked);
        self.require(here == to, Kind::EndState, || {
            format!("the steps lead to {}, the plan says {}", show(here), show(to))
        });
        if let Some(memory) = asked.memory {
            self.require(to.memory == memory, Kind::NotAsAsked, || {
                format!("{memory} were asked for and the plan leads to {}", to.memory)
            });
        }
        if let Some(vcpus) = asked.vcpus {
            self.require(to.vcpus == vcpus, Kind::NotAsAsked, || {
                format!("{vcpus} vCPUs were asked for and the plan leads to {}", to.vcpus)
            });
        }
        for (disk, size) in &asked.disks {
            let now = self.ledger.disks.iter().find(|d| d.name == *disk).map(|d| d.size);
            self.require(now == Some(*size), Kind::NotAsAsked, || {
                format!("{size} were asked for {disk} and the plan leaves it as it is")
            });
        }
        for setting in &asked.settings {
            let there = self.ledger.setting(&setting.name()).as_ref() == Some(setting);
            self.require(there, Kind::NotAsAsked, || format!("the plan does not lead to {setting}"));
        }
        self.leftovers();
        self.limits_are_back();
    }

    /// Takes memory from the guest, which keeps what it uses and a margin.
    fn guest_loses(&mut self, memory: Bytes) {
        self.ledger.lose(memory);
        let Some((total, floor)) = self.ledger.guest_total.zip(self.ledger.guest_floor) else { return };
        self.require(memory.is_zero() || total >= floor, Kind::BelowUsed, || {
            format!("the guest is left with {total} and needs {floor} with its margin")
        });
    }

    /// Before memory is added: Linux takes 64 bytes for each 4 KiB page from the free memory that the kernel can use
    /// (mm/sparse-vmemmap.c, 6.1).
    fn has_room_for_metadata(&mut self, added: Bytes) {
        let Some(free) = self.ledger.kernel_free else { return };
        let most = free.times(self.limits.metadata_ratio);
        self.require(added <= most, Kind::Metadata, || {
            format!("{added} are added at once, and {free} of free memory carry {most}")
        });
    }
}

fn show(sizes: Sizes) -> String {
    format!("{} and {} vCPUs", sizes.memory, sizes.vcpus)
}
