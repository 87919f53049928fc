//! The rules of control groups against a kernel in memory: a *fake* tree that knows what these rules need of one
//! (which files a group has, who is in it, what is refused). The lab tries the same on real kernels.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;

const QEMU: u32 = 100;

/// A fake kernel's control groups and /proc.
struct Fake {
    version: Version,
    state: RefCell<State>,
    writable: bool,
}

#[derive(Default)]
struct State {
    /// Groups by their path, `` for the root, with their files.
    groups: BTreeMap<String, BTreeMap<&'static str, String>>,
    /// Thread, its process, its group.
    threads: BTreeMap<u32, (u32, String)>,
    names: BTreeMap<u32, String>,
    /// The writes, in order.
    log: Vec<String>,
    /// The file that takes nothing.
    broken: Option<&'static str>,
}

impl Fake {
    fn new(version: Version) -> Fake {
        let fake = Fake { version, state: RefCell::default(), writable: true };
        fake.add_group("");
        if version == Version::V2 {
            fake.put("", "cgroup.subtree_control", "cpu memory");
        }
        fake
    }

    /// A machine in this group: QEMU's own thread and as many vCPU threads.
    fn machine(self, group: &str, vcpus: u32) -> Fake {
        if !group.is_empty() {
            self.add_group(group);
        }
        self.state.borrow_mut().names.insert(QEMU, "qemu-system-x86".into());
        (0..=vcpus).for_each(|thread| self.thread(QEMU + thread, QEMU, group));
        self
    }

    fn stranger(self, pid: u32, name: &str, group: &str) -> Fake {
        self.state.borrow_mut().names.insert(pid, name.into());
        self.thread(pid, pid, group);
        self
    }

    fn thread(&self, thread: u32, process: u32, group: &str) {
        self.state.borrow_mut().threads.insert(thread, (process, group.into()));
    }

    fn add_group(&self, group: &str) {
        let is_root = group.is_empty();
        let files: &[(&str, &str)] = match (self.version, is_root) {
            (Version::V1, false) => {
                &[("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000"), ("cpu.shares", "1024")]
            }
            (Version::V1, true) => &[("cgroup.sane_behavior", "0"), ("cpu.shares", "1024")],
            (Version::V2, false) => &[
                ("cgroup.type", "domain"),
                ("cgroup.controllers", "cpu memory"),
                ("cgroup.subtree_control", ""),
                ("cpu.max", "max 100000"),
                ("cpu.weight", "100"),
            ],
            (Version::V2, true) => &[("cgroup.controllers", "cpu memory")],
        };
        let files = files.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        self.state.borrow_mut().groups.insert(group.into(), files);
    }

    fn put(&self, group: &str, file: &'static str, text: &str) {
        let mut state = self.state.borrow_mut();
        state.groups.get_mut(group).expect("a group").insert(file, text.into());
    }

    fn get(&self, group: &str, file: &str) -> String {
        self.state.borrow().groups[group][file].clone()
    }

    fn members(&self, group: &str) -> Vec<u32> {
        let state = self.state.borrow();
        state.threads.iter().filter(|(_, (_, at))| at == group).map(|(thread, _)| *thread).collect()
    }

    fn group_names(&self) -> Vec<String> {
        self.state.borrow().groups.keys().cloned().collect()
    }

    fn threads(&self) -> Threads {
        let state = self.state.borrow();
        let of_qemu = state.threads.iter().filter(|(thread, (pid, _))| *pid == QEMU && **thread != QEMU);
        Threads { pid: QEMU, vcpus: of_qemu.map(|(thread, _)| *thread).collect() }
    }

    fn power(&self) -> Result<CpuPower, String> {
        read(self, &self.threads())
    }

    fn set(&self, to: CpuPower) -> Result<(), ApplyError> {
        let from = self.power().map_err(ApplyError::Refused)?;
        set(self, &self.threads(), from, to)
    }

    fn take(&self, group: &str, file: &str, text: &str) -> io::Result<()> {
        let refused = |why: &str| Err(io::Error::other(why.to_owned()));
        if self.state.borrow().broken == Some(file) {
            return refused("Invalid argument");
        }
        if matches!(file, "tasks" | "cgroup.threads") {
            let thread: u32 = text.parse().expect("a number");
            let mut state = self.state.borrow_mut();
            let is_threaded =
                |group: &str| state.groups[group].get("cgroup.type").is_none_or(|t| t == "threaded");
            if self.version == Version::V2 && group.contains(NAME) && !is_threaded(group) {
                return refused("Operation not supported");
            }
            return match state.threads.get_mut(&thread) {
                Some((_, at)) => {
                    group.clone_into(at);
                    Ok(())
                }
                None => refused("No such process"),
            };
        }
        let mut state = self.state.borrow_mut();
        let threaded = state.groups.iter().any(|(name, files)| {
            name.starts_with(group)
                && name != group
                && files.get("cgroup.type").is_some_and(|t| t == "threaded")
        });
        let files = state.groups.get_mut(group).expect("a group");
        let Some(slot) = files.get_mut(file) else { return Err(ErrorKind::NotFound.into()) };
        match (file, text) {
            ("cgroup.subtree_control", "+cpu") if !threaded => return refused("Device or resource busy"),
            ("cgroup.subtree_control", "+cpu") => "cpu".clone_into(slot),
            ("cgroup.subtree_control", "-cpu") => slot.clear(),
            _ => text.clone_into(slot),
        }
        Ok(())
    }
}

