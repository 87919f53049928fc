//! What the driver makes of QEMU's side.

use drive::{Hypervisor, ObserveError};
use scale::observed::{
    Accel, Backend, Backing, DimmKind, HostPolicy, Life, Node, Observed, Ost, OtherDevice, Placement,
    VcpuProps, VcpuState, Version,
};
use scale::plan::Sizes;
use scale::units::Bytes;
use serde_json::{Value, json};

use crate::fake::{I440FX, Party, Q35, TEN, Table, no, open, yes};

async fn observed(table: Table) -> Result<Observed, ObserveError> {
    open(&Party::play(table), None).await.observe().await
}

async fn seen(table: Table) -> Observed {
    observed(table).await.expect("observed")
}

#[tokio::test]
async fn a_machine_with_everything_is_read() {
    let Observed { machine, memory, vcpus, .. } = seen(Table::recorded(Q35)).await;
    assert_eq!(machine.name.as_deref(), Some("web1"));
    assert_eq!(machine.uuid.as_deref(), Some("11111111-2222-3333-4444-555555555555"));
    assert_eq!((machine.kind.as_str(), machine.arch.as_str()), ("pc-q35-7.2", "x86_64"));
    assert_eq!((machine.qemu, machine.accel), (Version(7, 2, 22), Accel::Tcg));
    assert_eq!((machine.state.as_str(), machine.busy.len()), ("prelaunch", 0));

    assert_eq!((memory.boot, memory.ceiling, memory.slots), (Bytes::gib(1), Bytes::gib(8), 4));
    assert_eq!((memory.alignment, &memory.backing), (Bytes::mib(2), &Backing::Ram));
    let dimms: Vec<_> =
        memory.dimms.iter().map(|d| (d.id.as_str(), d.memdev.as_str(), d.kind, d.slot, d.node)).collect();
    assert_eq!(
        dimms,
        [("nv0", "nv", DimmKind::Nvdimm, 0, 0), ("supple-dimm-0", "supple-mem-0", DimmKind::Dimm, 3, 1)]
    );
    assert!(memory.dimms[1].hotplugged && !memory.dimms[0].hotplugged);
    assert_eq!(memory.dimms[1].ost, None, "nobody has said anything of it");
    let device = &memory.virtio_mem[0];
    assert_eq!((device.id.as_str(), device.node, device.block), ("vm0", 1, Bytes::mib(2)));
    assert_eq!((device.max, device.requested, device.size), (Bytes::gib(1), Bytes::mib(256), Bytes::ZERO));
    assert_eq!(memory.balloon.map(|b| (b.actual, b.stats)), Some((Bytes::mib(1280), None)));
    assert_eq!(memory.unused_backends, [Backend { id: "supple-mem-1".into(), size: Bytes::mib(128) }]);
    assert_eq!(
        memory.nodes,
        [Node { id: 0, memory: Bytes::mib(512) }, Node { id: 1, memory: Bytes::mib(768) }]
    );

    let places: Vec<_> =
        vcpus.slots.iter().map(|s| (s.props.node_id, s.props.socket_id, s.props.core_id)).collect();
    let at = |n, core| (Some(n), Some(n), Some(core));
    assert_eq!(places, [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]);
    assert_eq!((vcpus.plugged(), vcpus.ceiling(), vcpus.removed_before), (2, 4, false));
    assert_eq!(vcpus.slots[3].driver, "qemu64-x86_64-cpu");
}

#[tokio::test]
async fn qemu_is_known_by_its_first_vcpu_s_thread() {
    let with = |threads: &[(u32, u32)]| {
        let list = threads.iter().map(|(index, thread)| json!({"cpu-index": index, "thread-id": thread}));
        seen(Table::recorded(Q35).with("query-cpus-fast", list.collect()))
    };
    let life = |thread| Some(Life { thread, started: None });
    let lone = with(&[(0, 7)]).await;
    assert_eq!((lone.machine.life, lone.vcpus.one_thread), (life(7), false));
    let many = with(&[(2, 9), (0, 7), (1, 8)]).await;
    assert_eq!((many.machine.life, many.vcpus.one_thread), (life(7), false));
    let shared = with(&[(0, 7), (1, 7)]).await;
    assert_eq!((shared.machine.life, shared.vcpus.one_thread), (life(7), true));
    assert_eq!(seen(Table::recorded(Q35)).await.machine.life, None, "this QEMU does not tell");
}

