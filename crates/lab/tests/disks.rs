//! Disks of real guests, grown to what `df` shows: a filesystem on a partition, one on a whole disk, one on LVM, one in a
//! LUKS container. Each is looked at from three sides: QEMU's, the guest's kernel's, the filesystem's; what was written
//! before is read back after, and the guest's network service loses nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::qmp::QmpMachine;
use drive::resize::{ResizeError, resize};
use lab::{Agent, Disk, Inside, Machine, Recipe, Yes};
use scale::limits::Limits;
use scale::observed::{DiskBus, Known, LayerKind, Lies, Observed};
use scale::report::{Report, Verdict};
use scale::setting::{DiskIo, Iops, Throttle};
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, ThrottleWish, Wanted, Wish};
use serde_json::Value;

/// An emulated guest makes and fills file systems slowly.
const LONG: Duration = Duration::from_secs(180);
/// What may be slow by chance is measured so often at most.
const TRIES: usize = 5;

/// A fresh disk with what an administrator makes on it, mounted.
struct Kept {
    disk: &'static str,
    at: &'static str,
    make: &'static str,
}

const PARTITION: Kept = Kept {
    disk: "root",
    at: "/kept/part",
    make: "printf 'label: gpt\\n, +\\n' | sfdisk -q /dev/vda && mkfs.ext4 -q /dev/vda1 && mount /dev/vda1 /kept/part",
};
const WHOLE: Kept = Kept {
    disk: "data",
    at: "/kept/whole disk",
    make: "mkfs.xfs -q /dev/sda && mount /dev/sda '/kept/whole disk'",
};
const LVM: Kept = Kept {
    disk: "pool",
    at: "/kept/lvm",
    make: "pvcreate -q /dev/vdb && vgcreate -q my-vg /dev/vdb && lvcreate -q -l 100%FREE -n lv my-vg && \
           mkfs.ext4 -q /dev/my-vg/lv && mount /dev/my-vg/lv /kept/lvm",
};
/// A second partition table, on which the machine has no growpart; LUKS of the first version asks for no password again.
const LUKS: Kept = Kept {
    disk: "safe",
    at: "/kept/safe",
    make: "printf 'label: dos\\n, +\\n' | sfdisk -q /dev/vdc && echo secret | cryptsetup luksFormat -q --type luks1 \
           --pbkdf-force-iterations 1000 /dev/vdc1 && echo secret | cryptsetup open /dev/vdc1 safe && \
           mkfs.btrfs -q /dev/mapper/safe && mount /dev/mapper/safe /kept/safe",
};

fn recipe() -> Recipe {
    Recipe::q35()
        .memory(Bytes::mib(768))
        .disk(Disk::new("root", Bytes::mib(256)).qcow2())
        .disk(Disk::new("pool", Bytes::mib(256)))
        .disk(Disk::new("safe", Bytes::mib(256)))
        .disk(Disk::new("data", Bytes::mib(320)).scsi())
}

async fn run(guest: &Inside, command: &str) -> String {
    guest.witness().shell(command, LONG).await.unwrap().ok().unwrap()
}

impl Kept {
    /// Makes it, and fills a quarter of it with what is known.
    async fn make(&self, guest: &Inside) -> String {
        run(guest, &format!("mkdir -p '{}'", self.at)).await;
        // LVM complains of every file that its caller has open, and it is the caller of this that has them.
        run(guest, &format!("exec 3>&- 4>&-; {}", self.make)).await;
        run(guest, &format!("dd if=/dev/urandom of='{}/noise' bs=1M count=40 2> /dev/null", self.at)).await;
        self.sum(guest).await
    }

    /// Of what the disk itself has, not the guest's memory.
    async fn sum(&self, guest: &Inside) -> String {
        run(guest, &format!("sync; echo 3 > /proc/sys/vm/drop_caches; crc32 '{}/noise'", self.at)).await
    }

    /// What `df` shows.
    async fn size(&self, guest: &Inside) -> Bytes {
        let line = run(guest, &format!("df -kP '{}' | tail -n 1", self.at)).await;
        let words: Vec<&str> = line.split_whitespace().collect();
        Bytes::new(1024).times(words[1].parse().unwrap())
    }
}

async fn open(guest: &Machine) -> QmpMachine {
    QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await.unwrap()
}

fn wanted(sizes: &[(&str, Bytes)]) -> Wanted {
    let wish = |size: &Bytes| DiskWish { size: Some(Change::To(*size)), ..DiskWish::default() };
    let disks = sizes.iter().map(|(name, size)| ((*name).to_owned(), wish(size))).collect();
    Wanted { disks, ..Wanted::default() }
}

async fn apply(guest: &Machine, wanted: Wanted) -> Result<Report, ResizeError> {
    let (mut machine, mut journal) = (open(guest).await, MemoryJournal::default());
    resize(&mut machine, &mut journal, wanted, &Limits::default(), &mut Yes).await
}

