//! CPU power of a machine on plain QEMU: a hard limit and a weight for its vCPU threads, by control groups.
//!
//! ```text
//! QEMU's group                 its weight is the machine's, where QEMU is alone in it
//!   supple-vcpus-PID           the limit of all vCPU threads together; the weight, where QEMU is not alone
//! ```
//! QEMU's other threads stay outside of the limit, so that its monitor and its I/O answer under any. A group that other
//! processes are in is never written to: version 1 can hold a group of ours below it, version 2 cannot. A power that is
//! none (no limit, usual weight) has no group, and what was made for one is taken away again.

use std::io;
use std::path::{Path, PathBuf};

use scale::setting::{CpuPower, Millicpus, Setting, Weight};

use crate::ApplyError;
use groups::{Mount, number, unread};

mod groups;

pub use groups::{Files, HostFiles};
pub(crate) use groups::{Version, is_alone};

/// The period of a limit, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;
/// What our groups are called, before the process id of the machine's QEMU.
const NAME: &str = "supple-vcpus-";
/// A machine's power before anything is set.
pub const FREE: CpuPower = CpuPower { limit: None, weight: Weight::USUAL };

/// The process of a machine, and the threads that run its vCPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threads {
    /// QEMU.
    pub pid: u32,
    /// Its vCPUs' threads, as the kernel numbers them here.
    pub vcpus: Vec<u32>,
}

/// What the vCPUs of a machine may take now: the tightest limit of their group and of all above it. Where one of their
/// threads is outside of the group that limits the others, the machine as a whole has no limit of ours.
///
/// # Errors
/// Why it cannot be told or could not be changed here, in words.
pub fn read(files: &impl Files, threads: &Threads) -> Result<CpuPower, String> {
    Groups::find(files, threads)?.power()
}

/// Sets both, from what they are said to be now.
///
/// # Errors
/// `Refused`: nothing has changed. `Unknown`: it broke midway, and what was done could not be taken back.
pub fn set(files: &impl Files, threads: &Threads, from: CpuPower, to: CpuPower) -> Result<(), ApplyError> {
    let mut groups = Groups::find(files, threads).map_err(ApplyError::Refused)?;
    let now = groups.power().map_err(ApplyError::Refused)?;
    if now == to && groups.strays.is_empty() {
        return Ok(());
    }
    let (was, is, asked) = (Setting::CpuPower(from), Setting::CpuPower(now), Setting::CpuPower(to));
    if !is.stands_between(&was, &asked) {
        let why = format!("CPU power is {now} and no longer {from}: something else has changed it");
        return Err(ApplyError::Refused(why));
    }
    let own = groups.fits(to).map_err(ApplyError::Refused)?;
    groups.sweep();
    let stood = groups.stands;
    groups.establish(own, to.weight).map_err(|why| match stood {
        true => ApplyError::Unknown(why),
        false => match groups.take_back(now.weight) {
            Ok(()) => ApplyError::Refused(why),
            Err(left) => ApplyError::Unknown(format!("{why}; it could not be taken back: {left}")),
        },
    })
}

/// Which control groups schedule CPU time here.
///
/// # Errors
/// None do, in words.
#[cfg(feature = "libvirt")]
pub(crate) fn version(files: &impl Files) -> Result<Version, String> {
    Mount::find(files).map(|mount| mount.version)
}

/// True where a group of ours holds vCPU threads of this process.
pub fn is_held(files: &impl Files, pid: u32) -> bool {
    let home = Mount::find(files).and_then(|mount| home(files, &mount, pid));
    home.is_ok_and(|home| files.groups(&home).is_ok_and(|groups| groups.contains(&name(pid))))
}

/// Has vCPU threads that are new join the group that holds the others, if there is one.
///
/// # Errors
/// Why they could not, in words.
pub fn follow(files: &impl Files, threads: &Threads) -> Result<(), String> {
    let groups = Groups::find(files, threads)?;
    if groups.stands { groups.gather() } else { Ok(()) }
}

