//! `cargo xtask setup`: has the lab fetch QEMU, where there is none, and the parts of its guests.
//!
//! Nothing is installed and no root is needed: all of it comes from the Debian archives that this machine's apt
//! already trusts, into the lab's cache. Where that cannot be, the way out is printed and the exit status is 2.

use crate::run::{Failed, cargo};

pub(crate) fn setup() -> Result<(), Failed> {
    cargo(&["run", "--quiet", "--locked", "--package", "lab", "--", "prepare"], &[])
}
