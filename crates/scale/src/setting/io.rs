//! Disk I/O limits, as QEMU keeps them: operations and bytes a second, in total or apart for reads and writes, each
//! with a burst.

use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How much a disk may read and write. Nothing set means no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskIo {
    /// Bytes a second.
    pub bytes: Throttles<Bytes>,
    /// Operations a second.
    pub iops: Throttles<Iops>,
    /// Each so many bytes of a request count as one operation (`iops-size`); absent where a request counts as one.
    pub iops_size: Option<Bytes>,
    /// The throttle group that the disk shares these limits with, where it is in one.
    pub group: Option<String>,
}

impl DiskIo {
    pub(super) fn stands_between(&self, from: &DiskIo, to: &DiskIo) -> bool {
        self.bytes.stands_between(&from.bytes, &to.bytes)
            && self.iops.stands_between(&from.iops, &to.iops)
            && [from.iops_size, to.iops_size].contains(&self.iops_size)
            && [&from.group, &to.group].contains(&&self.group)
    }
}

/// Limits in total, or apart for reads and writes: QEMU takes no total beside the others of one kind
/// (`throttle_is_valid`, util/throttle.c, 7.2 and 10.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Throttles<T> {
    /// Reads and writes together.
    pub total: Option<Throttle<T>>,
    /// Reads.
    pub read: Option<Throttle<T>>,
    /// Writes.
    pub write: Option<Throttle<T>>,
}

impl<T> Default for Throttles<T> {
    fn default() -> Throttles<T> {
        Throttles { total: None, read: None, write: None }
    }
}

impl<T> Throttles<T> {
    /// True where nothing is limited.
    pub fn is_free(&self) -> bool {
        self.total.is_none() && self.read.is_none() && self.write.is_none()
    }

    /// True where a total stands beside a limit for reads or writes, which QEMU refuses.
    pub fn contradicts_itself(&self) -> bool {
        self.total.is_some() && (self.read.is_some() || self.write.is_some())
    }

    /// The limits that are set, with their words.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Throttle<T>)> {
        [("total", &self.total), ("read", &self.read), ("write", &self.write)]
            .into_iter()
            .filter_map(|(name, throttle)| throttle.as_ref().map(|throttle| (name, throttle)))
    }
}

impl<T: PartialEq> Throttles<T> {
    fn stands_between(&self, from: &Throttles<T>, to: &Throttles<T>) -> bool {
        [&from.total, &to.total].contains(&&self.total)
            && [&from.read, &to.read].contains(&&self.read)
            && [&from.write, &to.write].contains(&&self.write)
    }
}

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Throttle<T> {
    /// What is granted each second, not zero.
    pub steady: T,
    /// What is granted for a while before that.
    pub burst: Option<Burst<T>>,
}

/// More than the steady limit, for a while (`*-max`, `*-max-length`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Burst<T> {
    /// What is granted each second, not below the steady limit.
    pub to: T,
    /// For how many seconds at most, not zero.
    pub seconds: u32,
}

/// Operations a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Iops(u64);

impl Iops {
    /// `n` operations a second.
    pub const fn new(n: u64) -> Iops {
        Iops(n)
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Iops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<T: fmt::Display> fmt::Display for Throttle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.steady)?;
        match &self.burst {
            Some(burst) => write!(f, " (burst {} for {} s)", burst.to, burst.seconds),
            None => Ok(()),
        }
    }
}

impl fmt::Display for DiskIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iops = self.iops.named().map(|(name, throttle)| format!("{name} {throttle} IOPS"));
        let bytes = self.bytes.named().map(|(name, throttle)| format!("{name} {throttle} a second"));
        let mut parts: Vec<String> = iops.chain(bytes).collect();
        if parts.is_empty() {
            parts.push("no limit".to_owned());
        }
        parts.extend(self.iops_size.map(|size| format!("each {size} counted as one operation")));
        parts.extend(self.group.as_ref().map(|group| format!("shared by group {group}")));
        write!(f, "{}", parts.join(", "))
    }
}