/// The groups of one machine.
struct Groups<'a, F> {
    files: &'a F,
    mount: Mount,
    threads: &'a Threads,
    /// QEMU's own.
    home: PathBuf,
    ours: PathBuf,
    /// True where `ours` is there.
    stands: bool,
    /// vCPU threads that are not in `ours`.
    strays: Vec<u32>,
    /// True where QEMU is alone in its group.
    alone: bool,
}

impl<'a, F: Files> Groups<'a, F> {
    fn find(files: &'a F, threads: &'a Threads) -> Result<Self, String> {
        let mount = Mount::find(files)?;
        let pid = threads.pid;
        let home = home(files, &mount, pid)?;
        let ours = home.join(name(pid));
        let mut strays = Vec::new();
        for thread in &threads.vcpus {
            let path = PathBuf::from(format!("/proc/{pid}/task/{thread}/cgroup"));
            let text = files.read(&path).map_err(|_| {
                format!(
                    "QEMU's vCPU thread {thread} is not one of process {pid} here: it is in another container"
                )
            })?;
            let group = mount.group(&text)?;
            if group == home {
                strays.push(*thread);
            } else if group != ours {
                let group = group.display();
                return Err(format!(
                    "another manager keeps QEMU's vCPU thread {thread}, in the control group {group}"
                ));
            }
        }
        let stands = files.groups(&home).is_ok_and(|names| names.contains(&name(pid)));
        let is_root = mount.is_root(files, &home);
        let alone = !is_root && is_alone(files, &home, pid)?;
        if mount.version == Version::V2 {
            grants(files, &home, is_root, alone)?;
        }
        if !files.writable(&home) {
            return Err(format!("the control group {} cannot be written to by this user", home.display()));
        }
        Ok(Groups { files, mount, threads, home, ours, stands, strays, alone })
    }

    fn power(&self) -> Result<CpuPower, String> {
        let (held, weight) = if self.stands && self.strays.is_empty() {
            (self.limit(&self.ours)?, self.weight(&self.ours)?)
        } else {
            (None, Weight::USUAL)
        };
        let weight = if self.alone { self.weight(&self.home)? } else { weight };
        Ok(CpuPower { limit: held.into_iter().chain(self.ceiling()).min(), weight })
    }

    /// The tightest limit of the groups above ours, which are not ours to change.
    fn ceiling(&self) -> Option<Millicpus> {
        // A group without such a file has no limit: the root.
        self.mount.upwards(&self.home).filter_map(|group| self.limit(group).ok().flatten()).min()
    }

    /// The limit of our own group that makes this the machine's power.
    fn fits(&self, to: CpuPower) -> Result<Option<Millicpus>, String> {
        let ceiling = self.ceiling();
        if let Some(ceiling) = ceiling.filter(|ceiling| to.limit.is_none_or(|limit| limit > *ceiling)) {
            return Err(format!(
                "a control group above the machine's vCPUs ({} or one above it) grants {ceiling} CPUs and no more; \
                 raise that first",
                self.home.display()
            ));
        }
        let own = to.limit.filter(|limit| Some(*limit) != ceiling);
        if self.stands && !self.strays.is_empty() {
            let (held, weight) = (self.limit(&self.ours)?, self.weight(&self.ours)?);
            let resets = !self.alone && to.weight == Weight::USUAL && weight != Weight::USUAL;
            if held.is_some() && own.is_none() || resets {
                let held = CpuPower { limit: held, weight };
                return Err(format!(
                    "vCPU thread {} is outside of the group that keeps the others to {held}; ask for all of that again",
                    self.strays[0]
                ));
            }
        }
        Ok(own)
    }

