//! Limits of one machine that are set and read back: CPU power, disk I/O, the traffic of NICs and IP addresses, and
//! what QEMU may hold and lock of the host's memory.
//!
//! A [`Setting`] is always a complete value: whoever applies it writes every field, so that setting one part never
//! resets another behind the reader's back. What is said on the command line is read in [`crate::words`]; what a
//! driver can do with it is told in [`crate::observed`]. Nothing here applies anything.

mod io;
mod power;
mod rate;

pub use io::{Burst, DiskIo, Iops, Throttle, Throttles};
pub use power::{CpuPower, Millicpus, Weight};
pub use rate::{BitRate, NicRate, Rate};

use crate::units::Bytes;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One limit with its whole value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "setting", rename_all = "kebab-case")]
pub enum Setting {
    /// How much of the host's CPU time all vCPUs together may take.
    CpuPower(CpuPower),
    /// How much a disk may read and write.
    DiskIo {
        /// The disk's name ([`crate::observed::Disk::name`]).
        disk: String,
        /// The limits.
        io: DiskIo,
    },
    /// How much traffic passes a NIC.
    NicRate {
        /// The NIC's name ([`crate::observed::Nic::name`]).
        nic: String,
        /// The limits.
        rate: NicRate,
    },
    /// How much traffic of one IP address passes a NIC. It is held to the NIC's own limit as well.
    IpRate {
        /// The NIC's name.
        nic: String,
        /// The address in the guest.
        ip: IpAddr,
        /// The limits.
        rate: NicRate,
    },
    /// How much of the host's memory the machine's QEMU may hold: libvirt's `hard_limit`, or the limit of the control
    /// group that QEMU has to itself.
    Memory {
        /// The limit.
        most: Bytes,
    },
    /// How much memory the machine's QEMU may lock (RLIMIT_MEMLOCK).
    Locked {
        /// The limit.
        most: Bytes,
    },
}

/// Which limit, without its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "setting", rename_all = "kebab-case")]
pub enum SettingName {
    /// CPU power.
    CpuPower,
    /// A disk's I/O.
    DiskIo {
        /// The disk's name.
        disk: String,
    },
    /// A NIC's traffic.
    NicRate {
        /// The NIC's name.
        nic: String,
    },
    /// An IP address's traffic on a NIC.
    IpRate {
        /// The NIC's name.
        nic: String,
        /// The address.
        ip: IpAddr,
    },
    /// What QEMU may hold.
    Memory,
    /// What QEMU may lock.
    Locked,
}

