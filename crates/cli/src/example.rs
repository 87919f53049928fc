//! A machine as the tests of what is shown need it: q35, 1 GiB and one DIMM of 2 GiB half online, 3 of 4 vCPUs.

use scale::observed::{
    Accel, Balloon, Dimm, DimmKind, Disk, DiskBus, Guest, GuestDisk, GuestFacts, GuestVcpu, Host, IpRate,
    Known, Layer, LayerKind, Lies, Machine, MemBlock, MemInfo, Memory, Nic, Node, Observed, Pool, RateGrain,
    VcpuProps, VcpuSlot, VcpuState, Vcpus, Version,
};
use scale::plan::{Act, Asked, Basis, Plan, Proof, Sizes, Step, Strength, Zone};
use scale::report::{GuestSizes, Report, StepReport, Verdict};
use scale::run::Outcome;
use scale::setting::{
    BitRate, Burst, CpuPower, DiskIo, Iops, Millicpus, NicRate, Rate, Throttle, Throttles, Weight,
};
use scale::time::{Moment, Span};
use scale::units::Bytes;

/// When all of it happens: 2026-11-23 17:10:02.123 UTC.
pub(crate) const NOW: Moment = Moment::from_unix_millis(1_795_453_802_123);

pub(crate) fn text(lines: &str) -> String {
    anstream::adapter::strip_str(lines).to_string()
}

pub(crate) fn observed() -> Observed {
    Observed {
        at: NOW,
        machine: Machine {
            name: Some("web1".to_owned()),
            uuid: None,
            kind: "pc-q35-7.2".to_owned(),
            arch: "x86_64".to_owned(),
            qemu: Version(7, 2, 22),
            accel: Accel::Tcg,
            state: "running".to_owned(),
            busy: Vec::new(),
            manager: scale::observed::Manager::Nobody,
            life: None,
        },
        memory: Memory {
            boot: Bytes::gib(1),
            ceiling: Bytes::gib(8),
            slots: 16,
            alignment: Bytes::mib(2),
            dimms: vec![Dimm {
                id: "supple-dimm0".to_owned(),
                memdev: "supple-mem0".to_owned(),
                kind: DimmKind::Dimm,
                slot: 0,
                node: 0,
                addr: 0x1_0000_0000,
                size: Bytes::gib(2),
                hotplugged: true,
                ost: None,
            }],
            balloon: Some(Balloon { actual: Bytes::gib(3), stats: None }),
            nodes: vec![Node { id: 0, memory: Bytes::gib(3) }],
            ..Memory::default()
        },
        vcpus: Vcpus { slots: (0..4).map(slot).collect(), ..Vcpus::default() },
        power: Known::default(),
        disks: Known::default(),
        nics: Known::default(),
        guest: Guest::Heard(Box::new(guest())),
        host: Host { qemu_pid: Some(4242), available: Some(Bytes::gib(40)), ..Host::default() },
        pending: Vec::new(),
    }
}

fn slot(core: u32) -> VcpuSlot {
    VcpuSlot {
        driver: "qemu64-x86_64-cpu".to_owned(),
        count: 1,
        props: VcpuProps {
            socket_id: Some(0),
            core_id: Some(core),
            thread_id: Some(0),
            ..VcpuProps::default()
        },
        state: match core {
            0 => VcpuState::Boot,
            1 | 2 => VcpuState::Device(format!("supple-cpu{core}")),
            _ => VcpuState::Free,
        },
        ost: None,
        name: None,
    }
}

fn guest() -> GuestFacts {
    let boot = (0..8).map(|index| MemBlock { index, online: true });
    let dimm = (32..48).map(|index| MemBlock { index, online: index < 40 });
    GuestFacts {
        agent_version: "7.2.22".to_owned(),
        os: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        kernel: Some("6.1.0-44-amd64".to_owned()),
        block: Some(Bytes::mib(128)),
        blocks: boot.chain(dimm).collect(),
        vcpus: (0..3).map(|id| GuestVcpu { id, online: true, can_offline: id > 0 }).collect(),
        meminfo: Some(MemInfo {
            total: Bytes::new(2_013_412 << 10),
            available: Bytes::new(1_913_000 << 10),
            free: Bytes::new(1_900_000 << 10),
        }),
        ..GuestFacts::default()
    }
}

