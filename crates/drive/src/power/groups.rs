//! Control groups as a host shows them, in both of their versions: where they are mounted, which one a thread is in,
//! and whose it is. It writes nothing, and it guesses nothing: what cannot be read is an error with its path.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

/// The most threads or processes of a group that are looked at.
const MOST: usize = 65_536;

/// The files of one kernel's /proc and control groups. A trait, so that the same rules are tried on another kernel than
/// the one that the tests run on. Every call may block for as long as the kernel takes.
pub trait Files {
    /// The content of a file.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, path: &Path) -> io::Result<String>;
    /// Writes to a file that exists, in one call.
    ///
    /// # Errors
    /// The kernel's, with its reason.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
    /// Makes a group.
    ///
    /// # Errors
    /// The kernel's.
    fn make(&self, path: &Path) -> io::Result<()>;
    /// Removes a group, which has neither threads nor groups in it.
    ///
    /// # Errors
    /// The kernel's.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the groups in a group.
    ///
    /// # Errors
    /// The kernel's.
    fn groups(&self, path: &Path) -> io::Result<Vec<String>>;
    /// True where groups may be made in this one.
    fn writable(&self, path: &Path) -> bool;
}

/// This machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn read(&self, path: &Path) -> io::Result<String> {
        fs::read_to_string(path)
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // Not created where it is not there: a kernel without the file has not the feature.
        io::Write::write_all(&mut fs::File::options().write(true).open(path)?, text.as_bytes())
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn groups(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)?.take(MOST) {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    fn writable(&self, path: &Path) -> bool {
        rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
    }
}

/// Which control groups schedule CPU time here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// `cpu.cfs_quota_us` and `cpu.shares`; threads of one process may be in different groups.
    V1,
    /// `cpu.max` and `cpu.weight`; threads of one process may be in different groups of a threaded subtree alone.
    V2,
}

/// Where the groups with the CPU controller are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) version: Version,
    point: PathBuf,
    /// Which group is mounted there.
    root: String,
}

impl Mount {
    /// The version 1 hierarchy of the CPU controller where there is one, else version 2's.
    pub(super) fn find(files: &impl Files) -> Result<Mount, String> {
        let path = Path::new("/proc/self/mountinfo");
        let text = files.read(path).map_err(|error| unread(path, &error))?;
        let mounts = || text.lines().take(MOST).filter_map(Mount::of_line);
        let first = mounts().find(|mount| mount.version == Version::V1);
        first.or_else(|| mounts().next()).ok_or_else(|| "no control groups are mounted here".to_owned())
    }

    /// proc_pid_mountinfo(5): `36 35 98:0 /root /point options optional... - type source super-options`.
    fn of_line(line: &str) -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let version = match kind {
            "cgroup" if options.split(',').any(|option| option == "cpu") => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        Some(Mount { version, point: PathBuf::from(unescaped(point)), root: unescaped(root) })
    }

    /// The group that a `cgroup` file of /proc names, as a directory.
    pub(super) fn group(&self, membership: &str) -> Result<PathBuf, String> {
        let path = membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let is_it = match self.version {
                Version::V1 => controllers.split(',').any(|controller| controller == "cpu"),
                Version::V2 => number == "0" && controllers.is_empty(),
            };
            is_it.then_some(path)
        });
        let path = path.ok_or("the kernel names no control group of it")?;
        let below = Path::new(path).strip_prefix(&self.root).map_err(|_| outside(path))?;
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(outside(path));
        }
        Ok(if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }

    /// The group and those above it, as far up as they are mounted here.
    pub(super) fn upwards<'a>(&'a self, group: &'a Path) -> impl Iterator<Item = &'a Path> {
        group.ancestors().take_while(|group| group.starts_with(&self.point))
    }

    /// True for the one group of the kernel that has no limits: all threads are in it at first.
    pub(super) fn is_root(&self, files: &impl Files, group: &Path) -> bool {
        match self.version {
            // Only the root has this file (kernel/cgroup/cgroup-v1.c, 6.1).
            Version::V1 => files.read(&group.join("cgroup.sane_behavior")).is_ok(),
            // Only the root has it not (Documentation/admin-guide/cgroup-v2.rst).
            Version::V2 => files.read(&group.join("cgroup.type")).is_err(),
        }
    }

    /// The file that lists a group's threads, and moves one that is written to it there.
    pub(super) fn threads(&self, group: &Path) -> PathBuf {
        group.join(match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        })
    }
}

