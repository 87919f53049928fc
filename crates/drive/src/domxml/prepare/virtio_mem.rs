//! A virtio-mem device: memory that grows and shrinks by small blocks, without slots.

use super::{Case, Obstacle, Said};
use crate::domxml::document::{child, children};
use crate::domxml::domain::{Domain, MaxMemory, MemoryDevice, MemoryModel};
use crate::domxml::edit::Edits;
use crate::domxml::fragment::Fragment;
use crate::domxml::machine::Board;
use crate::domxml::units::kib;
use roxmltree::Node;
use scale::observed::Version;
use scale::units::Bytes;

/// VFIO maps each block on its own and has 65,535 mappings for all devices of a machine (Linux 6.1,
/// `dma_entry_limit`); half of them are left to the rest.
const MOST_VFIO_BLOCKS: u64 = 32_768;

/// The device that the machine should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    size: Bytes,
    block: Bytes,
    node: u32,
    /// Which of the machine's memory devices it is already.
    pub(super) place: Option<usize>,
}

/// The device, if one is asked for, with everything but its size.
pub(super) fn wanted(case: &Case<'_>, obstacles: &mut Vec<Obstacle>) -> Option<Device> {
    let is_virtio_mem = |model: &MemoryModel| *model == MemoryModel::VirtioMem;
    let devices = &case.domain.memory_devices;
    let Some(want) = case.want.virtio_mem else {
        if case.board == Board::S390Ccw && !devices.iter().any(|device| is_virtio_mem(&device.model)) {
            obstacles.push(Obstacle::OnlyVirtioMem);
        }
        return None;
    };
    if let Some(why) = excluded(case) {
        obstacles.push(Obstacle::VirtioMemExcluded { why });
    }
    check_versions(case, obstacles);
    let nodes = u32::try_from(case.domain.cpu.cells.len()).unwrap_or(u32::MAX).max(1);
    if want.node >= nodes {
        obstacles.push(Obstacle::NoSuchNode { node: want.node, nodes });
    }
    let place = devices.iter().position(|d| is_virtio_mem(&d.model) && d.node.unwrap_or(0) == want.node);
    let has = place.map(|place| &devices[place]);
    let (least, why) = least_block(case, want.node);
    let block = want.block.or(has.and_then(|has| has.block)).unwrap_or(least);
    if !block.get().is_power_of_two() || block < least {
        obstacles.push(Obstacle::VirtioMemBlock { asked: block, least, why });
        return None;
    }
    let size = want.size.or(has.map(|has| has.size)).unwrap_or(Bytes::ZERO);
    Some(Device { size, block, node: want.node, place })
}

