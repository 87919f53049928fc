//! `cargo xtask check`: what can be said of the code without running it.

use crate::run::{Failed, cargo};

pub(crate) fn check() -> Result<(), Failed> {
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")])
}
