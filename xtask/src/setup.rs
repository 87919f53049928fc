//! `cargo xtask setup`: has the lab fetch QEMU, where there is none, and all else that the tests run.
//!
//! It comes from the Debian archives that this machine's apt already trusts, into the lab's cache, without root.
//! The one thing to install is a library that the tests open (see `libvirt`). Where something cannot be had, the way
//! out is printed and the exit status is 2.

use crate::libvirt;
use crate::run::{Built, Failed, build};

/// Builds in `profile`, then sets up.
pub(crate) fn setup(profile: &str) -> Result<Built, Failed> {
    libvirt::ensure()?;
    let built = build(profile)?;
    built.lab(&["prepare"])?;
    Ok(built)
}
