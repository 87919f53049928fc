//! Finds a QEMU: the one that the user has, this release's from Debian, or the backports' one.
//!
//! A fetched QEMU is unpacked in the lab's cache with the libraries and the firmware that it needs, and started
//! from there; nothing is installed on the machine, so the user's QEMU is never touched. It will not decide
//! what to run: see `recipe`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Apt, Deb, Suite, run};
use crate::cache::{Cache, key};
use crate::image::library_dirs;

const PROGRAM: &str = "qemu-system-x86_64";

/// Part of the cache key: raise it when this file changes what it unpacks.
const RECIPE: u32 = 1;

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    /// Where a fetched QEMU was unpacked; `None` for the user's own.
    tree: Option<PathBuf>,
    version: String,
}

/// Why this machine can have no QEMU, or no libvirt, of the backports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    what: &'static str,
    reason: String,
}

impl Absent {
    pub(crate) fn new(what: &'static str, error: &anyhow::Error) -> Self {
        Self { what, reason: format!("{error:#}") }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} from the backports here: {}", self.what, self.reason)
    }
}

impl std::error::Error for Absent {}

impl Qemu {
    /// The `qemu-system-x86_64` on the PATH, else the one of this machine's Debian release.
    ///
    /// # Errors
    /// There is none on the PATH and Debian's cannot be fetched, or it does not start.
    pub fn system(cache: &Cache) -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let own = env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|program| program.is_file());
        match own {
            Some(program) => Self::check(program, None),
            None => Self::fetch(cache, Suite::Release).with_context(|| {
                format!(
                    "there is no {PROGRAM} on the PATH and Debian's cannot be fetched into the cache; one can be installed by\n  \
                     sudo apt-get install --no-install-recommends qemu-system-x86"
                )
            }),
        }
    }

    /// The QEMU of this release's backports.
    ///
    /// # Errors
    /// [`Absent`] with the reason: no such suite, no newer QEMU in it, no answer, or it does not start here.
    pub fn backports(cache: &Cache) -> Result<Self, Absent> {
        Self::fetch(cache, Suite::Backports).map_err(|error| Absent::new("QEMU", &error))
    }

    /// What `--version` says, such as `7.2.22`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The program with what it needs to run from where it is; the caller adds the machine's arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(tree) = &self.tree {
            command.env("LD_LIBRARY_PATH", joined(library_dirs(tree)));
            command.env("QEMU_MODULE_DIR", tree.join("usr/lib/x86_64-linux-gnu/qemu"));
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(tree.join(firmware));
            }
        }
        command
    }

    /// Where the program is once its tree, if it has one, lies over `/usr`.
    pub(crate) fn installed(&self) -> PathBuf {
        match &self.tree {
            Some(_) => Path::new("/usr/bin").join(PROGRAM),
            None => self.program.clone(),
        }
    }

    pub(crate) fn tree(&self) -> Option<&Path> {
        self.tree.as_deref()
    }

    /// A name that changes with the program's content.
    pub(crate) fn id(&self) -> String {
        format!("{}-{}", self.version, key(&self.program))
    }

    fn fetch(cache: &Cache, suite: Suite) -> Result<Self> {
        let apt = Apt::open(cache, suite)?;
        let tree = apt.with_plan(&["qemu-system-x86"], |plan| {
            let debs: Vec<&Deb> = plan.iter().filter(|deb| wanted(&deb.name)).collect();
            let newer = debs.iter().any(|deb| deb.name == "qemu-system-x86" && deb.version.contains("~bpo"));
            anyhow::ensure!(
                suite == Suite::Release || newer,
                "they hold no newer QEMU than the release does"
            );
            cache.ensure(&format!("qemu-{}", key(&(RECIPE, &debs))), |dir| {
                apt.unpack("QEMU", debs.iter().copied(), dir)?;
                let listed = debs.iter().map(|deb| format!("{} {}\n", deb.name, deb.version));
                Ok(fs::write(dir.join("packages"), listed.collect::<String>())?)
            })
        })?;
        Self::check(tree.join("usr/bin").join(PROGRAM), Some(tree))
    }

    fn check(program: PathBuf, tree: Option<PathBuf>) -> Result<Self> {
        let mut qemu = Self { program, tree, version: String::new() };
        let said = run(qemu.command().arg("--version"))?;
        // QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)
        let version = said.split_whitespace().nth(3).context("QEMU does not tell its version")?;
        qemu.version = version.to_owned();
        Ok(qemu)
    }
}

/// QEMU, its firmware and its libraries. The C library stays the machine's: it must fit the machine's loader.
fn wanted(name: &str) -> bool {
    name.starts_with("qemu-system") || name == "seabios" || (name.starts_with("lib") && name != "libc6")
}

fn joined(dirs: Vec<impl AsRef<Path>>) -> OsString {
    env::join_paths(dirs.iter().map(AsRef::as_ref)).expect("the cache's path holds no colon")
}
