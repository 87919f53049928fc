//! The shape of a machine by its libvirt description, of the running machine or of its next start.

use scale::doctor::vm::{Board, Channel, Firmware, Region, Shape, Space};
use scale::guests::System;
use scale::units::Bytes;

use crate::domxml::{self, Domain, HostLimits, MemoryModel, address_space};
use crate::wire::shown;

/// The shape that a description gives its machine.
pub fn shape_of(domain: &Domain, host: &HostLimits) -> Shape {
    let arch = domain.machine.arch.clone().unwrap_or_else(|| host.arch.clone());
    let max = domain.memory.max;
    let of = |model: MemoryModel| domain.memory_devices.iter().filter(move |device| device.model == model);
    let vcpus = &domain.vcpus;
    let cells = &domain.cpu.cells;
    let inside = |id: u32| cells.iter().any(|cell| cell.cpus.contains(id));
    let outside = if cells.is_empty() { 0 } else { (0..vcpus.max).filter(|id| !inside(*id)).count() };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let board = domain.machine.board(&arch);
    let balloon = domain.balloon.as_ref().is_some_and(|balloon| balloon.model != "none");
    Shape {
        machine: domain.machine.name.as_deref().map(shown).unwrap_or_default(),
        board: of_board(board, &domain.machine),
        acpi: Some(domain.machine.acpi),
        firmware: firmware(domain),
        boot: domain.memory.boot,
        ceiling: max.map(|max| max.size),
        slots: max.and_then(|max| max.slots).unwrap_or(0),
        nodes: (!cells.is_empty()).then(|| count(cells.len())),
        outside_nodes: count(outside),
        virtio_mem: of(MemoryModel::VirtioMem)
            .map(|device| Region { max: device.size, block: device.block })
            .collect(),
        balloon,
        vcpus: vcpus.current,
        max_vcpus: vcpus.max,
        vcpu_hotplug: plugs_vcpus(board),
        removable_vcpus: count(vcpus.each.iter().filter(|vcpu| vcpu.enabled && vcpu.hotpluggable).count()),
        channel: match &domain.agent {
            None => Channel::Absent,
            Some(agent) => Channel::Of(shown(&agent.kind)),
        },
        vfio: domain.backends.vfio > 0,
        vhost: domain.backends.vhost,
        vhost_user: domain.backends.vhost_user,
        vdpa: domain.backends.vdpa,
        hard_limit: domain.memory.hard_limit,
        confidential: domain.launch_security.as_deref().map(shown),
        locked: domain.memory.backing.locked,
        raw: domain.raw_arguments.iter().map(|argument| shown(argument)).collect(),
        space: address_space(domain, host).map(|space| Space {
            end: Bytes::new(space.end),
            bits: space.bits,
            fits: space.fits(),
        }),
        system: called_by_libosinfo(domain, &arch),
        arch,
    }
}

/// Who the guest is by its description.
pub fn called_by_libosinfo(domain: &Domain, arch: &str) -> Option<System> {
    System::of_libosinfo(&shown(domain.os.as_deref()?), arch)
}

/// What a machine type's name says. QEMU 2.1 brought memory hot-plug for x86, machine types from 4.2 on for Arm.
pub(super) fn of_board(board: domxml::Board, machine: &domxml::Machine) -> Board {
    match board {
        domxml::Board::Pc | domxml::Board::Q35 if machine.is_older_than(2, 1) => Board::TooOld,
        domxml::Board::Virt if machine.is_older_than(4, 2) => Board::TooOld,
        domxml::Board::Pc
        | domxml::Board::Q35
        | domxml::Board::Virt
        | domxml::Board::Pseries
        | domxml::Board::S390Ccw => Board::Pluggable,
        domxml::Board::Microvm | domxml::Board::Isapc => Board::Fixed,
        domxml::Board::Other => Board::Unknown,
    }
}

/// Arm's machine types have no vCPU hot-plug (QEMU 10.0), nor have microvm and isapc.
fn plugs_vcpus(board: domxml::Board) -> bool {
    match board {
        domxml::Board::Pc | domxml::Board::Q35 | domxml::Board::Pseries | domxml::Board::S390Ccw => true,
        domxml::Board::Virt | domxml::Board::Microvm | domxml::Board::Isapc | domxml::Board::Other => false,
    }
}

fn firmware(domain: &Domain) -> Firmware {
    let machine = &domain.machine;
    match (machine.uefi, machine.secure_firmware) {
        (_, true) => Firmware::UefiSecure,
        (true, false) => Firmware::Uefi,
        (false, false) => Firmware::Bios,
    }
}
