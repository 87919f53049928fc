//! Memory as QEMU has it: what was there at boot, DIMMs, virtio-mem, the balloon, and backends that no device uses.

use super::{Backing, Source};
use crate::time::Moment;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

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
