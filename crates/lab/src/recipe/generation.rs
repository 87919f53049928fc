//! Which of two generations of QEMU and libvirt the lab runs: this Debian release's or its backports'.
//!
//! A test that says nothing runs on the one that the environment asks for, so that the whole suite runs on each without
//! a second copy of anything. It will not find either: see `qemu` and `libvirt`.

use std::env;

use anyhow::{Context, Result, bail};

#[cfg(doc)]
use crate::{Libvirt, Qemu};

const ASKED: &str = "SUPPLE_LAB_GENERATION";

/// Which QEMU runs the guest, and which libvirt the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// [`Qemu::system`] and [`Libvirt::system`].
    System,
    /// [`Qemu::backports`] and [`Libvirt::backports`].
    Backports,
}

impl Generation {
    /// The one that `SUPPLE_LAB_GENERATION` (`system` or `backports`) asks for; without it, the system's.
    ///
    /// # Errors
    /// The variable says something else.
    pub fn asked_for() -> Result<Self> {
        match env::var(ASKED) {
            Ok(name) => Self::named(&name).with_context(|| format!("{ASKED}={name}")),
            Err(env::VarError::NotPresent) => Ok(Self::System),
            Err(unreadable @ env::VarError::NotUnicode(_)) => bail!("{ASKED}: {unreadable}"),
        }
    }

    /// The one of this name, `system` or `backports`.
    ///
    /// # Errors
    /// There is no other.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "system" => Ok(Self::System),
            "backports" => Ok(Self::Backports),
            other => bail!("no generation `{other}`: there are `system` and `backports`"),
        }
    }
}
