//! Disks as QEMU tells of them: `query-block` and `query-block-jobs`, read and sorted. Pure. CD and floppy drives and
//! firmware's flash are left out; what an answer does not tell is absent.

use std::collections::BTreeMap;

use scale::observed::Known;
use scale::setting::DiskIo;
use scale::units::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::dialect::DEVICE;
use crate::wire::shown;

/// More disks than any machine has.
pub(super) const MOST: usize = 4096;

/// `query-block`, one of the list.
#[derive(Debug, Deserialize)]
pub(super) struct BlockInfo {
    device: String,
    qdev: Option<String>,
    removable: bool,
    inserted: Option<Inserted>,
}

#[derive(Debug, Deserialize)]
struct Inserted {
    #[serde(rename = "node-name")]
    node_name: Option<String>,
    drv: String,
    ro: bool,
    image: Image,
    group: Option<String>,
    /// All the rest, the limits among it.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Image {
    filename: String,
    format: String,
    #[serde(rename = "virtual-size")]
    virtual_size: u64,
    /// What a filter lies on, and an overlay.
    #[serde(rename = "backing-image")]
    backing: Option<Box<Image>>,
}

/// `query-block-jobs`, one of the list.
#[derive(Debug, Deserialize)]
pub(super) struct BlockJob {
    #[serde(rename = "type")]
    kind: String,
    /// Its id.
    device: String,
}

/// A disk of QEMU's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Drive {
    /// The device, by its id or its path among QEMU's objects, as `block_set_io_throttle` takes it.
    pub(crate) qdev: String,
    /// Where the device is among QEMU's objects.
    pub(crate) path: String,
    /// The id of the device that an operator has named: for a virtio disk, that around the part in `path`.
    pub(crate) id: Option<String>,
    /// The block node that hangs on the device: the one to resize, filters included, so that the device is told.
    pub(crate) node: String,
    /// The name of an older command line's `-drive`.
    pub(crate) drive: Option<String>,
    pub(crate) format: String,
    pub(crate) size: Bytes,
    pub(crate) read_only: bool,
    pub(crate) busy: Vec<String>,
    /// What the image is: a path, or a protocol's address.
    pub(crate) filename: String,
    /// The driver that reaches it, where QEMU tells.
    pub(crate) protocol: Option<String>,
    /// The device's own limits. Its group stands there only if it is not the one that QEMU makes for each device.
    pub(crate) own: DiskIo,
    /// The throttle group of a filter below the device.
    pub(crate) filter: Option<String>,
}

impl Drive {
    /// Its name, if nobody else has given it one.
    pub(crate) fn name(&self) -> &str {
        let names = [self.id.as_deref(), self.drive.as_deref()];
        names.into_iter().flatten().next().unwrap_or(&self.node)
    }
}

/// The disks, in QEMU's order.
pub(super) fn drives(list: Vec<BlockInfo>, jobs: &[BlockJob]) -> Vec<Drive> {
    let mut drives: Vec<Drive> = list.into_iter().take(MOST).filter_map(drive).collect();
    // A backup has put a filter on each disk that it is of (`backup_job_create`, block/backup.c, 7.2 and 10.0), whatever
    // its name.
    let is_shown = drives.iter().any(|drive| drive.busy.iter().any(|what| what == BACKUP));
    for job in jobs.iter().take(MOST).filter(|job| !(is_shown && job.kind == "backup")) {
        let what = format!("a block job ({} {})", shown(&job.kind), shown(&job.device));
        let is_of = |drive: &Drive| {
            let names = [Some(&drive.node), drive.id.as_ref(), drive.drive.as_ref()];
            names.into_iter().flatten().any(|name| *name == job.device)
        };
        // A job's name need not tell what it works on: then it may be any of them.
        let is_told = drives.iter().any(is_of);
        drives
            .iter_mut()
            .filter(|drive| !is_told || is_of(drive))
            .for_each(|drive| drive.busy.push(what.clone()));
    }
    own_groups(&mut drives);
    drives
}

fn drive(info: BlockInfo) -> Option<Drive> {
    let BlockInfo { device, qdev, removable, inserted } = info;
    let (qdev, inserted) = (qdev?, inserted?);
    if removable {
        return None;
    }
    let path = if qdev.starts_with('/') { qdev.clone() } else { format!("/machine/peripheral/{qdev}") };
    let id = path.strip_prefix("/machine/peripheral/").and_then(|rest| rest.split('/').next());
    let image = Chain::of(&inserted);
    let mut own = DEVICE.read(|name| inserted.rest.get(name).and_then(Value::as_u64));
    own.group = inserted.group;
    Some(Drive {
        id: id.map(str::to_owned),
        node: inserted.node_name?,
        drive: Some(device).filter(|name| !name.is_empty()),
        format: image.format,
        size: Bytes::new(inserted.image.virtual_size),
        read_only: inserted.ro,
        busy: image.busy.into_iter().collect(),
        filename: image.filename,
        protocol: image.protocol,
        own,
        filter: image.group,
        qdev,
        path,
    })
}

