//! Distributions: what to install, and which of their releases have which QEMU and libvirt.

use crate::doctor::{Mend, listed};
use crate::observed::Version;

/// What a host runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSystem {
    /// `ID` of os-release.
    pub id: String,
    /// `VERSION_ID` of it.
    pub version: String,
    /// `PRETTY_NAME` of it.
    pub name: String,
    /// `ID_LIKE` of it.
    pub like: Vec<String>,
    /// The machine's architecture as `uname -m` has it.
    pub arch: String,
}

struct Family {
    ids: &'static [&'static str],
    name: &'static str,
    /// How packages are installed, and how they are brought up to date.
    install: &'static str,
    update: &'static str,
    /// The package of QEMU; `{}` is the architecture's part.
    qemu: &'static str,
    libvirt: &'static str,
    /// Their releases, oldest first.
    releases: &'static [Release],
}

struct Release {
    version: &'static str,
    qemu: Version,
    libvirt: Version,
}

const fn release(version: &'static str, qemu: (u32, u32), libvirt: (u32, u32)) -> Release {
    Release { version, qemu: Version(qemu.0, qemu.1, 0), libvirt: Version(libvirt.0, libvirt.1, 0) }
}

/// The versions are those of the releases' package lists; a release is left out where only a part of it has them.
const FAMILIES: &[Family] = &[
    Family {
        ids: &["debian"],
        name: "Debian",
        install: "apt-get install",
        update: "apt-get install --only-upgrade",
        qemu: "qemu-system-{}",
        libvirt: "libvirt-daemon-system",
        releases: &[
            release("9", (2, 8), (3, 0)),
            release("10", (3, 1), (5, 0)),
            release("11", (5, 2), (7, 0)),
            release("12", (7, 2), (9, 0)),
            release("13", (10, 0), (11, 3)),
        ],
    },
    Family {
        ids: &["ubuntu"],
        name: "Ubuntu",
        install: "apt-get install",
        update: "apt-get install --only-upgrade",
        qemu: "qemu-system-{}",
        libvirt: "libvirt-daemon-system",
        releases: &[
            release("16.04", (2, 5), (1, 3)),
            release("18.04", (2, 11), (4, 0)),
            release("20.04", (4, 2), (6, 0)),
            release("22.04", (6, 2), (8, 0)),
            release("24.04", (8, 2), (10, 0)),
        ],
    },
    Family {
        ids: &["rhel", "centos", "almalinux", "rocky", "ol", "fedora"],
        name: "RHEL",
        install: "dnf install",
        update: "dnf upgrade",
        qemu: "qemu-kvm",
        libvirt: "libvirt-daemon-kvm",
        releases: &[
            release("8.6", (6, 2), (8, 0)),
            release("9.0", (6, 2), (8, 0)),
            release("10.0", (9, 1), (10, 10)),
        ],
    },
    Family {
        ids: &["sles", "sles_sap", "sled", "opensuse", "opensuse-leap", "opensuse-tumbleweed", "suse"],
        name: "SLES",
        install: "zypper install",
        update: "zypper update",
        qemu: "qemu-{}",
        libvirt: "libvirt-daemon-qemu",
        releases: &[
            release("15.4", (6, 2), (8, 0)),
            release("15.5", (7, 1), (9, 0)),
            release("15.6", (8, 2), (10, 0)),
        ],
    },
    Family {
        ids: &["openEuler", "openeuler"],
        name: "openEuler",
        install: "dnf install",
        update: "dnf upgrade",
        qemu: "qemu",
        libvirt: "libvirt",
        releases: &[release("22.03", (6, 2), (6, 2)), release("24.03", (8, 2), (9, 10))],
    },
    Family {
        ids: &["arch", "archlinux"],
        name: "Arch",
        install: "pacman -S",
        update: "pacman -Syu",
        qemu: "qemu-base",
        libvirt: "libvirt",
        releases: &[],
    },
    Family {
        ids: &["alpine"],
        name: "Alpine",
        install: "apk add",
        update: "apk upgrade",
        qemu: "qemu-system-{}",
        libvirt: "libvirt-daemon",
        releases: &[],
    },
];

