//! Disks and CPU power of a machine of libvirt's: grown, limited and read back by libvirt's own calls, on both of its
//! descriptions, and felt in the guest.

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::libvirt::LibvirtMachine;
use drive::resize::{ResizeError, resize};
use lab::{Disk, DomainGuest, Generation, Libvirtd, Recipe, Yes};
use scale::limits::Limits;
use scale::observed::{Known, Observed};
use scale::report::{Report, Verdict};
use scale::setting::{Burst, CpuPower, Iops, Millicpus, Throttle, Weight};
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, ThrottleWish, Wanted, Wish};

struct Stage {
    machine: LibvirtMachine,
    guest: DomainGuest,
    libvirtd: Libvirtd,
}

impl Stage {
    async fn of(libvirtd: Libvirtd, recipe: Recipe) -> Stage {
        let guest = libvirtd.boot("web1", &recipe).await.unwrap();
        let machine =
            LibvirtMachine::open(&libvirtd.connect_uri(), "web1", &Limits::default()).await.unwrap();
        Stage { machine, guest, libvirtd }
    }

    async fn apply(&mut self, wanted: Wanted) -> Result<Report, ResizeError> {
        let mut journal = MemoryJournal::default();
        resize(&mut self.machine, &mut journal, wanted, &Limits::default(), &mut Yes).await
    }

    async fn proven(&mut self, wanted: Wanted) -> Observed {
        let report = self.apply(wanted).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", self.libvirtd.log());
        self.machine.observe().await.unwrap()
    }

    async fn virsh(&self, words: &[&str]) -> String {
        self.libvirtd.virsh(words).await.unwrap()
    }

    async fn run(&self, command: &str) -> String {
        self.guest.shell(command).await.unwrap().ok().unwrap()
    }
}

fn on(disk: &str, wish: DiskWish) -> Wanted {
    Wanted { disks: [(disk.to_owned(), wish)].into(), ..Wanted::default() }
}

fn size(size: Bytes) -> DiskWish {
    DiskWish { size: Some(Change::To(size)), ..DiskWish::default() }
}

fn total<T>(steady: T, burst: Option<Burst<T>>) -> ThrottleWish<T> {
    ThrottleWish { total: Wish::To(Throttle { steady, burst }), ..ThrottleWish::default() }
}

async fn disks(generation: Generation) {
    let recipe = Recipe::q35()
        .disk(Disk::new("root", Bytes::mib(128)).qcow2())
        .disk(Disk::new("data", Bytes::mib(64)).scsi());
    let mut stage = Stage::of(Libvirtd::of(generation).await.unwrap(), recipe).await;
    stage.run("mkfs.ext4 -q /dev/vda && mkdir /a && mount /dev/vda /a && echo kept > /a/file").await;
    let seen = stage.machine.observe().await.unwrap();
    let names: Vec<&str> = seen.disks().iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["vda", "sda"], "{:?}", seen.disks);
    assert!(seen.disks()[0].aliases.contains(&"root".to_owned()), "{:?}", seen.disks);

    let seen = stage.proven(on("root", size(Bytes::mib(256)))).await;
    assert_eq!(seen.disks()[0].size, Bytes::mib(256));
    let df: u64 = stage.run("df -kP /a | tail -n 1 | awk '{print $2}'").await.parse().unwrap();
    assert!(df > 220 << 10, "{df} KiB");
    assert_eq!(stage.run("cat /a/file").await, "kept");
    let refused = stage.apply(on("vda", size(Bytes::mib(128)))).await.unwrap_err();
    assert!(refused.to_string().starts_with("IMPOSSIBLE"), "{refused}");

    let burst = Some(Burst { to: Iops::new(200), seconds: 3 });
    let iops = DiskWish { iops: total(Iops::new(100), burst), ..DiskWish::default() };
    let seen = stage.proven(on("sda", iops)).await;
    let rate = DiskWish { rate: total(Bytes::mib(8), None), ..DiskWish::default() };
    let both = stage.proven(on("sda", rate)).await;
    let io = |seen: &Observed| seen.disks()[1].io.known().unwrap().clone();
    assert_eq!(io(&both).iops, io(&seen).iops, "one kind does not reset the other");
    assert_eq!(io(&both).iops.total, Some(Throttle { steady: Iops::new(100), burst }));
    for side in ["--live", "--config"] {
        let told = stage.virsh(&["blkdeviotune", "web1", "sda", side]).await;
        let has = |words: &[&str]| {
            told.lines()
                .any(|line| line.split([' ', ':']).filter(|w| !w.is_empty()).eq(words.iter().copied()))
        };
        let all = has(&["total_iops_sec", "100"])
            && has(&["total_iops_sec_max", "200"])
            && has(&["total_iops_sec_max_length", "3"])
            && has(&["total_bytes_sec", "8388608"]);
        assert!(all, "{side}: {told}");
    }
}

#[tokio::test]
async fn disks_grow_and_are_limited_under_libvirts_names() {
    disks(Generation::System).await;
}

#[tokio::test]
async fn disks_of_a_newer_libvirt_grow_and_are_limited_alike() {
    disks(Generation::Backports).await;
}

async fn power(generation: Generation) {
    let libvirtd = Libvirtd::with_cpu_groups(generation).await.unwrap();
    let mut stage = Stage::of(libvirtd, Recipe::q35().vcpus(1, 4)).await;
    let limit =
        |thousandths| Wanted { cpu_limit: Wish::To(Millicpus::new(thousandths)), ..Wanted::default() };
    let Known::Is(free) = stage.machine.observe().await.unwrap().power else {
        // A user's libvirt has no control groups and says so, and nothing is tried.
        let refused = stage.apply(limit(500)).await;
        return assert!(refused.is_err() && stage.libvirtd.connect_uri().contains("session"), "{refused:?}");
    };
    let seen = stage.proven(limit(1500)).await;
    assert_eq!(seen.power, Known::Is(CpuPower { limit: Some(Millicpus::new(1500)), ..free }));
    stage.proven(Wanted { vcpus: Some(Change::To(2)), ..Wanted::default() }).await;
    let weight = Weight::new(300).unwrap();
    let seen = stage.proven(Wanted { cpu_weight: Some(weight), ..Wanted::default() }).await;
    let all = CpuPower { limit: Some(Millicpus::new(1500)), weight };
    assert_eq!(seen.power, Known::Is(all), "vCPUs and weight leave the limit as it is");
    for side in ["--live", "--config"] {
        let told = stage.virsh(&["schedinfo", "web1", side]).await;
        assert!(
            told.lines().any(|line| line.starts_with("global_quota") && line.ends_with(" 150000")),
            "{told}"
        );
    }
    let lift = Wanted { cpu_limit: Wish::Lift, cpu_weight: Some(free.weight), ..Wanted::default() };
    assert_eq!(stage.proven(lift).await.power, Known::Is(free));

    stage.virsh(&["schedinfo", "web1", "--live", "--set", "vcpu_quota=50000"]).await;
    let refused = stage.apply(limit(500)).await.unwrap_err().to_string();
    assert!(refused.contains("vcpu_quota=-1"), "{refused}");
}

#[tokio::test]
async fn libvirt_holds_cpu_power_and_a_limit_of_others_is_left_alone() {
    power(Generation::System).await;
}

#[tokio::test]
async fn a_newer_libvirt_holds_cpu_power_alike() {
    power(Generation::Backports).await;
}
