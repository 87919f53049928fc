//! The limits of a QEMU process that move with its guest's memory: of its memory control group, where QEMU is alone in
//! it, and of the memory that it may lock. Read, and set for the one act that asks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use scale::observed::Host;
use scale::setting::{Setting, SettingName};
use scale::units::Bytes;
use tokio::time::Instant;

use super::{kib_line, memlock, text};
use crate::ApplyError;
use crate::power::{HostFiles, is_alone};

/// How often it is looked whether memory has been given back.
const LOOK: Duration = Duration::from_millis(20);
/// `CAP_SYS_RESOURCE`, linux/capability.h: who has it may raise any limit.
const CAP_SYS_RESOURCE: u32 = 24;

/// One level of a process's memory control groups that has a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Level {
    /// The file of the limit.
    pub(crate) file: PathBuf,
    /// The limit.
    pub(crate) limit: Bytes,
    /// What it still lets the processes in it take.
    pub(crate) headroom: Bytes,
    /// What they hold and the kernel cannot write back to files.
    held: Bytes,
    /// True for the group that the process itself is in.
    pub(crate) own: bool,
}

/// The limits above a process, its own group first. Page cache that the kernel would give back first (`inactive_file`)
/// counts as free. `membership` is `/proc/PID/cgroup`, `root` the mount of the cgroup file systems; both versions of
/// cgroups are known.
pub(crate) fn levels(root: &Path, membership: &str) -> Vec<Level> {
    let v1 = membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        parts.next()?.split(',').any(|controller| controller == "memory").then(|| parts.next())?
    });
    let v2 = || membership.lines().find_map(|line| line.strip_prefix("0::"));
    let (root, path, names) = match (v1, v2()) {
        (Some(path), _) => {
            (root.join("memory"), path, ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"])
        }
        (None, Some(path)) => {
            // Beside version 1 it is mounted below (systemd's hybrid layout).
            let unified = root.join("unified");
            let root = if unified.is_dir() { unified } else { root.to_owned() };
            (root, path, ["memory.max", "memory.current", ""])
        }
        (None, None) => return Vec::new(),
    };
    let below = Path::new(path.trim_start_matches('/'));
    if below.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        // Outside of our cgroup namespace: not visible here.
        return Vec::new();
    }
    let level = |(nth, level): (usize, &Path)| read(&root.join(level), names, nth == 0);
    below.ancestors().enumerate().filter_map(level).collect()
}

fn read(group: &Path, [limit, used, whole]: [&str; 3], own: bool) -> Option<Level> {
    let number = |name: &str| text(&group.join(name))?.trim().parse::<u64>().ok();
    // Version 2 writes `max` for no limit; version 1 the greatest number of pages (mm/page_counter.c).
    let most = number(limit).filter(|limit| *limit < i64::MAX as u64 / 2)?;
    let stat = text(&group.join("memory.stat")).unwrap_or_default();
    let cache = |kind: &str| {
        let name = format!("{whole}{kind} ");
        let told = stat.lines().find_map(|line| line.strip_prefix(name.as_str())?.trim().parse::<u64>().ok());
        told.unwrap_or(0)
    };
    let used = number(used)?.saturating_sub(cache("inactive_file"));
    let headroom = Bytes::new(most.saturating_sub(used));
    let held = Bytes::new(used.saturating_sub(cache("active_file")));
    Some(Level { file: group.join(limit), limit: Bytes::new(most), headroom, held, own })
}

/// The limits above this process.
pub(crate) fn levels_of(pid: u32) -> Vec<Level> {
    text(Path::new(&format!("/proc/{pid}/cgroup")))
        .map(|membership| levels(Path::new("/sys/fs/cgroup"), &membership))
        .unwrap_or_default()
}

/// The limit that holds this QEMU alone and may be written from here.
pub(crate) fn own(pid: u32) -> Option<Level> {
    let own = levels_of(pid).into_iter().find(|level| level.own)?;
    let group = own.file.parent()?;
    let writable = rustix::fs::access(&own.file, rustix::fs::Access::WRITE_OK).is_ok();
    (writable && is_alone(&HostFiles, group, pid) == Ok(true)).then_some(own)
}

/// Fills in which limits of this QEMU can be moved from here.
pub(crate) fn moving(pid: u32, host: &mut Host) {
    if let Some(own) = own(pid) {
        let others = levels_of(pid).into_iter().filter(|level| !level.own);
        host.cgroup_headroom = others.map(|level| level.headroom).min();
        host.memory_limit = Some(own.limit);
    }
    host.lock_limit = lock_limit(pid);
}

