//! The host around a QEMU process, from /proc and /sys. Every fact is optional: what cannot be read (another user's
//! process, another PID namespace, another kernel) is absent, never guessed. Nothing is changed.

pub mod group;
pub(crate) mod limits;
mod pools;

pub use pools::{pools, usual_huge_page};

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use scale::observed::Host;
use scale::units::Bytes;

use crate::power::HostFiles;

/// The most open files of a process that are looked at.
const MOST_FILES: usize = 65_536;
/// QEMU's own default where the parameter cannot be read (hw/virtio/vhost-backend.c, 7.2).
const VHOST_REGIONS: u32 = 64;
/// `HUGETLBFS_MAGIC`, statfs(2).
const HUGETLBFS: u64 = 0x9584_58f6;

/// Looks at the host. `pid` is the QEMU process. What is left of memory tells [`pools`].
pub fn look(pid: Option<u32>) -> Host {
    let files = pid.map(open_files).unwrap_or_default();
    let vhost = files.iter().any(|file| file.starts_with("/dev/vhost-"));
    let of_pid = |file: &str| text(Path::new(&format!("/proc/{}/{file}", pid?)));
    Host {
        qemu_pid: pid,
        available: text(Path::new("/proc/meminfo")).and_then(|text| kib_line(&text, "MemAvailable")),
        cgroup_headroom: pid.and_then(|pid| group::headroom(&HostFiles, pid)),
        memory_limit: None,
        locks: false,
        lock_limit: None,
        vhost_regions: vhost.then(|| {
            let told = text(Path::new("/sys/module/vhost/parameters/max_mem_regions"));
            told.and_then(|text| text.trim().parse().ok()).unwrap_or(VHOST_REGIONS)
        }),
        vfio: files.iter().any(|file| file.starts_with("/dev/vfio/") || file.starts_with("/dev/iommu")),
        memlock_headroom: of_pid("limits").and_then(|limits| {
            let locked = of_pid("status").and_then(|status| kib_line(&status, "VmLck"));
            Some(memlock(&limits)?.saturating_sub(locked.unwrap_or(Bytes::ZERO)))
        }),
        pools: Vec::new(),
    }
}

/// How many physical address bits this host's CPU has, by /proc/cpuinfo; x86 alone tells there.
pub fn address_bits() -> Option<u32> {
    let text = text(Path::new("/proc/cpuinfo"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("address sizes"))?;
    line.trim_start_matches([' ', '\t', ':']).split_once(" bits physical")?.0.parse().ok()
}

/// The size of this host's transparent huge pages, where it has any.
pub fn transparent_huge_page() -> Option<Bytes> {
    let told = text(Path::new("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"))?;
    told.trim().parse().ok().map(Bytes::new)
}

/// The process, if it is a QEMU: who made a monitor's socket may be a manager that passed it on.
pub fn qemu(pid: u32) -> Option<u32> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let first = || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(line.split(|byte| *byte == 0).next()?).into_owned()))
    };
    let program = program.or_else(first)?;
    let name = program.file_name()?.to_string_lossy().into_owned();
    (name.contains("qemu") || name.contains("kvm")).then_some(pid)
}

/// The mount and page size of the hugetlbfs that holds `path`, as the process sees it; nothing if it is on another
/// file system or cannot be looked at. `path` may be the mount, a folder below it or a file in it.
pub fn hugetlbfs(path: &str, pid: Option<u32>) -> Option<(String, Bytes)> {
    // QEMU may live in a mount namespace of its own.
    let seen = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/root{path}"))).filter(|path| path.exists());
    let seen = seen.unwrap_or_else(|| PathBuf::from(path));
    let told = statfs(&seen).ok()?;
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "the types differ between architectures"
    )]
    let (kind, page) = (told.f_type as u64 & 0xffff_ffff, told.f_bsize as u64);
    if kind != HUGETLBFS {
        return None;
    }
    let folder = if seen.is_dir() { Path::new(path) } else { Path::new(path).parent()? };
    Some((folder.to_str()?.to_owned(), Bytes::new(page)))
}

/// The command line of a process, NUL-separated; empty where hidden.
pub fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The thread of QEMU's first vCPU, where its threads have names (`CPU 0/KVM`, `CPU 0/TCG`: accel/, 7.2 and 10.0; libvirt
/// has it name them).
pub fn first_vcpu(pid: u32) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.take(MOST_FILES).flatten();
    let mut ids = threads.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        text(Path::new(&format!("/proc/{pid}/task/{id}/comm"))).is_some_and(|name| name.starts_with("CPU 0/"))
    })
}

/// When a process started, in ticks since this host's boot (proc_pid_stat(5)).
pub fn started(pid: u32) -> Option<u64> {
    started_by(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 22nd field of `/proc/PID/stat`. The 2nd is the program's name in brackets, which may hold anything.
fn started_by(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.take(MOST_FILES).filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The value in bytes of a line such as `VmLck:       64 kB`.
pub(crate) fn kib_line(text: &str, name: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(Bytes::new)
}

/// The soft limit of locked memory in `/proc/PID/limits`; nothing where there is none.
pub(crate) fn memlock(limits: &str) -> Option<Bytes> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    values.split_whitespace().next()?.parse().ok().map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_name_does_not_hide_when_it_started() {
        let stat =
            |name: &str| format!("42 ({name}) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21");
        assert_eq!(started_by(&stat("qemu-system-x86")), Some(4242));
        assert_eq!(started_by(&stat("a) S 1 (b")), Some(4242));
        assert_eq!(started_by("42 qemu S 1"), None);
        assert!(started(std::process::id()).is_some_and(|ticks| ticks > 0));
    }

    #[test]
    fn no_limit_of_locked_memory_is_no_fact() {
        let limits =
            |soft| format!("Limit  Soft  Hard  Units\nMax locked memory  {soft}  unlimited  bytes\n");
        assert_eq!(memlock(&limits("8388608")), Some(Bytes::mib(8)));
        assert_eq!(memlock(&limits("unlimited")), None);
        assert_eq!(kib_line("VmPeak:\t  9 kB\nVmLck:\t      64 kB\n", "VmLck"), Some(Bytes::new(64 << 10)));
    }

    #[test]
    fn our_own_process_has_a_host_and_is_no_qemu() {
        let host = look(Some(std::process::id()));
        assert!(host.available.is_some_and(|bytes| !bytes.is_zero()));
        assert!(!host.vfio && host.vhost_regions.is_none() && host.pools.is_empty());
        assert_eq!(qemu(std::process::id()), None);
        assert_eq!(hugetlbfs("/proc", None), None);
    }
}