/// The sizes of all disks as QEMU tells them.
async fn sizes(guest: &Machine) -> BTreeMap<String, Bytes> {
    let list = guest.execute("query-block", Value::Null).await.unwrap();
    let size = |info: &Value| {
        let node = info["inserted"]["node-name"].as_str()?.strip_prefix("node-")?.to_owned();
        Some((node, Bytes::new(info["inserted"]["image"]["virtual-size"].as_u64()?)))
    };
    list.as_array().unwrap().iter().filter_map(size).collect()
}

fn layers(seen: &Observed, disk: &str) -> Vec<String> {
    let disk = seen.disks().iter().find(|one| one.name == disk).unwrap();
    let mut layers = &disk.guest.known().unwrap().layers;
    let mut names = Vec::new();
    while let Some(layer) = layers.last() {
        names.push(layer.name());
        layers = &layer.above;
    }
    names
}

#[tokio::test]
async fn disks_grow_to_what_df_shows_and_keep_what_is_on_them() {
    let guest = recipe().boot().await.unwrap();
    let all = [PARTITION, WHOLE, LVM, LUKS];
    let mut before = Vec::new();
    for kept in &all {
        before.push((kept.make(&guest).await, kept.size(&guest).await));
    }
    let seen = open(&guest).await.observe().await.unwrap();
    let lv = "/dev/mapper/my--vg-lv";
    assert_eq!(layers(&seen, "root"), ["partition /dev/vda1", "ext4 /dev/vda1"]);
    assert_eq!(layers(&seen, "data"), ["xfs /dev/sda"]);
    let volumes = ["physical volume /dev/vdb", &format!("logical volume {lv}"), &format!("ext4 {lv}")];
    assert_eq!(layers(&seen, "pool"), volumes);
    let safe = ["partition /dev/vdc1", "LUKS /dev/mapper/safe", "btrfs /dev/mapper/safe"];
    assert_eq!(layers(&seen, "safe"), safe);

    let service = guest.watch_service();
    let to = Bytes::mib(640);
    let report = apply(&guest, wanted(&all.each_ref().map(|kept| (kept.disk, to)))).await.unwrap();
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    assert!(sizes(&guest).await.values().all(|size| *size == to));
    for (kept, (sum, size)) in all.iter().zip(before) {
        let now = kept.size(&guest).await;
        assert!(now > Bytes::mib(530) && now > size + Bytes::mib(200), "{}: {size} became {now}", kept.at);
        assert_eq!(kept.sum(&guest).await, sum, "what was on {} is there", kept.disk);
    }
    // And it can be used.
    let fill = "cd /kept/part && dd if=/dev/zero of=more bs=1M count=450 2> /dev/null && sync && rm more";
    run(&guest, fill).await;
    let again = apply(&guest, wanted(&all.each_ref().map(|kept| (kept.disk, to)))).await.unwrap();
    assert!(again.steps.is_empty(), "it is as asked: {again:#?}");

    let refused = apply(&guest, wanted(&[("vda", Bytes::mib(256))])).await.unwrap_err();
    assert!(refused.to_string().starts_with("IMPOSSIBLE"), "{refused}");
    assert_eq!(sizes(&guest).await["root"], to, "nothing was cut");
    assert_eq!(service.finish().await.lost, 0);
}

/// Reads so many pieces of so many KiB past the guest's memory, and tells for how many seconds.
async fn reading(guest: &Inside, device: &str, kib: u64, pieces: u64) -> f64 {
    let read = format!(
        "read a _ < /proc/uptime; dd if={device} of=/dev/null bs={kib}k count={pieces} iflag=direct 2> /dev/null && \
         read b _ < /proc/uptime && echo $a $b"
    );
    let told = run(guest, &read).await;
    let (began, ended) = told.split_once(' ').unwrap();
    ended.parse::<f64>().unwrap() - began.parse::<f64>().unwrap()
}

/// What is read takes so many seconds. A busy machine can only make it slower, so too slow is measured again, a few
/// times; too fast never is.
async fn takes(what: &str, seconds: Range<f64>, read: impl AsyncFn() -> f64) {
    let mut took = Vec::new();
    while took.len() < TRIES {
        let now = read().await;
        took.push(now);
        assert!(now >= seconds.start, "{what} took {took:?} s");
        if now < seconds.end {
            return;
        }
    }
    panic!("{what} took {took:?} s");
}

/// What is asked of a disk's operations or bytes a second.
fn limited<T>(total: T) -> ThrottleWish<T> {
    let total = Wish::To(Throttle { steady: total, burst: None });
    ThrottleWish { total, ..ThrottleWish::default() }
}