#[tokio::test]
async fn a_plain_machine_has_no_headroom_and_one_node() {
    let Observed { machine, memory, host, .. } = seen(Table::recorded(I440FX)).await;
    assert_eq!((machine.name, machine.uuid), (None, None));
    assert_eq!((memory.boot, memory.ceiling, memory.slots), (Bytes::mib(512), Bytes::mib(512), 0));
    assert_eq!((memory.balloon, &memory.backing), (None, &Backing::Ram));
    assert_eq!(memory.nodes, [Node { id: 0, memory: Bytes::mib(512) }]);
    assert_eq!(host.qemu_pid, None, "who answers here is no QEMU");
}

#[tokio::test]
async fn a_shared_memfd_and_a_topology_with_dies_are_read_from_qemu_10() {
    let Observed { machine, memory, vcpus, .. } = seen(Table::recorded(TEN)).await;
    assert_eq!((machine.name.as_deref(), machine.qemu), (Some("db"), Version(10, 0, 2)));
    assert_eq!((memory.ceiling, memory.slots), (Bytes::gib(2), 4));
    assert_eq!(memory.backing, Backing::SharedMemfd);
    let place = |die, core| VcpuProps {
        node_id: Some(0),
        socket_id: Some(0),
        die_id: Some(die),
        core_id: Some(core),
        thread_id: Some(0),
        ..VcpuProps::default()
    };
    let places: Vec<VcpuProps> = vcpus.slots.iter().map(|slot| slot.props).collect();
    assert_eq!(places, [place(0, 0), place(0, 1), place(1, 0), place(1, 1)]);
}

#[tokio::test]
async fn a_backend_that_a_device_of_another_kind_uses_is_not_unused() {
    let table = Table::recorded(&I440FX.replace("ivm\"", "supple-mem-9\"").replace("/ivm", "/supple-mem-9"));
    assert!(seen(table.clone()).await.memory.unused_backends.is_empty());
    let unlinked =
        table.with(r#"qom-get {"path":"/machine/peripheral-anon/device[0]","property":"memdev"}"#, json!(""));
    assert_eq!(seen(unlinked).await.memory.unused_backends.len(), 1, "the link alone made the difference");
}

#[tokio::test]
async fn before_qemu_7_1_the_ceiling_comes_from_the_region_and_the_slots_from_acpi() {
    let memory = r#"qom-get {"path":"/machine","property":"memory"}"#;
    let seen = seen(Table::recorded(Q35).version(6, 2).without(memory)).await.memory;
    assert_eq!((seen.boot, seen.ceiling, seen.slots), (Bytes::gib(1), Bytes::gib(8), 4));
}

#[tokio::test]
async fn a_qemu_that_knows_less_is_observed_as_far_as_it_tells() {
    let mut table = Table::recorded(Q35);
    for key in [
        "query-name",
        "query-uuid",
        "query-kvm",
        "query-target",
        "query-memdev",
        "query-hotpluggable-cpus",
        "query-acpi-ospm-status",
        "query-balloon",
        "query-migrate",
        r#"human-monitor-command {"command-line":"info numa"}"#,
        r#"qom-get {"path":"/machine","property":"type"}"#,
        r#"qom-get {"path":"/machine","property":"memory"}"#,
        r#"qom-get {"path":"/machine","property":"memory-backend"}"#,
        r#"qom-get {"path":"/machine","property":"device-memory-region-size"}"#,
        r#"qom-list {"path":"/objects"}"#,
        r#"qom-list {"path":"/machine/peripheral"}"#,
    ] {
        table = table.without(key);
    }
    let Observed { machine, memory, vcpus, .. } = seen(table).await;
    assert_eq!((machine.accel, machine.arch.as_str()), (Accel::Unknown, ""));
    assert_eq!((memory.boot, memory.ceiling, memory.slots), (Bytes::gib(1), Bytes::gib(1), 0));
    assert_eq!((memory.dimms.len(), memory.balloon), (2, None));
    assert_eq!(memory.nodes, [Node { id: 0, memory: memory.total() }]);
    assert!(vcpus.slots.is_empty() && memory.unused_backends.is_empty());
}

#[tokio::test]
async fn unknown_kinds_of_memory_devices_and_unknown_members_are_passed_over() {
    let devices = json!([
        {"type": "hv-balloon", "data": {"id": "hv", "memdev": "/objects/supple-mem-1", "max-size": 7}},
        {"type": "of-the-future", "data": {}},
        {"type": "dimm", "future": 1, "data": {"id": "d", "addr": 0, "size": 1 << 28, "slot": 1, "node": 0,
            "memdev": "/objects/m", "hotplugged": true, "hotpluggable": true, "future": {}}}]);
    let memory = seen(Table::recorded(Q35).with("query-memory-devices", devices)).await.memory;
    assert_eq!(memory.dimms.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), ["d"]);
    assert!(
        !memory.unused_backends.iter().any(|backend| backend.id == "supple-mem-1"),
        "an unknown device uses it"
    );
    assert_eq!(memory.others, [], "neither says where it is");
}

