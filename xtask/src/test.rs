//! `cargo xtask test`: every test of the workspace, those on real guests among them.

use crate::run::{Failed, cargo};
use crate::setup::setup;

pub(crate) fn test(extra: &[&str]) -> Result<(), Failed> {
    setup()?;
    cargo(&[&["test", "--workspace", "--locked"], extra].concat(), &[])
}
