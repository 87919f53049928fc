//! The auditor's own account of the machine. It records; the rules are in the files beside it.

use crate::limits::Limits;
use crate::observed::{
    Backing, Dimm, DimmKind, Disk, GuestFacts, MemBlock, MemInfo, Observed, Placement, VcpuProps, VcpuState,
    VirtioMem, blocks_of,
};
use crate::plan::Sizes;
use crate::setting::Setting;
use crate::units::Bytes;
use std::ops::Range;

/// The machine as the steps so far would have left it.
pub(super) struct Ledger {
    pub(super) boot: Bytes,
    pub(super) sticks: Vec<Stick>,
    pub(super) backends: Vec<Spare>,
    pub(super) virtio_mem: Vec<Stretch>,
    /// What memory devices of other kinds may hold.
    pub(super) others: Bytes,
    /// What the balloon holds, where there is one.
    pub(super) ballooned: Option<Bytes>,
    pub(super) vcpus: Vec<Place>,
    /// The guest's MemTotal, where known.
    pub(super) guest_total: Option<Bytes>,
    /// What the guest uses and its margin, where known; no more than it has, should that be less.
    pub(super) guest_floor: Option<Bytes>,
    /// An upper bound of the free memory that the guest's kernel can use for itself, where known.
    pub(super) kernel_free: Option<Bytes>,
    pub(super) disks: Vec<Disk>,
    /// True once a step has grown a disk or what lies on one.
    pub(super) disks_begun: bool,
    /// Disk and layer of what was grown in the guest.
    pub(super) grown: Vec<(String, String)>,
    pub(super) settings: Vec<Setting>,
    /// NICs of which it is known which addresses have limits of their own.
    pub(super) nics_with_ips: Vec<String>,
}

/// One plugged DIMM.
pub(super) struct Stick {
    pub(super) id: String,
    pub(super) memdev: String,
    pub(super) kind: DimmKind,
    pub(super) slot: u32,
    pub(super) node: u32,
    pub(super) size: Bytes,
    /// Absent for one that this plan lets QEMU place.
    pub(super) addr: Option<u64>,
    /// How much of it the guest may be using.
    pub(super) in_use: Bytes,
    /// The group that plugged it, until the group brings it into use too.
    pub(super) unused_by: Option<(usize, u32)>,
    /// True where the guest may not show all of its blocks.
    pub(super) hidden: bool,
    /// The group that plugged it on QEMU's word alone, until the group has the guest show it.
    pub(super) unshown_by: Option<(usize, u32)>,
}

/// One virtio-mem device.
pub(super) struct Stretch {
    pub(super) device: VirtioMem,
    /// How much of it the guest may be using.
    pub(super) in_use: Bytes,
}

/// A backend without a device.
pub(super) struct Spare {
    pub(super) id: String,
    /// Absent for one that a DIMM has just let go.
    pub(super) size: Bytes,
    /// The step that made it or set it free.
    pub(super) by: Option<usize>,
    /// What it is made of, where that is known.
    pub(super) source: Option<(Backing, Placement)>,
}

/// One place for a vCPU.
pub(super) struct Place {
    pub(super) props: VcpuProps,
    pub(super) driver: String,
    pub(super) count: u32,
    pub(super) state: VcpuState,
}

impl Place {
    fn is_taken(&self) -> bool {
        matches!(self.state, VcpuState::Boot | VcpuState::Device(_))
    }
}

impl Ledger {
    pub(super) fn open(seen: &Observed, limits: &Limits) -> Ledger {
        let memory = &seen.memory;
        let shown = seen.guest.heard().and_then(Shown::by);
        let shown = shown.as_ref();
        let info = guest_figures(seen, limits);
        let dimms: Bytes = memory.dimms.iter().filter(|d| d.kind == DimmKind::Dimm).map(|d| d.size).sum();
        Ledger {
            boot: memory.boot,
            sticks: memory.dimms.iter().map(|d| Stick::of(d, shown)).collect(),
            backends: memory
                .unused_backends
                .iter()
                .map(|b| Spare { id: b.id.clone(), size: b.size, by: None, source: None })
                .collect(),
            virtio_mem: memory.virtio_mem.iter().map(|v| Stretch::of(v, shown)).collect(),
            others: memory.others.iter().map(|o| o.size).sum(),
            ballooned: memory.balloon.map(|b| (memory.boot + dimms).saturating_sub(b.actual)),
            vcpus: seen
                .vcpus
                .slots
                .iter()
                .map(|s| Place {
                    props: s.props,
                    driver: s.driver.clone(),
                    count: s.count,
                    state: s.state.clone(),
                })
                .collect(),
            guest_total: info.map(|i| i.total),
            guest_floor: info.map(|i| {
                let used = i.total.saturating_sub(i.available);
                let part = Bytes::new(used.get() / 100 * limits.shrink_margin_percent);
                (used + part.max(limits.shrink_margin)).min(i.total)
            }),
            kernel_free: info.map(|i| i.available),
            disks: seen.disks().to_vec(),
            disks_begun: false,
            grown: Vec::new(),
            settings: seen.settings(),
            nics_with_ips: seen
                .nics()
                .iter()
                .filter(|nic| nic.ips.known().is_some())
                .map(|nic| nic.name.clone())
                .collect(),
        }
    }

