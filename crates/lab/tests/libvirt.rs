//! What the driver for libvirt is made of, on a real libvirtd with real guests. Whole resizes are in `conformance`.

use std::time::Duration;

use drive::libvirt::{
    AgentLine, Closed, Connection, Event, Events, Heard, LibvirtMachine, OpenError, Pool, State, Xml,
};
use drive::{ApplyError, Hypervisor};
use lab::{Agent, Libvirtd, Recipe};
use scale::limits::Limits;
use scale::observed::{Guest, Manager};
use scale::plan::Act;
use scale::time::Span;
use scale::units::Bytes;
use serde_json::Value;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);

async fn apply(machine: &mut LibvirtMachine, act: Act) -> Result<(), ApplyError> {
    let until = machine.now() + Span::secs(60);
    machine.apply(&act, until).await
}

#[tokio::test]
async fn a_guest_without_agent_is_told_as_such_and_what_libvirt_makes_is_not_made_apart() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let guest = libvirtd.boot("web1", &Recipe::q35().agent(Agent::Absent)).await.unwrap();
    let mut machine =
        LibvirtMachine::open(&libvirtd.connect_uri(), "web1", &Limits::default()).await.unwrap();
    let seen = machine.observe().await.unwrap();
    let Guest::Unheard(why) = &seen.guest else { panic!("{:?}", seen.guest) };
    assert!(why.contains("libvirt does not reach the guest agent"), "{why}");
    assert!(seen.host.qemu_pid.is_some(), "its QEMU is on this host");
    assert_eq!((seen.machine.name.as_deref(), &seen.machine.manager), (Some("web1"), &Manager::Libvirt));

    let refused = apply(&mut machine, Act::DeleteBackend { memdev: "ram-node0".into() }).await.unwrap_err();
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
    let refused = apply(&mut machine, plug(99, Bytes::mib(256))).await.unwrap_err();
    assert!(matches!(&refused, ApplyError::Refused(why) if why.contains("slot '99'")), "{refused}");
    let refused = apply(&mut machine, plug(0, Bytes::mib(257))).await.unwrap_err();
    assert!(matches!(&refused, ApplyError::Refused(why) if why.contains("256 MiB or 258 MiB")), "{refused}");
    assert_eq!(guest.drifted().await.unwrap(), []);
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
