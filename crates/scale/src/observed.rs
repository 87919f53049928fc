//! What QEMU, the guest and the host last told us, with the time of telling.
//!
//! Facts only: nothing here decides. Absence is a value with a reason ([`Guest::Unheard`]) wherever a reader would
//! otherwise take silence for zero. What the guest says is what it *says*: bounded by `drive`, believed by nobody
//! without QEMU's side beside it.

mod disk;
mod guest;
mod life;
mod memory;
mod nic;
mod source;
mod vcpu;

pub use disk::{Disk, DiskBus, GuestDisk, Layer, LayerKind, Lies, Pool};
pub use guest::{AutoOnline, Guest, GuestFacts, GuestVcpu, MemBlock, MemInfo};
pub use life::Life;
pub use memory::{
    Backend, Balloon, BalloonStats, Dimm, DimmKind, Memory, Node, Ost, OtherDevice, VirtioMem, blocks_of,
};
pub use nic::{GuestInterface, IpRate, Nic, RateGrain};
pub use source::{Backing, HostPolicy, MemoryPool, Placement, Source, SourceOf};
pub use vcpu::{Filled, VcpuProps, VcpuSlot, VcpuState, Vcpus};

use crate::setting::{CpuPower, Setting};
use crate::time::Moment;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Everything known about one machine at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observed {
    /// When the last of these facts was told.
    pub at: Moment,
    /// What kind of machine it is and what it is doing.
    pub machine: Machine,
    /// The memory that QEMU gives the guest.
    pub memory: Memory,
    /// The vCPUs that QEMU gives the guest.
    pub vcpus: Vcpus,
    /// How much of the host's CPU time the vCPUs may take.
    #[serde(default)]
    pub power: Known<CpuPower>,
    /// The disks, in a lasting order. CD and floppy drives are none.
    #[serde(default)]
    pub disks: Known<Vec<Disk>>,
    /// The NICs, in a lasting order.
    #[serde(default)]
    pub nics: Known<Vec<Nic>>,
    /// What the guest says of itself.
    pub guest: Guest,
    /// The host around the QEMU process.
    pub host: Host,
    /// Removals that were asked of the guest and are neither done nor refused. From the journal.
    pub pending: Vec<Pending>,
}

/// A fact, or why it is not known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known<T> {
    /// The fact.
    Is(T),
    /// It is not known, and what depends on it cannot be done, for this reason.
    Not(String),
}

impl<T> Default for Known<T> {
    fn default() -> Known<T> {
        Known::Not("it was not looked at".to_owned())
    }
}

impl<T> Known<T> {
    /// The fact, where it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Known::Is(fact) => Some(fact),
            Known::Not(_) => None,
        }
    }
}

impl Observed {
    /// The disks, where they are known.
    pub fn disks(&self) -> &[Disk] {
        self.disks.known().map_or(&[], Vec::as_slice)
    }

    /// The NICs, where they are known.
    pub fn nics(&self) -> &[Nic] {
        self.nics.known().map_or(&[], Vec::as_slice)
    }

    /// Every limit that is known, free ones included: CPU power, disks, NICs, addresses, and those that move with the
    /// machine's memory.
    pub fn settings(&self) -> Vec<Setting> {
        let power = self.power.known().map(|power| Setting::CpuPower(*power));
        let disks = self.disks().iter().filter_map(|disk| {
            let io = disk.io.known()?.clone();
            Some(Setting::DiskIo { disk: disk.name.clone(), io })
        });
        let nics = self.nics().iter().filter_map(|nic| {
            let rate = *nic.rate.known()?;
            Some(Setting::NicRate { nic: nic.name.clone(), rate })
        });
        let ips = self.nics().iter().flat_map(|nic| {
            let ips = nic.ips.known().map_or(&[][..], Vec::as_slice);
            ips.iter().map(|of| Setting::IpRate { nic: nic.name.clone(), ip: of.ip, rate: of.rate })
        });
        let moving = self.host.moving_limits();
        power.into_iter().chain(disks).chain(nics).chain(ips).chain(moving).collect()
    }
}

