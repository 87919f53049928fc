//! Which QEMU process a machine runs in: what holds only as long as that lives is told by it.

use serde::{Deserialize, Serialize};

/// One QEMU process, told apart from the one before and the one after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Life {
    /// The thread of its first vCPU, as QEMU numbers it (`query-cpus-fast`).
    pub thread: u32,
    /// When it started, in ticks of its host's clock (`/proc/PID/stat`); absent where it is not a process of this host
    /// that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
}

impl Life {
    /// True where both may be one process. Numbers of threads are used again, in a container even for each QEMU; then
    /// the moment of the start tells, where it is known of both.
    pub fn may_be(self, other: Life) -> bool {
        self.thread == other.thread
            && self.started.zip(other.started).is_none_or(|(one, another)| one == another)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_thread_and_its_start() {
        let life = |thread, started| Life { thread, started };
        assert!(life(7, Some(1)).may_be(life(7, Some(1))));
        assert!(!life(7, Some(1)).may_be(life(8, Some(1))), "another thread");
        assert!(!life(7, Some(1)).may_be(life(7, Some(2))), "the number was used again");
        assert!(life(7, None).may_be(life(7, Some(2))), "seen from elsewhere");
    }
}