/// A device that is limited by itself is in a group of its own, which QEMU calls as the device, and libvirt as the drive
/// (`blk_io_limits_enable` and `block_set_io_throttle` in block/qapi-sysemu.c, 7.2). Only a group that others are in, or
/// that has a name of its own, is one.
fn own_groups(drives: &mut [Drive]) {
    let mut members: BTreeMap<String, usize> = BTreeMap::new();
    for group in drives.iter().filter_map(|drive| drive.own.group.clone()) {
        *members.entry(group).or_default() += 1;
    }
    for drive in drives {
        let own = |group: &String| {
            let id = drive.id.as_ref();
            let named = [Some(&drive.qdev), Some(&drive.path), id, drive.drive.as_ref()];
            let by_libvirt =
                id.is_some_and(|id| *group == format!("drive-{id}") || *group == format!("libvirt-{id}"));
            members.get(group) == Some(&1)
                && (named.into_iter().flatten().any(|name| name == group) || by_libvirt)
        };
        if drive.own.group.as_ref().is_some_and(own) {
            drive.own.group = None;
        }
    }
}

/// What is below a device, from the node on it down to where the bytes lie.
struct Chain {
    format: String,
    filename: String,
    protocol: Option<String>,
    group: Option<String>,
    /// What a filter says of a job that has put it there.
    busy: Option<String>,
}

/// What a backup's filter says.
const BACKUP: &str = "a backup";

/// Filters: their driver, and what is at work where one is (block/, 7.2 and 10.0).
const FILTERS: [(&str, Option<&str>); 8] = [
    ("throttle", None),
    ("copy-on-read", None),
    ("compress", None),
    ("preallocate", None),
    ("mirror_top", Some("a mirror")),
    ("commit_top", Some("a commit")),
    ("copy-before-write", Some(BACKUP)),
    ("backup-top", Some(BACKUP)),
];

/// The deepest chain of filters that is looked through.
const DEEPEST: usize = 16;

impl Chain {
    fn of(inserted: &Inserted) -> Chain {
        let Image { filename, .. } = &inserted.image;
        let images = std::iter::successors(Some(&inserted.image), |image| image.backing.as_deref());
        let format = images.map(|image| &image.format).take(DEEPEST).find(|format| filter(format).is_none());
        let format = format.unwrap_or(&inserted.image.format);
        let mut chain = Chain {
            format: format.clone(),
            filename: filename.clone(),
            protocol: None,
            group: None,
            busy: filter(&inserted.drv).flatten().map(str::to_owned),
        };
        // The address of what has options that no plain name can tell: an object as `-blockdev` takes it.
        let options =
            filename.strip_prefix("json:").and_then(|json| serde_json::from_str::<Value>(json).ok());
        let mut at = options.as_ref();
        let mut is_format = true;
        for _ in 0..DEEPEST {
            let Some(options) = at else { break };
            let text = |key: &str| options.get(key).and_then(Value::as_str);
            let driver = text("driver").unwrap_or_default();
            match filter(driver) {
                Some(_) => chain.group = text("throttle-group").map(str::to_owned).or(chain.group),
                None if is_format => {
                    driver.clone_into(&mut chain.format);
                    is_format = false;
                }
                None => {}
            }
            if let Some(filename) = text("filename") {
                filename.clone_into(&mut chain.filename);
            }
            chain.protocol = Some(driver.to_owned());
            at = options.get("file").filter(|file| file.is_object());
        }
        chain
    }
}

fn filter(driver: &str) -> Option<Option<&'static str>> {
    FILTERS.iter().find(|(name, _)| *name == driver).map(|(_, busy)| *busy)
}

/// The limits that hold: the device's own, or those of the filter below it.
pub(super) fn limits(drive: &Drive, of_filter: Option<DiskIo>) -> Known<DiskIo> {
    match (&drive.filter, of_filter) {
        (None, _) => Known::Is(drive.own.clone()),
        (Some(group), None) => Known::Not(format!("QEMU does not tell the limits of throttle group {group}")),
        (Some(group), Some(limits)) if drive.own == DiskIo::default() => {
            Known::Is(DiskIo { group: Some(group.clone()), ..limits })
        }
        (Some(group), Some(_)) => Known::Not(format!(
            "the disk is limited twice, by its device and by throttle group {group}; lift one of the two first"
        )),
    }
}

#[cfg(test)]
mod tests {
    use scale::setting::{Iops, Throttle};
    use serde_json::json;

    use super::*;

    fn info(qdev: &str, device: &str, extra: Value) -> Value {
        let mut inserted = json!({
            "node-name": "n0", "drv": "qcow2", "ro": false, "iops": 0, "bps": 0, "encrypted": false,
            "image": { "filename": "/img/a.qcow2", "format": "qcow2", "virtual-size": 1024 },
        });
        inserted.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        json!({ "device": device, "qdev": qdev, "removable": false, "locked": false, "inserted": inserted })
    }

