mod guest_side;

use super::*;
use crate::doctor::is_ready;
use crate::observed::{
    Accel, AutoOnline, Backing, Balloon, Dimm, DimmKind, Filled, Guest, Known, Machine, Manager, MemInfo,
    Memory, Node, VcpuProps, VcpuSlot, VcpuState, Vcpus, Version, VirtioMem,
};
use crate::time::Moment;

const AGENT: [&str; 11] = [
    "guest-get-memory-blocks",
    "guest-get-memory-block-info",
    "guest-set-memory-blocks",
    "guest-get-vcpus",
    "guest-set-vcpus",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-file-close",
    "guest-exec",
    "guest-exec-status",
];

fn slot(state: VcpuState) -> VcpuSlot {
    let props = VcpuProps { socket_id: Some(0), ..VcpuProps::default() };
    VcpuSlot { driver: "host-x86_64-cpu".to_owned(), count: 1, props, state, name: None, ost: None }
}

fn seen() -> Observed {
    let states =
        [VcpuState::Boot, VcpuState::Device("supple-cpu1".to_owned()), VcpuState::Free, VcpuState::Free];
    Observed {
        at: Moment::from_unix_millis(0),
        machine: Machine {
            kind: "pc-q35-9.0".to_owned(),
            arch: "x86_64".to_owned(),
            qemu: Version(9, 0, 0),
            accel: Accel::Kvm,
            state: "running".to_owned(),
            ..Machine::default()
        },
        memory: Memory {
            boot: Bytes::gib(2),
            ceiling: Bytes::gib(16),
            slots: 16,
            alignment: Bytes::mib(2),
            balloon: Some(Balloon { actual: Bytes::gib(3), stats: None }),
            dimms: vec![Dimm {
                id: "supple-dimm0".to_owned(),
                memdev: "supple-mem0".to_owned(),
                kind: DimmKind::Dimm,
                slot: 0,
                node: 0,
                addr: 1 << 32,
                size: Bytes::gib(1),
                hotplugged: true,
                ost: None,
            }],
            nodes: vec![Node { id: 0, memory: Bytes::gib(3) }],
            ..Memory::default()
        },
        vcpus: Vcpus { slots: states.map(slot).to_vec(), ..Vcpus::default() },
        guest: Guest::Heard(Box::new(GuestFacts {
            agent_version: "9.0".to_owned(),
            commands: AGENT.map(str::to_owned).into_iter().collect(),
            kernel: Some("6.1.0".to_owned()),
            block: Some(Bytes::mib(128)),
            meminfo: Some(MemInfo { total: Bytes::gib(3), available: Bytes::gib(2), free: Bytes::gib(2) }),
            auto_online: Some(AutoOnline::Online),
            ..GuestFacts::default()
        })),
        host: crate::observed::Host { available: Some(Bytes::gib(64)), ..Default::default() },
        pending: Vec::new(),
        power: Known::default(),
        disks: Known::default(),
        nics: Known::default(),
    }
}

fn shape() -> Shape {
    Shape {
        arch: "x86_64".to_owned(),
        machine: "pc-q35-9.0".to_owned(),
        board: Board::Pluggable,
        acpi: Some(true),
        firmware: Firmware::Bios,
        boot: Bytes::gib(2),
        ceiling: Some(Bytes::gib(16)),
        slots: 16,
        nodes: Some(1),
        virtio_mem: vec![Region { max: Bytes::gib(4), block: Some(Bytes::mib(2)) }],
        balloon: true,
        vcpus: 2,
        max_vcpus: 4,
        vcpu_hotplug: true,
        removable_vcpus: 1,
        channel: Channel::Of("unix".to_owned()),
        ..Shape::default()
    }
}

fn debian(version: &str) -> System {
    System::of_agent("debian", version, &format!("Debian GNU/Linux {version}"), "x86_64")
}

fn inside() -> Inside {
    let text = "CONFIG_MEMORY_HOTPLUG=y\nCONFIG_MEMORY_HOTREMOVE=y\nCONFIG_ACPI_HOTPLUG_MEMORY=y\nCONFIG_HOTPLUG_CPU=y\n\
                CONFIG_ACPI_HOTPLUG_CPU=y\nCONFIG_VIRTIO_MEM=m\nCONFIG_VIRTIO_BALLOON=m\n";
    let rule = "SUBSYSTEM==\"cpu\", ACTION==\"add\", ATTR{online}==\"0\", ATTR{online}=\"1\"\n";
    Inside {
        system: Some(debian("12")),
        options: Some((Options::read(text), "/boot/config-6.1.0".to_owned())),
        command_line: Some(CommandLine::read("quiet")),
        rules: Some(vec![RuleFile {
            path: "/etc/udev/rules.d/80-supple-hotplug.rules".to_owned(),
            text: rule.to_owned(),
        }]),
        udev_runs: Some(true),
        online_policy: Some("auto-movable".to_owned()),
        ..Inside::default()
    }
}

