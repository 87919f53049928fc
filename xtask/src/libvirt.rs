//! The one thing that the tests need from the machine besides Rust and a C compiler: libvirt's client library, which
//! is opened when a machine of libvirt's is named. No build needs it.
//!
//! It is installed where this runs as root, each package told by name before, and asked for where not. It will not start
//! a daemon: the package has none.

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
            "the tests open libvirt's client library, which is not here. As root, run\n  \
             apt-get update && {command}\n\
             or leave libvirt out: `cargo test --workspace --no-default-features`"
        )));
    }
    install().map_err(|said| {
        Failed::missing(&format!(
            "the tests open libvirt's client library, which is not here and cannot be installed:\n{said}\n\
             Once apt works again, run\n  {command}\n\
             or leave libvirt out: `cargo test --workspace --no-default-features`"
        ))
    })
}

fn install() -> Result<(), String> {
    // A fresh machine has no package lists, an old one outdated ones.
    let from_lists_as_they_are = planned().and_then(|packages| {
        tell(&packages);
        apt_get(&INSTALL)
    });
    if from_lists_as_they_are.is_ok() {
        return Ok(());
    }
    eprintln!("xtask: apt-get update");
    apt_get(&["update"])?;
    tell(&planned()?);
    apt_get(&INSTALL).map(drop)
}

fn tell(packages: &[String]) {
    eprintln!("xtask: installing {}", packages.join(", "));
}

/// What would be installed, by name.
fn planned() -> Result<Vec<String>, String> {
    let said = apt_get(&[&["--simulate"], &INSTALL[..]].concat())?;
    Ok(names(&said))
}

/// The names in what `apt-get --simulate` says: `Inst libvirt0 (9.0.0-4+deb12u2 Debian:12.10/oldstable [amd64])`.
fn names(simulated: &str) -> Vec<String> {
    let installed = simulated.lines().filter_map(|line| line.strip_prefix("Inst "));
    installed.filter_map(|rest| Some(rest.split_whitespace().next()?.to_owned())).collect()
}

/// Asks the loader's cache, whose program is not on everybody's PATH.
fn is_there() -> bool {
    let listed = Command::new("/sbin/ldconfig").arg("-p").output();
    listed.is_ok_and(|listed| {
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        ["libvirt.so.0 ", "libvirt-qemu.so.0 "].iter().all(|name| listed.contains(name))
    })
}

/// What it printed, or what it complained of.
fn apt_get(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("apt-get");
    command.arg("-qq").args(args).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("apt-get: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_be_installed_is_told_by_name() {
        let simulated = "Inst libyajl2 (2.1.0-3+deb12u2 Debian-Security:12/oldstable-security [amd64])\n\
                         Inst libvirt0 [9.0.0-4] (9.0.0-4+deb12u2 Debian:12.12/oldstable [amd64])\n\
                         Conf libyajl2 (2.1.0-3+deb12u2 Debian-Security:12/oldstable-security [amd64])\n";
        assert_eq!(names(simulated), ["libyajl2", "libvirt0"]);
    }
}
