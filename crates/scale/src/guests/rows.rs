//! The rows of the support matrix. The first row that is about a system counts, so narrow ones stand before wide ones.
//!
//! `maybe` and `unknown` are said where a source is missing or speaks against another: a matrix that guesses is worse
//! than one with holes.

use super::Can::{Maybe, No, Unknown, Yes};
use super::Onlines::{Itself, Kernel, Never, Nobody, Udev, Varies};
use super::source::*;
use super::{Applies, Can, MemorySupport, Onlines, Row, VcpuSupport, Versions};

const fn memory(add: Can, remove: Can, online: Onlines, balloon: Can, virtio_mem: Can) -> MemorySupport {
    MemorySupport { add, remove, online, balloon, virtio_mem }
}

const fn vcpus(add: Can, remove: Can, online: Onlines) -> VcpuSupport {
    VcpuSupport { add, remove, online }
}

const WINDOWS: &[&str] = &["mswindows"];
const RED_HAT: &[&str] = &["rhel", "centos", "almalinux", "rocky", "ol", "scientific"];
const SUSE: &[&str] = &["sles", "sles_sap", "sled", "opensuse", "opensuse-leap"];
const BITS_32: &[&str] = &["x86", "i386", "i486", "i586", "i686"];

const fn windows(
    versions: &'static [&'static str],
    editions: &'static [&'static str],
    arches: &'static [&'static str],
) -> Applies {
    Applies { ids: WINDOWS, versions: Versions::Named(versions), editions, arches }
}

const fn linux(ids: &'static [&'static str], from: (u32, u32), below: (u32, u32)) -> Applies {
    Applies { ids, versions: Versions::Within(from, below), editions: &[], arches: &[] }
}

/// Larger than any version.
const ON: (u32, u32) = (u32::MAX, 0);
/// For every Windows: a vCPU is never given back, and a DIMM neither.
const WINDOWS_REMOVES: &str = "it never gives a DIMM or a vCPU back: shrink by stopping it";

