//! A machine of libvirt's that libvirt is at work on: backed up, or on its way to another host.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use drive::Hypervisor;
use drive::domxml::{Domain, drift};
use drive::journal::Journal;
use drive::libvirt::{LibvirtMachine, OpenError};
use drive::resize::resize;
use lab::{Disk, Generation, Libvirtd, Yes, eventually};
use scale::limits::Limits;
use scale::report::Verdict;
use scale::setting::{Iops, Throttle};
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, ThrottleWish, Wanted, Wish};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::guest::recipe;
use crate::libvirt::Libvirt;
use crate::play::{Play, to, to_both};
use crate::stage::{Make, SMALL, Size, Stage};
use crate::trouble::{At, Struck};

const SOON: Duration = Duration::from_secs(60);
const GROWN: Bytes = Bytes::mib(768);

fn on(disk: &str, wish: DiskWish) -> Wanted {
    Wanted { disks: [(disk.to_owned(), wish)].into(), ..Wanted::default() }
}

fn size(size: Bytes) -> DiskWish {
    DiskWish { size: Some(Change::To(size)), ..DiskWish::default() }
}

fn iops(steady: u64) -> DiskWish {
    let total = Wish::To(Throttle { steady: Iops::new(steady), burst: None });
    DiskWish { iops: ThrottleWish { total, ..ThrottleWish::default() }, ..DiskWish::default() }
}

/// A backup that a client may fetch for as long as it likes: it lasts until it is ended.
struct Backup {
    description: String,
    _dir: TempDir,
}

impl Backup {
    fn of(disk: &str) -> Backup {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let xml = format!(
            "<domainbackup mode='pull'><server transport='unix' socket='{at}/nbd.sock'/><disks>\
             <disk name='{disk}' backup='yes' type='file'><scratch file='{at}/scratch'/></disk>\
             </disks></domainbackup>"
        );
        let file = dir.path().join("backup.xml");
        fs::write(&file, xml).unwrap();
        Backup { description: file.display().to_string(), _dir: dir }
    }

    async fn begin(&self, stage: &Libvirt) {
        stage.libvirtd.virsh(&["backup-begin", "web1", &self.description]).await.unwrap();
    }

    async fn end(&self, stage: &Libvirt) {
        stage.libvirtd.virsh(&["domjobabort", "web1"]).await.unwrap();
    }
}

/// `supple apply` of a disk's growth that a backup of it stands in the way of.
async fn refused(play: &mut Play<Libvirt>, disk: &str, to: Bytes) {
    let why = play.resize(&on(disk, size(to))).await.unwrap_err().to_string();
    assert!(why.contains("a backup") && why.contains("virsh domjobabort web1"), "{why}");
    assert!(play.journal().history().open().is_none());
}

/// How large QEMU says that the first disk is.
async fn first(play: &Play<Libvirt>) -> Bytes {
    let told = play.stage.guest.ask("query-block").await.unwrap();
    Bytes::new(told[0]["inserted"]["image"]["virtual-size"].as_u64().unwrap())
}

#[tokio::test]
async fn a_backup_keeps_its_own_disk_from_growing_and_nothing_else() {
    let recipe = recipe(Make::Plain)
        .disk(Disk::new("root", Bytes::mib(128)).qcow2())
        .disk(Disk::new("data", Bytes::mib(64)).scsi());
    let mut play = Play::on(Libvirt::with(Generation::asked_for().unwrap(), &recipe).await);
    let (backup, larger) = (Backup::of("vda"), Bytes::mib(256));
    backup.begin(&play.stage).await;
    play.proven(&to_both(GROWN, 2)).await;
    for disk in ["vda", "sda"] {
        let report = play.resize(&on(disk, iops(200))).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
        for side in ["--live", "--config"] {
            let told = play.stage.libvirtd.virsh(&["blkdeviotune", "web1", disk, side]).await.unwrap();
            let limit = told.lines().find(|line| line.starts_with("total_iops_sec ")).unwrap_or(&told);
            assert!(limit.ends_with(" 200"), "{side}: {told}");
        }
    }
    refused(&mut play, "vda", larger).await;
    assert_eq!(first(&play).await, Bytes::mib(128));
    let report = play.resize(&on("sda", size(larger))).await.unwrap();
    assert_eq!(report.verdict, Verdict::Proven, "a disk that is not backed up: {report:#?}");

    backup.end(&play.stage).await;
    let report = play.resize(&on("vda", size(larger))).await.unwrap();
    assert_eq!((report.verdict, first(&play).await), (Verdict::Proven, larger), "{report:#?}");
    play.stage.is_level().await;
    play.stage.end().await;
}