/// A machine in agreement with limited CPU power, a disk of 20 GiB with ext4 on its first partition, and a NIC of which
/// one address has a limit of its own.
pub(crate) fn furnished() -> Observed {
    let mut seen = in_agreement();
    let weight = Weight::new(200).expect("a weight");
    seen.power = Known::Is(CpuPower { limit: Some(Millicpus::new(2500)), weight });
    let average = BitRate::mbit(100);
    let rate = Some(Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) });
    let ip = "203.0.113.7".parse().expect("an address");
    seen.nics = Known::Is(vec![Nic {
        name: "52:54:00:00:00:01".to_owned(),
        aliases: vec!["net0".to_owned(), "eth0".to_owned()],
        tap: Some("vnet3".to_owned()),
        addresses: vec![ip],
        rate: Known::Is(NicRate::default()),
        ips: Known::Is(vec![IpRate { ip, rate: NicRate { to_guest: rate, from_guest: None } }]),
        grain: RateGrain::default(),
    }]);
    seen.disks = Known::Is(vec![disk()]);
    seen
}

fn disk() -> Disk {
    let steady = Iops::new(2000);
    let total = Some(Throttle { steady, burst: Some(Burst { to: Iops::new(4000), seconds: 10 }) });
    let filesystem = Layer {
        device: "/dev/vda1".to_owned(),
        kind: LayerKind::Filesystem { kind: "ext4".to_owned(), mount: Some("/".to_owned()) },
        size: Bytes::mib(19 * 1024 + 512),
        above: Vec::new(),
    };
    let partition = Layer {
        device: "/dev/vda1".to_owned(),
        kind: LayerKind::Partition { number: 1, start: Bytes::mib(1), table: "gpt".to_owned() },
        size: Bytes::gib(20) - Bytes::mib(2),
        above: vec![filesystem],
    };
    Disk {
        name: "vda".to_owned(),
        aliases: vec!["virtio-disk0".to_owned()],
        bus: DiskBus::Virtio,
        format: "qcow2".to_owned(),
        size: Bytes::gib(20),
        read_only: false,
        busy: Vec::new(),
        lies: Lies::File {
            path: "/var/lib/libvirt/images/web1.qcow2".to_owned(),
            taken: Bytes::gib(3),
            filesystem: Some(Pool { name: "/var".to_owned(), free: Bytes::gib(100) }),
        },
        io: Known::Is(DiskIo { iops: Throttles { total, ..Throttles::default() }, ..DiskIo::default() }),
        guest: Known::Is(GuestDisk {
            device: "/dev/vda".to_owned(),
            size: Bytes::gib(20),
            layers: vec![partition],
        }),
    }
}

/// The same where everything is online.
pub(crate) fn in_agreement() -> Observed {
    let mut seen = observed();
    if let Guest::Heard(facts) = &mut seen.guest {
        facts.blocks.iter_mut().for_each(|block| block.online = true);
    }
    seen
}

/// A plan from 1 GiB and 1 vCPU to 3 GiB and 2 vCPUs.
pub(crate) fn plan() -> Plan {
    let step = |group, act: Act, proof, strength, undo: &[Act]| Step {
        group,
        act,
        proof,
        strength,
        deadline: Span::secs(30),
        undo: undo.to_vec(),
    };
    let (id, memdev) = ("supple-dimm0".to_owned(), "supple-mem0".to_owned());
    let device = id.clone();
    let back = Act::DeleteBackend { memdev: memdev.clone() };
    let unplug = Act::UnplugDimm { id: id.clone(), memdev: memdev.clone(), slot: 0 };
    let offline = Act::OfflineBlocks { device: id.clone() };
    Plan {
        basis: Basis::of(&observed()),
        from: Sizes { memory: Bytes::gib(1), vcpus: 1 },
        asked: Asked { memory: Some(Bytes::gib(3)), vcpus: Some(2), ..Asked::default() },
        to: Sizes { memory: Bytes::gib(3), vcpus: 2 },
        steps: vec![
            step(
                1,
                Act::CreateBackend {
                    memdev: memdev.clone(),
                    size: Bytes::gib(2),
                    backing: Default::default(),
                    placement: Default::default(),
                },
                Proof::BackendExists { memdev: memdev.clone() },
                Strength::DeviceOnly,
                &[back],
            ),
            step(
                1,
                Act::PlugDimm { id: id.clone(), memdev, brings: None, slot: 0, node: 0, addr: None },
                Proof::DimmSeen { id },
                Strength::GuestConfirmed,
                &[unplug],
            ),
            step(
                1,
                Act::OnlineBlocks { device: device.clone(), zone: Zone::PreferMovable },
                Proof::BlocksOnline { device, whole: true },
                Strength::GuestConfirmed,
                &[offline],
            ),
            step(
                2,
                Act::PlugVcpu {
                    id: "supple-cpu1".to_owned(),
                    driver: "qemu64-x86_64-cpu".to_owned(),
                    props: VcpuProps::default(),
                },
                Proof::VcpuSeen { id: "supple-cpu1".to_owned(), present: 2 },
                Strength::DriverConfirmed,
                &[Act::UnplugVcpu { id: "supple-cpu1".to_owned() }],
            ),
        ],
        notes: vec!["boot memory and boot vCPUs stay".to_owned()],
        unmet: Vec::new(),
    }
}

