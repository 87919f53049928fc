//! Sets of CPU numbers as libvirt writes them: `0-3,^2,8`.

use std::collections::BTreeSet;
use std::fmt;

/// The numbers that libvirt takes in such a set end here (`VIR_DOMAIN_CPUMASK_LEN`, libvirt 9.0 and 11.3).
const ENDS: u32 = 16_384;

/// Enough for every second number below [`ENDS`].
const LONGEST: usize = 1 << 16;

/// A set of CPU numbers, printed in libvirt's form with neighbours as ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// No CPUs.
    pub fn new() -> CpuSet {
        CpuSet::default()
    }

    /// Reads libvirt's form, or nothing where libvirt would refuse it. Ranges may overlap; `^N` takes N out of what
    /// stands before it.
    pub fn read(text: &str) -> Option<CpuSet> {
        if text.len() > LONGEST {
            return None;
        }
        let mut set = vec![false; ENDS as usize];
        let text = text.trim();
        for part in text.strip_suffix(',').unwrap_or(text).split(',') {
            let part = part.trim();
            if let Some(out) = part.strip_prefix('^') {
                set[number(out)?] = false;
            } else if let Some((first, last)) = part.split_once('-') {
                let (first, last) = (number(first.trim_end())?, number(last.trim_start())?);
                set.get_mut(first..=last).filter(|range| !range.is_empty())?.fill(true);
            } else {
                set[number(part)?] = true;
            }
        }
        Some((0..ENDS).filter(|cpu| set[*cpu as usize]).collect())
    }

    /// The CPUs from `first` up to, not including, `end`.
    pub fn range(first: u32, end: u32) -> CpuSet {
        CpuSet((first..end.min(ENDS)).collect())
    }

    /// True if there is no CPU in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many CPUs are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if `cpu` is in it.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Puts `cpu` in; true if it was not there before.
    pub fn insert(&mut self, cpu: u32) -> bool {
        self.0.insert(cpu)
    }

    /// The CPUs, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<usize> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n < ENDS as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        CpuSet::read(text).unwrap_or_else(|| panic!("{text}")).to_string()
    }

    #[test]
    fn ranges_single_numbers_and_exceptions_are_read() {
        assert_eq!(shown("0"), "0");
        assert_eq!(shown("0-3"), "0-3");
        assert_eq!(shown("0-3,^2"), "0-1,3");
        assert_eq!(shown(" 4 , 0 - 2 "), "0-2,4");
        assert_eq!(shown("0-3,2-5"), "0-5");
        assert_eq!(shown("^2,0-3"), "0-3");
        assert_eq!(shown("0-1,"), "0-1");
    }

    #[test]
    fn what_libvirt_refuses_is_refused() {
        for bad in ["", ",", "0,,1", "3-1", "a", "1-", "^0-2", "-1", "0--2", "16384", "0-99999999999"] {
            assert_eq!(CpuSet::read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(cpus in proptest::collection::btree_set(0u32..300, 1..40)) {
            let set = CpuSet(cpus);
            prop_assert_eq!(CpuSet::read(&set.to_string()), Some(set));
        }

        #[test]
        fn any_text_gets_an_answer(text in any::<String>()) {
            let _ = CpuSet::read(&text);
        }
    }
}
