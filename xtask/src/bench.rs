//! `cargo xtask bench`: what Supple costs beside the least that could be done, in release builds.

use crate::run::{Failed, cargo, program};
use crate::setup::setup;

pub(crate) fn bench() -> Result<(), Failed> {
    setup()?;
    let supple = program("supple", "release")?;
    cargo(&["run", "--quiet", "--release", "--locked", "--package", "lab", "--", "bench", &supple], &[])
}
