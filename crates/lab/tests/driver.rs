//! The QMP driver against real guests, through the driver seam: what it observes, does, sees and hears is what the
//! guest's own kernel shows.

use std::time::Duration;

use drive::guest::setup::{self, Installed};
use drive::qmp::QmpMachine;
use drive::{ApplyError, Hypervisor};
use lab::{Agent, Block, Machine, Onlining, Recipe, eventually};
use scale::limits::Limits;
use scale::observed::{Accel, AutoOnline, Backing, BalloonStats, Guest, Observed, VcpuState};
use scale::plan::{Act, Proof, Zone};
use scale::sight::{Event, GuestView, Judgement, Look, Sight};
use scale::time::Span;
use scale::units::Bytes;

const SOON: Duration = Duration::from_secs(30);

/// A booted guest and the driver for it.
async fn driven(recipe: Recipe) -> (Machine, QmpMachine) {
    let guest = recipe.boot().await.unwrap();
    let machine = open(&guest, &Limits::default()).await;
    (guest, machine)
}

async fn open(guest: &Machine, limits: &Limits) -> QmpMachine {
    QmpMachine::open(&guest.qmp(), Some(&guest.agent()), limits).await.unwrap()
}

async fn apply(machine: &mut QmpMachine, act: Act) -> Result<(), ApplyError> {
    let until = machine.now() + Span::secs(60);
    machine.apply(&act, until).await
}

/// Waits until a proof holds.
async fn proven(machine: &mut QmpMachine, proof: Proof) {
    let look = proof.look(true);
    eventually(&format!("{proof:?}"), SOON, async || {
        let sight = machine.look(&look).await?;
        Ok(matches!(proof.judge(&sight, false), Judgement::Holds(_)).then_some(()))
    })
    .await
    .unwrap();
}

/// The events up to the first that is wanted.
async fn heard(machine: &mut QmpMachine, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    let until = machine.now() + Span::secs(30);
    let mut events = Vec::new();
    while let Some(event) = machine.watch(until).await {
        let found = wanted(&event);
        events.push(event);
        if found {
            return events;
        }
    }
    panic!("only {events:?}");
}

fn create(size: Bytes) -> Act {
    Act::CreateBackend {
        memdev: "supple-mem-0".into(),
        size,
        backing: Backing::Ram,
        placement: Default::default(),
    }
}

fn plug(node: u32) -> Act {
    let (id, memdev) = ("supple-dimm-0".into(), "supple-mem-0".into());
    Act::PlugDimm { id, memdev, brings: None, slot: 0, node, addr: None }
}

fn unplug() -> Act {
    Act::UnplugDimm { id: "supple-dimm-0".into(), memdev: "supple-mem-0".into(), slot: 0 }
}

fn online(device: &str, zone: Zone) -> Act {
    Act::OnlineBlocks { device: device.into(), zone }
}

fn offline(device: &str) -> Act {
    Act::OfflineBlocks { device: device.into() }
}

fn movable() -> Proof {
    Proof::BlocksMovable { device: "supple-dimm-0".into(), whole: true }
}

fn seen() -> Proof {
    Proof::DimmSeen { id: "supple-dimm-0".into() }
}

/// The figures of the guest's balloon driver, and the observation that has them. An observation waits for the first ones
/// for a moment only, which may be too short for a guest on a busy host; the next one has them.
async fn told_by_the_balloon(machine: &mut QmpMachine) -> (Observed, BalloonStats) {
    eventually("the balloon's driver tells", SOON, async || {
        let observed = machine.observe().await?;
        let told = observed.memory.balloon.and_then(|balloon| balloon.stats);
        Ok(told.map(|figures| (observed, figures)))
    })
    .await
    .unwrap()
}

/// The blocks that the guest's kernel shows after the first `boot`.
async fn new_blocks(guest: &Machine, boot: usize) -> Vec<Block> {
    guest.witness().blocks().await.unwrap().split_off(boot)
}