use std::io::ErrorKind;

/// Where the fake's groups are mounted.
const POINT: &str = "/cg";

fn split(path: &Path) -> Option<(String, String)> {
    let below = path.strip_prefix(POINT).ok()?;
    let group = below.parent()?.to_str()?.to_owned();
    Some((group, below.file_name()?.to_str()?.to_owned()))
}

fn group_of(path: &Path) -> String {
    path.strip_prefix(POINT).expect("a group").to_str().expect("text").to_owned()
}

impl Files for Fake {
    fn read(&self, path: &Path) -> io::Result<String> {
        let missing = || io::Error::from(ErrorKind::NotFound);
        if path == Path::new("/proc/self/mountinfo") {
            let kind = match self.version {
                Version::V1 => "cgroup c rw,cpu",
                Version::V2 => "cgroup2 c rw",
            };
            return Ok(format!("1 2 0:3 / {POINT} rw - {kind}\n"));
        }
        let state = self.state.borrow();
        if let Ok(below) = path.strip_prefix("/proc") {
            let parts: Vec<&str> = below.iter().map(|part| part.to_str().expect("text")).collect();
            let thread: u32 = parts[if parts.len() > 2 { 2 } else { 0 }].parse().expect("a number");
            let (process, group) = state.threads.get(&thread).ok_or_else(missing)?;
            return match *parts.last().expect("a file") {
                "comm" => Ok(state.names.get(process).cloned().unwrap_or_default()),
                _ => Ok(match self.version {
                    Version::V1 => format!("3:cpu:/{group}\n0::/\n"),
                    Version::V2 => format!("0::/{group}\n"),
                }),
            };
        }
        let (group, file) = split(path).ok_or_else(missing)?;
        let inside = || state.threads.iter().filter(|(_, (_, at))| *at == group);
        match file.as_str() {
            "tasks" | "cgroup.threads" => Ok(inside().map(|(thread, _)| format!("{thread}\n")).collect()),
            "cgroup.procs" => {
                let processes: BTreeSet<u32> = inside().map(|(_, (process, _))| *process).collect();
                Ok(processes.iter().map(|process| format!("{process}\n")).collect())
            }
            file => state.groups.get(&group).and_then(|files| files.get(file)).cloned().ok_or_else(missing),
        }
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let (group, file) = split(path).expect("a file of a group");
        self.state.borrow_mut().log.push(format!("{group}/{file}={text}"));
        self.take(&group, &file, text)
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        self.add_group(&group_of(path));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let group = group_of(path);
        if !self.members(&group).is_empty() {
            return Err(ErrorKind::ResourceBusy.into());
        }
        self.state.borrow_mut().groups.remove(&group);
        Ok(())
    }

    fn groups(&self, path: &Path) -> io::Result<Vec<String>> {
        let above = group_of(path);
        let below = |name: &String| {
            let rest = if above.is_empty() {
                name.as_str()
            } else {
                name.strip_prefix(&above)?.strip_prefix('/')?
            };
            (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned())
        };
        Ok(self.group_names().iter().filter_map(below).collect())
    }

    fn writable(&self, _path: &Path) -> bool {
        self.writable
    }
}

fn power(limit: Option<u32>, weight: u32) -> CpuPower {
    CpuPower { limit: limit.map(Millicpus::new), weight: Weight::new(weight).expect("a weight") }
}

#[test]
fn what_is_set_is_read_back_and_lifted_without_a_trace() {
    for (version, home) in [(Version::V1, ""), (Version::V1, "vm.scope"), (Version::V2, "vm.scope")] {
        let fake = Fake::new(version).machine(home, 2);
        let before = fake.group_names();
        for to in [power(Some(2500), 100), power(Some(10), 300), power(None, 300), power(Some(500), 1)] {
            fake.set(to).unwrap_or_else(|why| panic!("{version:?} {home:?}: {why}"));
            assert_eq!(fake.power(), Ok(to), "{version:?} {home:?}");
        }
        assert_eq!(fake.members(home), [QEMU], "QEMU's own thread is under no limit");
        fake.set(FREE).expect("lifted");
        assert_eq!((fake.power(), fake.group_names()), (Ok(FREE), before));
        assert_eq!(fake.members(home), [QEMU, QEMU + 1, QEMU + 2]);
    }
}

