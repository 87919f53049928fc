//! The guest agent behind a Unix socket of its own: the wire's bytes, cut into answers and matched to commands.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::message::{Outcome, classify};
use super::{AgentError, Answer, Call, LONGEST_ANSWER, MOST_CALLS};
use crate::wire::socket::{Inlet, dial};
use crate::wire::{Ends, Frame, FrameError, Framer, SENTINEL, command_line};

/// A connection to a guest's agent. See the header of [`super`] for its states.
#[derive(Debug)]
pub(super) struct Socket {
    stream: UnixStream,
    inlet: Inlet,
    /// An answer may be on its way that belongs to no command of ours: synchronise before the next.
    dirty: bool,
    sync_limit: Duration,
}

impl Socket {
    /// As [`super::Agent::connect`].
    pub(super) async fn connect(path: &Path, limit: Duration) -> Result<Self, AgentError> {
        let stream = dial(path).await?;
        let inlet = Inlet::new(Framer::new(Ends::LineOrSentinel, LONGEST_ANSWER));
        let mut agent = Self { stream, inlet, dirty: true, sync_limit: limit };
        agent.sync().await?;
        Ok(agent)
    }

    /// As [`super::Agent::call_chain`].
    pub(super) async fn call_chain(
        &mut self,
        calls: &[(&str, Value)],
        mut then: impl FnMut(usize, &Answer) -> Vec<Call>,
        limit: Duration,
    ) -> Result<Vec<Answer>, AgentError> {
        if self.dirty || self.inlet.anything(&self.stream).map_err(closed)? {
            self.dirty = true;
            self.sync().await?;
        }
        self.dirty = true;
        let until = Instant::now() + limit;
        let mut commands: Vec<&str> = Vec::new();
        let mut lines = Vec::new();
        for (command, arguments) in calls {
            lines.extend(command_line(command, arguments, None));
            commands.push(command);
        }
        let mut answers = Vec::new();
        let mut room = LONGEST_ANSWER;
        // Ends: only the answers to `calls` bring more commands.
        while let Some(command) = commands.get(answers.len()).copied() {
            assert!(commands.len() <= MOST_CALLS, "more commands than the buffers on the way surely hold");
            let Ok(exchange) = timeout_at(until, self.exchange(command, &std::mem::take(&mut lines))).await
            else {
                return Err(AgentError::TimedOut { command: command.to_owned(), after: limit });
            };
            let (outcome, bytes) = exchange?;
            // The bound holds for the whole: many answers of a hostile guest must not add up.
            room = room.checked_sub(bytes).ok_or_else(|| too_big(command))?;
            let answer = outcome.map_err(|refused| AgentError::no(command, refused));
            if answers.len() < calls.len() {
                for (command, arguments) in then(answers.len(), &answer) {
                    lines.extend(command_line(command, &arguments, None));
                    commands.push(command);
                }
            }
            answers.push(answer);
        }
        self.dirty = false;
        Ok(answers)
    }

    /// As [`super::Agent::held`].
    pub(super) fn held(&self) -> usize {
        self.inlet.held()
    }

    /// Sends what is to be sent and takes the next answer, with its length in bytes.
    async fn exchange(&mut self, command: &str, lines: &[u8]) -> Result<(Outcome, usize), AgentError> {
        self.stream.write_all(lines).await.map_err(closed)?;
        let frame = self.inlet.next(&mut self.stream).await.map_err(closed)?.ok_or_else(ended)?;
        match frame {
            Ok(Frame::Object { members, bytes }) => {
                let outcome = classify(members).map_err(|why| AgentError::garbled(command, why))?;
                Ok((outcome, bytes))
            }
            Ok(Frame::Sentinel) => Err(AgentError::garbled(command, "it was cut short by a 0xFF byte")),
            Err(FrameError::TooLong { .. }) => Err(too_big(command)),
            Err(error @ (FrameError::NotUtf8 { .. } | FrameError::NotObject { .. })) => {
                Err(AgentError::garbled(command, error.to_string()))
            }
        }
    }

    /// Reads past all that is left over, up to the answer that carries an id made for this moment.
    async fn sync(&mut self) -> Result<(), AgentError> {
        let limit = self.sync_limit;
        timeout(limit, self.sync_unbounded()).await.map_err(|_| AgentError::Silent { after: limit })?
    }

    async fn sync_unbounded(&mut self) -> Result<(), AgentError> {
        // 53 bits: exact in every JSON reader.
        let id = RandomState::new().hash_one(0_u8) >> 11;
        // The 0xFF makes the agent forget what it has of an unfinished command.
        let mut line = vec![SENTINEL];
        line.extend(command_line("guest-sync-delimited", &json!({ "id": id }), None));
        self.stream.write_all(&line).await.map_err(closed)?;
        let mut after_sentinel = false;
        loop {
            let frame = self.inlet.next(&mut self.stream).await.map_err(closed)?.ok_or_else(ended)?;
            match frame {
                Ok(Frame::Sentinel) => after_sentinel = true,
                Ok(Frame::Object { members, .. }) => {
                    let answer = members.get("return").and_then(Value::as_u64);
                    if after_sentinel && answer == Some(id) {
                        self.dirty = false;
                        return Ok(());
                    }
                    after_sentinel = false;
                }
                Err(_) => after_sentinel = false,
            }
        }
    }
}

fn too_big(command: &str) -> AgentError {
    AgentError::TooBig { command: command.to_owned(), limit: LONGEST_ANSWER }
}

fn closed(error: std::io::Error) -> AgentError {
    AgentError::Closed { why: error.to_string() }
}

fn ended() -> AgentError {
    AgentError::Closed { why: "the machine has ended, or its socket was closed".into() }
}
