//! What each act sends to QEMU, and what its answers mean.

use drive::{ApplyError, Hypervisor};
use scale::observed::{Backing, HostPolicy, Placement, VcpuProps};
use scale::plan::Act;
use scale::time::Span;
use scale::units::Bytes;
use serde_json::{Value, json};

use crate::fake::{Answer, Party, Q35, Table, no, open};

const GIB: u64 = 1 << 30;

/// Every command is taken.
fn willing() -> Table {
    let mut table = Table::recorded(Q35);
    for command in ["object-add", "object-del", "device_add", "device_del", "qom-set", "balloon"] {
        table = table.with(command, json!({}));
    }
    table.with(r#"qom-get {"path":"/machine/peripheral/vm0","property":"requested-size"}"#, json!(GIB))
}

async fn apply(table: Table, act: Act) -> (Result<(), ApplyError>, Vec<(String, Value)>) {
    let qemu = Party::play(table);
    let mut machine = open(&qemu, None).await;
    let until = machine.now() + Span::secs(5);
    let result = machine.apply(&act, until).await;
    (result, qemu.heard())
}

/// What the act sends last, once it was taken.
async fn sent(act: Act) -> (String, Value) {
    let (result, mut heard) = apply(willing(), act).await;
    result.expect("taken");
    heard.pop().expect("something was sent")
}

fn create(backing: Backing) -> Act {
    Act::CreateBackend { memdev: "m".into(), size: Bytes::gib(1), backing, placement: Default::default() }
}

#[tokio::test]
async fn a_backend_is_made_as_boot_memory_is() {
    let object = async |backing| sent(create(backing)).await;
    let expect = |value: Value| ("object-add".to_owned(), value);
    assert_eq!(
        object(Backing::Ram).await,
        expect(json!({"qom-type": "memory-backend-ram", "id": "m", "size": GIB}))
    );
    assert_eq!(
        object(Backing::SharedMemfd).await,
        expect(json!({"qom-type": "memory-backend-memfd", "id": "m", "size": GIB, "share": true}))
    );
    let huge = Backing::Hugepages { path: "/dev/hugepages".into(), page: Bytes::mib(2), share: false };
    assert_eq!(
        object(huge).await,
        expect(json!({"qom-type": "memory-backend-file", "id": "m", "size": GIB,
            "mem-path": "/dev/hugepages", "share": false, "prealloc": true}))
    );
    let (result, heard) = apply(willing(), create(Backing::Unknown("a dax device".into()))).await;
    assert!(matches!(&result, Err(ApplyError::Refused(why)) if why.contains("a dax device")), "{result:?}");
    assert!(heard.is_empty(), "nothing was sent");
}

#[tokio::test]
async fn a_backend_lies_where_boot_memory_does() {
    let placement = Placement { policy: HostPolicy::Bind, host_nodes: vec![0, 1], prealloc: true };
    let act = |backing| Act::CreateBackend {
        memdev: "m".into(),
        size: Bytes::gib(1),
        backing,
        placement: placement.clone(),
    };
    assert_eq!(
        sent(act(Backing::Ram)).await.1,
        json!({"qom-type": "memory-backend-ram", "id": "m", "size": GIB, "prealloc": true, "policy": "bind",
            "host-nodes": [0, 1]})
    );
    let huge = Backing::HugeMemfd { page: Bytes::mib(2), share: true };
    assert_eq!(
        sent(act(huge)).await.1,
        json!({"qom-type": "memory-backend-memfd", "id": "m", "size": GIB, "hugetlb": true, "hugetlbsize": 2 << 20,
            "share": true, "prealloc": true, "policy": "bind", "host-nodes": [0, 1]})
    );
}

#[tokio::test]
async fn before_qemu_6_an_object_s_properties_are_nested() {
    let (result, heard) = apply(willing().version(5, 2), create(Backing::Ram)).await;
    result.expect("taken");
    assert_eq!(heard[0].1, json!({"qom-type": "memory-backend-ram", "id": "m", "props": {"size": GIB}}));
}

#[tokio::test]
async fn devices_are_plugged_and_unplugged_with_all_that_places_them() {
    let dimm =
        |addr| Act::PlugDimm { id: "d".into(), memdev: "m".into(), brings: None, slot: 3, node: 1, addr };
    let place = json!({"driver": "pc-dimm", "id": "d", "memdev": "m", "slot": 3, "node": 1});
    assert_eq!(sent(dimm(None)).await, ("device_add".into(), place.clone()));
    let mut placed = place;
    placed["addr"] = json!(5 * GIB);
    assert_eq!(sent(dimm(Some(5 * GIB))).await.1, placed);

    let props =
        VcpuProps { node_id: Some(0), socket_id: Some(1), thread_id: Some(0), ..VcpuProps::default() };
    let cpu = Act::PlugVcpu { id: "c".into(), driver: "max-x86_64-cpu".into(), props };
    assert_eq!(
        sent(cpu).await.1,
        json!({"driver": "max-x86_64-cpu", "id": "c", "node-id": 0, "socket-id": 1, "thread-id": 0})
    );

    let unplug = Act::UnplugDimm { id: "d".into(), memdev: "m".into(), slot: 3 };
    assert_eq!(sent(unplug).await, ("device_del".into(), json!({"id": "d"})));
    assert_eq!(sent(Act::UnplugVcpu { id: "c".into() }).await, ("device_del".into(), json!({"id": "c"})));
    assert_eq!(
        sent(Act::DeleteBackend { memdev: "m".into() }).await,
        ("object-del".into(), json!({"id": "m"}))
    );
}

#[tokio::test]
async fn no_vcpu_is_taken_from_a_qemu_with_one_thread_for_all() {
    let threads = |other| json!([{"cpu-index": 0, "thread-id": 7}, {"cpu-index": 1, "thread-id": other}]);
    let unplug = async |accelerated, other| {
        let table = willing().with("query-cpus-fast", threads(other));
        let table = table.with("query-kvm", json!({"enabled": accelerated, "present": true}));
        let (result, heard) = apply(table, Act::UnplugVcpu { id: "c".into() }).await;
        (result, heard.iter().any(|(command, _)| command == "device_del"))
    };
    let (result, asked) = unplug(false, 7).await;
    assert!(matches!(&result, Err(ApplyError::Refused(why)) if why.contains("one thread")), "{result:?}");
    assert!(!asked);
    assert_eq!(unplug(false, 8).await, (Ok(()), true));
    assert_eq!(unplug(true, 7).await, (Ok(()), true));
}

#[tokio::test]
async fn a_resize_is_sent_only_from_where_it_was_planned() {
    let resize =
        |from, to| Act::ResizeVirtioMem { id: "vm0".into(), from: Bytes::gib(from), to: Bytes::gib(to) };
    let set = |size: u64| {
        (
            "qom-set".to_owned(),
            json!({"path": "/machine/peripheral/vm0", "property": "requested-size", "value": size}),
        )
    };
    assert_eq!(sent(resize(1, 2)).await, set(2 * GIB));
    assert_eq!(sent(resize(0, 1)).await, set(GIB), "sent a second time it is the same");
    let (result, heard) = apply(willing(), resize(0, 2)).await;
    assert!(matches!(&result, Err(ApplyError::Refused(why)) if why.contains("no longer 0")), "{result:?}");
    assert!(heard.iter().all(|(command, _)| command != "qom-set"), "{heard:?}");
}

#[tokio::test]
async fn a_balloon_is_set_wherever_it_stands_on_its_way() {
    let set = |from, to| Act::SetBalloon { from: Bytes::mib(from), to: Bytes::mib(to) };
    assert_eq!(sent(set(1280, 512)).await, ("balloon".into(), json!({"value": 512 << 20})));
    assert_eq!(sent(set(1024, 512)).await, ("balloon".into(), json!({"value": 512 << 20})));
}

#[tokio::test]
async fn a_settled_device_is_asked_for_what_it_holds() {
    let table =
        willing().with(r#"qom-get {"path":"/machine/peripheral/vm0","property":"size"}"#, json!(3 * GIB));
    let (result, mut heard) = apply(table, Act::SettleVirtioMem { id: "vm0".into() }).await;
    result.expect("taken");
    assert_eq!(heard.pop().expect("sent").1["value"], json!(3 * GIB));
}

#[tokio::test(start_paused = true)]
async fn qemu_s_no_is_told_in_its_words_and_its_silence_as_not_known() {
    let said = "object 'm' is in use, can not be deleted";
    let delete = || Act::DeleteBackend { memdev: "m".into() };
    let (result, _) = apply(Table::recorded(Q35).then("object-del", no(said)), delete()).await;
    assert_eq!(result, Err(ApplyError::Refused(said.into())));
    let (result, _) = apply(Table::recorded(Q35).then("object-del", Answer::Never), delete()).await;
    assert!(matches!(&result, Err(ApplyError::Unknown(why)) if why.contains("object-del")), "{result:?}");
}

#[tokio::test]
async fn waiting_for_a_guest_sends_nothing() {
    let (result, heard) = apply(willing(), Act::AwaitOnline { device: "d".into() }).await;
    assert_eq!((result, heard), (Ok(()), Vec::new()));
}