/// The support matrix.
pub const ROWS: &[Row] = &[
    Row {
        name: "Windows 8 to 10, 32-bit",
        editions: "",
        memory: memory(No, No, Never, Yes, No),
        vcpus: vcpus(Yes, No, Itself),
        note: "vCPUs by oVirt's table; Red Hat's tests leave every 32-bit Windows out of memory hot-plug",
        sources: &[OVIRT_VCPUS, QE_MEMORY],
        applies: windows(&["8", "8.1", "10"], &[], BITS_32),
    },
    Row {
        name: "other 32-bit Windows",
        editions: "",
        memory: memory(No, No, Never, Maybe, No),
        vcpus: vcpus(No, No, Never),
        note: "Microsoft names 32-bit Server 2003 and 2008 Enterprise and Datacenter too, with PAE; nobody tests them on \
               QEMU",
        sources: &[MS_HOT_ADD, QE_MEMORY, OVIRT_VCPUS],
        applies: Applies { ids: WINDOWS, versions: Versions::All, editions: &[], arches: BITS_32 },
    },
    Row {
        name: "Windows Server 2003, 2003 R2",
        editions: "Enterprise and Datacenter",
        memory: memory(Maybe, No, Itself, Maybe, No),
        vcpus: vcpus(No, No, Never),
        note: "from SP1 on by Microsoft's word; left out of Red Hat's tests. A machine that starts below 4 GiB and grows \
               past it may hang without Microsoft's hotfix",
        sources: &[MS_HOT_ADD, QE_MEMORY],
        applies: windows(&["2003"], &["enterprise", "datacenter"], &[]),
    },
    Row {
        name: "Windows Server 2003, 2003 R2",
        editions: "Standard and Web",
        memory: memory(No, No, Never, Maybe, No),
        vcpus: vcpus(No, No, Never),
        note: "",
        sources: &[MS_HOT_ADD],
        applies: windows(&["2003"], &[], &[]),
    },
    Row {
        name: "Windows Server 2008, 2008 R2",
        editions: "Datacenter",
        memory: memory(Yes, No, Itself, Yes, No),
        vcpus: vcpus(Yes, No, Itself),
        note: WINDOWS_REMOVES,
        sources: &[MS_HOT_ADD, OVIRT_VCPUS, NEVER_EJECTS],
        applies: windows(&["2008", "2008r2"], &["datacenter"], &[]),
    },
    Row {
        name: "Windows Server 2008, 2008 R2",
        editions: "Enterprise",
        memory: memory(Yes, No, Itself, Yes, No),
        vcpus: vcpus(No, No, Never),
        note: WINDOWS_REMOVES,
        sources: &[MS_HOT_ADD, OVIRT_VCPUS, NEVER_EJECTS],
        applies: windows(&["2008", "2008r2"], &["enterprise"], &[]),
    },
    Row {
        name: "Windows Server 2008, 2008 R2",
        editions: "Standard, Web, Foundation",
        memory: memory(No, No, Never, Yes, No),
        vcpus: vcpus(No, No, Never),
        note: "",
        sources: &[MS_HOT_ADD, OVIRT_VCPUS],
        applies: windows(&["2008", "2008r2"], &[], &[]),
    },
    Row {
        name: "Windows Server 2012, 2012 R2",
        editions: "",
        memory: memory(Yes, No, Itself, Yes, No),
        vcpus: vcpus(Yes, No, Itself),
        note: WINDOWS_REMOVES,
        sources: &[OVIRT_VCPUS, QE_MEMORY, NEVER_EJECTS],
        applies: windows(&["2012", "2012r2"], &[], &[]),
    },
    Row {
        name: "Windows Server 2016",
        editions: "",
        memory: memory(Yes, No, Itself, Yes, Unknown),
        vcpus: vcpus(Maybe, No, Itself),
        note: "a new vCPU counts only with the driver \"HID Button over Interrupt Driver\", and the guest may restart \
               when it comes; it never gives a DIMM or a vCPU back",
        sources: &[OVIRT_VCPUS, QE_MEMORY, HID_BUTTON, NEVER_EJECTS],
        applies: windows(&["2016"], &[], &[]),
    },
    Row {
        name: "Windows Server 2019",
        editions: "",
        memory: memory(Yes, No, Itself, Yes, Maybe),
        vcpus: vcpus(Maybe, No, Itself),
        note: "a new vCPU stops it (0x3e) where the host's SGX is passed through, as with -cpu host; it never gives a \
               DIMM or a vCPU back",
        sources: &[QE_MEMORY, QE_VCPUS, BSOD_2019, NEVER_EJECTS, VIOMEM],
        applies: windows(&["2019"], &[], &[]),
    },
    Row {
        name: "Windows Server 2022",
        editions: "",
        memory: memory(Yes, No, Itself, Yes, Maybe),
        vcpus: vcpus(Yes, No, Itself),
        note: "virtio-mem with the viomem driver of virtio-win; it is plugged and not used while the Windows hypervisor \
               runs (VBS, WSL2, Hyper-V)",
        sources: &[QE_MEMORY, QE_VCPUS, VIOMEM, VIOMEM_HYPERVISOR, NEVER_EJECTS],
        applies: windows(&["2022"], &[], &[]),
    },
    Row {
        name: "Windows Server 2025",
        editions: "",
        memory: memory(Yes, No, Itself, Yes, Yes),
        vcpus: vcpus(Yes, No, Itself),
        note: "virtio-mem with the viomem driver of virtio-win; it is plugged and not used while the Windows hypervisor \
               runs (VBS, WSL2, Hyper-V)",
        sources: &[QE_MEMORY, QE_VCPUS, QE_VIOMEM, VIOMEM_HYPERVISOR, NEVER_EJECTS],
        applies: windows(&["2025"], &[], &[]),
    },
    Row {
        name: "Windows 7, 64-bit",
        editions: "Enterprise and Ultimate",
        memory: memory(Unknown, No, Itself, Yes, No),
        vcpus: vcpus(Maybe, No, Itself),
        note: "vCPUs by oVirt's table; left out of Red Hat's tests",
        sources: &[OVIRT_VCPUS, QE_BALLOON, QE_VCPUS],
        applies: windows(&["7"], &["enterprise", "ultimate"], &[]),
    },
    Row {
        name: "Windows 7, 64-bit",
        editions: "Starter, Home, Professional",
        memory: memory(Unknown, No, Itself, Yes, No),
        vcpus: vcpus(No, No, Never),
        note: "",
        sources: &[OVIRT_VCPUS, QE_BALLOON],
        applies: windows(&["7"], &[], &[]),
    },
    Row {
        name: "Windows 8, 8.1, 64-bit",
        editions: "",
        memory: memory(Unknown, No, Itself, Yes, No),
        vcpus: vcpus(Maybe, No, Itself),
        note: "vCPUs by oVirt's table; left out of Red Hat's tests",
        sources: &[OVIRT_VCPUS, QE_BALLOON, QE_VCPUS],
        applies: windows(&["8", "8.1"], &[], &[]),
    },
    Row {
        name: "Windows 10, 11, 64-bit",
        editions: "Home",
        memory: memory(Maybe, No, Itself, Yes, Maybe),
        vcpus: vcpus(Maybe, No, Itself),
        note: "no word of Microsoft's for this edition",
        sources: &[OVIRT_VCPUS, QE_BALLOON, VIOMEM],
        applies: windows(&["10", "11"], &["home"], &[]),
    },
    Row {
        name: "Windows 10, 11, 64-bit",
        editions: "Pro, Enterprise, Education",
        memory: memory(Maybe, No, Itself, Yes, Maybe),
        vcpus: vcpus(Maybe, No, Itself),
        note: "vCPUs of Windows 10 by oVirt's table; Red Hat's tests leave it out. virtio-mem is plugged and not used \
               while the Windows hypervisor runs (VBS, WSL2, Hyper-V)",
        sources: &[OVIRT_VCPUS, QE_BALLOON, QE_VCPUS, VIOMEM, VIOMEM_HYPERVISOR, NEVER_EJECTS],
        applies: windows(&["10", "11"], &[], &[]),
    },
    Row {
        name: "any other Windows",
        editions: "",
        memory: memory(Unknown, No, Itself, Maybe, Unknown),
        vcpus: vcpus(Unknown, No, Itself),
        note: "no Windows is known to give a DIMM or a vCPU back",
        sources: &[QE_VCPUS, NEVER_EJECTS],
        applies: Applies { ids: WINDOWS, versions: Versions::All, editions: &[], arches: &[] },
    },
    Row {
        name: "Linux on arm64, any",
        editions: "",
        memory: memory(Yes, Maybe, Varies, Yes, Maybe),
        vcpus: vcpus(No, No, Never),
        note: "with UEFI and ACPI; memory that was there at boot never goes offline. QEMU plugs no vCPU into an arm64 \
               machine",
        sources: &[QEMU_ARM, LINUX_MEMORY],
        applies: Applies { ids: &[], versions: Versions::All, editions: &[], arches: &["aarch64", "arm64"] },
    },
    Row {
        name: "RHEL, CentOS 5",
        editions: "",
        memory: memory(Maybe, No, Nobody, Maybe, No),
        vcpus: vcpus(Unknown, Unknown, Varies),
        note: "left out of Red Hat's tests; single reports of memory that appears and must be brought online by hand",
        sources: &[QE_MEMORY, QE_BALLOON],
        applies: linux(RED_HAT, (5, 0), (6, 0)),
    },
    Row {
        name: "RHEL, CentOS 6",
        editions: "",
        memory: memory(Yes, No, Nobody, Yes, No),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "vCPUs from 6.3 on; Linux gives memory back on x86-64 from 3.9 on only. The agent is too old to show memory \
               blocks",
        sources: &[OVIRT_VCPUS, QE_MEMORY, LINUX_HOTREMOVE],
        applies: linux(RED_HAT, (6, 0), (7, 0)),
    },
    Row {
        name: "RHEL, CentOS, Oracle Linux 7",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, No),
        vcpus: vcpus(Yes, Yes, Udev),
        note: "DIMMs come out again only where they are online as movable; Red Hat's tests leave it out. The rule of 7.6 \
               puts an offline block online again",
        sources: &[OVIRT_VCPUS, OVIRT_MEMORY, QE_MEMORY, RHEL_7_RULES],
        applies: linux(RED_HAT, (7, 0), (8, 0)),
    },
    Row {
        name: "RHEL, CentOS Stream, Alma, Rocky, Oracle 8",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, No),
        vcpus: vcpus(Yes, Yes, Udev),
        note: "DIMMs come out again reliably only where they are online as movable; the distribution's rule puts them \
               online in the kernel's zone",
        sources: &[OVIRT_VCPUS, OVIRT_MEMORY, QE_MEMORY, QE_VIRTIO_MEM, RHEL_8_RULES],
        applies: linux(RED_HAT, (8, 0), (9, 0)),
    },
    Row {
        name: "RHEL, CentOS Stream, Alma, Rocky, Oracle 9, 10",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, Yes),
        vcpus: vcpus(Yes, Yes, Udev),
        note: "virtio-mem shrinks well with memhp_default_state=online_movable on the kernel's command line, as Red Hat \
               tests it",
        sources: &[OVIRT_VCPUS, OVIRT_MEMORY, QE_MEMORY, QE_VIRTIO_MEM, RHEL_9_VIRTIO_MEM],
        applies: linux(RED_HAT, (9, 0), (11, 0)),
    },
    Row {
        name: "Debian 8 to 10",
        editions: "",
        memory: memory(Yes, Maybe, Nobody, Yes, No),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "no udev rule: install Supple's",
        sources: &[DEBIAN_RULES, DEBIAN_DEFAULT_ONLINE, LINUX_MEMORY],
        applies: linux(&["debian"], (8, 0), (11, 0)),
    },
    Row {
        name: "Debian 11",
        editions: "",
        memory: memory(Yes, Maybe, Nobody, Yes, Maybe),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "no udev rule: install Supple's. Its kernel 5.10 takes no virtio-mem device with unplugged-inaccessible=on, \
               the default of machine types from 8.1 on",
        sources: &[DEBIAN_RULES, DEBIAN_DEFAULT_ONLINE, LINUX_VIRTIO_MEM],
        applies: linux(&["debian"], (11, 0), (12, 0)),
    },
    Row {
        name: "Debian 12",
        editions: "",
        memory: memory(Yes, Maybe, Nobody, Yes, Yes),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "no udev rule: install Supple's. Supple's own tests run on its kernel",
        sources: &[DEBIAN_RULES, DEBIAN_DEFAULT_ONLINE, LINUX_VIRTIO_MEM],
        applies: linux(&["debian"], (12, 0), (13, 0)),
    },
    Row {
        name: "Debian 13",
        editions: "",
        memory: memory(Yes, Maybe, Kernel, Yes, Yes),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "memory by the kernel on amd64 alone, in the kernel's zone, from which it comes out by luck",
        sources: &[DEBIAN_RULES, DEBIAN_DEFAULT_ONLINE, LINUX_VIRTIO_MEM],
        applies: linux(&["debian"], (13, 0), ON),
    },
    Row {
        name: "Ubuntu 16.04, 18.04, 20.04",
        editions: "",
        memory: memory(Yes, Maybe, Varies, Yes, No),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "its udev rule is for Hyper-V and Xen alone; what the kernel does with memory differs by release. Kernels \
               before 5.8 have no virtio-mem",
        sources: &[DEBIAN_RULES, LINUX_MEMORY],
        applies: linux(&["ubuntu"], (14, 4), (22, 4)),
    },
    Row {
        name: "Ubuntu 22.04",
        editions: "",
        memory: memory(Yes, Maybe, Varies, Yes, Maybe),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "its udev rule is for Hyper-V and Xen alone. Its kernel 5.15 takes no virtio-mem device with \
               unplugged-inaccessible=on, the default of machine types from 8.1 on",
        sources: &[DEBIAN_RULES, LINUX_VIRTIO_MEM],
        applies: linux(&["ubuntu"], (22, 4), (22, 10)),
    },
    Row {
        name: "Ubuntu 22.10 and later",
        editions: "",
        memory: memory(Yes, Maybe, Varies, Yes, Yes),
        vcpus: vcpus(Yes, Yes, Nobody),
        note: "its udev rule is for Hyper-V and Xen alone: vCPUs need Supple's",
        sources: &[DEBIAN_RULES, LINUX_VIRTIO_MEM],
        applies: linux(&["ubuntu"], (22, 10), ON),
    },
    Row {
        name: "SLES 12",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, No),
        vcpus: vcpus(Yes, Yes, Udev),
        note: "the rule of 12 SP3 fails where systemd-detect-virt ends with an error: update systemd",
        sources: &[SUSE_RULES_15, LINUX_MEMORY],
        applies: linux(SUSE, (12, 0), (15, 0)),
    },
    Row {
        name: "openSUSE Leap 42",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, No),
        vcpus: vcpus(Yes, Yes, Udev),
        note: "of the age of SLES 12",
        sources: &[SUSE_RULES_15, LINUX_MEMORY],
        applies: linux(SUSE, (42, 0), (43, 0)),
    },
    Row {
        name: "SLES, openSUSE Leap 15",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, Maybe),
        vcpus: vcpus(Yes, Yes, Udev),
        note: "virtio-mem by the kernel's age: none before SP4 (5.14), and none with unplugged-inaccessible=on, the \
               default of machine types from 8.1 on, before SP6 (6.4)",
        sources: &[SUSE_RULES_15, SUSE_RULES, LINUX_VIRTIO_MEM],
        applies: linux(SUSE, (15, 0), (16, 0)),
    },
    Row {
        name: "SLES, openSUSE Leap 16",
        editions: "",
        memory: memory(Yes, Maybe, Varies, Yes, Maybe),
        vcpus: vcpus(Yes, Yes, Varies),
        note: "its kernel (6.12) has all of it; whether the rule of 15 is still there was not seen",
        sources: &[SUSE_RULES, LINUX_VIRTIO_MEM],
        applies: linux(SUSE, (16, 0), (42, 0)),
    },
    Row {
        name: "openEuler",
        editions: "",
        memory: memory(Yes, Maybe, Udev, Yes, Maybe),
        vcpus: vcpus(Yes, Maybe, Udev),
        note: "its guide asks for 4 GiB or more at boot, and for 1 GiB available for each 32 GiB that are added",
        sources: &[OPENEULER_GUIDE, OPENEULER_RULES, LINUX_VIRTIO_MEM],
        applies: Applies {
            ids: &["openEuler", "openeuler"],
            versions: Versions::All,
            editions: &[],
            arches: &[],
        },
    },
    Row {
        name: "FreeBSD",
        editions: "",
        memory: memory(No, No, Never, Yes, No),
        vcpus: vcpus(No, No, Never),
        note: "negative evidence: no driver for DIMMs, virtio-mem or new CPUs was found. The balloon is the only lever \
               (9.0 and later)",
        sources: &[FREEBSD_BALLOON],
        applies: Applies { ids: &["freebsd"], versions: Versions::All, editions: &[], arches: &[] },
    },
];
