//! What QEMU may hold of the host's memory moves with the guest's: QEMU's own control group on plain QEMU, libvirt's
//! `hard_limit` on both descriptions, and what QEMU may lock.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::libvirt::LibvirtMachine;
use drive::qmp::QmpMachine;
use drive::resize::resize;
use lab::{Generation, Libvirtd, Recipe, Yes};
use scale::limits::Limits;
use scale::report::{Report, Verdict};
use scale::run::Outcome;
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;

async fn grown<H: Hypervisor>(machine: &mut H, memory: Bytes) -> Report {
    let wanted = Wanted { memory: Some(Change::To(memory)), ..Wanted::default() };
    let mut journal = MemoryJournal::default();
    resize(machine, &mut journal, wanted, &Limits::default(), &mut Yes).await.unwrap()
}

async fn proven<H: Hypervisor>(machine: &mut H, memory: Bytes) {
    let report = grown(machine, memory).await;
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
}

/// libvirt bounds what QEMU may lock by the hard limit before it plugs memory. Where it may not, that is its answer, and
/// nobody waits for a DIMM that will not come.
fn refused_and_set_back(report: &Report) {
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    assert_eq!(report.achieved.map(|sizes| sizes.memory), Some(report.from.memory), "{report:#?}");
    assert!(report.left_behind.is_empty() && report.pending.is_empty(), "{report:#?}");
    assert_eq!(report.steps[0].act, "set QEMU's memory limit from 1 GiB to 2 GiB");
    let Outcome::Refused { why, by_guest: false } = &report.steps[1].outcome else { panic!("{report:#?}") };
    for words in ["cannot limit locked memory", "Operation not permitted", "--hard-limit -1 --live"] {
        assert!(why.contains(words), "'{words}' is not in {why}");
    }
}

/// Whether this process has CAP_SYS_RESOURCE: a container's root has it not.
fn may_raise_limits() -> bool {
    let told = fs::read_to_string("/proc/self/status").unwrap();
    let held = told.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(held.trim(), 16).unwrap() >> 24 & 1 == 1
}

/// A memory control group of its own for one process, taken away when the process has ended.
struct Group {
    folder: PathBuf,
    limit: &'static str,
}

impl Group {
    /// With this process alone in it.
    fn of(pid: u32, most: Bytes) -> io::Result<Group> {
        let root = Path::new("/sys/fs/cgroup");
        let (root, limit) = match root.join("memory").is_dir() {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => (root.to_owned(), "memory.max"),
        };
        let folder = root.join(format!("supple-lab-{pid}"));
        fs::create_dir(&folder)?;
        let group = Group { folder, limit };
        fs::write(group.folder.join(limit), most.get().to_string())?;
        fs::write(group.folder.join("cgroup.procs"), pid.to_string())?;
        Ok(group)
    }

