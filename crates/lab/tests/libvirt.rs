//! Supple through a real libvirtd, on real guests: what it did is looked for on all sides, in the guest's own kernel, in
//! QEMU, and in both of libvirt's descriptions.

use std::time::Duration;

use drive::domxml::{self, Drift, drift};
use drive::journal::MemoryJournal;
use drive::libvirt::{
    AgentLine, Closed, Connection, Event, Events, Heard, LibvirtMachine, OpenError, Pool, State, Xml,
};
use drive::resize::resize;
use drive::{ApplyError, Hypervisor, ObserveError};
use lab::{Agent, DomainGuest, Generation, Libvirtd, Onlining, Recipe, Yes};
use scale::limits::Limits;
use scale::observed::{Guest, Manager};
use scale::plan::{Act, Strength};
use scale::report::{Report, Verdict};
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted};
use serde_json::Value;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);

/// A libvirtd, a guest in it, and Supple's driver for that.
struct Stage {
    machine: LibvirtMachine,
    guest: DomainGuest,
    libvirtd: Libvirtd,
}

async fn stage(generation: Generation, recipe: Recipe) -> Stage {
    let libvirtd = Libvirtd::of(generation).await.unwrap();
    let guest = libvirtd.boot("web1", &recipe).await.unwrap();
    let machine = LibvirtMachine::open(&libvirtd.connect_uri(), "web1", &Limits::default()).await.unwrap();
    Stage { machine, guest, libvirtd }
}

impl Stage {
    async fn resize(&mut self, wanted: Wanted) -> Report {
        let mut journal = MemoryJournal::default();
        resize(&mut self.machine, &mut journal, wanted, &Limits::default(), &mut Yes).await.unwrap()
    }

    /// Resizes, and has it proven in the guest and the same in both descriptions.
    async fn proven(&mut self, wanted: Wanted) {
        let report = self.resize(wanted).await;
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", self.libvirtd.log());
        assert!(report.strength >= Some(Strength::DriverConfirmed), "{report:#?}");
        assert_eq!(self.machine.not_followed(), [""; 0]);
        self.level().await;
    }

    /// Waits until both descriptions say the same. libvirt learns of the balloon and of virtio-mem from events, of which
    /// QEMU sends one a second.
    async fn level(&self) {
        let level = lab::eventually("both descriptions say the same", SOON, async || {
            Ok(self.drifted().await.is_empty().then_some(()))
        });
        if let Err(error) = level.await {
            let live = self.libvirtd.virsh(&["dumpxml", "web1"]).await.unwrap();
            panic!("{error}: {:#?}\n{live}", self.drifted().await);
        }
    }

    async fn drifted(&self) -> Vec<Drift> {
        let (live, next) = (self.described(&[]).await, self.described(&["--inactive"]).await);
        drift(&live, &next)
    }

    async fn described(&self, options: &[&str]) -> domxml::Domain {
        let xml = self.libvirtd.virsh(&[&["dumpxml", "web1"], options].concat()).await.unwrap();
        domxml::Domain::parse(&xml).unwrap()
    }

    async fn apply(&mut self, act: Act) -> Result<(), ApplyError> {
        let until = self.machine.now() + Span::secs(60);
        self.machine.apply(&act, until).await
    }
}

fn memory(size: Bytes) -> Wanted {
    Wanted { memory: Some(Change::To(size)), ..Wanted::default() }
}

fn vcpus(count: u32) -> Wanted {
    Wanted { vcpus: Some(Change::To(count)), ..Wanted::default() }
}

