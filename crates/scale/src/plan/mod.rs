//! A plan: what will be done, in order, with nothing left to choose when it runs.
//!
//! This file holds the words (`Plan`, `Step`, `Act`, `Proof`); the files beside it decide. Steps that belong
//! together form a *group*: one DIMM's backend, plug and onlining. A group that is whole is kept, whatever happens
//! later; a group that breaks midway is taken back by the undo of its steps in reverse.

mod act;
mod balloon;
mod danger;
mod dimm;
mod disks;
mod escort;
mod footing;
mod heal;
mod host;
mod layers;
mod layout;
mod make;
mod memory;
mod named;
mod place;
mod refusal;
mod resolve;
mod settings;
mod sizes;
mod space;
mod system;
mod vcpu;
mod virtio_mem;
mod zone;

pub use make::{plan, plan_around};
pub use refusal::{Obstacle, Refusal, When};
pub use resolve::settled;
pub use sizes::{Asked, Basis, Sizes};

use crate::disk::Tool;
use crate::observed::{Backing, Layer, Placement, VcpuProps};
use crate::setting::Setting;
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
    /// What of the wish this plan leaves for a person. A run of it is partial at best.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmet: Vec<Unmet>,
}

/// Something that was asked for and that Supple cannot do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unmet {
    /// What, and why not.
    pub why: String,
    /// What a person can do about it: a command where there is one.
    pub by_hand: String,
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; by hand: {}", self.why, self.by_hand)
    }
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
        /// Where on the host it lies.
        #[serde(default, skip_serializing_if = "Placement::is_default")]
        placement: Placement,
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
    /// Set a limit, every field of it.
    Set {
        /// What it is now. The act is not sent where somebody else has changed it ([`Setting::stands_between`]).
        from: Box<Setting>,
        /// What it is to be: the same limit with another value.
        to: Box<Setting>,
    },
    /// Make a disk larger (`block_resize`). There is no way back: making it smaller would cut off what lies there.
    GrowDisk {
        /// The disk's name.
        disk: String,
        /// Its size now. The act is not sent where that has changed.
        from: Bytes,
        /// Its new size, larger.
        to: Bytes,
    },
    /// Let one layer of what lies on a disk take all that is below it, in the guest. There is no way back.
    GrowInGuest {
        /// The disk's name.
        disk: String,
        /// The guest's device of the whole disk.
        device: String,
        /// The layer as it was seen when this was planned, without what lies on it.
        layer: Box<Layer>,
        /// The program that grows it ([`crate::disk::command`]).
        tool: Tool,
    },
}

/// The zone that memory blocks go online in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// As the guest's kernel chooses.
    Default,
    /// The movable zone or none: removable later, of no use to the kernel itself. A block that does not go there stays
    /// offline, and that is a refusal.
    Movable,
    /// The movable zone where a block goes there, else as the guest's kernel chooses, which is reported.
    PreferMovable,
    /// Each block in the zone that it had when it was taken offline.
    AsBefore,
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
    /// The guest shows every block of the device online, each in the movable zone.
    BlocksMovable {
        /// The device.
        device: String,
        /// As for `BlocksOnline`.
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
    /// Read back from where it acts, the limit is this.
    SetAt {
        /// The limit.
        setting: Box<Setting>,
    },
    /// QEMU shows the disk at this size, and the guest too.
    DiskAt {
        /// The disk's name.
        disk: String,
        /// Its size.
        size: Bytes,
        /// False where the guest does not see the disk, or hears of its new size only later: QEMU alone is asked then.
        in_guest: bool,
    },
    /// The guest shows this layer of a disk at this size or above: of a filesystem what `df` counts.
    LayerAt {
        /// The disk's name.
        disk: String,
        /// The layer's name ([`Layer::name`]).
        layer: String,
        /// Its least size.
        at_least: Bytes,
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

/// Ids of what Supple makes begin with this, so that it can be told from what others made.
pub const OWN_PREFIX: &str = "supple-";

/// What [`OWN_PREFIX`] becomes in libvirt: it takes no other names from its users than those that begin with `ua-`
/// (docs/formatdomain, `alias`; 3.9 and later), and calls a DIMM's backend `mem` and the DIMM's name.
pub const OWN_PREFIX_IN_LIBVIRT: &str = "ua-supple-";
