//! The guest agent's client against a scripted agent. The clock is paused: a time-out costs no time.

use std::time::Duration;

use crate::peer::{Peer, Stage};
use drive::guest::{Agent, AgentError};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(5);

/// Hears a synchronisation and answers it.
async fn synced(peer: &mut Peer) {
    let command = peer.heard().await;
    assert_eq!(command["execute"], "guest-sync-delimited", "{command}");
    peer.sends(b"\xff").await;
    peer.says(json!({"return": command["arguments"]["id"]})).await;
}

/// A connected client, and the agent it talks to.
async fn pair() -> (Agent, Peer) {
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

#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_not_taken_for_the_next() {
    let (mut agent, mut peer) = pair().await;
    let error = ask(&mut agent, "slow").await.expect_err("no answer");
    assert!(matches!(error, AgentError::TimedOut { .. }), "{error:?}");
    peer.heard_command("slow").await;
    let (answer, ()) = tokio::join!(ask(&mut agent, "next"), async {
        peer.says(json!({"return": "late"})).await;
        synced(&mut peer).await;
        peer.heard_command("next").await;
        peer.says(json!({"return": "in time"})).await;
    });
    assert_eq!(answer.expect("answered"), "in time");
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_is_named_silent() {
    let stage = Stage::new();
    let error = Agent::connect(&stage.path, LIMIT).await.expect_err("nobody answers");
    assert!(matches!(error, AgentError::Silent { after: LIMIT }), "{error:?}");
}