/// True for two readings of one limit: the kernel keeps it in whole pages (mm/page_counter.c, 6.1), of 64 KiB at most.
pub(crate) fn is_near(one: Bytes, other: Bytes) -> bool {
    one.get().abs_diff(other.get()) < 64 << 10
}

/// A limit of this QEMU as it is now.
pub(crate) fn read_back(pid: u32, name: &SettingName) -> Option<Setting> {
    match name {
        SettingName::Memory => own(pid).map(|own| Setting::Memory { most: own.limit }),
        SettingName::Locked => lock_limit(pid).map(|most| Setting::Locked { most }),
        SettingName::CpuPower
        | SettingName::DiskIo { .. }
        | SettingName::NicRate { .. }
        | SettingName::IpRate { .. } => None,
    }
}

/// Moves a limit of this QEMU, from what it is said to be now.
///
/// # Errors
/// Somebody else has changed it, QEMU holds more than it is to be, or the kernel's reason; nothing has changed.
pub(crate) async fn set(
    pid: Option<u32>,
    from: &Setting,
    to: &Setting,
    until: Instant,
) -> Result<(), ApplyError> {
    let name = to.name();
    let refused = |why: String| Err(ApplyError::Refused(why));
    let Some(pid) = pid else { return refused("QEMU's process is not one of this host's".into()) };
    let Some(now) = read_back(pid, &name) else {
        return refused(format!("{name} cannot be moved from here"));
    };
    if !now.stands_between(from, to) {
        let why = format!(
            "{name} is {} and no longer {}: something else has changed it",
            now.value(),
            from.value()
        );
        return refused(why);
    }
    match to {
        Setting::Memory { most } => {
            let group = now.bytes().unwrap_or_default();
            until_held(pid, group, *most, until).await?;
            set_own(pid, *most)
        }
        Setting::Locked { most } => set_lock_limit(pid, *most),
        Setting::CpuPower(_) | Setting::DiskIo { .. } | Setting::NicRate { .. } | Setting::IpRate { .. } => {
            refused(format!("{name} is no limit of memory"))
        }
    }
}

/// Sets the limit of QEMU's own control group. Blocks for as long as the kernel takes.
///
/// # Errors
/// The kernel's reason; nothing has changed.
pub(crate) fn set_own(pid: u32, to: Bytes) -> Result<(), ApplyError> {
    let own = own(pid).ok_or_else(|| {
        ApplyError::Refused("QEMU is not alone in a control group with a limit that may be written".into())
    })?;
    fs::write(&own.file, to.get().to_string())
        .map_err(|error| ApplyError::Refused(format!("{} refuses {to}: {error}", own.file.display())))
}

/// What the process may lock, where that is limited and may be raised from here.
pub(crate) fn lock_limit(pid: u32) -> Option<Bytes> {
    let limit = memlock(&text(Path::new(&format!("/proc/{pid}/limits")))?)?;
    let own = text(Path::new("/proc/self/status"))?;
    let held = own.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(held.trim(), 16).ok()?;
    (held >> CAP_SYS_RESOURCE & 1 == 1).then_some(limit)
}

/// Sets what the process may lock. The hard limit is raised where it is in the way, and never lowered.
///
/// # Errors
/// The kernel's reason; nothing has changed.
pub(crate) fn set_lock_limit(pid: u32, to: Bytes) -> Result<(), ApplyError> {
    let refused = |why: &str| ApplyError::Refused(format!("QEMU's limit of locked memory stays: {why}"));
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| refused("no such process"))?;
    let hard = |rlimit: Rlimit| rlimit.maximum.map(|hard| hard.max(to.get()));
    let limits = text(Path::new(&format!("/proc/{pid}/limits"))).ok_or_else(|| refused("it is hidden"))?;
    let maximum = hard(Rlimit { current: None, maximum: hard_memlock(&limits) });
    let new = Rlimit { current: Some(to.get()), maximum };
    prlimit(Some(id), Resource::Memlock, new).map(drop).map_err(|error| refused(&error.to_string()))
}

