//! Memory of a guest of two nodes: it comes to the node that was named, made as that node's boot memory is, on plain
//! QEMU and under libvirt.

use std::time::Duration;

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::libvirt::LibvirtMachine;
use drive::qmp::QmpMachine;
use drive::resize::{ResizeError, resize};
use lab::{Generation, HugePages, Inside, Libvirtd, Recipe, Yes, eventually};
use scale::limits::Limits;
use scale::observed::Placement;
use scale::report::{Report, Verdict};
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;

const PAGE: Bytes = Bytes::mib(2);

fn recipe() -> Recipe {
    Recipe::q35().memory(Bytes::mib(512)).two_nodes()
}

fn grown(by: Bytes, node: Option<u32>) -> Wanted {
    Wanted { memory: Some(Change::Grow(by)), node, ..Wanted::default() }
}

async fn apply<H: Hypervisor>(machine: &mut H, wanted: Wanted) -> Result<Report, ResizeError> {
    resize(machine, &mut MemoryJournal::default(), wanted, &Limits::default(), &mut Yes).await
}

async fn proven<H: Hypervisor>(machine: &mut H, wanted: Wanted) {
    let report = apply(machine, wanted).await.unwrap();
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
}

/// What the guest's kernel counts on each of its nodes, in MiB.
async fn counted(guest: &Inside) -> [u64; 2] {
    let mut nodes = [0; 2];
    for (node, mib) in nodes.iter_mut().enumerate() {
        let file = format!("/sys/devices/system/node/node{node}/meminfo");
        let told = guest.shell(&format!("awk '/MemTotal/ {{print $4}}' {file}")).await.unwrap().ok().unwrap();
        *mib = told.trim().parse::<u64>().unwrap() >> 10;
    }
    nodes
}

/// Grows node 1, then wherever there is least, and shrinks node 1 again; what the guest counts follows.
async fn walk<H: Hypervisor>(machine: &mut H, guest: &Inside) {
    let start = counted(guest).await;
    proven(machine, grown(Bytes::mib(512), Some(1))).await;
    let second = counted(guest).await;
    assert_eq!([second[0], second[1]], [start[0], start[1] + 512]);
    proven(machine, grown(Bytes::mib(256), None)).await;
    let balanced = counted(guest).await;
    assert_eq!(balanced, [second[0] + 256, second[1]], "the node with the least memory is filled up");
    let less = Change::To(Bytes::mib(768));
    proven(machine, Wanted { memory: Some(less), node: Some(1), ..Wanted::default() }).await;
    assert_eq!(counted(guest).await, [balanced[0], start[1]]);
}

#[tokio::test]
async fn memory_comes_to_the_node_that_was_named() {
    let guest = recipe().boot().await.unwrap();
    let mut machine = QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await.unwrap();
    walk(&mut machine, &guest).await;
}

#[tokio::test]
async fn memory_comes_to_the_node_that_was_named_under_libvirt() {
    let libvirtd = Libvirtd::of(Generation::System).await.unwrap();
    let guest = libvirtd.boot("web1", &recipe()).await.unwrap();
    let mut machine =
        LibvirtMachine::open(&libvirtd.connect_uri(), "web1", &Limits::default()).await.unwrap();
    walk(&mut machine, &guest).await;
    guest.is_level().await.unwrap();
}

/// Node 1 in huge pages: they are taken there, given back, and a size that they do not reach is refused with the way to
/// more of them; the other node is none of that.
async fn huge_pages<H: Hypervisor>(machine: &mut H, guest: &Inside, pages: &HugePages) {
    let memory = machine.observe().await.unwrap().memory;
    let (backing, placement) = memory.source_of_node(1);
    assert_eq!(backing.page(), Some(PAGE), "{:?}", memory.sources);
    assert_eq!(placement.bound(), Some(&[0][..]), "{:?}", memory.sources);
    let (backing, placement) = memory.source_of_node(0);
    assert_eq!((backing.page(), placement), (None, Placement::default()), "{:?}", memory.sources);
    let (start, free) = (counted(guest).await, pages.free().unwrap());

    let refused = apply(machine, grown(Bytes::gib(2), Some(1))).await.unwrap_err().to_string();
    for words in
        ["NOT NOW", "on the host's node 0", "huge pages of 2 MiB and 2 GiB are needed", "nr_hugepages"]
    {
        assert!(refused.contains(words), "'{words}' is not in: {refused}");
    }
    assert_eq!((pages.free().unwrap(), counted(guest).await), (free, start), "nothing was changed");

    proven(machine, grown(Bytes::mib(256), Some(1))).await;
    assert_eq!(pages.free().unwrap(), free - 128);
    assert_eq!(counted(guest).await, [start[0], start[1] + 256]);
    proven(machine, grown(Bytes::mib(256), Some(0))).await;
    assert_eq!(pages.free().unwrap(), free - 128, "node 0 has ordinary pages");
    let less = Change::To(Bytes::mib(768));
    proven(machine, Wanted { memory: Some(less), node: Some(1), ..Wanted::default() }).await;
    assert_eq!(counted(guest).await, [start[0] + 256, start[1]]);
    // QEMU unmaps a backend's memory when none of its threads reads it any more (RCU), a moment after `object-del`.
    let whole = async || Ok((pages.free()? == free).then_some(()));
    eventually("the pages are free again", Duration::from_secs(20), whole).await.unwrap();
}

/// The pages, or nothing where this kernel gives none, which is said.
fn pages() -> Option<HugePages> {
    HugePages::set_aside(128 + 160).inspect_err(|error| eprintln!("{error:#}")).ok()
}

#[tokio::test]
async fn a_node_of_huge_pages_grows_in_them_and_only_as_far_as_there_are() {
    let Some(pages) = pages() else { return };
    let guest = recipe().huge_node(1).boot().await.unwrap();
    let mut machine = QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await.unwrap();
    huge_pages(&mut machine, &guest, &pages).await;
}

#[tokio::test]
async fn a_node_of_huge_pages_grows_in_them_under_libvirt() {
    let Some(pages) = pages() else { return };
    let libvirtd = Libvirtd::of(Generation::System).await.unwrap();
    let guest = libvirtd.boot("web1", &recipe().huge_node(1)).await.unwrap();
    let mut machine =
        LibvirtMachine::open(&libvirtd.connect_uri(), "web1", &Limits::default()).await.unwrap();
    huge_pages(&mut machine, &guest, &pages).await;
    guest.is_level().await.unwrap();
}
