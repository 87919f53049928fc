//! What is known of a machine from its libvirt description, in types.
//!
//! Only what resizing depends on is here; everything else in a description is tolerated and forgotten. Sizes are what
//! libvirt keeps (whole KiB), not what it later rounds them to. It will not judge: `prepare` and `doctor` do.

use super::cpuset::CpuSet;
use super::machine::Machine;
use scale::units::Bytes;
use std::collections::BTreeSet;

/// A machine as its description has it, of a running machine or of the next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// What runs it: `kvm`, `qemu` (emulated), or another hypervisor.
    pub kind: String,
    /// libvirt's number of it while it runs; only the live description has one.
    pub id: Option<u32>,
    /// Its name.
    pub name: String,
    /// Its UUID, as written.
    pub uuid: Option<String>,
    /// The guest's system as libosinfo names it, such as `http://microsoft.com/win/2k22`.
    pub os: Option<String>,
    /// Its memory.
    pub memory: Memory,
    /// Its vCPUs.
    pub vcpus: Vcpus,
    /// Its CPU model, topology and NUMA cells.
    pub cpu: Cpu,
    /// Architecture, machine type, firmware.
    pub machine: Machine,
    /// Its memory devices, in the order of the description.
    pub memory_devices: Vec<MemoryDevice>,
    /// The balloon. libvirt adds one where the description says nothing, so this is `None` only for what was not yet
    /// given to libvirt.
    pub balloon: Option<Balloon>,
    /// The guest agent's channel.
    pub agent: Option<AgentChannel>,
    /// What of it is done by devices outside of QEMU.
    pub backends: Backends,
    /// Its disks, without CD and floppy drives.
    pub disks: Vec<DiskTarget>,
    /// Whether it says which of the host's nodes memory and vCPUs are on: `<numatune>`.
    pub is_bound: bool,
    /// `sev`, `tdx`, `s390-pv`, ...: memory that the host cannot read.
    pub launch_security: Option<String>,
    /// Arguments that QEMU gets unseen by libvirt, and so by Supple too.
    pub raw_arguments: Vec<String>,
}

/// What libvirt calls a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTarget {
    /// `<target dev=''>`, such as `vda`: the name that libvirt's own commands take. The guest may use another.
    pub target: String,
    /// The id of its device in QEMU; only of a machine that runs, or that was given one.
    pub alias: Option<String>,
}

/// The memory of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// What the machine boots with: its NUMA cells, or all memory less the memory devices.
    pub boot: Bytes,
    /// `<memory>` as written: boot memory and all devices. Where there are NUMA cells libvirt computes it anew when the
    /// machine is defined (libvirt 9.0 and 11.3, `virDomainDefPostParseMemory`).
    pub written: Option<Bytes>,
    /// `<currentMemory>`: what the balloon leaves to the guest.
    pub current: Option<Bytes>,
    /// `<maxMemory>`: the ceiling, without which no memory device can be added.
    pub max: Option<MaxMemory>,
    /// `<memtune><hard_limit>`: above it the host kills QEMU, and libvirt never raises it.
    pub hard_limit: Option<Bytes>,
    /// `<memoryBacking>`.
    pub backing: Backing,
}

/// The ceiling of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxMemory {
    /// The largest sum of boot memory and devices.
    pub size: Bytes,
    /// How many DIMMs fit. Only descriptions for virtio-mem alone (libvirt 9.5) have none.
    pub slots: Option<u32>,
}

/// What the guest's memory is made of on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backing {
    /// `<hugepages>`, each `<page>`; an empty `<hugepages/>` is one page of unknown size.
    pub hugepages: Vec<HugePages>,
    /// `<locked/>`: never swapped out, and so never given back either.
    pub locked: bool,
    /// `<source type=''>`: `anonymous`, `file` or `memfd`.
    pub source: Option<String>,
    /// `<access mode=''>`: `shared` or `private`.
    pub access: Option<String>,
    /// `<discard/>`: memory is dropped, not saved, when it goes.
    pub discard: bool,
    /// `<allocation mode='immediate'>`: all of it at the start.
    pub immediate: bool,
}

/// A size of huge pages and the guest's nodes that use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// The page size; `None` is the host's default.
    pub size: Option<Bytes>,
    /// The guest's nodes; `None` is all of them.
    pub nodes: Option<CpuSet>,
}

