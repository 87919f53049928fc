//! Finds a libvirt: the one that the user has, this release's from Debian, or the backports' one.
//!
//! A fetched libvirt is unpacked in the lab's cache and laid over `/usr` where it runs (see `libvirtd`): libvirt looks
//! for its parts at fixed places. It will not start anything.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{Apt, Deb, Suite, run};
use crate::cache::{Cache, key};
use crate::image::library_dirs;
use crate::qemu::Absent;

const DAEMON: &str = "usr/sbin/libvirtd";
const DRIVER: &str = "usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so";
const VIRSH: &str = "usr/bin/virsh";

/// What `apt` is asked for.
const ROOTS: [&str; 3] = ["libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"];

/// Part of the cache key: raise it when this file changes what it unpacks.
const RECIPE: u32 = 1;

/// The programs of one libvirt.
#[derive(Debug, Clone)]
pub struct Libvirt {
    /// Where a fetched libvirt was unpacked; `None` for the user's own.
    tree: Option<PathBuf>,
    version: String,
}

impl Libvirt {
    /// The libvirt that is installed on this machine, else the one of its Debian release.
    ///
    /// # Errors
    /// There is none with a driver for QEMU, and Debian's cannot be fetched or does not start.
    pub fn system(cache: &Cache) -> Result<Self> {
        if [DAEMON, DRIVER, VIRSH].iter().all(|file| Path::new("/").join(file).is_file()) {
            return Self::check(None);
        }
        Self::fetch(cache, Suite::Release).context(
            "there is no libvirtd with a driver for QEMU here and Debian's cannot be fetched; to have one installed, \
             run\n  sudo apt-get install --no-install-recommends libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients",
        )
    }

    /// The libvirt of this release's backports.
    ///
    /// # Errors
    /// [`Absent`] with the reason: no such suite, no newer libvirt in it, no answer, or it does not start here.
    pub fn backports(cache: &Cache) -> Result<Self, Absent> {
        Self::fetch(cache, Suite::Backports).map_err(|error| Absent::new("libvirt", &error))
    }

    /// What `--version` says, such as `9.0.0`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `virsh` with what it needs to run from where it is.
    #[must_use]
    pub fn virsh(&self) -> Command {
        program(self.tree.as_deref(), VIRSH)
    }

    pub(crate) fn tree(&self) -> Option<&Path> {
        self.tree.as_deref()
    }

    fn fetch(cache: &Cache, suite: Suite) -> Result<Self> {
        let apt = Apt::open(cache, suite)?;
        let tree = apt.with_plan(&ROOTS, |plan| {
            // The C library stays the machine's: it must fit the machine's loader.
            let wanted = |deb: &&Deb| deb.name.starts_with("lib") && !deb.name.starts_with("libc6");
            let debs: Vec<&Deb> = plan.iter().filter(wanted).collect();
            let newer = debs.iter().any(|deb| deb.name == ROOTS[0] && deb.version.contains("~bpo"));
            ensure!(suite == Suite::Release || newer, "they hold no newer libvirt than the release does");
            cache.ensure(&format!("libvirt-{}", key(&(RECIPE, &debs))), |dir| {
                apt.unpack("libvirt", debs.iter().copied(), dir)?;
                let listed = debs.iter().map(|deb| format!("{} {}\n", deb.name, deb.version));
                Ok(fs::write(dir.join("packages"), listed.collect::<String>())?)
            })
        })?;
        Self::check(Some(tree))
    }

    fn check(tree: Option<PathBuf>) -> Result<Self> {
        let said = run(program(tree.as_deref(), DAEMON).arg("--version"))?;
        // /usr/sbin/libvirtd (libvirt) 9.0.0
        let version =
            said.split_whitespace().last().context("libvirtd does not tell its version")?.to_owned();
        Ok(Self { tree, version })
    }
}

fn program(tree: Option<&Path>, file: &str) -> Command {
    let Some(tree) = tree else { return Command::new(Path::new("/").join(file)) };
    let mut command = Command::new(tree.join(file));
    let libraries: OsString =
        std::env::join_paths(library_dirs(tree)).expect("the cache's path holds no colon");
    command.env("LD_LIBRARY_PATH", libraries);
    command
}
