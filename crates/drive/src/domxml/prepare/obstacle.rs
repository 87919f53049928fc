//! Why a machine cannot be prepared, each with a way out.

use crate::domxml::document::BadXml;
use scale::units::Bytes;

/// Everything that stands against a preparation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PrepareRefusal {
    /// One or more.
    pub obstacles: Vec<Obstacle>,
}

/// One thing that stands against a preparation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The text is not the description of a machine.
    #[error(transparent)]
    Unreadable(#[from] BadXml),
    /// The description of a running machine, with what belongs to this run only.
    #[error("this describes the running machine; take the one of its next boot, `virsh dumpxml --inactive`")]
    LiveDescription,
    /// Another hypervisor.
    #[error("a machine of type '{kind}' is not run by QEMU; Supple resizes machines of type kvm and qemu")]
    NotQemu {
        /// libvirt's word for it.
        kind: String,
    },
    /// An architecture whose rules are not known here.
    #[error("Supple does not know how machines of {arch} grow; it knows x86_64, aarch64, ppc64 and s390x")]
    UnknownArchitecture {
        /// libvirt's word for it.
        arch: String,
    },
    /// A board without hot-plug.
    #[error(
        "memory and vCPUs of a machine of type {machine} are fixed; take a newer or larger machine type (x86_64: q35 or \
         pc from 2.1 on; aarch64: virt from 4.2 on)"
    )]
    FixedBoard {
        /// The machine type.
        machine: String,
    },
    /// No ACPI, over which guests hear of memory and vCPUs.
    #[error("the machine has no ACPI, over which its guest would hear of new {what}; add <acpi/> to <features>{}",
        if *.needs_uefi { " and UEFI firmware (<os firmware='efi'>)" } else { "" })]
    NoAcpi {
        /// Memory, vCPUs, or both.
        what: &'static str,
        /// Whether the architecture's ACPI needs UEFI.
        needs_uefi: bool,
    },
    /// A ceiling that leaves no room.
    #[error(
        "a ceiling of {asked} leaves no room above the {has} that the machine has; ask for more than that"
    )]
    NoRoom {
        /// The ceiling.
        asked: Bytes,
        /// Boot memory and devices.
        has: Bytes,
    },
    /// Too large a ceiling for libvirt's own arithmetic.
    #[error("{asked} of memory is more than any machine can have; ask for at most {most}")]
    TooMuchMemory {
        /// The ceiling.
        asked: Bytes,
        /// The most.
        most: Bytes,
    },
    /// More slots than QEMU has.
    #[error(
        "{asked} memory slots are too many: QEMU has 256, and each takes 1 GiB of address space; ask for 16 or 32"
    )]
    TooManySlots {
        /// The slots.
        asked: u32,
    },
    /// Fewer slots than the machine's devices need.
    #[error(
        "{asked} memory slots are too few: the memory devices that the machine has need {needed}; ask for that or more"
    )]
    TooFewSlots {
        /// The slots.
        asked: u32,
        /// How many are taken, or reach so far.
        needed: u32,
    },
    /// Slots alone.
    #[error("memory slots need a ceiling of memory; say how much the machine may grow to (--max-memory)")]
    SlotsAlone,
    /// Slots where there are none.
    #[error("machines of s390x have no memory slots; leave --slots out")]
    NoSlots,
    /// IBM Z takes memory by virtio-mem only.
    #[error(
        "machines of s390x grow by virtio-mem only, with QEMU 10.0 and libvirt 11.1 or later; ask for --virtio-mem"
    )]
    OnlyVirtioMem,
    /// A host that is too old for virtio-mem.
    #[error(
        "virtio-mem needs QEMU {qemu} and libvirt {libvirt} or later on this architecture, and {found}; upgrade them, or \
         grow by DIMMs"
    )]
    VirtioMemTooNew {
        /// The first QEMU with it.
        qemu: &'static str,
        /// The first libvirt with it.
        libvirt: &'static str,
        /// What the host has.
        found: String,
    },
    /// Something in the machine that virtio-mem cannot be with.
    #[error("virtio-mem cannot be had {why}")]
    VirtioMemExcluded {
        /// What, and the way out.
        why: &'static str,
    },
    /// virtio-mem without a ceiling.
    #[error(
        "a virtio-mem device needs a ceiling of memory; say how much the machine may grow to (--max-memory)"
    )]
    VirtioMemAlone,
    /// More than the ceiling leaves.
    #[error(
        "a virtio-mem device of {asked} does not fit: the ceiling leaves {room}; raise the ceiling or ask for less"
    )]
    VirtioMemRoom {
        /// Its size.
        asked: Bytes,
        /// What is left.
        room: Bytes,
    },
    /// A size that is no multiple of the block.
    #[error(
        "a virtio-mem device of {asked} is no multiple of its block size {block}; ask for {below} or {above}"
    )]
    VirtioMemSize {
        /// Its size.
        asked: Bytes,
        /// Its block size.
        block: Bytes,
        /// The nearest below.
        below: Bytes,
        /// The nearest above.
        above: Bytes,
    },
    /// A block size that libvirt or QEMU refuses.
    #[error(
        "a block size of {asked} cannot be had: it must be a power of two and at least {least}, {why}; ask for {least}, or \
         leave it out"
    )]
    VirtioMemBlock {
        /// The block size.
        asked: Bytes,
        /// The smallest.
        least: Bytes,
        /// Where the smallest comes from.
        why: &'static str,
    },
    /// Less than what the device is already asked for.
    #[error("the virtio-mem device is asked for {requested} at boot; ask for a size of at least that")]
    VirtioMemRequested {
        /// How much.
        requested: Bytes,
    },
    /// A node that is not there.
    #[error("the machine has {nodes} NUMA nodes, so there is no node {node}; ask for one from 0 to {}", .nodes - 1)]
    NoSuchNode {
        /// The node.
        node: u32,
        /// How many there are.
        nodes: u32,
    },
    /// Fewer vCPUs than now.
    #[error(
        "the machine may already have {has} vCPUs, and preparing never takes away; ask for at least {has}"
    )]
    FewerVcpus {
        /// How many it may have.
        has: u32,
    },
    /// More vCPUs than the machine type has.
    #[error("{asked} vCPUs are too many: {why}; ask for at most {most}")]
    TooManyVcpus {
        /// How many.
        asked: u32,
        /// The most.
        most: u32,
        /// What limits it.
        why: &'static str,
    },
    /// More than 255 vCPUs need an IOMMU.
    #[error(
        "more than 255 vCPUs need an interrupt remapping IOMMU; add <iommu model='intel'><driver intremap='on' \
         eim='on'/></iommu> to the devices and <ioapic driver='qemu'/> to the features, or ask for at most 255"
    )]
    NeedsIommu,
    /// A number of vCPUs that the topology cannot have.
    #[error("{asked} vCPUs do not fit the machine's topology of {unit} vCPUs per {part}; ask for {}",
        match .below { Some(below) => format!("{below} or {above}"), None => above.to_string() })]
    Topology {
        /// How many.
        asked: u32,
        /// vCPUs per part.
        unit: u64,
        /// The part that would be multiplied: a socket, or a core of each socket.
        part: &'static str,
        /// The nearest number below that fits and is not below the present one.
        below: Option<u64>,
        /// The nearest number above that fits.
        above: u64,
    },
    /// Arm has no vCPU hot-plug.
    #[error(
        "QEMU plugs no vCPUs into machines of aarch64 (up to 10.0); give the machine all of them at boot instead"
    )]
    ArmVcpus,
    /// The guest's CPU cannot address the top of memory.
    #[error(
        "with this ceiling the guest's addresses would end at {end}, and its CPU reaches {reach} ({bits} bits, {whose}), so \
         QEMU would not start; {way_out}"
    )]
    AddressSpace {
        /// Where the highest address would be.
        end: Bytes,
        /// Where the CPU's addresses end.
        reach: Bytes,
        /// How many bits it has.
        bits: u32,
        /// Why so many.
        whose: &'static str,
        /// What would fit.
        way_out: String,
    },
    /// A DIMM whose fixed address would no longer be one for DIMMs.
    #[error(
        "a DIMM is fixed at the address {base:#x}, and with this ceiling memory is plugged from {from:#x} to {end:#x}; take \
         base='' out of its <address>, and QEMU finds it a place"
    )]
    DeviceAddress {
        /// Where it is.
        base: u64,
        /// Where memory for hot-plug would begin.
        from: u64,
        /// Where the guest's addresses would end.
        end: u64,
    },
    /// An agent channel that libvirt does not use.
    #[error(
        "the guest agent's channel is of type '{kind}', and libvirt speaks to agents over type 'unix' only; change it"
    )]
    AgentChannel {
        /// Its type.
        kind: String,
    },
    /// The edited text does not say what it should.
    #[error(
        "the description has an unusual shape, and its edited text does not read back as {what}; edit it by hand"
    )]
    NotReadBack {
        /// What does not.
        what: &'static str,
    },
}

/// One obstacle that ends it all.
pub(super) fn refuse(error: BadXml) -> PrepareRefusal {
    PrepareRefusal { obstacles: vec![Obstacle::Unreadable(error)] }
}
