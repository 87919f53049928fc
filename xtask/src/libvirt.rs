//! The one thing that a build needs from the machine besides Rust and a C compiler: libvirt's development files.
//!
//! They are installed where this runs as root, and asked for where not. It will not start a daemon: the package has
//! none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::run::Failed;

const INSTALL: [&str; 5] = ["install", "--yes", "--no-install-recommends", "libvirt-dev", "pkg-config"];

/// Makes sure that the feature `libvirt` links.
pub(crate) fn ensure() -> Result<(), Failed> {
    if is_there() {
        return Ok(());
    }
    let command = format!("apt-get {}", INSTALL.join(" "));
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root {
        return Err(Failed::missing(&format!(
            "the build links libvirt, whose development files are not here; run\n  sudo {command}\n\
             or leave libvirt out: `cargo test --workspace --no-default-features`"
        )));
    }
    eprintln!("xtask: {command}");
    // A fresh machine has no package lists, an old one outdated ones.
    let installed = apt_get(&INSTALL) || apt_get(&["update"]) && apt_get(&INSTALL);
    if !installed {
        return Err(Failed::missing(&format!("libvirt's development files cannot be had: {command} failed")));
    }
    Ok(())
}

fn is_there() -> bool {
    let asked = Command::new("pkg-config").args(["--exists", "libvirt", "libvirt-qemu"]).status();
    asked.is_ok_and(|status| status.success())
}

fn apt_get(args: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command
        .arg("-qq")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