fn on_libvirt() -> Called {
    let domain = Some(("qemu:///system".to_owned(), "web1".to_owned()));
    Called { vm: "web1".to_owned(), agent: None, domain }
}

fn on_qemu() -> Called {
    Called { vm: "qmp:/q".to_owned(), agent: Some("/a".to_owned()), domain: None }
}

/// A machine with everything.
fn good() -> VmFacts {
    let running = Running { seen: seen(), shape: shape(), inside: inside() };
    VmFacts { called: on_libvirt(), running: Some(running), next: Some(shape()), limits: Limits::default() }
}

fn changed(change: impl FnOnce(&mut Running)) -> VmFacts {
    let mut facts = good();
    change(facts.running.as_mut().unwrap());
    facts.next = None;
    facts
}

fn guest(running: &mut Running) -> &mut GuestFacts {
    match &mut running.seen.guest {
        Guest::Heard(facts) => facts,
        Guest::Unheard(_) => panic!("it was heard"),
    }
}

fn find(facts: &VmFacts, subject: &str) -> Option<Finding> {
    vm(facts).into_iter().find(|finding| finding.subject == subject)
}

fn about(facts: &VmFacts, subject: &str) -> Finding {
    find(facts, subject).unwrap_or_else(|| panic!("nothing about {subject}: {:#?}", vm(facts)))
}

fn severity(facts: &VmFacts, subject: &str) -> Severity {
    about(facts, subject).severity
}

fn mend(facts: &VmFacts, subject: &str) -> String {
    about(facts, subject).mend.unwrap_or_else(|| panic!("{subject} has no mend")).text().to_owned()
}

#[test]
fn a_machine_with_everything_is_ready() {
    let found = vm(&good());
    assert!(is_ready(&found), "{found:#?}");
    let notes: Vec<&str> = found.iter().filter(|f| f.severity == Severity::Note).map(|f| f.subject).collect();
    assert_eq!(notes, ["guest-system"], "that Debian's DIMMs may not come out is the one thing to know");
}

/// Machines with one thing wrong each, and some with much.
fn many() -> Vec<VmFacts> {
    let mut all = vec![
        good(),
        VmFacts { running: None, ..good() },
        VmFacts { running: None, next: Some(Shape::default()), ..good() },
        VmFacts { called: on_qemu(), next: None, ..good() },
        changed(|r| r.shape = Shape::default()),
        changed(|r| r.inside = Inside::default()),
        changed(|r| r.seen.guest = Guest::Unheard("silent".to_owned())),
        changed(|r| guest(r).commands.clear()),
        changed(|r| r.seen.machine.state = "paused".to_owned()),
        changed(|r| r.seen.memory.backing = Backing::Unknown("memory-backend-epc".to_owned())),
        changed(|r| r.inside.system = Some(System::of_agent("freebsd", "14.2", "FreeBSD 14.2", "x86_64"))),
        changed(|r| {
            r.inside.system = Some(System::of_agent("mswindows", "2019", "Windows Server 2019", "x86_64"));
        }),
    ];
    for called in [on_qemu(), on_libvirt()] {
        let bare =
            Shape { vcpus: 1, max_vcpus: 1, vcpu_hotplug: true, boot: Bytes::gib(1), ..Shape::default() };
        all.push(VmFacts { called, running: None, next: Some(bare), limits: Limits::default() });
    }
    all
}