fn outside(path: &str) -> String {
    format!("its control group {path} is not among those that are mounted here")
}

/// True where all processes in the group are `pid`, or threads of the kernel's that work for it.
pub(crate) fn is_alone(files: &impl Files, group: &Path, pid: u32) -> Result<bool, String> {
    let path = group.join("cgroup.procs");
    let listed = files.read(&path).map_err(|error| unread(&path, &error))?;
    let ours = |other: &str| {
        let comm = || files.read(Path::new(&format!("/proc/{other}/comm"))).unwrap_or_default();
        other == pid.to_string() || serves(comm().trim(), pid)
    };
    Ok(listed.lines().take(MOST).all(|line| ours(line.trim())))
}

/// vhost's and KVM's threads join the groups of the process that they serve (drivers/vhost/vhost.c before 6.4,
/// arch/x86/kvm/i8254.c and mmu.c, 6.1).
fn serves(name: &str, pid: u32) -> bool {
    name == format!("vhost-{pid}") || name == format!("kvm-pit/{pid}") || name.starts_with("kvm-nx-lpage-re")
}

/// A number in a group's file.
pub(super) fn number(files: &impl Files, path: &Path) -> Result<i64, String> {
    let text = files.read(path).map_err(|error| unread(path, &error))?;
    text.trim().parse().map_err(|_| format!("{} holds no number", path.display()))
}

/// Why a file could not be read.
pub(super) fn unread(path: &Path, error: &io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        return format!("there is no {}", path.display());
    }
    format!("{} cannot be read: {error}", path.display())
}

/// The kernel writes space, tab, line end and backslash as `\040` and the like.
fn unescaped(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => text.push(char::from(code)),
            None => text.push('\\'),
        }
        rest = code.and_then(|_| after.get(3..)).unwrap_or(after);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "30 24 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                        33 24 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct\n";

    fn mount(line: &str) -> Mount {
        Mount::of_line(line).expect("a mount")
    }

    #[test]
    fn the_version_with_the_cpu_controller_is_taken() {
        let found: Vec<Version> =
            BOTH.lines().filter_map(Mount::of_line).map(|mount| mount.version).collect();
        assert_eq!(found, [Version::V2, Version::V1]);
        assert_eq!(Mount::of_line("1 2 0:3 / /m rw - cgroup cgroup rw,memory"), None);
        assert_eq!(Mount::of_line("1 2 0:3 / /tmp rw - tmpfs tmpfs rw"), None);
    }

    #[test]
    fn a_group_is_found_below_the_part_that_is_mounted() {
        let membership = "4:cpu,cpuacct:/pod/vm 1\n0::/pod/vm 1\n";
        let whole = mount("1 2 0:3 / /cg\\0401 rw - cgroup2 c rw");
        assert_eq!(whole.group(membership).expect("it is"), Path::new("/cg 1/pod/vm 1"));
        let part = mount("1 2 0:3 /pod /cpu rw - cgroup c rw,cpu");
        let group = part.group(membership).expect("it is");
        assert_eq!(group, Path::new("/cpu/vm 1"));
        assert_eq!(part.upwards(&group).collect::<Vec<_>>(), [Path::new("/cpu/vm 1"), Path::new("/cpu")]);
        for elsewhere in ["4:cpu:/other\n", "4:cpu:/../vm\n", "4:memory:/pod\n"] {
            assert!(part.group(elsewhere).is_err(), "{elsewhere}");
        }
    }

    #[test]
    fn the_kernels_threads_for_a_machine_are_no_strangers() {
        assert!(serves("vhost-7", 7) && serves("kvm-pit/7", 7) && serves("kvm-nx-lpage-recovery-7", 7));
        assert!(!serves("vhost-71", 7) && !serves("swtpm", 7));
    }
}
