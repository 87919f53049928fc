//! The highest guest address, against QEMU's own arithmetic and the CPU's address bits.

use crate::corpus::text;
use drive::domxml::{Domain, HostLimits, Prepare, address_space, prepare};
use scale::units::Bytes;

const GIB: u64 = 1 << 30;

fn host(bits: u32) -> HostLimits {
    HostLimits { address_bits: Some(bits), ..HostLimits::default() }
}

fn ceiling(xml: &str, gib: u64, slots: u32, host: &HostLimits) -> Result<u64, String> {
    let want = Prepare { max_memory: Some(Bytes::gib(gib)), slots: Some(slots), ..Prepare::default() };
    let done = prepare(xml, &want, host).map_err(|refusal| refusal.to_string())?;
    let domain = Domain::parse(&done.xml).expect("a description");
    Ok(address_space(&domain, host).expect("x86 and Arm have one").end / GIB)
}

/// `plain-pc` (i440FX) or `comments` (Q35) with that much boot memory.
fn machine(name: &str, gib: u64) -> String {
    let memory = format!("<memory unit='GiB'>{gib}</memory>");
    text(name)
        .replace("<memory unit='KiB'>2097152</memory>", &memory)
        .replace("<memory unit='MiB'>1024</memory>", &memory)
}

#[test]
fn the_end_is_boot_memory_hot_plug_memory_slots_and_the_pci_window() {
    // All boot memory below 4 GiB: 4 + (64 - 2) + 32 slots + the window of 2 (pc) or 32 (q35).
    assert_eq!(ceiling(&machine("plain-pc", 2), 64, 32, &host(46)), Ok(4 + 62 + 32 + 2));
    assert_eq!(ceiling(&machine("comments", 2), 64, 32, &host(46)), Ok(4 + 62 + 32 + 32));
    // Above: a pc keeps 3 GiB below 4 GiB, a q35 2 GiB.
    assert_eq!(ceiling(&machine("plain-pc", 8), 64, 16, &host(46)), Ok(4 + 5 + 56 + 16 + 2));
    assert_eq!(ceiling(&machine("comments", 8), 64, 16, &host(46)), Ok(4 + 6 + 56 + 16 + 32));
    // Arm's memory begins at 1 GiB, and its PCI windows need not fit.
    assert_eq!(ceiling(&text("aarch64"), 64, 16, &host(46)), Ok(1 + 4 + 60 + 16));
}

#[test]
fn forty_bits_end_at_one_tib() {
    // 4 + (max - 2) + 16 + 32 <= 1024
    assert_eq!(ceiling(&machine("comments", 2), 974, 16, &host(46)), Ok(1024));
    let said = ceiling(&machine("comments", 2), 975, 16, &host(46)).unwrap_err();
    assert!(said.contains("end at 1025 GiB") && said.contains("40 bits, QEMU's default"), "{said}");
    assert!(said.contains("at most 974 GiB with 16 slots") && said.contains("at most 15 slots"), "{said}");
    assert!(
        said.contains("<maxphysaddr mode='passthrough'/>") && said.contains("host's CPU has 46 bits"),
        "{said}"
    );
}

#[test]
fn slots_alone_can_take_all_addresses() {
    let said = ceiling(&machine("comments", 2), 768, 256, &host(46)).unwrap_err();
    assert!(said.contains("at most 734 GiB with 256 slots") && said.contains("at most 222 slots"), "{said}");
}

#[test]
fn the_hosts_bits_count_only_where_the_guest_gets_them() {
    let passthrough = text("selfclosing");
    assert_eq!(ceiling(&passthrough, 2048, 16, &host(46)), Ok(4 + 2047 + 16 + 32));
    assert!(ceiling(&passthrough, 2048, 16, &host(40)).is_err());
    let said = ceiling(&passthrough, 2048, 16, &HostLimits::default()).unwrap_err();
    assert!(said.contains("the host's are not known"), "{said}");
    let emulated = passthrough.replace("type='kvm'", "type='qemu'");
    let said = ceiling(&emulated, 2048, 16, &host(46)).unwrap_err();
    assert!(said.contains("every CPU that QEMU emulates") && !said.contains("maxphysaddr"), "{said}");
    assert!(ceiling(&text("vfio"), 2048, 16, &host(46)).is_ok());
    let limited = text("vfio").replace("mode='passthrough'/>", "mode='passthrough' limit='39'/>");
    assert!(ceiling(&limited, 512, 16, &host(46)).unwrap_err().contains("39 bits"));
}

#[test]
fn a_pci_window_of_the_machine_counts_as_it_is() {
    // 42 bits are 4 TiB; the window takes 1 TiB of it: 4 + 510 + (max - 512) + 16 + 1024.
    assert_eq!(ceiling(&text("pci-hole"), 3054, 16, &host(46)), Ok(4096));
    assert!(ceiling(&text("pci-hole"), 3055, 16, &host(46)).unwrap_err().contains("its <maxphysaddr> says"));
}

#[test]
fn amd_machines_jump_over_hypertransport() {
    let amd = HostLimits { amd: true, ..host(46) };
    let xml = text("selfclosing");
    // The end may touch 1012 GiB; one GiB more, and all memory above 4 GiB starts at 1 TiB.
    assert_eq!(ceiling(&xml, 961, 16, &amd), Ok(1012));
    assert_eq!(ceiling(&xml, 962, 16, &amd), Ok(1024 + 961 + 16 + 32));
    assert_eq!(ceiling(&xml, 962, 16, &host(46)), Ok(1013));
    let old = xml.replace("machine='q35'", "machine='pc-q35-7.0'");
    assert_eq!(ceiling(&old, 962, 16, &amd), Ok(1013));
    // With 40 bits the jump leads past the end.
    let modest = HostLimits { amd: true, ..host(40) };
    let said = ceiling(&xml, 962, 16, &modest).unwrap_err();
    assert!(said.contains("at most 961 GiB with 16 slots"), "{said}");
}
