//! The one thing that the tests need from the machine besides Rust and a C compiler: libvirt's client library, which
//! is opened when a machine of libvirt's is named. No build needs it.
//!
//! It is installed where this runs as root, and asked for where not. It will not start a daemon: the package has none.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::run::Failed;

const INSTALL: [&str; 4] = ["install", "--yes", "--no-install-recommends", "libvirt0"];

/// Makes sure that the library can be opened.
pub(crate) fn ensure() -> Result<(), Failed> {
    if is_there() {
        return Ok(());
    }
    let command = format!("apt-get {}", INSTALL.join(" "));
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !is_root {
        return Err(Failed::missing(&format!(
            "the tests open libvirt's client library, which is not here; run\n  sudo {command}\n\
             or leave libvirt out: `cargo test --workspace --no-default-features`"
        )));
    }
    eprintln!("xtask: {command}");
    // A fresh machine has no package lists, an old one outdated ones.
    let installed = apt_get(&INSTALL) || apt_get(&["update"]) && apt_get(&INSTALL);
    if !installed {
        return Err(Failed::missing(&format!("libvirt's client library cannot be had: {command} failed")));
    }
    Ok(())
}

/// Asks the loader's cache, whose program is not on everybody's PATH.
fn is_there() -> bool {
    let listed = Command::new("/sbin/ldconfig").arg("-p").output();
    listed.is_ok_and(|listed| {
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        ["libvirt.so.0 ", "libvirt-qemu.so.0 "].iter().all(|name| listed.contains(name))
    })
}

fn apt_get(args: &[&str]) -> bool {
    let mut command = Command::new("apt-get");
    command.arg("-qq").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
