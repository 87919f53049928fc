//! Sizes with their unit in the type. How people write them is read in `text`.

mod text;

pub use text::{BadCount, BadSize, parse_change, parse_count, parse_size};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Bytes = Bytes(0);

    /// `n` bytes.
    pub const fn new(n: u64) -> Bytes {
        Bytes(n)
    }

    /// `n` MiB. Panics where that does not fit 64 bits, which only a constant of our own could cause.
    pub const fn mib(n: u64) -> Bytes {
        Bytes(n * (1 << 20))
    }

    /// `n` GiB. Panics where that does not fit 64 bits, which only a constant of our own could cause.
    pub const fn gib(n: u64) -> Bytes {
        Bytes(n * (1 << 30))
    }

    /// The plain number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// True for no bytes at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The largest multiple of `unit` that is not above this. A unit of zero changes nothing.
    pub const fn round_down(self, unit: Bytes) -> Bytes {
        match self.0.checked_rem(unit.0) {
            Some(rest) => Bytes(self.0 - rest),
            None => self,
        }
    }

    /// The smallest multiple of `unit` that is not below this, or the largest that fits 64 bits.
    pub const fn round_up(self, unit: Bytes) -> Bytes {
        let down = self.round_down(unit);
        if down.0 == self.0 {
            return self;
        }
        match down.0.checked_add(unit.0) {
            Some(up) => Bytes(up),
            None => down,
        }
    }

    /// True if this is a whole number of `unit`s.
    pub const fn is_multiple_of(self, unit: Bytes) -> bool {
        unit.0 == 0 || self.0.is_multiple_of(unit.0)
    }

    /// How many whole `unit`s fit in here; zero for a unit of zero.
    pub const fn count_of(self, unit: Bytes) -> u64 {
        match self.0.checked_div(unit.0) {
            Some(count) => count,
            None => 0,
        }
    }

    /// The difference, or zero where `other` is larger.
    pub const fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// The difference, or nothing where `other` is larger.
    pub const fn checked_sub(self, other: Bytes) -> Option<Bytes> {
        match self.0.checked_sub(other.0) {
            Some(n) => Some(Bytes(n)),
            None => None,
        }
    }

    /// The sum, or nothing where it does not fit 64 bits.
    pub const fn checked_add(self, other: Bytes) -> Option<Bytes> {
        match self.0.checked_add(other.0) {
            Some(n) => Some(Bytes(n)),
            None => None,
        }
    }

    /// `n` times this, or the largest size there is.
    pub const fn times(self, n: u64) -> Bytes {
        Bytes(self.0.saturating_mul(n))
    }

    /// This divided by `n`, rounded down. Panics for `n` = 0.
    pub const fn per(self, n: u64) -> Bytes {
        Bytes(self.0 / n)
    }

    /// How far apart two sizes are.
    pub const fn abs_diff(self, other: Bytes) -> Bytes {
        Bytes(self.0.abs_diff(other.0))
    }
}

impl Add for Bytes {
    type Output = Bytes;
    /// Saturates: a size that does not fit 64 bits is refused later as too large, never wrapped.
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl Sub for Bytes {
    type Output = Bytes;
    /// Panics where `other` is larger: use [`Bytes::saturating_sub`] or [`Bytes::checked_sub`] where that can be.
    fn sub(self, other: Bytes) -> Bytes {
        self.checked_sub(other).expect("a size below zero")
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(sizes: I) -> Bytes {
        sizes.fold(Bytes::ZERO, Add::add)
    }
}

const BINARY: [(u64, &str); 5] =
    [(1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

impl fmt::Display for Bytes {
    /// The largest binary unit in which the size is whole, or has at most two exact decimals: `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in BINARY {
            if self.0 < unit {
                continue;
            }
            if self.0.is_multiple_of(unit) {
                return f.pad(&format!("{} {name}", self.0 / unit));
            }
            let hundredths = u128::from(self.0 % unit) * 100;
            if hundredths.is_multiple_of(u128::from(unit)) {
                let decimals = format!("{:02}", hundredths / u128::from(unit));
                return f.pad(&format!("{}.{} {name}", self.0 / unit, decimals.trim_end_matches('0')));
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

/// A wish for a size: an absolute one, or a step from where the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change<T> {
    /// Exactly this.
    To(T),
    /// This much more than now.
    Grow(T),
    /// This much less than now.
    Shrink(T),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_print_in_the_largest_unit_that_is_exact() {
        let shown = |n: u64| Bytes::new(n).to_string();
        assert_eq!(shown(6 << 30), "6 GiB");
        assert_eq!(shown(3 << 29), "1.5 GiB");
        assert_eq!(shown(524_287 << 10), "524287 KiB");
        assert_eq!(shown(1280 << 20), "1.25 GiB");
        assert_eq!(shown(1000), "1000 B");
        assert_eq!(shown(0), "0 B");
    }

    proptest! {
        #[test]
        fn rounding_stays_within_one_unit(n in 0u64..u64::MAX / 2, unit in 1u64..1 << 40) {
            let (n, unit) = (Bytes::new(n), Bytes::new(unit));
            prop_assert!(n.round_down(unit) <= n && n <= n.round_up(unit));
            prop_assert!(n - n.round_down(unit) < unit && n.round_up(unit) - n < unit);
        }
    }
}
