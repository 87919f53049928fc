//! Machines for planning tests: a plain one, and what can be changed about it.

use scale::observed::*;
use scale::time::Moment;
use scale::units::Bytes;

/// A PC with 1 GiB of boot memory, 16 slots and a ceiling of 17 GiB, 1 of 4 vCPUs, and an agent that may do all.
pub(crate) fn machine() -> Observed {
    Observed {
        at: Moment::from_unix_millis(1_000_000),
        machine: Machine {
            kind: "pc-q35-7.2".into(),
            arch: "x86_64".into(),
            qemu: Version(7, 2, 22),
            accel: Accel::Kvm,
            state: "running".into(),
            ..Machine::default()
        },
        memory: Memory {
            boot: Bytes::gib(1),
            ceiling: Bytes::gib(17),
            slots: 16,
            alignment: Bytes::mib(2),
            nodes: vec![Node { id: 0, memory: Bytes::gib(1) }],
            ..Memory::default()
        },
        vcpus: Vcpus { slots: (0..4).map(vcpu_slot).collect(), ..Vcpus::default() },
        power: Known::default(),
        disks: Known::default(),
        nics: Known::default(),
        guest: Guest::Heard(Box::new(guest_facts())),
        host: Host::default(),
        pending: Vec::new(),
    }
}

fn vcpu_slot(n: u32) -> VcpuSlot {
    VcpuSlot {
        driver: "qemu64-x86_64-cpu".into(),
        count: 1,
        props: VcpuProps { socket_id: Some(n), core_id: Some(0), thread_id: Some(0), ..VcpuProps::default() },
        state: if n == 0 { VcpuState::Boot } else { VcpuState::Free },
        ost: None,
        name: None,
    }
}

fn guest_facts() -> GuestFacts {
    let commands = [
        "guest-get-memory-blocks",
        "guest-set-memory-blocks",
        "guest-get-memory-block-info",
        "guest-get-vcpus",
        "guest-set-vcpus",
        "guest-file-open",
        "guest-file-write",
        "guest-file-close",
    ];
    GuestFacts {
        commands: commands.into_iter().map(str::to_owned).collect(),
        block: Some(Bytes::mib(128)),
        blocks: (0..8).map(|index| MemBlock { index, online: true }).collect(),
        vcpus: vec![GuestVcpu { id: 0, online: true, can_offline: false }],
        meminfo: Some(MemInfo { total: Bytes::mib(960), available: Bytes::mib(800), free: Bytes::mib(700) }),
        auto_online: Some(AutoOnline::Offline),
        ..GuestFacts::default()
    }
}

/// The same machine, kept by libvirt.
pub(crate) fn in_libvirt(mut seen: Observed) -> Observed {
    seen.machine.manager = Manager::Libvirt;
    seen.memory.unused_backends.clear();
    for (number, slot) in (0..).zip(&mut seen.vcpus.slots) {
        slot.name = Some(format!("vcpu{number}"));
    }
    seen
}

/// The agent's facts, to be changed.
pub(crate) fn facts(seen: &mut Observed) -> &mut GuestFacts {
    match &mut seen.guest {
        Guest::Heard(facts) => facts,
        Guest::Unheard(why) => panic!("no agent: {why}"),
    }
}

/// Plugs a DIMM behind all others, with its blocks online in the guest.
pub(crate) fn with_dimm(mut seen: Observed, id: &str, size: Bytes, node: u32) -> Observed {
    let end = |d: &Dimm| d.addr + d.size.get();
    let addr = seen.memory.dimms.iter().map(end).max().unwrap_or(0x1_0000_0000);
    let slot = seen.memory.free_slots()[0];
    let dimm = Dimm {
        id: id.into(),
        memdev: format!("mem-{id}"),
        kind: DimmKind::Dimm,
        slot,
        node,
        addr,
        size,
        hotplugged: true,
        ost: None,
    };
    if let Guest::Heard(facts) = &mut seen.guest {
        let range = dimm.blocks(Bytes::mib(128));
        facts.blocks.extend(range.map(|index| MemBlock { index, online: true }));
        if let Some(info) = &mut facts.meminfo {
            info.total = info.total + size;
            info.available = info.available + size;
        }
    }
    if let Some(n) = seen.memory.nodes.iter_mut().find(|n| n.id == node) {
        n.memory = n.memory + size;
    }
    let at = seen.memory.dimms.partition_point(|d| d.slot < slot);
    seen.memory.dimms.insert(at, dimm);
    seen
}

/// Adds an empty virtio-mem device.
pub(crate) fn with_virtio_mem(mut seen: Observed, id: &str, max: Bytes, node: u32) -> Observed {
    let addr = 0x100_0000_0000 * (1 + seen.memory.virtio_mem.len() as u64);
    seen.memory.virtio_mem.push(VirtioMem {
        id: id.into(),
        node,
        addr,
        block: Bytes::mib(2),
        max,
        requested: Bytes::ZERO,
        size: Bytes::ZERO,
    });
    seen.memory.ceiling = seen.memory.ceiling + max;
    seen
}