    /// The limit first and the threads last, so that none of them is ever held to less or more than one of both.
    fn establish(&mut self, limit: Option<Millicpus>, weight: Weight) -> Result<(), String> {
        if self.alone {
            self.set_weight(&self.home, weight)?;
        }
        if limit.is_none() && (self.alone || weight == Weight::USUAL) {
            return self.dismantle();
        }
        if !self.stands {
            self.files.make(&self.ours).map_err(|error| self.unmade(&error))?;
            self.stands = true;
            if self.mount.version == Version::V2 {
                // In this order: a group with processes in it may only pass a controller on to threaded groups.
                self.write(&self.ours, "cgroup.type", "threaded")?;
                self.pass_on()?;
            }
        }
        self.set_limit(limit)?;
        if !self.alone {
            self.set_weight(&self.ours, weight)?;
        }
        self.gather()
    }

    /// Has QEMU's group pass its controller on to ours.
    fn pass_on(&self) -> Result<(), String> {
        let passed = self.files.read(&self.home.join("cgroup.subtree_control")).unwrap_or_default();
        if passed.split_whitespace().any(|controller| controller == "cpu") {
            return Ok(());
        }
        self.write(&self.home, "cgroup.subtree_control", "+cpu")
    }

    fn gather(&self) -> Result<(), String> {
        self.strays.iter().try_for_each(|thread| self.admit(*thread, &self.ours))
    }

    fn admit(&self, thread: u32, group: &Path) -> Result<(), String> {
        let file = self.mount.threads(group);
        match self.files.write(&file, &thread.to_string()) {
            Ok(()) => Ok(()),
            // It has ended meanwhile.
            Err(_) if !self.is_there(thread) => Ok(()),
            Err(error) => Err(format!("thread {thread} cannot join {}: {error}", group.display())),
        }
    }

    fn is_there(&self, thread: u32) -> bool {
        self.files.read(Path::new(&format!("/proc/{}/task/{thread}/comm", self.threads.pid))).is_ok()
    }

    /// Has all threads go home, and takes our group away.
    fn dismantle(&mut self) -> Result<(), String> {
        if !self.stands {
            return Ok(());
        }
        let file = self.mount.threads(&self.ours);
        let listed = self.files.read(&file).map_err(|error| unread(&file, &error))?;
        for thread in listed.lines().filter_map(|line| line.trim().parse().ok()) {
            self.admit(thread, &self.home)?;
        }
        let ours = self.ours.display();
        self.files.remove(&self.ours).map_err(|error| format!("{ours} cannot be removed: {error}"))?;
        self.stands = false;
        let left = self.files.groups(&self.home).unwrap_or_default();
        if self.mount.version == Version::V2 && self.alone && left.is_empty() {
            // As it was before there was a group in it. One that keeps passing its controller on to nobody is whole.
            let _ = self.write(&self.home, "cgroup.subtree_control", "-cpu");
        }
        Ok(())
    }

    fn take_back(&mut self, weight: Weight) -> Result<(), String> {
        if self.alone {
            self.set_weight(&self.home, weight)?;
        }
        self.dismantle()
    }

    /// Takes away what machines that have ended left beside ours.
    fn sweep(&self) {
        for left in self.files.groups(&self.home).unwrap_or_default() {
            let pid = left.strip_prefix(NAME).and_then(|pid| pid.parse::<u32>().ok());
            if pid.is_some_and(|pid| self.files.read(Path::new(&format!("/proc/{pid}/comm"))).is_err()) {
                // One that is not empty stays: the kernel sees to that.
                let _ = self.files.remove(&self.home.join(left));
            }
        }
    }

    fn limit(&self, group: &Path) -> Result<Option<Millicpus>, String> {
        let (quota, period) = match self.mount.version {
            Version::V1 => (
                number(self.files, &group.join("cpu.cfs_quota_us"))?,
                number(self.files, &group.join("cpu.cfs_period_us"))?,
            ),
            Version::V2 => {
                let path = group.join("cpu.max");
                let text = self.files.read(&path).map_err(|error| unread(&path, &error))?;
                let mut words = text.split_whitespace().map(|word| word.parse::<i64>().unwrap_or(-1));
                (words.next().unwrap_or(-1), words.next().unwrap_or(-1))
            }
        };
        // No limit is -1 in version 1, and `max` in version 2.
        let (Ok(quota), Ok(period)) = (u64::try_from(quota), u64::try_from(period)) else { return Ok(None) };
        Ok(Millicpus::of_quota(quota, period))
    }

