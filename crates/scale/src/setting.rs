//! Limits of one machine that are set and read back: CPU power, disk I/O, and the traffic of NICs and IP addresses.
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
}

impl Setting {
    /// Which limit this is.
    pub fn name(&self) -> SettingName {
        match self {
            Setting::CpuPower(_) => SettingName::CpuPower,
            Setting::DiskIo { disk, .. } => SettingName::DiskIo { disk: disk.clone() },
            Setting::NicRate { nic, .. } => SettingName::NicRate { nic: nic.clone() },
            Setting::IpRate { nic, ip, .. } => SettingName::IpRate { nic: nic.clone(), ip: *ip },
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

    /// The value alone, for people.
    pub fn value(&self) -> String {
        match self {
            Setting::CpuPower(power) => power.to_string(),
            Setting::DiskIo { io, .. } => io.to_string(),
            Setting::NicRate { rate, .. } | Setting::IpRate { rate, .. } => rate.to_string(),
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
        }
    }
}