impl Setting {
    /// The size that this limits something to, where that is all that it says.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Setting::Memory { most } | Setting::Locked { most } => Some(*most),
            Setting::CpuPower(_)
            | Setting::DiskIo { .. }
            | Setting::NicRate { .. }
            | Setting::IpRate { .. } => None,
        }
    }

    /// The same limit of another size, where a size is all that it says.
    pub fn with_bytes(&self, most: Bytes) -> Option<Setting> {
        match self {
            Setting::Memory { .. } => Some(Setting::Memory { most }),
            Setting::Locked { .. } => Some(Setting::Locked { most }),
            Setting::CpuPower(_)
            | Setting::DiskIo { .. }
            | Setting::NicRate { .. }
            | Setting::IpRate { .. } => None,
        }
    }

    /// Which limit this is.
    pub fn name(&self) -> SettingName {
        match self {
            Setting::CpuPower(_) => SettingName::CpuPower,
            Setting::DiskIo { disk, .. } => SettingName::DiskIo { disk: disk.clone() },
            Setting::NicRate { nic, .. } => SettingName::NicRate { nic: nic.clone() },
            Setting::IpRate { nic, ip, .. } => SettingName::IpRate { nic: nic.clone(), ip: *ip },
            Setting::Memory { .. } => SettingName::Memory,
            Setting::Locked { .. } => SettingName::Locked,
        }
    }

    /// True where `read`, as it was read back from where it acts, is this value.
    ///
    /// A bucket's size may differ a little: the kernel keeps it as time (64 ns ticks; `PSCHED_SHIFT`,
    /// include/net/pkt_sched.h, 6.1) and libvirt in KiB. All else must be equal.
    pub fn is_shown_by(&self, read: &Setting) -> bool {
        match (self, read) {
            (Setting::NicRate { nic: a, rate }, Setting::NicRate { nic: b, rate: read }) => {
                a == b && rate.is_shown_by(read)
            }
            (Setting::IpRate { nic: a, ip: i, rate }, Setting::IpRate { nic: b, ip: j, rate: read }) => {
                a == b && i == j && rate.is_shown_by(read)
            }
            (one, other) => one == other,
        }
    }

    /// True where each part of this, as it was read back, is what it is in `from` or in `to`: nobody but an act from the
    /// one to the other has touched it, be it that the act stopped half-way. Only then is it sent, or taken back.
    pub fn stands_between(&self, from: &Setting, to: &Setting) -> bool {
        match (self, from, to) {
            (Setting::CpuPower(now), Setting::CpuPower(from), Setting::CpuPower(to)) => {
                [from.limit, to.limit].contains(&now.limit) && [from.weight, to.weight].contains(&now.weight)
            }
            (
                Setting::DiskIo { disk, io: now },
                Setting::DiskIo { disk: a, io: from },
                Setting::DiskIo { disk: b, io: to },
            ) => disk == a && disk == b && now.stands_between(from, to),
            (
                Setting::NicRate { nic, rate: now },
                Setting::NicRate { nic: a, rate: from },
                Setting::NicRate { nic: b, rate: to },
            ) => nic == a && nic == b && now.stands_between(from, to),
            (
                Setting::IpRate { nic, ip, rate: now },
                Setting::IpRate { nic: a, ip: i, rate: from },
                Setting::IpRate { nic: b, ip: j, rate: to },
            ) => (nic, ip) == (a, i) && (nic, ip) == (b, j) && now.stands_between(from, to),
            (
                Setting::Memory { .. } | Setting::Locked { .. },
                Setting::Memory { .. } | Setting::Locked { .. },
                Setting::Memory { .. } | Setting::Locked { .. },
            ) => self.name() == from.name() && self.name() == to.name() && (self == from || self == to),
            (
                Setting::CpuPower(_)
                | Setting::DiskIo { .. }
                | Setting::NicRate { .. }
                | Setting::IpRate { .. }
                | Setting::Memory { .. }
                | Setting::Locked { .. },
                _,
                _,
            ) => false,
        }
    }

    /// The value alone, for people.
    pub fn value(&self) -> String {
        match self {
            Setting::CpuPower(power) => power.to_string(),
            Setting::DiskIo { io, .. } => io.to_string(),
            Setting::NicRate { rate, .. } | Setting::IpRate { rate, .. } => rate.to_string(),
            Setting::Memory { most } | Setting::Locked { most } => most.to_string(),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.value())
    }
}

impl fmt::Display for SettingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingName::CpuPower => write!(f, "CPU power"),
            SettingName::DiskIo { disk } => write!(f, "I/O of disk {disk}"),
            SettingName::NicRate { nic } => write!(f, "traffic of NIC {nic}"),
            SettingName::IpRate { nic, ip } => write!(f, "traffic of {ip} on NIC {nic}"),
            SettingName::Memory => write!(f, "QEMU's memory limit"),
            SettingName::Locked => write!(f, "QEMU's limit of locked memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(to_guest: Option<u64>, from_guest: Option<u64>) -> Setting {
        let rate = |mbit: u64| {
            let average = BitRate::mbit(mbit);
            Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) }
        };
        let rate = NicRate { to_guest: to_guest.map(rate), from_guest: from_guest.map(rate) };
        Setting::NicRate { nic: "52:54:00:00:00:01".into(), rate }
    }

    #[test]
    fn what_stopped_half_way_is_told_from_what_others_did() {
        let (from, to) = (nic(None, Some(5)), nic(Some(9), Some(7)));
        for now in [&from, &to, &nic(None, Some(7)), &nic(Some(9), Some(5))] {
            assert!(now.stands_between(&from, &to), "{now}");
        }
        for now in [nic(None, None), nic(Some(8), Some(5)), nic(Some(9), Some(6))] {
            assert!(!now.stands_between(&from, &to), "{now}");
        }
    }

    #[test]
    fn a_bucket_that_the_kernel_rounds_is_still_the_same() {
        let asked = nic(Some(100), None);
        let average = BitRate::mbit(100);
        let usual = Rate::usual_burst(average);
        let read = |burst| {
            let rate = NicRate { to_guest: Some(Rate { average, peak: None, burst }), from_guest: None };
            Setting::NicRate { nic: "52:54:00:00:00:01".into(), rate }
        };
        assert!(asked.is_shown_by(&read(Some(usual - Bytes::new(900)))));
        assert!(!asked.is_shown_by(&read(Some(usual.per(2)))));
        assert!(!asked.is_shown_by(&read(None)), "a bucket was asked for");
    }
}
