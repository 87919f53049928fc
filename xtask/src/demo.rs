//! `cargo xtask demo`: the main job on a real guest, and a picture of it.
//!
//! It needs one QEMU and one guest, which the lab fetches into its cache; nothing is installed.

use crate::run::{Failed, build};

pub(crate) fn demo() -> Result<(), Failed> {
    let built = build("dev")?;
    built.lab(&["demo", &built.supple()])
}
