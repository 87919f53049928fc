//! A plan: what will be done, in order, with nothing left to choose when it runs.
//!
//! This file holds the words (`Plan`, `Step`, `Act`, `Proof`, `Refusal`); the files beside it decide. Steps that belong
//! together form a *group*: one DIMM's backend, plug and onlining. A group that is whole is kept, whatever happens
//! later; a group that breaks midway is taken back by the undo of its steps in reverse.

mod act;
mod balloon;
mod danger;
mod dimm;
mod footing;
mod heal;
mod layout;
mod make;
mod memory;
mod place;
mod resolve;
mod space;
mod vcpu;
mod virtio_mem;
mod zone;

pub use make::{plan, plan_around};

use crate::observed::{Backing, Observed, VcpuProps};
use crate::time::Span;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// What will be done to one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[must_use = "a plan changes nothing until it runs"]
pub struct Plan {
    /// The state of the machine that this plan was made for. A run of it starts from no other.
    pub basis: Basis,
    /// Where the machine stands.
    pub from: Sizes,
    /// What was asked for, with steps such as `+2G` resolved.
    pub asked: Asked,
    /// Where the machine will stand when every step is proven.
    pub to: Sizes,
    /// What is done, in order. Empty where the machine already is as asked.
    pub steps: Vec<Step>,
    /// What a reader should know before consenting.
    pub notes: Vec<String>,
}

/// The sizes of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sizes {
    /// Memory that QEMU gives the guest, the balloon's part taken off.
    pub memory: Bytes,
    /// vCPUs that QEMU gives the guest.
    pub vcpus: u32,
}

impl Sizes {
    /// The sizes of an observed machine, as QEMU tells them.
    pub fn of(seen: &Observed) -> Sizes {
        let ballooned = seen
            .memory
            .balloon
            .map_or(Bytes::ZERO, |b| (seen.memory.boot + seen.memory.dimm_total()).saturating_sub(b.actual));
        Sizes { memory: seen.memory.total().saturating_sub(ballooned), vcpus: seen.vcpus.plugged() }
    }
}

/// The absolute sizes that were asked for; absent where nothing was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Asked {
    /// Total memory.
    pub memory: Option<Bytes>,
    /// Total vCPUs.
    pub vcpus: Option<u32>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Step {
    /// Steps with one number succeed or are taken back together. Numbers ascend and do not interleave.
    pub group: u32,
    /// What is done.
    pub act: Act,
    /// What shows that it is done.
    pub proof: Proof,
    /// The strongest proof that this machine can give for it.
    pub strength: Strength,
    /// How long the proof may take from the sending of the act.
    pub deadline: Span,
    /// How it is taken back, in this order.
    pub undo: Vec<Act>,
}

/// A step's change. Each is one thing that can be sent twice without harm or recognised as done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum Act {
    /// Make memory on the host (`object-add`).
    CreateBackend {
        /// The object's id.
        memdev: String,
        /// Its size.
        size: Bytes,
        /// How it is backed.
        backing: Backing,
    },
    /// Give the host's memory back (`object-del`).
    DeleteBackend {
        /// The object's id.
        memdev: String,
    },
    /// Plug a DIMM (`device_add pc-dimm`).
    PlugDimm {
        /// The device's id.
        id: String,
        /// Its backend.
        memdev: String,
        /// The size of the backend that comes with it, where the machine's manager makes that; absent where the
        /// backend is there already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        brings: Option<Bytes>,
        /// Its slot.
        slot: u32,
        /// Its NUMA node.
        node: u32,
        /// Its guest-physical address; absent where QEMU's own first-fit choice is right.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        addr: Option<u64>,
    },
    /// Ask the guest to give a DIMM up (`device_del`). Where the machine's manager made its backend, that goes with it.
    UnplugDimm {
        /// The device's id.
        id: String,
        /// Its backend, remembered so that a late removal can be finished.
        memdev: String,
        /// Its slot: the guest's last word on it may name only that.
        slot: u32,
    },
    /// Make the memory blocks of a DIMM known to a guest that does not find them by itself: write the address of each
    /// that is still absent to the kernel's `probe`. Blocks that the guest shows are never written.
    MakeKnown {
        /// The DIMM.
        device: String,
        /// How long the guest is given to find them by itself.
        after: Span,
    },
    /// Online all memory blocks of a device in the guest.
    OnlineBlocks {
        /// A DIMM or a virtio-mem device.
        device: String,
        /// In which zone.
        zone: Zone,
    },
    /// Take all memory blocks of a DIMM offline in the guest, one after the other.
    OfflineBlocks {
        /// The DIMM.
        device: String,
    },
    /// Ask the guest to hold this much on a virtio-mem device (`requested-size`).
    ResizeVirtioMem {
        /// The device's id.
        id: String,
        /// What is requested of it now. The act is not sent where that has changed.
        from: Bytes,
        /// What is to be requested.
        to: Bytes,
    },
    /// Request of a virtio-mem device what the guest holds now: the end of a partial shrink or growth.
    SettleVirtioMem {
        /// The device's id.
        id: String,
    },
    /// Set the balloon's target (`balloon`).
    SetBalloon {
        /// The guest's memory by the balloon's account when this was planned.
        from: Bytes,
        /// What it is to be.
        to: Bytes,
    },
    /// Plug a vCPU (`device_add`).
    PlugVcpu {
        /// The device's id.
        id: String,
        /// The device type.
        driver: String,
        /// Its place.
        props: VcpuProps,
    },
    /// Ask the guest to give a vCPU up (`device_del`).
    UnplugVcpu {
        /// The device's id.
        id: String,
    },
    /// Send nothing: wait for a guest that cannot be asked to online a device's memory by itself, or that has yet to
    /// show a vCPU that was plugged earlier.
    AwaitOnline {
        /// The device.
        device: String,
    },
    /// Online vCPUs that the guest sees but does not use, lowest first, until this many are online.
    OnlineVcpus {
        /// How many are to be online.
        count: u32,
    },
}

