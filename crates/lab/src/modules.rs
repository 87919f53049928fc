//! Finds kernel modules in an unpacked kernel package and orders them so that each loads after what it needs.
//!
//! Debian's package has no `modules.dep` (its maintainer script makes it), so the dependencies are read from the
//! modules themselves. It will not load anything: the guest's init does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{elf, kernel};

/// A kernel module, uncompressed.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The modules `roots` and all that they depend on, dependencies first; those built into the kernel are left out.
///
/// `dir` is `lib/modules/VERSION` of the package. Newer kernels' modules are packed with xz.
pub(crate) fn in_order(dir: &Path, roots: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    walk(&dir.join("kernel"), &mut files)?;
    let builtin =
        fs::read_to_string(dir.join("modules.builtin")).context("the kernel package lacks a list")?;
    let builtin = builtin.lines().filter_map(|line| Some(canonical(line.rsplit_once('/')?.1))).collect();
    let mut search = Search { files, builtin, done: Vec::new(), open: Vec::new() };
    for root in roots {
        search.visit(root)?;
    }
    Ok(search.done)
}

struct Search {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
    done: Vec<Module>,
    open: Vec<String>,
}

impl Search {
    fn visit(&mut self, name: &str) -> Result<()> {
        let name = canonical(name);
        if self.builtin.contains(&name) || self.done.iter().any(|module| module.name == name) {
            return Ok(());
        }
        ensure!(!self.open.contains(&name), "the kernel module {name} depends on itself");
        let file =
            self.files.get(&name).with_context(|| format!("the kernel package has no module {name}"))?;
        let mut bytes = fs::read(file)?;
        if file.extension().is_some_and(|ext| ext == "xz") {
            bytes = kernel::unxz(&bytes).with_context(|| format!("cannot unpack {}", file.display()))?;
        }
        self.open.push(name.clone());
        for dependency in elf::depends(&bytes)? {
            self.visit(&dependency)?;
        }
        self.open.pop();
        self.done.push(Module { name, bytes });
        Ok(())
    }
}

/// A module's name is its file's with `_` for `-`, without `.ko` or `.ko.xz`.
fn canonical(file: &str) -> String {
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn walk(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.insert(canonical(&entry.file_name().to_string_lossy()), entry.path());
        }
    }
    Ok(())
}
