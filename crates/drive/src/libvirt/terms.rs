//! The words for what a domain is and what is done to it, with libvirt's numbers for them.

use std::ffi::{c_int, c_uint};
use std::fmt;

use scale::units::Bytes;
use virt_sys as sys;

/// What a change is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affect {
    /// The running domain, until its end.
    Live,
    /// The persistent definition, from the next start.
    Config,
    /// Both: the definition is changed only where the running domain could be. For a detach, libvirt counts a guest
    /// that has not answered within 5 s as success (`qemuDomainDetachDeviceLiveAndConfig`, 9.0 and 11.3).
    Both,
}

impl Affect {
    pub(super) fn bits(self) -> c_uint {
        // The three flag sets of devices, vCPUs and memory agree on these bits (libvirt-domain.h).
        match self {
            Self::Live => sys::VIR_DOMAIN_AFFECT_LIVE,
            Self::Config => sys::VIR_DOMAIN_AFFECT_CONFIG,
            Self::Both => sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG,
        }
    }
}

/// Which description of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xml {
    /// The running domain's, with what libvirt filled in; of one that does not run, the definition.
    Live,
    /// The persistent definition, as the next start takes it.
    Inactive,
    /// The persistent definition with its secrets (passwords), as needed to define it again.
    InactiveSecure,
}

/// Which number of vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VcpuCount {
    /// Those that are there.
    Present,
    /// Those that are there; ones added to the definition are removable later.
    PresentHotpluggable,
    /// Those that there can be.
    Maximum,
}

/// What a domain is doing (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its vCPUs run.
    Running,
    /// It waits for something of the hypervisor's.
    Blocked,
    /// Its vCPUs are stopped.
    Paused,
    /// It is on its way down.
    ShuttingDown,
    /// It is only defined.
    Off,
    /// It crashed.
    Crashed,
    /// The guest sleeps.
    Suspended,
    /// libvirt does not say.
    Unknown,
}

impl State {
    /// True where there is a QEMU process to speak to.
    pub fn is_there(self) -> bool {
        match self {
            Self::Running | Self::Blocked | Self::Paused | Self::Suspended | Self::Unknown => true,
            Self::ShuttingDown | Self::Off | Self::Crashed => false,
        }
    }

    /// From libvirt's figures.
    pub(super) fn of_number(number: Option<u64>) -> Self {
        number.and_then(|number| c_int::try_from(number).ok()).map_or(Self::Unknown, Self::from)
    }

    pub(super) fn from(number: c_int) -> Self {
        match u32::try_from(number) {
            Ok(sys::VIR_DOMAIN_RUNNING) => Self::Running,
            Ok(sys::VIR_DOMAIN_BLOCKED) => Self::Blocked,
            Ok(sys::VIR_DOMAIN_PAUSED) => Self::Paused,
            Ok(sys::VIR_DOMAIN_SHUTDOWN) => Self::ShuttingDown,
            Ok(sys::VIR_DOMAIN_SHUTOFF) => Self::Off,
            Ok(sys::VIR_DOMAIN_CRASHED) => Self::Crashed,
            Ok(sys::VIR_DOMAIN_PMSUSPENDED) => Self::Suspended,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for State {
    /// The words of `virsh list`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Blocked => "idle",
            Self::Paused => "paused",
            Self::ShuttingDown => "in shutdown",
            Self::Off => "shut off",
            Self::Crashed => "crashed",
            Self::Suspended => "pmsuspended",
            Self::Unknown => "no state",
        })
    }
}

/// A domain's sizes at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// What it is doing.
    pub state: State,
    /// The most memory it can have now without a further device: boot memory and memory devices.
    pub max_memory: Bytes,
    /// The memory it has, by the balloon's account.
    pub memory: Bytes,
    /// Its present vCPUs.
    pub vcpus: u32,
}

/// What occupies a domain (`virDomainGetJobStats`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Nothing that libvirt tells of.
    None,
    /// A job, by libvirt's word for it: `migration`, `backup`, `save`, ...
    Running(&'static str),
}

impl Job {
    /// The job, if it keeps libvirt from asking QEMU anything for as long as it lasts, as a migration, a save and the like
    /// do. During a backup it can (`qemuDomainObjSetAsyncJobMask` in `qemuBackupBegin`, 9.0).
    pub fn holds(&self) -> Option<&'static str> {
        match self {
            Self::Running(what) if *what != "a backup" => Some(what),
            Self::Running(_) | Self::None => None,
        }
    }
}

/// A migration, seen from where it goes.
pub(super) const INCOMING: &str = "an incoming migration";

pub(super) const OPERATIONS: [&str; 11] = [
    "a job of an unknown kind",
    "a start",
    "a save",
    "a restore",
    INCOMING,
    "a migration",
    "a snapshot",
    "a return to a snapshot",
    "a memory dump",
    "a backup",
    "the removal of a snapshot",
];

impl VcpuCount {
    pub(super) fn bits(self) -> c_uint {
        match self {
            Self::Present => 0,
            Self::PresentHotpluggable => sys::VIR_DOMAIN_VCPU_HOTPLUGGABLE,
            Self::Maximum => sys::VIR_DOMAIN_VCPU_MAXIMUM,
        }
    }
}
