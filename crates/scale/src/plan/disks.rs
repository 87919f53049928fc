//! Disks: they only grow, where the host has room, and then what lies on them in the guest.
//!
//! Nothing of this has a way back, so it comes last, and each step is a group of its own: what has grown stays grown.
//! Where the guest's part cannot be done, the disk grows all the same, and the plan says what is left to a person.

use super::make::{Part, Scene, step};
use super::{Act, Obstacle, Proof, Strength, Unmet, When, layers, named};
use crate::observed::{Disk, DiskBus, GuestDisk, Known, Lies, Machine, Manager, Observed, Pool};
use crate::units::{Bytes, Change};
use crate::wanted::Wanted;

/// QEMU counts disks in sectors (`BDRV_SECTOR_SIZE`, include/block/block.h, 7.2 and 10.0).
const SECTOR: Bytes = Bytes::new(512);

/// The names and sizes that are asked for, and why others cannot be.
pub(super) fn resolve(seen: &Observed, wanted: &Wanted) -> (Vec<(String, Bytes)>, Vec<Obstacle>) {
    let (mut asked, mut obstacles): (Vec<(String, Bytes)>, _) = (Vec::new(), Vec::new());
    for (name, wish) in &wanted.disks {
        let Some(change) = wish.size else { continue };
        let sized = named::disk(seen, name).and_then(|disk| Ok((disk.name.clone(), size(disk, change)?)));
        match sized {
            Ok((name, size)) if asked.iter().any(|(other, at)| *other == name && *at != size) => {
                obstacles.push(Obstacle {
                    when: When::Impossible,
                    reason: format!("disk {name} was asked for in two sizes, by two of its names"),
                    way_out: "ask for it once".to_owned(),
                });
            }
            Ok((name, _)) if asked.iter().any(|(other, _)| *other == name) => {}
            Ok(sized) => asked.push(sized),
            Err(obstacle) => obstacles.push(obstacle),
        }
    }
    (asked, obstacles)
}

fn size(disk: &Disk, change: Change<Bytes>) -> Result<Bytes, Obstacle> {
    let (name, now) = (&disk.name, disk.size);
    let to = match change {
        Change::To(to) => to,
        Change::Grow(by) => now + by,
        Change::Shrink(by) => now.saturating_sub(by),
    };
    if to < now {
        return Err(Obstacle {
            when: When::Impossible,
            reason: format!(
                "disk {name} has {now}, and QEMU would cut off whatever its guest keeps beyond {to}"
            ),
            way_out: "add a smaller disk, copy what is needed, and take the large one away".to_owned(),
        });
    }
    if to.is_multiple_of(SECTOR) {
        return Ok(to);
    }
    let (below, above) = (to.round_down(SECTOR), to.round_up(SECTOR));
    Err(Obstacle {
        when: When::Impossible,
        reason: format!("a disk is made of sectors of {SECTOR}, and {to} is no whole number of them"),
        way_out: format!("ask for {}B or {}B", below.get(), above.get()),
    })
}

/// The steps of all disks that are asked for.
pub(super) fn plan(scene: &Scene<'_>) -> Part {
    let mut part = Part::default();
    let disks: Vec<(&Disk, Bytes)> = scene
        .asked
        .disks
        .iter()
        .filter_map(|(name, to)| Some((scene.seen.disks().iter().find(|d| d.name == *name)?, *to)))
        .collect();
    part.obstacles.extend(short_pools(&disks));
    for (disk, to) in disks {
        part.then(one(scene, disk, to));
    }
    part
}

fn one(scene: &Scene<'_>, disk: &Disk, to: Bytes) -> Part {
    let mut part = Part::default();
    let hears = hears(scene, disk, to);
    if to > disk.size {
        part.obstacles.extend(in_the_way(scene, disk, to));
        part.notes.extend(worth_a_word(disk, to));
        let in_guest = hears.is_ok();
        part.groups.push(vec![step(
            Act::GrowDisk { disk: disk.name.clone(), from: disk.size, to },
            Proof::DiskAt { disk: disk.name.clone(), size: to, in_guest },
            if in_guest { Strength::GuestConfirmed } else { Strength::DeviceOnly },
            scene.limits.monitor,
            Vec::new(),
        )]);
    }
    match hears {
        Ok(guest) => part.then(layers::plan(scene, disk, guest, to)),
        // Of a disk that stays as it is, and that the guest does not show, nothing can be said.
        Err(_) if to == disk.size && disk.guest.known().is_none() => {}
        Err(deaf) => part.unmet.push(left(disk, to, deaf)),
    }
    part
}

/// What a person has to do before the guest uses all of a disk: the reason, and by which way.
pub(super) fn left(disk: &Disk, to: Bytes, (why, by_hand): (String, String)) -> Unmet {
    let verb = if to > disk.size { "grows to" } else { "has" };
    Unmet {
        why: format!("disk {} {verb} {to}, and its guest does not use all of it yet: {why}", disk.name),
        by_hand,
    }
}

