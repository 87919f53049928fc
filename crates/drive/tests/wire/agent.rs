//! The guest agent's client against a scripted agent.

use std::time::Duration;

use drive::guest::{Agent, AgentError, Answer, LONGEST_ANSWER};
use drive::wire::DialError;
use serde_json::{Value, json};

use crate::peer::{Peer, Stage};

pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// Hears a synchronisation and answers it.
async fn synced(peer: &mut Peer) {
    let id = sync_id(peer).await;
    peer.sends(b"\xff").await;
    peer.says(json!({"return": id})).await;
}

/// Hears a synchronisation; its id.
async fn sync_id(peer: &mut Peer) -> Value {
    let command = peer.hears().await.expect("a command");
    assert_eq!(command["execute"], "guest-sync-delimited", "{command}");
    command["arguments"]["id"].clone()
}

/// A connected client, and the agent it talks to.
pub(crate) async fn pair() -> (Agent, Peer) {
    let stage = Stage::new();
    let guest = async {
        let mut peer = stage.accept().await;
        synced(&mut peer).await;
        peer
    };
    let (agent, peer) = tokio::join!(Agent::connect(&stage.path, LIMIT), guest);
    (agent.expect("connected"), peer)
}

async fn ask(agent: &mut Agent, command: &str) -> Result<Value, AgentError> {
    agent.call(command, Value::Null, LIMIT).await
}

/// One command, answered by these bytes.
async fn answered_by(agent: &mut Agent, peer: &mut Peer, bytes: &[u8]) -> Result<Value, AgentError> {
    let (answer, ()) = tokio::join!(ask(agent, "query"), async {
        peer.hears_command("query").await;
        peer.sends(bytes).await;
    });
    answer
}

/// The next command is answered without a synchronisation before it.
async fn works(agent: &mut Agent, peer: &mut Peer) {
    let answer = answered_by(agent, peer, b"{\"return\": \"well\"}\n").await;
    assert_eq!(answer.expect("answered"), "well");
}

/// The next command is answered after a synchronisation.
async fn works_after_sync(agent: &mut Agent, peer: &mut Peer) {
    let (answer, ()) = tokio::join!(ask(agent, "query"), async {
        synced(peer).await;
        peer.hears_command("query").await;
        peer.says(json!({"return": "in time"})).await;
    });
    assert_eq!(answer.expect("answered"), "in time");
}

