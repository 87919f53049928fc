//! Memory of named guest nodes: made as their boot memory is, from what the host's nodes have.

use crate::machine::{in_libvirt, machine, with_dimm, with_virtio_mem};
use crate::steps::{memory, planned, refused, written};
use scale::observed::{Backing, HostPolicy, MemoryPool, Node, Observed, Placement, Source, SourceOf};
use scale::plan::{Act, When};
use scale::units::Bytes;
use scale::wanted::Wanted;

const PAGE: Bytes = Bytes::mib(2);

fn huge() -> Backing {
    Backing::HugeMemfd { page: PAGE, share: true }
}

fn bound(node: u32) -> Placement {
    Placement { policy: HostPolicy::Bind, host_nodes: vec![node], prealloc: false }
}

fn free(node: Option<u32>, page: Option<Bytes>, mib: u64) -> MemoryPool {
    MemoryPool { node, page, free: Bytes::mib(mib), promised: Bytes::ZERO }
}

/// Node 0 in ordinary pages, node 1 in huge ones of the host's node 1, which has 1 GiB of them.
fn two_nodes() -> Observed {
    let mut seen = machine();
    seen.memory.nodes.push(Node { id: 1, memory: Bytes::mib(512) });
    let source = |node, backing, placement| Source { of: SourceOf::Node(node), backing, placement };
    seen.memory.sources = vec![source(0, Backing::Ram, Placement::default()), source(1, huge(), bound(1))];
    let mut whole = free(None, Some(PAGE), 2048 + 512);
    whole.promised = Bytes::mib(512);
    seen.host.pools = vec![whole, free(Some(0), Some(PAGE), 1024), free(Some(1), Some(PAGE), 1024 + 512)];
    seen
}

fn on(node: u32, size: &str) -> Wanted {
    Wanted { node: Some(node), ..memory(size) }
}

#[track_caller]
fn says(seen: &Observed, wanted: &Wanted, words: &[&str]) {
    let refusal = refused(seen, wanted);
    let [obstacle] = refusal.obstacles.as_slice() else { panic!("{refusal}") };
    assert_eq!(obstacle.when, When::NotNow, "{refusal}");
    for word in words {
        assert!(refusal.to_string().contains(word), "'{word}' is not in: {refusal}");
    }
}

#[test]
fn a_dimm_is_made_as_the_boot_memory_of_its_node_is() {
    let made = |node| {
        let plan = planned(&two_nodes(), &on(node, "+1G"));
        let act = plan.steps[0].act.clone();
        let Act::CreateBackend { backing, placement, .. } = act else { panic!("{act}") };
        (backing, placement)
    };
    assert_eq!(made(0), (Backing::Ram, Placement::default()));
    assert_eq!(made(1), (huge(), bound(1)));
    assert_eq!(
        written(&planned(&two_nodes(), &on(1, "+1G")))[..2],
        [
            "0 make 1 GiB of host memory supple-mem0 in huge pages of 2 MiB on host node 1",
            "0 plug DIMM supple-dimm0 into slot 0, node 1"
        ]
    );
}

#[test]
fn what_is_taken_is_there_on_the_hosts_node() {
    let words = [
        "1 GiB are free on the host's node 1",
        "huge pages of 2 MiB and 1.25 GiB are needed",
        "set 128 more aside",
        "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
    ];
    says(&two_nodes(), &on(1, "+1280M"), &words);
    says(&in_libvirt(two_nodes()), &on(1, "+1280M"), &words);
    assert!(!planned(&two_nodes(), &on(0, "+1280M")).steps.is_empty(), "the other node takes ordinary pages");
    assert!(!planned(&in_libvirt(two_nodes()), &on(1, "+1G")).steps.is_empty());
}

#[test]
fn unbound_huge_pages_are_those_of_the_whole_host_without_the_promised_ones() {
    let mut seen = two_nodes();
    seen.memory.sources[1].placement = Placement { policy: HostPolicy::Preferred, ..bound(1) };
    assert!(!planned(&seen, &on(1, "+2G")).steps.is_empty());
    says(
        &seen,
        &on(1, "+2176M"),
        &["2 GiB are free in huge pages", "/sys/kernel/mm/hugepages/hugepages-2048kB"],
    );
}

#[test]
fn a_shrink_needs_no_pages() {
    let mut seen = with_dimm(two_nodes(), "supple-dimm0", Bytes::gib(1), 1);
    for pool in &mut seen.host.pools {
        pool.free = Bytes::ZERO;
    }
    let written = written(&planned(&seen, &on(1, "-1G")));
    assert_eq!(written.last().map(String::as_str), Some("0 give host memory mem-supple-dimm0 back"));
}

#[test]
fn a_virtio_mem_device_needs_pages_of_its_own_backend() {
    let mut seen = with_virtio_mem(two_nodes(), "vmem0", Bytes::gib(4), 1);
    let of = SourceOf::Device("vmem0".into());
    seen.memory.sources.push(Source { of, backing: huge(), placement: bound(1) });
    assert_eq!(written(&planned(&seen, &on(1, "+1G")))[0], "0 resize vmem0 from 0 B to 1 GiB");
    says(
        &seen,
        &on(1, "+1026M"),
        &["1 GiB are free on the host's node 1", "1026 MiB are needed", "set 1 more"],
    );
    seen.memory.sources[2].backing = Backing::Ram;
    assert!(!planned(&seen, &on(1, "+1026M")).steps.is_empty());
}

#[test]
fn memory_that_is_bound_to_a_full_node_is_not_promised() {
    let mut seen = two_nodes();
    seen.memory.sources[0].placement = bound(1);
    seen.host.pools.push(free(Some(1), None, 700));
    says(
        &seen,
        &on(0, "+1G"),
        &["700 MiB are free on the host's node 1", "the host would kill QEMU", "--node"],
    );
    assert!(!planned(&seen, &on(0, "+640M")).steps.is_empty());
    seen.memory.sources[0].placement.policy = HostPolicy::Preferred;
    assert!(!planned(&seen, &on(0, "+1G")).steps.is_empty(), "preferred memory may lie elsewhere");
}

#[test]
fn sizes_are_whole_huge_pages() {
    let mut seen = two_nodes();
    let page = Bytes::gib(1);
    seen.memory.sources[1].backing = Backing::HugeMemfd { page, share: false };
    seen.memory.alignment = page;
    seen.host.pools = vec![free(None, Some(page), 4096), free(Some(1), Some(page), 4096)];
    let refusal = refused(&seen, &on(1, "+512M"));
    assert_eq!(refusal.obstacles[0].when, When::Impossible);
    assert!(refusal.to_string().contains("--memory 2G"), "{refusal}");
    assert!(!planned(&seen, &on(1, "+1G")).steps.is_empty());
}

#[test]
fn memory_of_a_kind_that_cannot_be_made_bars_its_node_alone() {
    let mut seen = two_nodes();
    seen.memory.sources[0].backing = Backing::Unknown("memory-backend-epc".into());
    let refusal = refused(&seen, &on(0, "+1G"));
    assert_eq!(refusal.obstacles[0].when, When::Cold);
    assert!(refusal.to_string().contains("--node 1"), "{refusal}");
    assert!(!planned(&seen, &on(1, "+1G")).steps.is_empty());
}