/// The vCPUs of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcpus {
    /// The ceiling.
    pub max: u32,
    /// How many are there, at boot or now.
    pub current: u32,
    /// `<vcpus>`, where it is written, by id; it then decides, and not `current=''`.
    pub each: Vec<Vcpu>,
    /// `<cputune>`: how much of the host's processors they get.
    pub tune: CpuTune,
}

impl Vcpus {
    /// Takes the vCPUs with these numbers for those that are there, and no other.
    pub fn set_present(&mut self, present: &BTreeSet<u32>) {
        let known = std::mem::take(&mut self.each);
        let vcpu = |id| {
            let enabled = present.contains(&id);
            match known.iter().find(|vcpu| vcpu.id == id) {
                Some(vcpu) => Vcpu { enabled, ..*vcpu },
                None => Vcpu { id, enabled, hotpluggable: !enabled, order: None },
            }
        };
        self.each = (0..self.max).map(vcpu).collect();
        self.current = u32::try_from(present.len()).unwrap_or(u32::MAX);
    }
}

/// What `<cputune>` grants to vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTune {
    /// Their weight against other machines.
    pub shares: Option<u64>,
    /// The length of an accounting period, in microseconds.
    pub period: Option<u64>,
    /// How many microseconds each vCPU may run in a period; negative is no limit.
    pub quota: Option<i64>,
    /// How many vCPUs are pinned by `<vcpupin>`. A vCPU that is plugged later and has none floats.
    pub pinned: u32,
}

/// One vCPU of a `<vcpus>` list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpu {
    /// Its number.
    pub id: u32,
    /// Whether it is there.
    pub enabled: bool,
    /// Whether it can be taken away. Where the list does not say, a vCPU that is there cannot and one that is not can
    /// (libvirt 9.0, `virDomainVcpuDefPostParse`).
    pub hotpluggable: bool,
    /// The order in which libvirt plugged it.
    pub order: Option<u32>,
}

/// The CPU that a guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    /// `custom`, `host-model`, `host-passthrough`, `maximum`.
    pub mode: Option<String>,
    /// The model's name, for `custom`.
    pub model: Option<String>,
    /// Sockets, cores and threads.
    pub topology: Option<Topology>,
    /// How many address bits the guest's CPU has, where it is said.
    pub address_bits: Option<AddressBits>,
    /// The guest's NUMA cells, by id.
    pub cells: Vec<Cell>,
}

/// `<topology>`. Their product must be the ceiling of vCPUs (libvirt 9.0, `qemuValidateDomainVCpuTopology`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Dies in a socket.
    pub dies: u32,
    /// Clusters in a die (libvirt 10.1).
    pub clusters: u32,
    /// Cores in a cluster.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Topology {
    /// vCPUs in one socket.
    pub fn per_socket(self) -> u64 {
        self.per_core_place().saturating_mul(u64::from(self.cores))
    }

    /// vCPUs for each core per cluster: dies, clusters and threads.
    pub fn per_core_place(self) -> u64 {
        u64::from(self.dies).saturating_mul(u64::from(self.clusters)).saturating_mul(u64::from(self.threads))
    }

    /// vCPUs in all.
    pub fn vcpus(self) -> u64 {
        self.per_socket().saturating_mul(u64::from(self.sockets))
    }
}

/// `<maxphysaddr>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressBits {
    /// So many; `None` is QEMU's own choice.
    Emulated(Option<u32>),
    /// As many as the host has, or fewer where a limit is set.
    Host(Option<u32>),
}

/// A NUMA cell of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Its number.
    pub id: u32,
    /// Its vCPUs; a cell may have none.
    pub cpus: CpuSet,
    /// Its boot memory.
    pub memory: Bytes,
    /// Whether other processes see its memory: `memAccess='shared'`.
    pub is_shared: bool,
}