#[tokio::test]
async fn memory_grows_and_shrinks_and_the_next_boot_has_the_same() {
    let mut stage = stage(Generation::System, Recipe::q35()).await;
    let service = stage.guest.watch_service();
    let before = stage.guest.witness().mem_total().await.unwrap();

    stage.proven(memory(Bytes::mib(1024))).await;
    let grown = stage.guest.witness().mem_total().await.unwrap();
    assert!(grown > before + Bytes::mib(500), "{before} became {grown}");
    let devices = stage.described(&["--inactive"]).await.memory_devices;
    assert_eq!(devices.iter().map(|device| device.size).sum::<Bytes>(), Bytes::mib(512));
    assert!(
        devices.iter().all(|device| device.alias.as_deref().is_some_and(|a| a.starts_with("ua-supple-")))
    );

    stage.proven(memory(Bytes::mib(512))).await;
    assert_eq!(stage.described(&[]).await.memory_devices, []);
    assert_eq!(stage.described(&["--inactive"]).await.memory_devices, []);
    assert_eq!(service.finish().await.lost, 0);
}

#[tokio::test]
async fn a_dimm_that_an_administrator_attached_is_removed_from_both_descriptions() {
    let mut stage = stage(Generation::System, Recipe::i440fx().onlining(Onlining::KernelMovable)).await;
    let before = stage.guest.witness().mem_total().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dimm.xml");
    let xml = "<memory model='dimm'><target><size unit='MiB'>256</size><node>0</node></target></memory>";
    std::fs::write(&file, xml).unwrap();
    let file = file.display().to_string();
    stage.libvirtd.virsh(&["attach-device", "web1", &file, "--live", "--config"]).await.unwrap();
    lab::eventually("the guest has it", SOON, async || {
        Ok((stage.guest.witness().mem_total().await? > before + Bytes::mib(250)).then_some(()))
    })
    .await
    .unwrap();
    stage.proven(memory(Bytes::mib(512))).await;
    assert_eq!(stage.described(&["--inactive"]).await.memory_devices, []);
}

#[tokio::test]
async fn virtio_mem_is_asked_for_the_same_now_and_at_the_next_boot() {
    let recipe = Recipe::q35().virtio_mem(Bytes::gib(2), 0);
    let mut stage = stage(Generation::System, recipe).await;
    stage.proven(memory(Bytes::mib(1024))).await;
    let requested = async |stage: &Stage, options: &[&str]| {
        stage
            .described(options)
            .await
            .memory_devices
            .iter()
            .filter_map(|device| device.requested)
            .sum::<Bytes>()
    };
    assert_eq!(requested(&stage, &["--inactive"]).await, Bytes::mib(512));
    assert_eq!(requested(&stage, &[]).await, Bytes::mib(512));
    stage.proven(memory(Bytes::mib(768))).await;
    assert_eq!(requested(&stage, &["--inactive"]).await, Bytes::mib(256));
}

