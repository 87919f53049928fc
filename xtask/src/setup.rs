//! `cargo xtask setup`: has the lab fetch QEMU, where there is none, and the parts of its guests.
//!
//! They come from the Debian archives that this machine's apt already trusts, into the lab's cache, without root.
//! The one thing to install is a library that the tests open (see `libvirt`). Where something cannot be had, the way
//! out is printed and the exit status is 2.

use crate::libvirt;
use crate::run::{Failed, cargo};

pub(crate) fn setup() -> Result<(), Failed> {
    libvirt::ensure()?;
    cargo(&["run", "--quiet", "--locked", "--package", "lab", "--", "prepare"], &[])
}
