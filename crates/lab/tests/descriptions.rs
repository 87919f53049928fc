//! Prepared descriptions before the judges that count: libvirt's schema, a real libvirtd, and QEMU itself.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::Result;
use drive::domxml::{Domain, Drift, HostLimits, MemoryModel, Prepare, VirtioMem, drift, prepare, trial};
use lab::{Cache, Generation, Libvirt, Libvirtd, Qemu, Schema};
use scale::units::Bytes;

/// The descriptions that `drive` is tested with, by name.
fn corpus() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../drive/tests/domxml/corpus");
    let mut found: Vec<(String, String)> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn wishes() -> Vec<Prepare> {
    let memory = Prepare { max_memory: Some(Bytes::gib(300)), slots: Some(32), ..Prepare::default() };
    let vcpus = Prepare { max_vcpus: Some(48), ..Prepare::default() };
    let device = VirtioMem { size: Some(Bytes::gib(16)), ..VirtioMem::default() };
    vec![
        memory.clone(),
        vcpus.clone(),
        Prepare { removable_vcpus: true, agent_channel: true, ..Prepare::default() },
        Prepare { virtio_mem: Some(device), ..memory.clone() },
        Prepare {
            max_vcpus: Some(48),
            removable_vcpus: true,
            virtio_mem: Some(VirtioMem::default()),
            agent_channel: true,
            ..memory
        },
    ]
}

fn host() -> HostLimits {
    HostLimits { address_bits: Some(46), ..HostLimits::default() }
}

#[test]
fn what_is_prepared_fits_libvirts_schema() {
    let cache = Cache::open().unwrap();
    let mut libvirts = vec![Libvirt::system(&cache).unwrap()];
    match Libvirt::backports(&cache) {
        Ok(newer) => libvirts.push(newer),
        Err(absent) => eprintln!("only one libvirt: {absent}"),
    }
    for libvirt in libvirts {
        let schema = Schema::of(&libvirt, &cache).unwrap();
        assert!(schema.check("<domain type='kvm'><name>n</name><vcpu>many</vcpu></domain>").is_err());
        let mut checked = 0;
        for (name, text) in corpus() {
            schema.check(&text).unwrap_or_else(|e| panic!("{name}, as it is: {e}"));
            for want in wishes() {
                let Ok(done) = prepare(&text, &want, &host()) else { continue };
                let shown = || format!("{name} for libvirt {}:\n{}", libvirt.version(), done.diff);
                schema.check(&done.xml).unwrap_or_else(|e| panic!("{e}\n{}", shown()));
                let tried = trial(&done.xml, "supple-trial").unwrap();
                schema.check(&tried).unwrap_or_else(|e| panic!("{e}\n{tried}"));
                checked += 1;
            }
        }
        assert!(checked > 100, "only {checked}");
    }
}

/// A machine that this host's libvirt could define: emulated, and without what needs a certain host.
fn emulated(text: &str) -> String {
    text.replace("type='kvm'", "type='qemu'")
        .replace("type=\"kvm\"", "type=\"qemu\"")
        .replace("mode='host-passthrough'", "mode='maximum'")
}

async fn defined(libvirtd: &Libvirtd, text: &str) -> Result<String> {
    let name = Domain::parse(text)?.name;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    libvirtd.virsh(&["define", "--validate", &file.path().display().to_string()]).await?;
    let dumped = libvirtd.virsh(&["dumpxml", "--inactive", &name]).await;
    libvirtd.virsh(&["undefine", "--nvram", &name]).await?;
    dumped
}

/// Starts a machine without running it, and tells what the running one has.
async fn started(libvirtd: &Libvirtd, text: &str) -> Result<Domain> {
    let name = Domain::parse(text)?.name;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    libvirtd.virsh(&["create", "--paused", &file.path().display().to_string()]).await?;
    let dumped = libvirtd.virsh(&["dumpxml", &name]).await;
    libvirtd.virsh(&["destroy", &name]).await?;
    Ok(Domain::parse(&dumped?)?)
}

