//! The walk that administrators do today, step by step with their own tools on a real domain, and the same by Supple in
//! one command. What the walk runs into on its way is seen here too: it is what Supple is for.

use std::time::Duration;

use anyhow::Result;
use drive::domxml::Drift;
use drive::journal::MemoryJournal;
use drive::libvirt::LibvirtMachine;
use drive::resize::resize;
use lab::{Block, DomainGuest, Libvirtd, Onlining, Recipe, Yes, eventually};
use scale::limits::Limits;
use scale::plan::Strength;
use scale::report::{Report, Verdict};
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;

const SOON: Duration = Duration::from_secs(60);
const BOOT: Bytes = Bytes::mib(512);
const HALF: Bytes = Bytes::mib(512);

/// The device as it stands in most guides. 524287 is one KiB less than 512 MiB.
const DIMM_OF_GUIDES: &str = "\
<memory model='dimm'>
  <target>
    <size unit='KiB'>524287</size>
    <node>0</node>
  </target>
</memory>
";

/// The domain of the guides: it may grow to 64 GiB in 32 slots, and has one NUMA node for what comes.
fn domain() -> Recipe {
    Recipe::q35().memory(BOOT).max_memory(Bytes::gib(64), 32)
}

struct Desk {
    guest: DomainGuest,
    libvirtd: Libvirtd,
    dir: tempfile::TempDir,
}

impl Desk {
    async fn with(recipe: &Recipe) -> Desk {
        let libvirtd = Libvirtd::start().await.unwrap();
        let guest = libvirtd.boot("web1", recipe).await.unwrap();
        Desk { guest, libvirtd, dir: tempfile::tempdir().unwrap() }
    }

    /// `virsh WHAT web1 FILE --live --config`, where FILE holds `xml`.
    async fn virsh(&self, what: &str, xml: &str) -> Result<String> {
        let file = self.dir.path().join("device.xml");
        std::fs::write(&file, xml)?;
        self.libvirtd.virsh(&[what, "web1", &file.display().to_string(), "--live", "--config"]).await
    }

    /// The blocks that the guest shows besides those that it booted with, once there are some.
    async fn new_blocks(&self, boot: usize) -> Vec<Block> {
        let shown = eventually("the guest shows new blocks", SOON, async || {
            let blocks = self.guest.witness().blocks().await?;
            Ok((blocks.len() == boot + 4).then_some(blocks))
        });
        shown.await.unwrap().split_off(boot)
    }

    /// `supple apply web1 --memory SIZE --yes`
    async fn supple(&self, size: Bytes) -> Report {
        let limits = Limits::default();
        let mut machine = LibvirtMachine::open(&self.libvirtd.connect_uri(), "web1", &limits).await.unwrap();
        let wanted = Wanted { memory: Some(Change::To(size)), ..Wanted::default() };
        let report = resize(&mut machine, &mut MemoryJournal::default(), wanted, &limits, &mut Yes).await;
        assert_eq!(machine.not_followed(), [""; 0]);
        report.unwrap()
    }
}

#[tokio::test]
async fn by_hand_it_takes_a_rounding_an_offline_guest_and_a_device_that_cannot_be_detached() {
    let desk = Desk::with(&domain()).await;
    let witness = desk.guest.witness();
    let (boot, before) = (witness.blocks().await.unwrap().len(), witness.mem_total().await.unwrap());

    // virsh says that it is done. libvirt has rounded the size up to a whole MiB for QEMU, and kept the number as it was
    // written for the next start: the two descriptions differ from here on.
    desk.virsh("attach-device", DIMM_OF_GUIDES).await.unwrap();
    let summary = desk.guest.ask("query-memory-size-summary").await.unwrap();
    assert_eq!(summary["plugged-memory"], HALF.get());
    let (live, next) = desk.guest.described().await.unwrap();
    assert_eq!(live.memory_devices[0].size, HALF);
    assert_eq!(next.memory_devices[0].size, Bytes::new(524_287 << 10));
    let drifted = desk.guest.drifted().await.unwrap();
    assert!(matches!(drifted[..], [Drift::Rounded { .. }]), "{drifted:#?}");

    // The guest has the memory and does not use it.
    let blocks = desk.new_blocks(boot).await;
    assert!(blocks.iter().all(|block| !block.online), "plugged is not online: {blocks:?}");
    assert_eq!(witness.mem_total().await.unwrap(), before);

    // So the administrator logs into the guest.
    for block in &blocks {
        let online = format!("echo online_movable > /sys/devices/system/memory/memory{}/state", block.number);
        desk.guest.shell(&online).await.unwrap().ok().unwrap();
    }
    assert_eq!(witness.mem_total().await.unwrap(), before + HALF);

    // The way back ends early: the device as libvirt shows it is not the one in the definition.
    let shown = live.memory_devices[0].xml.clone();
    let refused = desk.virsh("detach-device", &shown).await.unwrap_err().to_string();
    assert!(refused.contains("not found") || refused.contains("not present"), "{refused}");

    // Supple finds both and takes them out, and then does the whole walk in one command.
    let service = desk.guest.watch_service();
    let report = desk.supple(BOOT).await;
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    assert_eq!(witness.mem_total().await.unwrap(), before);
    desk.guest.is_level().await.unwrap();

    let report = desk.supple(BOOT + HALF).await;
    assert_eq!((report.verdict, report.strength), (Verdict::Proven, Some(Strength::GuestConfirmed)));
    assert_eq!(witness.mem_total().await.unwrap(), before + HALF);
    desk.guest.is_level().await.unwrap();
    assert_eq!(service.finish().await.lost, 0);
}

#[tokio::test]
async fn with_the_udev_rule_the_guest_takes_it_in_without_a_hand() {
    let desk = Desk::with(&domain().onlining(Onlining::Udev)).await;
    let witness = desk.guest.witness();
    let (boot, before) = (witness.blocks().await.unwrap().len(), witness.mem_total().await.unwrap());
    desk.virsh("attach-device", DIMM_OF_GUIDES).await.unwrap();
    desk.new_blocks(boot).await;
    eventually("the rule has put them online", SOON, async || {
        Ok((witness.mem_total().await? == before + HALF).then_some(()))
    })
    .await
    .unwrap();
    assert!(desk.new_blocks(boot).await.iter().all(|block| block.online));
}