/// What the driver observed is what the guest's kernel says.
async fn agrees_with_guest(observed: &Observed, guest: &Machine) {
    let facts = observed.guest.heard().unwrap();
    let witness = guest.witness();
    let shown: Vec<(u64, bool)> = facts.blocks.iter().map(|block| (block.index, block.online)).collect();
    let blocks = witness.blocks().await.unwrap();
    assert_eq!(shown, blocks.iter().map(|block| (block.number, block.online)).collect::<Vec<_>>());
    assert_eq!(facts.block, Some(witness.block_size().await.unwrap()));
    assert_eq!(facts.online_vcpus() as usize, witness.nproc().await.unwrap() as usize);
    assert_eq!(facts.meminfo.unwrap().total, witness.mem_total().await.unwrap());
}

#[tokio::test]
async fn an_observation_is_what_qemu_and_the_guest_say() {
    let (guest, mut machine) = driven(Recipe::q35().memory(Bytes::gib(1)).vcpus(2, 4).two_nodes()).await;
    let observed = machine.observe().await.unwrap();
    agrees_with_guest(&observed, &guest).await;

    let at = &observed.machine;
    assert!(at.kind.starts_with("pc-q35-") && at.is_running() && at.busy.is_empty(), "{at:?}");
    assert_eq!((at.name.as_deref(), at.uuid.as_deref(), at.arch.as_str()), (Some("lab"), None, "x86_64"));
    assert!(at.accel != Accel::Unknown && at.qemu >= scale::observed::Version(7, 2, 0), "{at:?}");

    let memory = &observed.memory;
    assert_eq!((memory.boot, memory.ceiling, memory.slots), (Bytes::gib(1), Bytes::gib(8), 16));
    assert_eq!((&memory.backing, memory.alignment), (&Backing::Ram, Bytes::mib(2)));
    assert_eq!(memory.nodes.iter().map(|node| node.memory).collect::<Vec<_>>(), [Bytes::mib(512); 2]);
    assert_eq!(memory.balloon.unwrap().actual, Bytes::gib(1));
    assert!(memory.unused_backends.is_empty(), "boot memory of a node is in use: {memory:?}");

    let vcpus = &observed.vcpus;
    let states: Vec<_> = vcpus.slots.iter().map(|slot| slot.state.clone()).collect();
    assert_eq!(states, [VcpuState::Boot, VcpuState::Boot, VcpuState::Free, VcpuState::Free]);
    assert_eq!(
        vcpus.slots.iter().map(|slot| slot.props.node_id).collect::<Vec<_>>(),
        [Some(0), Some(0), Some(1), Some(1)]
    );
    assert!(!vcpus.removed_before);

    let facts = observed.guest.heard().unwrap();
    assert!(
        facts.can_write_files() && facts.kernel.as_deref().is_some_and(|kernel| kernel.starts_with("6."))
    );
    assert_eq!(facts.auto_online, Some(AutoOnline::Offline));
    assert!(!facts.has_probe, "Debian's kernels are built without it");
    let host = &observed.host;
    assert_eq!(host.qemu_pid, Some(guest.pid()));
    assert!(host.available.is_some() && !host.vfio && host.vhost_regions.is_none(), "{host:?}");
}

