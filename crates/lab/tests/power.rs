//! CPU power by real control groups: this host's, whose QEMU is held and whose guest counts what it is left. Version 2,
//! whatever this host has, is in `version_two`.

use std::time::Duration;

use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::power;
use drive::qmp::QmpMachine;
use drive::resize::resize;
use lab::{Inside, Machine, Recipe, Yes};
use scale::limits::Limits;
use scale::observed::Known;
use scale::report::Verdict;
use scale::setting::{CpuPower, Millicpus, Weight};
use scale::units::Change;
use scale::wanted::{Wanted, Wish};

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