    fn read(list: Value, jobs: Value) -> Vec<Drive> {
        let list = serde_json::from_value(list).expect("a list");
        drives(list, &serde_json::from_value::<Vec<BlockJob>>(jobs).expect("jobs"))
    }

    #[test]
    fn a_disk_is_named_by_its_device_and_then_by_its_drive() {
        let list = json!([
            info("/machine/peripheral/vd0/virtio-backend", "", json!({})),
            info("sd0", "old", json!({})),
            info("/machine/peripheral-anon/device[0]/virtio-backend", "dr1", json!({})),
            info("/machine/peripheral-anon/device[1]", "", json!({"node-name": "fmt"})),
            {"device": "cd", "qdev": "ide0", "removable": true, "locked": false},
            {"device": "unplugged", "removable": false, "locked": false},
        ]);
        let names: Vec<String> = read(list, json!([])).iter().map(|drive| drive.name().to_owned()).collect();
        assert_eq!(names, ["vd0", "sd0", "dr1", "fmt"]);
    }

    #[test]
    fn a_filter_is_looked_through() {
        let json = r#"json:{"throttle-group": "tg0", "driver": "throttle", "file": {"driver": "qcow2", "file": {"driver": "file", "filename": "/img/c.qcow2"}}}"#;
        let image = json!({ "filename": json, "format": "throttle", "virtual-size": 1024 });
        let drive = &read(json!([info("sd0", "", json!({"drv": "throttle", "image": image}))]), json!([]))[0];
        assert_eq!((drive.format.as_str(), drive.filename.as_str()), ("qcow2", "/img/c.qcow2"));
        assert_eq!((drive.filter.as_deref(), drive.protocol.as_deref()), (Some("tg0"), Some("file")));
        let of_group = DiskIo { iops_size: Some(Bytes::new(4096)), ..DiskIo::default() };
        let Known::Is(io) = limits(drive, Some(of_group.clone())) else { panic!("known") };
        assert_eq!((io.group.as_deref(), io.iops_size), (Some("tg0"), of_group.iops_size));
        let twice = Drive { own: of_group.clone(), ..drive.clone() };
        assert!(matches!(limits(&twice, Some(of_group)), Known::Not(why) if why.contains("twice")));
        assert!(matches!(limits(drive, None), Known::Not(_)));
    }

    #[test]
    fn a_group_of_ones_own_is_no_group() {
        let limited = |group: &str| json!({ "iops": 100, "group": group });
        let path = "/machine/peripheral/vd0/virtio-backend";
        let drives =
            read(json!([info(path, "", limited(path)), info("sd0", "", limited("pool"))]), json!([]));
        assert_eq!(drives[0].own.iops.total, Some(Throttle { steady: Iops::new(100), burst: None }));
        assert_eq!(drives.iter().map(|d| d.own.group.as_deref()).collect::<Vec<_>>(), [None, Some("pool")]);
        let shared =
            read(json!([info("sd0", "", limited("sd0")), info("sd1", "", limited("sd0"))]), json!([]));
        assert!(shared.iter().all(|drive| drive.own.group.as_deref() == Some("sd0")));
        let libvirts = read(json!([info("sd0", "", limited("drive-sd0"))]), json!([]));
        assert_eq!(libvirts[0].own.group, None);
    }

    #[test]
    fn a_job_occupies_its_disk_or_where_nobody_can_tell_all() {
        let list =
            json!([info("sd0", "", json!({"node-name": "a"})), info("sd1", "", json!({"node-name": "b"}))]);
        let busy = |jobs| read(list.clone(), jobs).iter().map(|drive| drive.busy.len()).collect::<Vec<_>>();
        assert_eq!(busy(json!([{"type": "mirror", "device": "sd1"}])), [0, 1]);
        assert_eq!(busy(json!([{"type": "backup", "device": "job7"}])), [1, 1]);
        let backed_up = json!([
            info(
                "sd0",
                "",
                json!({"drv": "copy-before-write", "node-name": "#block7", "image": {
                    "filename": "/img/a.qcow2", "format": "copy-before-write", "virtual-size": 1024,
                    "backing-image": {"filename": "/img/a.qcow2", "format": "qcow2", "virtual-size": 1024},
                }})
            ),
            info("sd1", "", json!({})),
        ]);
        let backup = json!({"type": "backup", "device": "backup-sda-libvirt-2-format"});
        let drives = read(backed_up.clone(), json!([backup]));
        assert_eq!((&drives[0].busy[..], drives[0].format.as_str()), (&["a backup".to_owned()][..], "qcow2"));
        assert!(drives[1].busy.is_empty(), "a backup shows on its own disks");
        let copied = read(backed_up, json!([backup, {"type": "mirror", "device": "copy-sdb"}]));
        assert_eq!(copied.iter().map(|drive| drive.busy.len()).collect::<Vec<_>>(), [2, 1]);
        let mirrored = read(json!([info("sd0", "", json!({"drv": "mirror_top"}))]), json!([]));
        assert_eq!(mirrored[0].busy, ["a mirror"]);
    }
}