impl HostSystem {
    fn family(&self) -> Option<&'static Family> {
        let of = |id: &str| FAMILIES.iter().find(|family| family.ids.contains(&id));
        of(&self.id).or_else(|| self.like.iter().find_map(|id| of(id)))
    }

    /// True where the id itself is in the family, so that its releases are the host's own.
    fn is_of(&self, family: &Family) -> bool {
        family.ids.contains(&self.id.as_str())
    }
}

impl Family {
    /// Debian's and Ubuntu's packages have names of their own for architectures, SUSE's too.
    fn qemu_package(&self, arch: &str) -> String {
        let debian = self.libvirt == "libvirt-daemon-system";
        let part = match (arch, debian, self.name) {
            ("x86_64", true, _) | ("x86_64", _, "SLES") => "x86",
            ("aarch64", true, _) | ("aarch64", _, "SLES") => "arm",
            ("ppc64le", true, _) | ("ppc64le", _, "SLES") => "ppc",
            ("s390x", _, "SLES") => "s390x",
            (_, true, _) => "misc",
            (other, ..) => other,
        };
        self.qemu.replace("{}", part)
    }
}

/// The command that installs QEMU, or how it is done on each distribution.
pub(super) fn install_qemu(system: &HostSystem) -> Mend {
    install(system, |family| family.qemu_package(&system.arch))
}

/// The same for libvirt.
pub(super) fn install_libvirt(system: &HostSystem) -> Mend {
    install(system, |family| family.libvirt.to_owned())
}

fn install(system: &HostSystem, package: impl Fn(&Family) -> String) -> Mend {
    match system.family() {
        Some(family) => Mend::OnHost(format!("{} {}", family.install, package(family))),
        None => {
            let each = FAMILIES.iter().map(|f| format!("{}: {} {}", f.name, f.install, package(f)));
            Mend::ByHand(format!("install it. {}", each.collect::<Vec<_>>().join("; ")))
        }
    }
}

/// How to come by a QEMU or a libvirt of at least this version.
pub(super) fn newer(system: &HostSystem, qemu: Option<Version>, libvirt: Option<Version>) -> Mend {
    let suffices = |release: &&Release| {
        qemu.is_none_or(|least| release.qemu >= least) && libvirt.is_none_or(|least| release.libvirt >= least)
    };
    if let Some(family) = system.family().filter(|family| system.is_of(family)) {
        let own = family.releases.iter().rev().find(|release| release.version == system.version);
        if own.is_some_and(|release| suffices(&release)) {
            let package =
                if qemu.is_some() { family.qemu_package(&system.arch) } else { family.libvirt.to_owned() };
            return Mend::OnHost(format!("{} {package}", family.update));
        }
        if let Some(first) = family.releases.iter().find(suffices) {
            let name = if system.name.is_empty() { "this release" } else { &system.name };
            return Mend::ByHand(format!(
                "{name} has it too old: go on to {} {} or later",
                family.name, first.version
            ));
        }
    }
    let firsts: Vec<String> = FAMILIES
        .iter()
        .filter_map(|family| {
            family
                .releases
                .iter()
                .find(suffices)
                .map(|release| format!("{} {}", family.name, release.version))
        })
        .collect();
    Mend::ByHand(format!("these and later ones have it: {}", listed(&firsts)))
}

/// What to do about a QEMU that is new enough and was built without it.
pub(super) fn other_build(system: &HostSystem) -> Mend {
    let whose = if system.name.is_empty() { "the distribution" } else { &system.name };
    Mend::ByHand(format!(
        "{whose} leaves it out of this build; take another one with `supple doctor --qemu PATH`"
    ))
}
