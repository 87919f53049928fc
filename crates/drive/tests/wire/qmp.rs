//! The QMP client against a scripted QEMU. The clock is paused: a time-out costs no time.

use std::time::Duration;

use crate::peer::{Peer, Stage};
use drive::qmp::{ConnectError, Heard, Qmp, QmpError};
use serde_json::{Value, json};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(5);

fn greeting() -> Value {
    json!({"QMP": {
        "version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "Debian 1:7.2"},
        "capabilities": ["oob"], "new in QEMU 99": {},
    }})
}

/// A connected client, and the QEMU it talks to.
async fn pair() -> (Qmp, Peer) {
    let stage = Stage::new();
    let qemu = async {
        let mut peer = stage.accept().await;
        peer.says(greeting()).await;
        let id = peer.heard_command("qmp_capabilities").await;
        peer.says(json!({"return": {}, "id": id})).await;
        peer
    };
    let (qmp, peer) = tokio::join!(Qmp::connect(&stage.path, LIMIT), qemu);
    (qmp.expect("connected"), peer)
}

async fn ask(qmp: &Qmp, command: &str) -> Result<Value, QmpError> {
    qmp.execute(command, Value::Null, LIMIT).await
}

fn event(name: &str) -> Value {
    json!({"event": name, "data": {"device": "dimm1"}, "timestamp": {"seconds": 12, "microseconds": 34}})
}

fn soon() -> Instant {
    Instant::now() + LIMIT
}

#[tokio::test(start_paused = true)]
async fn connecting_tells_who_is_there() {
    let (qmp, _peer) = pair().await;
    assert_eq!(qmp.version().to_string(), "7.2.22 (Debian 1:7.2)");
    assert_eq!(qmp.peer_pid(), Some(std::process::id()));
}

#[tokio::test(start_paused = true)]
async fn a_monitor_held_by_another_says_so() {
    let stage = Stage::new();
    let error = Qmp::connect(&stage.path, LIMIT).await.expect_err("nobody greets");
    assert!(matches!(error, ConnectError::Held { .. }), "{error:?}");
    assert!(error.to_string().contains("another program holds this monitor"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_breaks_nothing() {
    let (qmp, mut peer) = pair().await;
    let error = ask(&qmp, "slow").await.expect_err("no answer");
    assert_eq!(error, QmpError::TimedOut { command: "slow".into(), after: LIMIT });
    let slow = peer.heard_command("slow").await;
    let (answer, ()) = tokio::join!(ask(&qmp, "next"), async {
        let next = peer.heard_command("next").await;
        peer.says(json!({"return": "late", "id": slow})).await;
        peer.says(json!({"return": "in time", "id": next})).await;
    });
    assert_eq!(answer, Ok(json!("in time")));
}

#[tokio::test(start_paused = true)]
async fn an_event_before_the_wait_for_it_is_kept() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    let (answer, ()) = tokio::join!(ask(&qmp, "device_del"), async {
        let id = peer.heard_command("device_del").await;
        peer.says(event("DEVICE_DELETED")).await;
        peer.says(json!({"return": {}, "id": id})).await;
    });
    assert_eq!(answer, Ok(json!({})));
    let Heard::Event(event) = events.next(Instant::now()).await else { panic!("lost") };
    assert_eq!((event.name.as_str(), event.micros), ("DEVICE_DELETED", Some(12_000_034)));
    assert_eq!(event.data["device"], "dimm1");
    assert_eq!(events.next(soon()).await, Heard::Quiet);
}