/// A memory device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDevice {
    /// Which kind.
    pub model: MemoryModel,
    /// Its size; for virtio-mem the most that it can hold.
    pub size: Bytes,
    /// The guest's node that it belongs to.
    pub node: Option<u32>,
    /// virtio-mem: the unit in which it changes.
    pub block: Option<Bytes>,
    /// virtio-mem: how much of it is asked for.
    pub requested: Option<Bytes>,
    /// virtio-mem: how much of it the guest has now; only in live descriptions.
    pub current: Option<Bytes>,
    /// DIMM: its slot and, where known, its address in the guest.
    pub slot: Option<Slot>,
    /// libvirt's name of it, `dimm0` or `ua-...`; libvirt itself names devices only in live descriptions.
    pub alias: Option<String>,
    /// The size of its huge pages on the host.
    pub page_size: Option<Bytes>,
    /// Its text in the description, with which libvirt finds it again.
    pub xml: String,
}

/// Where a DIMM sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Its slot.
    pub number: u32,
    /// Its first address in the guest.
    pub base: Option<u64>,
}

/// The kinds of memory devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryModel {
    /// A DIMM.
    Dimm,
    /// A persistent DIMM; not memory for the guest's system.
    Nvdimm,
    /// Memory that grows and shrinks in small blocks.
    VirtioMem,
    /// A persistent disk in memory.
    VirtioPmem,
    /// Memory of an SGX enclave.
    SgxEpc,
    /// One that this version does not know.
    Other(String),
}

impl MemoryModel {
    /// libvirt's word for it.
    pub fn word(&self) -> &str {
        match self {
            MemoryModel::Dimm => "dimm",
            MemoryModel::Nvdimm => "nvdimm",
            MemoryModel::VirtioMem => "virtio-mem",
            MemoryModel::VirtioPmem => "virtio-pmem",
            MemoryModel::SgxEpc => "sgx-epc",
            MemoryModel::Other(word) => word,
        }
    }

    /// True for those that take one of the slots of `<maxMemory>`. Before libvirt 9.5 all of them did.
    pub fn takes_slot(&self) -> bool {
        match self {
            MemoryModel::Dimm | MemoryModel::Nvdimm | MemoryModel::Other(_) => true,
            MemoryModel::VirtioMem | MemoryModel::VirtioPmem | MemoryModel::SgxEpc => false,
        }
    }

    /// True for those that belong to one of the guest's nodes.
    pub fn has_node(&self) -> bool {
        match self {
            MemoryModel::Dimm | MemoryModel::Nvdimm | MemoryModel::VirtioMem | MemoryModel::Other(_) => true,
            MemoryModel::VirtioPmem | MemoryModel::SgxEpc => false,
        }
    }
}

/// The balloon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balloon {
    /// `virtio`, `xen` or `none`, which is an explicit absence.
    pub model: String,
    /// Whether it deflates by itself before the guest runs out of memory.
    pub autodeflate: bool,
    /// Whether the guest reports the pages that it does not use.
    pub free_page_reporting: bool,
    /// Seconds between its statistics; 0 is none.
    pub stats_period: u32,
}

/// The channel to the guest agent, by its name `org.qemu.guest_agent.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentChannel {
    /// What it is connected to on the host. libvirt speaks to the agent over `unix` only.
    pub kind: String,
    /// Whether an agent is there; only in live descriptions.
    pub connected: Option<bool>,
}

/// Devices that are served outside of QEMU's own memory handling, and so limit it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    /// Devices of the host given to the guest by VFIO: PCI, mediated devices, NVMe disks. All memory is pinned for
    /// them, each new DIMM whole.
    pub vfio: u32,
    /// Devices served by vhost in the host's kernel (limit: 64 memory regions by default).
    pub vhost: u32,
    /// Devices served by another process over vhost-user (limit: as few as 8 regions).
    pub vhost_user: u32,
    /// vDPA devices, with which no memory can be given back.
    pub vdpa: u32,
    /// `<pcihole64>` of the first PCI controller.
    pub pci_hole: Option<Bytes>,
    /// An IOMMU with `<driver eim='on'>`, without which an x86 machine ends at 255 vCPUs.
    pub extended_interrupts: bool,
}

impl Domain {
    /// Boot memory and all memory devices, with virtio-mem at its largest: what libvirt writes as `<memory>`.
    pub fn total_memory(&self) -> Bytes {
        self.memory.boot + self.memory_devices.iter().map(|device| device.size).sum()
    }

    /// True for a guest that says that it is Windows: by libosinfo's name, or by Hyper-V's features without one.
    pub fn is_windows(&self) -> bool {
        match &self.os {
            Some(os) => os.contains("microsoft.com"),
            None => self.machine.hyperv,
        }
    }
}