    fn most(&self) -> Bytes {
        let text = fs::read_to_string(self.folder.join(self.limit)).unwrap();
        Bytes::new(text.trim().parse().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who is still in it goes to the root.
        let procs = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = fs::write(self.folder.with_file_name("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

#[tokio::test]
async fn the_limit_of_qemus_own_group_moves_with_its_memory() {
    let guest = Recipe::q35().memory(Bytes::mib(512)).boot().await.unwrap();
    let group = Group::of(guest.pid(), Bytes::gib(1));
    let mut machine = QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await.unwrap();
    let seen = machine.observe().await.unwrap();
    let group = match group {
        Ok(group) => group,
        Err(error) => {
            // Who may make no group has none of QEMU's alone to move, and memory moves without.
            assert!(!rustix::process::geteuid().is_root() || error.kind() != io::ErrorKind::PermissionDenied);
            assert_eq!(seen.host.memory_limit, None, "{error}");
            return proven(&mut machine, Bytes::mib(1536)).await;
        }
    };
    assert_eq!(seen.host.memory_limit, Some(Bytes::gib(1)));
    proven(&mut machine, Bytes::mib(1536)).await;
    assert_eq!(group.most(), Bytes::gib(2));
    // The guest may touch all of it: the host's kernel ended QEMU here if the limit stood where it was.
    let touched = guest.witness().touch(Bytes::mib(1100)).await.unwrap();
    assert!(guest.witness().intact(&touched).await.unwrap());
    guest.witness().release(touched).await.unwrap();
    proven(&mut machine, Bytes::mib(512)).await;
    assert_eq!(group.most(), Bytes::gib(1));
}

#[tokio::test]
async fn what_qemu_may_lock_is_read_back_and_set() {
    let guest = Recipe::q35().boot().await.unwrap();
    let mut machine = QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await.unwrap();
    let host = machine.observe().await.unwrap().host;
    let Some(most) = host.lock_limit else {
        // Unlimited, or nobody here may raise it.
        return assert!(host.memlock_headroom.is_none() || !may_raise_limits(), "{host:?}");
    };
    let set = |from: Bytes, to: Bytes| scale::plan::Act::Set {
        from: Box::new(scale::setting::Setting::Locked { most: from }),
        to: Box::new(scale::setting::Setting::Locked { most: to }),
    };
    let more = most + Bytes::gib(1);
    let until = machine.now() + scale::time::Span::secs(5);
    machine.apply(&set(most, more), until).await.unwrap();
    assert_eq!(machine.observe().await.unwrap().host.lock_limit, Some(more));
    let stale = machine.apply(&set(most, most + Bytes::gib(2)), until).await.unwrap_err().to_string();
    assert!(stale.contains("something else has changed it"), "{stale}");
    machine.apply(&set(more, most), until).await.unwrap();
    assert_eq!(machine.observe().await.unwrap().host.lock_limit, Some(most));
}

#[tokio::test]
async fn libvirts_hard_limit_moves_on_both_sides() {
    let libvirtd = Libvirtd::with_cpu_groups(Generation::System).await.unwrap();
    let guest = libvirtd.boot("web1", &Recipe::q35().memory(Bytes::mib(512))).await.unwrap();
    let limited = ["memtune", "web1", "--hard-limit", "1048576", "--live", "--config"];
    if let Err(error) = libvirtd.virsh(&limited).await {
        // A user's libvirt has no control groups.
        assert!(libvirtd.connect_uri().contains("session"), "{error:#}");
        return eprintln!("{error:#}");
    }
    let mut machine =
        LibvirtMachine::open(&libvirtd.connect_uri(), "web1", &Limits::default()).await.unwrap();
    let told = async |side: &str| {
        let told = libvirtd.virsh(&["memtune", "web1", side]).await.unwrap();
        let line = told.lines().find(|line| line.starts_with("hard_limit")).unwrap().to_owned();
        line.split_whitespace().next_back().unwrap().parse::<u64>().unwrap()
    };
    if !may_raise_limits() {
        let report = grown(&mut machine, Bytes::mib(1536)).await;
        refused_and_set_back(&report);
        assert_eq!((told("--live").await, told("--config").await), (1 << 20, 1 << 20), "it is set back");
        let seen = machine.observe().await.unwrap().memory;
        assert!(seen.dimms.is_empty() && seen.unused_backends.is_empty(), "{seen:?}");
        guest.is_level().await.unwrap();
        // The way out that it names.
        libvirtd.virsh(&["memtune", "web1", "--hard-limit", "-1", "--live"]).await.unwrap();
        proven(&mut machine, Bytes::mib(1536)).await;
        assert_eq!(told("--config").await, 1 << 20, "what is not limited while it runs is not moved");
        return guest.is_level().await.unwrap();
    }
    proven(&mut machine, Bytes::mib(1536)).await;
    assert_eq!((told("--live").await, told("--config").await), (2 << 20, 2 << 20));
    let touched = guest.witness().touch(Bytes::mib(1100)).await.unwrap();
    assert!(guest.witness().intact(&touched).await.unwrap());
    guest.witness().release(touched).await.unwrap();
    proven(&mut machine, Bytes::mib(512)).await;
    assert_eq!((told("--live").await, told("--config").await), (1 << 20, 1 << 20));
    guest.is_level().await.unwrap();
}
