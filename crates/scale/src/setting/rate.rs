//! Traffic: bits a second, an average with its peak and burst, and both directions of a NIC.

use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bits a second. All prefixes are decimal, as in `tc` and on every NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BitRate(u64);

impl BitRate {
    /// `n` bits a second.
    pub const fn new(n: u64) -> BitRate {
        BitRate(n)
    }

    /// `n` kbit a second.
    pub const fn kbit(n: u64) -> BitRate {
        BitRate(n.saturating_mul(1000))
    }

    /// `n` Mbit a second.
    pub const fn mbit(n: u64) -> BitRate {
        BitRate(n.saturating_mul(1_000_000))
    }

    /// The plain number of bits a second.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole bytes a second.
    pub const fn bytes(self) -> Bytes {
        Bytes::new(self.0 / 8)
    }

    /// True if this is a whole number of `step`s. A step of zero divides everything.
    pub const fn is_multiple_of(self, step: BitRate) -> bool {
        step.0 == 0 || self.0.is_multiple_of(step.0)
    }
}

impl fmt::Display for BitRate {
    /// The largest unit in which the rate is whole, as `tc` reads it: `1500mbit`, `1gbit`, `7bit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in [(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1000, "kbit")] {
            if self.0 >= unit && self.0.is_multiple_of(unit) {
                return f.pad(&format!("{}{name}", self.0 / unit));
            }
        }
        f.pad(&format!("{}bit", self.0))
    }
}

/// A limit of traffic in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rate {
    /// What passes in the long run.
    pub average: BitRate,
    /// What passes at most while a burst lasts, not below the average; absent where a burst passes at the link's speed.
    pub peak: Option<BitRate>,
    /// How much may pass before the average holds; absent where whoever applies the limit chooses. A plan always
    /// names it.
    pub burst: Option<Bytes>,
}

impl Rate {
    /// The burst of a rate that is asked for without one: what passes in 50 ms, and 64 KiB at least, which a guest
    /// sends as one packet before the host cuts it (GSO).
    pub fn usual_burst(average: BitRate) -> Bytes {
        let burst = Bytes::new(average.bytes().get() / 20).max(Bytes::new(64 << 10));
        // Whole KiB, as libvirt keeps it.
        burst.round_up(Bytes::new(1 << 10))
    }

    fn is_shown_by(&self, read: &Rate) -> bool {
        let burst = match (self.burst, read.burst) {
            (Some(burst), Some(read)) => burst.abs_diff(read) <= Bytes::new(1 << 10).max(burst.per(100)),
            (None, _) => true,
            (Some(_), None) => false,
        };
        (self.average, self.peak) == (read.average, read.peak) && burst
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.average)?;
        if let Some(peak) = self.peak {
            write!(f, "/{peak}")?;
        }
        match self.burst {
            Some(burst) => write!(f, " (burst {burst})"),
            None => Ok(()),
        }
    }
}

/// The limits of a NIC, or of one address on it. Absent means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NicRate {
    /// What the guest receives.
    pub to_guest: Option<Rate>,
    /// What the guest sends.
    pub from_guest: Option<Rate>,
}

impl NicRate {
    /// True where nothing is limited.
    pub fn is_free(&self) -> bool {
        self.to_guest.is_none() && self.from_guest.is_none()
    }

    /// True where `read`, as it was read back from where it acts, is this: see [`super::Setting::is_shown_by`].
    pub fn is_shown_by(&self, read: &NicRate) -> bool {
        shows(self.to_guest, read.to_guest) && shows(self.from_guest, read.from_guest)
    }

    pub(super) fn stands_between(&self, from: &NicRate, to: &NicRate) -> bool {
        let side =
            |now: Option<Rate>, from: Option<Rate>, to: Option<Rate>| shows(from, now) || shows(to, now);
        side(self.to_guest, from.to_guest, to.to_guest)
            && side(self.from_guest, from.from_guest, to.from_guest)
    }
}

/// True where one direction, as it was read back, is what was asked.
fn shows(asked: Option<Rate>, read: Option<Rate>) -> bool {
    match (asked, read) {
        (None, None) => true,
        (Some(asked), Some(read)) => asked.is_shown_by(&read),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl fmt::Display for NicRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |rate: &Option<Rate>| rate.map_or("no limit".to_owned(), |rate| rate.to_string());
        if self.is_free() {
            return write!(f, "no limit");
        }
        write!(f, "in {}, out {}", side(&self.to_guest), side(&self.from_guest))
    }
}