#[tokio::test]
async fn the_balloons_target_holds_at_the_next_boot() {
    let mut stage = stage(Generation::System, Recipe::q35()).await;
    let wanted = Wanted { mechanism: Some(Mechanism::Balloon), ..memory(Bytes::mib(448)) };
    let report = stage.resize(wanted).await;
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    assert_eq!(stage.described(&["--inactive"]).await.memory.current, Some(Bytes::mib(448)));
    // libvirt learns of the balloon from events, of which QEMU sends one a second.
    lab::eventually("libvirt tells the same", SOON, async || {
        Ok(stage.drifted().await.is_empty().then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn vcpus_come_under_libvirts_names() {
    let mut stage = stage(Generation::System, Recipe::q35().vcpus(1, 4)).await;
    stage.proven(vcpus(3)).await;
    assert_eq!(stage.guest.witness().nproc().await.unwrap(), 3);
    let seen = stage.machine.observe().await.unwrap();
    assert_eq!((seen.machine.manager, seen.vcpus.plugged()), (Manager::Libvirt, 3));
    let (live, next) = (stage.described(&[]).await, stage.described(&["--inactive"]).await);
    assert_eq!((live.vcpus.current, next.vcpus.current), (3, 3));
}

#[tokio::test]
async fn vcpus_go_and_the_definition_follows_when_they_are_gone() {
    let mut stage = stage(Generation::System, Recipe::q35().vcpus(1, 4)).await;
    stage.proven(vcpus(2)).await;
    let report = stage.resize(vcpus(1)).await;
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    assert_eq!(stage.machine.not_followed(), [""; 0]);
    assert_eq!(stage.guest.witness().nproc().await.unwrap(), 1);
    assert_eq!(stage.described(&["--inactive"]).await.vcpus.current, 1);
    // An emulated vCPU's end is not announced by QEMU (no DEVICE_DELETED with its id; 7.2 and 10.0 under TCG), so
    // libvirt learns of it only when it looks at the machine anew.
    stage.libvirtd.restart().await.unwrap();
    assert_eq!(stage.drifted().await, []);
}

#[tokio::test]
async fn newer_generations_do_the_same_or_say_why_not() {
    let found = tokio::task::spawn_blocking(|| lab::Libvirt::backports(&lab::Cache::open().unwrap()));
    if let Err(absent) = found.await.unwrap() {
        assert!(absent.to_string().contains("no libvirt from the backports here: "));
        return eprintln!("{absent}");
    }
    let mut stage = stage(Generation::Backports, Recipe::q35().vcpus(1, 4)).await;
    stage.proven(Wanted { vcpus: Some(Change::To(2)), ..memory(Bytes::mib(1024)) }).await;
    stage.proven(memory(Bytes::mib(512))).await;
}

#[tokio::test]
async fn live_only_leaves_the_next_boot_as_it_is() {
    let mut stage = stage(Generation::System, Recipe::q35()).await;
    stage.machine = stage.machine.live_only();
    let report = stage.resize(memory(Bytes::mib(768))).await;
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    assert_eq!(stage.described(&["--inactive"]).await.memory_devices, []);
    let drifted = stage.drifted().await;
    assert!(drifted.iter().any(|drift| matches!(drift, Drift::OnlyLive { .. })), "{drifted:?}");
}

#[tokio::test]
async fn a_guest_without_agent_is_told_as_such_and_what_libvirt_makes_is_not_made_apart() {
    let mut stage = stage(Generation::System, Recipe::q35().agent(Agent::Absent)).await;
    let seen = stage.machine.observe().await.unwrap();
    let Guest::Unheard(why) = &seen.guest else { panic!("{:?}", seen.guest) };
    assert!(why.contains("libvirt does not reach the guest agent"), "{why}");
    assert!(seen.host.qemu_pid.is_some(), "its QEMU is on this host");
    assert_eq!(seen.machine.name.as_deref(), Some("web1"));

    let refused = stage.apply(Act::DeleteBackend { memdev: "ram-node0".into() }).await.unwrap_err();
    assert!(
        matches!(&refused, ApplyError::Refused(why) if why.contains("libvirt makes and frees")),
        "{refused}"
    );
    let plug = |slot, size| Act::PlugDimm {
        id: "ua-supple-dimm0".into(),
        memdev: "memua-supple-dimm0".into(),
        brings: Some(size),
        slot,
        node: 0,
        addr: None,
    };
    let refused = stage.apply(plug(99, Bytes::mib(256))).await.unwrap_err();
    assert!(matches!(&refused, ApplyError::Refused(why) if why.contains("slot '99'")), "{refused}");
    let refused = stage.apply(plug(0, Bytes::mib(257))).await.unwrap_err();
    assert!(matches!(&refused, ApplyError::Refused(why) if why.contains("256 MiB or 258 MiB")), "{refused}");
    assert_eq!(stage.drifted().await, []);
}

#[tokio::test]
async fn a_machine_that_cannot_be_driven_says_why() {
    let libvirtd = Libvirtd::start().await.unwrap();
    libvirtd.define("web1", &Recipe::q35()).await.unwrap();
    let (uri, limits) = (libvirtd.connect_uri(), Limits::default());
    let off = LibvirtMachine::open(&uri, "web1", &limits).await.unwrap_err();
    assert!(matches!(off, OpenError::NotRunning { state: State::Off, .. }), "{off}");
    assert!(off.to_string().contains("start web1"), "{off}");
    let none = LibvirtMachine::open(&uri, "web2", &limits).await.unwrap_err();
    assert!(none.to_string().contains("knows no machine 'web2'"), "{none}");
    let nobody = LibvirtMachine::open("qemu+unix:///system?socket=/nonexistent", "web1", &limits).await;
    assert!(nobody.unwrap_err().to_string().contains("/nonexistent"));
}

#[tokio::test]
async fn a_machine_that_libvirt_is_at_work_on_is_refused_at_once() {
    let mut stage = stage(Generation::System, Recipe::q35()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump").display().to_string();
    let dump = ["dump", "web1", &file, "--memory-only"];
    let since = Instant::now();
    let (dumped, refused) = tokio::join!(stage.libvirtd.virsh(&dump), async {
        lab::eventually("a job is in the way", SOON, async || {
            match stage.machine.observe().await {
                Err(ObserveError::Unreachable(why)) => Ok(Some(Ok(why))),
                Err(ObserveError::Nonsense(why)) => anyhow::bail!(why),
                // It was over before it was seen.
                Ok(_) if since.elapsed() > Duration::from_secs(20) => Ok(Some(Err(()))),
                Ok(_) => Ok(None),
            }
        })
        .await
        .unwrap()
    });
    dumped.unwrap();
    match refused {
        Ok(why) => assert!(why.contains("a memory dump"), "{why}"),
        Err(()) => assert!(since.elapsed() > Duration::from_secs(20)),
    }
    assert!(stage.machine.observe().await.is_ok(), "and afterwards it is as before");
}

#[tokio::test]
async fn the_layer_over_libvirt_does_what_it_says_on_a_real_domain() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let guest = libvirtd.boot("web1", &Recipe::q35()).await.unwrap();
    let connection = Connection::open(&libvirtd.connect_uri()).unwrap();
    assert!(connection.keep_alive(5, 3).unwrap(), "the daemon knows keep-alive");
    let domain = connection.domain("web1").unwrap();
    let mut events = Events::subscribe(&domain).unwrap();
    assert_eq!(events.missing(), []);

    assert_eq!(domain.job(), Ok(drive::libvirt::Job::None));
    domain.set_agent_timeout(5).unwrap();
    assert_eq!(domain.guest_vcpus().unwrap().text("vcpus"), Some("0"));
    domain.set_memory_stats_period(1, drive::libvirt::Affect::Live).unwrap();
    lab::eventually("the balloon driver tells", SOON, async || {
        let stats = domain.memory_stats()?;
        Ok(stats.total.filter(|total| (Bytes::mib(256)..Bytes::mib(512)).contains(total)))
    })
    .await
    .unwrap();
    assert!(domain.xml(Xml::InactiveSecure).unwrap().contains("<name>web1</name>"));

    let mut agent = drive::guest::Agent::through(AgentLine::new(domain.clone(), Pool::new(1).lane()));
    let limit = Duration::from_secs(10);
    let calls = [("guest-ping", Value::Null), ("guest-nonsense", Value::Null), ("guest-info", Value::Null)];
    let answers = agent.call_all(&calls, limit).await.unwrap();
    assert!(matches!(&answers[1], Err(drive::guest::AgentError::NotFound { .. })), "{:?}", answers[1]);
    assert!(answers[0].is_ok() && answers[2].as_ref().is_ok_and(|info| info["version"].is_string()));

    guest.shell("killall qemu-ga").await.unwrap();
    let gone = async {
        loop {
            match events.next(Instant::now() + SOON).await {
                Heard::Event(Event::Agent(false)) => break true,
                Heard::Event(_) => {}
                Heard::Lagged(_) | Heard::Quiet | Heard::Closed(_) => break false,
            }
        }
    };
    assert!(gone.await, "libvirt tells that the agent went");

    libvirtd.restart().await.unwrap();
    let how = loop {
        match events.next(Instant::now() + SOON).await {
            Heard::Event(_) => {}
            end @ (Heard::Lagged(_) | Heard::Quiet | Heard::Closed(_)) => break end,
        }
    };
    assert_eq!(how, Heard::Closed(Closed::ByDaemon));
    assert!(!connection.is_alive() && domain.state().is_err());
}
