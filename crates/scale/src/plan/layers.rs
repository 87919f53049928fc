//! What lies on a disk, grown in the guest from the bottom up: partition, LUKS, LVM, filesystem.
//!
//! The way goes up from the last partition to the one filesystem above it. Where it forks or is barred, the steps end
//! there and a person is told what to run. Filesystems grow while mounted, or not at all.

use super::disks::left;
use super::make::{Part, Scene, step};
use super::{Act, Proof, Step, Strength};
use crate::disk::{Tool, as_typed, command, tools};
use crate::observed::{Disk, GuestDisk, Layer, LayerKind};
use crate::units::Bytes;

/// Where the second GPT header, the alignment of partitions and the rounding of tools may end.
const SLACK: Bytes = Bytes::mib(2);
/// What LUKS2 keeps in front of its data (16 MiB, or 32 with detached room).
const LUKS: Bytes = Bytes::mib(32);
/// What LVM may leave: its own label and one extent, of 4 MiB usually and seldom of more than 32.
const EXTENT: Bytes = Bytes::mib(64);
/// An MBR partition cannot end beyond (32 bits of 512-byte sectors).
const MBR_END: Bytes = Bytes::gib(2048);

/// Why the way up ends: the reason, and what a person can do.
type Barred = (String, String);

/// The steps in the guest that let its filesystem take a disk of size `to`.
pub(super) fn plan(scene: &Scene<'_>, disk: &Disk, guest: &GuestDisk, to: Bytes) -> Part {
    let mut part = Part::default();
    let mut way = Way { scene, disk, guest, steps: Vec::new(), notes: Vec::new() };
    let grows = to > disk.size;
    match way.up(to) {
        Err(barred) => part.unmet.push(left(disk, to, barred)),
        Ok(()) if grows && way.steps.is_empty() && !guest.layers.is_empty() => part
            .notes
            .push(format!("what disk {} gains is too little for what lies on it to follow", disk.name)),
        Ok(()) => {}
    }
    part.groups.extend(way.steps.into_iter().map(|step| vec![step]));
    part.notes.extend(way.notes);
    part
}

struct Way<'a> {
    scene: &'a Scene<'a>,
    disk: &'a Disk,
    guest: &'a GuestDisk,
    steps: Vec<Step>,
    notes: Vec<String>,
}

impl<'a> Way<'a> {
    /// From the disk to the filesystem. Barred is only a way on which something has yet to follow.
    fn up(&mut self, to: Bytes) -> Result<(), Barred> {
        let mut next = match self.bottom(to) {
            Ok(bottom) => bottom,
            Err(barred) => return if self.ends_early(to) { Err(barred) } else { Ok(()) },
        };
        // What lies below: its size now, and what it will have at least.
        let mut below = (self.guest.size, to);
        while let Some(layer) = next {
            let reached = self.room(layer, below).max(layer.size);
            if reached > layer.size {
                let tool = self.tool(layer)?;
                self.steps.push(self.grow(layer, tool, reached));
            }
            below = (layer.size, reached);
            next = match self.above(layer) {
                Ok(above) => above,
                Err(barred) => {
                    let follows = reached > layer.size || self.free_on(layer) > EXTENT;
                    return if follows { Err(barred) } else { Ok(()) };
                }
            };
        }
        Ok(())
    }

    /// True where space lies behind the last partition.
    fn ends_early(&self, to: Bytes) -> bool {
        let end = self.guest.layers.last().map_or(Bytes::ZERO, |last| match &last.kind {
            LayerKind::Partition { start, .. } => *start + last.size,
            LayerKind::Luks
            | LayerKind::PhysicalVolume { .. }
            | LayerKind::LogicalVolume { .. }
            | LayerKind::Filesystem { .. }
            | LayerKind::Swap
            | LayerKind::Other(_) => last.size,
        });
        end + SLACK < to
    }

    /// What is free in the volume group of a physical volume.
    fn free_on(&self, layer: &Layer) -> Bytes {
        if let LayerKind::PhysicalVolume { free, .. } = &layer.kind { *free } else { Bytes::ZERO }
    }