/// What the machine has that QEMU does not start with beside virtio-mem, or that takes its use.
fn excluded(case: &Case<'_>) -> Option<&'static str> {
    let domain = case.domain;
    if case.is_ppc64() {
        Some("on ppc64: QEMU has it for x86_64, aarch64 and s390x; leave it out and grow by DIMMs")
    } else if domain.memory.backing.locked {
        Some("beside <locked/>: QEMU refuses it with locked memory; take <locked/> out, or grow by DIMMs")
    } else if domain.backends.vdpa > 0 {
        Some(
            "beside a vDPA device, with which no memory can be given back; take the device out, or grow by DIMMs",
        )
    } else if domain.launch_security.is_some() {
        Some("in a machine with launch security, whose memory the host cannot take back; leave it out")
    } else {
        None
    }
}

fn check_versions(case: &Case<'_>, obstacles: &mut Vec<Obstacle>) {
    let (qemu, libvirt, least_qemu, least_libvirt) = match case.board {
        Board::S390Ccw => ("10.0", "11.1", Version(10, 0, 0), Version(11, 1, 0)),
        Board::Virt => ("7.0", "7.9", Version(7, 0, 0), Version(7, 9, 0)),
        Board::Pc | Board::Q35 | Board::Pseries | Board::Microvm | Board::Isapc | Board::Other => {
            ("5.1", "7.9", Version(5, 1, 0), Version(7, 9, 0))
        }
    };
    let older = |found: Option<Version>, least| found.is_some_and(|found| found < least);
    if older(case.host.qemu, least_qemu) || older(case.host.libvirt, least_libvirt) {
        let shown = |found: Option<Version>| found.map_or("an unknown version".to_owned(), |v| v.to_string());
        let found =
            format!("here are QEMU {} and libvirt {}", shown(case.host.qemu), shown(case.host.libvirt));
        obstacles.push(Obstacle::VirtioMemTooNew { qemu, libvirt, found });
    }
}

/// The smallest block: no smaller than the pages that the memory is made of (QEMU), nor than the host's transparent
/// huge pages (libvirt 9.0 and 11.3, `virDomainMemoryDefValidate`).
fn least_block(case: &Case<'_>, node: u32) -> (Bytes, &'static str) {
    let pages = &case.domain.memory.backing.hugepages;
    let page = pages
        .iter()
        .filter(|page| page.nodes.as_ref().is_none_or(|nodes| nodes.contains(node)))
        .filter_map(|page| page.size)
        .max();
    match page {
        Some(page) if page > case.host.huge_page => (page, "the machine's huge pages"),
        _ => (case.host.huge_page.max(Bytes::mib(1)), "the host's transparent huge pages"),
    }
}

/// What a device takes of the room beyond the size that is written: libvirt rounds those that have a file to 2 MiB when it
/// starts the machine (a virtio-pmem device with 11.3, not with 9.0).
fn beyond(device: &MemoryDevice) -> Bytes {
    match device.model {
        MemoryModel::Nvdimm | MemoryModel::VirtioPmem => device.size.round_up(Bytes::mib(2)) - device.size,
        MemoryModel::Dimm | MemoryModel::VirtioMem | MemoryModel::SgxEpc | MemoryModel::Other(_) => {
            Bytes::ZERO
        }
    }
}

/// The device with its size, in the room that the ceiling leaves.
pub(super) fn sized(
    case: &Case<'_>,
    device: Device,
    max: MaxMemory,
    obstacles: &mut Vec<Obstacle>,
) -> Option<Device> {
    let devices = &case.domain.memory_devices;
    let has = device.place.map(|place| &devices[place]);
    let others: Bytes =
        devices.iter().map(|other| other.size).sum::<Bytes>() - has.map_or(Bytes::ZERO, |has| has.size);
    let room = max.size.saturating_sub(case.domain.memory.boot + others);
    let chosen = case.want.virtio_mem.and_then(|want| want.block).is_some() || has.is_some();
    let block = if chosen || case.domain.backends.vfio == 0 {
        device.block
    } else {
        vfio_block(device.block, device.size, room)
    };
    let size = match device.size.is_zero() {
        true => room.saturating_sub(devices.iter().map(beyond).sum()).round_down(block),
        false => device.size,
    };
    let requested = has.and_then(|has| has.requested).unwrap_or(Bytes::ZERO);
    if size.is_zero() || size > room {
        obstacles.push(Obstacle::VirtioMemRoom { asked: size.max(block), room });
    } else if !size.is_multiple_of(block) {
        let (below, above) = (size.round_down(block), size.round_up(block));
        obstacles.push(Obstacle::VirtioMemSize { asked: size, block, below, above });
    } else if size < requested || !requested.is_multiple_of(block) {
        obstacles.push(Obstacle::VirtioMemRequested { requested: requested.round_up(block) });
    } else {
        return Some(Device { size, block, ..device });
    }
    None
}

/// A block so large that VFIO's mappings suffice.
fn vfio_block(least: Bytes, size: Bytes, room: Bytes) -> Bytes {
    let size = if size.is_zero() { room } else { size };
    let mut block = least;
    while size.count_of(block) > MOST_VFIO_BLOCKS {
        block = block.times(2);
    }
    block
}

impl Device {
    /// The new device, of which nothing is asked yet.
    pub(super) fn fragment(&self) -> Fragment {
        let amount = |name, size| Fragment::text(name, kib(size)).with("unit", "KiB");
        let target = Fragment::holding(
            "target",
            vec![
                amount("size", self.size),
                Fragment::text("node", self.node),
                amount("block", self.block),
                amount("requested", Bytes::ZERO),
            ],
        );
        Fragment::holding("memory", vec![target]).with("model", "virtio-mem")
    }

    /// Changes the device that is there, or makes room in the sums for the new one.
    pub(super) fn edit<'t, 'a>(
        &self,
        case: &Case<'_>,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let has = self.place.map(|place| &case.domain.memory_devices[place]);
        if has.is_some_and(|has| has.size == self.size && has.block == Some(self.block)) {
            return;
        }
        let size_before = has.map_or(Bytes::ZERO, |has| has.size);
        if let Some(place) = self.place {
            let target = child(root, "devices")
                .and_then(|devices| children(devices, "memory").nth(place))
                .and_then(|device| child(device, "target"));
            if let Some(target) = target {
                for (name, size) in [("size", self.size), ("block", self.block)] {
                    match child(target, name) {
                        Some(node) => edits.set_amount(node, size),
                        None => edits.append(target, Fragment::text(name, kib(size)).with("unit", "KiB")),
                    }
                }
            }
            said.changes.push(format!(
                "The virtio-mem device on node {} can give up to {}, in blocks of {}.",
                self.node, self.size, self.block
            ));
        } else {
            said.changes.push(format!(
                "A virtio-mem device on node {} that can give up to {}, in blocks of {}. It gives nothing until asked.",
                self.node, self.size, self.block
            ));
        }
        self.edit_sums(case, size_before, root, edits);
    }

    /// `<memory>` counts the device at its largest. `<currentMemory>` keeps what the guest has at boot: where it is
    /// missing, libvirt would take the new sum for it.
    fn edit_sums<'t, 'a>(
        &self,
        case: &Case<'_>,
        size_before: Bytes,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
    ) {
        let before = case.domain.total_memory();
        let Some(memory) = child(root, "memory") else { return };
        edits.set_amount(memory, before - size_before + self.size);
        if child(root, "currentMemory").is_none() {
            let current = Fragment::text("currentMemory", kib(before - size_before)).with("unit", "KiB");
            edits.insert_after(memory, &current);
        }
    }

    pub(super) fn is_in(&self, domain: &Domain) -> bool {
        domain.memory_devices.iter().any(|device| {
            device.model == MemoryModel::VirtioMem
                && device.node.unwrap_or(0) == self.node
                && device.size == self.size
                && device.block == Some(self.block)
        })
    }
}
