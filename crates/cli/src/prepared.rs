//! The definitions that machines had before they were prepared, one file each under the state directory, so that a
//! preparation can be taken back, by Supple or by hand. They hold what libvirt holds, passwords too: only their owner
//! reads them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// So many are kept of one machine; the oldest go first.
const KEPT: usize = 16;
/// No description that libvirt carries is longer.
const LONGEST: u64 = 8 << 20;

/// The former definitions of one machine.
#[derive(Debug)]
pub(crate) struct Former {
    dir: PathBuf,
}

/// The last definition that was replaced.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) number: u32,
    pub(crate) path: PathBuf,
    pub(crate) before: String,
    /// What libvirt made of the one that replaced it; nothing where Supple ended before it knew.
    pub(crate) after: Option<String>,
}

impl Former {
    /// Those of the machine with this uuid, below the state directory.
    pub(crate) fn of(state: &Path, uuid: &str) -> Former {
        Former { dir: state.join("prepared").join(uuid) }
    }

    /// Writes down the definition that is about to be replaced, and gives its number. It is on disk when this returns.
    pub(crate) fn keep(&self, before: &str) -> Result<u32, Failure> {
        let numbers = self.numbers();
        let number = numbers.last().map_or(1, |last| last.saturating_add(1));
        for old in numbers.iter().rev().skip(KEPT - 1) {
            self.forget(*old);
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        made.map_err(|source| Failure::Write { path: self.dir.clone(), source })?;
        self.write(&self.before(number), before)?;
        Ok(number)
    }

    /// Writes down what replaced it.
    pub(crate) fn done(&self, number: u32, after: &str) -> Result<(), Failure> {
        self.write(&self.after(number), after)
    }

    /// Removes what is kept under this number.
    pub(crate) fn forget(&self, number: u32) {
        // One that stays is found to be none at the next look.
        let _ = fs::remove_file(self.after(number));
        let _ = fs::remove_file(self.before(number));
    }

    /// The last definition that was replaced, where `now` is the present one. One that never was replaced, because Supple
    /// ended before it could, is removed.
    pub(crate) fn last(&self, now: &str) -> Result<Option<Last>, Failure> {
        for number in self.numbers().into_iter().rev() {
            let path = self.before(number);
            let before = read(&path)?;
            let after = self.after(number);
            let after = if after.exists() { Some(read(&after)?) } else { None };
            if after.is_none() && before == now {
                self.forget(number);
                continue;
            }
            return Ok(Some(Last { number, path, before, after }));
        }
        Ok(None)
    }

    fn before(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number}-before.xml"))
    }

    fn after(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number}-after.xml"))
    }

    /// In order.
    fn numbers(&self) -> Vec<u32> {
        let names = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut numbers: Vec<u32> =
            names.filter_map(|name| name.to_str()?.strip_suffix("-before.xml")?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Whole or not at all: a torn file would be put back as a definition.
    fn write(&self, path: &Path, text: &str) -> Result<(), Failure> {
        let part = path.with_extension("part");
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&part, path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| Failure::Write { path: path.to_owned(), source })
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let read = || {
        if fs::metadata(path)?.len() > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no definition of a machine"));
        }
        fs::read_to_string(path)
    };
    read().map_err(|source| Failure::Broke {
        kind: "record",
        message: format!("cannot read {}: {source}", path.display()),
        began: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn former() -> (Former, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Former::of(dir.path(), "uuid"), dir)
    }

    #[test]
    fn the_last_that_was_replaced_comes_first() {
        let (former, _dir) = former();
        assert!(former.last("c").unwrap().is_none());
        for (before, after) in [("a", "b"), ("b", "c")] {
            let number = former.keep(before).unwrap();
            former.done(number, after).unwrap();
        }
        let last = former.last("c").unwrap().unwrap();
        assert_eq!((last.before.as_str(), last.after.as_deref()), ("b", Some("c")));
        former.forget(last.number);
        assert_eq!(former.last("b").unwrap().unwrap().before, "a");
    }

    #[test]
    fn what_was_kept_and_never_replaced_is_forgotten_and_what_may_have_been_is_not() {
        let (former, _dir) = former();
        former.keep("a").unwrap();
        let last = former.last("other").unwrap().unwrap();
        assert_eq!((last.before.as_str(), last.after), ("a", None));
        assert!(former.last("a").unwrap().is_none());
        assert!(former.last("other").unwrap().is_none());
    }

    #[test]
    fn only_their_owner_reads_them_and_they_are_not_without_number() {
        let (former, _dir) = former();
        for n in 0..KEPT + 3 {
            former.keep(&n.to_string()).unwrap();
        }
        let numbers = former.numbers();
        assert_eq!((numbers.len(), numbers[0]), (KEPT, 4));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&former.dir), mode(&former.before(4))), (0o700, 0o600));
    }
}
