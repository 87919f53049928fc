//! Each kind of guest is what its recipe says, on both boards.

use std::time::{Duration, Instant};

use anyhow::Result;
use drive::guest::Agent as AgentClient;
use lab::{Agent, Cache, Generation, Machine, Onlining, Qemu, Recipe, eventually};
use scale::units::Bytes;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);

fn boards() -> [Recipe; 2] {
    [Recipe::q35(), Recipe::i440fx()]
}

async fn plug_dimm(guest: &Machine, size: Bytes, node: u8) -> Result<()> {
    let backend = json!({"qom-type": "memory-backend-ram", "id": "mem0", "size": size.get()});
    guest.execute("object-add", backend).await?;
    let dimm = json!({"driver": "pc-dimm", "id": "dimm0", "memdev": "mem0", "node": node});
    guest.execute("device_add", dimm).await.map(drop)
}

async fn plug_vcpu(guest: &Machine) -> Result<()> {
    let slots = guest.execute("query-hotpluggable-cpus", Value::Null).await?;
    let free = slots.as_array().unwrap().iter().rev().find(|slot| slot.get("qom-path").is_none()).unwrap();
    let mut cpu = free["props"].clone();
    cpu["driver"] = free["type"].clone();
    cpu["id"] = json!("cpu-new");
    guest.execute("device_add", cpu).await.map(drop)
}

/// The zones of the blocks that were not there at boot, once there are `count` and `online` says so of each.
async fn new_blocks(guest: &Machine, boot: usize, count: usize, online: bool) -> Result<Vec<String>> {
    eventually("the new blocks", SOON, async || {
        let blocks = guest.witness().blocks().await?;
        let new = blocks.get(boot..).unwrap_or_default();
        let settled = new.len() == count && new.iter().all(|block| block.online == online);
        Ok(settled.then(|| new.iter().map(|block| block.zone.clone()).collect()))
    })
    .await
}

/// For how many seconds the guest's kernel says that it runs.
async fn uptime(guest: &Machine) -> f64 {
    guest.shell("cut -d ' ' -f 1 /proc/uptime").await.unwrap().ok().unwrap().parse().unwrap()
}

#[tokio::test]
async fn where_nobody_onlines_plugged_memory_stays_offline() {
    for recipe in boards() {
        let guest = recipe.memory(Bytes::mib(256)).boot().await.unwrap();
        let witness = guest.witness();
        let service = guest.watch_service();
        let (since, uptime) = (Instant::now(), uptime(&guest).await);
        let (total, blocks) = (witness.mem_total().await.unwrap(), witness.blocks().await.unwrap().len());
        assert_eq!(witness.block_size().await.unwrap(), Bytes::mib(128));
        assert_eq!(witness.nproc().await.unwrap(), 1);

        plug_dimm(&guest, Bytes::mib(512), 0).await.unwrap();
        new_blocks(&guest, blocks, 4, false).await.unwrap();
        assert_eq!(witness.mem_total().await.unwrap(), total);

        guest
            .shell("cd /sys/devices/system/memory; for b in memory*; do [ $(cat $b/state) = online ] || echo online > $b/state; done")
            .await
            .unwrap()
            .ok()
            .unwrap();
        let grown = witness.mem_total().await.unwrap();
        assert_eq!(grown.saturating_sub(total), Bytes::mib(512));
        assert!(total < Bytes::mib(160));
        // More than the guest ever had before: the new memory is really used.
        let touched = witness.touch(Bytes::mib(160)).await.unwrap();
        assert!(witness.intact(&touched).await.unwrap());
        witness.release(touched).await.unwrap();

        let took = self::uptime(&guest).await - uptime;
        let pace = took / since.elapsed().as_secs_f64();
        assert!((0.5..1.5).contains(&pace), "a second of ours is {pace} of the guest's");

        let report = service.finish().await;
        assert_eq!((report.lost, report.answered), (0, report.asked), "{report:?}");
        assert!(report.asked > 0, "{report:?}");
    }
}

