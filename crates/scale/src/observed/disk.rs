//! Disks as QEMU, the host and the guest show them.

use super::Known;
use crate::setting::DiskIo;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// The name that acts use, unique in the machine: libvirt's target (`vda`), else QEMU's device id, else the node's.
    pub name: String,
    /// Other names that an operator may know it by: device id, block node, serial number, the guest's own name.
    pub aliases: Vec<String>,
    /// The bus that it hangs on, by which it is known how its guest hears of a new size.
    pub bus: DiskBus,
    /// The image's format, such as `qcow2` or `raw`.
    pub format: String,
    /// The size that the guest is given (`virtual-size` of the format node).
    pub size: Bytes,
    /// True where it cannot be written to.
    pub read_only: bool,
    /// What occupies it now: block jobs, by their kind.
    pub busy: Vec<String>,
    /// Where its bytes lie.
    pub lies: Lies,
    /// The limits of its I/O.
    pub io: Known<DiskIo>,
    /// What the guest shows of it.
    pub guest: Known<GuestDisk>,
}

/// The bus of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// virtio-blk: the guest is told at once (config interrupt).
    Virtio,
    /// virtio-scsi: the guest is told at once (unit attention; Linux rescans by itself).
    VirtioScsi,
    /// Another SCSI adapter: the guest sees it after a rescan.
    Scsi,
    /// IDE or SATA: the guest sees it after a restart.
    Ide,
    /// NVMe: QEMU 10.0 does not tell the guest.
    Nvme,
    /// USB.
    Usb,
    /// Something else.
    Other,
}

impl std::fmt::Display for DiskBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            DiskBus::Virtio => "virtio",
            DiskBus::VirtioScsi => "virtio-scsi",
            DiskBus::Scsi => "scsi",
            DiskBus::Ide => "ide",
            DiskBus::Nvme => "nvme",
            DiskBus::Usb => "usb",
            DiskBus::Other => "other",
        })
    }
}

/// Where the bytes of a disk lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lies {
    /// In a file.
    File {
        /// Its path.
        path: String,
        /// What it takes on its filesystem now.
        taken: Bytes,
        /// Its filesystem, where that could be asked.
        filesystem: Option<Pool>,
    },
    /// On a block device of the host.
    Block {
        /// Its path.
        path: String,
        /// Its size.
        size: Bytes,
        /// The thin pool that it draws on, where it is a thin volume.
        thin: Option<Pool>,
    },
    /// On the network, by the protocol's name. What is free there is not known.
    Network(String),
    /// Not known, for this reason.
    Unknown(String),
}

/// What several disks may draw on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// What it is known by, the same for all that draw on it: a filesystem's mount point, a thin pool's name.
    pub name: String,
    /// What is free in it.
    pub free: Bytes,
}

/// A disk as its guest shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestDisk {
    /// The guest's device, such as `/dev/vda`.
    pub device: String,
    /// The size that the guest's kernel shows.
    pub size: Bytes,
    /// What lies on it: partitions in the order of their start, or one filesystem, physical volume or LUKS container.
    pub layers: Vec<Layer>,
}

/// One layer of what lies on a disk, with what lies on that in turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// The device that holds it: `/dev/vda1` for a partition and for the physical volume on it, `/dev/mapper/luks-x`
    /// for what a LUKS container was opened as, `/dev/vg/root` for a logical volume and for the filesystem on it.
    pub device: String,
    /// What it is.
    pub kind: LayerKind,
    /// Its own size: of a partition or volume all of it, of a filesystem what `df` counts as its blocks.
    pub size: Bytes,
    /// What lies on it.
    pub above: Vec<Layer>,
}

/// What a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerKind {
    /// A partition.
    Partition {
        /// Its number.
        number: u32,
        /// Where it starts on the disk.
        start: Bytes,
        /// The kind of its table: `gpt`, `dos`.
        table: String,
    },
    /// An opened LUKS container.
    Luks,
    /// An LVM physical volume.
    PhysicalVolume {
        /// Its volume group.
        group: String,
        /// What is free in the whole group.
        free: Bytes,
    },
    /// An LVM logical volume.
    LogicalVolume {
        /// Its volume group.
        group: String,
        /// Its name.
        volume: String,
    },
    /// A filesystem.
    Filesystem {
        /// Its kind, such as `ext4`.
        kind: String,
        /// Where it is mounted, if it is.
        mount: Option<String>,
    },
    /// Swap space.
    Swap,
    /// Something that Supple does not know how to grow, by the guest's word for it.
    Other(String),
}
