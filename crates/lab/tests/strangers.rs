//! Memory devices that Supple leaves alone, on a real QEMU: what they take of the machine is not planned for again.

use drive::Hypervisor;
use drive::qmp::QmpMachine;
use lab::{Idle, Recipe};
use scale::limits::Limits;
use scale::observed::{Observed, OtherDevice};
use scale::plan::{Act, plan};
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;
use serde_json::json;

async fn observed(machine: &Idle) -> Observed {
    let mut driver = QmpMachine::open(&machine.qmp(), None, &Limits::default()).await.unwrap();
    driver.observe().await.unwrap()
}

#[tokio::test]
async fn what_a_device_of_another_kind_holds_is_not_planned_for_again() {
    let machine = Recipe::i440fx().memory(Bytes::mib(512)).max_memory(Bytes::gib(4), 4).idle().await.unwrap();
    let room = observed(&machine).await.memory.headroom();
    let backend = json!({"qom-type": "memory-backend-ram", "id": "pmem", "size": Bytes::gib(1).get()});
    machine.execute("object-add", backend).await.unwrap();
    let device = json!({"driver": "virtio-pmem-pci", "id": "pmem0", "memdev": "pmem"});
    machine.execute("device_add", device).await.unwrap();

    let seen = observed(&machine).await;
    let at = 4 << 30;
    let pmem = OtherDevice { kind: "virtio-pmem".into(), addr: at, size: Bytes::gib(1) };
    assert_eq!(seen.memory.others, [pmem]);
    assert_eq!(seen.memory.headroom(), room - Bytes::gib(1));
    assert!(seen.memory.unused_backends.is_empty(), "its backend is in use: {:?}", seen.memory);

    // Nothing else could be, by QEMU's own word.
    let large = json!({"qom-type": "memory-backend-ram", "id": "large", "size": room.get()});
    machine.execute("object-add", large).await.unwrap();
    let device = json!({"driver": "pc-dimm", "id": "dimm0", "memdev": "large"});
    let refused = machine.execute("device_add", device).await.unwrap_err();
    assert!(refused.to_string().contains("not enough space"), "{refused}");
    machine.execute("object-del", json!({"id": "large"})).await.unwrap();

    let grow = |by| Wanted { memory: Some(Change::Grow(by)), ..Wanted::default() };
    let told = plan(&seen, &grow(room), &Limits::default()).unwrap_err().to_string();
    assert!(told.contains("COLD") && told.contains("which leaves 2.5 GiB"), "{told}");
    // What is planned is what QEMU takes.
    let all = plan(&seen, &grow(seen.memory.headroom()), &Limits::default()).unwrap();
    let mut driver = QmpMachine::open(&machine.qmp(), None, &Limits::default()).await.unwrap();
    for step in &all.steps {
        if matches!(step.act, Act::CreateBackend { .. } | Act::PlugDimm { .. }) {
            let until = driver.now() + scale::time::Span::secs(30);
            driver.apply(&step.act, until).await.unwrap();
        }
    }
    assert_eq!(driver.observe().await.unwrap().memory.headroom(), Bytes::ZERO);
}