#[test]
fn what_is_in_the_way_has_a_reason_and_something_that_mends_it() {
    for facts in many() {
        let found = vm(&facts);
        for finding in &found {
            assert!(finding.severity == Severity::Ok || !finding.reason.is_empty(), "{finding:?}");
            assert!(!finding.is_in_the_way() || finding.mend.is_some(), "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
    }
}

#[test]
fn a_machine_has_one_finding_of_each_subject_and_sections_stand_together() {
    for facts in many() {
        let found = vm(&facts);
        assert!(found.windows(2).all(|pair| pair[0].section <= pair[1].section));
        let mut subjects: Vec<&str> = found.iter().map(|finding| finding.subject).collect();
        subjects.sort_unstable();
        subjects.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
    }
}

#[test]
fn without_a_ceiling_the_next_start_is_prepared() {
    let facts = changed(|r| r.shape = Shape { ceiling: None, slots: 0, virtio_mem: Vec::new(), ..shape() });
    assert_eq!(severity(&facts, "memory-ceiling"), Severity::Missing);
    assert_eq!(mend(&facts, "memory-ceiling"), "supple prepare web1 --max-memory 8G --slots 16");
    let plain = VmFacts { called: on_qemu(), ..facts };
    assert!(mend(&plain, "memory-ceiling").contains("-m 2G,slots=16,maxmem=8G"));
    assert_eq!(find(&plain, "guest-numa"), None, "of a machine that cannot grow no more is said");
}

#[test]
fn what_the_definition_has_already_is_not_prepared_again() {
    let mut facts = good();
    facts.running.as_mut().unwrap().shape.ceiling = None;
    let finding = about(&facts, "memory-ceiling");
    assert_eq!(finding.severity, Severity::Missing);
    assert!(finding.reason.contains("its next start has it"), "{finding:?}");
    assert!(finding.mend.unwrap().text().starts_with("virsh -c qemu:///system shutdown web1"));
}

#[test]
fn what_the_next_start_loses_is_told_before() {
    let facts = VmFacts { next: Some(Shape { max_vcpus: 2, ..shape() }), ..good() };
    let finding = about(&facts, "vcpu-ceiling");
    assert_eq!(finding.severity, Severity::Note, "it works until then");
    assert!(finding.reason.starts_with("its next start loses it: 2 of at most 2"), "{finding:?}");
    assert_eq!(finding.mend.unwrap().text(), "supple prepare web1 --max-vcpus 8");
}

#[test]
fn a_machine_that_does_not_run_is_judged_by_its_definition() {
    let facts = VmFacts { running: None, next: Some(Shape { ceiling: None, ..shape() }), ..good() };
    assert_eq!(severity(&facts, "memory-ceiling"), Severity::Missing);
    assert_eq!(reach(&facts), None);
    assert_eq!(find(&facts, "agent"), None);
}

#[test]
fn several_preparations_are_one_command() {
    let bare = Shape { ceiling: None, slots: 0, max_vcpus: 2, channel: Channel::Absent, ..shape() };
    let facts = VmFacts { running: None, next: Some(bare), ..good() };
    let all = preparation(&facts, &vm(&facts));
    assert_eq!(all.as_deref(), Some("supple prepare web1 --max-memory 8G --slots 16 --max-vcpus 8"));
    assert_eq!(preparation(&good(), &vm(&good())), None);
}

#[test]
fn boards_without_hot_plug_and_without_acpi_are_missing_it() {
    let facts = changed(|r| {
        r.shape = Shape { board: Board::Fixed, vcpu_hotplug: false, acpi: Some(false), ..shape() }
    });
    for subject in ["machine-type", "acpi", "vcpu-ceiling"] {
        assert_eq!(severity(&facts, subject), Severity::Missing, "{subject}");
    }
    let power = changed(|r| r.shape = Shape { arch: "ppc64".to_owned(), acpi: Some(false), ..shape() });
    assert_eq!(severity(&power, "acpi"), Severity::Ok, "POWER needs none");
}

#[test]
fn arm64_plugs_no_vcpus_and_nothing_mends_that() {
    let facts = changed(|r| r.shape = Shape { arch: "aarch64".to_owned(), vcpu_hotplug: false, ..shape() });
    let finding = about(&facts, "vcpu-ceiling");
    assert_eq!(finding.severity, Severity::Note);
    assert!(finding.reason.contains("arm64"), "{finding:?}");
}

#[test]
fn secure_firmware_must_agree_to_vcpus() {
    let facts = changed(|r| r.shape.firmware = Firmware::UefiSecure);
    assert_eq!(severity(&facts, "firmware"), Severity::Note);
}

#[test]
fn addresses_that_the_cpu_does_not_reach_are_a_danger_of_the_next_start() {
    let space = Some(Space { end: Bytes::gib(2048), bits: 40, fits: false });
    let facts = VmFacts { running: None, next: Some(Shape { space, ..shape() }), ..good() };
    assert_eq!(severity(&facts, "address-space"), Severity::Danger);
}

#[test]
fn few_free_slots_are_noted_and_none_is_missing() {
    let with = |slots: u32| {
        changed(|r| {
            r.seen.memory.slots = slots;
            r.shape.virtio_mem.clear();
        })
    };
    assert_eq!(severity(&with(16), "free-slots"), Severity::Ok);
    assert_eq!(severity(&with(3), "free-slots"), Severity::Note);
    assert_eq!(severity(&with(1), "free-slots"), Severity::Missing);
}

#[test]
fn reach_follows_slots_devices_and_the_guests_system() {
    let reach_of = |facts: &VmFacts| reach(facts).unwrap();
    let all = reach_of(&good());
    assert_eq!(all.memory, Span { now: Bytes::gib(3), least: Bytes::gib(2), most: Bytes::gib(16) });
    assert_eq!(all.vcpus, Span { now: 2, least: 1, most: 4 });
    let windows = System::of_agent("mswindows", "2022", "Windows Server 2022", "x86_64");
    let never_back = reach_of(&changed(|r| r.inside.system = Some(windows)));
    assert_eq!((never_back.memory.least, never_back.vcpus.least), (Bytes::gib(3), 2));
    let full = reach_of(&changed(|r| r.seen.memory.slots = 1));
    assert_eq!(full.memory.most, Bytes::gib(3));
    let device = VirtioMem {
        id: "vm0".to_owned(),
        node: 0,
        addr: 1 << 33,
        block: Bytes::mib(2),
        max: Bytes::gib(4),
        requested: Bytes::gib(1),
        size: Bytes::gib(1),
    };
    let by_device = reach_of(&changed(|r| {
        r.seen.memory.slots = 1;
        r.seen.memory.virtio_mem.push(device);
    }));
    assert_eq!(by_device.memory, Span { now: Bytes::gib(4), least: Bytes::gib(2), most: Bytes::gib(7) });
}

#[test]
fn vfio_with_little_memory_to_lock_is_a_danger_on_plain_qemu_alone() {
    let with = |left: Option<Bytes>, manager: Manager| {
        changed(|r| {
            r.seen.host.vfio = true;
            r.seen.host.qemu_pid = Some(42);
            r.seen.host.memlock_headroom = left;
            r.seen.machine.manager = manager;
        })
    };
    let tight = with(Some(Bytes::mib(8)), Manager::Nobody);
    assert_eq!(severity(&tight, "vfio"), Severity::Danger);
    assert_eq!(mend(&tight, "vfio"), "prlimit --pid 42 --memlock=unlimited");
    assert_eq!(severity(&with(Some(Bytes::gib(64)), Manager::Nobody), "vfio"), Severity::Ok);
    assert_eq!(severity(&with(Some(Bytes::mib(8)), Manager::Libvirt), "vfio"), Severity::Note);
}

#[test]
fn limits_below_the_ceiling_are_told() {
    let hard = changed(|r| r.shape.hard_limit = Some(Bytes::gib(4)));
    assert_eq!(severity(&hard, "hard-limit"), Severity::Note);
    assert!(mend(&hard, "hard-limit").starts_with("virsh -c qemu:///system memtune web1"));
    let cgroup = changed(|r| r.seen.host.cgroup_headroom = Some(Bytes::gib(1)));
    assert_eq!(severity(&cgroup, "cgroup-limit"), Severity::Danger);
}

#[test]
fn vhost_regions_and_huge_pages_bound_what_can_be_added() {
    let few = changed(|r| r.seen.host.vhost_regions = Some(8));
    assert_eq!(severity(&few, "vhost-regions"), Severity::Note);
    let pages = changed(|r| {
        let path = "/dev/hugepages".to_owned();
        r.seen.memory.backing = Backing::Hugepages { path, page: Bytes::mib(2), share: false };
        let (free, promised) = (Bytes::ZERO, Bytes::ZERO);
        let pool = crate::observed::MemoryPool { node: None, page: Some(Bytes::mib(2)), free, promised };
        r.seen.host.pools.push(pool);
    });
    assert_eq!(severity(&pages, "backing"), Severity::Missing);
    assert!(mend(&pages, "backing").contains("hugepages-2048kB"));
}

#[test]
fn a_removed_vcpu_is_a_danger_to_an_emulated_old_qemu_alone() {
    let with = |accel: Accel, qemu: Version| {
        changed(|r| {
            r.seen.vcpus.removed_before = true;
            (r.seen.machine.accel, r.seen.machine.qemu) = (accel, qemu);
        })
    };
    assert_eq!(severity(&with(Accel::Tcg, Version(7, 2, 0)), "emulated-vcpu-removal"), Severity::Danger);
    assert_eq!(find(&with(Accel::Tcg, Version(10, 0, 0)), "emulated-vcpu-removal"), None);
    assert_eq!(find(&with(Accel::Kvm, Version(7, 2, 0)), "emulated-vcpu-removal"), None);
}

#[test]
fn what_an_emulated_qemu_has_used_up_is_told() {
    let with = |accel: Accel, times: u32, one_thread: bool| {
        changed(|r| {
            let props = r.seen.vcpus.slots.iter().find(|s| !s.state.is_taken()).expect("a free place").props;
            r.seen.vcpus.filled = vec![Filled { id: "supple-vcpu0".to_owned(), props, times }];
            (r.seen.machine.accel, r.seen.vcpus.one_thread) = (accel, one_thread);
        })
    };
    assert_eq!(severity(&with(Accel::Tcg, 1, false), "emulated-vcpus"), Severity::Note);
    assert_eq!(find(&with(Accel::Tcg, 0, false), "emulated-vcpus"), None);
    assert_eq!(find(&with(Accel::Kvm, 1, true), "emulated-vcpus"), None);
    assert_eq!(severity(&with(Accel::Tcg, 0, true), "emulated-on-one-thread"), Severity::Note);
    assert_eq!(find(&with(Accel::Kvm, 0, true), "emulated-on-one-thread"), None);
}
