//! The lab's cache: a directory outside the repository in which things are built once and then only read.
//!
//! Many test processes share it. What is being built stands under a name of its own and is renamed into place
//! when it is whole, under a file lock per key; so nobody sees half of anything, and nothing is built twice.
//! It will not clean up after itself: deleting the directory is always safe while no guest runs.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

/// A directory whose entries are complete or absent.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache at `$SUPPLE_LAB_CACHE`, else `$XDG_CACHE_HOME/supple-lab`, else `~/.cache/supple-lab`.
    ///
    /// # Errors
    /// None of the three variables is set, or the directory cannot be made.
    pub fn open() -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = set("SUPPLE_LAB_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("supple-lab")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/supple-lab")))
            .context("no place for the lab's cache: set SUPPLE_LAB_CACHE to a directory")?;
        Self::at(root)
    }

    /// The cache at `root`, which is made if it is absent.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the lab's cache {}", root.display()))?;
        let root = fs::canonicalize(&root)?;
        Ok(Self { root })
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of `name`, built by `build` if it does not stand yet.
    ///
    /// `build` gets an empty directory; what it leaves there appears under `name` at once and whole. A second
    /// process that asks meanwhile waits and then reads what the first one built.
    ///
    /// # Errors
    /// `build` failed (nothing is left under `name`), or the file system refused.
    pub fn ensure(&self, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = self.root.join(name);
        if done.is_dir() {
            return Ok(done);
        }
        let _lock = self.lock(name)?;
        if done.is_dir() {
            return Ok(done);
        }
        let parent = done.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent)?;
        let scratch = tempfile::Builder::new().prefix(".building-").tempdir_in(parent)?;
        build(scratch.path()).with_context(|| format!("building {name} in {}", self.root.display()))?;
        fs::rename(scratch.keep(), &done).with_context(|| format!("cannot move {name} into place"))?;
        Ok(done)
    }

    /// An exclusive lock named `name`, held until the value is dropped or the process ends.
    ///
    /// # Errors
    /// The lock file cannot be made or locked.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        let file = self.lock_file(name)?;
        flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {name}"))?;
        Ok(Lock { _file: file })
    }

    /// Like [`Cache::lock`], but `None` at once when somebody else holds it.
    ///
    /// # Errors
    /// The lock file cannot be made or locked for a reason other than being held.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>> {
        let file = self.lock_file(name)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot lock {name}")),
        }
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let dir = self.root.join("locks");
        fs::create_dir_all(&dir)?;
        let path = dir.join(name.replace('/', "_"));
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))
    }
}

/// A held lock. The kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A short name for a recipe's content: equal content, equal name.
pub(crate) fn key(content: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_to_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let failed = cache.ensure("a/b", |scratch| {
            fs::write(scratch.join("half"), "x")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        assert!(!dir.path().join("a/b").exists());
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 0);
    }

    #[test]
    fn many_askers_build_once() {
        let dir = tempfile::tempdir().unwrap();
        let built = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let cache = Cache::at(dir.path()).unwrap();
                    let made = cache.ensure("thing", |scratch| {
                        built.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        Ok(fs::write(scratch.join("whole"), "x")?)
                    });
                    assert!(made.unwrap().join("whole").is_file());
                });
            }
        });
        assert_eq!(built.into_inner(), 1);
    }

    #[test]
    fn a_held_lock_is_not_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let held = cache.try_lock("ticket").unwrap();
        assert!(held.is_some());
        assert!(cache.try_lock("ticket").unwrap().is_none());
        drop(held);
        assert!(cache.try_lock("ticket").unwrap().is_some());
    }
}
