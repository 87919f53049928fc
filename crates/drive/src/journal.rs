//! The journal of one machine: what was about to be done is on disk before it is sent.
//!
//! [`Journal`] is the small seam; [`FileJournal`] keeps a file of JSON lines under the state directory. It is read
//! whole at the start and only ever appended to, under a lock that one controller holds. A torn last line, from a
//! crash in the middle of a write, was never acted upon and is dropped; damage anywhere else is an error for a person.

use rustix::fs::{FlockOperation, flock};
use scale::history::History;
use scale::run::Record;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a machine's records go.
pub trait Journal {
    /// Writes one record. When this returns, a record after which something is sent ([`must_be_durable`]) and all
    /// before it survive a crash.
    fn append(&mut self, record: &Record) -> Result<(), JournalError>;

    /// What all records add up to.
    fn history(&self) -> &History;
}

/// True for a record that must be on disk before its writer goes on: an intention, or the end of a run. The others may
/// be lost in a power cut: an act without a conclusion is simply looked into again.
pub fn must_be_durable(record: &Record) -> bool {
    match record {
        Record::Sending { .. } | Record::Settled { .. } | Record::Filled { .. } | Record::Reported { .. } => {
            true
        }
        Record::Began { .. } | Record::Concluded { .. } | Record::Remarked { .. } | Record::Ended { .. } => {
            false
        }
    }
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file or its directory cannot be read or written.
    #[error("cannot use the journal {}: {source}; set SUPPLE_STATE_DIR to a directory that you can write", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another controller is at work on this machine.
    #[error("another supple is at work on this machine (it holds {}); wait for it to end", .path.display())]
    Held {
        /// The locked file.
        path: PathBuf,
    },
    /// A line is damaged.
    #[error("line {line} of the journal {} is damaged ({why}); keep a copy, then remove that line: pending removals named only there are forgotten with it", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// A journal longer than this is shortened to what still matters when nothing in it is open or pending.
const SHORTEN_ABOVE: u64 = 1 << 20;
/// A journal is opened so often where each time another controller has just put a shorter one in its place.
const OPENINGS: usize = 8;

/// A journal in a file.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    file: File,
    history: History,
}

impl FileJournal {
    /// Opens the journal of machine `key` in `dir` for writing, making both where they are missing, and locks it.
    pub fn open(dir: &Path, key: &str) -> Result<FileJournal, JournalError> {
        let path = journal_path(dir, key);
        let io = |source| JournalError::Io { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(io)?;
        let mut file = locked(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let (records, whole) = parse(&bytes, &path)?;
        file.set_len(whole).map_err(io)?;
        let history = History::of(&records);
        let mut journal = FileJournal { path: path.clone(), file, history };
        journal.file.seek(io::SeekFrom::Start(whole)).map_err(io)?;
        if whole == 0 {
            File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
        }
        if whole > SHORTEN_ABOVE {
            journal.shorten()?;
        }
        Ok(journal)
    }

    /// What the journal of machine `key` in `dir` adds up to, without a lock. A machine without one has an empty
    /// history.
    pub fn read(dir: &Path, key: &str) -> Result<History, JournalError> {
        let path = journal_path(dir, key);
        match fs::read(&path) {
            Ok(bytes) => Ok(History::of(&parse(&bytes, &path)?.0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
            Err(source) => Err(JournalError::Io { path, source }),
        }
    }

    /// The process that holds the journal of machine `key` in `dir`, if one does and the system tells.
    pub fn holder(dir: &Path, key: &str) -> Result<Option<u32>, JournalError> {
        let path = journal_path(dir, key);
        let io = |source| JournalError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(source)),
        };
        let inode = file.metadata().map_err(io)?.ino();
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        let Some(process) = locks.lines().find_map(|line| locker(line, inode)) else { return Ok(None) };
        // Another file system may have a locked file of the same number. Only then is the lock tried, for a moment:
        // trying always could turn away a controller that starts in that moment.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(Some(process)),
            Ok(()) | Err(_) => Ok(None),
        }
    }

    /// Keeps only the last report and what lasts, where nothing else in the journal matters any more.
    fn shorten(&mut self) -> Result<(), JournalError> {
        let Some(report) = self.history.report().cloned() else { return Ok(()) };
        let history = &self.history;
        let matters =
            history.open().is_some() || !history.pending().is_empty() || !history.remarks().is_empty();
        if matters {
            return Ok(());
        }
        let reported = Record::Reported { report: Box::new(report) };
        let kept: Vec<u8> = self.history.lasting().iter().chain([&reported]).flat_map(line).collect();
        self.replace(&kept).map_err(|source| JournalError::Io { path: self.path.clone(), source })
    }

    /// Puts another file in the place of this one, whole and locked before it is there: a crash leaves the one or the
    /// other.
    fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("journal-new");
        let mut file = File::create(&beside)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.file = file;
        let dir = self.path.parent().map(File::open).transpose()?;
        dir.map_or(Ok(()), |dir| dir.sync_all())
    }
}