    fn set_limit(&self, limit: Option<Millicpus>) -> Result<(), String> {
        let quota = limit.map(|limit| limit.quota(PERIOD).to_string());
        match self.mount.version {
            Version::V1 => {
                let period = PERIOD.to_string();
                if number(self.files, &self.ours.join("cpu.cfs_period_us"))?.to_string() != period {
                    self.write(&self.ours, "cpu.cfs_period_us", &period)?;
                }
                self.write(&self.ours, "cpu.cfs_quota_us", &quota.unwrap_or_else(|| "-1".into()))
            }
            Version::V2 => {
                let quota = quota.unwrap_or_else(|| "max".into());
                self.write(&self.ours, "cpu.max", &format!("{quota} {PERIOD}"))
            }
        }
    }

    fn weight_file(&self) -> &'static str {
        match self.mount.version {
            Version::V1 => "cpu.shares",
            Version::V2 => "cpu.weight",
        }
    }

    fn weight(&self, group: &Path) -> Result<Weight, String> {
        let path = group.join(self.weight_file());
        let shares = u64::try_from(number(self.files, &path)?).unwrap_or(0);
        match self.mount.version {
            Version::V1 => Ok(Weight::of_v1_shares(shares)),
            Version::V2 => u32::try_from(shares).ok().and_then(Weight::new).ok_or_else(|| {
                format!("{} is no weight: the group runs only when all else is idle", path.display())
            }),
        }
    }

    fn set_weight(&self, group: &Path, weight: Weight) -> Result<(), String> {
        if self.weight(group)? == weight {
            return Ok(());
        }
        let text = match self.mount.version {
            Version::V1 => weight.to_v1_shares().to_string(),
            Version::V2 => weight.get().to_string(),
        };
        self.write(group, self.weight_file(), &text)
    }

    fn write(&self, group: &Path, file: &str, text: &str) -> Result<(), String> {
        let path = group.join(file);
        let written = self.files.write(&path, text);
        written.map_err(|error| format!("{} does not take {text:?}: {error}", path.display()))
    }

    fn unmade(&self, error: &io::Error) -> String {
        format!("no control group can be made below {}: {error}", self.home.display())
    }
}

/// QEMU's group.
fn home(files: &impl Files, mount: &Mount, pid: u32) -> Result<PathBuf, String> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    mount.group(&files.read(&path).map_err(|error| unread(&path, &error))?)
}

fn name(pid: u32) -> String {
    format!("{NAME}{pid}")
}

/// Whether version 2 lets a group of ours be made below QEMU's without changing it for anybody else.
fn grants(files: &impl Files, home: &Path, is_root: bool, alone: bool) -> Result<(), String> {
    let has = |file: &str| {
        let text = files.read(&home.join(file)).unwrap_or_default();
        text.split_whitespace().any(|controller| controller == "cpu")
    };
    let shown = home.display();
    if is_root {
        let passed = has("cgroup.subtree_control");
        return if passed {
            Ok(())
        } else {
            Err(format!("{shown} passes no CPU controller on to other groups"))
        };
    }
    if !alone {
        return Err(format!(
            "other processes are in QEMU's control group {shown}; start QEMU in one of its own, as with: \
             systemd-run --scope qemu-system-..."
        ));
    }
    if has("cgroup.controllers") {
        return Ok(());
    }
    Err(format!(
        "QEMU's control group {shown} has no CPU controller: the group above it does not pass it on \
         (cgroup.subtree_control)"
    ))
}

#[cfg(test)]
mod tests;
