//! What lies on a disk of a guest's, layer by layer, out of what it has shown. Pure. Layers that nobody can grow one
//! disk at a time are told by the guest's word for them; a guest that shows a circle gets no deeper than [`DEEPEST`].

use scale::observed::{GuestDisk, Layer, LayerKind};
use scale::units::Bytes;

use super::attached::{Attached, Place};
use super::guest::{Device, Mapped, Shown};

/// The most layers one above the other, and the most that one disk may have in all.
const DEEPEST: usize = 16;
const MOST: usize = 1024;
/// `LVM-` and the ids of group and volume, 32 characters each (lib/activate/dev_manager.c of LVM 2.03). What is longer
/// is a part of a volume that is LVM's own business.
const LVM_UUID: usize = 68;

/// The guest's disk that is attached so.
///
/// # Errors
/// There is none, or more than one, in words.
pub(super) fn find(shown: &Shown, attached: &Attached) -> Result<GuestDisk, String> {
    let disks =
        || shown.devices.iter().filter(|(_, device)| device.partition.is_none() && device.mapped.is_none());
    let by_serial: Vec<_> = match &attached.serial {
        // A virtio disk's has 20 characters at most (VIRTIO_BLK_ID_BYTES, linux/virtio_blk.h).
        Some(serial) => disks()
            .filter(|(_, device)| {
                device
                    .serial
                    .as_deref()
                    .is_some_and(|shown| shown == serial || shown.len() == 20 && serial.starts_with(shown))
            })
            .collect(),
        None => Vec::new(),
    };
    let by_place =
        || disks().filter(|(_, device)| attached.place.is_some_and(|place| is_at(device, place))).collect();
    let found = if by_serial.len() == 1 { by_serial } else { by_place() };
    match found.as_slice() {
        [(name, device)] => {
            let mut tree = Tree { shown, left: MOST };
            let layers = tree.on(name, DEEPEST);
            Ok(GuestDisk { device: path(name, None), size: device.size, layers })
        }
        [] => Err("the guest shows no disk with this serial number or at this place".to_owned()),
        _ => Err("the guest shows more than one disk at this place".to_owned()),
    }
}

/// True where the device's place in /sys has the PCI function, and behind it the unit.
fn is_at(device: &Device, place: Place) -> bool {
    let function = format!("0000:{:02x}:{:02x}.{}", place.pci.bus, place.pci.slot, place.pci.function);
    let mut parts = device.at.split('/');
    // The last function on the way: those before it are bridges.
    let last = parts.clone().rfind(|part| is_function(part));
    let unit = |[channel, target, unit]: [u32; 3]| {
        parts.any(|part| {
            part.split_once(':').is_some_and(|(host, rest)| {
                host.parse::<u32>().is_ok() && rest == format!("{channel}:{target}:{unit}")
            })
        })
    };
    last == Some(function.as_str()) && place.scsi.is_none_or(unit)
}

/// `0000:00:05.0`
fn is_function(part: &str) -> bool {
    let bytes = part.as_bytes();
    bytes.len() == 12 && bytes[4] == b':' && bytes[7] == b':' && bytes[10] == b'.'
}

struct Tree<'a> {
    shown: &'a Shown,
    left: usize,
}

