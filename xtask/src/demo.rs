//! `cargo xtask demo`: the main job on a real guest, and a picture of it.

use crate::run::{Failed, cargo, program};
use crate::setup::setup;

pub(crate) fn demo() -> Result<(), Failed> {
    setup()?;
    let supple = program("supple", "dev")?;
    cargo(&["run", "--quiet", "--locked", "--package", "lab", "--", "demo", &supple], &[])
}