/// The hard limit of locked memory in `/proc/PID/limits`; nothing where there is none.
fn hard_memlock(limits: &str) -> Option<u64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    values.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until the process, and its group with the limit `group`, hold no more than `to`. QEMU unmaps a backend's memory
/// a moment after it is deleted (RCU; util/rcu.c, 7.2 and 10.0), and a limit below what is held ends it (cgroups of
/// version 2).
///
/// # Errors
/// It held more until the end.
pub(crate) async fn until_held(pid: u32, group: Bytes, to: Bytes, until: Instant) -> Result<(), ApplyError> {
    loop {
        let held = held(pid, group);
        if held <= to {
            return Ok(());
        }
        if Instant::now() + LOOK >= until {
            return Err(ApplyError::Refused(format!("QEMU holds {held}: a limit of {to} would end it")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What the process has of memory that is not a file's, and what its group with this limit counts beside: other
/// processes' and the kernel's for them.
fn held(pid: u32, group: Bytes) -> Bytes {
    let status = text(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default();
    let part = |name| kib_line(&status, name).unwrap_or_default();
    let level = levels_of(pid).into_iter().find(|level| is_near(level.limit, group));
    (part("RssAnon") + part("RssShmem")).max(level.map_or(Bytes::ZERO, |level| level.held))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        }
    }

    fn plain(levels: &[Level]) -> Vec<(u64, u64, bool)> {
        levels.iter().map(|level| (level.limit.get(), level.headroom.get(), level.own)).collect()
    }

    #[test]
    fn each_level_of_a_cgroup_is_told_and_cache_is_not_use() {
        let root = tempfile::tempdir().expect("a folder");
        write(
            root.path(),
            &[
                ("vm.slice/memory.max", "1000000\n"),
                ("vm.slice/memory.current", "900000\n"),
                ("vm.slice/memory.stat", "anon 500000\ninactive_file 300000\nactive_file 50000\n"),
                ("vm.slice/web1/memory.max", "max\n"),
                ("vm.slice/web1/memory.current", "700000\n"),
                ("vm.slice/web2/memory.max", "70000\n"),
                ("vm.slice/web2/memory.current", "50000\n"),
            ],
        );
        let of = |membership| plain(&levels(root.path(), membership));
        assert_eq!(of("0::/vm.slice/web1\n"), [(1_000_000, 400_000, false)]);
        assert_eq!(levels(root.path(), "0::/vm.slice/web1\n")[0].held, Bytes::new(550_000));
        assert_eq!(of("0::/vm.slice/web2\n"), [(70_000, 20_000, true), (1_000_000, 400_000, false)]);
        assert_eq!(of("0::/elsewhere\n"), []);
        assert_eq!(of("0::/../../vm.slice\n"), []);
    }

    #[test]
    fn version_1_of_cgroups_is_read_too_and_its_huge_limit_is_none() {
        let root = tempfile::tempdir().expect("a folder");
        write(
            root.path(),
            &[
                ("memory/vm/memory.limit_in_bytes", "5000\n"),
                ("memory/vm/memory.usage_in_bytes", "2000\n"),
                ("memory/vm/memory.stat", "inactive_file 9\ntotal_inactive_file 500\n"),
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/memory.usage_in_bytes", "77\n"),
            ],
        );
        let of = |membership| plain(&levels(root.path(), membership));
        assert_eq!(of("5:cpu,cpuacct:/vm\n4:memory:/vm\n0::/\n"), [(5000, 3500, true)]);
        assert_eq!(of("4:memory:/\n"), []);
    }

    #[test]
    fn version_2_is_found_beside_version_1() {
        let root = tempfile::tempdir().expect("a folder");
        write(
            root.path(),
            &[
                ("unified/vm/memory.max", "9000\n"),
                ("unified/vm/memory.current", "4000\n"),
                ("vm/memory.max", "1\n"),
            ],
        );
        assert_eq!(plain(&levels(root.path(), "3:cpu:/vm\n0::/vm\n")), [(9000, 5000, true)]);
    }

    #[test]
    fn a_hard_limit_is_read_beside_the_soft_one() {
        let limits = |hard| format!("Limit  Soft  Hard  Units\nMax locked memory  7  {hard}  bytes\n");
        assert_eq!((hard_memlock(&limits("9")), hard_memlock(&limits("unlimited"))), (Some(9), None));
    }

    #[tokio::test]
    async fn a_limit_below_what_is_held_is_refused_in_time() {
        let now = Instant::now();
        let own = std::process::id();
        let refused = until_held(own, Bytes::ZERO, Bytes::new(1), now).await;
        assert!(
            matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("would end it")),
            "{refused:?}"
        );
        assert_eq!(until_held(own, Bytes::ZERO, Bytes::gib(1 << 20), now).await, Ok(()));
    }
}