#[tokio::test]
async fn what_devices_of_other_kinds_hold_is_taken() {
    // Written after hw/hyperv/hv-balloon.c (10.0): no host here starts one. The second has no memory of its own.
    let devices = json!([
        {"type": "hv-balloon", "data":
            {"id": "hv", "memaddr": 8_u64 << 30, "memdev": "/objects/m", "max-size": 1 << 30}},
        {"type": "hv-balloon", "data": {"id": "empty", "max-size": 0}},
        {"type": "sgx-epc", "data": {"memaddr": 16_u64 << 30, "size": 1 << 26, "node": 0, "memdev": "/objects/e"}},
        {"type": "virtio-pmem", "data":
            {"id": "p", "memaddr": 4_u64 << 30, "size": 1 << 29, "memdev": "/objects/p"}}]);
    let memory = seen(Table::recorded(Q35).with("query-memory-devices", devices)).await.memory;
    let device = |kind: &str, gib: u64, size| OtherDevice { kind: kind.into(), addr: gib << 30, size };
    assert_eq!(
        memory.others,
        [device("virtio-pmem", 4, Bytes::mib(512)), device("hv-balloon", 8, Bytes::gib(1))]
    );
    assert_eq!(memory.headroom(), memory.ceiling - memory.boot - Bytes::mib(1536));
}

#[tokio::test]
async fn a_dimm_that_goes_while_the_machine_is_looked_at_is_not_taken_for_memory_in_the_balloon() {
    const DEVICES: &str = "query-memory-devices";
    let dimms = |slots: &[u64]| {
        let dimm = |slot: &u64| {
            json!({"type": "dimm", "data": {"id": format!("d{slot}"), "addr": (4 + slot) << 30, "size": 1 << 28,
                "slot": slot, "node": 0, "memdev": format!("/objects/m{slot}"), "hotplugged": true}})
        };
        Value::Array(slots.iter().map(dimm).collect())
    };
    let leaves = |bytes: Bytes| json!({ "actual": bytes.get() });
    let told = async |table: Table| {
        let qemu = Party::play(table);
        let seen = open(&qemu, None).await.observe().await.expect("observed");
        let asked = qemu.heard_names().iter().filter(|name| *name == DEVICES).count();
        (seen.memory.dimms.len(), Sizes::of(&seen).memory, asked)
    };
    let with = |actual: Bytes| Table::recorded(Q35).with("query-balloon", leaves(actual)).without(DEVICES);
    let both = |actual: Bytes| with(actual).then(DEVICES, yes(dimms(&[0, 1])));
    assert_eq!(told(both(Bytes::mib(1536))).await, (2, Bytes::mib(1536), 1), "the balloon holds nothing");
    assert_eq!(told(both(Bytes::mib(1280))).await, (2, Bytes::mib(1280), 2), "it holds that much");
    let one_goes = both(Bytes::mib(1280)).then(DEVICES, yes(dimms(&[1])));
    assert_eq!(told(one_goes).await, (1, Bytes::mib(1280), 2), "it looked as if it held that much");
    let all_go = both(Bytes::mib(1280)).then(DEVICES, yes(dimms(&[1]))).then(DEVICES, yes(dimms(&[])));
    let all_go = all_go.then("query-balloon", yes(leaves(Bytes::gib(1))));
    assert_eq!(told(all_go).await, (0, Bytes::gib(1), 3), "one after the other");
}

