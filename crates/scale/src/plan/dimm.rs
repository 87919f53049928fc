//! Memory by DIMMs: the bay that a layout is made for.
//!
//! The layout itself is arithmetic (`layout`), its steps are written in `place`, its refusals in `why_not`. Here stands
//! which DIMMs may go and how large a new one may be.

mod why_not;

use super::layout::{self, Bay, Layout, Move, Stick};
use super::make::{Part, Scene};
use super::place;
use super::resolve::Delta;
use super::space::Space;
use super::{Obstacle, When};
use crate::observed::{Dimm, DimmKind, PendingDevice};
use crate::units::Bytes;
use why_not::{balloon_is_inflated, cannot_ever_grow, cannot_shrink, dip, no_layout};
pub(super) use why_not::{exact, misfit};

/// Regions of a vhost backend that boot memory takes on a PC: below 640 KiB, above 1 MiB, above 4 GiB, and one for what
/// firmware cuts out (hw/i386/pc.c, QEMU 7.2 and 10.0).
const BOOT_REGIONS: i64 = 4;

/// The size step of a DIMM on this machine: guest block, alignment and page size are powers of two, so the largest of
/// them is a multiple of the others.
pub(super) fn unit(scene: &Scene<'_>) -> Bytes {
    let memory = &scene.seen.memory;
    scene.footing.block.max(memory.alignment).max(memory.largest_page().unwrap_or_default())
}

/// The machine once virtio-mem has done its part.
pub(super) struct Before {
    /// Id and memory of each node.
    pub(super) nodes: Vec<(u32, Bytes)>,
    /// What is hot-plugged.
    pub(super) hotplugged: Bytes,
}

/// Adds or takes `delta` by DIMMs.
pub(super) fn plan(scene: &Scene<'_>, delta: Delta, before: Before) -> Part {
    let mut part = Part::default();
    let obstacle = match delta {
        Delta::Grow(by) | Delta::Shrink(by) if by.is_zero() => return part,
        Delta::Grow(by) => cannot_ever_grow(scene, by),
        Delta::Shrink(_) => cannot_shrink(scene),
    };
    match obstacle.map_or_else(|| fitting(scene, before, delta), Err) {
        Ok((layout, steps)) => {
            part = steps;
            part.notes.extend(last_slot(scene, &layout));
            part.peak = layout.peak;
            part.obstacles.extend(dip(scene, &layout));
        }
        Err(obstacle) => part.obstacles.push(obstacle),
    }
    part.obstacles.extend(balloon_is_inflated(scene));
    part
}

/// The layout and its steps, with DIMMs small enough for the guest to find their metadata and for the gaps between
/// the devices.
fn fitting(scene: &Scene<'_>, before: Before, delta: Delta) -> Result<(Layout, Part), Obstacle> {
    let node = scene.wanted.node;
    let mut bay = bay(scene, before.nodes, delta);
    let going = going_anyway(scene);
    loop {
        let layout = match delta {
            Delta::Grow(by) => bay.grow(by, node).map_err(|none| no_layout(scene, &bay, delta, none)),
            Delta::Shrink(by) => shrink(scene, &bay, by, &going),
        }?;
        match place::steps(scene, &layout, before.hotplugged) {
            Ok(part) => return Ok((layout, part)),
            Err(place::NoPlace::TooLarge(obstacle)) if bay.piece <= bay.unit => return Err(obstacle),
            Err(place::NoPlace::TooLarge(_)) => {
                let largest = layout.moves.iter().map(Move::added).max().unwrap_or(bay.piece);
                bay.piece = largest.min(bay.piece).per(2).round_down(bay.unit).max(bay.unit);
            }
            Err(place::NoPlace::Zone(obstacle)) => return Err(obstacle),
        }
    }
}

/// A shrink takes first what the guest was asked for earlier and may still give: otherwise it would end below the size
/// asked for when the guest does.
fn shrink(scene: &Scene<'_>, bay: &Bay, by: Bytes, going: &[usize]) -> Result<Layout, Obstacle> {
    let sum: Bytes = going.iter().map(|nth| scene.seen.memory.dimms[*nth].size).sum();
    let Some(rest) = by.checked_sub(sum) else {
        let ids: Vec<&str> = pending(scene).collect();
        return Err(Obstacle {
            when: When::NotNow,
            reason: format!(
                "the removal of {} ({sum}) is still asked of the guest, which may grant it",
                ids.join(", ")
            ),
            way_out: format!(
                "ask for --memory {} or less, or wait until the guest has answered",
                exact(scene.from.memory.saturating_sub(sum))
            ),
        });
    };
    let mut layout = if rest.is_zero() {
        Layout { moves: Vec::new(), dip: Bytes::ZERO, peak: Bytes::ZERO }
    } else {
        let layout = bay.shrink(rest, scene.wanted.node);
        layout.map_err(|none| no_layout(scene, bay, Delta::Shrink(rest), none))?
    };
    layout.moves.splice(0..0, going.iter().map(|nth| Move::Remove { stick: *nth }));
    Ok(layout)
}

/// How much is in DIMMs that are there and whose removal is pending.
pub(super) fn going(scene: &Scene<'_>) -> Bytes {
    going_anyway(scene).into_iter().map(|nth| scene.seen.memory.dimms[nth].size).sum()
}

/// DIMMs that are there and whose removal is pending.
fn going_anyway(scene: &Scene<'_>) -> Vec<usize> {
    let dimms = &scene.seen.memory.dimms;
    (0..dimms.len()).filter(|nth| pending(scene).any(|id| id == dimms[*nth].id)).collect()
}

