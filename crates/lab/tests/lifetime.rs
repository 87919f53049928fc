//! A guest ends with whoever booted it, however that one ends.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{Recipe, Service, eventually};

/// Set in the process that is to be killed.
const VICTIM: &str = "SUPPLE_LAB_TEST_VICTIM";

const SOON: Duration = Duration::from_secs(60);

/// True while a process runs. One that nobody has reaped yet (state Z) does not: in a container that can take long.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    // PID (NAME) STATE ...
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

async fn gone(pid: u32) {
    eventually("QEMU's end", SOON, async || Ok((!runs(pid)).then_some(()))).await.unwrap();
}

#[tokio::test]
async fn a_killed_process_leaves_no_qemu() {
    if env::var_os(VICTIM).is_some() {
        let guest = Recipe::q35().boot().await.unwrap();
        println!("pid={}", guest.pid());
        // Not the end of this: the process is killed while it waits.
        return tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_killed_process_leaves_no_qemu", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let pid = tokio::task::spawn_blocking(move || {
        lines.map_while(Result::ok).find_map(|line| Some(line.split_once("pid=")?.1.parse::<u32>().unwrap()))
    });
    let pid = pid.await.unwrap().expect("the victim boots a guest");
    assert!(runs(pid));
    victim.kill().unwrap();
    victim.wait().unwrap();
    gone(pid).await;
}

#[tokio::test]
async fn a_guest_outlives_the_thread_that_booted_it_and_ends_when_dropped() {
    let boot = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Recipe::i440fx().boot().await.map(|guest| (guest.pid(), guest)) })
    });
    let (pid, guest) = tokio::task::spawn_blocking(|| boot.join().unwrap()).await.unwrap().unwrap();
    // A guest whose parent-death signal hung on the thread would be gone by now.
    assert!(runs(pid));
    let service = guest.watch_service();
    answers(&service).await;
    assert_eq!(service.finish().await.lost, 0);
    let directory = guest.qmp().parent().unwrap().to_owned();
    assert!(directory.join("qmp.sock").exists());
    drop(guest);
    assert!(!runs(pid));
    assert!(!directory.exists());
}

async fn answers(service: &Service) {
    let one = async || Ok((service.so_far().answered > 0).then_some(()));
    eventually("an answer", SOON, one).await.unwrap();
}

#[tokio::test]
async fn a_killed_guest_is_a_lost_service_and_a_silent_witness() {
    let mut guest = Recipe::q35().boot().await.unwrap();
    let service = guest.watch_service();
    answers(&service).await;
    assert_eq!(service.so_far().lost, 0);
    guest.kill();
    let lost = async || Ok((service.so_far().lost > 0).then_some(()));
    eventually("a lost request", SOON, lost).await.unwrap();
    let report = service.finish().await;
    assert!(report.first_loss.is_some(), "{report:?}");
    assert!(guest.shell("true").await.is_err());
}