    /// Boot memory and RAM DIMMs: what the balloon's account is about.
    pub(super) fn balloonable(&self) -> Bytes {
        let dimms: Bytes = self.sticks.iter().filter(|s| s.kind == DimmKind::Dimm).map(|s| s.size).sum();
        self.boot + dimms
    }

    pub(super) fn sizes(&self) -> Sizes {
        let virtio: Bytes = self.virtio_mem.iter().map(|v| v.device.size).sum();
        let held = self.ballooned.unwrap_or_default();
        Sizes {
            memory: (self.balloonable() + virtio).saturating_sub(held),
            vcpus: self.vcpus.iter().filter(|p| p.is_taken()).map(|p| p.count).sum(),
        }
    }

    /// What QEMU counts against `maxmem`: all DIMMs, NVDIMMs too, and virtio-mem devices with their whole region.
    pub(super) fn against_ceiling(&self) -> Bytes {
        let sticks: Bytes = self.sticks.iter().map(|s| s.size).sum();
        self.boot + sticks + self.others + self.virtio_mem.iter().map(|v| v.device.max).sum()
    }

    /// The DIMM of this id: the newest, where a broken plan makes two.
    pub(super) fn stick(&mut self, id: &str) -> Option<&mut Stick> {
        self.sticks.iter_mut().rev().find(|s| !id.is_empty() && s.id == id)
    }

    /// True if a device of this id exists, as far as the observation tells.
    pub(super) fn has_device(&self, id: &str) -> bool {
        self.sticks.iter().any(|s| s.id == id) || self.is_virtio_mem(id) || self.has_vcpu(id)
    }

    pub(super) fn has_vcpu(&self, id: &str) -> bool {
        self.vcpus.iter().any(|p| matches!(&p.state, VcpuState::Device(d) if d == id))
    }

    pub(super) fn is_virtio_mem(&self, id: &str) -> bool {
        self.virtio_mem.iter().any(|v| v.device.id == id)
    }

    pub(super) fn gain(&mut self, memory: Bytes) {
        self.guest_total = self.guest_total.map(|t| t + memory);
    }

    pub(super) fn lose(&mut self, memory: Bytes) {
        self.guest_total = self.guest_total.map(|t| t.saturating_sub(memory));
    }
}

impl Stick {
    fn of(dimm: &Dimm, shown: Option<&Shown>) -> Stick {
        Stick {
            id: dimm.id.clone(),
            memdev: dimm.memdev.clone(),
            kind: dimm.kind,
            slot: dimm.slot,
            node: dimm.node,
            size: dimm.size,
            addr: Some(dimm.addr),
            in_use: match dimm.kind {
                DimmKind::Nvdimm => Bytes::ZERO,
                DimmKind::Dimm => in_use(shown, dimm.addr, dimm.size, dimm.size),
            },
            unused_by: None,
            hidden: is_hidden(shown, dimm),
            unshown_by: None,
        }
    }
}

impl Stretch {
    fn of(device: &VirtioMem, shown: Option<&Shown>) -> Stretch {
        Stretch { device: device.clone(), in_use: in_use(shown, device.addr, device.max, device.size) }
    }
}

/// The guest's memory blocks, ascending.
struct Shown {
    block: Bytes,
    blocks: Vec<MemBlock>,
}

impl Shown {
    fn by(guest: &GuestFacts) -> Option<Shown> {
        let block = guest.block?;
        let mut blocks = guest.blocks.clone();
        blocks.sort_by_key(|b| b.index);
        Some(Shown { block, blocks })
    }

    fn within(&self, range: &Range<u64>) -> &[MemBlock] {
        let behind = &self.blocks[self.blocks.partition_point(|b| b.index < range.start)..];
        &behind[..behind.partition_point(|b| b.index < range.end)]
    }
}

/// How much of `size` bytes, somewhere in the range of `span` bytes from `addr`, the guest has online; all, where it
/// does not tell.
fn in_use(shown: Option<&Shown>, addr: u64, span: Bytes, size: Bytes) -> Bytes {
    let Some(shown) = shown else { return size };
    let blocks = shown.within(&blocks_of(addr, span, shown.block));
    let online = blocks.iter().filter(|b| b.online).count();
    shown.block.times(online as u64).min(size)
}

/// False where the guest shows every block of the DIMM.
fn is_hidden(shown: Option<&Shown>, dimm: &Dimm) -> bool {
    let Some(shown) = shown else { return true };
    let range = blocks_of(dimm.addr, dimm.size, shown.block);
    (shown.within(&range).len() as u64) < range.end - range.start
}

/// The guest's own figures: from the agent, else from a balloon driver that answered lately.
fn guest_figures(seen: &Observed, limits: &Limits) -> Option<MemInfo> {
    let from_agent = seen.guest.heard().and_then(|h| h.meminfo);
    let stats = seen.memory.balloon.and_then(|b| b.stats);
    let fresh = stats.filter(|s| seen.at.since(s.at) <= limits.stale);
    from_agent.or_else(|| fresh.map(|s| MemInfo { total: s.total, available: s.available, free: s.free }))
}
