use super::*;

fn of(id: &str, version: &str, name: &str, arch: &str) -> &'static Row {
    let system = System::of_agent(id, version, name, arch);
    lookup(&system).unwrap_or_else(|| panic!("no row for {system:?}"))
}

#[test]
fn every_row_has_a_source_and_every_source_an_address() {
    for row in ROWS {
        assert!(!row.sources.is_empty(), "{}", row.title());
    }
    for source in sources() {
        assert!(source.url.starts_with("https://") && !source.title.is_empty(), "{source:?}");
    }
}

#[test]
fn no_two_rows_have_one_title() {
    let mut titles: Vec<String> = ROWS.iter().map(Row::title).collect();
    titles.sort();
    titles.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1]));
}

#[test]
fn nothing_is_given_back_that_cannot_be_taken() {
    for row in ROWS {
        let Row { memory: m, vcpus: v, .. } = row;
        assert!(m.add != Can::No || m.remove == Can::No, "{}", row.title());
        assert!(v.add != Can::No || v.remove == Can::No, "{}", row.title());
        assert_eq!(m.add == Can::No, m.online == Onlines::Never, "{}", row.title());
        assert_eq!(v.add == Can::No, v.online == Onlines::Never, "{}", row.title());
    }
}

#[test]
fn no_windows_gives_anything_back() {
    for row in ROWS.iter().filter(|row| row.applies.ids == ["mswindows"]) {
        assert_eq!((row.memory.remove, row.vcpus.remove), (Can::No, Can::No), "{}", row.title());
    }
}

#[test]
fn an_edition_decides_on_older_windows() {
    let row = |name: &str| of("mswindows", "2008r2", name, "x86_64");
    assert_eq!(row("Windows Server 2008 R2 Datacenter").vcpus.add, Can::Yes);
    assert_eq!(row("Windows Server 2008 R2 Enterprise").vcpus.add, Can::No);
    assert_eq!(row("Windows Server 2008 R2 Enterprise").memory.add, Can::Yes);
    assert_eq!(row("Windows Server 2008 R2 Standard").memory.add, Can::No);
    assert_eq!(of("mswindows", "2003", "Windows Server 2003 Web", "x86_64").memory.add, Can::No);
    assert_eq!(of("mswindows", "11", "Windows 10 Home", "x86_64").editions, "Home");
    assert_eq!(of("mswindows", "2008", "Windows Server 2008 Datacenter", "x86").memory.add, Can::No);
}

#[test]
fn windows_7_is_known_by_its_name_where_the_agent_has_no_version() {
    let row = of("mswindows", "", "Windows 7 Ultimate", "x86_64");
    assert_eq!(row.editions, "Enterprise and Ultimate");
}

#[test]
fn a_windows_that_is_younger_than_its_agent_is_known_by_its_name() {
    for told in ["2022", "N/A"] {
        let row = of("mswindows", told, "Windows Server 2025 Datacenter", "x86_64");
        assert_eq!(row.name, "Windows Server 2025");
    }
    assert_eq!(of("mswindows", "2008", "Windows Server 2008 R2 Datacenter", "x86_64").editions, "Datacenter");
    assert_eq!(
        of("mswindows", "2003r2", "Windows Server 2003 R2 Web", "x86_64").editions,
        "Standard and Web"
    );
    // What nobody knows yet gives nothing back either.
    let row = of("mswindows", "N/A", "Windows Server 2031 Standard", "x86_64");
    assert_eq!((row.name, row.vcpus.remove), ("any other Windows", Can::No));
}

#[test]
fn what_a_row_says_is_cited_from_where_it_was_read() {
    let row = of("mswindows", "2022", "Windows Server 2022 Standard", "x86_64");
    let cited = |claim: Claim| row.source(claim).unwrap().title;
    assert!(cited(Claim::GivesDimm).contains("never answers an ACPI eject request"));
    assert!(cited(Claim::GivesVcpu).contains("removal on Linux only"));
    assert!(cited(Claim::TakesDimm).contains("hotplug_memory.cfg"));
    for row in ROWS {
        let claims = [Claim::TakesDimm, Claim::GivesDimm, Claim::TakesVcpu, Claim::GivesVcpu, Claim::Drivers];
        assert!(claims.iter().all(|claim| row.source(*claim).is_some()), "{}", row.title());
    }
}

#[test]
fn every_system_that_is_named_has_a_row() {
    let windows =
        ["2003", "2008", "2008r2", "2012", "2012r2", "2016", "2019", "2022", "2025", "7", "8", "10", "11"];
    for version in windows {
        of("mswindows", version, "Windows", "x86_64");
    }
    for id in ["rhel", "centos"] {
        for version in ["5.11", "6.10", "7", "7.9", "8", "9.4", "10.0"] {
            of(id, version, "", "x86_64");
        }
    }
    let others = [
        ("debian", "9"),
        ("debian", "10"),
        ("debian", "11"),
        ("debian", "12"),
        ("debian", "13"),
        ("ubuntu", "16.04"),
        ("ubuntu", "18.04"),
        ("ubuntu", "20.04"),
        ("ubuntu", "22.04"),
        ("ubuntu", "24.04"),
        ("sles", "12.5"),
        ("sles", "15.4"),
        ("sles", "16.0"),
        ("opensuse-leap", "15.6"),
        ("openEuler", "20.03"),
        ("openEuler", "24.03"),
        ("freebsd", "14.2"),
    ];
    for (id, version) in others {
        of(id, version, "", "x86_64");
    }
}

#[test]
fn versions_are_read_as_numbers() {
    assert_eq!(of("ubuntu", "22.04", "", "x86_64").memory.virtio_mem, Can::Maybe);
    assert_eq!(of("ubuntu", "24.04", "", "x86_64").memory.virtio_mem, Can::Yes);
    assert_eq!(of("ubuntu", "18.04", "", "x86_64").memory.virtio_mem, Can::No);
    assert_eq!(of("debian", "13", "", "x86_64").memory.online, Onlines::Kernel);
    assert!(
        lookup(&System::of_agent("debian", "sid", "", "x86_64")).is_none(),
        "an unknown version is not guessed"
    );
}

#[test]
fn arm64_comes_before_the_distribution() {
    assert_eq!(of("debian", "12", "", "aarch64").vcpus.add, Can::No);
}

#[test]
fn libosinfos_names_find_the_same_rows() {
    let row = |id: &str| lookup(&System::of_libosinfo(id, "x86_64").unwrap()).map(Row::title);
    let titled = |title: &str| Some(title.to_owned());
    assert_eq!(row("http://microsoft.com/win/2k22"), titled("Windows Server 2022"));
    assert_eq!(
        row("http://microsoft.com/win/2k8r2"),
        titled("Windows Server 2008, 2008 R2, Standard, Web, Foundation")
    );
    assert_eq!(row("http://debian.org/debian/12"), titled("Debian 12"));
    assert_eq!(row("http://centos.org/centos-stream/9"), row("http://redhat.com/rhel/9.2"));
    assert_eq!(row("http://suse.com/sle/15.4"), row("http://opensuse.org/opensuse/15.5"));
    assert_eq!(row("http://freebsd.org/freebsd/13.1"), titled("FreeBSD"));
    assert_eq!(row("http://haiku-os.org/haiku/nightly"), None);
    assert_eq!(System::of_libosinfo("nonsense", "x86_64"), None);
}

#[test]
fn a_source_is_listed_once() {
    let all = sources();
    for (at, source) in all.iter().enumerate() {
        assert!(!all[..at].contains(source), "{source:?}");
    }
    assert_eq!(numbers(&ROWS[0], &all), "1, 2");
}
