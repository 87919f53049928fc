//! Time as the core is told it. Nothing here reads a clock.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};

/// A point in time: milliseconds since the Unix epoch, as the caller's clock told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// The moment `millis` milliseconds after the Unix epoch.
    pub const fn from_unix_millis(millis: u64) -> Moment {
        Moment(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to here; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Moment) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Moment {
    type Output = Moment;
    fn add(self, span: Span) -> Moment {
        Moment(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Moment {
    type Output = Moment;
    fn sub(self, span: Span) -> Moment {
        Moment(self.0.saturating_sub(span.0))
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Span {
    /// `n` milliseconds.
    pub const fn millis(n: u64) -> Span {
        Span(n)
    }

    /// `n` seconds.
    pub const fn secs(n: u64) -> Span {
        Span(n * 1000)
    }

    /// This span in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The `n`th part of this span.
    ///
    /// # Panics
    /// Where `n` is zero.
    pub const fn per(self, n: u64) -> Span {
        Span(self.0 / n)
    }

    /// `n` times this span.
    pub const fn times(self, n: u64) -> Span {
        Span(self.0.saturating_mul(n))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms < 1000 => write!(f, "{ms} ms"),
            ms if ms < 60_000 && ms % 1000 == 0 => write!(f, "{} s", ms / 1000),
            ms if ms < 60_000 => write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100),
            ms if ms % 60_000 < 1000 => write!(f, "{} min", ms / 60_000),
            ms => write!(f, "{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_people_write_them() {
        let shown: Vec<String> =
            [80, 1000, 1530, 60_000, 61_500].iter().map(|ms| Span::millis(*ms).to_string()).collect();
        assert_eq!(shown, ["80 ms", "1 s", "1.5 s", "1 min", "1 min 1 s"]);
    }

    #[test]
    fn a_clock_that_goes_back_gives_no_time() {
        assert_eq!(Moment::from_unix_millis(5).since(Moment::from_unix_millis(9)), Span::millis(0));
    }
}
