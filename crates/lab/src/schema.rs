//! libvirt's own schema of machine descriptions, and `xmllint` to hold a text against it.
//!
//! `virt-xml-validate` does the same; it is a script around these two, with paths of an installed libvirt in it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apt::{Apt, Deb, Suite};
use crate::cache::{Cache, key};
use crate::image::library_dirs;
use crate::libvirt::Libvirt;

const XMLLINT: &str = "usr/bin/xmllint";
const DOMAIN: &str = "usr/share/libvirt/schemas/domain.rng";

/// Part of the cache key: raise it when this file changes what it unpacks.
const RECIPE: u32 = 1;

/// One libvirt's schema of machine descriptions.
#[derive(Debug, Clone)]
pub struct Schema {
    /// Where a fetched `xmllint` was unpacked; `None` for the user's own.
    tree: Option<PathBuf>,
    domain: PathBuf,
}

impl Schema {
    /// The schema of `libvirt`.
    ///
    /// # Errors
    /// That libvirt has none, or there is no `xmllint` here and Debian's cannot be fetched.
    pub fn of(libvirt: &Libvirt, cache: &Cache) -> Result<Self> {
        let domain = libvirt.tree().unwrap_or(Path::new("/")).join(DOMAIN);
        ensure!(domain.is_file(), "libvirt {} has no schema {}", libvirt.version(), domain.display());
        Ok(Self { tree: xmllint(cache)?, domain })
    }

    /// Holds a description against the schema.
    ///
    /// # Errors
    /// It does not fit, with what `xmllint` said.
    pub fn check(&self, description: &str) -> Result<()> {
        let mut command = match &self.tree {
            None => Command::new(Path::new("/").join(XMLLINT)),
            Some(tree) => {
                let mut command = Command::new(tree.join(XMLLINT));
                let libraries =
                    std::env::join_paths(library_dirs(tree)).expect("the cache's path holds no colon");
                command.env("LD_LIBRARY_PATH", libraries);
                command
            }
        };
        // From a file, so that no pipe can fill up while nobody reads the other.
        let mut text = tempfile::NamedTempFile::new()?;
        text.write_all(description.as_bytes())?;
        command
            .args(["--noout", "--nonet", "--relaxng"])
            .arg(&self.domain)
            .arg(text.path())
            .stdin(Stdio::null());
        let done = command.output().context("cannot run xmllint")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

/// Where `xmllint` was unpacked, or nothing where it is installed.
fn xmllint(cache: &Cache) -> Result<Option<PathBuf>> {
    if Path::new("/").join(XMLLINT).is_file() {
        return Ok(None);
    }
    let apt = Apt::open(cache, Suite::Release)?;
    let tree = apt.with_plan(&["libxml2-utils"], |plan| {
        // The C library stays the machine's: it must fit the machine's loader.
        let wanted = |deb: &&Deb| deb.name.starts_with("lib") && !deb.name.starts_with("libc6");
        let debs: Vec<&Deb> = plan.iter().filter(wanted).collect();
        cache.ensure(&format!("xmllint-{}", key(&(RECIPE, &debs))), |dir| {
            apt.unpack("xmllint", debs.iter().copied(), dir)?;
            let listed = debs.iter().map(|deb| format!("{} {}\n", deb.name, deb.version));
            Ok(fs::write(dir.join("packages"), listed.collect::<String>())?)
        })
    });
    let way_out = "there is no xmllint here and Debian's cannot be fetched; to have it installed, run\n  \
                   sudo apt-get install libxml2-utils";
    Ok(Some(tree.context(way_out)?))
}
