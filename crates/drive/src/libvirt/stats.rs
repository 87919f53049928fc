//! Figures from libvirt: the typed parameters that it uses for all growing sets of them, copied out. Names are
//! libvirt's (`balloon.current`, `vcpu.0.state`); unknown ones are kept.

use std::collections::BTreeMap;

use scale::units::Bytes;

/// One value of [`Params`].
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// A signed number (`int` or `long long`).
    Signed(i64),
    /// An unsigned number (`unsigned int` or `unsigned long long`).
    Unsigned(u64),
    /// A fraction.
    Float(f64),
    /// A truth.
    Bool(bool),
    /// A text.
    Text(String),
}

/// Named values, as libvirt tells them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params(BTreeMap<String, Param>);

impl Params {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.0.get(name)
    }

    /// The number of this name, if it is one and not below zero.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Param::Signed(number) => u64::try_from(*number).ok(),
            Param::Unsigned(number) => Some(*number),
            Param::Float(_) | Param::Bool(_) | Param::Text(_) => None,
        }
    }

    /// The text of this name, if it is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Param::Text(text) => Some(text),
            Param::Signed(_) | Param::Unsigned(_) | Param::Float(_) | Param::Bool(_) => None,
        }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl FromIterator<(String, Param)> for Params {
    fn from_iter<I: IntoIterator<Item = (String, Param)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

/// A group of figures that `virConnectGetAllDomainStats` tells together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsGroup {
    /// `state.*`
    State,
    /// `cpu.*`
    Cpu,
    /// `balloon.*`
    Balloon,
    /// `vcpu.*`
    Vcpu,
    /// `net.*`
    Net,
    /// `block.*`
    Block,
}

impl StatsGroup {
    pub(super) fn bit(self) -> u32 {
        match self {
            Self::State => virt_sys::VIR_DOMAIN_STATS_STATE,
            Self::Cpu => virt_sys::VIR_DOMAIN_STATS_CPU_TOTAL,
            Self::Balloon => virt_sys::VIR_DOMAIN_STATS_BALLOON,
            Self::Vcpu => virt_sys::VIR_DOMAIN_STATS_VCPU,
            Self::Net => virt_sys::VIR_DOMAIN_STATS_INTERFACE,
            Self::Block => virt_sys::VIR_DOMAIN_STATS_BLOCK,
        }
    }
}

/// The guest's memory by its balloon driver's account; what the driver does not tell is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// What the balloon leaves the guest; virtio-mem is not in it.
    pub actual: Option<Bytes>,
    /// MemTotal.
    pub total: Option<Bytes>,
    /// MemAvailable.
    pub available: Option<Bytes>,
    /// MemFree.
    pub free: Option<Bytes>,
    /// The resident size of the QEMU process.
    pub resident: Option<Bytes>,
    /// When the driver answered last, in seconds since the Unix epoch; 0 or absent if never.
    pub updated: Option<u64>,
}

impl MemoryStats {
    /// Takes in one of libvirt's figures: sizes in KiB. Tags that are not kept are passed over.
    pub(super) fn note(&mut self, tag: u32, value: u64) {
        let size = value.checked_mul(1024).map(Bytes::new);
        // The names in libvirt are misleading: "available" is MemTotal, "usable" is MemAvailable, "unused" is MemFree.
        match tag {
            virt_sys::VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON => self.actual = size,
            virt_sys::VIR_DOMAIN_MEMORY_STAT_AVAILABLE => self.total = size,
            virt_sys::VIR_DOMAIN_MEMORY_STAT_USABLE => self.available = size,
            virt_sys::VIR_DOMAIN_MEMORY_STAT_UNUSED => self.free = size,
            virt_sys::VIR_DOMAIN_MEMORY_STAT_RSS => self.resident = size,
            virt_sys::VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE => self.updated = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_whatever_its_width_and_never_from_below_zero() {
        let all: Params = [
            ("a".to_owned(), Param::Signed(7)),
            ("b".to_owned(), Param::Unsigned(u64::MAX)),
            ("c".to_owned(), Param::Signed(-1)),
            ("d".to_owned(), Param::Text("7".into())),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|name| all.number(name)),
            [Some(7), Some(u64::MAX), None, None, None]
        );
        assert_eq!(all.text("d"), Some("7"));
    }

    #[test]
    fn sizes_come_in_kib_and_what_is_unknown_is_passed_over() {
        let mut stats = MemoryStats::default();
        stats.note(virt_sys::VIR_DOMAIN_MEMORY_STAT_AVAILABLE, 1024);
        stats.note(virt_sys::VIR_DOMAIN_MEMORY_STAT_USABLE, u64::MAX);
        stats.note(9999, 1);
        assert_eq!(stats, MemoryStats { total: Some(Bytes::mib(1)), ..MemoryStats::default() });
    }
}
