//! What QEMU, the guest and the host last told us, with the time of telling.
//!
//! Facts only: nothing here decides. Absence is a value with a reason ([`Guest::Unheard`]) wherever a reader would
//! otherwise take silence for zero. What the guest says is what it *says*: bounded by `drive`, believed by nobody
//! without QEMU's side beside it.

mod disk;
mod life;
mod nic;
mod source;
mod vcpu;

pub use disk::{Disk, DiskBus, GuestDisk, Layer, LayerKind, Lies, Pool};
pub use life::Life;
pub use nic::{GuestInterface, IpRate, Nic, RateGrain};
pub use source::{Backing, HostPolicy, MemoryPool, Placement, Source, SourceOf};
pub use vcpu::{Filled, VcpuProps, VcpuSlot, VcpuState, Vcpus};

use crate::guests::System;
use crate::setting::{CpuPower, Setting};
use crate::time::Moment;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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
    /// True while the vCPUs run.
    pub fn is_running(&self) -> bool {
        self.state == "running"
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

/// The memory that QEMU gives the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// Memory that was there at boot and stays: `-m size=`.
    pub boot: Bytes,
    /// The most that boot memory and memory devices may add up to: `-m maxmem=`. Equal to `boot` where no memory
    /// device can be plugged.
    pub ceiling: Bytes,
    /// How many DIMM slots the machine was started with: `-m slots=`.
    pub slots: u32,
    /// The smallest size step of a DIMM that QEMU accepts: 2 MiB for ordinary pages, the page size for huge ones.
    pub alignment: Bytes,
    /// How new DIMMs are to be backed: as the boot memory is. What differs by node stands in `sources`.
    pub backing: Backing,
    /// What the boot memory of each guest node and each virtio-mem device are made of, where QEMU tells.
    #[serde(default)]
    pub sources: Vec<Source>,
    /// Plugged DIMMs in ascending slot order, NVDIMMs included (they hold a slot too).
    pub dimms: Vec<Dimm>,
    /// virtio-mem devices.
    pub virtio_mem: Vec<VirtioMem>,
    /// Memory devices of other kinds, ascending by address.
    #[serde(default)]
    pub others: Vec<OtherDevice>,
    /// The balloon, where the machine has one.
    pub balloon: Option<Balloon>,
    /// Memory backends that no device uses. None are told where the machine's manager makes and frees them.
    pub unused_backends: Vec<Backend>,
    /// NUMA nodes in ascending order with their present memory; one node where none were set up.
    pub nodes: Vec<Node>,
}

/// A memory device that Supple leaves alone, such as virtio-pmem or hv-balloon: no RAM of its account, but its place in the
/// region of memory devices, and its part of the ceiling, are taken (hw/mem/memory-device.c, 7.2 and 10.0).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OtherDevice {
    /// What kind of device, in QEMU's word.
    pub kind: String,
    /// Where it begins.
    pub addr: u64,
    /// All that it may ever hold.
    pub size: Bytes,
}

impl Memory {
    /// Boot memory, DIMMs and what virtio-mem devices have plugged now. NVDIMMs do not count: they are no RAM.
    pub fn total(&self) -> Bytes {
        self.boot + self.dimm_total() + self.virtio_mem.iter().map(|v| v.size).sum()
    }

    /// What QEMU has of the host's memory once the guest has touched all of it, backends without a device included.
    pub fn held(&self) -> Bytes {
        self.total() + self.unused_backends.iter().map(|backend| backend.size).sum()
    }

    /// The sum of all DIMMs, NVDIMMs not counted.
    pub fn dimm_total(&self) -> Bytes {
        self.dimms.iter().filter(|d| d.kind == DimmKind::Dimm).map(|d| d.size).sum()
    }

    /// What QEMU still accepts as further DIMMs, by the ceiling alone. A virtio-mem device counts with all it may
    /// ever hold (QEMU checks `maxmem` against its region; hw/mem/memory-device.c, 7.2 and 10.0).
    pub fn headroom(&self) -> Bytes {
        let dimms = self.dimms.iter().map(|d| d.size);
        let virtio = self.virtio_mem.iter().map(|v| v.max);
        let devices: Bytes = dimms.chain(virtio).chain(self.others.iter().map(|o| o.size)).sum();
        self.ceiling.saturating_sub(self.boot).saturating_sub(devices)
    }