fn bay(scene: &Scene<'_>, nodes: Vec<(u32, Bytes)>, delta: Delta) -> Bay {
    let memory = &scene.seen.memory;
    let unit = unit(scene);
    let largest = scene.limits.dimm_max.round_down(unit).max(unit);
    let free = free_slots(scene);
    let filled = i64::try_from(memory.dimms.len()).unwrap_or(i64::MAX);
    let slots = u32::try_from(free.saturating_add(filled)).unwrap_or(0);
    let room = memory.headroom() + memory.dimm_total();
    let scarce = free < i64::from(slots) / 2;
    let usual = layout::usual_size(room, slots, unit, largest);
    let mut order: Vec<usize> = (0..memory.dimms.len()).collect();
    order.sort_by_cached_key(|i| {
        let dimm = &memory.dimms[*i];
        let crumb = scarce && dimm.size < usual.per(2);
        (!is_empty(scene, dimm), !crumb, !dimm.hotplugged, std::cmp::Reverse(dimm.slot))
    });
    let mut rank = vec![0; order.len()];
    for (position, dimm) in (0..).zip(order) {
        rank[dimm] = position;
    }
    let may_go = cannot_shrink(scene).is_none();
    let pending: Vec<&str> = pending(scene).collect();
    let stick = |(dimm, rank): (&Dimm, u32)| Stick {
        size: if dimm.kind == DimmKind::Dimm { dimm.size } else { Bytes::ZERO },
        node: dimm.node,
        addr: dimm.addr,
        may_go: may_go && can_go(scene, dimm) && !pending.contains(&dimm.id.as_str()),
        rank,
    };
    let sticks = memory.dimms.iter().zip(rank).map(stick).collect();
    let space = Space::of(scene.seen, unit);
    let spare = scene.footing.can_spare(scene.limits).unwrap_or(Bytes::ZERO);
    let may_dip = match delta {
        Delta::Grow(_) => spare,
        Delta::Shrink(by) => spare.saturating_sub(by),
    };
    Bay {
        sticks,
        nodes,
        free,
        headroom: memory.headroom(),
        unit,
        largest,
        piece: largest,
        usual,
        space,
        may_dip,
    }
}

/// Slots that can take a DIMM, vhost's regions considered; below zero where those are overdrawn.
fn free_slots(scene: &Scene<'_>) -> i64 {
    let free = i64::try_from(place::open_slots(scene).len()).unwrap_or(i64::MAX);
    let memory = &scene.seen.memory;
    let devices =
        i64::try_from(memory.dimms.len() + memory.virtio_mem.len() + memory.others.len()).unwrap_or(i64::MAX);
    let regions = scene.seen.host.vhost_regions.map(i64::from);
    let kept = devices.saturating_add(BOOT_REGIONS).saturating_add(i64::from(scene.limits.vhost_reserve));
    regions.map_or(free, |regions| free.min(regions.saturating_sub(kept)))
}

/// How much is in DIMMs that can be taken away.
pub(super) fn removable(scene: &Scene<'_>) -> Bytes {
    let node = scene.wanted.node;
    let dimms = scene.seen.memory.dimms.iter();
    let going = dimms.filter(|d| node.is_none_or(|n| n == d.node) && can_go(scene, d));
    if cannot_shrink(scene).is_some() { Bytes::ZERO } else { going.map(|d| d.size).sum() }
}

/// True where the guest shows no block of the DIMM online: nothing has to be moved.
fn is_empty(scene: &Scene<'_>, dimm: &Dimm) -> bool {
    let footing = &scene.footing;
    footing.shows_blocks && footing.blocks_in(&dimm.blocks(footing.block)).iter().all(|b| !b.online)
}

/// True where this DIMM can be removed: QEMU can name it, nobody wants it kept, and its blocks are its own.
fn can_go(scene: &Scene<'_>, dimm: &Dimm) -> bool {
    let footing = &scene.footing;
    let own_blocks =
        dimm.fits_blocks(footing.block) || footing.blocks_in(&dimm.blocks(footing.block)).is_empty();
    dimm.kind == DimmKind::Dimm && !dimm.id.is_empty() && own_blocks && !scene.wanted.keep.contains(&dimm.id)
}

/// Where a layout leaves too few slots to grow on by adding alone.
fn last_slot(scene: &Scene<'_>, layout: &Layout) -> Option<String> {
    let memory = &scene.seen.memory;
    let added: Bytes = layout.moves.iter().map(Move::added).sum();
    let (adds, removes): (Vec<&Move>, Vec<&Move>) = layout.moves.iter().partition(|m| !m.added().is_zero());
    let count = |moves: &[&Move]| i64::try_from(moves.len()).unwrap_or(i64::MAX);
    let free = free_slots(scene) + count(&removes) - count(&adds);
    let more = !removes.is_empty() || added < memory.headroom();
    (!adds.is_empty() && free <= 0 && more).then(|| {
        format!(
            "no slot is left to reach the ceiling of {} by adding: growing on means merging DIMMs, to which the guest \
             must consent",
            memory.ceiling
        )
    })
}

/// DIMMs whose removal is pending.
pub(super) fn pending<'a>(scene: &'a Scene<'_>) -> impl Iterator<Item = &'a str> {
    scene.seen.pending.iter().filter_map(|p| match &p.device {
        PendingDevice::Dimm { id, .. } => Some(id.as_str()),
        PendingDevice::Vcpu { .. } => None,
    })
}
