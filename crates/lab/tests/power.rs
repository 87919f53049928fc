//! CPU power by real control groups: this host's, whose QEMU is held and whose guest counts what it is left. Version 2,
//! whatever this host has, is in `version_two`.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::power;
use drive::qmp::QmpMachine;
use drive::resize::resize;
use lab::{Machine, Recipe, Yes, eventually};
use scale::limits::Limits;
use scale::observed::Known;
use scale::report::Verdict;
use scale::setting::{CpuPower, Millicpus, Weight};
use scale::units::Change;
use scale::wanted::{Wanted, Wish};
use serde_json::Value;

/// CPUs that a guest under a limit of 0.15 does not get, however idle the host is: what is over is a part of the kernel's
/// period, a tenth of a second, at each end of the time that is measured.
const HELD_BELOW: f64 = 0.2;
/// CPUs that only a guest without that limit can get.
const FREE_FROM: f64 = 0.25;
/// How long a busy host may take to give a guest a few good seconds.
const PATIENCE: Duration = Duration::from_secs(180);

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

/// What a process that never rests gets done in the guest, in a few seconds by the guest's clock.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How far it counts in a second of the host's.
    counts: f64,
    /// How much of a CPU the host's kernel gave the machine's vCPUs meanwhile.
    cpus: f64,
}

/// The guest itself ends the count when its time is over, and tells it once: however seldom a busy host lets it run, it
/// has counted at least one round, and what is read is never half written.
const COUNT: &str = "now() { read -r up _ < /proc/uptime; up=${up%.*}${up#*.}; }; \
    n=0; now; end=$((up + 400)); \
    while [ $up -lt $end ]; do i=0; while [ $i -lt 100 ]; do i=$((i + 1)); done; n=$((n + 1)); now; done; echo $n";

async fn pace(guest: &Machine) -> Pace {
    let (since, before) = (Instant::now(), vcpu_time(guest).await);
    let told = guest.shell(COUNT).await.unwrap().ok().unwrap();
    let cpu = vcpu_time(guest).await - before;
    let seconds = since.elapsed().as_secs_f64();
    Pace { counts: told.trim().parse::<f64>().unwrap() / seconds, cpus: cpu.as_secs_f64() / seconds }
}

/// How long the host's kernel has had the machine's vCPUs run: 14th and 15th of proc_pid_stat(5), in ticks of 10 ms
/// (`USER_HZ`).
async fn vcpu_time(guest: &Machine) -> Duration {
    let vcpus = guest.execute("query-cpus-fast", Value::Null).await.unwrap();
    let threads: BTreeSet<u64> =
        vcpus.as_array().unwrap().iter().map(|vcpu| vcpu["thread-id"].as_u64().unwrap()).collect();
    let ticks = |thread: u64| {
        let stat = fs::read_to_string(format!("/proc/{}/task/{thread}/stat", guest.pid())).unwrap();
        let (_, behind_name) = stat.rsplit_once(')').unwrap();
        behind_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum::<u64>()
    };
    Duration::from_millis(threads.into_iter().map(ticks).sum::<u64>() * 10)
}

/// Waits for a pace at which the guest is plainly not held. That a busy host gives it no more time than a limit would is
/// no sign of one, so too slow is measured again.
async fn unheld(guest: &Machine, what: &str, is_free: impl Fn(Pace) -> bool) {
    eventually(what, PATIENCE, async || {
        let pace = pace(guest).await;
        Ok(is_free(pace).then_some(()))
    })
    .await
    .unwrap();
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
    unheld(&guest, "a guest without a limit takes what there is", |pace| pace.cpus > FREE_FROM).await;
    proven(&guest, limit(150)).await;
    let Known::Is(now) = read().await else { panic!("it was told before") };
    assert_eq!(now, CpuPower { limit: Some(Millicpus::new(150)), ..before });
    let held = pace(&guest).await;
    assert!(held.cpus < HELD_BELOW, "{held:?} under a limit of 0.15");

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
    let free = |pace: Pace| pace.cpus > FREE_FROM && pace.counts > held.counts * 1.5;
    unheld(&guest, "a guest counts more once its limit is lifted", free).await;
}