#[tokio::test]
async fn a_backup_that_begins_midway_leaves_its_disk_as_it_was_and_the_rest_whole() {
    let recipe = recipe(Make::Plain).disk(Disk::new("root", Bytes::mib(128)).qcow2());
    let mut play = Play::on(Libvirt::with(Generation::asked_for().unwrap(), &recipe).await);
    let (backup, larger) = (Backup::of("vda"), Bytes::mib(256));
    let both = Wanted { disks: on("vda", size(larger)).disks, ..to(GROWN) };
    let (limits, mut journal) = (play.limits.clone(), play.journal());
    let driver = play.stage.connect(&limits).await;
    let begin = async || backup.begin(&play.stage).await;
    // The DIMM is plugged and not online yet.
    let mut struck = Struck::new(driver, At::After(1), begin);
    let report = resize(&mut struck, &mut journal, both.clone(), &limits, &mut Yes).await.unwrap();
    drop((struck, journal));
    assert_eq!((report.verdict, first(&play).await), (Verdict::Partial, Bytes::mib(128)), "{report:#?}");
    assert!(report.held_back.iter().any(|why| why.contains("busy: a backup")), "{report:#?}");
    assert_eq!(play.stage.online().await, Size { memory: GROWN, vcpus: 1 });
    play.stage.is_level().await;
    refused(&mut play, "vda", larger).await;

    backup.end(&play.stage).await;
    play.proven(&both).await;
    assert_eq!(first(&play).await, larger);
    play.stage.end().await;
}

/// A libvirtd that machines can be migrated to.
async fn elsewhere() -> Libvirtd {
    Libvirtd::of(Generation::asked_for().unwrap()).await.unwrap()
}

/// Moves the machine so slowly that it does not arrive, until it is ended.
async fn crawls(stage: &Libvirt, to: &Libvirtd) {
    let ended = stage.libvirtd.migrate("web1", to, &["--bandwidth", "1"]).await.unwrap_err().to_string();
    assert!(ended.contains("canceled by client"), "{ended}");
}

/// Waits until `supple` refuses to open a machine that libvirt is at work on, and gives what it says.
async fn held(libvirtd: &Libvirtd) -> String {
    let (uri, limits) = (libvirtd.connect_uri(), Limits::default());
    let refused = eventually("a job is in the way", SOON, async || {
        match LibvirtMachine::open(&uri, "web1", &limits).await {
            Err(held @ OpenError::Held { .. }) => Ok(Some(held.to_string())),
            // It has not begun.
            Ok(_) | Err(OpenError::Find(_) | OpenError::NotRunning { .. }) => Ok(None),
            Err(other) => Err(other.into()),
        }
    });
    refused.await.unwrap()
}

#[tokio::test]
async fn a_machine_that_is_migrated_is_refused_on_both_hosts_and_resized_where_it_ends() {
    let mut play = Play::on(Libvirt::with(Generation::asked_for().unwrap(), &recipe(Make::Plain)).await);
    let (second, limits) = (elsewhere().await, play.limits.clone());
    let (mut early, mut journal) = (play.stage.connect(&limits).await, play.journal());
    let here = &play.stage.libvirtd;
    let ((), refused) = tokio::join!(crawls(&play.stage, &second), async {
        let refused = [held(here).await, held(&second).await];
        let since = early.now();
        let resized = resize(&mut early, &mut journal, to(GROWN), &limits, &mut Yes).await.unwrap_err();
        let took = early.now().since(since);
        here.virsh(&["domjobabort", "web1"]).await.unwrap();
        assert!(took < Span::secs(10), "it is told at once, not after {took}");
        let [left, arriving] = refused;
        [left, arriving, resized.to_string()]
    });
    for (refused, what) in refused.iter().zip(["a migration", "an incoming migration", "a migration"]) {
        assert!(refused.contains(what) && refused.contains("domjobinfo"), "{refused}");
    }
    assert!(journal.history().open().is_none());
    drop((early, journal));
    assert_eq!(play.stage.plugged().await.memory, SMALL);
    play.proven(&to(GROWN)).await;
    play.stage.has_served().await;

    play.stage.libvirtd.migrate("web1", &second, &[]).await.unwrap();
    let gone = LibvirtMachine::open(&play.stage.libvirtd.connect_uri(), "web1", &limits).await.unwrap_err();
    assert!(matches!(gone, OpenError::Find(_)), "{gone}");
    let mut there = LibvirtMachine::open(&second.connect_uri(), "web1", &limits).await.unwrap();
    for (memory, vcpus) in [(Bytes::gib(1), 2), (SMALL, 2)] {
        let wanted = to_both(memory, vcpus);
        let report = resize(&mut there, &mut play.journal(), wanted, &limits, &mut Yes).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", second.log());
        let described = async |words: &[&str]| Domain::parse(&second.virsh(words).await.unwrap()).unwrap();
        let (live, next) =
            (described(&["dumpxml", "web1"]).await, described(&["dumpxml", "web1", "--inactive"]).await);
        assert_eq!(drift(&live, &next), []);
    }
}

