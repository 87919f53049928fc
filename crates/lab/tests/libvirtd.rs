//! The lab's libvirtd is a real one, apart from all others, and its domains are the guests that their recipes describe.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use lab::{Agent, Cache, Generation, Libvirt, Libvirtd, Onlining, Recipe};
use scale::units::Bytes;

const DIMM: &str = "<memory model='dimm'><target><size unit='MiB'>256</size><node>0</node></target></memory>";

#[tokio::test]
async fn a_domain_is_the_guest_that_its_recipe_describes() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let recipe = Recipe::q35().memory(Bytes::mib(768)).vcpus(2, 4).onlining(Onlining::Kernel);
    let guest = libvirtd.boot("web1", &recipe).await.unwrap();
    let service = guest.watch_service();
    let witness = guest.witness();
    assert_eq!(witness.nproc().await.unwrap(), 2);
    let before = witness.mem_total().await.unwrap();
    assert!(before > Bytes::mib(640) && before < Bytes::mib(768), "{before}");
    let said = libvirtd
        .virsh(&["qemu-agent-command", "web1", "--timeout", "10", r#"{"execute":"guest-get-vcpus"}"#])
        .await
        .unwrap();
    assert_eq!(said.matches("logical-id").count(), 2, "{said}");

    plug(&libvirtd, "web1").await.unwrap();
    lab::eventually("the guest counts the new memory", Duration::from_secs(60), async || {
        Ok((witness.mem_total().await? >= before + Bytes::mib(250)).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(service.finish().await.lost, 0);
}

#[tokio::test]
async fn every_kind_of_recipe_is_a_domain_that_libvirt_accepts() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let recipes = [
        Recipe::i440fx(),
        Recipe::q35().two_nodes().max_memory(Bytes::gib(64), 32),
        Recipe::q35().virtio_mem(Bytes::gib(4), 0),
        Recipe::q35().no_balloon().agent(Agent::Absent),
        Recipe::q35().max_memory(Bytes::mib(512), 0).kernel_param("a='<&b'"),
    ];
    for (number, recipe) in recipes.iter().enumerate() {
        let name = format!("vm{number}");
        libvirtd.define(&name, recipe).await.unwrap();
    }
    let listed = libvirtd.virsh(&["list", "--all", "--name"]).await.unwrap();
    assert_eq!(listed.lines().count(), recipes.len(), "{listed}");
}

#[tokio::test]
async fn two_daemons_know_nothing_of_each_other_and_leave_nothing() {
    let (first, second) = (Libvirtd::start().await.unwrap(), Libvirtd::start().await.unwrap());
    assert_ne!(first.connect_uri(), second.connect_uri());
    first.define("web1", &Recipe::q35()).await.unwrap();
    let named = async |daemon: &Libvirtd| daemon.virsh(&["list", "--all", "--name"]).await.unwrap();
    assert_eq!((named(&first).await.as_str(), named(&second).await.as_str()), ("web1", ""));

    let socket = first.connect_uri().rsplit_once('=').unwrap().1.to_owned();
    let dir = socket.strip_suffix("/sock/libvirt-sock").unwrap().to_owned();
    assert!(!running_in(&dir).is_empty());
    drop(first);
    assert!(!fs::exists(&dir).unwrap());
    lab::eventually("all of its processes are gone", Duration::from_secs(60), async || {
        Ok(running_in(&dir).is_empty().then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(named(&second).await, "");
}

#[tokio::test]
async fn a_domain_runs_on_while_its_daemon_restarts() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let guest = libvirtd.boot("web1", &Recipe::q35()).await.unwrap();
    let service = guest.watch_service();
    libvirtd.restart().await.unwrap();
    assert_eq!(libvirtd.virsh(&["domstate", "web1"]).await.unwrap(), "running");
    plug(&libvirtd, "web1").await.unwrap();
    let report = service.finish().await;
    assert!(report.answered > 0 && report.lost == 0, "{report:?}");
}

#[tokio::test]
async fn the_backports_libvirt_runs_the_same_domain_or_says_why_not() {
    let found = tokio::task::spawn_blocking(|| Libvirt::backports(&Cache::open().unwrap())).await.unwrap();
    let libvirt = match found {
        Ok(libvirt) => libvirt,
        Err(absent) => {
            assert!(absent.to_string().len() > "no libvirt from the backports here: ".len());
            return eprintln!("{absent}");
        }
    };
    let libvirtd = Libvirtd::of(Generation::Backports).await.unwrap();
    let version = libvirtd.virsh(&["version", "--daemon"]).await.unwrap();
    assert!(version.contains(&format!("Running against daemon: {}", libvirt.version())), "{version}");
    let guest = libvirtd.boot("web1", &Recipe::q35()).await.unwrap();
    plug(&libvirtd, "web1").await.unwrap();
    let blocks = guest.witness().blocks().await.unwrap().len();
    assert!(blocks >= 4, "{blocks}");
}

async fn plug(libvirtd: &Libvirtd, name: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), DIMM)?;
    let file = file.path().display().to_string();
    libvirtd.virsh(&["attach-device", name, &file, "--live"]).await.map(drop)
}

/// The processes that name `dir` on their command line or in their environment.
fn running_in(dir: &str) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let names = |path: &std::path::PathBuf| {
        let read = |file: &str| fs::read(path.join(file)).unwrap_or_default();
        let has = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).contains(dir);
        has(read("cmdline")) || has(read("environ"))
    };
    pids.filter(names).map(|path| path.display().to_string()).collect()
}
