//! A host: which QEMU and which libvirt it has, what they can do, and what its memory and limits allow.

mod capability;
mod limits;
mod release;

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Section};
use crate::observed::Version;
use crate::units::Bytes;

pub use capability::{CAPABILITIES, Capability, DIMM, REPORTING, VCPUS, VIRTIO_MEM};
pub use release::HostSystem;

/// What is known of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// What it runs.
    pub system: HostSystem,
    /// Its QEMU.
    pub qemu: QemuFacts,
    /// `/dev/kvm`.
    pub kvm: KvmDevice,
    /// Its libvirt.
    pub libvirt: LibvirtFacts,
    /// Its memory and limits.
    pub limits: LimitFacts,
}

/// The host's QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuFacts {
    /// None was found; where it was looked for.
    Absent(String),
    /// One that could not be asked, and why.
    Mute {
        /// Its path.
        path: String,
        /// Why it could not.
        why: String,
    },
    /// One that was started without a machine and asked.
    Asked(Box<Qemu>),
}

impl QemuFacts {
    fn asked(&self) -> Option<&Qemu> {
        match self {
            QemuFacts::Absent(_) | QemuFacts::Mute { .. } => None,
            QemuFacts::Asked(qemu) => Some(qemu),
        }
    }
}

/// What a QEMU said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Qemu {
    /// Its path.
    pub path: String,
    /// Its version.
    pub version: Version,
    /// Its package's name and version, where it has one.
    pub package: String,
    /// What it emulates: `x86_64`.
    pub arch: String,
    /// Whether it started with KVM; nothing where it did not say.
    pub kvm: Option<bool>,
    /// Commands of its monitor.
    pub commands: BTreeSet<String>,
    /// Events of its monitor.
    pub events: BTreeSet<String>,
    /// Types of devices and backends.
    pub types: BTreeSet<String>,
    /// Properties of the devices that were asked for, by type.
    pub properties: BTreeMap<String, BTreeSet<String>>,
    /// Machine types with vCPU hot-plug.
    pub hotplug_machines: BTreeSet<String>,
}

impl Qemu {
    /// True for a device or backend that it has.
    pub fn has_type(&self, name: &str) -> bool {
        self.types.contains(name)
    }

    /// True for a device's property.
    pub fn has_property(&self, device: &str, property: &str) -> bool {
        self.properties.get(device).is_some_and(|all| all.contains(property))
    }
}

/// `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmDevice {
    /// It opens for this user.
    Opens,
    /// It is not there.
    Absent,
    /// It does not open, for this reason.
    Closed(String),
}

/// The host's libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LibvirtFacts {
    /// This program was built without it.
    NotBuilt,
    /// Its client library is not there, for this reason.
    NoLibrary(String),
    /// It did not answer, for this reason.
    Silent {
        /// Which was asked.
        uri: String,
        /// Why not.
        why: String,
    },
    /// It answered.
    Answers(Box<Libvirt>),
}

/// What a libvirt said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Libvirt {
    /// Which was asked.
    pub uri: String,
    /// The client library's version.
    pub library: Version,
    /// The daemon's.
    pub daemon: Version,
    /// The version of the QEMU that it would start.
    pub hypervisor: Option<Version>,
    /// The path of the QEMU that it would start.
    pub emulator: Option<String>,
    /// The most vCPUs of its default machine type.
    pub max_vcpus: Option<u32>,
    /// Descriptions that it was asked to translate for QEMU without starting anything, by capability: its reason where
    /// it did not.
    pub tried: BTreeMap<&'static str, Result<(), String>>,
}

/// The host's memory and limits. What could not be read is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitFacts {
    /// MemTotal.
    pub memory: Option<Bytes>,
    /// MemAvailable.
    pub available: Option<Bytes>,
    /// Its NUMA nodes.
    pub nodes: Vec<HostNode>,
    /// How many memory regions vhost maps; nothing where its module is not loaded.
    pub vhost_regions: Option<u32>,
    /// How much memory a program started from here may lock; nothing where that has no limit.
    pub memlock: Option<Bytes>,
    /// Physical address bits of its CPUs.
    pub address_bits: Option<u32>,
}

/// A NUMA node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNode {
    /// Its number.
    pub id: u32,
    /// Its memory.
    pub memory: Bytes,
    /// What of it is free.
    pub free: Bytes,
    /// Its huge pages, by size.
    pub huge_pages: Vec<HugePages>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HugePages {
    /// The size of one.
    pub size: Bytes,
    /// How many there are.
    pub total: u64,
    /// How many are free.
    pub free: u64,
}

/// Judges a host.
pub fn host(facts: &HostFacts) -> Vec<Finding> {
    let mut found = vec![qemu(facts), kvm(facts), libvirt(facts)];
    found.extend(same_qemu(facts));
    found.extend(capability::judge(facts));
    found.extend(limits::judge(&facts.limits));
    found
}