#[tokio::test]
async fn a_dimm_is_plugged_put_online_taken_offline_and_removed() {
    for recipe in [Recipe::q35(), Recipe::i440fx()] {
        let (guest, mut machine) = driven(recipe).await;
        let witness = guest.witness();
        let boot = witness.blocks().await.unwrap().len();
        let total = witness.mem_total().await.unwrap();

        apply(&mut machine, create(Bytes::mib(512))).await.unwrap();
        proven(&mut machine, Proof::BackendExists { memdev: "supple-mem-0".into() }).await;
        let unused = machine.observe().await.unwrap().memory.unused_backends;
        assert_eq!(
            unused.iter().map(|b| (b.id.as_str(), b.size)).collect::<Vec<_>>(),
            [("supple-mem-0", Bytes::mib(512))]
        );

        apply(&mut machine, plug(0)).await.unwrap();
        proven(&mut machine, seen()).await;
        heard(&mut machine, |event| event.acknowledges("supple-dimm-0")).await;
        assert!(new_blocks(&guest, boot).await.iter().all(|block| !block.online), "plugged is not online");

        apply(&mut machine, online("supple-dimm-0", Zone::Movable)).await.unwrap();
        proven(&mut machine, movable()).await;
        let blocks = new_blocks(&guest, boot).await;
        assert!(blocks.len() == 4 && blocks.iter().all(|b| b.online && b.zone == "Movable"), "{blocks:?}");
        assert_eq!(witness.mem_total().await.unwrap(), total + Bytes::mib(512));
        let observed = machine.observe().await.unwrap();
        agrees_with_guest(&observed, &guest).await;
        assert_eq!(observed.memory.total(), Bytes::gib(1));
        assert!(observed.memory.unused_backends.is_empty());
        assert_eq!(observed.memory.dimms[0].ost.map(|ost| (ost.source, ost.status)), Some((1, 0)));

        apply(&mut machine, offline("supple-dimm-0")).await.unwrap();
        proven(&mut machine, Proof::BlocksOffline { device: "supple-dimm-0".into() }).await;
        assert_eq!(witness.mem_total().await.unwrap(), total);
        // Linux itself would choose another zone now that the DIMM has none.
        apply(&mut machine, online("supple-dimm-0", Zone::AsBefore)).await.unwrap();
        proven(&mut machine, movable()).await;
        assert_eq!(machine.remarks(), Vec::<String>::new());
        apply(&mut machine, offline("supple-dimm-0")).await.unwrap();

        apply(&mut machine, unplug()).await.unwrap();
        let gone = Event::DeviceDeleted { id: "supple-dimm-0".into() };
        heard(&mut machine, |event| *event == gone).await;
        proven(&mut machine, Proof::DimmGone { id: "supple-dimm-0".into() }).await;
        let delete = Act::DeleteBackend { memdev: "supple-mem-0".into() };
        apply(&mut machine, delete).await.unwrap();
        proven(&mut machine, Proof::BackendGone { memdev: "supple-mem-0".into() }).await;
        assert_eq!(witness.blocks().await.unwrap().len(), boot);
    }
}

#[tokio::test]
async fn qemu_says_no_in_its_own_words_and_nothing_is_changed() {
    let (_guest, mut machine) = driven(Recipe::q35()).await;
    let refused = |result: Result<(), ApplyError>, words: &str| {
        let Err(ApplyError::Refused(why)) = &result else { panic!("{result:?}") };
        assert!(why.contains(words), "{why}");
    };
    refused(apply(&mut machine, plug(0)).await, "supple-mem-0");
    apply(&mut machine, create(Bytes::mib(128))).await.unwrap();
    refused(apply(&mut machine, create(Bytes::mib(128))).await, "duplicate");
    refused(apply(&mut machine, plug(7)).await, "node");
    refused(apply(&mut machine, unplug()).await, "supple-dimm-0");
    refused(apply(&mut machine, online("nothing", Zone::Default)).await, "nothing");
    let settle = Act::SettleVirtioMem { id: "vmem0".into() };
    refused(apply(&mut machine, settle).await, "vmem0");
    apply(&mut machine, plug(0)).await.unwrap();
    let delete = Act::DeleteBackend { memdev: "supple-mem-0".into() };
    refused(apply(&mut machine, delete).await, "in use");
}

