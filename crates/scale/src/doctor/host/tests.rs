use super::*;
use crate::doctor::{Mend, Severity, is_ready};

fn strings(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A QEMU that has everything.
fn whole() -> Qemu {
    let properties = [("virtio-balloon-pci".to_owned(), strings(&["guest-stats", "free-page-reporting"]))];
    Qemu {
        path: "/usr/bin/qemu-system-x86_64".to_owned(),
        version: Version(7, 2, 22),
        package: "Debian 1:7.2".to_owned(),
        arch: "x86_64".to_owned(),
        kvm: Some(true),
        commands: strings(&["device_add", "device_del", "query-hotpluggable-cpus"]),
        events: strings(&["ACPI_DEVICE_OST", "MEMORY_DEVICE_SIZE_CHANGE", "DEVICE_UNPLUG_GUEST_ERROR"]),
        types: strings(&["pc-dimm", "virtio-mem-pci", "virtio-balloon-pci"]),
        properties: properties.into_iter().collect(),
        hotplug_machines: strings(&["pc-q35-7.2"]),
    }
}

fn debian(version: &str) -> HostSystem {
    HostSystem {
        id: "debian".to_owned(),
        version: version.to_owned(),
        name: format!("Debian GNU/Linux {version}"),
        like: Vec::new(),
        arch: "x86_64".to_owned(),
    }
}

fn libvirt() -> Libvirt {
    Libvirt {
        uri: "qemu:///system".to_owned(),
        library: Version(9, 0, 0),
        daemon: Version(9, 0, 0),
        hypervisor: Some(Version(7, 2, 22)),
        tried: [DIMM, VIRTIO_MEM, VCPUS, REPORTING].map(|subject| (subject, Ok(()))).into_iter().collect(),
        ..Libvirt::default()
    }
}

fn good() -> HostFacts {
    HostFacts {
        system: debian("12"),
        qemu: QemuFacts::Asked(Box::new(whole())),
        kvm: KvmDevice::Opens,
        libvirt: LibvirtFacts::Answers(Box::new(libvirt())),
        limits: LimitFacts {
            memory: Some(Bytes::gib(64)),
            available: Some(Bytes::gib(32)),
            address_bits: Some(46),
            ..LimitFacts::default()
        },
    }
}

fn about(facts: &HostFacts, subject: &str) -> Finding {
    let found = host(facts);
    found
        .iter()
        .find(|finding| finding.subject == subject)
        .cloned()
        .unwrap_or_else(|| panic!("{subject}: {found:#?}"))
}

fn without(change: impl FnOnce(&mut Qemu)) -> HostFacts {
    let mut qemu = whole();
    change(&mut qemu);
    HostFacts { qemu: QemuFacts::Asked(Box::new(qemu)), ..good() }
}

#[test]
fn a_host_with_everything_is_ready_without_a_note() {
    let found = host(&good());
    assert!(is_ready(&found));
    assert!(found.iter().all(|finding| finding.severity == Severity::Ok), "{found:#?}");
    assert!(about(&good(), DIMM).found.contains("with libvirt too (QEMU 2.1 and libvirt 1.2.14 or later)"));
}

#[test]
fn nothing_but_what_is_well_goes_without_a_reason_and_subjects_are_unique() {
    let facts = [
        good(),
        HostFacts { qemu: QemuFacts::Absent("looked in PATH".to_owned()), ..good() },
        HostFacts { libvirt: LibvirtFacts::NotBuilt, kvm: KvmDevice::Absent, ..good() },
        without(|qemu| *qemu = Qemu { version: Version(2, 0, 0), ..Qemu::default() }),
    ];
    for facts in &facts {
        let found = host(facts);
        for finding in &found {
            assert_eq!(finding.severity == Severity::Ok, finding.reason.is_empty(), "{finding:?}");
            assert!(!finding.is_in_the_way() || finding.mend.is_some(), "{finding:?}");
        }
        let mut subjects: Vec<&str> = found.iter().map(|finding| finding.subject).collect();
        subjects.sort_unstable();
        subjects.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
    }
}

#[test]
fn a_missing_qemu_comes_with_the_distributions_own_command() {
    let on = |id: &str, arch: &str| {
        let system = HostSystem { id: id.to_owned(), arch: arch.to_owned(), ..HostSystem::default() };
        let facts = HostFacts { qemu: QemuFacts::Absent(String::new()), system, ..good() };
        about(&facts, "qemu").mend.unwrap().text().to_owned()
    };
    assert_eq!(on("debian", "x86_64"), "apt-get install qemu-system-x86");
    assert_eq!(on("ubuntu", "aarch64"), "apt-get install qemu-system-arm");
    assert_eq!(on("rhel", "x86_64"), "dnf install qemu-kvm");
    assert_eq!(on("sles", "x86_64"), "zypper install qemu-x86");
    assert_eq!(on("alpine", "aarch64"), "apk add qemu-system-aarch64");
    assert!(on("gentoo", "x86_64").contains("openEuler: dnf install qemu;"));
}

#[test]
fn a_relative_of_a_distribution_takes_its_commands_and_not_its_release() {
    let system = HostSystem {
        id: "mint".to_owned(),
        like: vec!["ubuntu".to_owned()],
        version: "22".to_owned(),
        ..debian("12")
    };
    let facts = HostFacts { libvirt: LibvirtFacts::NoLibrary("no file".to_owned()), system, ..good() };
    let mend = about(&facts, "libvirt").mend;
    assert_eq!(mend, Some(Mend::OnHost("apt-get install libvirt-daemon-system".to_owned())));
}

#[test]
fn an_old_qemu_is_told_which_release_has_a_newer_one() {
    let old = |qemu: &mut Qemu| {
        qemu.version = Version(5, 0, 0);
        qemu.types.remove("virtio-mem-pci");
    };
    let facts = HostFacts { system: debian("10"), ..without(old) };
    let finding = about(&facts, VIRTIO_MEM);
    assert_eq!(finding.severity, Severity::Note, "virtio-mem is not needed");
    assert_eq!(
        finding.mend.unwrap().text(),
        "Debian GNU/Linux 10 has it too old: go on to Debian 11 or later"
    );
    // Its own release has it: the package is behind.
    let facts = HostFacts { system: debian("12"), ..without(old) };
    assert_eq!(
        about(&facts, VIRTIO_MEM).mend.unwrap().text(),
        "apt-get install --only-upgrade qemu-system-x86"
    );
    let facts = HostFacts { system: HostSystem::default(), ..without(old) };
    assert!(about(&facts, VIRTIO_MEM).mend.unwrap().text().contains("Debian 11, Ubuntu 22.04, RHEL 8.6"));
}

#[test]
fn an_absence_that_the_version_does_not_explain_is_the_builds() {
    let facts = without(|qemu| qemu.types.retain(|name| name != "pc-dimm"));
    let finding = about(&facts, DIMM);
    assert_eq!(finding.severity, Severity::Missing);
    assert!(finding.found.contains("was built without the device pc-dimm"), "{finding:?}");
    assert!(!is_ready(&host(&facts)));
}

#[test]
fn what_libvirt_does_not_take_is_missing_although_qemu_has_it() {
    let mut older = libvirt();
    older.daemon = Version(7, 0, 0);
    older.tried.insert(VIRTIO_MEM, Err("unknown model 'virtio-mem'".to_owned()));
    let facts = HostFacts { libvirt: LibvirtFacts::Answers(Box::new(older)), system: debian("11"), ..good() };
    let finding = about(&facts, VIRTIO_MEM);
    assert!(finding.found.contains("libvirt 7.0.0 does not take it: unknown model"), "{finding:?}");
    assert!(finding.mend.unwrap().text().contains("Debian 12 or later"));
}

#[test]
fn a_probe_counts_and_a_version_does_not() {
    // A distribution's old QEMU with the device taken over from a newer one.
    let facts = without(|qemu| qemu.version = Version(4, 2, 0));
    assert_eq!(about(&facts, VIRTIO_MEM).severity, Severity::Ok);
}

#[test]
fn kvm_that_starts_is_not_said_to_boot_a_guest() {
    assert!(about(&good(), "kvm").found.contains("that a guest boots in it was not tried"));
    let facts = without(|qemu| qemu.kvm = Some(false));
    assert_eq!(about(&facts, "kvm").severity, Severity::Note);
    let facts = HostFacts { kvm: KvmDevice::Closed("Permission denied".to_owned()), ..good() };
    assert_eq!(
        about(&facts, "kvm").mend,
        Some(Mend::OnHost("sudo usermod -aG kvm $USER   # and log in again".to_owned()))
    );
}

#[test]
fn without_libvirt_a_host_is_ready_for_plain_qemu() {
    for libvirt in [
        LibvirtFacts::NotBuilt,
        LibvirtFacts::NoLibrary("no file".to_owned()),
        LibvirtFacts::Silent { uri: "qemu:///system".to_owned(), why: "refused".to_owned() },
    ] {
        let facts = HostFacts { libvirt, ..good() };
        assert!(is_ready(&host(&facts)));
        assert_eq!(about(&facts, "libvirt").severity, Severity::Note);
    }
}

#[test]
fn a_user_without_a_libvirt_of_his_own_is_shown_the_way_to_the_hosts() {
    let mend = |uri: &str| {
        let libvirt = LibvirtFacts::Silent { uri: uri.to_owned(), why: "refused".to_owned() };
        about(&HostFacts { libvirt, ..good() }, "libvirt").mend.unwrap().text().to_owned()
    };
    assert!(mend("qemu:///session").starts_with("sudo usermod -aG libvirt"));
    assert!(mend("qemu:///system").starts_with("systemctl start"));
}

#[test]
fn a_libvirt_that_starts_another_qemu_is_told() {
    let other =
        Libvirt { hypervisor: Some(Version(10, 0, 0)), emulator: Some("/opt/qemu".to_owned()), ..libvirt() };
    let facts = HostFacts { libvirt: LibvirtFacts::Answers(Box::new(other)), ..good() };
    assert!(about(&facts, "two-qemus").mend.unwrap().text().ends_with("supple doctor --qemu /opt/qemu"));
    let upgraded = Libvirt { hypervisor: Some(Version(7, 1, 0)), emulator: Some(whole().path), ..libvirt() };
    let facts = HostFacts { libvirt: LibvirtFacts::Answers(Box::new(upgraded)), ..good() };
    assert!(about(&facts, "two-qemus").mend.unwrap().text().contains("restart libvirtd"));
}

#[test]
fn limits_are_notes_with_what_changes_them() {
    let limits = LimitFacts {
        memory: Some(Bytes::gib(64)),
        available: Some(Bytes::mib(512)),
        vhost_regions: Some(64),
        memlock: Some(Bytes::mib(8)),
        address_bits: Some(39),
        nodes: vec![HostNode {
            id: 1,
            memory: Bytes::gib(32),
            free: Bytes::gib(1),
            huge_pages: vec![HugePages { size: Bytes::gib(1), total: 4, free: 0 }],
        }],
    };
    let facts = HostFacts { limits, ..good() };
    for subject in ["host-memory", "huge-pages", "vhost-regions", "locked-memory", "address-bits"] {
        assert_eq!(about(&facts, subject).severity, Severity::Note, "{subject}");
    }
    assert_eq!(about(&facts, "huge-pages").found, "node 1: 0 of 4 pages of 1 GiB free");
    assert!(is_ready(&host(&facts)), "none of them keeps a resize from working");
}
