//! The rules of disks: they only grow, where there is room, and what lies on them follows from below upwards.

use super::{Auditor, Kind};
use crate::disk::{Tool, command};
use crate::observed::{Disk, Known, Layer, LayerKind, Lies, Pool};
use crate::plan::Act;
use crate::units::Bytes;

/// QEMU counts disks in sectors (`BDRV_SECTOR_SIZE`, include/block/block.h, 7.2 and 10.0).
const SECTOR: Bytes = Bytes::new(512);

impl Auditor<'_> {
    /// What has no way back waits until all else is done.
    pub(super) fn disks_last(&mut self, act: &Act) {
        let of_disks = matches!(act, Act::GrowDisk { .. } | Act::GrowInGuest { .. });
        let begun = self.ledger.disks_begun;
        self.require(of_disks || !begun, Kind::Disk, || format!("a disk has grown before one did: {act}"));
        self.ledger.disks_begun |= of_disks;
    }

    /// `block_resize` asks nothing: a smaller size cuts off what lies there (block.c, 7.2 and 10.0).
    pub(super) fn grow_disk(&mut self, disk: &str, from: Bytes, to: Bytes) {
        let Some(index) = self.ledger.disks.iter().position(|d| d.name == disk) else {
            self.find(Kind::Disk, format!("there is no disk {disk}"));
            return;
        };
        let seen = self.ledger.disks[index].clone();
        self.require(from == seen.size, Kind::Disk, || format!("{disk} is at {}, not at {from}", seen.size));
        self.require(to > from && to > seen.size, Kind::Disk, || {
            format!("{disk} would be cut from {} to {to}", seen.size)
        });
        self.require(to.is_multiple_of(SECTOR), Kind::Disk, || format!("{to} is not in whole sectors"));
        self.require(!seen.read_only && seen.busy.is_empty(), Kind::Disk, || {
            format!("{disk} is read-only or busy: {}", seen.busy.join(", "))
        });
        let short = short_of_room(&seen, to);
        self.require(short.is_none(), Kind::Host, || short.unwrap_or_default());
        self.ledger.disks[index].size = to;
        self.ledger.draw(&seen.lies, to.saturating_sub(from));
    }

    /// A layer takes what lies below it, so that must have grown first.
    pub(super) fn grow_in_guest(&mut self, disk: &str, device: &str, layer: &Layer, tool: Tool) {
        let guest = self.ledger.disks.iter().find(|d| d.name == disk).and_then(|d| d.guest.known()).cloned();
        let Some(guest) = guest else {
            self.find(Kind::GuestCannot, format!("nobody sees in the guest what lies on {disk}"));
            return;
        };
        self.require(device == guest.device && holds(&guest.layers, layer), Kind::Disk, || {
            format!("the guest shows no {} on {device}", layer.name())
        });
        let able = self.seen.guest.heard().is_some_and(|heard| {
            heard.can("guest-exec") && heard.can("guest-exec-status") && heard.tools.contains(&tool)
        });
        self.require(able && command(tool, device, layer).is_some(), Kind::GuestCannot, || {
            format!("the guest cannot grow {} with {tool}", layer.name())
        });
        // What lies below may have grown in an earlier run; it never grows after what lies on it.
        let name = layer.name();
        let earlier: Vec<String> = self
            .ledger
            .grown
            .iter()
            .filter(|(on, above)| on == disk && lies_on(&guest.layers, above, &name))
            .map(|(_, above)| above.clone())
            .collect();
        for above in earlier {
            self.find(Kind::Disk, format!("{above} is grown before {name}, on which it lies"));
        }
        if let LayerKind::Partition { start, .. } = &layer.kind {
            let behind = guest
                .layers
                .iter()
                .any(|other| matches!(&other.kind, LayerKind::Partition { start: at, .. } if at > start));
            self.require(!behind, Kind::Disk, || format!("a partition lies behind {}", layer.name()));
        }
        self.ledger.grown.push((disk.to_owned(), layer.name()));
    }
}

impl super::Ledger {
    /// What one disk takes of a pool is gone for the others on it.
    fn draw(&mut self, from: &Lies, by: Bytes) {
        let Some(drawn) = pool(from).map(|pool| pool.name.clone()) else { return };
        for disk in &mut self.disks {
            let pool = match &mut disk.lies {
                Lies::File { filesystem: Some(pool), .. } | Lies::Block { thin: Some(pool), .. } => pool,
                Lies::File { .. } | Lies::Block { .. } | Lies::Network(_) | Lies::Unknown(_) => continue,
            };
            if pool.name == drawn {
                pool.free = pool.free.saturating_sub(by);
            }
        }
    }
}

fn pool(lies: &Lies) -> Option<&Pool> {
    match lies {
        Lies::File { filesystem: pool, .. } | Lies::Block { thin: pool, .. } => pool.as_ref(),
        Lies::Network(_) | Lies::Unknown(_) => None,
    }
}

/// True if there is such a layer.
fn holds(layers: &[Layer], wanted: &Layer) -> bool {
    let here = |layer: &Layer| layer.device == wanted.device && layer.kind == wanted.kind;
    layers.iter().any(|layer| here(layer) || holds(&layer.above, wanted))
}

/// True if the layer called `above` lies on the one called `below`.
fn lies_on(layers: &[Layer], above: &str, below: &str) -> bool {
    layers.iter().any(|layer| {
        let is_above = layer.name() == below && layer.above.iter().any(|one| one.find(above).is_some());
        is_above || lies_on(&layer.above, above, below)
    })
}

/// Why the host cannot hold the disk at this size, where that is certain.
fn short_of_room(disk: &Disk, to: Bytes) -> Option<String> {
    let by = to.saturating_sub(disk.size);
    if let Some(Pool { name, free }) = pool(&disk.lies)
        && *free < by
    {
        return Some(format!("{free} are free in {name}, and the disk grows by {by}"));
    }
    match &disk.lies {
        Lies::Block { path, size, .. } if disk.format == "raw" && *size < to => {
            Some(format!("{path} has {size}, and {to} are to be on it"))
        }
        Lies::File { .. } | Lies::Block { .. } | Lies::Network(_) | Lies::Unknown(_) => None,
    }
}

/// The strongest proof of a disk's size: the guest's, where it is told of a new size and shows it.
pub(super) fn guest_shows(disk: Option<&Disk>) -> bool {
    disk.is_some_and(|disk| matches!(disk.guest, Known::Is(_)))
}