#[tokio::test(start_paused = true)]
async fn commands_follow_without_further_synchronisation() {
    let (mut agent, mut peer) = pair().await;
    works(&mut agent, &mut peer).await;
    works(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_not_taken_for_the_next() {
    let (mut agent, mut peer) = pair().await;
    let error = ask(&mut agent, "slow").await.expect_err("no answer");
    assert!(matches!(error, AgentError::TimedOut { after: LIMIT, .. }), "{error:?}");
    peer.hears_command("slow").await;
    peer.says(json!({"return": "late"})).await;
    works_after_sync(&mut agent, &mut peer).await;
    works(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_breaks_nothing() {
    let (mut agent, mut peer) = pair().await;
    tokio::select! {
        _ = ask(&mut agent, "dropped") => panic!("answered by nobody"),
        _ = peer.hears_command("dropped") => {}
    }
    peer.sends(b"{\"return\": \"half of an ans").await;
    works_after_sync(&mut agent, &mut peer).await;
    works(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_asked_for_is_not_taken() {
    let (mut agent, mut peer) = pair().await;
    let answer = answered_by(&mut agent, &mut peer, b"{\"return\": 1}\n{\"return\": 2}\n").await;
    assert_eq!(answer.expect("answered"), 1);
    works_after_sync(&mut agent, &mut peer).await;
    peer.says(json!({"return": 3})).await;
    works_after_sync(&mut agent, &mut peer).await;
    peer.sends(b"{\"ret").await;
    works_after_sync(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_right_id_behind_the_sentinel_ends_a_synchronisation() {
    let stage = Stage::new();
    let guest = async {
        let mut peer = stage.accept().await;
        let id = sync_id(&mut peer).await;
        let number = id.as_u64().expect("a number");
        // An agent of this age complains about the 0xFF first.
        peer.says(json!({"error": {"class": "GenericError", "desc": "JSON parse error, stray '\u{fffd}'"}}))
            .await;
        peer.says(json!({"return": "late"})).await;
        peer.says(json!({"return": id})).await;
        peer.sends(format!("{{\"x\": {}\n", "[".repeat(9999)).as_bytes()).await;
        for wrong in [json!(number ^ 1), json!(id.to_string()), json!(null), json!([id])] {
            peer.sends(b"\xff\xff").await;
            peer.says(json!({"return": wrong})).await;
        }
        peer.sends(b"\xffgarbage\n").await;
        peer.says(json!({"return": id})).await;
        peer.sends(b"cut off\xff").await;
        peer.says(json!({"return": id})).await;
        peer
    };
    let (agent, mut peer) = tokio::join!(Agent::connect(&stage.path, LIMIT), guest);
    works(&mut agent.expect("connected"), &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_id_alone_is_silence() {
    let stage = Stage::new();
    let guest = async {
        let mut peer = stage.accept().await;
        let id = sync_id(&mut peer).await.as_u64().expect("a number");
        peer.sends(b"\xff").await;
        peer.says(json!({"return": id + 1})).await;
        peer
    };
    let (agent, _peer) = tokio::join!(Agent::connect(&stage.path, LIMIT), guest);
    assert!(matches!(agent, Err(AgentError::Silent { after: LIMIT })), "{agent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_is_named_silent() {
    let stage = Stage::new();
    let error = Agent::connect(&stage.path, LIMIT).await.expect_err("nobody answers");
    assert!(matches!(error, AgentError::Silent { after: LIMIT }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_was_silent_may_come_back() {
    let (mut agent, mut peer) = pair().await;
    let error = ask(&mut agent, "slow").await.expect_err("no answer");
    assert!(matches!(error, AgentError::TimedOut { .. }), "{error:?}");
    let error = ask(&mut agent, "not sent").await.expect_err("no answer");
    assert!(matches!(error, AgentError::Silent { .. }), "{error:?}");
    peer.hears_command("slow").await;
    peer.says(json!({"return": "late"})).await;
    // The synchronisation that was given up is answered late too. The command behind it was never sent.
    synced(&mut peer).await;
    works_after_sync(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn a_no_is_sorted() {
    let (mut agent, mut peer) = pair().await;
    let mut no = async |class: &str, desc: &str| {
        let line = json!({"error": {"class": class, "desc": desc}});
        answered_by(&mut agent, &mut peer, format!("{line}\n").as_bytes()).await.expect_err("no")
    };
    let disabled = "Command guest-exec has been disabled: the command is not allowed";
    let error = no("CommandNotFound", disabled).await;
    assert!(matches!(error, AgentError::Disabled { .. }), "{error:?}");
    let error = no("GenericError", "The command guest-exec has been disabled for this instance").await;
    assert!(matches!(error, AgentError::Disabled { .. }), "{error:?}");
    let error = no("CommandNotFound", "The command query has not been found").await;
    assert!(matches!(error, AgentError::NotFound { .. }), "{error:?}");
    let error = no("GenericError", "failed to open file '/x'\u{1b}[1m").await;
    let AgentError::Refused { class, desc, .. } = error else { panic!("{error:?}") };
    assert_eq!((class.as_str(), desc.as_str()), ("GenericError", "failed to open file '/x'\\u{1b}[1m"));
    works(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_answer_costs_one_error() {
    let deep = format!("{{\"return\": {}\n", "[".repeat(100_000));
    let lines: [&[u8]; 7] = [
        b"{\"return\": \"\xc3\x28\"}\n",
        b"\0\0\0\0\n",
        b"not JSON\n",
        b"\"return\"\n",
        b"{\"unknown\": 1}\n",
        b"{\"return\": \xff {}}\n",
        deep.as_bytes(),
    ];
    let (mut agent, mut peer) = pair().await;
    for line in lines {
        let error = answered_by(&mut agent, &mut peer, line).await.expect_err("unreadable");
        assert!(matches!(error, AgentError::Garbled { .. }), "{error:?}");
        works_after_sync(&mut agent, &mut peer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_wrong_shape_is_still_a_no() {
    let (mut agent, mut peer) = pair().await;
    for error in ["1", "[]", "{\"class\": 7, \"desc\": {}}", "null"] {
        let line = format!("{{\"error\": {error}}}\n");
        let error = answered_by(&mut agent, &mut peer, line.as_bytes()).await.expect_err("no");
        assert!(matches!(error, AgentError::Refused { .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gibibyte_of_answer_costs_one_error_and_no_memory() {
    let (mut agent, mut peer) = pair().await;
    let calls = async {
        let error = ask(&mut agent, "query").await.expect_err("too long");
        assert!(matches!(error, AgentError::TooBig { limit: LONGEST_ANSWER, .. }), "{error:?}");
        assert!(agent.held() <= LONGEST_ANSWER, "{} bytes held", agent.held());
        let answer = ask(&mut agent, "query").await.expect("answered after the flood");
        assert_eq!(answer, "in time");
        assert!(agent.held() <= LONGEST_ANSWER, "{} bytes held", agent.held());
    };
    let guest = async {
        peer.hears_command("query").await;
        peer.floods(1 << 30).await;
        synced(&mut peer).await;
        peer.hears_command("query").await;
        peer.says(json!({"return": "in time"})).await;
    };
    tokio::join!(calls, guest);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_small_answers_ends_with_the_limit() {
    let (mut agent, mut peer) = pair().await;
    let error = ask(&mut agent, "slow").await.expect_err("no answer");
    assert!(matches!(error, AgentError::TimedOut { .. }), "{error:?}");
    let lines = b"{\"return\": 1}\n".repeat(1000);
    // Between two pieces time passes, and so the limit comes.
    let error = tokio::select! {
        answer = ask(&mut agent, "query") => answer.expect_err("never the right id"),
        () = async {
            loop {
                peer.sends(&lines).await;
                tokio::time::advance(LIMIT / 10).await;
            }
        } => unreachable!("the peer never stops"),
    };
    assert!(matches!(error, AgentError::Silent { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_end_in_mid_message_is_an_end() {
    let (mut agent, mut peer) = pair().await;
    let (answer, ()) = tokio::join!(ask(&mut agent, "query"), async move {
        peer.hears_command("query").await;
        peer.sends(b"{\"return\": {").await;
    });
    assert!(matches!(answer, Err(AgentError::Closed { .. })), "{answer:?}");
    let answer = ask(&mut agent, "query").await;
    assert!(matches!(answer, Err(AgentError::Closed { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_end_between_calls_is_an_end() {
    let (mut agent, peer) = pair().await;
    drop(peer);
    let answer = ask(&mut agent, "query").await;
    assert!(matches!(answer, Err(AgentError::Closed { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_socket_says_so() {
    let stage = Stage::new();
    let error = Agent::connect(&stage.path.with_file_name("none.sock"), LIMIT).await.expect_err("no socket");
    assert!(matches!(error, AgentError::Unreachable(DialError::Missing { .. })), "{error:?}");
}

const TWO: [(&str, Value); 2] = [("first", Value::Null), ("second", Value::Null)];

#[tokio::test(start_paused = true)]
async fn commands_made_together_leave_together() {
    let (mut agent, mut peer) = pair().await;
    let (answers, ()) = tokio::join!(agent.call_all(&TWO, LIMIT), async {
        peer.hears_command("first").await;
        peer.hears_command("second").await;
        peer.says(json!({"error": {"class": "GenericError", "desc": "no"}})).await;
        peer.says(json!({"return": 2})).await;
    });
    let answers = answers.expect("answered");
    assert!(
        matches!(&answers[..], [Err(AgentError::Refused { .. }), Ok(two)] if *two == json!(2)),
        "{answers:?}"
    );
    works(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_from_an_answer_is_sent_before_the_next_comes() {
    let (mut agent, mut peer) = pair().await;
    let then = |nth: usize, answer: &Answer| match (nth, answer) {
        (0, Ok(handle)) => vec![("third", json!({ "of": handle }))],
        _ => Vec::new(),
    };
    let (answers, ()) = tokio::join!(agent.call_chain(&TWO, then, LIMIT), async {
        peer.hears_command("first").await;
        peer.hears_command("second").await;
        peer.says(json!({"return": 7})).await;
        let third = peer.hears().await.expect("a command");
        assert_eq!((&third["execute"], &third["arguments"]), (&json!("third"), &json!({ "of": 7 })));
        peer.says(json!({"return": 2})).await;
        peer.says(json!({"return": 3})).await;
    });
    let answers: Vec<Value> =
        answers.expect("answered").into_iter().map(|answer| answer.expect("done")).collect();
    assert_eq!(answers, [json!(7), json!(2), json!(3)], "in the order of their sending");
    works(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn commands_made_together_of_which_one_is_not_answered_are_unknown() {
    let (mut agent, mut peer) = pair().await;
    let (answers, ()) = tokio::join!(agent.call_all(&TWO, LIMIT), async {
        peer.hears_command("first").await;
        peer.hears_command("second").await;
        peer.says(json!({"return": 1})).await;
    });
    let Err(AgentError::TimedOut { command, after: LIMIT }) = answers else { panic!("{answers:?}") };
    assert_eq!(command, "second");
    peer.says(json!({"return": "late"})).await;
    works_after_sync(&mut agent, &mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn the_bound_holds_for_all_answers_together() {
    let (mut agent, mut peer) = pair().await;
    let (answers, ()) = tokio::join!(agent.call_all(&TWO, LIMIT), async {
        for _ in 0..2 {
            peer.says(json!({"return": "x".repeat(LONGEST_ANSWER * 2 / 3)})).await;
        }
    });
    assert!(matches!(answers, Err(AgentError::TooBig { limit: LONGEST_ANSWER, .. })), "{answers:?}");
    peer.hears_command("first").await;
    peer.hears_command("second").await;
    works_after_sync(&mut agent, &mut peer).await;
}
