//! The QMP client against a scripted QEMU.

use std::sync::Arc;
use std::time::Duration;

use drive::qmp::{ConnectError, Event, Events, Heard, LONGEST_LINE, Qmp, QmpError};
use drive::wire::DialError;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::peer::{Peer, Stage};

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
        // Heard before the greeting is out: connecting costs one round trip.
        let id = peer.hears_command("qmp_capabilities").await;
        peer.says(greeting()).await;
        peer.says(json!({"return": {}, "id": id})).await;
        peer
    };
    let (qmp, peer) = tokio::join!(Qmp::connect(&stage.path, LIMIT), qemu);
    (qmp.expect("connected"), peer)
}

/// Connects to a peer that says only this.
async fn connect_to(says: &[u8]) -> ConnectError {
    let stage = Stage::new();
    let qemu = async {
        let mut peer = stage.accept().await;
        peer.hears_command("qmp_capabilities").await;
        peer.sends(says).await;
        peer
    };
    let (qmp, _peer) = tokio::join!(Qmp::connect(&stage.path, LIMIT), qemu);
    qmp.expect_err("not connected")
}

async fn ask(qmp: &Qmp, command: &str) -> Result<Value, QmpError> {
    qmp.execute(command, Value::Null, LIMIT).await
}

/// One command, answered in order; both sides must be at rest before.
async fn works(qmp: &Qmp, peer: &mut Peer) {
    let (answer, ()) = tokio::join!(ask(qmp, "query-status"), async {
        let id = peer.hears_command("query-status").await;
        peer.says(json!({"return": "running", "id": id, "unknown": 1})).await;
    });
    assert_eq!(answer, Ok(json!("running")));
}

/// One command, answered by these bytes.
async fn answered_by(qmp: &Qmp, peer: &mut Peer, bytes: &[u8]) -> Result<Value, QmpError> {
    let (answer, ()) = tokio::join!(ask(qmp, "query"), async {
        peer.hears_command("query").await;
        peer.sends(bytes).await;
    });
    answer
}

fn event(name: &str) -> Value {
    json!({"event": name, "data": {"device": "dimm1"}, "timestamp": {"seconds": 12, "microseconds": 34}})
}

