//! Why DIMMs cannot be added or taken away, each with its way out.

use crate::plan::layout::{Bay, Layout, Move, NoLayout};
use crate::plan::make::Scene;
use crate::plan::resolve::Delta;
use crate::plan::{Obstacle, When};
use crate::units::Bytes;
use crate::wanted::Mechanism;

pub(super) fn cannot_ever_grow(scene: &Scene<'_>, by: Bytes) -> Option<Obstacle> {
    let memory = &scene.seen.memory;
    let needed = memory.ceiling + by.saturating_sub(memory.headroom());
    let cold = |reason: String| {
        let slots = if memory.slots == 0 { 16 } else { memory.slots };
        let way_out = format!(
            "start the machine with -m {}M,slots={slots},maxmem={}M or more",
            memory.boot.count_of(Bytes::mib(1)),
            needed.round_up(Bytes::mib(1)).count_of(Bytes::mib(1)),
        );
        Some(Obstacle { when: When::Cold, reason, way_out })
    };
    if memory.slots == 0 {
        return cold("the machine was started without DIMM slots".to_owned());
    }
    if by > memory.headroom() {
        return cold(format!(
            "its ceiling is {}, which leaves {} for further DIMMs where {by} are needed",
            memory.ceiling,
            memory.headroom(),
        ));
    }
    None
}

pub(super) fn cannot_shrink(scene: &Scene<'_>) -> Option<Obstacle> {
    let reason = if !scene.footing.shows_blocks {
        "a DIMM must be emptied in the guest before it is removed, and no agent there shows memory blocks \
         (a guest that is asked to eject memory in use may try forever)"
    } else if !scene.footing.sets_blocks {
        "a DIMM must be emptied in the guest before it is removed, and the agent there allows neither \
         guest-set-memory-blocks nor the guest-file commands"
    } else {
        return None;
    };
    let balloon = if scene.seen.memory.balloon.is_some() {
        ", or take memory with the balloon: --mechanism balloon"
    } else {
        ""
    };
    Some(Obstacle {
        when: When::NotNow,
        reason: reason.to_owned(),
        way_out: format!(
            "run qemu-guest-agent in the guest with these commands allowed and name it with --agent{balloon}"
        ),
    })
}

pub(super) fn balloon_is_inflated(scene: &Scene<'_>) -> Option<Obstacle> {
    let memory = &scene.seen.memory;
    let held = (memory.boot + memory.dimm_total()).saturating_sub(memory.balloon?.actual);
    (!held.is_zero()).then(|| Obstacle {
        when: When::NotNow,
        reason: format!(
            "the balloon holds {held}, and QEMU counts its target from boot memory and DIMMs together: \
             a DIMM change under it moves both"
        ),
        way_out: format!(
            "first give the balloon back: --mechanism balloon --memory {}",
            exact(memory.total())
        ),
    })
}

/// The most that the guest is short of at any point of a layout, and at its end. What it does not use is no loss.
fn shortage(scene: &Scene<'_>, layout: &Layout) -> (Bytes, Bytes) {
    let (mut lost, mut gained, mut deepest) = (Bytes::ZERO, Bytes::ZERO, Bytes::ZERO);
    for change in &layout.moves {
        match change {
            Move::Add { size, .. } => gained = gained + *size,
            Move::Remove { stick } => {
                let dimm = &scene.seen.memory.dimms[*stick];
                lost = lost + dimm.size.saturating_sub(scene.footing.idle(dimm.addr, dimm.size, dimm.size));
            }
        }
        deepest = deepest.max(lost.saturating_sub(gained));
    }
    (deepest, lost.saturating_sub(gained))
}

/// Removing first may leave the guest short for a while.
pub(super) fn dip(scene: &Scene<'_>, layout: &Layout) -> Option<Obstacle> {
    let (taken, at_the_end) = shortage(scene, layout);
    if layout.dip.is_zero() && taken == at_the_end {
        return None;
    }
    let lowest = scene.asked_memory().min(scene.from.memory).saturating_sub(layout.dip);
    let why = match scene.footing.can_spare(scene.limits) {
        Some(spare) if taken <= spare => return None,
        Some(spare) => format!("the guest can spare {spare}"),
        None if layout.dip.is_zero() => return None,
        None => "the guest does not tell what it can spare".to_owned(),
    };
    Some(Obstacle {
        when: When::NotNow,
        reason: format!(
            "with neither slot nor ceiling left to add first, memory would fall to {lowest} for a while, and {why}"
        ),
        way_out: "shrink by the size of a whole DIMM first, or start the machine with more slots".to_owned(),
    })
}