#[test]
fn a_shared_group_is_never_written_to() {
    let fake = Fake::new(Version::V1).machine("vms", 2).stranger(7, "sshd", "vms");
    fake.set(power(Some(1500), 400)).expect("version 1 holds a group of ours in it");
    assert_eq!(fake.get("vms", "cpu.shares"), "1024");
    assert!(fake.state.borrow().log.iter().all(|write| write.starts_with("vms/supple-vcpus-100/")));

    let fake = Fake::new(Version::V2).machine("vms", 2).stranger(7, "sshd", "vms");
    assert!(fake.power().is_err_and(|why| why.contains("systemd-run --scope")));
    assert!(fake.set(power(Some(1500), 100)).is_err() && fake.state.borrow().log.is_empty());
}

#[test]
fn the_kernels_own_helpers_share_nothing() {
    let fake = Fake::new(Version::V2).machine("vm", 1).stranger(7, "vhost-100", "vm");
    assert_eq!(fake.set(power(Some(1000), 50)), Ok(()));
    assert_eq!(fake.get("vm", "cpu.weight"), "50", "alone in its group, QEMU weighs as a whole");
}

#[test]
fn a_new_vcpu_joins_and_one_that_did_not_is_told() {
    let fake = Fake::new(Version::V1).machine("vm", 2).stranger(7, "sshd", "vm");
    let to = power(Some(2000), 300);
    assert!(!is_held(&fake, QEMU));
    fake.set(to).expect("set");
    assert!(is_held(&fake, QEMU));

    fake.thread(150, QEMU, "vm");
    assert_eq!(fake.power(), Ok(FREE), "one runs without a limit, so the machine does");
    let why = fake.set(power(None, 500)).expect_err("the limit of the others would go with it");
    assert!(why.to_string().contains("limit 2 CPUs, weight 300"), "{why}");
    assert!(fake.set(power(Some(1000), 100)).is_err(), "so would their weight");
    fake.set(to).expect("asked for again");
    assert_eq!(fake.power(), Ok(to));

    fake.thread(151, QEMU, "vm");
    follow(&fake, &fake.threads()).expect("it joins");
    assert_eq!(fake.power(), Ok(to));
    assert_eq!(fake.members("vm"), [7, QEMU]);
}

#[test]
fn a_limit_above_is_told_and_not_passed() {
    for version in [Version::V1, Version::V2] {
        let fake = Fake::new(version);
        fake.add_group("slice");
        let (file, text) = match version {
            Version::V1 => ("cpu.cfs_quota_us", "200000"),
            Version::V2 => ("cpu.max", "200000 100000"),
        };
        fake.put("slice", file, text);
        let fake = fake.machine("slice/vm", 1);
        let above = power(Some(2000), 100);
        assert_eq!(fake.power(), Ok(above));
        for beyond in [power(Some(2001), 100), FREE] {
            assert!(fake.set(beyond).is_err_and(|why| why.to_string().contains("grants 2 CPUs")));
        }
        fake.set(power(Some(1500), 100)).expect("below");
        fake.set(above).expect("back");
        assert_eq!((fake.power(), fake.group_names().len()), (Ok(above), 3), "no group of ours is left");
    }
}

#[test]
fn another_manager_is_left_alone_and_so_is_what_changed() {
    let fake = Fake::new(Version::V1).machine("vm", 2);
    fake.add_group("vm/vcpu0");
    fake.thread(QEMU + 1, QEMU, "vm/vcpu0");
    assert!(fake.power().is_err_and(|why| why.contains("another manager") && why.contains("vm/vcpu0")));

    let fake = Fake::new(Version::V1).machine("vm", 2);
    let stale = set(&fake, &fake.threads(), power(Some(1000), 100), power(Some(2000), 100));
    assert!(stale.is_err_and(|why| why.to_string().contains("no longer")));
    let hidden = Threads { pid: QEMU, vcpus: vec![9999] };
    assert!(read(&fake, &hidden).is_err_and(|why| why.contains("9999")));
    let fake = Fake { writable: false, ..Fake::new(Version::V1).machine("vm", 1) };
    assert!(fake.power().is_err_and(|why| why.contains("by this user")));
}

#[test]
fn what_breaks_midway_is_taken_back() {
    for (version, broken) in
        [(Version::V1, "tasks"), (Version::V1, "cpu.cfs_quota_us"), (Version::V2, "cpu.max")]
    {
        let fake = Fake::new(version).machine("vm", 2);
        let before = fake.group_names();
        fake.state.borrow_mut().broken = Some(broken);
        let refused = fake.set(power(Some(1000), 300));
        assert!(matches!(&refused, Err(ApplyError::Refused(_))), "{refused:?}");
        assert_eq!((fake.power(), fake.group_names()), (Ok(FREE), before), "{broken}");
    }
}

#[test]
fn what_ended_machines_left_is_taken_away() {
    let fake = Fake::new(Version::V1).machine("", 1).stranger(7, "sshd", "");
    for left in ["supple-vcpus-55", "supple-vcpus-7", "supple-vcpus-x"] {
        fake.add_group(left);
    }
    fake.set(power(Some(1000), 100)).expect("set");
    assert_eq!(fake.group_names(), ["", "supple-vcpus-100", "supple-vcpus-7", "supple-vcpus-x"]);
}
