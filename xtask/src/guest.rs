//! `cargo xtask guest`: a lab guest for a person to try things on.

use crate::run::{Failed, cargo};

pub(crate) fn guest() -> Result<(), Failed> {
    cargo(&["run", "--quiet", "--locked", "--package", "lab", "--", "run"], &[])
}