#[tokio::test]
async fn udevd_onlines_memory_and_cpus_and_a_filtered_agent_refuses() {
    for recipe in boards() {
        let calls = ["guest-exec", "guest-file-open"].map(String::from).to_vec();
        let guest = recipe.onlining(Onlining::Udev).agent(Agent::Blocking(calls)).boot().await.unwrap();
        let blocks = guest.witness().blocks().await.unwrap().len();
        plug_dimm(&guest, Bytes::mib(256), 0).await.unwrap();
        new_blocks(&guest, blocks, 2, true).await.unwrap();

        plug_vcpu(&guest).await.unwrap();
        eventually("the new CPU", SOON, async || Ok((guest.witness().nproc().await? == 2).then_some(())))
            .await
            .unwrap();

        let mut agent = AgentClient::connect(&guest.agent(), SOON).await.unwrap();
        agent.call("guest-ping", Value::Null, SOON).await.unwrap();
        let refused = agent.call("guest-exec", json!({"path": "true"}), SOON).await.unwrap_err();
        assert!(refused.to_string().contains("disabled"), "{refused}");
    }
}

#[tokio::test]
async fn the_kernel_onlines_to_the_movable_zone_on_the_second_node() {
    for recipe in boards() {
        let recipe = recipe.onlining(Onlining::KernelMovable).two_nodes().vcpus(2, 4);
        let guest = recipe.virtio_mem(Bytes::gib(2), 1).boot().await.unwrap();
        let blocks = guest.witness().blocks().await.unwrap().len();
        let grow =
            json!({"path": "/machine/peripheral/vmem0", "property": "requested-size", "value": 512 << 20});
        guest.execute("qom-set", grow).await.unwrap();
        let zones = new_blocks(&guest, blocks, 4, true).await.unwrap();
        assert!(zones.iter().all(|zone| zone == "Movable"), "{zones:?}");
        let second =
            guest.shell("ls -d /sys/devices/system/node/node1/memory* | wc -l").await.unwrap().ok().unwrap();
        // Two of the four blocks at boot, and the four new ones.
        assert_eq!(second, "6");
        assert_eq!(guest.witness().nproc().await.unwrap(), 2);
    }
}

#[tokio::test]
async fn the_kernel_onlines_and_no_agent_answers() {
    for recipe in boards() {
        let recipe = recipe.onlining(Onlining::Kernel).agent(Agent::Absent).no_balloon();
        let guest = recipe.kernel_param("lab_word=heard").boot().await.unwrap();
        let blocks = guest.witness().blocks().await.unwrap().len();
        plug_dimm(&guest, Bytes::mib(256), 0).await.unwrap();
        new_blocks(&guest, blocks, 2, true).await.unwrap();
        assert!(guest.execute("query-balloon", Value::Null).await.is_err());
        let line = guest.shell("cat /proc/cmdline").await.unwrap().ok().unwrap();
        assert!(line.ends_with(" lab_word=heard"), "{line}");
        assert!(AgentClient::connect(&guest.agent(), Duration::from_millis(300)).await.is_err());
    }
}

#[tokio::test]
async fn many_may_ask_the_guests_shell_at_once() {
    let guest = Recipe::q35().agent(Agent::Absent).boot().await.unwrap();
    let ask = async |mark: char| {
        // More than one write of the guest's takes.
        let command = format!("head -c 40000 /dev/zero | tr '\\0' {mark}");
        for _ in 0..3 {
            let said = guest.shell(&command).await.unwrap().ok().unwrap();
            assert!(
                said.len() == 40_000 && said.chars().all(|it| it == mark),
                "{mark}: {} bytes",
                said.len()
            );
        }
    };
    let hanging = guest.witness().shell("sleep 600", Duration::from_secs(5));
    let (_, _, _, hung) = tokio::join!(ask('a'), ask('b'), ask('c'), hanging);
    let hung = hung.unwrap();
    assert!(hung.status == 137 && hung.stderr.contains("sleep 600"), "its time is up: {hung:?}");
}

#[tokio::test]
async fn the_backports_qemu_boots_the_same_guest_or_says_why_not() {
    let found = tokio::task::spawn_blocking(|| Qemu::backports(&Cache::open().unwrap())).await.unwrap();
    let qemu = match found {
        Ok(qemu) => qemu,
        Err(absent) => {
            assert!(absent.to_string().len() > "no QEMU from the backports here: ".len());
            return eprintln!("{absent}");
        }
    };
    for recipe in boards() {
        let guest = recipe.qemu(Generation::Backports).boot().await.unwrap();
        let version = guest.execute("query-version", Value::Null).await.unwrap();
        let version = &version["qemu"];
        let text = format!("{}.{}.{}", version["major"], version["minor"], version["micro"]);
        assert_eq!(text, qemu.version());
        plug_vcpu(&guest).await.unwrap();
        plug_dimm(&guest, Bytes::mib(256), 0).await.unwrap();
        let blocks = guest.witness().blocks().await.unwrap().len();
        assert!(blocks >= 4, "{blocks}");
    }
}