#[tokio::test]
async fn an_agent_that_may_not_write_files_still_puts_blocks_online() {
    let calls = ["guest-exec", "guest-file-open", "guest-file-write"].map(String::from).to_vec();
    let (guest, mut machine) = driven(Recipe::q35().agent(Agent::Blocking(calls))).await;
    let boot = guest.witness().blocks().await.unwrap().len();
    let observed = machine.observe().await.unwrap();
    let facts = observed.guest.heard().unwrap();
    assert!(!facts.can("guest-exec") && !facts.can_write_files() && facts.can("guest-get-memory-blocks"));
    assert!(facts.meminfo.is_none() && facts.auto_online.is_none());
    let (_, figures) = told_by_the_balloon(&mut machine).await;
    assert_eq!(figures.total, guest.witness().mem_total().await.unwrap());

    apply(&mut machine, create(Bytes::mib(256))).await.unwrap();
    apply(&mut machine, plug(0)).await.unwrap();
    proven(&mut machine, seen()).await;
    let insisted = apply(&mut machine, online("supple-dimm-0", Zone::Movable)).await;
    assert!(matches!(&insisted, Err(ApplyError::Refused(why)) if why.contains("as movable")), "{insisted:?}");
    apply(&mut machine, online("supple-dimm-0", Zone::PreferMovable)).await.unwrap();
    proven(&mut machine, Proof::BlocksOnline { device: "supple-dimm-0".into(), whole: true }).await;
    assert!(new_blocks(&guest, boot).await.iter().all(|block| block.online));
    assert!(machine.remarks()[0].contains("not in Movable"), "the wish and what came of it differ");
}

#[tokio::test]
async fn blocks_of_the_kernel_s_zone_come_back_to_it_and_are_never_called_movable() {
    let (guest, mut machine) = driven(Recipe::q35()).await;
    let boot = guest.witness().blocks().await.unwrap().len();
    apply(&mut machine, create(Bytes::mib(512))).await.unwrap();
    apply(&mut machine, plug(0)).await.unwrap();
    proven(&mut machine, seen()).await;
    apply(&mut machine, online("supple-dimm-0", Zone::Default)).await.unwrap();
    let looked = machine.look(&Look::Zones("supple-dimm-0".into())).await.unwrap();
    let judged = movable().judge(&looked, false);
    assert!(matches!(&judged, Judgement::Never(why) if why.contains("Normal")), "{judged:?}");
    // Whether the kernel lets all of them go, or uses one by now: what went comes back where it was.
    let _ = apply(&mut machine, offline("supple-dimm-0")).await;
    apply(&mut machine, online("supple-dimm-0", Zone::AsBefore)).await.unwrap();
    let blocks = new_blocks(&guest, boot).await;
    assert!(blocks.len() == 4 && blocks.iter().all(|b| b.online && b.zone == "Normal"), "{blocks:?}");
}

#[tokio::test]
async fn a_block_that_the_kernel_uses_itself_is_named_with_the_reason() {
    let (guest, mut machine) = driven(Recipe::q35()).await;
    let boot = guest.witness().blocks().await.unwrap().len();
    apply(&mut machine, create(Bytes::mib(128))).await.unwrap();
    apply(&mut machine, plug(0)).await.unwrap();
    proven(&mut machine, seen()).await;
    apply(&mut machine, online("supple-dimm-0", Zone::Default)).await.unwrap();
    // Linux prefers memory above 4 GiB for itself: what it needs for these files cannot be moved.
    guest.shell("mkdir /run/many && cd /run/many && seq 1 3000 | xargs touch").await.unwrap().ok().unwrap();

    let result = apply(&mut machine, offline("supple-dimm-0")).await;
    let Err(ApplyError::Refused(why)) = &result else { panic!("{result:?}") };
    let block = new_blocks(&guest, boot).await.remove(0);
    assert!(block.online && why.starts_with(&format!("memory{}: ", block.number)), "{why}");
    assert!(why.contains("busy") && why.contains("0 of 1 memory blocks"), "{why}");
    assert!(matches!(machine.look(&Look::Vcpus).await.unwrap(), Sight::Vcpus(GuestView::Shows(_))));
}