impl Tree<'_> {
    /// What lies on a device.
    fn on(&mut self, name: &str, depth: usize) -> Vec<Layer> {
        if depth == 0 || self.left == 0 {
            return Vec::new();
        }
        let depth = depth - 1;
        self.left -= 1;
        let Some(device) = self.shown.devices.get(name) else { return Vec::new() };
        let partitions = self.partitions(name, device, depth);
        if !partitions.is_empty() {
            return partitions;
        }
        let holders: Vec<(&String, &Device)> = self
            .shown
            .devices
            .iter()
            .filter(|(_, other)| other.below.iter().any(|below| below == name))
            .collect();
        if let Some(layer) = self.held(name, device, &holders, depth) {
            return vec![layer];
        }
        self.content(name, device).into_iter().collect()
    }

    fn partitions(&mut self, disk: &str, device: &Device, depth: usize) -> Vec<Layer> {
        let table = self.shown.tables.get(disk).cloned().unwrap_or_default();
        let mut found: Vec<(&String, &Device)> = self
            .shown
            .devices
            .iter()
            .filter(|(_, part)| {
                part.partition.is_some() && part.at.rsplit_once('/').is_some_and(|(at, _)| at == device.at)
            })
            .collect();
        found.sort_by_key(|(_, part)| part.start);
        let layers = found.into_iter().map(|(name, part)| {
            let number = part.partition.unwrap_or(0);
            let layer = |kind, above| layer(path(name, None), kind, part.size, above);
            let kind = LayerKind::Partition { number, start: part.start, table: table.clone() };
            // The kernel shows a sector or two of it (block/partitions/msdos.c).
            if table == "dos" && part.size <= Bytes::new(1024) {
                let inside = LayerKind::Other("an extended partition".to_owned());
                return layer(kind, vec![layer(inside, Vec::new())]);
            }
            let above = self.on(name, depth);
            layer(kind, above)
        });
        layers.collect()
    }

    /// A layer that other devices are made of.
    fn held(
        &mut self,
        name: &str,
        device: &Device,
        holders: &[(&String, &Device)],
        depth: usize,
    ) -> Option<Layer> {
        let (first, holder) = holders.first()?;
        let uuid =
            |device: &Device| device.mapped.as_ref().map_or(String::new(), |mapped| mapped.uuid.clone());
        let own = path(name, device.mapped.as_ref());
        let other =
            |what: &str| layer(own.clone(), LayerKind::Other(what.to_owned()), device.size, Vec::new());
        Some(match uuid(holder).split('-').next().unwrap_or_default() {
            "CRYPT" => {
                let above = self.on(first, depth);
                layer(path(first, holder.mapped.as_ref()), LayerKind::Luks, holder.size, above)
            }
            "LVM" if uuid(device).starts_with("LVM-") => other("a volume that others of LVM's lie on"),
            "LVM" => {
                let above = holders.iter().map(|(name, holder)| self.volume(name, holder, depth)).collect();
                self.physical(own, device, above)
            }
            "mpath" => other("one of several paths to a disk"),
            _ if first.starts_with("md") => other("a part of a RAID"),
            _ => other("a part of a mapped device"),
        })
    }

    fn physical(&self, own: String, device: &Device, above: Vec<Layer>) -> Layer {
        let told = self.shown.volumes.get(&own);
        let of_volumes = above.iter().find_map(|layer| match &layer.kind {
            LayerKind::LogicalVolume { group, .. } => Some(group.clone()),
            LayerKind::Partition { .. }
            | LayerKind::Luks
            | LayerKind::PhysicalVolume { .. }
            | LayerKind::Filesystem { .. }
            | LayerKind::Swap
            | LayerKind::Other(_) => None,
        });
        let group = told.map(|volume| volume.group.clone()).or(of_volumes).unwrap_or_default();
        let (size, free) = told.map_or((device.size, Bytes::ZERO), |volume| (volume.size, volume.free));
        layer(own, LayerKind::PhysicalVolume { group, free }, size, above)
    }

    fn volume(&mut self, name: &str, holder: &Device, depth: usize) -> Layer {
        let own = path(name, holder.mapped.as_ref());
        let mapped = holder.mapped.as_ref().filter(|mapped| mapped.uuid.len() <= LVM_UUID);
        match mapped.and_then(|mapped| names(&mapped.name)) {
            Some((group, volume)) => {
                let above = self.on(name, depth);
                layer(own, LayerKind::LogicalVolume { group, volume }, holder.size, above)
            }
            None => layer(
                own,
                LayerKind::Other("a part of a volume of LVM's".to_owned()),
                holder.size,
                Vec::new(),
            ),
        }
    }

    /// What ends the stack: a file system, swap space, or what only its own mark tells.
    fn content(&self, name: &str, device: &Device) -> Option<Layer> {
        let own = path(name, device.mapped.as_ref());
        let mapped = device.mapped.as_ref().map(|mapped| mapped.name.as_str());
        let mark = [Some(name), mapped].into_iter().flatten().find_map(|name| self.shown.marks.get(name));
        let is_swap = self.shown.swaps.contains(name);
        if self.shown.shared.contains(name) {
            let what = "a btrfs that lies on several devices".to_owned();
            return Some(layer(own, LayerKind::Other(what), device.size, Vec::new()));
        }
        if let Some(mount) = self.shown.mounts.get(name) {
            let kind = LayerKind::Filesystem { kind: mount.kind.clone(), mount: Some(mount.at.clone()) };
            return Some(layer(own, kind, mount.size.unwrap_or(device.size), Vec::new()));
        }
        let kind = match mark.map(String::as_str) {
            _ if is_swap => LayerKind::Swap,
            Some("swap") => LayerKind::Swap,
            Some("LVM2_member") => return Some(self.physical(own, device, Vec::new())),
            Some("crypto_LUKS") => LayerKind::Other("a LUKS container that is not opened".to_owned()),
            Some(raid) if raid.ends_with("_member") => LayerKind::Other(raid.to_owned()),
            Some(kind) => LayerKind::Filesystem { kind: kind.to_owned(), mount: None },
            None => return None,
        };
        Some(layer(own, kind, device.size, Vec::new()))
    }
}

fn layer(device: String, kind: LayerKind, size: Bytes, above: Vec<Layer>) -> Layer {
    Layer { device, kind, size, above }
}

/// Where a device is to be found: mapped ones by the name that everybody uses.
fn path(name: &str, mapped: Option<&Mapped>) -> String {
    match mapped {
        Some(mapped) => format!("/dev/mapper/{}", mapped.name),
        None => format!("/dev/{}", name.replace('!', "/")),
    }
}

/// Group and volume of a mapped name: a dash stands between them, and each of their own is doubled.
fn names(mapped: &str) -> Option<(String, String)> {
    let marked = mapped.replace("--", "/");
    let (group, volume) = marked.split_once('-')?;
    Some((group.replace('/', "-"), volume.replace('/', "-")))
}

#[cfg(test)]
mod tests;
