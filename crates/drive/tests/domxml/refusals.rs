//! What prepare refuses, and the way out that it names.

use crate::corpus::text;
use drive::domxml::{HostLimits, Prepare, VirtioMem, prepare};
use scale::observed::Version;
use scale::units::Bytes;

fn refused_on(host: &HostLimits, xml: &str, want: &Prepare) -> String {
    match prepare(xml, want, host) {
        Ok(done) => panic!("prepared:\n{}", done.diff),
        Err(refusal) => refusal.to_string(),
    }
}

fn refused(name: &str, want: &Prepare) -> String {
    refused_on(&HostLimits::default(), &text(name), want)
}

fn memory(gib: u64, slots: u32) -> Prepare {
    Prepare { max_memory: Some(Bytes::gib(gib)), slots: Some(slots), ..Prepare::default() }
}

fn vcpus(max: u32) -> Prepare {
    Prepare { max_vcpus: Some(max), ..Prepare::default() }
}

fn virtio_mem(gib: u64, device: VirtioMem) -> Prepare {
    Prepare { max_memory: Some(Bytes::gib(gib)), virtio_mem: Some(device), ..Prepare::default() }
}

#[track_caller]
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no '{part}' in: {said}");
    }
}

#[test]
fn all_obstacles_are_named_at_once() {
    let want = Prepare { max_vcpus: Some(1), ..memory(1, 300) };
    let said = refused("without-acpi", &Prepare { max_memory: Some(Bytes::mib(512)), ..want });
    assert_says(&said, &["no ACPI", "leaves no room"]);
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn boards_and_hypervisors_that_cannot_grow_are_refused() {
    assert_says(&refused("microvm", &memory(2, 16)), &["of type microvm are fixed", "q35"]);
    assert_says(&refused("isapc", &vcpus(2)), &["of type isapc are fixed"]);
    assert_says(&refused("pc-1.0", &memory(4, 16)), &["of type pc-1.0 are fixed", "2.1"]);
    assert_says(&refused("riscv64", &memory(4, 16)), &["riscv64", "x86_64, aarch64"]);
    assert_says(&refused("xen", &memory(4, 16)), &["type 'xen'", "kvm and qemu"]);
    assert_says(&refused("aarch64", &vcpus(8)), &["no vCPUs into machines of aarch64"]);
    let removable = Prepare { removable_vcpus: true, ..Prepare::default() };
    assert_says(&refused("aarch64", &removable), &["no vCPUs into machines of aarch64"]);
    assert_says(&refused("s390x", &memory(4, 16)), &["virtio-mem only", "no memory slots"]);
}

#[test]
fn a_machine_without_acpi_is_refused_only_for_what_needs_it() {
    assert_says(&refused("without-acpi", &memory(4, 16)), &["new memory;", "add <acpi/>"]);
    assert_says(&refused("without-acpi", &vcpus(4)), &["new vCPUs;"]);
    let agent = Prepare { agent_channel: true, ..Prepare::default() };
    assert!(prepare(&text("without-acpi"), &agent, &HostLimits::default()).is_ok());
}

#[test]
fn the_description_of_a_running_machine_is_refused() {
    assert_says(&refused("live", &memory(32, 16)), &["--inactive"]);
}

#[test]
fn slots_have_their_limits() {
    assert_says(&refused("plain-pc", &memory(64, 257)), &["257", "QEMU has 256", "16 or 32"]);
    assert!(prepare(&text("plain-pc"), &memory(64, 256), &HostLimits::default()).is_ok());
    assert_says(&refused("plain-pc", &memory(64, 0)), &["too few", "need 1"]);
    // A DIMM sits in slot 7.
    assert_says(&refused("dimms", &memory(64, 7)), &["too few", "need 8"]);
    let alone = Prepare { slots: Some(16), ..Prepare::default() };
    assert_says(&refused("plain-pc", &alone), &["--max-memory"]);
}

#[test]
fn a_ceiling_must_leave_room() {
    assert_says(&refused("plain-pc", &memory(1, 16)), &["a ceiling of 1 GiB", "above the 2 GiB"]);
    assert_says(&refused("plain-pc", &memory(2, 16)), &["leaves no room"]);
    assert_says(&refused("dimms", &memory(2, 16)), &["above the 3 GiB"]);
    assert_says(&refused("plain-pc", &memory(1 << 30, 16)), &["more than any machine"]);
}

#[test]
fn a_dimm_at_a_fixed_address_must_stay_where_dimms_are() {
    let here = text("dimms");
    let amd = HostLimits { amd: true, address_bits: Some(46), ..HostLimits::default() };
    assert!(prepare(&here, &memory(900, 16), &amd).is_ok());
    // All memory above 4 GiB moves to 1 TiB.
    let said = refused_on(&amd, &here, &memory(1024, 16));
    assert_says(&said, &["fixed at the address 0x100000000", "from 0x10000000000", "take base=''"]);
    let low = here.replace("base='0x100000000'", "base='0xc0000000'");
    assert_says(&refused_on(&amd, &low, &memory(64, 16)), &["fixed at the address 0xc0000000"]);
}

#[test]
fn a_number_of_vcpus_that_cannot_be_is_refused_with_those_that_can() {
    assert_says(&refused("topology", &vcpus(9)), &["4 vCPUs per socket", "ask for 8 or 12"]);
    assert_says(&refused("topology-dies", &vcpus(25)), &["12 vCPUs per socket", "ask for 24 or 36"]);
    assert_says(&refused("windows", &vcpus(5)), &["2 vCPUs per core of each socket", "ask for 4 or 6"]);
    assert_says(&refused("numa-two", &vcpus(5)), &["ask for 4 or 6"]);
    assert_says(&refused("ppc64", &vcpus(20)), &["16 vCPUs per socket", "ask for 16 or 32"]);
    assert_says(&refused("topology", &vcpus(4)), &["already have 8", "ask for at least 8"]);
    assert_says(&refused("plain-pc", &vcpus(256)), &["pc board", "at most 255"]);
    assert_says(&refused("tabs", &vcpus(9999)), &["9999 vCPUs are too many"]);
    let small = HostLimits { max_vcpus: Some(64), ..HostLimits::default() };
    assert_says(&refused_on(&small, &text("plain-pc"), &vcpus(65)), &["this host's QEMU", "at most 64"]);
}

#[test]
fn many_vcpus_need_an_iommu() {
    assert_says(&refused("comments", &vcpus(256)), &["<iommu model='intel'>", "at most 255"]);
    assert!(prepare(&text("emulated"), &vcpus(256), &HostLimits::default()).is_ok());
}

#[test]
fn virtio_mem_is_refused_where_qemu_would_not_start_with_it() {
    let any = VirtioMem::default();
    assert_says(&refused("hugepages", &virtio_mem(16, any)), &["<locked/>"]);
    assert_says(&refused("vdpa", &virtio_mem(16, any)), &["vDPA"]);
    assert_says(&refused("sev", &virtio_mem(16, any)), &["launch security"]);
    assert_says(&refused("ppc64", &virtio_mem(16, any)), &["on ppc64"]);
    let alone = Prepare { virtio_mem: Some(any), ..Prepare::default() };
    assert_says(&refused("plain-pc", &alone), &["needs a ceiling"]);
    assert_says(
        &refused("plain-pc", &virtio_mem(16, VirtioMem { node: 1, ..any })),
        &["no node 1", "0 to 0"],
    );
}

#[test]
fn virtio_mem_needs_versions_that_have_it() {
    let old = HostLimits {
        qemu: Some(Version(5, 0, 0)),
        libvirt: Some(Version(9, 0, 0)),
        address_bits: Some(48),
        ..HostLimits::default()
    };
    let want = virtio_mem(16, VirtioMem::default());
    assert_says(
        &refused_on(&old, &text("plain-pc"), &want),
        &["QEMU 5.1", "here are QEMU 5.0.0 and libvirt 9.0.0"],
    );
    let newer = HostLimits { qemu: Some(Version(7, 2, 0)), ..old.clone() };
    assert!(prepare(&text("plain-pc"), &want, &newer).is_ok());
    assert!(prepare(&text("aarch64"), &want, &newer).is_ok());
    assert_says(&refused_on(&newer, &text("s390x"), &want), &["QEMU 10.0 and libvirt 11.1"]);
    let older = HostLimits { qemu: Some(Version(6, 2, 0)), ..newer };
    assert_says(&refused_on(&older, &text("aarch64"), &want), &["QEMU 7.0"]);
}

#[test]
fn virtio_mem_has_its_sizes() {
    let block = |block| VirtioMem { block: Some(block), ..VirtioMem::default() };
    assert_says(
        &refused("plain-pc", &virtio_mem(16, block(Bytes::mib(3)))),
        &["3 MiB cannot", "power of two"],
    );
    assert_says(
        &refused("plain-pc", &virtio_mem(16, block(Bytes::mib(1)))),
        &["at least 2 MiB", "transparent huge"],
    );
    let size = |size| VirtioMem { size: Some(size), ..VirtioMem::default() };
    assert_says(
        &refused("plain-pc", &virtio_mem(16, size(Bytes::mib(1025)))),
        &["ask for 1 GiB or 1026 MiB"],
    );
    assert_says(&refused("plain-pc", &virtio_mem(16, size(Bytes::gib(15)))), &["the ceiling leaves 14 GiB"]);
    assert_says(&refused("virtio-mem", &virtio_mem(16, size(Bytes::mib(512)))), &["asked for 1 GiB at boot"]);
}

#[test]
fn a_channel_that_libvirt_does_not_speak_over_is_refused() {
    let want = Prepare { agent_channel: true, ..Prepare::default() };
    assert_says(&refused("agent-pty", &want), &["type 'pty'", "'unix' only"]);
}

#[test]
fn cells_that_overlap_are_refused() {
    let here = text("numa-two");
    let refused = |text: &str| {
        refused_on(&HostLimits::default(), text, &Prepare { max_vcpus: Some(4), ..memory(16, 16) })
    };
    let from = here.find("<cell id='1'").expect("a second cell");
    let to = from + here[from..].find("</cell>").expect("its end") + "</cell>".len();
    let (cell, tail) = (&here[from..to], &here[to..]);
    let with = |more: &str| format!("{}{cell}{more}{tail}", &here[..from]);
    assert_says(&refused(&with(cell)), &["<cell id> is '1'", "each once"]);
    let third = cell.replace("id='1' cpus", "id='2' cpus");
    assert_says(&refused(&with(&third)), &["<cell cpus> is '2-3'", "in another cell already"]);
    // A cell without an id has the number of its place.
    assert_says(
        &refused(&with("<cell cpus='3' memory='2097152'/>")),
        &["<cell cpus> is '3'", "in another cell"],
    );
}

#[test]
fn what_is_no_description_is_refused_as_such() {
    let host = HostLimits::default();
    assert_says(&refused_on(&host, "<network/>", &memory(4, 16)), &["this is a <network>"]);
    assert_says(&refused_on(&host, "", &memory(4, 16)), &["no XML"]);
}