#[tokio::test]
async fn virtio_mem_grows_and_shrinks_and_a_stale_resize_is_refused() {
    let recipe = Recipe::q35().onlining(Onlining::KernelMovable).virtio_mem(Bytes::gib(2), 0);
    let (guest, mut machine) = driven(recipe).await;
    let total = guest.witness().mem_total().await.unwrap();
    let half = Bytes::mib(512);
    let resize = |from, to| Act::ResizeVirtioMem { id: "vmem0".into(), from, to };
    apply(&mut machine, resize(Bytes::ZERO, half)).await.unwrap();
    proven(&mut machine, Proof::VirtioMemSize { id: "vmem0".into(), size: half }).await;
    proven(&mut machine, Proof::BlocksOnline { device: "vmem0".into(), whole: false }).await;
    heard(&mut machine, |event| *event == Event::SizeChanged).await;
    assert_eq!(guest.witness().mem_total().await.unwrap(), total + half);
    let observed = machine.observe().await.unwrap();
    let device = &observed.memory.virtio_mem[0];
    assert_eq!((device.size, device.requested, device.max), (half, half, Bytes::gib(2)));
    assert_eq!(observed.memory.total(), Bytes::gib(1));

    let stale = apply(&mut machine, resize(Bytes::ZERO, Bytes::gib(1))).await;
    assert!(matches!(&stale, Err(ApplyError::Refused(why)) if why.contains("no longer")), "{stale:?}");
    // Sent a second time, it is the same.
    apply(&mut machine, resize(Bytes::ZERO, half)).await.unwrap();

    apply(&mut machine, resize(half, Bytes::ZERO)).await.unwrap();
    proven(&mut machine, Proof::VirtioMemSize { id: "vmem0".into(), size: Bytes::ZERO }).await;
    apply(&mut machine, Act::SettleVirtioMem { id: "vmem0".into() }).await.unwrap();
    proven(&mut machine, Proof::VirtioMemSettled { id: "vmem0".into() }).await;
    assert_eq!(guest.witness().mem_total().await.unwrap(), total);
}

#[tokio::test]
async fn a_vcpu_is_plugged_put_online_and_removed_and_the_removal_is_remembered() {
    let (guest, mut machine) = driven(Recipe::q35().vcpus(1, 4)).await;
    let before = machine.observe().await.unwrap();
    let free = before.vcpus.slots.iter().find(|slot| slot.state == VcpuState::Free).unwrap();
    let (driver, props) = (free.driver.clone(), free.props);
    apply(&mut machine, Act::PlugVcpu { id: "supple-vcpu-1".into(), driver, props }).await.unwrap();
    proven(&mut machine, Proof::VcpuSeen { id: "supple-vcpu-1".into(), present: 2 }).await;
    assert_eq!(guest.witness().nproc().await.unwrap(), 1, "seen is not online");
    apply(&mut machine, Act::OnlineVcpus { count: 2 }).await.unwrap();
    proven(&mut machine, Proof::VcpusOnline { count: 2 }).await;
    assert_eq!(guest.witness().nproc().await.unwrap(), 2);
    let too_many = apply(&mut machine, Act::OnlineVcpus { count: 3 }).await;
    assert!(matches!(&too_many, Err(ApplyError::Refused(why)) if why.contains("only 2")), "{too_many:?}");

    let observed = machine.observe().await.unwrap();
    agrees_with_guest(&observed, &guest).await;
    let slot = &observed.vcpus.slots[1];
    assert_eq!(slot.state, VcpuState::Device("supple-vcpu-1".into()));
    assert_eq!(slot.ost.map(|ost| (ost.source, ost.status)), Some((1, 0)));
    assert!(!observed.vcpus.removed_before);

    apply(&mut machine, Act::UnplugVcpu { id: "supple-vcpu-1".into() }).await.unwrap();
    let done = |event: &Event| matches!(event, Event::Ost { slot_type, source: 3, status: 0, .. } if slot_type == "CPU");
    heard(&mut machine, done).await;
    proven(&mut machine, Proof::VcpuGone { id: "supple-vcpu-1".into() }).await;
    let after = machine.observe().await.unwrap();
    assert_eq!(after.vcpus.plugged(), 1);
    assert!(after.vcpus.removed_before);
    assert_eq!(guest.witness().nproc().await.unwrap(), 1);
}