    /// The lowest layer: the last partition, or whatever lies on the whole disk.
    fn bottom(&self, to: Bytes) -> Result<Option<&'a Layer>, Barred> {
        let guest = self.guest;
        let Some(last) = guest.layers.last() else { return Ok(None) };
        let LayerKind::Partition { number, table, .. } = &last.kind else { return Ok(Some(last)) };
        let is_data = |layer: &&Layer| !layer.above.is_empty() && !is_swap(layer);
        if !is_data(&last)
            && let Some(wanted) = guest.layers.iter().filter(is_data).max_by_key(|layer| layer.size)
        {
            let what = if is_swap(last) { "swap" } else { "a partition" };
            return Err((
                format!("{what} on {} lies behind {}", last.device, wanted.device),
                format!(
                    "take {} away (swapoff, parted rm, and out of /etc/fstab), then run this again",
                    last.device
                ),
            ));
        }
        if table == "dos" && *number > 4 {
            return Err((
                format!("{} is a logical partition, whose extended one would have to grow too", last.device),
                format!("parted {} resizepart, first the extended partition and then {number}", guest.device),
            ));
        }
        if table == "dos" && to > MBR_END {
            return Err((
                format!("the partition table of {} ends at {MBR_END}", guest.device),
                format!(
                    "turn it into GPT (sgdisk --mbrtogpt {}) once the guest can boot from that",
                    guest.device
                ),
            ));
        }
        Ok(Some(last))
    }

    /// What a layer will have at least once all below it has grown.
    fn room(&mut self, layer: &Layer, (below, grown): (Bytes, Bytes)) -> Bytes {
        match &layer.kind {
            LayerKind::Partition { start, .. } => grown.saturating_sub(*start).saturating_sub(SLACK),
            LayerKind::Luks => {
                let taken = below.saturating_sub(layer.size).min(LUKS);
                grown.saturating_sub(taken).saturating_sub(SLACK)
            }
            LayerKind::PhysicalVolume { group, free } => {
                if *free > EXTENT {
                    self.notes.push(format!(
                        "volume group {group} has {free} free, which its volume takes as well"
                    ));
                }
                let taken = below.saturating_sub(layer.size).min(EXTENT);
                grown.saturating_sub(taken).saturating_sub(EXTENT)
            }
            LayerKind::LogicalVolume { .. } => {
                let more = grown.saturating_sub(below) + self.free_in_group(layer);
                layer.size + more.saturating_sub(EXTENT)
            }
            LayerKind::Filesystem { .. } => {
                // `df` leaves out what the filesystem needs for itself: up to an eighth of what is added.
                let more = grown.saturating_sub(below);
                let with_more = layer.size + (more - more.per(8));
                // It did not follow earlier.
                let behind = layer.size < below - below.per(8);
                if behind { with_more.max(grown - grown.per(8)) } else { with_more }
            }
            LayerKind::Swap | LayerKind::Other(_) => layer.size,
        }
    }

    /// What is free in the volume group of a volume.
    fn free_in_group(&self, volume: &Layer) -> Bytes {
        let LayerKind::LogicalVolume { group, .. } = &volume.kind else { return Bytes::ZERO };
        fn find(layers: &[Layer], group: &str) -> Option<Bytes> {
            layers.iter().find_map(|layer| match &layer.kind {
                LayerKind::PhysicalVolume { group: of, free } if of == group => Some(*free),
                LayerKind::Partition { .. }
                | LayerKind::Luks
                | LayerKind::PhysicalVolume { .. }
                | LayerKind::LogicalVolume { .. }
                | LayerKind::Filesystem { .. }
                | LayerKind::Swap
                | LayerKind::Other(_) => find(&layer.above, group),
            })
        }
        find(&self.guest.layers, group).unwrap_or_default()
    }

    /// The layer above that is to grow too.
    fn above(&self, layer: &'a Layer) -> Result<Option<&'a Layer>, Barred> {
        match layer.above.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            several => several.iter().find(|above| holds_root(above)).map(Some).ok_or_else(|| {
                let names: Vec<&str> = several.iter().map(|above| above.device.as_str()).collect();
                (
                    format!("several volumes lie on {}: {}", layer.device, names.join(", ")),
                    "lvextend --resizefs -l +100%FREE of the one that is to grow".to_owned(),
                )
            }),
        }
    }

    /// The program that grows a layer, if the guest has one and its agent may run it.
    fn tool(&self, layer: &Layer) -> Result<Tool, Barred> {
        let known = tools(&layer.kind);
        let device = &self.guest.device;
        let typed = |tool: &Tool| command(*tool, device, layer).map(|words| as_typed(&words));
        let Some(usual) = known.first() else {
            return Err((
                format!("Supple knows no way to grow {}", layer.name()),
                "grow it with its own tools".to_owned(),
            ));
        };
        let Some(by_hand) = typed(usual) else {
            return Err((
                format!("{} is not mounted", layer.name()),
                "mount it, then run this again".to_owned(),
            ));
        };
        if let LayerKind::Filesystem { mount: None, .. } = &layer.kind {
            return Err((
                format!("{} is not mounted", layer.name()),
                "mount it, then run this again".to_owned(),
            ));
        }
        let heard = self.scene.seen.guest.heard();
        if !heard.is_some_and(|heard| heard.can("guest-exec") && heard.can("guest-exec-status")) {
            let why = "the guest's agent may not run programs (guest-exec)".to_owned();
            return Err((why, format!("in the guest: {by_hand}")));
        }
        let has = |tool: &&Tool| heard.is_some_and(|heard| heard.tools.contains(tool));
        known.iter().find(has).copied().ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|tool| tool.program()).collect();
            let why = format!("the guest has no {}", names.join(" and no "));
            (why, format!("install it in the guest, then run this again, or there: {by_hand}"))
        })
    }

    fn grow(&self, layer: &Layer, tool: Tool, at_least: Bytes) -> Step {
        let disk = self.disk.name.clone();
        let alone = Layer { above: Vec::new(), ..layer.clone() };
        step(
            Act::GrowInGuest {
                disk: disk.clone(),
                device: self.guest.device.clone(),
                layer: Box::new(alone),
                tool,
            },
            Proof::LayerAt { disk, layer: layer.name(), at_least },
            Strength::GuestConfirmed,
            self.scene.limits.grow_layer,
            Vec::new(),
        )
    }
}

fn is_swap(layer: &Layer) -> bool {
    matches!(layer.kind, LayerKind::Swap) || layer.above.iter().any(is_swap)
}

fn holds_root(layer: &Layer) -> bool {
    let root = matches!(&layer.kind, LayerKind::Filesystem { mount: Some(mount), .. } if mount == "/");
    root || layer.above.iter().any(holds_root)
}