#[tokio::test]
async fn a_migration_that_begins_midway_leaves_what_was_done_whole() {
    let mut play = Play::on(Libvirt::with(Generation::asked_for().unwrap(), &recipe(Make::Plain)).await);
    let (second, limits) = (elsewhere().await, play.limits.clone());
    let (driver, mut journal) = (play.stage.connect(&limits).await, play.journal());
    let here = &play.stage.libvirtd;
    let (begin, begun) = oneshot::channel();
    let blow = async || {
        begin.send(()).unwrap();
        held(here).await;
    };
    // The DIMM is plugged and not online yet: the agent may still be asked for that, and QEMU nothing.
    let mut struck = Struck::new(driver, At::After(1), blow);
    let ((), report) = tokio::join!(
        async {
            begun.await.unwrap();
            crawls(&play.stage, &second).await;
        },
        async {
            let report = resize(&mut struck, &mut journal, to(GROWN), &limits, &mut Yes).await.unwrap();
            here.virsh(&["domjobabort", "web1"]).await.unwrap();
            report
        }
    );
    assert_ne!(report.verdict, Verdict::Proven, "nobody saw the end of it: {report:#?}");
    assert!(report.held_back.iter().any(|why| why.contains("at work on a migration")), "{report:#?}");
    assert!(journal.history().open().is_none() && report.left_behind.is_empty(), "{report:#?}");
    drop((struck, journal));
    let size = play.stage.plugged().await;
    assert_eq!((size.memory, play.stage.online().await), (GROWN, size), "{report:#?}");
    play.stage.is_level().await;
    play.proven(&to(SMALL)).await;
    play.stage.end().await;
}

#[tokio::test]
async fn a_qemu_that_does_not_answer_libvirt_is_told_at_once() {
    let mut play = Play::on(Libvirt::with(Generation::asked_for().unwrap(), &recipe(Make::Plain)).await);
    let process = play.observe().await.host.qemu_pid.unwrap().to_string();
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &process]).status().unwrap().success());
    };
    let here = &play.stage.libvirtd;
    signal("-STOP");
    let (asked, (refused, took)) = tokio::join!(play.stage.guest.ask("query-status"), async {
        eventually("libvirt has waited for QEMU for 6 s", SOON, async || {
            let told = here.virsh(&["domcontrol", "web1"]).await?;
            let waited = told.strip_prefix("occupied (").and_then(|rest| rest.split('.').next());
            Ok(waited.is_some_and(|seconds| seconds.parse::<u64>().unwrap() >= 6).then_some(()))
        })
        .await
        .unwrap();
        let since = Instant::now();
        let refused = LibvirtMachine::open(&here.connect_uri(), "web1", &Limits::default()).await;
        let took = since.elapsed();
        signal("-CONT");
        (refused.unwrap_err(), took)
    });
    assert_eq!(asked.unwrap()["running"], true);
    assert!(matches!(refused, OpenError::Stuck { .. }), "{refused}");
    assert!(refused.to_string().contains("domcontrol") && took < SOON / 6, "{took:?}: {refused}");
    // It stood still.
    play.stage.watch_anew();
    play.proven(&to(GROWN)).await;
    play.stage.end().await;
}