fn qemu(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "qemu";
    let section = Section::Hypervisor;
    match &facts.qemu {
        QemuFacts::Absent(where_to) => Finding::missing(
            section,
            SUBJECT,
            format!("none was found ({where_to})"),
            "QEMU runs the machines",
        )
        .mend(release::install_qemu(&facts.system)),
        QemuFacts::Mute { path, why } => Finding::missing(
            section,
            SUBJECT,
            format!("{path} could not be asked: {why}"),
            "what it can do is not known, so nothing below rests on it",
        )
        .by_hand(format!("see what it says: {path} --version")),
        QemuFacts::Asked(qemu) => {
            let package = if qemu.package.is_empty() { String::new() } else { format!(", {}", qemu.package) };
            let found = format!("QEMU {} for {} ({}{package})", qemu.version, qemu.arch, qemu.path);
            Finding::ok(section, SUBJECT, found)
        }
    }
}

fn kvm(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "kvm";
    let section = Section::Hypervisor;
    let slow = "without KVM machines are emulated, many times slower; they can be resized all the same";
    let started = facts.qemu.asked().and_then(|qemu| qemu.kvm);
    let group = "sudo usermod -aG kvm $USER   # and log in again";
    match (&facts.kvm, started) {
        (KvmDevice::Opens, Some(true)) => {
            Finding::ok(section, SUBJECT, "QEMU starts with it; that a guest boots in it was not tried")
        }
        (KvmDevice::Opens, Some(false)) => {
            Finding::note(section, SUBJECT, "/dev/kvm opens, and QEMU did not start with it", slow)
                .by_hand("see why: journalctl -k | grep -i kvm")
        }
        (KvmDevice::Opens, None) => {
            Finding::ok(section, SUBJECT, "/dev/kvm opens; no QEMU was there to start with it")
        }
        (KvmDevice::Closed(why), _) => {
            let found = format!("/dev/kvm does not open for you ({why})");
            let reason = "QEMU that you start is emulated, many times slower; libvirt's machines may have it";
            Finding::note(section, SUBJECT, found, reason).on_host(group)
        }
        (KvmDevice::Absent, _) => Finding::note(section, SUBJECT, "there is no /dev/kvm", slow).by_hand(
            "switch virtualisation on in the firmware (VT-x, AMD-V; on a virtual host: nesting), then modprobe kvm_intel \
             or kvm_amd",
        ),
    }
}

fn libvirt(facts: &HostFacts) -> Finding {
    const SUBJECT: &str = "libvirt";
    let section = Section::Hypervisor;
    let only_qmp = "machines are reached by their QMP sockets alone";
    match &facts.libvirt {
        LibvirtFacts::NotBuilt => {
            Finding::note(section, SUBJECT, "this supple was built without libvirt", only_qmp)
                .by_hand("build it with the feature libvirt, which is on by default")
        }
        LibvirtFacts::NoLibrary(why) => {
            Finding::note(section, SUBJECT, format!("its library cannot be used: {why}"), only_qmp)
                .mend(release::install_libvirt(&facts.system))
        }
        LibvirtFacts::Silent { uri, why } => {
            let found = format!("{uri} does not answer: {why}");
            let own = uri.ends_with(":///session");
            Finding::note(section, SUBJECT, found, only_qmp).on_host(if own {
                "sudo usermod -aG libvirt $USER   # and log in again, for the host's machines"
            } else {
                "systemctl start virtqemud.socket || systemctl start libvirtd.socket"
            })
        }
        LibvirtFacts::Answers(libvirt) => {
            let hypervisor = match libvirt.hypervisor {
                Some(version) => format!(", starts QEMU {version}"),
                None => String::new(),
            };
            let library = if libvirt.library == libvirt.daemon {
                String::new()
            } else {
                format!(", its client library here is {}", libvirt.library)
            };
            let found = format!("libvirt {}{hypervisor}{library}, at {}", libvirt.daemon, libvirt.uri);
            Finding::ok(section, SUBJECT, found)
        }
    }
}

/// Said where libvirt would start another QEMU than the one that was asked.
fn same_qemu(facts: &HostFacts) -> Option<Finding> {
    let LibvirtFacts::Answers(libvirt) = &facts.libvirt else { return None };
    let (asked, starts) = (facts.qemu.asked()?, libvirt.hypervisor?);
    (asked.version != starts).then(|| {
        let path = libvirt.emulator.as_deref().unwrap_or("another one");
        let found = format!("QEMU {} was asked, and libvirt starts {starts} ({path})", asked.version);
        Finding::note(
            Section::Hypervisor,
            "two-qemus",
            found,
            "what is said of QEMU below is true for the one that was asked",
        )
        .by_hand(if path == asked.path {
            "they have one path: libvirt sees other files than this shell, or an upgrade since it started; for that, \
             systemctl restart libvirtd"
                .to_owned()
        } else {
            format!("ask that one: supple doctor --qemu {path}")
        })
    })
}

#[cfg(test)]
mod tests;
