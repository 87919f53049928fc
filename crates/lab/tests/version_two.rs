//! Control groups of version 2, as the kernel of a guest has them, whatever this host has mounted: the same code that
//! keeps QEMU's on a host, on a process of the guest's that stands for QEMU.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::time::Duration;

use drive::ApplyError;
use drive::host::group;
use drive::power::{self, FREE, Files, Threads};
use lab::{Inside, Machine, Recipe};
use scale::setting::{CpuPower, Millicpus, Weight};
use scale::units::Bytes;
use tokio::runtime::Handle;
use tokio::task::block_in_place;
use tokio::time::Instant;

/// The files of a guest's kernel, each by a command in its shell.
struct InGuest<'a>(&'a Inside);

impl InGuest<'_> {
    fn run(&self, command: &str) -> Result<String> {
        let done = block_in_place(|| Handle::current().block_on(self.0.shell(command)));
        let done = done.map_err(Error::other)?;
        if done.status == 0 {
            return Ok(done.stdout);
        }
        let kind = if done.stderr.contains("No such file") { ErrorKind::NotFound } else { ErrorKind::Other };
        Err(Error::new(kind, done.stderr))
    }

    /// What a file of the group that stands for QEMU's holds.
    fn shows(&self, file: &str) -> String {
        self.read(&Path::new(GROUP).join(file)).unwrap().trim().to_owned()
    }

    /// Puts a value in a file of a group, as somebody else does.
    fn put(&self, file: &str, value: &str) {
        self.write(Path::new(file), value).unwrap();
    }
}

impl Files for InGuest<'_> {
    fn read(&self, path: &Path) -> Result<String> {
        self.run(&format!("cat {}", path.display()))
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        self.run(&format!("[ -e {0} ] && printf %s '{text}' > {0}", path.display())).map(drop)
    }

    fn make(&self, path: &Path) -> Result<()> {
        self.run(&format!("mkdir {}", path.display())).map(drop)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.run(&format!("rmdir {}", path.display())).map(drop)
    }

    fn groups(&self, path: &Path) -> Result<Vec<String>> {
        let listed = self.run(&format!(
            "cd {} && for d in */; do [ -d \"$d\" ] && echo \"${{d%/}}\"; done; :",
            path.display()
        ))?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    fn writable(&self, path: &Path) -> bool {
        self.run(&format!("[ -w {} ]", path.display())).is_ok()
    }
}

/// The group that stands for QEMU's, and the one above it.
const GROUP: &str = "/sys/fs/cgroup/vms/one";
const ABOVE: &str = "/sys/fs/cgroup/vms";

/// A guest with both, to which both controllers are passed on.
async fn with_groups() -> Machine {
    let guest = Recipe::q35().boot().await.unwrap();
    let make = format!(
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup && mkdir -p {GROUP} && \
         for group in /sys/fs/cgroup {ABOVE}; do echo '+cpu +memory' > $group/cgroup.subtree_control || exit 1; done"
    );
    guest.shell(&make).await.unwrap().ok().unwrap();
    guest
}

