//! A machine's memory on the wire.

use scale::observed::{
    Balloon as CoreBalloon, Dimm as CoreDimm, DimmKind, Observed as CoreObserved, VirtioMem as CoreVirtioMem,
};
use scale::units::Bytes;
use serde::Serialize;

use crate::drift::Blocks as CoreBlocks;
use crate::words::rfc3339;

/// The memory that QEMU gives the guest.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// Memory that was there at boot and stays.
    pub(crate) boot_bytes: u64,
    /// The most there can be.
    pub(crate) ceiling_bytes: u64,
    /// How many DIMM slots there are.
    pub(crate) slots: u32,
    /// Their numbers that are free.
    pub(crate) free_slots: Vec<u32>,
    /// DIMMs in ascending slot order.
    pub(crate) dimms: Vec<Dimm>,
    /// virtio-mem devices.
    pub(crate) virtio_mem: Vec<VirtioMem>,
    /// The balloon; null where there is none.
    pub(crate) balloon: Option<Balloon>,
    /// Memory of the host that no device uses.
    pub(crate) unused_backends: Vec<Backend>,
    /// NUMA nodes.
    pub(crate) nodes: Vec<Node>,
}

/// One DIMM.
#[derive(Debug, Serialize)]
pub(crate) struct Dimm {
    /// QEMU's id; empty where it has none.
    pub(crate) id: String,
    /// `dimm` or `nvdimm`.
    pub(crate) kind: &'static str,
    /// Its slot.
    pub(crate) slot: u32,
    /// Its NUMA node.
    pub(crate) node: u32,
    /// Its guest-physical address.
    pub(crate) addr: u64,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// The guest's memory blocks in it; null where the guest does not tell.
    pub(crate) blocks: Option<Blocks>,
}

/// The guest's memory blocks in a device.
#[derive(Debug, Serialize)]
pub(crate) struct Blocks {
    /// How many the guest shows.
    pub(crate) shown: u64,
    /// How many of these are online.
    pub(crate) online: u64,
}

/// One virtio-mem device.
#[derive(Debug, Serialize)]
pub(crate) struct VirtioMem {
    /// QEMU's id.
    pub(crate) id: String,
    /// Its NUMA node.
    pub(crate) node: u32,
    /// Its guest-physical address.
    pub(crate) addr: u64,
    /// Its size changes in steps of this.
    pub(crate) block_bytes: u64,
    /// The most it can hold.
    pub(crate) max_bytes: u64,
    /// What was requested of the guest.
    pub(crate) requested_bytes: u64,
    /// What the guest holds.
    pub(crate) size_bytes: u64,
    /// The guest's memory blocks in it; null where the guest does not tell.
    pub(crate) blocks: Option<Blocks>,
}

/// The balloon.
#[derive(Debug, Serialize)]
pub(crate) struct Balloon {
    /// Boot memory and DIMMs less what the balloon holds.
    pub(crate) actual_bytes: u64,
    /// MemTotal by the guest's balloon driver; null where it does not report.
    pub(crate) mem_total_bytes: Option<u64>,
    /// MemAvailable by the guest's balloon driver; null where it does not report.
    pub(crate) mem_available_bytes: Option<u64>,
    /// When it told them (RFC 3339): it tells only while it is asked; null where it does not report.
    pub(crate) told_at: Option<String>,
}

/// Memory of the host.
#[derive(Debug, Serialize)]
pub(crate) struct Backend {
    /// The object's id.
    pub(crate) id: String,
    /// Its size.
    pub(crate) size_bytes: u64,
}

/// One NUMA node.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    /// Its number.
    pub(crate) id: u32,
    /// Its memory.
    pub(crate) memory_bytes: u64,
    /// The size of the huge pages that new memory of it is made of; null for ordinary ones.
    pub(crate) page_bytes: Option<u64>,
    /// The host's nodes that new memory of it is bound to; none where it may lie anywhere.
    pub(crate) host_nodes: Vec<u32>,
}

impl Node {
    fn of(memory: &scale::observed::Memory, node: &scale::observed::Node) -> Node {
        let (backing, placement) = memory.source_of_node(node.id);
        Node {
            id: node.id,
            memory_bytes: node.memory.get(),
            page_bytes: backing.page().map(Bytes::get),
            host_nodes: placement.bound().unwrap_or_default().to_vec(),
        }
    }
}

impl Memory {
    /// The memory of an observed machine.
    pub(crate) fn of(seen: &CoreObserved) -> Memory {
        let memory = &seen.memory;
        let backend = |b: &scale::observed::Backend| Backend { id: b.id.clone(), size_bytes: b.size.get() };
        Memory {
            boot_bytes: memory.boot.get(),
            ceiling_bytes: memory.ceiling.get(),
            slots: memory.slots,
            free_slots: memory.free_slots(),
            dimms: memory.dimms.iter().map(|d| Dimm::of(seen, d)).collect(),
            virtio_mem: memory.virtio_mem.iter().map(|v| VirtioMem::of(seen, v)).collect(),
            balloon: memory.balloon.as_ref().map(Balloon::from),
            unused_backends: memory.unused_backends.iter().map(backend).collect(),
            nodes: memory.nodes.iter().map(|n| Node::of(memory, n)).collect(),
        }
    }
}

impl Dimm {
    fn of(seen: &CoreObserved, dimm: &CoreDimm) -> Dimm {
        Dimm {
            id: dimm.id.clone(),
            kind: match dimm.kind {
                DimmKind::Dimm => "dimm",
                DimmKind::Nvdimm => "nvdimm",
            },
            slot: dimm.slot,
            node: dimm.node,
            addr: dimm.addr,
            size_bytes: dimm.size.get(),
            blocks: CoreBlocks::of_range(seen, dimm.addr, dimm.size).map(Blocks::from),
        }
    }
}

impl VirtioMem {
    fn of(seen: &CoreObserved, device: &CoreVirtioMem) -> VirtioMem {
        VirtioMem {
            id: device.id.clone(),
            node: device.node,
            addr: device.addr,
            block_bytes: device.block.get(),
            max_bytes: device.max.get(),
            requested_bytes: device.requested.get(),
            size_bytes: device.size.get(),
            blocks: CoreBlocks::of_range(seen, device.addr, device.max).map(Blocks::from),
        }
    }
}

impl From<CoreBlocks> for Blocks {
    fn from(blocks: CoreBlocks) -> Blocks {
        Blocks { shown: blocks.shown, online: blocks.online }
    }
}

impl From<&CoreBalloon> for Balloon {
    fn from(balloon: &CoreBalloon) -> Balloon {
        Balloon {
            actual_bytes: balloon.actual.get(),
            mem_total_bytes: balloon.stats.map(|s| s.total.get()),
            mem_available_bytes: balloon.stats.map(|s| s.available.get()),
            told_at: balloon.stats.map(|s| rfc3339(s.at)),
        }
    }
}