#[tokio::test]
async fn without_an_agent_the_balloon_tells() {
    let recipe = Recipe::q35().onlining(Onlining::Kernel).agent(Agent::Absent);
    let guest = recipe.boot().await.unwrap();
    let limits = Limits { agent: Span::millis(300), ..Limits::default() };
    let mut machine = open(&guest, &limits).await;
    let observed = machine.observe().await.unwrap();
    assert!(matches!(&observed.guest, Guest::Unheard(why) if why.contains("silent")), "{:?}", observed.guest);
    let total = guest.witness().mem_total().await.unwrap();
    let (observed, figures) = told_by_the_balloon(&mut machine).await;
    assert_eq!(figures.total, total);
    assert!(observed.at.since(figures.at) <= limits.stale, "they are fresh");

    apply(&mut machine, create(Bytes::mib(256))).await.unwrap();
    apply(&mut machine, plug(0)).await.unwrap();
    heard(&mut machine, |event| event.acknowledges("supple-dimm-0")).await;
    let sight = machine.look(&Look::Dimm("supple-dimm-0".into())).await.unwrap();
    assert!(
        matches!(&sight, Sight::Dimm(Some(dimm)) if matches!(dimm.guest, GuestView::Silent(_))),
        "{sight:?}"
    );
    proven(&mut machine, Proof::GuestTotal { at_least: total + Bytes::mib(256) }).await;
    let shrink = Act::SetBalloon { from: Bytes::mib(768), to: Bytes::mib(640) };
    apply(&mut machine, shrink).await.unwrap();
    proven(&mut machine, Proof::BalloonAt { actual: Bytes::mib(640) }).await;
}

#[tokio::test]
async fn the_udev_rule_is_installed_and_works() {
    // The rule leaves the zone to the kernel. By itself that takes Normal and fills it with what cannot be moved, from
    // whichever block udev happened to put online first; told so, it takes Movable, which comes out again whole.
    let recipe =
        Recipe::q35().onlining(Onlining::Udev).kernel_param("memory_hotplug.online_policy=auto-movable");
    let (guest, mut machine) = driven(recipe).await;
    let boot = guest.witness().blocks().await.unwrap().len();
    // The lab's own rule goes, so that what follows is the work of ours.
    guest
        .shell("rm /lib/udev/rules.d/40-lab.rules && mkdir -p /etc/udev/rules.d")
        .await
        .unwrap()
        .ok()
        .unwrap();
    drop(machine);
    let mut agent = drive::guest::Agent::connect(&guest.agent(), SOON).await.unwrap();
    let installed = setup::install_udev_rule(&mut agent, SOON).await.unwrap();
    assert_eq!(installed, Installed::Loaded);
    drop(agent);
    let rule = guest.shell(&format!("cat {}", setup::UDEV_PATH)).await.unwrap().ok().unwrap();
    assert_eq!(rule.trim(), setup::UDEV_RULES.trim());

    machine = open(&guest, &Limits::default()).await;
    apply(&mut machine, create(Bytes::mib(512))).await.unwrap();
    apply(&mut machine, plug(0)).await.unwrap();
    proven(&mut machine, Proof::BlocksOnline { device: "supple-dimm-0".into(), whole: true }).await;
    let blocks = new_blocks(&guest, boot).await;
    assert!(blocks.len() == 4 && blocks.iter().all(|b| b.online && b.zone == "Movable"), "{blocks:?}");
    // Blocks that are taken offline stay so: the rule does not run then.
    apply(&mut machine, offline("supple-dimm-0")).await.unwrap();
    guest.shell("udevadm settle").await.unwrap().ok().unwrap();
    let blocks = new_blocks(&guest, boot).await;
    assert!(blocks.len() == 4 && blocks.iter().all(|block| !block.online), "{blocks:?}");
}