/// What libvirt and we must read alike. Names of devices and defaults that libvirt adds are not among it.
fn essence(domain: &Domain) -> String {
    let vcpus: Vec<_> = (0..domain.vcpus.max)
        .map(|id| match domain.vcpus.each.iter().find(|vcpu| vcpu.id == id) {
            Some(vcpu) => (vcpu.enabled, vcpu.hotpluggable),
            None => (domain.vcpus.each.is_empty() && id < domain.vcpus.current, domain.vcpus.current <= id),
        })
        .collect();
    let devices: Vec<_> = domain
        .memory_devices
        .iter()
        .filter(|device| device.model != MemoryModel::VirtioPmem)
        .map(|device| (&device.model, device.size, device.node, device.block, device.requested))
        .collect();
    let (cells, topology) = (&domain.cpu.cells, domain.cpu.topology);
    let memory = (domain.memory.boot, domain.total_memory(), domain.memory.current, domain.memory.max);
    format!("{memory:?} {vcpus:?} {topology:?} {cells:?} {devices:?} {:?}", domain.agent.is_some())
}

#[tokio::test]
async fn a_machine_that_starts_still_starts_when_it_is_prepared() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let mut machines = 0;
    for (name, text) in corpus() {
        let text = emulated(&text);
        let Ok(before) = started(&libvirtd, &text).await else { continue };
        for want in &wishes()[4..] {
            let Ok(done) = prepare(&text, want, &host()) else { continue };
            let after = started(&libvirtd, &done.xml)
                .await
                .unwrap_or_else(|e| panic!("{name}: {e:#}\n{}", done.diff));
            let asked = Domain::parse(&done.xml).unwrap();
            let mut apart = drift(&after, &asked);
            // Some have devices of odd sizes, which libvirt rounds; and no guest runs that would fill a balloon.
            apart.retain(|drift| {
                let (Drift::OnlyLive { device } | Drift::OnlyNextBoot { device }) = drift else {
                    return !matches!(drift, Drift::Rounded { .. } | Drift::Balloon { .. });
                };
                device.model != MemoryModel::VirtioPmem
            });
            assert!(apart.is_empty(), "{name}: {apart:?}");
            assert_eq!(after.vcpus.current, before.vcpus.current, "{name}");
            assert!(
                after.memory_devices.iter().any(|device| device.model == MemoryModel::VirtioMem),
                "{name}"
            );
            let tried = started(&libvirtd, &trial(&done.xml, "supple-trial").unwrap())
                .await
                .unwrap_or_else(|e| panic!("{name}, thrown away: {e:#}\n{}", done.diff));
            assert_eq!((tried.memory.max, tried.vcpus.max), (after.memory.max, after.vcpus.max), "{name}");
            machines += 1;
        }
    }
    eprintln!("{machines} started");
    assert!(machines >= 15, "{machines}");
}

async fn libvirt_agrees(generation: Generation) {
    let libvirtd = Libvirtd::of(generation).await.unwrap();
    let (mut machines, mut prepared) = (0, 0);
    for (name, text) in corpus() {
        let text = emulated(&text);
        if let Err(error) = defined(&libvirtd, &text).await {
            eprintln!("{name} is not for this libvirt: {error:#}");
            continue;
        }
        machines += 1;
        for want in wishes() {
            let Ok(done) = prepare(&text, &want, &host()) else { continue };
            let dumped = defined(&libvirtd, &done.xml)
                .await
                .unwrap_or_else(|e| panic!("{name}: {e:#}\n{}", done.diff));
            let (ours, theirs) = (Domain::parse(&done.xml).unwrap(), Domain::parse(&dumped).unwrap());
            if ours.memory.current.is_some() {
                assert_eq!(essence(&ours), essence(&theirs), "{name}\n{}\n{dumped}", done.diff);
            }
            let again = prepare(&dumped, &want, &host()).unwrap_or_else(|e| panic!("{name}: {e}\n{dumped}"));
            assert!(again.is_unchanged(), "{name}\n{}", again.diff);
            prepared += 1;
        }
    }
    eprintln!("{prepared} descriptions of {machines} machines");
    assert!(machines >= 25 && prepared >= 75, "{prepared} of {machines}");
}