/// How that plan ended.
pub(crate) fn report() -> Report {
    let ok = |act: &Act, strength| StepReport {
        act: act.to_string(),
        outcome: Outcome::Proven { strength, took: Span::millis(80) },
    };
    Report {
        began: NOW - Span::secs(200),
        took: Span::millis(900),
        from: Sizes { memory: Bytes::gib(1), vcpus: 1 },
        asked: Asked { memory: Some(Bytes::gib(3)), vcpus: Some(2), ..Asked::default() },
        achieved: Some(Sizes { memory: Bytes::gib(3), vcpus: 2 }),
        guest: GuestSizes {
            online: Some(Bytes::gib(3)),
            total: Some(Bytes::new(3_013_412 << 10)),
            vcpus: Some(2),
        },
        disks: Vec::new(),
        settings: Vec::new(),
        verdict: Verdict::Proven,
        strength: Some(Strength::GuestConfirmed),
        steps: plan().steps.iter().map(|s| ok(&s.act, s.strength)).collect(),
        held_back: Vec::new(),
        left_behind: Vec::new(),
        pending: Vec::new(),
    }
}

/// `web1` as libvirt keeps it and a doctor sees it: nothing more can be plugged, and nobody puts anything online.
pub(crate) fn examined() -> scale::doctor::vm::VmFacts {
    use scale::doctor::vm::{Board, Called, Channel, Inside, Running, Shape, VmFacts};

    let shape = Shape {
        arch: "x86_64".to_owned(),
        machine: "pc-q35-7.2".to_owned(),
        board: Board::Pluggable,
        acpi: Some(true),
        boot: Bytes::gib(1),
        balloon: true,
        vcpus: 3,
        max_vcpus: 3,
        vcpu_hotplug: true,
        channel: Channel::Of("unix".to_owned()),
        ..Shape::default()
    };
    let inside = Inside {
        system: Some(scale::guests::System::of_agent(
            "debian",
            "12",
            "Debian GNU/Linux 12 (bookworm)",
            "x86_64",
        )),
        rules: Some(Vec::new()),
        udev_runs: Some(true),
        ..Inside::default()
    };
    let mut seen = in_agreement();
    if let Guest::Heard(facts) = &mut seen.guest {
        facts.auto_online = Some(scale::observed::AutoOnline::Offline);
        for command in ["guest-set-memory-blocks", "guest-get-memory-blocks", "guest-get-memory-block-info"] {
            facts.commands.insert(command.to_owned());
        }
        for command in ["guest-get-vcpus", "guest-set-vcpus", "guest-file-open", "guest-file-read"] {
            facts.commands.insert(command.to_owned());
        }
        for command in ["guest-file-write", "guest-file-close"] {
            facts.commands.insert(command.to_owned());
        }
    }
    let domain = Some(("qemu:///system".to_owned(), "web1".to_owned()));
    VmFacts {
        called: Called { vm: "web1".to_owned(), agent: None, domain },
        running: Some(Running { seen, shape, inside }),
        next: None,
        limits: scale::limits::Limits::default(),
    }
}
