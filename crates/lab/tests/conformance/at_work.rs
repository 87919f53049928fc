//! A machine of libvirt's that libvirt is at work on: backed up, or on its way to another host.

use std::fs;

use drive::journal::Journal;
use drive::resize::resize;
use lab::{Disk, Generation, Yes};
use scale::report::Verdict;
use scale::setting::{Iops, Throttle};
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, ThrottleWish, Wanted, Wish};
use tempfile::TempDir;

use crate::guest::recipe;
use crate::libvirt::Libvirt;
use crate::play::{Play, to, to_both};
use crate::stage::{Make, Size, Stage};
use crate::trouble::{At, Struck};

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