#[tokio::test]
async fn libvirt_defines_what_is_prepared_and_has_nothing_to_prepare_in_it() {
    libvirt_agrees(Generation::System).await;
}

#[tokio::test]
async fn a_newer_libvirt_does_too() {
    let cache = Cache::open().unwrap();
    if let Err(absent) = Libvirt::backports(&cache) {
        eprintln!("only one libvirt: {absent}");
        return;
    }
    libvirt_agrees(Generation::Backports).await;
}

/// One machine on the verge of its CPU's addresses.
struct Verge {
    machine: &'static str,
    cpu: &'static str,
    boot: u64,
    slots: u32,
}

impl Verge {
    /// The largest ceiling in GiB that `prepare` lets pass. An emulated CPU has 40 bits.
    fn ceiling(&self) -> u64 {
        let text = format!(
            "<domain type='qemu'><name>n</name><memory unit='GiB'>{}</memory><os><type arch='x86_64' \
             machine='{}'>hvm</type></os><features><acpi/></features><cpu><model>{}</model></cpu></domain>",
            self.boot, self.machine, self.cpu
        );
        let passes = |gib: &u64| {
            let max_memory = Some(Bytes::gib(*gib));
            let want = Prepare { max_memory, slots: Some(self.slots), ..Prepare::default() };
            prepare(&text, &want, &HostLimits::default()).is_ok()
        };
        (self.boot + 1..1100).rev().find(passes).expect("some ceiling passes")
    }

    /// Whether QEMU starts with that ceiling, and what it says if not.
    fn starts(&self, qemu: &Qemu, gib: u64) -> Result<(), String> {
        let memory = format!("size={}G,slots={},maxmem={gib}G", self.boot, self.slots);
        let mut command = qemu.command();
        command.args([
            "-machine",
            self.machine,
            "-accel",
            "tcg",
            "-cpu",
            self.cpu,
            "-m",
            &memory,
            "-S",
            "-nodefaults",
        ]);
        command.args(["-display", "none", "-monitor", "stdio"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that refused to start no longer reads.
        let _ = child.stdin.take().unwrap().write_all(b"quit\n");
        let done = child.wait_with_output().unwrap();
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    }
}

#[test]
fn qemu_starts_with_the_largest_ceiling_and_not_with_one_gib_more() {
    let cache = Cache::open().unwrap();
    let mut qemus = vec![Qemu::system(&cache).unwrap()];
    match Qemu::backports(&cache) {
        Ok(newer) => qemus.push(newer),
        Err(absent) => eprintln!("only one QEMU: {absent}"),
    }
    let verges = [
        Verge { machine: "q35", cpu: "Skylake-Server", boot: 1, slots: 16 },
        Verge { machine: "q35", cpu: "Skylake-Server", boot: 3, slots: 256 },
        Verge { machine: "pc", cpu: "Skylake-Server", boot: 3, slots: 16 },
        Verge { machine: "pc", cpu: "Skylake-Server", boot: 4, slots: 255 },
        Verge { machine: "q35", cpu: "qemu64", boot: 1, slots: 16 },
        Verge { machine: "pc-q35-7.0", cpu: "EPYC", boot: 1, slots: 16 },
        Verge { machine: "pc", cpu: "max", boot: 2, slots: 1 },
    ];
    for qemu in qemus {
        for verge in &verges {
            let gib = verge.ceiling();
            let shown = format!("QEMU {}, {} {}, {gib} GiB", qemu.version(), verge.machine, verge.cpu);
            verge.starts(&qemu, gib).unwrap_or_else(|said| panic!("{shown}: {said}"));
            let said = verge.starts(&qemu, gib + 1).expect_err(&shown);
            assert!(said.contains("phys-bits too low"), "{shown}: {said}");
        }
    }
}