/// What kind of machine it is and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    /// QEMU's `-name`, where one was given.
    pub name: Option<String>,
    /// The machine's UUID, where one was given.
    pub uuid: Option<String>,
    /// The machine type, such as `pc-q35-7.2`.
    pub kind: String,
    /// The architecture as QEMU names its target: `x86_64`, `aarch64`.
    pub arch: String,
    /// QEMU's version.
    pub qemu: Version,
    /// What runs the vCPUs.
    pub accel: Accel,
    /// QEMU's run state, such as `running` or `paused`.
    pub state: String,
    /// What occupies the machine now and makes hot-plug fail: a migration.
    pub busy: Vec<String>,
    /// Who keeps the machine's definition and carries out what is done to it.
    #[serde(default)]
    pub manager: Manager,
    /// Which QEMU process this is, where that can be told.
    #[serde(default)]
    pub life: Option<Life>,
}

/// Who keeps a machine's definition. It decides what devices are called, and who makes what they are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manager {
    /// Nobody besides QEMU: a backend and its DIMM are made one after the other, under names that Supple chooses.
    #[default]
    Nobody,
    /// libvirt: a DIMM comes and goes with its backend, and names follow libvirt's rules.
    Libvirt,
}

impl Machine {
    /// The state in which the vCPUs run (`RunState`, qapi/run-state.json).
    pub const RUNNING: &'static str = "running";

    /// True while the vCPUs run.
    pub fn is_running(&self) -> bool {
        self.state == Machine::RUNNING
    }
}

/// A version: major, minor, micro.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Version(pub u32, pub u32, pub u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What runs the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// The host's processor, through KVM.
    Kvm,
    /// QEMU's own emulation.
    Tcg,
    /// QEMU did not say.
    #[default]
    Unknown,
}

/// The host around the QEMU process. A fact that could not be read is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Host {
    /// The QEMU process.
    pub qemu_pid: Option<u32>,
    /// MemAvailable of the host.
    pub available: Option<Bytes>,
    /// What the QEMU process's cgroups still let it take, where they have limits; `memory_limit` is none of them.
    pub cgroup_headroom: Option<Bytes>,
    /// The limit of what QEMU may hold, where it holds QEMU alone and can be set: it moves with the machine's memory.
    #[serde(default)]
    pub memory_limit: Option<Bytes>,
    /// How many memory regions a vhost backend of this QEMU can map, where QEMU uses the kernel's vhost
    /// (`/sys/module/vhost/parameters/max_mem_regions`).
    pub vhost_regions: Option<u32>,
    /// True where the QEMU process holds a VFIO device: plugged memory is pinned then.
    pub vfio: bool,
    /// True where QEMU locks all of the guest's memory (`-overcommit mem-lock=on`).
    #[serde(default)]
    pub locks: bool,
    /// How much more the QEMU process may lock (RLIMIT_MEMLOCK), where limited.
    pub memlock_headroom: Option<Bytes>,
    /// That limit, where it can be set from here and nobody else sees to it: it moves with the machine's memory.
    #[serde(default)]
    pub lock_limit: Option<Bytes>,
    /// What is left of the memory that the guest's is made of: huge pages of its sizes, on each node of the host and in
    /// all, and ordinary memory of each node. Empty where it is not known.
    #[serde(default)]
    pub pools: Vec<MemoryPool>,
}

impl Host {
    /// The limits that move with the machine's memory. Under libvirt only the first: libvirt itself raises what may be
    /// locked before it plugs memory beside a VFIO device (`qemuDomainAdjustMaxMemLock`, 9.0 and 11.3).
    pub fn moving_limits(&self) -> Vec<Setting> {
        let memory = self.memory_limit.map(|most| Setting::Memory { most });
        let pins = self.vfio || self.locks;
        let locked = self.lock_limit.filter(|_| pins).map(|most| Setting::Locked { most });
        memory.into_iter().chain(locked).collect()
    }
}

/// A removal that was asked of the guest and is neither done nor refused. It has no cancel: the guest may still
/// give the device up (QEMU keeps the request; facts in docs/qemu.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pending {
    /// The device.
    pub device: PendingDevice,
    /// When the removal was asked.
    pub since: Moment,
}

/// What is being removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PendingDevice {
    /// A DIMM, and the backend to delete once it is gone.
    Dimm {
        /// Device id.
        id: String,
        /// Backend id.
        memdev: String,
    },
    /// A vCPU.
    Vcpu {
        /// Device id.
        id: String,
    },
}

impl PendingDevice {
    /// The device's id.
    pub fn id(&self) -> &str {
        match self {
            PendingDevice::Dimm { id, .. } | PendingDevice::Vcpu { id } => id,
        }
    }
}
