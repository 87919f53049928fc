//! `cargo xtask test`: every test of the workspace, those on real guests among them.
//!
//! Tests on guests run on this release's QEMU and libvirt. Those of the conformance suite run on the backports' again;
//! with `--every-generation`, all of them do.

use crate::run::{Failed, cargo};
use crate::setup::setup;

/// What the tests on guests take the generation from.
const ON_BACKPORTS: (&str, &str) = ("SUPPLE_LAB_GENERATION", "backports");

pub(crate) fn test(words: &[&str]) -> Result<(), Failed> {
    let built = setup("dev")?;
    let (every, extra) = match words {
        ["--every-generation", extra @ ..] => (true, extra),
        extra => (false, extra),
    };
    // Beside `--workspace` cargo overlooks `-p` without a word.
    let named = names_packages(extra);
    let all: &[&str] = if named { &[] } else { &["--workspace"] };
    cargo(&[&["test", "--locked"], all, extra].concat(), &[])?;
    let again: &[&str] = match (every, named) {
        (true, true) => &[],
        (true, false) => &["--package", "lab", "--package", "supple", "--tests"],
        (false, _) => &["--package", "lab", "--test", "conformance"],
    };
    // Where there are none, `lab` says why.
    if (every || extra.is_empty()) && built.lab(&["generation", "backports"]).is_ok() {
        cargo(&[&["test", "--locked"], again, extra].concat(), &[ON_BACKPORTS])?;
    }
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
