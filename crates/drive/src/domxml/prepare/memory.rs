//! The ceiling of memory, its slots, the first NUMA cell.

use super::virtio_mem::{self, Device};
use super::{Case, Obstacle, Said, address, vcpus};
use crate::domxml::cpuset::CpuSet;
use crate::domxml::document::{at, child, children};
use crate::domxml::domain::{Domain, MaxMemory};
use crate::domxml::edit::Edits;
use crate::domxml::fragment::Fragment;
use crate::domxml::machine::Board;
use crate::domxml::units::{as_attached, as_booted, kib};
use roxmltree::Node;
use scale::units::Bytes;

/// QEMU's limit (`ACPI_MAX_RAM_SLOTS`, QEMU 7.2 and 10.0). The 255 of many guides is a convention of one manager.
const MOST_SLOTS: u32 = 256;
const DEFAULT_SLOTS: u32 = 16;
/// The largest address of any x86 or Arm processor.
const MOST_MEMORY: Bytes = Bytes::new(1 << 52);

/// What the machine's memory should be.
pub(super) struct Goal {
    max: Option<MaxMemory>,
    device: Option<Device>,
    /// Whether a NUMA cell must be made: outside of ppc64 and s390x libvirt adds memory to no machine without one, and
    /// makes one itself only since 9.6 (libvirt 9.0, `qemuDomainDefValidateMemoryHotplug`).
    new_cell: bool,
}

pub(super) fn goal(case: &Case<'_>, obstacles: &mut Vec<Obstacle>) -> Goal {
    let has = case.domain.memory.max;
    let as_it_is = Goal { max: has, device: None, new_cell: false };
    if !case.wants_memory() {
        return as_it_is;
    }
    let device = virtio_mem::wanted(case, obstacles);
    let Some(size) = case.want.max_memory.or(has.map(|max| max.size)) else {
        if case.want.slots.is_some() {
            obstacles.push(Obstacle::SlotsAlone);
        }
        if device.is_some() {
            obstacles.push(Obstacle::VirtioMemAlone);
        }
        return as_it_is;
    };
    if size > MOST_MEMORY {
        obstacles.push(Obstacle::TooMuchMemory { asked: size, most: MOST_MEMORY });
        return as_it_is;
    }
    let size = as_attached(size, case.is_ppc64());
    let total = case.domain.total_memory();
    if size < total || size <= case.domain.memory.boot {
        obstacles.push(Obstacle::NoRoom { asked: size, has: total });
        return as_it_is;
    }
    let max = MaxMemory { size, slots: slots(case, device.as_ref(), obstacles) };
    address::check(case, max, obstacles);
    let device = device.and_then(|wanted| virtio_mem::sized(case, wanted, max, obstacles));
    let board_needs_cell = matches!(case.board, Board::Pc | Board::Q35 | Board::Virt);
    Goal { max: Some(max), device, new_cell: board_needs_cell && case.domain.cpu.cells.is_empty() }
}

/// The slots that the machine should have, enough for the devices that it has.
fn slots(case: &Case<'_>, device: Option<&Device>, obstacles: &mut Vec<Obstacle>) -> Option<u32> {
    if case.board == Board::S390Ccw {
        if case.want.slots.is_some() {
            obstacles.push(Obstacle::NoSlots);
        }
        return None;
    }
    let devices = &case.domain.memory_devices;
    let added = device.filter(|device| device.place.is_none()).map_or(0, |_| 1);
    // Before 9.5 libvirt counts every memory device, later only those that take a slot.
    let count = u32::try_from(devices.len() + added).unwrap_or(u32::MAX);
    let reach =
        devices.iter().filter_map(|device| device.slot).map(|slot| slot.number.saturating_add(1)).max();
    let needed = count.max(reach.unwrap_or(0)).max(1);
    let has = case.domain.memory.max.and_then(|max| max.slots);
    let slots = case.want.slots.unwrap_or_else(|| has.unwrap_or(DEFAULT_SLOTS).max(needed));
    if slots > MOST_SLOTS {
        obstacles.push(Obstacle::TooManySlots { asked: slots });
    } else if slots < needed {
        obstacles.push(Obstacle::TooFewSlots { asked: slots, needed });
    }
    Some(slots)
}

impl Goal {
    pub(super) fn edit<'t, 'a>(
        &self,
        case: &Case<'_>,
        vcpus: &vcpus::Goal,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let Some(max) = self.max.filter(|_| case.wants_memory()) else {
            return;
        };
        self.edit_ceiling(case, max, root, edits, said);
        if self.new_cell {
            self.edit_cell(case, vcpus, root, edits, said);
        }
        if let Some(device) = &self.device {
            device.edit(case, root, edits, said);
        }
        notes(case, max, said);
    }

    /// The device to add, if any.
    pub(super) fn new_device(&self) -> Option<Fragment> {
        self.device.as_ref().filter(|device| device.place.is_none()).map(Device::fragment)
    }