/// What the guest shows of a disk, where it hears of a new size at once or knows it already; else why not, and what a
/// person can do.
fn hears<'a>(scene: &Scene<'_>, disk: &'a Disk, to: Bytes) -> Result<&'a GuestDisk, (String, String)> {
    let guest = match &disk.guest {
        Known::Is(guest) => guest,
        Known::Not(why) => {
            let by_hand = match scene.footing.is_windows() {
                true => "in Windows: diskpart, rescan, select volume, extend",
                false => "grow its partition and its filesystem in the guest",
            };
            return Err((why.clone(), by_hand.to_owned()));
        }
    };
    if guest.size == to {
        return Ok(guest);
    }
    let short = guest.device.trim_start_matches("/dev/");
    let (why, by_hand) = match disk.bus {
        // It is told when the disk grows; of one that has grown already it will not be told again.
        DiskBus::Virtio | DiskBus::VirtioScsi if to > disk.size => return Ok(guest),
        DiskBus::Virtio => (
            "the guest has not taken notice of its size",
            "restart the guest, then run this again".to_owned(),
        ),
        DiskBus::VirtioScsi => (
            "the guest has not taken notice of its size",
            format!("in the guest: echo 1 > /sys/class/block/{short}/device/rescan; then run this again"),
        ),
        DiskBus::Scsi => (
            "only virtio-scsi tells a guest of a new size",
            format!("in the guest: echo 1 > /sys/class/block/{short}/device/rescan; then run this again"),
        ),
        DiskBus::Nvme => (
            "QEMU does not tell a guest of an NVMe disk's new size",
            format!("in the guest: nvme ns-rescan {}, or restart it; then run this again", guest.device),
        ),
        DiskBus::Ide => (
            "a guest learns the size of an IDE or SATA disk when it starts",
            "restart the guest, then run this again".to_owned(),
        ),
        DiskBus::Usb | DiskBus::Other => (
            "whether a guest is told of a new size on this bus is not known",
            "restart the guest, then run this again".to_owned(),
        ),
    };
    Err((why.to_owned(), by_hand))
}

/// What keeps a disk from growing.
fn in_the_way(scene: &Scene<'_>, disk: &Disk, to: Bytes) -> Vec<Obstacle> {
    let name = &disk.name;
    let mut found = Vec::new();
    if disk.read_only {
        found.push(Obstacle {
            when: When::Impossible,
            reason: format!("disk {name} is read-only"),
            way_out: "grow its image where it is written".to_owned(),
        });
    }
    if !disk.busy.is_empty() {
        found.push(Obstacle {
            when: When::NotNow,
            reason: format!("disk {name} is busy: {}", disk.busy.join(", ")),
            way_out: until_over(&scene.seen.machine, name),
        });
    }
    if let Lies::Block { path, size, .. } = &disk.lies
        && disk.format == "raw"
        && *size < to
    {
        // "Cannot grow device files" (block/file-posix.c, 7.2 and 10.0).
        found.push(Obstacle {
            when: When::NotNow,
            reason: format!("disk {name} is {path} itself, which has {size}"),
            way_out: format!(
                "make that larger first, for a logical volume: lvextend -L {}b {path}",
                to.get()
            ),
        });
    }
    found
}

/// How what a disk is busy with comes to its end.
fn until_over(machine: &Machine, disk: &str) -> String {
    let wait = "wait until that is over";
    match machine.manager {
        Manager::Nobody => wait.to_owned(),
        Manager::Libvirt => {
            let name = machine.name.as_deref().unwrap_or("DOMAIN");
            format!(
                "{wait} (virsh domjobinfo {name} tells how far a backup is), or end it: a backup with virsh domjobabort \
                 {name}, another job with virsh blockjob {name} {disk} --abort"
            )
        }
    }
}

/// Growth that the host cannot hold, by all disks that draw on one pool.
fn short_pools(disks: &[(&Disk, Bytes)]) -> Vec<Obstacle> {
    let pool = |disk: &'_ Disk| match &disk.lies {
        Lies::File { filesystem: Some(pool), .. } => Some(("filesystem", pool.clone())),
        Lies::Block { thin: Some(pool), .. } => Some(("thin pool", pool.clone())),
        Lies::File { filesystem: None, .. } | Lies::Block { thin: None, .. } => None,
        Lies::Network(_) | Lies::Unknown(_) => None,
    };
    let mut pools: Vec<(&str, Pool, Bytes)> = Vec::new();
    for (disk, to) in disks {
        let Some((kind, at)) = pool(disk) else { continue };
        let by = to.saturating_sub(disk.size);
        match pools.iter_mut().find(|(k, p, _)| *k == kind && p.name == at.name) {
            Some((_, _, sum)) => *sum = *sum + by,
            None => pools.push((kind, at, by)),
        }
    }
    let short = pools.into_iter().filter(|(_, pool, by)| pool.free < *by);
    short
        .map(|(kind, pool, by)| Obstacle {
            when: When::NotNow,
            reason: format!(
                "the {kind} {} has {} free, and the disks may come to take {by} more",
                pool.name, pool.free
            ),
            way_out: "make room on the host first, or ask for less".to_owned(),
        })
        .collect()
}

/// What is legal and still worth knowing.
fn worth_a_word(disk: &Disk, to: Bytes) -> Option<String> {
    let name = &disk.name;
    match &disk.lies {
        Lies::File { taken, filesystem: Some(pool), .. } => {
            let may_come = to.saturating_sub(*taken);
            (may_come > pool.free).then(|| {
                format!(
                    "disk {name} takes {taken} now; should its guest fill it, {} lacks {}",
                    pool.name,
                    may_come - pool.free
                )
            })
        }
        Lies::File { filesystem: None, path, .. } => {
            Some(format!("how much is free around {path} is not known"))
        }
        Lies::Block { path, size, .. } if *size < to => {
            Some(format!("{path} has {size}: should its guest fill disk {name}, writes will fail there"))
        }
        Lies::Block { .. } => None,
        Lies::Network(kind) => Some(format!("how much is free where disk {name} lies ({kind}) is not known")),
        Lies::Unknown(why) => Some(format!("where disk {name} lies is not known ({why})")),
    }
}
