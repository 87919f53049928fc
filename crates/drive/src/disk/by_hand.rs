//! What a person is told to do in a guest whose agent may do nothing for it.

use scale::disk::{as_typed, command, tools};
use scale::observed::{Layer, LayerKind};
use scale::units::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::attached::Attached;
use crate::guest::reach::Reach;
use crate::wire::shown;

/// For Windows, whose volumes nobody but its own programs knows.
pub(super) const WINDOWS: &str = "the guest is Windows: extend the volume there after the disk has grown (diskpart: \
                                  `rescan`, `select volume C`, `extend`)";

/// The most file systems that are taken from a guest.
const MOST: usize = 4096;

/// `guest-get-fsinfo`, one of the list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Filesystem {
    name: String,
    mountpoint: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    disk: Vec<Address>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Address {
    #[serde(rename = "pci-controller")]
    pci: Function,
    target: i64,
    unit: i64,
    serial: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Function {
    bus: i64,
    slot: i64,
    function: i64,
}

/// Why a guest does not show its disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unshown {
    pub(super) why: String,
    /// What its agent says all the same.
    pub(super) mounted: Vec<Filesystem>,
}

impl From<String> for Unshown {
    fn from(why: String) -> Unshown {
        Unshown { why, mounted: Vec::new() }
    }
}

/// Asks an agent that may run nothing what is mounted where.
pub(super) async fn filtered(reach: &mut Reach) -> Unshown {
    let limit = reach.limit();
    let told = reach.call("guest-get-fsinfo", Value::Null, limit).await.ok();
    let list: Vec<Value> = told.and_then(|told| serde_json::from_value(told).ok()).unwrap_or_default();
    Unshown {
        why: "the guest's agent may not run programs there (guest-exec is not allowed)".to_owned(),
        mounted: list.into_iter().take(MOST).filter_map(|one| serde_json::from_value(one).ok()).collect(),
    }
}

impl Unshown {
    /// The reason for one disk, with the commands that grow what is mounted of it.
    pub(super) fn of(&self, attached: &Attached) -> String {
        let mounted: Vec<&Filesystem> = self.mounted.iter().filter(|one| one.lies_on(attached)).collect();
        if mounted.is_empty() {
            return self.why.clone();
        }
        let each: Vec<String> = mounted.iter().map(|one| one.told()).collect();
        format!("{}; it says that {}", self.why, each.join(", and "))
    }
}

impl Filesystem {
    fn lies_on(&self, attached: &Attached) -> bool {
        self.disk.iter().any(|address| {
            let serial = attached.serial.is_some() && attached.serial == address.serial;
            serial
                || attached.place.is_some_and(|place| {
                    let Function { bus, slot, function } = address.pci;
                    let pci = [bus, slot, function]
                        == [place.pci.bus, place.pci.slot, place.pci.function].map(i64::from);
                    let unit = place.scsi.is_none_or(|[_, target, unit]| {
                        [address.target, address.unit] == [target, unit].map(i64::from)
                    });
                    pci && unit
                })
        })
    }

    fn told(&self) -> String {
        let (name, place) = (shown(&self.name), shown(&self.mountpoint));
        let lies = format!("{} on {name} is mounted at {place}", shown(&self.kind));
        match self.commands() {
            Some(commands) => format!("{lies} (grow it there with: {commands})"),
            None => lies,
        }
    }

    /// How a partition and the file system on it are grown; nothing for what lies deeper.
    fn commands(&self) -> Option<String> {
        let stem = self.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = self.name[stem.len()..].parse().ok();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '!';
        if !self.name.chars().all(plain) || self.name.starts_with("dm") {
            return None;
        }
        // nvme0n1p2, against vda2; nvme0n1 is a whole disk.
        let of_digits = stem.strip_suffix('p').filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()));
        let is_nvme_disk = stem.starts_with("nvme") && of_digits.is_none();
        let disk = format!("/dev/{}", of_digits.unwrap_or(stem));
        let device = format!("/dev/{}", self.name);
        let layer = |kind| Layer { device: device.clone(), kind, size: Bytes::ZERO, above: Vec::new() };
        let mount = Some(self.mountpoint.clone());
        let mut layers = vec![layer(LayerKind::Filesystem { kind: self.kind.clone(), mount })];
        if let Some(number) = number.filter(|_| !is_nvme_disk) {
            let (start, table) = (Bytes::ZERO, String::new());
            layers.insert(0, layer(LayerKind::Partition { number, start, table }));
        }
        let words = layers.iter().map(|layer| {
            let tool = *tools(&layer.kind).first()?;
            command(tool, &disk, layer).map(|words| as_typed(&words))
        });
        words.collect::<Option<Vec<String>>>().map(|commands| commands.join(" && "))
    }
}

#[cfg(test)]
mod tests {
    use scale::observed::DiskBus;
    use serde_json::json;

    use super::super::attached::{Pci, Place};
    use super::*;

    fn mounted(name: &str, kind: &str, slot: u8) -> Filesystem {
        let controller = json!({"domain": 0, "bus": 0, "slot": slot, "function": 0});
        let disk =
            json!([{"pci-controller": controller, "bus-type": "virtio", "bus": 0, "target": 0, "unit": 0}]);
        let one = json!({"name": name, "mountpoint": "/srv/a b", "type": kind, "disk": disk});
        serde_json::from_value(one).expect("a file system")
    }

    #[test]
    fn the_commands_fit_what_is_mounted() {
        let commands = |name: &str, kind: &str| mounted(name, kind, 0).commands().unwrap_or_default();
        assert_eq!(commands("vda1", "ext4"), "growpart /dev/vda 1 && resize2fs /dev/vda1");
        assert_eq!(commands("nvme0n1p2", "ext4"), "growpart /dev/nvme0n1 2 && resize2fs /dev/nvme0n1p2");
        assert_eq!(commands("vdb", "xfs"), "xfs_growfs '/srv/a b'");
        assert_eq!(commands("nvme0n1", "xfs"), "xfs_growfs '/srv/a b'");
        assert_eq!([commands("dm-0", "ext4"), commands("vda1", "ntfs"), commands("a b1", "ext4")], [""; 3]);
    }

    #[test]
    fn only_what_lies_on_the_disk_is_told_of_it() {
        let pci = Pci { bus: 0, slot: 5, function: 0 };
        let attached =
            Attached { bus: DiskBus::Virtio, serial: None, place: Some(Place { pci, scsi: None }) };
        let unshown =
            Unshown { why: "no".into(), mounted: vec![mounted("vda1", "ext4", 5), mounted("vdb", "xfs", 6)] };
        let told = unshown.of(&attached);
        assert!(told.contains("ext4 on vda1") && !told.contains("vdb"), "{told}");
        assert_eq!(unshown.of(&Attached { place: None, ..attached }), "no");
    }
}
