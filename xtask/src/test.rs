//! `cargo xtask test`: every test of the workspace, those on real guests among them.

use crate::run::{Failed, cargo};
use crate::setup::setup;

pub(crate) fn test(extra: &[&str]) -> Result<(), Failed> {
    setup("dev")?;
    cargo(&[&["test", "--workspace", "--locked"], extra].concat(), &[])?;
    if extra.is_empty() { without_libvirt() } else { Ok(()) }
}

/// What is built without libvirt, by the tests that need no guest.
fn without_libvirt() -> Result<(), Failed> {
    let parts =
        ["--lib", "--bins", "--test", "domxml", "--test", "machine", "--test", "wire", "--test", "usage"];
    let which = ["test", "--locked", "--no-default-features", "-p", "drive", "-p", "supple"];
    cargo(&[&which[..], &parts].concat(), &[])
}