    /// Slot numbers that hold no device, ascending.
    pub fn free_slots(&self) -> Vec<u32> {
        let mut used: Vec<u32> = self.dimms.iter().map(|d| d.slot).collect();
        used.sort_unstable();
        (0..self.slots).filter(|slot| used.binary_search(slot).is_err()).collect()
    }
}

/// What a memory device in a DIMM slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DimmKind {
    /// RAM: `pc-dimm`.
    Dimm,
    /// Persistent memory: `nvdimm`. Never touched by Supple.
    Nvdimm,
}

/// One plugged DIMM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dimm {
    /// QEMU's device id; empty for one that was started without.
    pub id: String,
    /// The id of its memory backend (last part of the object's path).
    pub memdev: String,
    /// RAM or persistent memory.
    pub kind: DimmKind,
    /// Its slot number.
    pub slot: u32,
    /// Its NUMA node.
    pub node: u32,
    /// Its guest-physical address.
    pub addr: u64,
    /// Its size.
    pub size: Bytes,
    /// True if it was plugged while the machine ran (only such ones go away at a cold start).
    pub hotplugged: bool,
    /// What the guest's ACPI driver said last of this slot, if anything.
    pub ost: Option<Ost>,
}

/// The guest's last word on a slot (`query-acpi-ospm-status`), kept by QEMU until the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ost {
    /// 1 or 0x200 for insertion, 3 or 0x103 for ejection.
    pub source: u64,
    /// 0 for success; the refusals are in [`crate::sight::ost_refusal`].
    pub status: u64,
}

impl Ost {
    /// Why the guest refused an ejection, if this is such an answer.
    pub fn refusal(&self) -> Option<&'static str> {
        if self.is_of_ejection() { crate::sight::ost_refusal(self.status) } else { None }
    }

    /// True where the guest has granted an ejection.
    pub fn is_ejected(&self) -> bool {
        self.is_of_ejection() && self.status == 0
    }

    fn is_of_ejection(&self) -> bool {
        matches!(self.source, 3 | 0x103)
    }
}

impl Dimm {
    /// The guest's memory blocks that this DIMM covers, for blocks of size `block`.
    pub fn blocks(&self, block: Bytes) -> std::ops::Range<u64> {
        blocks_of(self.addr, self.size, block)
    }

    /// True where both ends lie on block bounds: otherwise Linux refuses the whole DIMM
    /// (check_hotplug_memory_range, mm/memory_hotplug.c, 6.1).
    pub fn fits_blocks(&self, block: Bytes) -> bool {
        Bytes::new(self.addr).is_multiple_of(block) && self.size.is_multiple_of(block)
    }
}

/// The memory blocks that cover `size` bytes from guest-physical address `addr`.
pub fn blocks_of(addr: u64, size: Bytes, block: Bytes) -> std::ops::Range<u64> {
    if block.is_zero() {
        return 0..0;
    }
    addr / block.get()..addr.saturating_add(size.get()).div_ceil(block.get())
}

/// One virtio-mem device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VirtioMem {
    /// QEMU's device id.
    pub id: String,
    /// Its NUMA node.
    pub node: u32,
    /// Its guest-physical address.
    pub addr: u64,
    /// Its own block size; all its sizes are multiples of it.
    pub block: Bytes,
    /// The most it can hold.
    pub max: Bytes,
    /// What was asked of the guest.
    pub requested: Bytes,
    /// What the guest has plugged.
    pub size: Bytes,
}

/// The balloon device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Balloon {
    /// Boot memory and DIMMs less what the balloon holds (`query-balloon`). virtio-mem is not in it.
    pub actual: Bytes,
    /// What the guest's balloon driver reported last, where it does.
    pub stats: Option<BalloonStats>,
}

/// The guest's own figures, as its balloon driver reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BalloonStats {
    /// When the driver last answered.
    pub at: Moment,
    /// MemTotal.
    pub total: Bytes,
    /// MemAvailable.
    pub available: Bytes,
    /// MemFree.
    pub free: Bytes,
}

/// A memory backend object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backend {
    /// The object's id.
    pub id: String,
    /// Its size.
    pub size: Bytes,
}

/// One NUMA node of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its present memory: boot memory, DIMMs and virtio-mem.
    pub memory: Bytes,
}

