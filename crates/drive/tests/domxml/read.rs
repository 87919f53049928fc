//! What is read from a description is what libvirt would read.

use crate::corpus::{all, text};
use drive::domxml::{AddressBits, BadXml, Board, CpuSet, Domain, MemoryModel};
use proptest::prelude::*;
use scale::units::Bytes;

fn domain(name: &str) -> Domain {
    Domain::parse(&text(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn every_description_is_read_and_named() {
    for description in all() {
        let domain = Domain::parse(&description.text).unwrap_or_else(|e| panic!("{}: {e}", description.name));
        let drifting = matches!(description.name.as_str(), "live" | "inactive");
        assert_eq!(domain.name, if drifting { "drifting" } else { &description.name });
        assert!(!domain.memory.boot.is_zero(), "{}", description.name);
        assert!(
            domain.vcpus.current >= 1 && domain.vcpus.current <= domain.vcpus.max,
            "{}",
            description.name
        );
    }
}

#[test]
fn memory_is_read_in_every_unit() {
    for (name, bytes) in [
        ("tiny", 512 << 20),
        ("units-b", 1 << 30),
        ("units-kb", 1_048_576_000),
        ("units-gb", 2_000_000_000),
        ("units-gib", 2 << 30),
        ("units-t", 1u64 << 40),
        ("entities", 1 << 30),
        ("instructions", 1 << 30),
        ("comments", 1 << 30),
    ] {
        assert_eq!(domain(name).memory.boot, Bytes::new(bytes).round_up(Bytes::new(1024)), "{name}");
    }
}

#[test]
fn boot_memory_is_what_the_cells_have_and_the_rest_are_devices() {
    let dimms = domain("dimms");
    assert_eq!(dimms.memory.boot, Bytes::gib(1));
    assert_eq!(dimms.total_memory(), Bytes::gib(3));
    assert_eq!(dimms.memory.max.map(|max| (max.size, max.slots)), Some((Bytes::gib(64), Some(16))));
    let slots: Vec<_> =
        dimms.memory_devices.iter().filter_map(|d| d.slot).map(|s| (s.number, s.base)).collect();
    assert_eq!(slots, [(0, Some(0x1_0000_0000)), (7, None)]);
    let without_numa = domain("dimm-without-numa");
    assert_eq!(without_numa.memory.boot, Bytes::gib(1));
    assert_eq!(without_numa.memory_devices[0].node, None);
}

#[test]
fn devices_larger_than_all_memory_are_refused() {
    let broken = text("dimm-without-numa").replace("<memory unit='GiB'>2<", "<memory unit='MiB'>512<");
    let said = Domain::parse(&broken).unwrap_err().to_string();
    assert!(said.contains("its memory devices alone have 1 GiB"), "{said}");
}

#[test]
fn a_virtio_mem_device_has_its_block_and_what_is_asked_of_it() {
    let device = &domain("live").memory_devices[2];
    assert_eq!(device.model, MemoryModel::VirtioMem);
    assert_eq!(device.block, Some(Bytes::mib(2)));
    assert_eq!(device.requested, Some(Bytes::gib(2)));
    assert_eq!(device.current, Some(Bytes::mib(2046)));
    assert_eq!(device.alias.as_deref(), Some("virtiomem0"));
    assert!(device.xml.starts_with("<memory model='virtio-mem'>") && device.xml.ends_with("</memory>"));
    assert_eq!(domain("inactive").memory_devices[1].current, None);
}

#[test]
fn foreign_namespaces_are_passed_over() {
    let domain = domain("namespaces");
    assert_eq!((domain.memory.boot, domain.vcpus.max), (Bytes::gib(4), 2));
    assert!(domain.cpu.cells.is_empty());
    assert_eq!(domain.os.as_deref(), Some("http://debian.org/debian/12"));
    assert_eq!(domain.raw_arguments, ["-global", "ICH9-LPC.disable_s3=1"]);
}

#[test]
fn a_list_of_vcpus_decides_over_the_current_attribute() {
    let listed = domain("vcpus-list");
    assert_eq!((listed.vcpus.current, listed.vcpus.max), (2, 4));
    assert_eq!(listed.vcpus.each.iter().map(|v| v.enabled).collect::<Vec<_>>(), [true, false, false, true]);
    let wrong = text("vcpus-list").replace("current='2'", "current='4'");
    assert_eq!(Domain::parse(&wrong).unwrap().vcpus.current, 2);
}

#[test]
fn cells_are_ordered_by_id_and_may_have_no_cpus() {
    let cells = |name: &str| -> Vec<String> {
        domain(name).cpu.cells.iter().map(|c| format!("{}:{}:{}", c.id, c.cpus, c.memory)).collect()
    };
    assert_eq!(cells("numa-partial"), ["0:0:1 GiB", "1:1:1 GiB"]);
    assert_eq!(cells("numa-cpuless"), ["0:0:1 GiB", "1::1 GiB", "2:1-2:1 GiB"]);
    assert_eq!(domain("numa-caret").cpu.cells[0].cpus, CpuSet::read("0,1,3").unwrap());
    let refused = |from: &str, to: &str| {
        let said = Domain::parse(&text("numa-two").replace(from, to));
        assert!(matches!(said, Err(BadXml::Value { .. })), "{said:?}");
    };
    refused("id='1' cpus", "id='0' cpus");
    refused("cpus='2-3'", "cpus='1-3'");
    refused("cpus='2-3'", "cpus='2-4'");
}

#[test]
fn more_cells_or_memory_devices_than_qemu_has_are_refused() {
    let cells = "<cell memory='1'/>".repeat(129);
    let many = text("numa-two").replace("<numa>", &format!("<numa>{cells}"));
    assert_eq!(Domain::parse(&many), Err(BadXml::TooIntricate));
    let devices = "<memory model='dimm'><target><size>1</size></target></memory>".repeat(1025);
    let many = text("plain-pc").replace("<devices>", &format!("<devices>{devices}"));
    assert_eq!(Domain::parse(&many), Err(BadXml::TooIntricate));
}

#[test]
fn the_machine_tells_board_firmware_and_guest() {
    let ovmf = domain("q35-ovmf");
    assert_eq!(ovmf.machine.board("x86_64"), Board::Q35);
    assert!(ovmf.machine.uefi && ovmf.machine.secure_firmware && ovmf.machine.acpi);
    assert_eq!(ovmf.cpu.topology.map(|t| t.vcpus()), Some(4));
    let balloon = ovmf.balloon.unwrap();
    assert!(balloon.autodeflate && balloon.free_page_reporting);
    assert!(!domain("without-acpi").machine.acpi);
    assert!(domain("vfio").machine.uefi && !domain("vfio").machine.secure_firmware);
    assert!(domain("windows").is_windows() && !domain("namespaces").is_windows());
    assert_eq!(domain("sev").launch_security.as_deref(), Some("sev"));
}

#[test]
fn what_backs_memory_is_read() {
    let pages = domain("hugepages").memory.backing;
    assert_eq!(pages.hugepages.iter().map(|p| p.size).collect::<Vec<_>>(), [Some(Bytes::gib(1))]);
    assert!(pages.locked);
    assert_eq!(domain("hugepages-plain").memory.backing.hugepages[0].size, None);
    let shared = domain("memfd-shared").memory;
    assert_eq!(
        (shared.backing.source.as_deref(), shared.backing.access.as_deref()),
        (Some("memfd"), Some("shared"))
    );
    assert!(shared.backing.immediate && shared.backing.discard);
    assert_eq!(shared.hard_limit, Some(Bytes::gib(3)));
    let tune = domain("memfd-shared").vcpus.tune;
    assert_eq!((tune.shares, tune.period, tune.quota, tune.pinned), (Some(2048), Some(100_000), Some(-1), 1));
    let unlimited = text("memfd-shared").replace("unit='GiB'>3<", "unit='KiB'>9007199254740991<");
    assert_eq!(Domain::parse(&unlimited).unwrap().memory.hard_limit, None);
}

#[test]
fn devices_served_outside_of_qemu_are_counted() {
    let vfio = domain("vfio");
    assert_eq!((vfio.backends.vfio, vfio.backends.vhost), (1, 1));
    assert_eq!(vfio.cpu.address_bits, Some(AddressBits::Host(None)));
    let shared = domain("memfd-shared");
    assert_eq!((shared.backends.vhost_user, shared.backends.vhost), (2, 1));
    assert_eq!(domain("vdpa").backends.vdpa, 1);
    assert_eq!(domain("pci-hole").backends.pci_hole, Some(Bytes::gib(1024)));
    assert!(domain("emulated").backends.extended_interrupts);
}

#[test]
fn the_agents_channel_is_found_by_its_name() {
    assert_eq!(domain("agent-pty").agent.map(|agent| agent.kind), Some("pty".to_owned()));
    assert_eq!(domain("live").agent.and_then(|agent| agent.connected), Some(true));
    assert_eq!(domain("inactive").agent.and_then(|agent| agent.connected), None);
    assert_eq!(domain("plain-pc").agent, None);
}

#[test]
fn a_byte_order_mark_and_crlf_change_nothing() {
    let plain = domain("plain-pc");
    let marked = format!("\u{feff}{}", text("plain-pc"));
    assert_eq!(Domain::parse(&marked).unwrap(), plain);
    assert_eq!(domain("crlf").memory, plain.memory);
}

#[test]
fn what_is_no_machine_says_what_it_is() {
    for (text, says) in [
        ("", "no XML"),
        ("<domain>", "no XML"),
        ("<network><name>n</name></network>", "this is a <network>"),
        ("<domain><memory>1</memory></domain>", "no <name>"),
        ("<domain><name>n</name></domain>", "no <memory>"),
        ("<domain><name>n</name><memory>0</memory></domain>", "no memory to boot with"),
        ("<domain><name>n</name><memory>1G</memory></domain>", "<memory> is '1G'"),
        ("<domain><name>n</name><memory>1</memory><vcpu>0</vcpu></domain>", "<vcpu> is '0'"),
        ("<domain><name>n</name><memory>1</memory><vcpu current='3'>2</vcpu></domain>", "<vcpu> is '3'"),
    ] {
        let said = Domain::parse(text).expect_err(text).to_string();
        assert!(said.contains(says), "{text}: {said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_description_cut_or_damaged_anywhere_gets_an_answer(
        which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<char>(), cut in any::<bool>(),
    ) {
        let all = all();
        let text = &all[which.index(all.len())].text;
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        let place = places[at.index(places.len())];
        let rest = if cut { "" } else { &text[place..] };
        let _ = Domain::parse(&format!("{}{byte}{rest}", &text[..place]));
    }
}
