//! What can be done with machines here, one finding each: probed on QEMU and tried on libvirt. The versions from which
//! on they have it explain an absence, and never stand in for a probe.

use super::{HostFacts, LibvirtFacts, Qemu, QemuFacts, release};
use crate::doctor::{Finding, Section};
use crate::observed::Version;

/// One thing that can be done with machines.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// Its name, in words joined by dashes.
    pub subject: &'static str,
    /// What it is, for people.
    pub what: &'static str,
    /// What goes without it, for people.
    pub without: &'static str,
    /// Whether resizing needs it.
    needed: bool,
    /// The first QEMU with it.
    pub qemu: Version,
    /// The first libvirt with it; nothing where libvirt has no part in it.
    pub libvirt: Option<Version>,
    /// What of QEMU was looked at, for people.
    probe: &'static str,
    /// Whether a QEMU has it.
    has: fn(&Qemu) -> bool,
}

/// The subject of DIMMs.
pub const DIMM: &str = "memory-by-dimm";
/// The subject of virtio-mem.
pub const VIRTIO_MEM: &str = "memory-by-virtio-mem";
/// The subject of vCPUs.
pub const VCPUS: &str = "vcpu-hot-plug";
/// The subject of free page reporting.
pub const REPORTING: &str = "free-page-reporting";

/// All of them. Versions: QEMU's and libvirt's release notes, and QEMU's qapi/*.json ("Since").
pub const CAPABILITIES: &[Capability] = &[
    Capability {
        subject: DIMM,
        what: "memory grows by DIMMs",
        without: "memory cannot grow by DIMMs",
        needed: true,
        qemu: Version(2, 1, 0),
        libvirt: Some(Version(1, 2, 14)),
        probe: "the device pc-dimm",
        has: |qemu| qemu.has_type("pc-dimm") && qemu.commands.contains("device_add"),
    },
    Capability {
        subject: "dimm-removal",
        what: "DIMMs come out again",
        without: "memory that was added by DIMM stays",
        needed: true,
        qemu: Version(2, 4, 0),
        libvirt: None,
        probe: "device_del and the event ACPI_DEVICE_OST, with which a guest answers",
        has: |qemu| {
            qemu.has_type("pc-dimm")
                && qemu.commands.contains("device_del")
                && qemu.events.contains("ACPI_DEVICE_OST")
        },
    },
    Capability {
        subject: VIRTIO_MEM,
        what: "memory grows and shrinks in steps of a few MiB by virtio-mem",
        without: "memory moves in whole DIMMs",
        needed: false,
        qemu: Version(5, 1, 0),
        libvirt: Some(Version(7, 9, 0)),
        probe: "the device virtio-mem and its event",
        has: |qemu| {
            (qemu.has_type("virtio-mem-pci") || qemu.has_type("virtio-mem-ccw"))
                && qemu.events.contains("MEMORY_DEVICE_SIZE_CHANGE")
        },
    },
    Capability {
        subject: VCPUS,
        what: "vCPUs come and go",
        without: "the number of vCPUs is fixed",
        needed: true,
        qemu: Version(2, 7, 0),
        libvirt: Some(Version(2, 4, 0)),
        probe: "query-hotpluggable-cpus and machine types with it",
        has: |qemu| qemu.commands.contains("query-hotpluggable-cpus") && !qemu.hotplug_machines.is_empty(),
    },
    Capability {
        subject: "removal-refusals",
        what: "QEMU tells when a removal fails on its own side",
        without: "such a failure shows only by its deadline",
        needed: false,
        qemu: Version(6, 2, 0),
        libvirt: None,
        probe: "the event DEVICE_UNPLUG_GUEST_ERROR",
        has: |qemu| qemu.events.contains("DEVICE_UNPLUG_GUEST_ERROR"),
    },
    Capability {
        subject: "balloon-figures",
        what: "the guest's own memory figures without its agent",
        without: "a guest without an agent proves nothing by its memory",
        needed: false,
        qemu: Version(1, 5, 0),
        libvirt: Some(Version(1, 1, 1)),
        probe: "guest-stats of the balloon",
        has: |qemu| balloon_has(qemu, "guest-stats"),
    },
    Capability {
        subject: REPORTING,
        what: "memory that a guest frees goes back to the host by itself",
        without: "memory that a guest frees stays with its QEMU",
        needed: false,
        qemu: Version(5, 1, 0),
        libvirt: Some(Version(6, 9, 0)),
        probe: "free-page-reporting of the balloon",
        has: |qemu| balloon_has(qemu, "free-page-reporting"),
    },
];