    fn edit_ceiling<'t, 'a>(
        &self,
        case: &Case<'_>,
        max: MaxMemory,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        if case.domain.memory.max == Some(max) {
            return;
        }
        match child(root, "maxMemory") {
            Some(node) => {
                edits.set_amount(node, max.size);
                if let Some(slots) = max.slots {
                    edits.set_attribute(node, "slots", slots);
                }
            }
            None => {
                let mut new = Fragment::text("maxMemory", kib(max.size));
                if let Some(slots) = max.slots {
                    new = new.with("slots", slots);
                }
                let new = new.with("unit", "KiB");
                match child(root, "memory") {
                    Some(memory) => edits.insert_before(memory, &new),
                    None => edits.insert_after(super::anchor(root), &new),
                }
            }
        }
        let by_dimms = max.slots.map_or(String::new(), |slots| format!(", with {slots} slots for DIMMs"));
        let end = address::space(case, max).map_or(String::new(), |space| {
            let bits = space.bits;
            format!(
                ". The guest's addresses then end at {}, within the {bits} bits of its CPU",
                Bytes::new(space.end)
            )
        });
        said.changes.push(format!("A ceiling of {} of memory{by_dimms}{end}.", max.size));
    }

    /// One cell with all vCPUs and all boot memory; memory devices that named no node belong to it.
    fn edit_cell<'t, 'a>(
        &self,
        case: &Case<'_>,
        vcpus: &vcpus::Goal,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let boot = case.domain.memory.boot;
        let cell = Fragment::empty("cell")
            .with("id", 0)
            .with("cpus", CpuSet::range(0, vcpus.max))
            .with("memory", kib(boot))
            .with("unit", "KiB");
        match (child(root, "cpu"), at(root, &["cpu", "numa"])) {
            (_, Some(numa)) => edits.append(numa, cell),
            (Some(cpu), None) => edits.append(cpu, Fragment::holding("numa", vec![cell])),
            (None, None) => {
                let cpu = Fragment::holding("cpu", vec![Fragment::holding("numa", vec![cell])]);
                let before = child(root, "features").or(child(root, "os"));
                edits.insert_after(before.unwrap_or_else(|| super::anchor(root)), &cpu);
            }
        }
        said.changes.push(format!(
            "One NUMA cell with all {} vCPUs and the {boot} of boot memory: libvirt adds memory only to a machine with \
             cells, and guests such as Windows look for new memory only then.",
            vcpus.max
        ));
        let nodes = child(root, "devices").into_iter().flat_map(|devices| children(devices, "memory"));
        for (node, device) in nodes.zip(&case.domain.memory_devices) {
            if device.model.has_node() && device.node.is_none() {
                if let Some(target) = child(node, "target") {
                    edits.append(target, Fragment::text("node", 0));
                }
                said.changes.push(format!(
                    "The {} of {} belongs to that cell.",
                    device.model.word(),
                    device.size
                ));
            }
        }
    }

    pub(super) fn is_in(&self, domain: &Domain, case: &Case<'_>) -> bool {
        if !case.wants_memory() {
            return domain.memory.max == case.domain.memory.max;
        }
        domain.memory.max == self.max
            && !(self.new_cell && domain.cpu.cells.len() != 1)
            && self.device.as_ref().is_none_or(|device| device.is_in(domain))
    }
}

fn notes(case: &Case<'_>, max: MaxMemory, said: &mut Said) {
    let memory = &case.domain.memory;
    if let Some(limit) = memory.hard_limit.filter(|limit| *limit < max.size) {
        said.notes.push(format!(
            "<hard_limit> is {limit}, below the ceiling: libvirt never raises it, and the host kills QEMU above it. Raise \
             it before the machine grows."
        ));
    }
    if let Some(page) = memory.backing.hugepages.first() {
        let size = page.size.map_or("the host's default size".to_owned(), |size| size.to_string());
        said.notes.push(format!(
            "The machine's memory is huge pages of {size}: it grows by multiples of that, and only while the host has \
             such pages free."
        ));
    }
    if memory.backing.locked || case.domain.backends.vfio > 0 {
        said.notes.push(
            "Memory of this machine is pinned on the host: each DIMM takes its whole size at once."
                .to_owned(),
        );
    }
    if case.domain.backends.vhost_user > 0 {
        said.notes.push(
            "The machine has vhost-user devices, whose processes may take as few as 8 memory regions: grow it by few, \
             large DIMMs, or by virtio-mem."
                .to_owned(),
        );
    }
    for device in case.domain.memory_devices.iter().filter(|device| device.model.takes_slot()) {
        let (live, boot) =
            (as_attached(device.size, case.is_ppc64()), as_booted(device.size, case.is_ppc64()));
        if device.size != boot || live != boot {
            said.notes.push(format!(
                "The {} of {} is no whole number of 2 MiB: libvirt makes {boot} of it at boot and {live} when it is \
                 attached live, and keeps the old number here.",
                device.model.word(),
                device.size
            ));
        }
    }
}
