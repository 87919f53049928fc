//! `cargo xtask check`: what can be said of the code without running it.

use crate::libvirt;
use crate::run::{Failed, cargo};

pub(crate) fn check() -> Result<(), Failed> {
    libvirt::ensure()?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")])
}