async fn next(events: &mut Events) -> Heard {
    events.next(Instant::now() + LIMIT).await
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
async fn what_is_no_qmp_monitor_is_named() {
    let text_monitor = connect_to(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ").await;
    let agent =
        connect_to(b"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such command\"}}\n").await;
    let bytes = connect_to(b"\xff\x00\xfe\n").await;
    let versionless = connect_to(b"{\"QMP\": {\"version\": []}}\n").await;
    for error in [text_monitor, agent, bytes, versionless] {
        assert!(matches!(error, ConnectError::NotQmp { .. }), "{error:?}");
        assert!(error.to_string().contains("is not a QMP monitor"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_stops_after_its_greeting_is_stuck() {
    let error = connect_to(format!("{}\r\n", greeting()).as_bytes()).await;
    assert!(matches!(error, ConnectError::Stuck { after: LIMIT, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_without_a_machine_says_which_kind() {
    let stage = Stage::new();
    let path = stage.path.with_file_name("none.sock");
    let error = Qmp::connect(&path, LIMIT).await.expect_err("no socket");
    assert!(matches!(error, ConnectError::Dial(DialError::Missing { .. })), "{error:?}");
    let abandoned = stage.path.with_file_name("abandoned.sock");
    drop(std::os::unix::net::UnixListener::bind(&abandoned).expect("a socket"));
    let error = Qmp::connect(&abandoned, LIMIT).await.expect_err("nobody listens");
    assert!(matches!(error, ConnectError::Dial(DialError::Deserted { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_carries_class_and_reason() {
    let (qmp, mut peer) = pair().await;
    let (answer, ()) = tokio::join!(ask(&qmp, "device_add"), async {
        let id = peer.hears_command("device_add").await;
        peer.says(json!({"error": {"class": "GenericError", "desc": "no slots\u{7}"}, "id": id})).await;
    });
    let (class, desc) = ("GenericError".into(), "no slots\\u{7}".into());
    assert_eq!(answer, Err(QmpError::Refused { command: "device_add".into(), class, desc }));
}

#[tokio::test(start_paused = true)]
async fn arguments_arrive_as_given() {
    let (qmp, mut peer) = pair().await;
    let arguments = json!({"path": "/x", "value": u64::MAX});
    let (_, heard) = tokio::join!(qmp.execute("qom-set", arguments.clone(), LIMIT), peer.hears());
    assert_eq!(heard.expect("a command")["arguments"], arguments);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_timed_out_breaks_nothing() {
    let (qmp, mut peer) = pair().await;
    let error = ask(&qmp, "slow").await.expect_err("no answer");
    assert_eq!(error, QmpError::TimedOut { command: "slow".into(), after: LIMIT });
    let slow = peer.hears_command("slow").await;
    let (answer, ()) = tokio::join!(ask(&qmp, "next"), async {
        let next = peer.hears_command("next").await;
        peer.says(json!({"return": "late", "id": slow})).await;
        peer.says(json!({"return": "in time", "id": next})).await;
    });
    assert_eq!(answer, Ok(json!("in time")));
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_breaks_nothing() {
    let (qmp, mut peer) = pair().await;
    let dropped = tokio::select! {
        _ = ask(&qmp, "dropped") => panic!("answered by nobody"),
        id = peer.hears_command("dropped") => id,
    };
    peer.says(json!({"return": "to nobody", "id": dropped})).await;
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_it_is_sent_is_never_sent() {
    let (qmp, mut peer) = pair().await;
    tokio::select! {
        biased;
        _ = ask(&qmp, "dropped") => panic!("answered by nobody"),
        () = std::future::ready(()) => {}
    }
    // `works` hears its own command first.
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn calls_made_together_leave_together() {
    let (qmp, mut peer) = pair().await;
    let qmp = Arc::new(qmp);
    let mut calls = JoinSet::new();
    for number in 0..15 {
        let qmp = Arc::clone(&qmp);
        calls.spawn(async move { (number, ask(&qmp, &format!("query-{number}")).await) });
    }
    // All are heard before any is answered: one round trip.
    let mut ids = Vec::new();
    for number in 0..15 {
        ids.push(peer.hears_command(&format!("query-{number}")).await);
    }
    for (number, id) in ids.into_iter().enumerate() {
        peer.says(json!({"return": number, "id": id})).await;
    }
    for (number, answer) in calls.join_all().await {
        assert_eq!(answer, Ok(json!(number)));
    }
}

#[tokio::test(start_paused = true)]
async fn answers_out_of_order_find_their_calls() {
    let (qmp, mut peer) = pair().await;
    let (first, second, ()) = tokio::join!(ask(&qmp, "first"), ask(&qmp, "second"), async {
        let first = peer.hears_command("first").await;
        let second = peer.hears_command("second").await;
        peer.says(json!({"return": 2, "id": second})).await;
        peer.says(event("BETWEEN")).await;
        peer.says(json!({"return": 1, "id": first})).await;
        peer.says(json!({"return": 3, "id": first})).await;
    });
    assert_eq!((first, second), (Ok(json!(1)), Ok(json!(2))));
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_before_the_wait_for_it_is_kept() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    let (answer, ()) = tokio::join!(ask(&qmp, "device_del"), async {
        let id = peer.hears_command("device_del").await;
        peer.says(event("DEVICE_DELETED")).await;
        peer.says(json!({"return": {}, "id": id})).await;
    });
    assert_eq!(answer, Ok(json!({})));
    let (name, data) = ("DEVICE_DELETED".into(), json!({"device": "dimm1"}));
    let expected = Heard::Event(Event { name, data, micros: Some(12_000_034) });
    // Even when the wait has no time at all.
    assert_eq!(events.next(Instant::now()).await, expected);
    assert_eq!(next(&mut events).await, Heard::Quiet);
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_knows_are_passed_on() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    peer.says(json!({"event": "FROM_QEMU_99", "timestamp": {"seconds": -1, "microseconds": -1}, "new": []}))
        .await;
    let expected = Event { name: "FROM_QEMU_99".into(), data: Value::Null, micros: None };
    assert_eq!(next(&mut events).await, Heard::Event(expected));
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_is_told_what_it_missed() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    for number in 0..300 {
        peer.says(event(&format!("E{number}"))).await;
    }
    works(&qmp, &mut peer).await;
    assert_eq!(next(&mut events).await, Heard::Lagged(44));
    for number in 44..300 {
        let Heard::Event(event) = next(&mut events).await else { panic!("E{number} is lost") };
        assert_eq!(event.name, format!("E{number}"));
    }
    assert_eq!(next(&mut events).await, Heard::Quiet);
}

#[tokio::test(start_paused = true)]
async fn an_event_too_long_to_keep_is_told_as_missing() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    peer.says(json!({"event": "LONG", "data": "x".repeat(100_000)})).await;
    assert_eq!(next(&mut events).await, Heard::Lagged(1));
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_line_costs_one_error() {
    let deep = format!("{{\"return\": {}\n", "[".repeat(100_000));
    let lines: [&[u8]; 8] = [
        b"{\"return\": \"\xff\xfe\"}\r\n",
        b"\0\0\0\0\n",
        b"not JSON\n",
        b"[1, 2]\n",
        b"{\"unknown\": 1}\n",
        b"{\"return\": {}}\n",
        b"{\"event\": 7}\n",
        deep.as_bytes(),
    ];
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    for line in lines {
        let answer = answered_by(&qmp, &mut peer, line).await;
        assert!(matches!(answer, Err(QmpError::Garbled { .. })), "{answer:?}");
        // It may have been an event.
        assert_eq!(next(&mut events).await, Heard::Lagged(1));
        works(&qmp, &mut peer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ids_that_are_not_ours_are_passed_over() {
    let (qmp, mut peer) = pair().await;
    for id in [json!(u64::MAX), json!(0), json!(12_345)] {
        peer.says(json!({"return": "to nobody", "id": id})).await;
    }
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_costs_one_error() {
    let (qmp, mut peer) = pair().await;
    let (answer, ()) = tokio::join!(ask(&qmp, "query"), async {
        peer.hears_command("query").await;
        peer.floods(4 * LONGEST_LINE).await;
        peer.sends(b"\n").await;
    });
    let Err(QmpError::Garbled { why, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(why, format!("a message of more than {LONGEST_LINE} bytes"));
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn an_end_in_mid_message_is_an_end() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    let (answer, ()) = tokio::join!(ask(&qmp, "quit"), async move {
        peer.hears_command("quit").await;
        peer.says(event("SHUTDOWN")).await;
        peer.sends(b"{\"return\": {").await;
    });
    let Err(QmpError::Closed { why, .. }) = answer else { panic!("{answer:?}") };
    assert!(why.contains("QEMU closed the connection"), "{why}");
    // What came before the end is still given, then the end, to old and new subscribers and to callers.
    assert!(matches!(next(&mut events).await, Heard::Event(_)));
    assert_eq!(next(&mut events).await, Heard::Closed);
    assert_eq!(next(&mut qmp.events()).await, Heard::Closed);
    assert_eq!(ask(&qmp, "more").await, Err(QmpError::Closed { command: "more".into(), why }));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_client_ends_its_task() {
    let (qmp, mut peer) = pair().await;
    let mut events = qmp.events();
    drop(qmp);
    assert_eq!(peer.hears().await, None);
    assert_eq!(next(&mut events).await, Heard::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_hangs_for_long_is_not_buried_in_calls() {
    let (qmp, mut peer) = pair().await;
    for _ in 0..600 {
        let answer = ask(&qmp, "query").await;
        assert!(matches!(answer, Err(QmpError::TimedOut { .. })), "{answer:?}");
    }
    // It wakes up: only so many were sent, the rest had been given up before.
    let mut heard = 0;
    let answer = tokio::select! {
        answer = ask(&qmp, "after") => answer,
        () = async {
            loop {
                let command = peer.hears().await.expect("a command");
                heard += 1;
                peer.says(json!({"return": command["execute"], "id": command["id"]})).await;
            }
        } => unreachable!("the peer never stops"),
    };
    assert_eq!(answer, Ok(json!("after")));
    assert_eq!(heard, 256 + 1);
    works(&qmp, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_never_answered_gives_its_place_back() {
    let (qmp, mut peer) = pair().await;
    for _ in 0..300 {
        let answer = ask(&qmp, "lost").await;
        assert!(matches!(answer, Err(QmpError::TimedOut { .. })), "{answer:?}");
        peer.hears_command("lost").await;
        works(&qmp, &mut peer).await;
    }
}
