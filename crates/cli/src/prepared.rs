//! What the definitions of prepared machines were before: one file for each machine, for its owner alone, as a
//! definition may hold passwords. It knows nothing of libvirt.

use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A definition is some KiB; libvirt itself takes no more than this from a client (`VIR_NET_MESSAGE_STRING_MAX`).
const LONGEST: u64 = 2 * (4 << 20);

/// A definition before and after the last preparation, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Former {
    pub(crate) before: String,
    pub(crate) after: String,
}

/// Where one machine's former definition is kept.
#[derive(Debug)]
pub(crate) struct Shelf(PathBuf);

impl Shelf {
    /// Under the state directory, by the machine's uuid.
    pub(crate) fn of(state: &Path, uuid: &str) -> Shelf {
        Shelf(state.join("prepared").join(format!("{uuid}.json")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Keeps it, on disk when this returns, in place of an earlier one.
    pub(crate) fn put(&self, former: &Former) -> Result<(), Failure> {
        self.write(former).map_err(|source| self.unwritable(source))
    }

    fn write(&self, former: &Former) -> io::Result<()> {
        let dir = self.0.parent().expect("a shelf is in a directory");
        fs::create_dir_all(dir)?;
        let new = self.0.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(former)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.0)?;
        fs::File::open(dir)?.sync_all()
    }

    /// What is kept, if anything.
    pub(crate) fn take(&self) -> Result<Option<Former>, Failure> {
        let broken = |message: String| {
            let path = self.0.display();
            Failure::Broke { kind: "record", message: format!("cannot read {path}: {message}"), began: false }
        };
        let file = match fs::File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(broken(error.to_string())),
        };
        let mut text = Vec::new();
        file.take(LONGEST * 2).read_to_end(&mut text).map_err(|error| broken(error.to_string()))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| broken(error.to_string()))
    }

    /// Forgets it.
    pub(crate) fn clear(&self) -> Result<(), Failure> {
        fs::remove_file(&self.0).map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: io::Error) -> Failure {
        Failure::Write { path: self.0.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_kept_comes_back_whole_and_is_for_its_owner_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let shelf = Shelf::of(dir.path(), "6f3c1a52-0b1e-4c57-9b4d-1de1f0a1b2c3");
        assert!(shelf.take().unwrap().is_none());
        for text in ["<domain passwd='a&amp;b'/>\r\n", ""] {
            let former = Former { before: text.to_owned(), after: "<domain/>".to_owned() };
            shelf.put(&former).unwrap();
            assert_eq!(shelf.take().unwrap(), Some(former));
        }
        assert_eq!(fs::metadata(shelf.path()).unwrap().permissions().mode() & 0o777, 0o600);
        shelf.clear().unwrap();
        assert!(shelf.take().unwrap().is_none());
    }

    #[test]
    fn a_damaged_record_is_an_error_and_not_nothing() {
        let dir = tempfile::TempDir::new().unwrap();
        let shelf = Shelf::of(dir.path(), "x");
        shelf.put(&Former { before: String::new(), after: String::new() }).unwrap();
        fs::write(shelf.path(), b"{\"before\":").unwrap();
        let said = shelf.take().unwrap_err().to_string();
        assert!(said.contains("x.json"), "{said}");
    }
}
