//! `cargo xtask bench`: what Supple costs beside the least that could be done, and what its DIMM layout reaches beside
//! the rules of others; in release builds.

use crate::run::{Failed, cargo};
use crate::setup::setup;

/// All of it, or these parts of what is measured on guests.
pub(crate) fn bench(parts: &[&str]) -> Result<(), Failed> {
    let built = setup("release")?;
    if parts.is_empty() {
        layout()?;
        storm()?;
    }
    built.lab(&[&["bench", &built.supple()], parts].concat())
}

/// Ten thousand lives of machines in memory, every dimension at once, and the invariants that must hold after each command.
fn storm() -> Result<(), Failed> {
    let words = ["test", "--quiet", "--release", "--locked", "--package", "sim", "--test", "storm"];
    cargo(
        &[&words[..], &["no_life_breaks_an_invariant", "--", "--nocapture"]].concat(),
        &[("STORM_SEEDS", "10000")],
    )
}

/// The layout alone: pure arithmetic, without guests.
pub(crate) fn layout() -> Result<(), Failed> {
    cargo(&["run", "--quiet", "--release", "--locked", "--package", "scale", "--example", "layout"], &[])
}

/// Many random resizes of one machine of libvirt's, with nothing apart at the end: `times`, by `seed`.
pub(crate) fn drift(times: &str, seed: &str) -> Result<(), Failed> {
    let built = setup("release")?;
    built.lab(&["drift", &built.supple(), times, seed])
}