/// A record as it is written.
fn line(record: &Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("records are plain data");
    line.push(b'\n');
    line
}

/// The file at `path`, made where it is missing, and locked.
fn locked(path: &Path) -> Result<File, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), source };
    for _ in 0..OPENINGS {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => break,
            Err(other) => return Err(io(other.into())),
        }
        // Between the two calls another controller may have put a shorter one there, and ended.
        let there = fs::metadata(path).map(|there| there.ino()).ok();
        if there == file.metadata().map(|own| own.ino()).ok() {
            return Ok(file);
        }
    }
    Err(JournalError::Held { path: path.to_owned() })
}

impl Journal for FileJournal {
    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let io = |source| JournalError::Io { path: self.path.clone(), source };
        self.file.write_all(&line(record)).map_err(io)?;
        if must_be_durable(record) {
            self.file.sync_data().map_err(io)?;
        }
        self.history.note(record);
        Ok(())
    }

    fn history(&self) -> &History {
        &self.history
    }
}

/// A journal in memory, for machines that are themselves only in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    records: Vec<Record>,
    history: History,
}

impl MemoryJournal {
    /// All records so far, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.history.note(record);
        self.records.push(record.clone());
        Ok(())
    }

    fn history(&self) -> &History {
        &self.history
    }
}

/// Where journals are kept: `$SUPPLE_STATE_DIR`, else `$XDG_STATE_HOME/supple`, else `~/.local/state/supple`.
pub fn state_dir(var: impl Fn(&str) -> Option<String>) -> PathBuf {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("SUPPLE_STATE_DIR").unwrap_or_else(|| {
        let base = set("XDG_STATE_HOME").filter(|p| p.is_absolute());
        base.or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(|| PathBuf::from("/var/lib"))
            .join("supple")
    })
}

/// The file of machine `key`: its name with `/` and `%` written as in a URL, so that no two keys share a file.
fn journal_path(dir: &Path, key: &str) -> PathBuf {
    let mut name: String = key.replace('%', "%25").replace('/', "%2F");
    if name.len() > 200 {
        // Beyond what a file's name may be: its tail tells machines apart better than its head, and a digest of all.
        let digest = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let tail: String = name.chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect();
        name = format!("{digest:016x}-{tail}");
    }
    dir.join(format!("{name}.journal"))
}

/// The process that holds an exclusive flock(2) on inode `inode`, if this line of `/proc/locks` says so:
/// `1: FLOCK  ADVISORY  WRITE 4242 fe:01:131073 0 EOF` (proc_locks(5)).
fn locker(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", process, place, ..] = words.as_slice() else { return None };
    let number: u64 = place.rsplit(':').next()?.parse().ok()?;
    process.parse().ok().filter(|_| number == inode)
}

/// The whole records in `bytes` and the length that they take.
fn parse(bytes: &[u8], path: &Path) -> Result<(Vec<Record>, u64), JournalError> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let mut records = Vec::new();
    for (index, line) in bytes[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
        let record = serde_json::from_slice(line).map_err(|error| JournalError::Damaged {
            path: path.to_owned(),
            line: index + 1,
            why: error.to_string(),
        })?;
        records.push(record);
    }
    Ok((records, whole as u64))
}

#[cfg(test)]
mod tests;
