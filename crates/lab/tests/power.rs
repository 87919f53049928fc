//! CPU power by real control groups: of this host, whose QEMU is held and whose guest counts what it is left, and of a
//! guest's kernel, which has version 2 whatever this host has.

use std::io;
use std::path::Path;
use std::time::Duration;

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::power::{self, FREE, Files, Threads};
use drive::qmp::QmpMachine;
use drive::resize::resize;
use lab::{Inside, Machine, Recipe, Yes};
use scale::limits::Limits;
use scale::observed::Known;
use scale::report::Verdict;
use scale::setting::{CpuPower, Millicpus, Weight};
use scale::units::Change;
use scale::wanted::{Wanted, Wish};
use tokio::runtime::Handle;

async fn open(guest: &Machine) -> QmpMachine {
    QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await.unwrap()
}

async fn proven(guest: &Machine, wanted: Wanted) {
    let (mut machine, mut journal) = (open(guest).await, MemoryJournal::default());
    let report = resize(&mut machine, &mut journal, wanted, &Limits::default(), &mut Yes).await.unwrap();
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
}

fn limit(thousandths: u32) -> Wanted {
    Wanted { cpu_limit: Wish::To(Millicpus::new(thousandths)), ..Wanted::default() }
}

/// How far one process in the guest counts in a time that the host measures.
async fn counted(guest: &Inside) -> f64 {
    let loops = "i=0; while :; do i=$((i + 1)); [ $((i % 100)) = 0 ] && echo $i > /run/count; done";
    guest
        .shell(&format!("rm -f /run/count; ({loops}) & echo $! > /run/counter"))
        .await
        .unwrap()
        .ok()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let told = guest
        .shell("read n < /run/count; kill $(cat /run/counter); echo ${n:-0}")
        .await
        .unwrap()
        .ok()
        .unwrap();
    told.trim().parse::<f64>().unwrap()
}

#[tokio::test]
async fn a_guest_counts_less_under_a_limit_and_a_new_vcpu_shares_it() {
    let guest = Recipe::q35().vcpus(1, 4).boot().await.unwrap();
    let read = async || open(&guest).await.observe().await.unwrap().power;
    let free = read().await;
    let Known::Is(before) = free else {
        // Whoever may not write to control groups is told so, and nothing is tried.
        let mut machine = open(&guest).await;
        let refused =
            resize(&mut machine, &mut MemoryJournal::default(), limit(500), &Limits::default(), &mut Yes)
                .await;
        return assert!(refused.is_err() && format!("{free:?}").contains("control group"), "{free:?}");
    };
    let unlimited = counted(&guest).await;
    proven(&guest, limit(150)).await;
    let Known::Is(now) = read().await else { panic!("it was told before") };
    assert_eq!(now, CpuPower { limit: Some(Millicpus::new(150)), ..before });
    let held = counted(&guest).await;
    assert!(held < unlimited / 2.0, "{held} under a limit of 0.15, {unlimited} without");

    // More vCPUs get no more time: the new ones share what there is.
    proven(&guest, Wanted { vcpus: Some(Change::To(2)), ..Wanted::default() }).await;
    assert_eq!(read().await, Known::Is(now), "no vCPU runs beside the limit");
    let heavier = Weight::new(300).unwrap();
    proven(&guest, Wanted { cpu_weight: Some(heavier), ..Wanted::default() }).await;
    assert_eq!(read().await, Known::Is(CpuPower { weight: heavier, ..now }), "one does not reset the other");

    let lift = Wanted { cpu_limit: Wish::Lift, cpu_weight: Some(before.weight), ..Wanted::default() };
    proven(&guest, lift).await;
    assert_eq!(read().await, Known::Is(before));
    assert!(!power::is_held(&power::HostFiles, guest.pid()), "no group is left");
    let again = counted(&guest).await;
    assert!(again > held * 1.5, "{again} after the limit was lifted, {held} under it");
}

/// The files of a guest's kernel, each by a command in its shell.
struct InGuest<'a> {
    guest: &'a Inside,
    handle: Handle,
}

impl InGuest<'_> {
    fn run(&self, command: &str) -> io::Result<String> {
        let done = self.handle.block_on(self.guest.shell(command)).map_err(io::Error::other)?;
        if done.status == 0 {
            return Ok(done.stdout);
        }
        let kind =
            if done.stderr.contains("No such file") { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
        Err(io::Error::new(kind, done.stderr))
    }
}

impl Files for InGuest<'_> {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.run(&format!("cat {}", path.display()))
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        self.run(&format!("[ -e {0} ] && printf %s '{text}' > {0}", path.display())).map(drop)
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        self.run(&format!("mkdir {}", path.display())).map(drop)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(&format!("rmdir {}", path.display())).map(drop)
    }

    fn groups(&self, path: &Path) -> io::Result<Vec<String>> {
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

/// The agent stands for QEMU here: a process with more than one thread.
const IN_A_GROUP: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && mkdir -p /sys/fs/cgroup/vms/one && \
    echo +cpu > /sys/fs/cgroup/cgroup.subtree_control && echo +cpu > /sys/fs/cgroup/vms/cgroup.subtree_control && \
    echo $(pidof qemu-ga) > /sys/fs/cgroup/vms/one/cgroup.procs; \
    p=$(pidof qemu-ga); echo $p; ls /proc/$p/task | grep -v ^$p\\$";

#[tokio::test(flavor = "multi_thread")]
async fn version_two_holds_threads_of_one_process_on_a_real_kernel() {
    let guest = Recipe::q35().boot().await.unwrap();
    let told = guest.shell(IN_A_GROUP).await.unwrap();
    let numbers: Vec<u32> = told.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let [pid, vcpus @ ..] = numbers.as_slice() else { panic!("{told:?}") };
    assert!(!vcpus.is_empty(), "one thread alone is no test: {told:?}");
    let threads = Threads { pid: *pid, vcpus: vcpus.to_vec() };
    let handle = Handle::current();
    tokio::task::block_in_place(|| {
        let files = InGuest { guest: &guest, handle };
        let group = Path::new("/sys/fs/cgroup/vms/one");
        let read = |file: &str| files.read(&group.join(file)).unwrap().trim().to_owned();
        let kind = read("cgroup.type");
        assert_eq!(power::read(&files, &threads), Ok(FREE));

        let held = CpuPower { limit: Some(Millicpus::new(1500)), weight: Weight::new(250).unwrap() };
        power::set(&files, &threads, FREE, held).unwrap();
        assert_eq!(power::read(&files, &threads), Ok(held));
        let ours = format!("supple-vcpus-{pid}");
        let held_threads = read(&format!("{ours}/cgroup.threads"));
        assert_eq!(held_threads.lines().count(), vcpus.len(), "all but the process's first: {held_threads}");
        assert_eq!(
            (read(&format!("{ours}/cpu.max")), read("cpu.weight")),
            ("150000 100000".into(), "250".into())
        );

        power::set(&files, &threads, held, FREE).unwrap();
        assert_eq!((power::read(&files, &threads), read("cgroup.type")), (Ok(FREE), kind));
        assert_eq!(read("cgroup.subtree_control"), "", "as it was found");

        // A group that another process is in is left alone.
        files.run("sleep 1000 & echo $! > /sys/fs/cgroup/vms/one/cgroup.procs").unwrap();
        assert!(power::read(&files, &threads).is_err_and(|why| why.contains("other processes")));
    });
}