/// The zone that memory blocks go online in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// As the guest's kernel chooses.
    Default,
    /// The movable zone: removable later, of no use to the kernel itself.
    Movable,
}

/// The fact that shows that a step is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "kebab-case")]
pub enum Proof {
    /// QEMU lists the backend.
    BackendExists {
        /// The object's id.
        memdev: String,
    },
    /// QEMU lists the backend no more.
    BackendGone {
        /// The object's id.
        memdev: String,
    },
    /// QEMU lists the DIMM. What the guest makes of it a later step of the group shows.
    DimmPlugged {
        /// The device's id.
        id: String,
    },
    /// QEMU lists the DIMM, and the guest shows all its memory blocks or, where it shows none at all, has
    /// acknowledged the insertion.
    DimmSeen {
        /// The device's id.
        id: String,
    },
    /// QEMU lists the DIMM no more.
    DimmGone {
        /// The device's id.
        id: String,
    },
    /// The guest shows every block of the device online.
    BlocksOnline {
        /// The device.
        device: String,
        /// True for a DIMM: every block that it covers must be there. False for virtio-mem: those that are there.
        whole: bool,
    },
    /// The guest shows every block of the device offline.
    BlocksOffline {
        /// The device.
        device: String,
    },
    /// The device's `size` is this.
    VirtioMemSize {
        /// The device.
        id: String,
        /// The size.
        size: Bytes,
    },
    /// The device's `requested-size` equals its `size`.
    VirtioMemSettled {
        /// The device.
        id: String,
    },
    /// The balloon's `actual` is this.
    BalloonAt {
        /// The guest's memory by the balloon's account.
        actual: Bytes,
    },
    /// The guest's balloon driver counts at least this much memory in all.
    GuestTotal {
        /// MemTotal.
        at_least: Bytes,
    },
    /// QEMU lists the vCPU, and the guest, where it can be asked, shows this many.
    VcpuSeen {
        /// The device's id.
        id: String,
        /// How many vCPUs the guest must show, online or not.
        present: u32,
    },
    /// QEMU lists the vCPU no more.
    VcpuGone {
        /// The device's id.
        id: String,
    },
    /// The guest shows this many vCPUs online.
    VcpusOnline {
        /// How many.
        count: u32,
    },
}

/// How much a proof is worth. Ordered, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// QEMU says so; the guest was not or could not be asked.
    DeviceOnly,
    /// A driver in the guest acted on it: the ACPI acknowledgement, virtio-mem's size, the balloon's figures.
    DriverConfirmed,
    /// The guest's own account shows it.
    GuestConfirmed,
}

impl std::fmt::Display for Strength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Strength::DeviceOnly => "device-only",
            Strength::DriverConfirmed => "driver-confirmed",
            Strength::GuestConfirmed => "guest-confirmed",
        })
    }
}

/// What a plan depends on. Two observations with one basis would be planned alike; a run refuses to start from
/// another basis than its plan's, so a stale plan never moves a machine backwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Basis {
    /// Id, slot and size of each DIMM.
    pub dimms: Vec<(String, u32, Bytes)>,
    /// Id and requested size of each virtio-mem device.
    pub virtio_mem: Vec<(String, Bytes)>,
    /// The balloon's `actual`.
    pub balloon: Option<Bytes>,
    /// The taken vCPU places.
    pub vcpus: Vec<VcpuProps>,
    /// Backends without a device.
    pub unused_backends: Vec<String>,
    /// Removals that are pending.
    pub pending: Vec<String>,
}

impl Basis {
    /// The basis of an observation.
    pub fn of(seen: &Observed) -> Basis {
        let memory = &seen.memory;
        Basis {
            dimms: memory.dimms.iter().map(|d| (d.id.clone(), d.slot, d.size)).collect(),
            virtio_mem: memory.virtio_mem.iter().map(|v| (v.id.clone(), v.requested)).collect(),
            balloon: memory.balloon.map(|b| b.actual),
            vcpus: seen.vcpus.slots.iter().filter(|s| s.state.is_taken()).map(|s| s.props).collect(),
            unused_backends: memory.unused_backends.iter().map(|b| b.id.clone()).collect(),
            pending: seen.pending.iter().map(|p| p.device.id().to_owned()).collect(),
        }
    }
}

/// Why there is no plan. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}", .obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusal {
    /// Everything that stands in the way, not only the first thing found. Never empty.
    pub obstacles: Vec<Obstacle>,
}

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Obstacle {
    /// When it could be done, if ever.
    pub when: When,
    /// Why not now.
    pub reason: String,
    /// What would work.
    pub way_out: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.when, self.reason, self.way_out)
    }
}

/// When a change can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Possible while the machine runs, but not as it stands now.
    NotNow,
    /// Only across a stop and start with another configuration.
    Cold,
    /// Never on such a machine, or only at the price of data.
    Impossible,
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            When::NotNow => "NOT NOW",
            When::Cold => "COLD",
            When::Impossible => "IMPOSSIBLE",
        })
    }
}

/// Ids of what Supple makes begin with this, so that it can be told from what others made.
pub const OWN_PREFIX: &str = "supple-";

/// What [`OWN_PREFIX`] becomes in libvirt: it takes no other names from its users than those that begin with `ua-`
/// (docs/formatdomain, `alias`; 3.9 and later), and calls a DIMM's backend `mem` and the DIMM's name.
pub const OWN_PREFIX_IN_LIBVIRT: &str = "ua-supple-";
