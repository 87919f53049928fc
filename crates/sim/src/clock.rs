//! The world's clock and what is going to happen. Time moves only when a driver uses it or waits.

use scale::plan::Act;
use scale::time::{Moment, Span};
use std::collections::BTreeMap;

/// How long things take: about what QEMU and Linux take under TCG.
pub(crate) mod pace {
    use scale::time::Span;
    use scale::units::Bytes;

    /// One monitor command.
    pub(crate) const MONITOR: Span = Span::millis(1);
    /// One question to the guest's agent.
    pub(crate) const AGENT: Span = Span::millis(8);
    /// How long a driver waits for the agent's answer to a question.
    pub(crate) const AGENT_LIMIT: Span = Span::secs(5);
    /// From a notification to the guest's ACPI driver.
    pub(crate) const ACPI: Span = Span::millis(40);
    /// From the guest's decision to give a device up to its end.
    pub(crate) const EJECT: Span = Span::millis(45);
    /// How long a driver waits for blocks that the guest does not show.
    pub(crate) const APPEARS: Span = Span::secs(10);
    /// Onlining one block or vCPU.
    pub(crate) const ONLINE: Span = Span::millis(4);
    /// Emptying one block.
    pub(crate) const OFFLINE: Span = Span::millis(10);
    /// How often a driver asks for a block that is busy, and its pauses.
    pub(crate) const BUSY_TRIES: u32 = 8;
    pub(crate) const BUSY: Span = Span::millis(50);
    pub(crate) const BUSY_MAX: Span = Span::secs(1);
    /// How much virtio-mem or the balloon moves at once, and how long that takes.
    pub(crate) const CHUNK: Bytes = Bytes::mib(128);
    pub(crate) const PER_CHUNK: Span = Span::millis(15);
    /// The first retry of a virtio-mem driver that could not empty its blocks (VIRTIO_MEM_RETRY_TIMER_MIN_MS,
    /// drivers/virtio/virtio_mem.c, 6.1).
    pub(crate) const RETRY: Span = Span::secs(50);
    /// QEMU sends size events at most this often (monitor/monitor.c, 7.2).
    pub(crate) const SIZE_EVENTS: Span = Span::secs(1);
    /// From reset to a guest whose agent answers.
    pub(crate) const BOOT: Span = Span::secs(6);
}

/// Something that is going to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// The guest's ACPI driver looks at all DIMM slots.
    ScanDimms,
    /// The guest's ACPI driver looks at all vCPU slots.
    ScanVcpus,
    /// The guest gives a device up.
    Eject(String),
    /// The guest says that it keeps a device.
    Keep(String),
    /// The guest's kernel or its udev rule brings a memory device into use.
    OnlinesMemory(String),
    /// The guest's kernel or its udev rule brings a vCPU into use.
    OnlinesVcpu(u32),
    /// A virtio-mem driver moves a chunk.
    VirtioMem(String),
    /// The balloon driver moves a chunk.
    Balloon,
    /// A size event that was held back is sent.
    SizeEvent,
    /// The agent gets to an act that was sent while it was silent.
    AgentActs(Act),
    /// The host makes the machine's taps anew.
    RemakeTaps,
    /// The guest restarts.
    Reset,
    /// The guest has restarted.
    Booted,
    /// QEMU ends.
    Vanish(String),
}

/// The present, and the future as far as it is decided.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    pub(crate) now: Moment,
    future: BTreeMap<(Moment, u64), Happening>,
    count: u64,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { now: Moment::from_unix_millis(1_700_000_000_000), future: BTreeMap::new(), count: 0 }
    }

    /// `what` happens in so much time from now. Of two that fall on one moment, the one decided first is first.
    pub(crate) fn after(&mut self, span: Span, what: Happening) {
        self.count += 1;
        self.future.insert((self.now + span, self.count), what);
    }

    pub(crate) fn is_decided(&self, what: &Happening) -> bool {
        self.future.values().any(|w| w == what)
    }

    /// Moves on to the next happening that is due by `until`.
    pub(crate) fn next_by(&mut self, until: Moment) -> Option<Happening> {
        let entry = self.future.first_entry()?;
        let due = entry.key().0;
        if due > until {
            return None;
        }
        self.now = self.now.max(due);
        Some(entry.remove())
    }

    /// Forgets what was decided, where `unless` does not hold.
    pub(crate) fn forget(&mut self, unless: impl Fn(&Happening) -> bool) {
        self.future.retain(|_, what| unless(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn happenings_come_in_order_and_not_before_their_time() {
        let mut clock = Clock::new();
        let start = clock.now;
        clock.after(Span::millis(20), Happening::Reset);
        clock.after(Span::millis(10), Happening::Balloon);
        clock.after(Span::millis(10), Happening::ScanDimms);
        assert_eq!(clock.next_by(start + Span::millis(9)), None);
        assert_eq!(clock.now, start);
        assert_eq!(clock.next_by(start + Span::millis(15)), Some(Happening::Balloon));
        assert_eq!(clock.next_by(start + Span::millis(15)), Some(Happening::ScanDimms));
        assert_eq!(clock.next_by(start + Span::millis(15)), None);
        assert_eq!(clock.now, start + Span::millis(10));
    }
}
