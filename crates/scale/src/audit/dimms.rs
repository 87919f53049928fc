//! The rules of DIMMs, their backends and their blocks in the guest.

use super::ledger::{Spare, Stick};
use super::{Auditor, Kind};
use crate::generations::DIES_AFTER_A_VCPU_REMOVAL;
use crate::observed::{Backing, DimmKind, GuestFacts, Manager, PendingDevice, Placement};
use crate::plan::{OWN_PREFIX, OWN_PREFIX_IN_LIBVIRT, Zone};
use crate::units::Bytes;

/// The smallest memory block of Linux on the architectures that have DIMMs (arch/x86/mm/init_64.c,
/// arch/arm64/include/asm/sparsemem.h; 6.1).
const SMALLEST_BLOCK: Bytes = Bytes::mib(128);
/// Where boot memory ends here or later, Linux x86-64 uses larger blocks.
const LARGE_GUEST: Bytes = Bytes::gib(64);

impl Auditor<'_> {
    pub(super) fn create_backend(
        &mut self,
        memdev: &str,
        size: Bytes,
        backing: &Backing,
        placement: &Placement,
    ) {
        self.require(self.seen.machine.manager == Manager::Nobody, Kind::Backend, || {
            format!("{memdev} is made by itself, and the machine's manager makes backends with their DIMMs")
        });
        self.unused_name(memdev);
        self.own(memdev, OWN_PREFIX);
        let source = (backing.clone(), placement.clone());
        let memory = &self.seen.memory;
        let known = memory.nodes.iter().any(|node| memory.source_of_node(node.id) == source)
            || memory.nodes.is_empty() && memory.source_of_node(0) == source;
        self.require(known, Kind::Backend, || {
            format!("{memdev} is backed otherwise than the machine's memory")
        });
        if let Backing::Unknown(what) = backing {
            self.find(Kind::Backend, format!("{memdev} is to be backed by {what}, which cannot be made"));
        }
        self.host_takes(&source, size);
        self.ledger.backends.push(Spare { id: memdev.to_owned(), size, by: self.at, source: Some(source) });
    }

    /// The size of the backend that a DIMM is plugged on: one that is there and made as its node's memory is, or one
    /// that comes with it.
    pub(super) fn backend_of(
        &mut self,
        (id, memdev): (&str, &str),
        node: u32,
        brings: Option<Bytes>,
    ) -> Option<Bytes> {
        let manager = self.seen.machine.manager;
        let own = match manager {
            Manager::Nobody => OWN_PREFIX,
            Manager::Libvirt => OWN_PREFIX_IN_LIBVIRT,
        };
        self.own(id, own);
        self.require(brings.is_some() == (manager == Manager::Libvirt), Kind::Backend, || {
            format!("{id} is to bring {brings:?} of memory, and backends are made by {manager:?}")
        });
        let Some(size) = brings else {
            let Some(index) = self.ledger.backends.iter().position(|b| b.id == memdev) else {
                let used = self.ledger.sticks.iter().any(|s| s.memdev == memdev);
                let what = if used { "is in use" } else { "does not exist" };
                self.find(Kind::Backend, format!("{id} is plugged on {memdev}, which {what}"));
                return None;
            };
            let spare = self.ledger.backends.remove(index);
            let own = self.seen.memory.source_of_node(node);
            self.require(spare.source.is_none_or(|source| source == own), Kind::Backend, || {
                format!("{memdev} is backed otherwise than the memory of node {node}, where {id} goes")
            });
            return Some(spare.size);
        };
        self.unused_name(memdev);
        self.require(memdev.strip_prefix("mem") == Some(id), Kind::Id, || {
            format!("libvirt calls the backend of {id} mem{id}, not {memdev}")
        });
        let source = self.seen.memory.source_of_node(node);
        self.host_takes(&source, size);
        Some(size)
    }

    fn unused_name(&mut self, memdev: &str) {
        let taken = self.ledger.backends.iter().any(|b| b.id == memdev)
            || self.ledger.sticks.iter().any(|s| s.memdev == memdev);
        self.require(!taken, Kind::Id, || format!("there is a backend {memdev} already"));
    }

    pub(super) fn delete_backend(&mut self, memdev: &str) {
        if self.ledger.sticks.iter().any(|s| s.memdev == memdev) {
            self.find(Kind::Backend, format!("{memdev} is deleted while its DIMM is plugged"));
            return;
        }
        let Some(index) = self.ledger.backends.iter().position(|b| b.id == memdev) else {
            self.find(Kind::Backend, format!("{memdev} is deleted and does not exist"));
            return;
        };
        let spare = self.ledger.backends.remove(index);
        self.require(spare.by.is_some() || memdev.starts_with(OWN_PREFIX), Kind::Backend, || {
            format!("{memdev} is not ours to delete")
        });
        let (source, size) = (spare.source, spare.size);
        self.host_gets_back(source.as_ref(), size);
    }

    pub(super) fn plug_dimm(
        &mut self,
        (id, memdev, size): (&str, &str, Bytes),
        slot: u32,
        node: u32,
        addr: Option<u64>,
        group: u32,
    ) {
        self.require(!self.ledger.has_device(id), Kind::Id, || format!("there is a device {id} already"));
        self.slot(slot);
        let nodes = &self.seen.memory.nodes;
        let exists = nodes.iter().any(|n| n.id == node) || (nodes.is_empty() && node == 0);
        self.require(exists, Kind::Node, || format!("there is no NUMA node {node}"));
        self.survives_vcpu_removal(id);
        self.dimm_size(id, size);
        if let Some(addr) = addr {
            self.address(id, addr, size);
        }
        self.has_room_for_metadata(size);
        self.ledger.kernel_free = self.ledger.kernel_free.map(|f| f.saturating_sub(size.per(64)));
        self.ledger.sticks.push(Stick {
            id: id.to_owned(),
            memdev: memdev.to_owned(),
            kind: DimmKind::Dimm,
            slot,
            node,
            size,
            addr,
            in_use: Bytes::ZERO,
            unused_by: self.at.map(|at| (at, group)),
            hidden: true,
            unshown_by: None,
        });
        self.bounds();
    }

    fn own(&mut self, id: &str, prefix: &str) {
        let rest = id.strip_prefix(prefix);
        self.require(rest.is_some_and(|r| !r.is_empty()), Kind::Id, || {
            format!("'{id}' does not begin with {prefix}, by which our own devices are known")
        });
    }

    fn slot(&mut self, slot: u32) {
        let slots = self.seen.memory.slots;
        self.require(slot < slots, Kind::Slot, || format!("slot {slot} of {slots} (counted from 0)"));
        let taken = self.ledger.sticks.iter().find(|s| s.slot == slot).map(|s| s.id.clone());
        if let Some(taken) = taken {
            let pending = self.seen.pending.iter().any(|p| p.device.id() == taken);
            let how = if pending { "is still being given up by" } else { "holds" };
            self.find(Kind::Slot, format!("slot {slot} {how} '{taken}'"));
        }
    }

    fn dimm_size(&mut self, id: &str, size: Bytes) {
        let alignment = self.seen.memory.alignment;
        let block = self.block();
        self.require(!size.is_zero() && size.is_multiple_of(alignment), Kind::DimmSize, || {
            format!("{id} has {size}, not a multiple of QEMU's {alignment}")
        });
        self.require(size.is_multiple_of(block), Kind::DimmSize, || {
            format!("{id} has {size}, not a multiple of the guest's block of {block}")
        });
        self.require(size <= self.limits.dimm_max, Kind::DimmSize, || {
            format!("{id} has {size}, above the limit of {} for one DIMM", self.limits.dimm_max)
        });
    }

    /// The guest's memory block, or the smallest that is sure to fit where the guest does not tell.
    fn block(&self) -> Bytes {
        let told = self.seen.guest.heard().and_then(|h| h.block);
        // A PC with so much has at least 2 GiB of it behind the hole below 4 GiB, and at most 3 GiB before: it ends at
        // least 1 GiB later than it is large (hw/i386/pc.c, 7.2 and 10.0).
        let hole = if self.seen.machine.arch == "x86_64" { Bytes::gib(1) } else { Bytes::ZERO };
        let assumed = match self.seen.memory.boot + hole {
            end if end >= LARGE_GUEST => self.limits.block_of_large_guests,
            _ => SMALLEST_BLOCK,
        };
        told.unwrap_or(assumed)
    }

    fn address(&mut self, id: &str, addr: u64, size: Bytes) {
        let (alignment, block) = (self.seen.memory.alignment, self.block());
        let start = Bytes::new(addr);
        self.require(start.is_multiple_of(alignment) && start.is_multiple_of(block), Kind::Address, || {
            format!("{id} at {addr:#x} is not aligned to {alignment} and the guest's block of {block}")
        });
        let Some(end) = addr.checked_add(size.get()) else {
            self.find(Kind::Address, format!("{id} at {addr:#x} does not fit 64 bits"));
            return;
        };
        let sticks = self.ledger.sticks.iter().filter_map(|s| s.addr.map(|a| (s.id.clone(), a, s.size)));
        let virtio =
            self.ledger.virtio_mem.iter().map(|v| (v.device.id.clone(), v.device.addr, v.device.max));
        let others = self.seen.memory.others.iter().map(|o| (o.kind.clone(), o.addr, o.size));
        let met =
            sticks.chain(virtio).chain(others).find(|(_, a, s)| addr < a.saturating_add(s.get()) && *a < end);
        if let Some((other, ..)) = met {
            self.find(Kind::Address, format!("{id} at {addr:#x} meets '{other}'"));
        }
    }

    /// The bounds on all memory devices together, as they are after a plug.
    fn bounds(&mut self) {
        let memory = &self.seen.memory;
        let (held, ceiling) = (self.ledger.against_ceiling(), memory.ceiling);
        self.require(held <= ceiling, Kind::Ceiling, || {
            format!("boot memory and memory devices come to {held}, the machine takes {ceiling}")
        });
        let devices = self.ledger.sticks.len() + self.ledger.virtio_mem.len() + memory.others.len();
        if let Some(most) = self.seen.host.vhost_regions {
            // Boot memory takes one region at least.
            let regions = devices as u64 + 1 + u64::from(self.limits.vhost_reserve);
            self.require(regions <= u64::from(most), Kind::VhostRegions, || {
                format!("{regions} memory regions with the reserve, a vhost backend maps {most}")
            });
        }
    }

    /// Older QEMUs under TCG die of a DIMM that comes or goes and of a vCPU that comes after a vCPU was removed.
    pub(super) fn survives_vcpu_removal(&mut self, id: &str) {
        let machine = &self.seen.machine;
        let may_be = self.seen.pending.iter().any(|p| matches!(p.device, PendingDevice::Vcpu { .. }));
        let after = self.since_vcpu_removal || may_be;
        let deadly = DIES_AFTER_A_VCPU_REMOVAL.concerns(machine) && after;
        self.require(!deadly, Kind::KnownDanger, || {
            format!("{id} comes or goes after a vCPU was removed: QEMU {} under TCG dies of it", machine.qemu)
        });
    }

    /// They die of a DIMM, too, that the guest lets go late, after a vCPU was removed, be it on the way back.
    pub(super) fn no_dimm_is_late(&mut self, id: &str) {
        let machine = &self.seen.machine;
        let is_here = |dimm: &str| self.ledger.sticks.iter().any(|stick| stick.id == dimm);
        let late = self.seen.pending.iter().any(|p| match &p.device {
            PendingDevice::Dimm { id, .. } => is_here(id),
            PendingDevice::Vcpu { .. } => false,
        });
        let deadly = DIES_AFTER_A_VCPU_REMOVAL.concerns(machine) && late;
        self.require(!deadly, Kind::KnownDanger, || {
            format!(
                "{id} may be gone before a DIMM that is still to go: QEMU {} under TCG dies of it",
                machine.qemu
            )
        });
    }

    pub(super) fn unplug_dimm(&mut self, id: &str, memdev: &str, slot: u32) {
        self.survives_vcpu_removal(id);
        let Some(index) = self.ledger.sticks.iter().position(|s| !id.is_empty() && s.id == id) else {
            self.find(Kind::NotRemovable, format!("there is no DIMM '{id}' to unplug"));
            return;
        };
        let stick = self.ledger.sticks.remove(index);
        self.require(stick.kind == DimmKind::Dimm, Kind::NotRemovable, || format!("{id} is an NVDIMM"));
        self.require(stick.memdev == memdev && stick.slot == slot, Kind::NotRemovable, || {
            format!("{id} is on {} in slot {}, not on {memdev} in slot {slot}", stick.memdev, stick.slot)
        });
        let can_empty = self.seen.guest.heard().is_some_and(|h| h.block.is_some() && can_switch_blocks(h));
        self.require(stick.in_use.is_zero() || !can_empty, Kind::NotOffline, || {
            format!("{id} is unplugged with up to {} of it online in the guest", stick.in_use)
        });
        self.guest_loses(stick.in_use);
        match self.seen.machine.manager {
            Manager::Nobody if stick.memdev.is_empty() => {}
            Manager::Nobody => {
                let (id, size) = (stick.memdev, stick.size);
                let source = Some(self.seen.memory.source_of_node(stick.node));
                self.ledger.backends.push(Spare { id, size, by: self.at, source });
            }
            Manager::Libvirt => {
                let source = self.seen.memory.source_of_node(stick.node);
                self.host_gets_back(Some(&source), stick.size);
            }
        }
    }

    /// Brings a device's memory into use: `zone` is absent where the guest is waited for.
    pub(super) fn online(&mut self, device: &str, zone: Option<Zone>, group: u32) {
        if zone.is_some() {
            let able = self.seen.guest.heard().is_some_and(can_switch_blocks);
            self.require(able, Kind::GuestCannot, || format!("nobody can online the blocks of {device}"));
        }
        let movable = matches!(zone, Some(Zone::Movable | Zone::PreferMovable));
        if movable {
            let able = self.seen.guest.heard().is_some_and(|h| h.can_write_files() || h.can("guest-exec"));
            self.require(able, Kind::GuestCannot, || {
                format!("the agent cannot online {device} as movable: it has neither files nor exec")
            });
        }
        if let Some(stretch) = self.ledger.virtio_mem.iter_mut().find(|v| v.device.id == device) {
            let gained = stretch.device.size.saturating_sub(stretch.in_use);
            stretch.in_use = stretch.device.size;
            self.ledger.gain(gained);
            return;
        }
        if zone.is_none() && self.ledger.has_vcpu(device) {
            return;
        }
        let Some(stick) = self.ledger.stick(device) else {
            self.find(Kind::GuestCannot, format!("there is no memory device {device} to online"));
            return;
        };
        let gained = stick.size.saturating_sub(stick.in_use);
        stick.in_use = stick.size;
        if stick.unused_by.is_some_and(|(_, by)| by == group) {
            stick.unused_by = None;
        }
        // Whatever the guest is waited for shows that it has the DIMM: its blocks, or its own count of memory.
        if zone.is_none() {
            stick.unshown_by = None;
        }
        self.ledger.gain(gained);
        if !movable {
            self.ledger.kernel_free = self.ledger.kernel_free.map(|f| f + gained);
        }
    }

    pub(super) fn offline(&mut self, device: &str) {
        let able = self.seen.guest.heard().is_some_and(can_switch_blocks);
        self.require(able, Kind::GuestCannot, || format!("nobody can take the blocks of {device} offline"));
        let Some(stick) = self.ledger.stick(device) else {
            self.find(Kind::NotRemovable, format!("there is no DIMM '{device}' to empty"));
            return;
        };
        let (kind, lost) = (stick.kind, stick.in_use);
        stick.in_use = Bytes::ZERO;
        self.require(kind == DimmKind::Dimm, Kind::NotRemovable, || format!("{device} is an NVDIMM"));
        self.guest_loses(lost);
    }

    /// After the last step: nothing half-made, nothing that was plugged and not brought into use.
    pub(super) fn leftovers(&mut self) {
        let spares: Vec<_> =
            self.ledger.backends.iter().filter_map(|b| b.by.map(|by| (by, b.id.clone()))).collect();
        for (by, id) in spares {
            self.at = Some(by);
            self.find(Kind::Leftover, format!("backend {id} is left without a device"));
        }
        let shows_blocks = self.seen.guest.heard().is_some_and(|h| h.block.is_some() && !h.blocks.is_empty());
        let idle: Vec<_> =
            self.ledger.sticks.iter().filter_map(|s| s.unused_by.map(|(by, _)| (by, s.id.clone()))).collect();
        for (by, id) in idle.into_iter().filter(|_| shows_blocks) {
            self.at = Some(by);
            self.find(Kind::NotOnlined, format!("{id} is plugged and its group does not bring it into use"));
        }
        let unshown: Vec<_> = self
            .ledger
            .sticks
            .iter()
            .filter_map(|s| s.unshown_by.map(|(by, _)| (by, s.id.clone())))
            .collect();
        for (by, id) in unshown {
            self.at = Some(by);
            self.find(Kind::WrongProof, format!("nothing shows that the guest has {id}"));
        }
        self.at = None;
    }
}

/// True if the agent can change the state of memory blocks, by its own command or by files or programs.
pub(super) fn can_switch_blocks(facts: &GuestFacts) -> bool {
    facts.can("guest-set-memory-blocks") || facts.can_write_files() || facts.can("guest-exec")
}
