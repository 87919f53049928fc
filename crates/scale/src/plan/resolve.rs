//! What was asked for, as absolute sizes.
//!
//! A step such as `+2G` counts from what QEMU gives the guest now, so the same command sent twice grows twice; an
//! absolute size sent twice does not. Nothing here knows what the machine can do.

use super::{Asked, Obstacle, Sizes, When};
use crate::observed::Observed;
use crate::units::{Bytes, Change};
use crate::wanted::Wanted;

/// The absolute sizes, and why one of them has none.
pub(super) fn resolve(seen: &Observed, wanted: &Wanted) -> (Asked, Vec<Obstacle>) {
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
    (Asked { memory, vcpus, ..Asked::default() }, obstacles)
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
