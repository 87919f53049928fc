//! The memory control groups of a process, in both versions: which limits are above it, what they leave, and its own
//! group's limit moved. Of all others nothing is written. Over [`Files`], so that the same code runs on a guest's kernel.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use scale::units::Bytes;
use tokio::time::Instant;

use super::kib_line;
use crate::ApplyError;
use crate::power::{Files, is_alone};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// A file that every group has.
const PROCESSES: &str = "cgroup.procs";
/// How often it is looked whether memory has been given back.
const LOOK: Duration = Duration::from_millis(20);

/// One level of a process's memory control groups that has a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Level {
    /// The file of the limit.
    file: PathBuf,
    /// The limit.
    pub(crate) limit: Bytes,
    /// What it still lets the processes in it take.
    pub(crate) headroom: Bytes,
    /// What they hold and the kernel cannot write back to files.
    held: Bytes,
    /// True for the group that the process itself is in.
    pub(crate) own: bool,
}

/// The limit that holds this process alone and may be written from here.
pub fn limit(files: &impl Files, pid: u32) -> Option<Bytes> {
    own(files, pid).map(|own| own.limit)
}

/// What the limits above this process still let it take: the least of them. Nothing where there is none.
pub fn headroom(files: &impl Files, pid: u32) -> Option<Bytes> {
    levels_of(files, pid).into_iter().map(|level| level.headroom).min()
}

/// Moves the limit of the process's own group. To less than what it holds it is moved once that has been given back.
/// Blocks for as long as the kernel takes.
///
/// # Errors
/// The process holds more until the end, or the kernel's reason; nothing has changed.
pub async fn set_limit(files: &impl Files, pid: u32, to: Bytes, until: Instant) -> Result<(), ApplyError> {
    let own = own(files, pid).ok_or_else(|| {
        ApplyError::Refused("QEMU is not alone in a control group with a limit that may be written".into())
    })?;
    until_held(files, pid, own.limit, to, until).await?;
    files
        .write(&own.file, &to.get().to_string())
        .map_err(|error| ApplyError::Refused(format!("{} refuses {to}: {error}", own.file.display())))
}

/// True for two readings of one limit: the kernel keeps it in whole pages (mm/page_counter.c, 6.1), of 64 KiB at most.
pub(crate) fn is_near(one: Bytes, other: Bytes) -> bool {
    one.get().abs_diff(other.get()) < 64 << 10
}

/// The limits above this process.
pub(crate) fn levels_of(files: &impl Files, pid: u32) -> Vec<Level> {
    files
        .read(Path::new(&format!("/proc/{pid}/cgroup")))
        .map(|membership| levels(files, Path::new(MOUNT), &membership))
        .unwrap_or_default()
}

/// The level that holds this process alone and may be written from here.
fn own(files: &impl Files, pid: u32) -> Option<Level> {
    let own = levels_of(files, pid).into_iter().find(|level| level.own)?;
    let group = own.file.parent()?;
    (files.writable(&own.file) && is_alone(files, group, pid) == Ok(true)).then_some(own)
}

/// The limits above a process, its own group first. Page cache that the kernel would give back first (`inactive_file`)
/// counts as free. `membership` is `/proc/PID/cgroup`, `root` the mount of the cgroup file systems; both versions of
/// cgroups are known.
fn levels(files: &impl Files, root: &Path, membership: &str) -> Vec<Level> {
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
            let is_beside = files.read(&unified.join(PROCESSES)).is_ok();
            let root = if is_beside { unified } else { root.to_owned() };
            (root, path, ["memory.max", "memory.current", ""])
        }
        (None, None) => return Vec::new(),
    };
    let below = Path::new(path.trim_start_matches('/'));
    if below.components().any(|part| !matches!(part, Component::Normal(_))) {
        // Outside of our cgroup namespace: not visible here.
        return Vec::new();
    }
    let level = |(nth, level): (usize, &Path)| read(files, &root.join(level), names, nth == 0);
    below.ancestors().enumerate().filter_map(level).collect()
}

fn read(files: &impl Files, group: &Path, [limit, used, whole]: [&str; 3], own: bool) -> Option<Level> {
    let number = |name: &str| files.read(&group.join(name)).ok()?.trim().parse::<u64>().ok();
    // Version 2 writes `max` for no limit; version 1 the greatest number of pages (mm/page_counter.c).
    let most = number(limit).filter(|limit| *limit < i64::MAX as u64 / 2)?;
    let stat = files.read(&group.join("memory.stat")).unwrap_or_default();
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

/// Waits until the process, and its group with the limit `group`, hold no more than `to`. QEMU unmaps a backend's memory
/// a moment after it is deleted (RCU; util/rcu.c, 7.2 and 10.0), and a limit below what is held ends it (cgroups of
/// version 2).
///
/// # Errors
/// It held more until the end.
pub(crate) async fn until_held(
    files: &impl Files,
    pid: u32,
    group: Bytes,
    to: Bytes,
    until: Instant,
) -> Result<(), ApplyError> {
    loop {
        let held = held(files, pid, group);
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
fn held(files: &impl Files, pid: u32, group: Bytes) -> Bytes {
    let status = files.read(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default();
    let part = |name| kib_line(&status, name).unwrap_or_default();
    let level = levels_of(files, pid).into_iter().find(|level| is_near(level.limit, group));
    (part("RssAnon") + part("RssShmem")).max(level.map_or(Bytes::ZERO, |level| level.held))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::HostFiles;
    use std::fs;

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
        let of = |membership| plain(&levels(&HostFiles, root.path(), membership));
        assert_eq!(of("0::/vm.slice/web1\n"), [(1_000_000, 400_000, false)]);
        assert_eq!(levels(&HostFiles, root.path(), "0::/vm.slice/web1\n")[0].held, Bytes::new(550_000));
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
        let of = |membership| plain(&levels(&HostFiles, root.path(), membership));
        assert_eq!(of("5:cpu,cpuacct:/vm\n4:memory:/vm\n0::/\n"), [(5000, 3500, true)]);
        assert_eq!(of("4:memory:/\n"), []);
    }

    #[test]
    fn version_2_is_found_beside_version_1() {
        let root = tempfile::tempdir().expect("a folder");
        write(
            root.path(),
            &[
                ("unified/cgroup.procs", "1\n"),
                ("unified/vm/memory.max", "9000\n"),
                ("unified/vm/memory.current", "4000\n"),
                ("vm/memory.max", "1\n"),
            ],
        );
        assert_eq!(plain(&levels(&HostFiles, root.path(), "3:cpu:/vm\n0::/vm\n")), [(9000, 5000, true)]);
    }

    #[tokio::test]
    async fn a_limit_below_what_is_held_is_refused_in_time() {
        let now = Instant::now();
        let own = std::process::id();
        let refused = until_held(&HostFiles, own, Bytes::ZERO, Bytes::new(1), now).await;
        assert!(
            matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("would end it")),
            "{refused:?}"
        );
        assert_eq!(until_held(&HostFiles, own, Bytes::ZERO, Bytes::gib(1 << 20), now).await, Ok(()));
    }
}
