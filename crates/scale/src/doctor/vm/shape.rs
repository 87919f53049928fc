//! What a machine is, running or at its next start, as far as resizing depends on it.

use crate::guests::System;
use crate::units::Bytes;

/// A machine's shape. Absence is ignorance, unless it is said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape {
    /// The architecture, as QEMU names its target.
    pub arch: String,
    /// The machine type; empty where the architecture's first one is taken.
    pub machine: String,
    /// What its machine type's name says.
    pub board: Board,
    /// Whether it has ACPI.
    pub acpi: Option<bool>,
    /// Its firmware.
    pub firmware: Firmware,
    /// Memory at boot.
    pub boot: Bytes,
    /// The ceiling of memory; nothing where there is none.
    pub ceiling: Option<Bytes>,
    /// DIMM slots.
    pub slots: u32,
    /// NUMA nodes that were set up; nothing where none were.
    pub nodes: Option<u32>,
    /// vCPUs, up to the ceiling, that belong to no node although there are nodes.
    pub outside_nodes: u32,
    /// virtio-mem devices.
    pub virtio_mem: Vec<Region>,
    /// Whether it has a balloon.
    pub balloon: bool,
    /// vCPUs at boot, or now.
    pub vcpus: u32,
    /// The ceiling of vCPUs.
    pub max_vcpus: u32,
    /// Whether its machine type plugs vCPUs at all.
    pub vcpu_hotplug: bool,
    /// How many of the vCPUs that are there can be taken away.
    pub removable_vcpus: u32,
    /// The guest agent's channel.
    pub channel: Channel,
    /// Devices of the host's, by VFIO.
    pub vfio: bool,
    /// Devices that the host's kernel serves by vhost.
    pub vhost: u32,
    /// Devices that other processes serve by vhost-user.
    pub vhost_user: u32,
    /// vDPA devices.
    pub vdpa: u32,
    /// Above this the host ends it.
    pub hard_limit: Option<Bytes>,
    /// Memory that the host cannot read: `sev`, `tdx`.
    pub confidential: Option<String>,
    /// Memory that is kept from being swapped out or given back (`mlock`).
    pub locked: bool,
    /// Arguments that QEMU gets past libvirt.
    pub raw: Vec<String>,
    /// Where its addresses end.
    pub space: Option<Space>,
    /// Who its guest is, by the description.
    pub system: Option<System>,
}

/// What a machine type can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Board {
    /// Memory and vCPUs can be plugged, as far as the architecture has it.
    Pluggable,
    /// It has neither: microvm, isapc.
    Fixed,
    /// It is older than the hot-plug of memory.
    TooOld,
    /// It is not known here.
    #[default]
    Unknown,
}

/// A machine's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firmware {
    /// A BIOS, or the architecture's own.
    Bios,
    /// UEFI.
    Uefi,
    /// UEFI in system management mode (secure boot).
    UefiSecure,
    /// Not known.
    #[default]
    Unknown,
}

/// The channel to a guest's agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Channel {
    /// Not known.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// There is one, of this kind (`unix`).
    Of(String),
}

/// A virtio-mem device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The most that it can hold.
    pub max: Bytes,
    /// Its block size, where it is said.
    pub block: Option<Bytes>,
}

/// Where a machine's addresses end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The highest address that it takes up.
    pub end: Bytes,
    /// Address bits of its CPU.
    pub bits: u32,
    /// Whether the CPU reaches the end.
    pub fits: bool,
}

impl Shape {
    /// What is there for memory devices; nothing where there is no ceiling above the boot memory.
    pub fn room(&self) -> Option<Bytes> {
        self.ceiling.and_then(|ceiling| ceiling.checked_sub(self.boot)).filter(|room| !room.is_zero())
    }

    /// A ceiling to ask for: four times the boot memory, in whole GiB.
    pub(super) fn larger(&self) -> Bytes {
        self.boot.times(4).round_up(Bytes::gib(1))
    }
}
