//! Memory by the balloon, which is used only where it was asked for by name.
//!
//! Its target is always made from boot memory and DIMMs as they are now: QEMU takes it as an absolute size of both
//! together, so an old target after a DIMM change would move the guest by the DIMM's size.

use super::make::{Part, Scene, scaled, step};
use super::resolve::Delta;
use super::{Act, Proof, Strength, When, dimm};
use crate::units::Bytes;

/// The options that ask the balloon for a size.
pub(super) fn option(size: &str) -> String {
    format!("--mechanism balloon --memory {size}")
}

/// Plans a change by the balloon.
pub(super) fn plan(scene: &Scene<'_>, delta: Delta) -> Part {
    let memory = &scene.seen.memory;
    let Some(balloon) = memory.balloon else {
        return Part::obstacle(
            When::Cold,
            "the machine has no balloon".to_owned(),
            "start the machine with one (-device virtio-balloon-pci), or leave the mechanism to Supple"
                .to_owned(),
        );
    };
    let full = memory.boot + memory.dimm_total();
    let other = memory.total().saturating_sub(full);
    if let Some(own) = balloon.actual.checked_sub(full).filter(|own| !own.is_zero()) {
        // hv-balloon adds memory from a backend of its own (hw/hyperv/hv-balloon.c, 8.2 and later).
        return Part::obstacle(
            When::Impossible,
            format!(
                "the balloon is at {own} more than boot memory and DIMMs: it has added memory of its own, which Supple does not count"
            ),
            "resize it by hand (QMP's balloon)".to_owned(),
        );
    }
    let now = balloon.actual;
    let (to, by) = match delta {
        Delta::Grow(by) | Delta::Shrink(by) if by.is_zero() => return Part::default(),
        Delta::Grow(by) => (now + by, by),
        Delta::Shrink(by) => (now.saturating_sub(by), by),
    };
    if to > full {
        return Part::obstacle(
            When::NotNow,
            format!("the balloon holds {} and cannot give more than that", full.saturating_sub(now)),
            format!("ask for --memory {}, or leave the mechanism to Supple", dimm::exact(full + other)),
        );
    }
    if to.is_zero() {
        return Part::obstacle(
            When::Impossible,
            format!("the balloon reaches only boot memory and DIMMs, {full}, and would take all of it"),
            "ask for more memory, or leave the mechanism to Supple".to_owned(),
        );
    }
    let page = Bytes::new(4096);
    if !to.is_multiple_of(page) {
        return Part { obstacles: vec![dimm::misfit(scene, page)], ..Part::default() };
    }
    let change = step(
        Act::SetBalloon { from: balloon.actual, to },
        Proof::BalloonAt { actual: to },
        Strength::DriverConfirmed,
        scaled(scene.limits.appear, scene.limits.per_gib, by),
        vec![Act::SetBalloon { from: to, to: balloon.actual }],
    );
    let grows = matches!(delta, Delta::Grow(_));
    Part {
        groups: vec![vec![change]],
        notes: vec![
            "the balloon takes memory from the guest or gives it back; none is removed or added".to_owned(),
        ],
        adds_memory: grows,
        peak: if grows { by } else { Bytes::ZERO },
        ..Part::default()
    }
}