/// What the guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// Nothing, for this reason (no agent named, agent silent, ...).
    Unheard(String),
    /// The agent answered.
    Heard(Box<GuestFacts>),
}

impl Guest {
    /// The agent's facts, where it answered.
    pub fn heard(&self) -> Option<&GuestFacts> {
        match self {
            Guest::Unheard(_) => None,
            Guest::Heard(facts) => Some(facts),
        }
    }
}

/// What the guest agent answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestFacts {
    /// The agent's version, as it writes it.
    pub agent_version: String,
    /// The agent's commands that are enabled.
    pub commands: BTreeSet<String>,
    /// The operating system's name as the agent gives it, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    /// The operating system's short id, such as `debian`, `rhel`, `mswindows`.
    pub os_id: Option<String>,
    /// Which system it is, for what is known of such systems ([`crate::guests`]); absent where the agent does not say.
    #[serde(default)]
    pub system: Option<System>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The size of a memory block; nothing where the guest has none or the agent cannot say.
    pub block: Option<Bytes>,
    /// All memory blocks in ascending order.
    pub blocks: Vec<MemBlock>,
    /// All vCPUs that the guest sees, in ascending order.
    pub vcpus: Vec<GuestVcpu>,
    /// The guest's memory figures, where it can be asked for them.
    pub meminfo: Option<MemInfo>,
    /// The kernel's own onlining policy (`auto_online_blocks`), where it can be read.
    pub auto_online: Option<AutoOnline>,
    /// True where the kernel's file `/sys/devices/system/memory/probe` can be written through the agent: memory blocks
    /// are made known there by their addresses (CONFIG_ARCH_MEMORY_PROBE; drivers/base/memory.c, 2.6.32 to 6.12).
    #[serde(default)]
    pub has_probe: bool,
    /// Which of the programs that grow what lies on a disk the guest has; empty where it was not looked for.
    #[serde(default)]
    pub tools: BTreeSet<crate::disk::Tool>,
    /// Its network interfaces that have a MAC address; empty where the agent cannot say.
    #[serde(default)]
    pub interfaces: Vec<GuestInterface>,
}

impl GuestFacts {
    /// True if the agent takes this command.
    pub fn can(&self, command: &str) -> bool {
        self.commands.contains(command)
    }

    /// True if a file in the guest can be written through the agent.
    pub fn can_write_files(&self) -> bool {
        ["guest-file-open", "guest-file-write", "guest-file-close"].iter().all(|c| self.can(c))
    }

    /// Memory in online blocks; nothing where the guest shows no blocks.
    pub fn online_memory(&self) -> Option<Bytes> {
        let online = self.blocks.iter().filter(|b| b.online).count();
        self.block.filter(|_| !self.blocks.is_empty()).map(|b| b.times(online as u64))
    }

    /// vCPUs that are online.
    pub fn online_vcpus(&self) -> u32 {
        u32::try_from(self.vcpus.iter().filter(|v| v.online).count()).unwrap_or(u32::MAX)
    }

    /// The blocks within `range` that the guest shows.
    pub fn blocks_in(&self, range: &std::ops::Range<u64>) -> Vec<MemBlock> {
        self.blocks.iter().filter(|b| range.contains(&b.index)).copied().collect()
    }
}

/// One memory block of a Linux guest (`/sys/devices/system/memory/memoryN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemBlock {
    /// N: its address divided by the block size.
    pub index: u64,
    /// Whether the guest uses it.
    pub online: bool,
}

/// One vCPU as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestVcpu {
    /// The guest's number for it.
    pub id: u32,
    /// Whether the guest schedules on it.
    pub online: bool,
    /// Whether the guest can take it offline.
    pub can_offline: bool,
}

/// The guest's memory figures (`/proc/meminfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemInfo {
    /// MemTotal.
    pub total: Bytes,
    /// MemAvailable.
    pub available: Bytes,
    /// MemFree.
    pub free: Bytes,
}

/// What the guest's kernel does with a new memory block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoOnline {
    /// Leaves it offline for user space.
    Offline,
    /// Onlines it in a zone of its own choice.
    Online,
    /// Onlines it in a kernel zone.
    Kernel,
    /// Onlines it in the movable zone.
    Movable,
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
