//! CPU power: a hard limit and a weight, in units that are the same for every control group version.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How much of the host's CPU time a machine's vCPUs may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuPower {
    /// The most that all vCPU threads together may take, those that are plugged later included; absent for no limit.
    pub limit: Option<Millicpus>,
    /// The share in times of contention.
    pub weight: Weight,
}

impl fmt::Display for CpuPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Some(limit) => write!(f, "limit {limit} CPUs, weight {}", self.weight),
            None => write!(f, "no limit, weight {}", self.weight),
        }
    }
}

/// Thousandths of one host CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millicpus(u32);

impl Millicpus {
    /// The least that the kernel grants: a quota of 1 ms (`min_cfs_quota_period`, kernel/sched/core.c, 6.1) in each
    /// period of 100 ms.
    pub const MIN: Millicpus = Millicpus(10);

    /// `n` thousandths of a CPU.
    pub const fn new(n: u32) -> Millicpus {
        Millicpus(n)
    }

    /// The plain number of thousandths.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The CFS quota in whole microseconds that grants this within each `period` of microseconds, the nearest there is.
    pub const fn quota(self, period: u64) -> u64 {
        (self.0 as u64).saturating_mul(period).saturating_add(500) / 1000
    }

    /// What a CFS quota grants: the nearest thousandth, so that [`Millicpus::quota`] is read back as what it was
    /// for every period of 1 ms and more. Nothing for a period of zero.
    pub fn of_quota(quota: u64, period: u64) -> Option<Millicpus> {
        let thousandths = quota.saturating_mul(1000).checked_add(period / 2)?.checked_div(period)?;
        u32::try_from(thousandths).ok().map(Millicpus)
    }
}

impl fmt::Display for Millicpus {
    /// As written on the command line: `2.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return f.pad(&whole.to_string());
        }
        let decimals = format!("{rest:03}");
        f.pad(&format!("{whole}.{}", decimals.trim_end_matches('0')))
    }
}

/// A share of the CPU in times of contention, as control groups v2 count it: 1 to 10000, 100 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u32);

impl Weight {
    /// What every group has at first.
    pub const USUAL: Weight = Weight(100);

    /// `n`, if that is a weight.
    pub const fn new(n: u32) -> Option<Weight> {
        if n >= 1 && n <= 10_000 { Some(Weight(n)) } else { None }
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The same share as control groups v1 count it (`cpu.shares`), where 1024 is what every group has at first.
    /// Every weight has a number of shares of its own.
    pub const fn to_v1_shares(self) -> u64 {
        (self.0 as u64 * 1024 + 50) / 100
    }

    /// The weight nearest to this many shares of control groups v1.
    pub fn of_v1_shares(shares: u64) -> Weight {
        let nearest = (shares.min(1 << 32) * 100 + 512) / 1024;
        Weight(u32::try_from(nearest.clamp(1, 10_000)).expect("at most 10000"))
    }
}

impl TryFrom<u32> for Weight {
    type Error = String;

    fn try_from(n: u32) -> Result<Weight, String> {
        Weight::new(n).ok_or_else(|| format!("{n} is not a weight; weights go from 1 to 10000, 100 is usual"))
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> u32 {
        weight.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_defaults_of_both_versions_are_one_weight() {
        assert_eq!(Weight::USUAL.to_v1_shares(), 1024);
        assert_eq!(Weight::of_v1_shares(1024), Weight::USUAL);
        assert_eq!(Weight::of_v1_shares(2), Weight(1));
        assert_eq!(Weight::of_v1_shares(262_144), Weight(10_000));
        assert_eq!((Weight::new(0), Weight::new(10_001)), (None, None));
    }

    #[test]
    fn a_limit_reads_as_it_is_written() {
        assert_eq!(Millicpus::new(2500).to_string(), "2.5");
        assert_eq!(Millicpus::new(4000).to_string(), "4");
        assert_eq!(Millicpus::new(10).to_string(), "0.01");
        assert_eq!(Millicpus::of_quota(1, 0), None);
    }

    proptest! {
        #[test]
        fn a_weight_survives_the_older_version(n in 1u32..=10_000) {
            let weight = Weight::new(n).expect("in bounds");
            prop_assert_eq!(Weight::of_v1_shares(weight.to_v1_shares()), weight);
        }

        #[test]
        fn a_limit_survives_its_quota(n in 1u32..=512_000, period in 1000u64..=1_000_000) {
            let limit = Millicpus::new(n);
            prop_assert_eq!(Millicpus::of_quota(limit.quota(period), period), Some(limit));
        }
    }
}