#[tokio::test]
async fn io_is_held_to_its_limit_and_no_limit_resets_another() {
    let recipe = Recipe::q35()
        .disk(Disk::new("own", Bytes::mib(64)).qcow2())
        .disk(Disk::new("one", Bytes::mib(64)).in_group("tier"))
        .disk(Disk::new("two", Bytes::mib(64)).in_group("tier").scsi());
    let guest = recipe.boot().await.unwrap();
    let free = reading(&guest, "/dev/vda", 4, 100).await;
    let io = async |name: &str, wish: DiskWish| {
        let disks = [(name.to_owned(), wish)].into();
        let report = apply(&guest, Wanted { disks, ..Wanted::default() }).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
        let seen = open(&guest).await.observe().await.unwrap();
        seen.disks().iter().map(|disk| disk.io.known().unwrap().clone()).collect::<Vec<DiskIo>>()
    };

    let held = io("vda", DiskWish { iops: limited(Iops::new(40)), ..DiskWish::default() }).await;
    assert_eq!(held[0].iops.total.map(|total| total.steady), Some(Iops::new(40)));
    assert!(held[0].group.is_none() && held[1].iops.is_free());
    let read = async || reading(&guest, "/dev/vda", 4, 200).await;
    takes(&format!("200 operations at 40 a second, 100 without a limit in {free} s,"), 4.0..10.0, read).await;

    let both = io("own", DiskWish { rate: limited(Bytes::mib(4)), ..DiskWish::default() }).await;
    assert_eq!((both[0].iops, both[0].bytes.total.map(|t| t.steady)), (held[0].iops, Some(Bytes::mib(4))));
    let lift = ThrottleWish { total: Wish::Lift, ..ThrottleWish::default() };
    let bytes = io("own", DiskWish { iops: lift, ..DiskWish::default() }).await;
    assert!(bytes[0].iops.is_free() && !bytes[0].bytes.is_free());
    let read = async || reading(&guest, "/dev/vda", 256, 80).await;
    takes("20 MiB at 4 MiB a second", 4.0..10.0, read).await;

    // A group's limit is that of all who are in it, whoever is asked.
    let group = io("two", DiskWish { iops: limited(Iops::new(50)), ..DiskWish::default() }).await;
    assert_eq!(group[1], group[2]);
    assert_eq!((group[1].group.as_deref(), group[0].bytes), (Some("tier"), bytes[0].bytes));
    let read = async || {
        let both = tokio::join!(reading(&guest, "/dev/vdb", 4, 100), reading(&guest, "/dev/sda", 4, 100));
        both.0.max(both.1)
    };
    takes("200 operations at 50 a second", 3.0..9.0, read).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_named_for_a_person() {
    let calls = ["guest-exec", "guest-file-open"].map(String::from).to_vec();
    let recipe = Recipe::q35()
        .agent(Agent::Blocking(calls))
        .disk(Disk::new("root", Bytes::mib(256)))
        .disk(Disk::new("old", Bytes::mib(64)).sata());
    let guest = recipe.boot().await.unwrap();
    PARTITION.make(&guest).await;
    let seen = open(&guest).await.observe().await.unwrap();
    let buses: Vec<(&str, DiskBus)> =
        seen.disks().iter().map(|disk| (disk.name.as_str(), disk.bus)).collect();
    assert_eq!(buses, [("root", DiskBus::Virtio), ("old", DiskBus::Ide)]);
    assert!(matches!(&seen.disks()[0].lies, Lies::File { path, .. } if path.ends_with("root.img")));
    let Known::Not(why) = &seen.disks()[0].guest else { panic!("nobody may look") };
    assert!(why.contains("growpart /dev/vda 1 && resize2fs /dev/vda1"), "{why}");

    let report = apply(&guest, wanted(&[("root", Bytes::mib(320)), ("old", Bytes::mib(128))])).await.unwrap();
    assert_eq!(sizes(&guest).await.into_values().collect::<Vec<_>>(), [Bytes::mib(128), Bytes::mib(320)]);
    assert_eq!(report.verdict, Verdict::Partial, "{report:#?}");
    let told = format!("{report:?}");
    assert!(told.contains("growpart /dev/vda 1"), "{told}");
    // A person does so.
    run(&guest, "growpart /dev/vda 1 && resize2fs /dev/vda1").await;
    assert!(PARTITION.size(&guest).await > Bytes::mib(270));
}

#[tokio::test]
async fn a_partition_behind_and_a_missing_growpart_are_seen() {
    let recipe =
        Recipe::q35().disk(Disk::new("root", Bytes::mib(256))).disk(Disk::new("safe", Bytes::mib(128)));
    let guest = recipe.boot().await.unwrap();
    run(&guest, "printf 'label: gpt\\n, 100M\\n, 50M\\n' | sfdisk -q /dev/vda && mkfs.ext4 -q /dev/vda1 && mkswap /dev/vda2 && \
                 mkdir /a /b && mount /dev/vda1 /a && rm /bin/growpart && \
                 printf 'label: gpt\\n, +\\n' | sfdisk -q /dev/vdb && mkfs.ext4 -q /dev/vdb1 && mount /dev/vdb1 /b").await;
    let seen = open(&guest).await.observe().await.unwrap();
    let root = &seen.disks()[0].guest.known().unwrap().layers;
    assert!(matches!(root[1].above[0].kind, LayerKind::Swap), "{root:?}");
    let sizes = [("vda", Bytes::mib(300)), ("vdb", Bytes::mib(256))];
    let report = apply(&guest, wanted(&sizes)).await.unwrap();
    assert!(format!("{report:?}").contains("swap on /dev/vda2 lies behind /dev/vda1"), "{report:#?}");
    let df = run(&guest, "df -kP /b | tail -n 1").await;
    let kib: u64 = df.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib > 220 << 10, "sfdisk grew what growpart would have: {df}\n{report:#?}");
}
