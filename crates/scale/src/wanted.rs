//! The sizes that a user or a policy asks for.

use crate::observed::Observed;
use crate::setting::{Iops, Millicpus, Rate, Throttle, Weight};
use crate::units::{Bytes, Change};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is asked of one machine. What is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Wanted {
    /// Total memory of the guest.
    pub memory: Option<Change<Bytes>>,
    /// Total vCPUs of the guest.
    pub vcpus: Option<Change<u32>>,
    /// How memory is to change; by default the planner chooses between virtio-mem and DIMMs, never the balloon.
    pub mechanism: Option<Mechanism>,
    /// The NUMA node that new memory goes to, or that memory is taken from; by default nodes are kept balanced.
    pub node: Option<u32>,
    /// The zone that new memory blocks go to in a Linux guest.
    pub zone: ZoneWish,
    /// DIMMs (by id) that are not to be removed: the guest refused them earlier in the same command.
    pub keep: Vec<String>,
    /// The most CPU time that all vCPUs together may take.
    #[serde(default)]
    pub cpu_limit: Wish<Millicpus>,
    /// Their share in times of contention.
    #[serde(default)]
    pub cpu_weight: Option<Weight>,
    /// Disks, by any name that an operator knows them by.
    #[serde(default)]
    pub disks: BTreeMap<String, DiskWish>,
    /// NICs, by any name that an operator knows them by.
    #[serde(default)]
    pub nics: BTreeMap<String, RateWish>,
    /// IP addresses in the guest.
    #[serde(default)]
    pub ips: BTreeMap<IpAddr, IpWish>,
}

/// What an observation is to tell of beside QEMU's memory and vCPUs and the host, of which each tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// CPU time and its limits.
    pub power: bool,
    /// Disks and their limits.
    pub disks: bool,
    /// What the guest has on its disks, and what it calls them: programs are run in it for that.
    pub disk_guests: bool,
    /// NICs and their limits.
    pub nics: bool,
    /// What the guest calls its NICs, and which addresses it has on them.
    pub nic_guests: bool,
    /// What the guest shows of its memory: its blocks, its figures, its kernel's policy.
    pub memory: bool,
    /// The vCPUs that the guest shows.
    pub vcpus: bool,
    /// What a resize does without: the balloon driver's figures of a guest whose agent tells the same, and once more what
    /// was told before and does not change by itself.
    pub rest: bool,
}

impl Scope {
    /// Everything.
    pub const ALL: Scope = Scope {
        power: true,
        disks: true,
        disk_guests: true,
        nics: true,
        nic_guests: true,
        memory: true,
        vcpus: true,
        rest: true,
    };

    /// True where the guest has a part in it. A limit of CPU power or of a disk is none of its business.
    pub fn asks_guest(&self) -> bool {
        self.disk_guests || self.nic_guests || self.memory || self.vcpus
    }
}

impl Wanted {
    /// True where a disk is named otherwise than the host names it: the guest may know it.
    pub fn names_disks_as_the_guest(&self, seen: &Observed) -> bool {
        self.disks.keys().any(|name| seen.disks().iter().all(|disk| disk.name != *name))
    }

    /// The same of a NIC, of which a MAC address is one however it is written.
    fn names_nics_as_the_guest(&self, seen: &Observed) -> bool {
        let is_known = |name: &String| {
            seen.nics().iter().any(|nic| {
                let others = nic.aliases.iter().chain(&nic.tap);
                nic.name.eq_ignore_ascii_case(name) || others.into_iter().any(|other| other == name)
            })
        };
        !self.nics.keys().all(is_known)
    }

    /// What must be observed once more of a machine that was seen within `scope`: the guest too, where a name is none of
    /// the host's.
    pub fn wider(&self, scope: Scope, seen: &Observed) -> Scope {
        Scope {
            disk_guests: scope.disk_guests || self.names_disks_as_the_guest(seen),
            nic_guests: scope.nic_guests || self.names_nics_as_the_guest(seen),
            ..scope
        }
    }

    /// What must be observed to plan for this, to carry it out and to report on it. A guest under load takes its time for
    /// each question, and a disk is looked at by programs that are run in it.
    pub fn scope(&self) -> Scope {
        Scope {
            power: !self.cpu_limit.is_keep() || self.cpu_weight.is_some(),
            disks: !self.disks.is_empty(),
            disk_guests: self.disks.values().any(|wish| wish.size.is_some()),
            nics: !self.nics.is_empty() || !self.ips.is_empty(),
            nic_guests: !self.ips.is_empty(),
            memory: self.memory.is_some(),
            vcpus: self.vcpus.is_some(),
            rest: false,
        }
    }
}

/// A wish for a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// No limit.
    Lift,
    /// This limit.
    To(T),
}

impl<T> Wish<T> {
    /// What becomes of the present limit.
    pub fn over(self, now: Option<T>) -> Option<T> {
        match self {
            Wish::Keep => now,
            Wish::Lift => None,
            Wish::To(limit) => Some(limit),
        }
    }

    /// True where nothing is asked.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Wish::Keep)
    }
}

/// What is asked of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DiskWish {
    /// Its size.
    pub size: Option<Change<Bytes>>,
    /// Its operations a second.
    pub iops: ThrottleWish<Iops>,
    /// Its bytes a second.
    pub rate: ThrottleWish<Bytes>,
}

/// What is asked of a disk's limits of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ThrottleWish<T> {
    /// Reads and writes together.
    pub total: Wish<Throttle<T>>,
    /// Reads.
    pub read: Wish<Throttle<T>>,
    /// Writes.
    pub write: Wish<Throttle<T>>,
}

impl<T> Default for ThrottleWish<T> {
    fn default() -> ThrottleWish<T> {
        ThrottleWish { total: Wish::Keep, read: Wish::Keep, write: Wish::Keep }
    }
}

impl<T> ThrottleWish<T> {
    /// True where nothing is asked.
    pub const fn is_keep(&self) -> bool {
        self.total.is_keep() && self.read.is_keep() && self.write.is_keep()
    }
}

/// What is asked of the traffic of a NIC or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RateWish {
    /// What the guest receives.
    pub to_guest: Wish<Rate>,
    /// What the guest sends.
    pub from_guest: Wish<Rate>,
}

/// What is asked of an address's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct IpWish {
    /// The NIC that it is on; by default the only one, or the one on which the guest shows it.
    pub nic: Option<String>,
    /// Its limits.
    pub rate: RateWish,
}

/// How memory changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// A virtio-mem device's requested size.
    VirtioMem,
    /// DIMMs, plugged and unplugged.
    Dimm,
    /// The balloon: takes memory from the guest without removing it, and gives it back.
    Balloon,
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Mechanism::VirtioMem => "virtio-mem",
            Mechanism::Dimm => "dimm",
            Mechanism::Balloon => "balloon",
        })
    }
}

/// Which zone new memory blocks are wanted in. Movable memory can be removed again, but the kernel cannot use it for
/// itself; more than three parts movable to one part kernel memory starves the kernel
/// (Documentation/admin-guide/mm/memory-hotplug.rst, Linux 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneWish {
    /// Movable where the agent can say so and the 3:1 rule allows it, else whatever the guest's kernel chooses.
    #[default]
    Auto,
    /// Movable, or a refusal.
    Movable,
    /// As the guest's kernel chooses.
    Kernel,
}
