//! `cargo xtask test`: every test of the workspace, those on real guests among them.

use crate::run::{Failed, cargo};
use crate::setup::setup;

pub(crate) fn test(extra: &[&str]) -> Result<(), Failed> {
    setup("dev")?;
    // Beside `--workspace` cargo overlooks `-p` without a word.
    let all: &[&str] = if names_packages(extra) { &[] } else { &["--workspace"] };
    cargo(&[&["test", "--locked"], all, extra].concat(), &[])?;
    if extra.is_empty() { without_libvirt() } else { Ok(()) }
}

/// True if cargo's own options, which end at `--`, name a package.
fn names_packages(extra: &[&str]) -> bool {
    let options = extra.iter().take_while(|word| **word != "--");
    options.into_iter().any(|word| word.starts_with("-p") || word.starts_with("--package"))
}

/// What is built without libvirt, by the tests that need no guest.
fn without_libvirt() -> Result<(), Failed> {
    let parts =
        ["--lib", "--bins", "--test", "domxml", "--test", "machine", "--test", "wire", "--test", "usage"];
    let which = ["test", "--locked", "--no-default-features", "-p", "drive", "-p", "supple"];
    cargo(&[&which[..], &parts].concat(), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_named_is_tested_alone() {
        for named in [&["-p", "scale"][..], &["-pscale"], &["--lib", "--package=scale", "--", "slots"]] {
            assert!(names_packages(named), "{named:?}");
        }
        for all in [&[][..], &["--lib"], &["--", "-p"]] {
            assert!(!names_packages(all), "{all:?}");
        }
    }
}