fn balloon_has(qemu: &Qemu, property: &str) -> bool {
    ["virtio-balloon-pci", "virtio-balloon-ccw"].iter().any(|device| qemu.has_property(device, property))
}

pub(super) fn judge(facts: &HostFacts) -> Vec<Finding> {
    match &facts.qemu {
        QemuFacts::Absent(_) | QemuFacts::Mute { .. } => Vec::new(),
        QemuFacts::Asked(qemu) => CAPABILITIES.iter().map(|capability| capability.of(qemu, facts)).collect(),
    }
}

impl Capability {
    /// `QEMU 5.1 and libvirt 7.9 or later`.
    fn since(&self) -> String {
        let short = |Version(major, minor, _): Version| format!("{major}.{minor}");
        match self.libvirt {
            // The one whose third number counts.
            Some(Version(1, minor, micro)) => {
                format!("QEMU {} and libvirt 1.{minor}.{micro} or later", short(self.qemu))
            }
            Some(libvirt) => format!("QEMU {} and libvirt {} or later", short(self.qemu), short(libvirt)),
            None => format!("QEMU {} or later", short(self.qemu)),
        }
    }

    fn of(&self, qemu: &Qemu, facts: &HostFacts) -> Finding {
        let section = Section::Capabilities;
        if !(self.has)(qemu) {
            let found = if qemu.version < self.qemu {
                format!("{} lacks {}", name_of(qemu), self.probe)
            } else {
                format!("{} was built without {}", name_of(qemu), self.probe)
            };
            let mend = if qemu.version < self.qemu {
                release::newer(&facts.system, Some(self.qemu), None)
            } else {
                release::other_build(&facts.system)
            };
            return self.absent(section, found).mend(mend);
        }
        let LibvirtFacts::Answers(libvirt) = &facts.libvirt else {
            return Finding::ok(section, self.subject, format!("{} ({})", self.what, self.since()));
        };
        match (libvirt.tried.get(self.subject), self.libvirt) {
            (Some(Err(why)), Some(first)) => {
                let found = format!("QEMU has it, and libvirt {} does not take it: {why}", libvirt.daemon);
                let mend = release::newer(&facts.system, None, Some(first));
                let finding = self.absent(section, found);
                if libvirt.daemon < first {
                    finding.mend(mend)
                } else {
                    finding.by_hand(see_log(&libvirt.uri))
                }
            }
            (Some(Ok(())), _) => {
                let found = format!("{}, with libvirt too ({})", self.what, self.since());
                Finding::ok(section, self.subject, found)
            }
            (None, Some(first)) if libvirt.daemon < first => {
                let found = format!("QEMU has it, and libvirt {} is older than it", libvirt.daemon);
                self.absent(section, found).mend(release::newer(&facts.system, None, Some(first)))
            }
            (Some(Err(_)) | None, _) => {
                Finding::ok(section, self.subject, format!("{} ({})", self.what, self.since()))
            }
        }
    }

    fn absent(&self, section: Section, found: String) -> Finding {
        let reason = format!("{}; that is in {}", self.without, self.since());
        if self.needed {
            Finding::missing(section, self.subject, found, &reason)
        } else {
            Finding::note(section, self.subject, found, &reason)
        }
    }
}

fn name_of(qemu: &Qemu) -> String {
    format!("QEMU {}", qemu.version)
}

fn see_log(uri: &str) -> String {
    format!("see what the libvirt at {uri} logs of it: journalctl -u virtqemud -u libvirtd")
}
