//! Where the rows of the support matrix are from.

/// A document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// What it is, and which part of it.
    pub title: &'static str,
    /// Its address.
    pub url: &'static str,
}

macro_rules! sources {
    ($($name:ident = $title:literal, $url:literal;)*) => {
        $(pub(super) const $name: Source = Source { title: $title, url: $url };)*
    };
}

sources! {
    MS_HOT_ADD = "Microsoft, Call to action for hot-add memory support in Windows Server",
        "https://msdn.microsoft.com/en-us/library/windows/hardware/dn613896";
    OVIRT_VCPUS = "oVirt, Virtual Machine Management Guide, Operating System Support Matrix for vCPU Hot Plug",
        "https://www.ovirt.org/documentation/virtual_machine_management_guide/";
    OVIRT_MEMORY = "oVirt, Virtual Machine Management Guide, Hot Unplugging Virtual Memory",
        "https://www.ovirt.org/documentation/virtual_machine_management_guide/";
    QE_MEMORY = "tp-qemu (Red Hat's test suite), hotplug_memory.cfg: guests left out of DIMM tests",
        "https://github.com/autotest/tp-qemu/blob/master/qemu/tests/cfg/hotplug_memory.cfg";
    QE_BALLOON = "tp-qemu, balloon_memhp.cfg: guests left out of tests of the balloon with DIMMs",
        "https://github.com/autotest/tp-qemu/blob/master/qemu/tests/cfg/balloon_memhp.cfg";
    QE_VCPUS = "tp-qemu, cpu_device_hotpluggable.cfg: guests left out of vCPU tests; removal on Linux only",
        "https://github.com/autotest/tp-qemu/blob/master/qemu/tests/cfg/cpu_device_hotpluggable.cfg";
    QE_VIRTIO_MEM = "tp-qemu, hotplug_virtio_mem.cfg: no RHEL 6, 7, 8",
        "https://github.com/autotest/tp-qemu/blob/master/qemu/tests/cfg/hotplug_virtio_mem.cfg";
    QE_VIOMEM = "tp-qemu, pull request 4226: virtio-mem on Windows Server 2025",
        "https://github.com/autotest/tp-qemu/pull/4226";
    NEVER_EJECTS = "cloud-hypervisor, issue 1800: Windows never answers an ACPI eject request for memory",
        "https://github.com/cloud-hypervisor/cloud-hypervisor/issues/1800";
    VIOMEM = "virtio-win, issue 1000: a virtio-mem driver for Windows since September 2024",
        "https://github.com/virtio-win/kvm-guest-drivers-windows/issues/1000";
    VIOMEM_HYPERVISOR = "virtio-win, issue 1607: plugged and not online while the Windows hypervisor runs",
        "https://github.com/virtio-win/kvm-guest-drivers-windows/issues/1607";
    HID_BUTTON = "Red Hat Bugzilla 1445603: Windows Server 2016 needs the HID button driver for a new vCPU",
        "https://bugzilla.redhat.com/show_bug.cgi?id=1445603";
    BSOD_2019 = "QEMU, issue 2669: a new vCPU stops Windows Server 2019 where SGX is passed through",
        "https://gitlab.com/qemu-project/qemu/-/issues/2669";
    RHEL_7_RULES = "systemd of RHEL 7, pull request 281: the memory hot-plug policy",
        "https://github.com/lnykryn/systemd-rhel/pull/281";
    RHEL_8_RULES = "systemd of RHEL 8, issue 173: the rule ignores auto_online_blocks",
        "https://github.com/redhat-plumbers/systemd-rhel8/issues/173";
    RHEL_9_VIRTIO_MEM = "CentOS Stream 9 kernel, merge request 2877: virtio-mem no longer taints the kernel",
        "https://gitlab.com/redhat/centos-stream/src/kernel/centos-stream-9/-/merge_requests/2877";
    DEBIAN_DEFAULT_ONLINE = "Debian bug 1049901: memory online by default, from kernel 6.5 on",
        "https://bugs.debian.org/1049901";
    DEBIAN_RULES = "Debian and Ubuntu, systemd packaging, 40-vm-hotadd.rules: for Hyper-V and Xen alone",
        "https://salsa.debian.org/systemd-team/systemd";
    SUSE_RULES_15 = "openSUSE Leap 15.0, systemd, 80-hotplug-cpu-mem.rules",
        "https://build.opensuse.org/projects/openSUSE:Leap:15.0/packages/systemd/files/80-hotplug-cpu-mem.rules";
    SUSE_RULES = "SLE 15 SP4, systemd, 80-hotplug-cpu-mem.rules",
        "https://build.opensuse.org/projects/SUSE:SLE-15-SP4:GA/packages/systemd.27120/files/80-hotplug-cpu-mem.rules";
    OPENEULER_RULES = "openEuler, systemd, udev-40-generic.rules",
        "https://gitcode.com/src-openeuler/systemd/blob/master/udev-40-generic.rules";
    OPENEULER_GUIDE = "openEuler, guide to memory hot-plug: constraints",
        "https://juejin.cn/post/7238148905095807036";
    LINUX_MEMORY = "Linux, Documentation/admin-guide/mm/memory-hotplug.rst",
        "https://docs.kernel.org/admin-guide/mm/memory-hotplug.html";
    LINUX_VIRTIO_MEM = "Linux, commit 61082ad6a6e1 (5.16): virtio-mem knows unplugged memory that cannot be read",
        "https://git.kernel.org/linus/61082ad6a6e1f999eef7e7e90046486c87933b1e";
    LINUX_HOTREMOVE = "Linux, commit 24d335ca3606 (3.9): memory is removed on x86-64",
        "https://git.kernel.org/linus/24d335ca3606b610ec69c66a1e42760c96d89470";
    QEMU_ARM = "QEMU, hw/arm/virt.c (7.2, 10.0): no vCPU hot-plug",
        "https://gitlab.com/qemu-project/qemu/-/blob/v10.0.0/hw/arm/virt.c";
    FREEBSD_BALLOON = "FreeBSD, virtio_balloon(4): the only driver for memory that comes and goes, from 9.0 on",
        "https://man.freebsd.org/cgi/man.cgi?query=virtio_balloon&sektion=4";
}