#[tokio::test]
async fn a_place_with_an_unknown_property_is_barred_and_not_mis_plugged() {
    let cpus = json!([
        {"type": "cpu", "vcpus-count": 1, "props": {"core-id": 1, "ring-id": 0}},
        {"type": "cpu", "vcpus-count": 1, "props": {"core-id": 0, "ring-id": 0}, "qom-path": "/machine/unattached/device[0]"}]);
    let vcpus = seen(Table::recorded(Q35).with("query-hotpluggable-cpus", cpus)).await.vcpus;
    assert_eq!((vcpus.plugged(), &vcpus.slots[0].state), (1, &VcpuState::Boot));
    assert!(matches!(&vcpus.slots[1].state, VcpuState::Barred(why) if why.contains("ring-id")), "{vcpus:?}");
}

#[tokio::test]
async fn a_slot_whose_vcpu_was_ejected_tells_of_the_removal() {
    // As QEMU 7.2 and Linux 6.1 leave it behind.
    let cpu = |slot: &str, source: u64, status: u64| json!({"slot-type": "CPU", "slot": slot, "source": source, "status": status});
    let with =
        |second: Value| Table::recorded(Q35).with("query-acpi-ospm-status", json!([cpu("0", 0, 0), second]));
    let vcpus = seen(with(cpu("1", 3, 0))).await.vcpus;
    assert!(vcpus.removed_before);
    assert_eq!(vcpus.slots[1].ost, Some(Ost { source: 3, status: 0 }), "{:?}", vcpus.slots);
    assert!(!seen(with(cpu("1", 3, 0x82))).await.vcpus.removed_before, "refused");
    assert!(!seen(with(cpu("1", 1, 0))).await.vcpus.removed_before, "plugged");
}

#[tokio::test]
async fn a_migration_occupies_the_machine_while_it_is_under_way() {
    let busy = async |status: &str| {
        seen(Table::recorded(Q35).with("query-migrate", json!({"status": status}))).await.machine.busy
    };
    assert_eq!(busy("active").await, ["a migration (active)"]);
    assert_eq!(busy("of-the-future").await.len(), 1, "rather careful");
    for over in ["none", "completed", "failed", "cancelled"] {
        assert!(busy(over).await.is_empty(), "{over}");
    }
}