/// The agent has more than one thread, as QEMU has.
fn agent(files: &InGuest) -> Threads {
    let enter = format!(
        "p=$(pidof qemu-ga) && echo $p > {GROUP}/cgroup.procs && echo $p && ls /proc/$p/task | grep -v ^$p\\$"
    );
    let told = files.run(&enter).unwrap();
    let numbers: Vec<u32> = told.lines().map(|line| line.trim().parse().unwrap()).collect();
    let [pid, vcpus @ ..] = numbers.as_slice() else { panic!("{told:?}") };
    assert!(!vcpus.is_empty(), "one thread alone is no test: {told:?}");
    Threads { pid: *pid, vcpus: vcpus.to_vec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_two_holds_threads_of_one_process_on_a_real_kernel() {
    let guest = with_groups().await;
    let files = InGuest(&guest);
    let threads = agent(&files);
    let (pid, kind) = (threads.pid, files.shows("cgroup.type"));
    assert_eq!(power::read(&files, &threads), Ok(FREE));

    let held = CpuPower { limit: Some(Millicpus::new(1500)), weight: Weight::new(250).unwrap() };
    power::set(&files, &threads, FREE, held).unwrap();
    assert_eq!(power::read(&files, &threads), Ok(held));
    let ours = format!("supple-vcpus-{pid}");
    let held_threads = files.shows(&format!("{ours}/cgroup.threads"));
    let count = threads.vcpus.len();
    assert_eq!(held_threads.lines().count(), count, "all but the process's first: {held_threads}");
    let (most, weight) = (files.shows(&format!("{ours}/cpu.max")), files.shows("cpu.weight"));
    assert_eq!((most.as_str(), weight.as_str()), ("150000 100000", "250"));

    // One that is new is outside at first.
    files.put(&format!("{GROUP}/cgroup.threads"), &threads.vcpus[0].to_string());
    assert_eq!(power::read(&files, &threads), Ok(CpuPower { limit: None, ..held }));
    power::follow(&files, &threads).unwrap();
    assert_eq!(power::read(&files, &threads), Ok(held));
    // QEMU's memory is limited beside.
    files.put(&format!("{GROUP}/memory.max"), &Bytes::gib(1).get().to_string());
    assert_eq!(group::limit(&files, pid), Some(Bytes::gib(1)));

    power::set(&files, &threads, held, FREE).unwrap();
    assert_eq!((power::read(&files, &threads), files.shows("cgroup.type")), (Ok(FREE), kind));
    assert_eq!(files.shows("cgroup.subtree_control"), "", "as it was found");

    // What holds the group above holds the machine.
    files.put(&format!("{ABOVE}/cpu.max"), "200000 100000");
    let granted = CpuPower { limit: Some(Millicpus::new(2000)), ..FREE };
    assert_eq!(power::read(&files, &threads), Ok(granted));
    let more = CpuPower { limit: Some(Millicpus::new(3000)), ..FREE };
    let refused = power::set(&files, &threads, granted, more);
    assert!(matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("no more")), "{refused:?}");

    // A group that another process is in is left alone.
    files.run(&format!("sleep 1000 & echo $! > {GROUP}/cgroup.procs")).unwrap();
    assert!(power::read(&files, &threads).is_err_and(|why| why.contains("other processes")));
}

/// What the process that stands for QEMU holds.
const HELD: Bytes = Bytes::mib(48);

/// A process alone in the group, which has filled memory there, until the file is removed. It waits for what never comes.
fn holder(files: &InGuest) -> u32 {
    let mib = HELD.count_of(Bytes::mib(1));
    let hold = format!(
        "mkfifo /run/ready /run/never && {{ sh -c 'echo $$ > {GROUP}/cgroup.procs && \
         dd if=/dev/zero of=/mem/held bs=1M count={mib} 2> /dev/null && echo $$ > /run/ready; read -r _ < /run/never' & }} && \
         read -r pid < /run/ready && echo $pid"
    );
    files.run(&hold).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn version_two_s_memory_limit_is_read_raised_and_lowered_on_a_real_kernel() {
    let guest = with_groups().await;
    let files = InGuest(&guest);
    let pid = holder(&files);
    let most = || Bytes::new(files.shows("memory.max").parse().unwrap());
    let soon = || Instant::now() + Duration::from_secs(60);
    let limit_to = |above: &str, to: Bytes| files.put(&format!("{above}/memory.max"), &to.get().to_string());
    assert_eq!((group::limit(&files, pid), group::headroom(&files, pid)), (None, None), "no limit is none");

    limit_to(GROUP, Bytes::mib(128));
    assert_eq!(group::limit(&files, pid), Some(Bytes::mib(128)));
    let left = group::headroom(&files, pid).unwrap();
    assert!(left <= Bytes::mib(128) - HELD && left > Bytes::mib(64), "{left} of 128 MiB are left");
    group::set_limit(&files, pid, Bytes::mib(256), soon()).await.unwrap();
    assert_eq!(most(), Bytes::mib(256));
    // The group above is read and never written to.
    limit_to(ABOVE, Bytes::mib(96));
    let left = group::headroom(&files, pid).unwrap();
    assert!(left <= Bytes::mib(96) - HELD && left > Bytes::mib(32), "{left} of 96 MiB are left");
    assert_eq!(group::limit(&files, pid), Some(Bytes::mib(256)));

    // The kernel would take it, and end the process.
    let low = Bytes::mib(24);
    let refused = group::set_limit(&files, pid, low, Instant::now()).await;
    assert!(matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("would end it")), "{refused:?}");
    assert_eq!(most(), Bytes::mib(256));
    files.run("rm /mem/held").unwrap();
    group::set_limit(&files, pid, low, soon()).await.unwrap();
    assert_eq!(most(), low);
    let events = files.shows("memory.events");
    assert!(events.lines().any(|line| line == "oom_kill 0"), "{events}");
    files.run(&format!("kill -0 {pid}")).unwrap();

    files.run(&format!("sleep 1000 & echo $! > {GROUP}/cgroup.procs")).unwrap();
    assert_eq!(group::limit(&files, pid), None, "another process is in the group");
    let refused = group::set_limit(&files, pid, Bytes::mib(64), soon()).await;
    assert!(matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("not alone")), "{refused:?}");
    assert_eq!(most(), low);
}
