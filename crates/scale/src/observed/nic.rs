//! NICs as QEMU, the host and the guest show them.

use super::Known;
use crate::setting::{BitRate, NicRate};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// One NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Nic {
    /// The name that acts use, unique in the machine: its MAC address in lower case.
    pub name: String,
    /// Other names that an operator may know it by: libvirt's alias, QEMU's device id, the guest's own name.
    pub aliases: Vec<String>,
    /// The host's side of it, such as `vnet3`: another one after each start and plug.
    pub tap: Option<String>,
    /// The addresses that the guest shows on it.
    pub addresses: Vec<IpAddr>,
    /// Its limits.
    pub rate: Known<NicRate>,
    /// The limits of single addresses on it, in ascending order of the addresses.
    pub ips: Known<Vec<IpRate>>,
    /// What its rates can be.
    pub grain: RateGrain,
}

/// The limit of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IpRate {
    /// The address in the guest.
    pub ip: IpAddr,
    /// Its limits.
    pub rate: NicRate,
}

/// What whoever applies a NIC's limits can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RateGrain {
    /// Rates are whole multiples of this: 8 bit in `tc`, 8 kbit in libvirt.
    pub step: BitRate,
    /// False where traffic that the guest sends is held to its average alone (libvirt polices it, and takes no peak).
    pub peak_from_guest: bool,
}

impl Default for RateGrain {
    /// As `tc` counts.
    fn default() -> RateGrain {
        RateGrain { step: BitRate::new(8), peak_from_guest: true }
    }
}

/// A network interface as the guest shows it. A guest may show several with one MAC address: a bridge, a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestInterface {
    /// The guest's name of it, such as `eth0`.
    pub name: String,
    /// Its MAC address in lower case.
    pub mac: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}