fn no_slots(scene: &Scene<'_>, bay: &Bay) -> Obstacle {
    let taken = format!(
        "{} of its {} slots can take a DIMM{}, and a DIMM is {} at most",
        bay.free.max(0),
        scene.seen.memory.slots,
        if scene.seen.host.vhost_regions.is_some() { " within vhost's memory regions" } else { "" },
        bay.piece,
    );
    match cannot_shrink(scene) {
        Some(_) => Obstacle {
            when: When::NotNow,
            reason: format!(
                "{taken}; small DIMMs are not merged in a guest that cannot be asked to empty them"
            ),
            way_out: "name the guest's agent with --agent, or start the machine with more slots".to_owned(),
        },
        None => Obstacle {
            when: When::Cold,
            reason: format!("{taken}; merging the DIMMs that can be removed does not give enough"),
            way_out: "start the machine with more slots, or allow larger DIMMs (limit dimm-max)".to_owned(),
        },
    }
}

pub(super) fn no_layout(scene: &Scene<'_>, bay: &Bay, delta: Delta, none: NoLayout) -> Obstacle {
    match none {
        NoLayout::Misfit => misfit(scene, bay.unit),
        NoLayout::Slots => no_slots(scene, bay),
        NoLayout::Gaps => Obstacle {
            when: When::NotNow,
            reason:
                "no gap between the machine's memory devices is large enough, and moving those that can be \
                     removed gives none"
                    .to_owned(),
            way_out: "ask for less, or shrink first so that gaps close".to_owned(),
        },
        NoLayout::Stays { removable } => {
            let Delta::Shrink(by) = delta else { unreachable!("only a shrink has too little to take") };
            let least = scene.from.memory.saturating_sub(removable);
            let kept = if scene.wanted.keep.is_empty() {
                String::new()
            } else {
                format!(" (the guest keeps {})", scene.wanted.keep.join(", "))
            };
            Obstacle {
                when: When::NotNow,
                reason: format!("{by} are to go and only {removable} are in DIMMs that can be removed{kept}"),
                way_out: format!("the smallest size now is --memory {}", exact(least)),
            }
        }
    }
}

/// The size asked for is no whole number of units away: the two nearest are named, none is chosen.
pub(in crate::plan) fn misfit(scene: &Scene<'_>, unit: Bytes) -> Obstacle {
    let (from, asked) = (scene.from.memory, scene.asked_memory());
    let (below, above) = if asked >= from {
        let by = asked - from;
        (from + by.round_down(unit), from + by.round_up(unit))
    } else {
        let by = from - asked;
        (from.saturating_sub(by.round_up(unit)), from.saturating_sub(by.round_down(unit)))
    };
    let memory = &scene.seen.memory;
    let least = if scene.wanted.mechanism == Some(Mechanism::Balloon) { unit } else { memory.boot };
    let nearest: Vec<String> = [(below >= least, below), (above <= memory.ceiling.max(from), above)]
        .into_iter()
        .filter(|(possible, _)| *possible)
        .map(|(_, size)| format!("--memory {}", exact(size)))
        .collect();
    Obstacle {
        when: When::Impossible,
        reason: format!("{asked} is not a whole number of steps of {unit} from {from}"),
        way_out: if nearest.is_empty() {
            "no other size can be had".to_owned()
        } else {
            format!("ask for {}", nearest.join(" or "))
        },
    }
}

/// A size as it can be typed.
pub(in crate::plan) fn exact(size: Bytes) -> String {
    let (gib, mib, kib) = (Bytes::gib(1), Bytes::mib(1), Bytes::new(1 << 10));
    [(gib, "G"), (mib, "M"), (kib, "K")]
        .into_iter()
        .find(|(unit, _)| size.is_multiple_of(*unit))
        .map_or_else(|| format!("{}B", size.get()), |(unit, name)| format!("{}{name}", size.count_of(unit)))
}
