//! What was asked for, as absolute sizes.
//!
//! A step such as `+2G` counts from what QEMU gives the guest now, so the same command sent twice grows twice; an
//! absolute size sent twice does not. Nothing here knows what the machine can do.

use super::settings::{Move, Moves};
use super::{Asked, Obstacle, Sizes, When, disks, named, settings};
use crate::observed::Observed;
use crate::units::{Bytes, Change};
use crate::wanted::Wanted;

/// What was asked for, worked out.
pub(super) struct Resolved {
    /// The absolute sizes.
    pub(super) asked: Asked,
    /// Limits, with what they are now.
    pub(super) moves: Vec<Move>,
    /// What a reader should know before consenting.
    pub(super) notes: Vec<String>,
    /// Why something asked for cannot be worked out.
    pub(super) obstacles: Vec<Obstacle>,
}

/// Works a wish out.
pub(super) fn resolve(seen: &Observed, wanted: &Wanted) -> Resolved {
    let (memory, vcpus, mut obstacles) = sizes(seen, wanted);
    let (disks, of_disks) = disks::resolve(seen, wanted);
    let Moves { moves, mut notes, obstacles: of_limits } = settings::resolve(seen, wanted);
    let last = vcpus.unwrap_or_else(|| Sizes::of(seen).vcpus);
    notes.extend(moves.iter().filter_map(|one| settings::idle(&one.to, last)));
    obstacles.extend(of_disks);
    obstacles.extend(of_limits);
    let asked = Asked { memory, vcpus, disks, settings: moves.iter().map(|m| m.to.clone()).collect() };
    Resolved { asked, moves, notes, obstacles }
}

/// The same wish with every step from a present size turned into the size that it came to: planned again later, it
/// still leads to where it led when it was asked.
pub fn settled(wanted: &Wanted, seen: &Observed, asked: &Asked) -> Wanted {
    let mut wanted = wanted.clone();
    wanted.memory = asked.memory.map(Change::To);
    wanted.vcpus = asked.vcpus.map(Change::To);
    for (name, wish) in &mut wanted.disks {
        let Ok(disk) = named::disk(seen, name) else { continue };
        let size = asked.disks.iter().find(|(of, _)| *of == disk.name).map(|(_, size)| *size);
        wish.size = wish.size.and(size).map(Change::To);
    }
    wanted
}

fn sizes(seen: &Observed, wanted: &Wanted) -> (Option<Bytes>, Option<u32>, Vec<Obstacle>) {
    let now = Sizes::of(seen);
    let mut obstacles = Vec::new();
    let memory = wanted.memory.and_then(|change| match change {
        Change::To(size) if !size.is_zero() => Some(size),
        Change::To(_) => {
            obstacles.push(no_size("no memory at all", "memory", &now.memory));
            None
        }
        Change::Grow(by) => now.memory.checked_add(by).or_else(|| {
            obstacles.push(no_size(&format!("{by} more"), "memory", &now.memory));
            None
        }),
        Change::Shrink(by) => now.memory.checked_sub(by).filter(|left| !left.is_zero()).or_else(|| {
            obstacles.push(no_size(&format!("{by} less"), "memory", &now.memory));
            None
        }),
    });
    let vcpus = wanted.vcpus.filter(|_| !seen.vcpus.slots.is_empty()).and_then(|change| match change {
        Change::To(count) if count > 0 => Some(count),
        Change::To(_) => {
            obstacles.push(no_size("no vCPUs at all", "vCPUs", &now.vcpus));
            None
        }
        Change::Grow(by) => now.vcpus.checked_add(by).or_else(|| {
            obstacles.push(no_size(&format!("{by} more"), "vCPUs", &now.vcpus));
            None
        }),
        Change::Shrink(by) => now.vcpus.checked_sub(by).filter(|left| *left > 0).or_else(|| {
            obstacles.push(no_size(&format!("{by} less"), "vCPUs", &now.vcpus));
            None
        }),
    });
    if wanted.vcpus.is_some() && seen.vcpus.slots.is_empty() {
        obstacles.push(Obstacle {
            when: When::Cold,
            reason: format!("a machine of type {} has no vCPU hot-plug", seen.machine.kind),
            way_out: "start the machine with the vCPUs that it is to have".to_owned(),
        });
    }
    (memory, vcpus, obstacles)
}

fn no_size(asked: &str, what: &str, now: &dyn std::fmt::Display) -> Obstacle {
    Obstacle {
        when: When::Impossible,
        reason: format!("{asked} was asked of a machine that has {now} of {what}"),
        way_out: "ask for an absolute size, such as --memory 6G or --vcpus 4".to_owned(),
    }
}

/// How much, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delta {
    Grow(Bytes),
    Shrink(Bytes),
}

impl Delta {
    pub(super) fn between(from: Bytes, to: Bytes) -> Delta {
        if to >= from { Delta::Grow(to - from) } else { Delta::Shrink(from - to) }
    }
}