#[tokio::test]
async fn backings_are_told_and_those_that_cannot_be_made_are_named() {
    let link = r#"qom-get {"path":"/machine","property":"memory-backend"}"#;
    let objects = |kind: &str| json!([{"name": "ram", "type": format!("child<{kind}>")}]);
    let ram = |kind: &str| {
        let table = Table::recorded(I440FX).with(link, json!("/objects/ram"));
        table.with(r#"qom-list {"path":"/objects"}"#, objects(kind))
    };
    let property = |name: &str| format!(r#"qom-get {{"path":"/objects/ram","property":"{name}"}}"#);
    let file = |share: bool| {
        let table = ram("memory-backend-file").with(&property("share"), json!(share));
        table.with(&property("mem-path"), json!("/dev/shm"))
    };
    let backing = async |table| seen(table).await.memory.backing;
    assert_eq!(backing(file(false)).await, Backing::Unknown("memory-backend-file at /dev/shm".into()));
    assert_eq!(backing(file(true)).await, Backing::SharedMemfd);
    let huge = ram("memory-backend-memfd").with(&property("hugetlb"), json!(true));
    let huge = huge.with(&property("hugetlbsize"), json!(1 << 30)).with(&property("share"), json!(true));
    assert_eq!(backing(huge.clone()).await, Backing::HugeMemfd { page: Bytes::gib(1), share: true });
    assert_eq!(seen(huge).await.memory.alignment, Bytes::gib(1));
    assert_eq!(backing(ram("memory-backend-epc")).await, Backing::Unknown("memory-backend-epc".into()));
}

#[tokio::test]
async fn memory_is_told_node_by_node_with_its_place_on_the_host() {
    let recorded = Table::recorded(Q35);
    let memdevs = json!([
        {"id": "ram-node1", "size": 1 << 29, "prealloc": true, "host-nodes": [1, 0], "policy": "bind"},
        {"id": "ram-node0", "size": 1 << 29, "prealloc": false, "host-nodes": [], "policy": "default"},
        {"id": "vm0mem", "size": 1 << 30, "prealloc": false, "host-nodes": [2], "policy": "preferred"}]);
    let objects = json!([
        {"name": "ram-node0", "type": "child<memory-backend-ram>"},
        {"name": "ram-node1", "type": "child<memory-backend-memfd>"},
        {"name": "vm0mem", "type": "child<memory-backend-ram>"}]);
    let table = recorded
        .with(r#"qom-get {"path":"/machine","property":"memory-backend"}"#, json!(""))
        .with("query-memdev", memdevs)
        .with(r#"qom-list {"path":"/objects"}"#, objects)
        .with(r#"qom-get {"path":"/objects/ram-node1","property":"share"}"#, json!(true));
    let memory = seen(table).await.memory;
    let placement = |policy, host_nodes, prealloc| Placement { policy, host_nodes, prealloc };
    assert_eq!(memory.source_of_node(0), (Backing::Ram, Placement::default()));
    let bound = placement(HostPolicy::Bind, vec![0, 1], true);
    assert_eq!(memory.source_of_node(1), (Backing::SharedMemfd, bound));
    let lender = placement(HostPolicy::Preferred, vec![2], false);
    assert_eq!(memory.source_of_device("vm0"), Some((Backing::Ram, lender)));
}

#[tokio::test]
async fn what_never_changes_is_asked_once() {
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, None).await;
    let first = machine.observe().await.expect("observed");
    qemu.heard();
    let second = machine.observe().await.expect("observed");
    let asked = qemu.heard_names();
    assert!(
        !asked.contains(&"query-uuid".to_owned()) && asked.contains(&"query-status".to_owned()),
        "{asked:?}"
    );
    assert_eq!((first.machine, first.memory, first.vcpus), (second.machine, second.memory, second.vcpus));
}

#[tokio::test]
async fn nonsense_is_an_error_that_names_the_command() {
    for (command, answer) in [
        ("query-status", json!(7)),
        ("query-memory-devices", json!({"a": 1})),
        ("query-memory-devices", json!([{"type": "dimm", "data": {"addr": -1}}])),
        ("query-memory-size-summary", json!({"base-memory": -5})),
        ("query-hotpluggable-cpus", json!([{"type": "c", "vcpus-count": 1, "props": {"core-id": "NaN"}}])),
        ("query-acpi-ospm-status", json!("\u{1b}[2J")),
    ] {
        let error = observed(Table::recorded(Q35).with(command, answer)).await.expect_err("nonsense");
        let ObserveError::Nonsense(why) = &error else { panic!("{error:?}") };
        assert!(why.contains(command) && !why.contains('\u{1b}'), "{why}");
    }
}

#[tokio::test]
async fn a_qemu_that_refuses_what_every_qemu_knows_cannot_be_observed() {
    let refusing =
        Table::recorded(Q35).without("query-memory-devices").then("query-memory-devices", no("not now"));
    let error = observed(refusing).await.expect_err("refused");
    assert!(matches!(&error, ObserveError::Unreachable(why) if why.contains("not now")), "{error:?}");
}
