//! The way to a guest's agent, which may not be there: no socket named, nobody listening, a guest that boots or hangs.
//! It connects when first needed and again after the connection ended, and remembers a silence for a while, so that
//! a guest that does not answer costs its limit once and not at every question. It interprets no answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use scale::units::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::facts::Lasting;
use super::{Agent, AgentError};

/// The way to one guest's agent.
#[derive(Debug)]
pub struct Reach {
    path: Option<PathBuf>,
    agent: Option<Agent>,
    /// Until when the agent is taken to be silent, and why.
    silence: Option<(Instant, String)>,
    limit: Duration,
    /// What the agent said that changes only with a restart of the guest.
    pub(super) lasting: Option<Lasting>,
    /// The size of a memory block, as it said; this too.
    pub(super) block: Option<Bytes>,
}

/// Why the guest gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mute {
    /// It cannot be asked: no agent is named, or its agent does not take the command.
    #[error("{0}")]
    Unasked(String),
    /// It was asked, or would have been, and did not answer in time or sensibly. Nothing was sent of a command that
    /// changes something.
    #[error("{0}")]
    Silent(String),
    /// It was asked and tried, and said no.
    #[error("{0}")]
    Refused(String),
    /// The command was sent and no answer came: the guest may or may not have carried it out.
    #[error("{0}")]
    Unknown(String),
}

impl Mute {
    /// Sorts an agent's error.
    pub(crate) fn of(error: &AgentError) -> Mute {
        let text = error.to_string();
        match error {
            AgentError::Disabled { .. } | AgentError::NotFound { .. } => Mute::Unasked(text),
            AgentError::Refused { .. } => Mute::Refused(text),
            AgentError::Unreachable(_) | AgentError::Silent { .. } => Mute::Silent(text),
            AgentError::TimedOut { .. }
            | AgentError::Closed { .. }
            | AgentError::Garbled { .. }
            | AgentError::TooBig { .. } => Mute::Unknown(text),
        }
    }
}

impl Reach {
    /// The way to the agent behind the socket `path`, or to none. Nothing is opened yet. `limit` bounds each
    /// connecting and each question.
    pub fn new(path: Option<&Path>, limit: Duration) -> Reach {
        Reach {
            path: path.map(Path::to_owned),
            agent: None,
            silence: None,
            limit,
            lasting: None,
            block: None,
        }
    }

    /// How long the agent may take to answer a question.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The agent, connected. A silence is remembered for as long as one more try would take.
    ///
    /// # Errors
    /// [`Mute::Unasked`] where no agent is named, else [`Mute::Silent`].
    pub async fn agent(&mut self) -> Result<&mut Agent, Mute> {
        let Some(path) = &self.path else {
            return Err(Mute::Unasked("no guest agent is named for this machine".into()));
        };
        if let Some((until, why)) = &self.silence {
            if Instant::now() < *until {
                return Err(Mute::Silent(why.clone()));
            }
            self.silence = None;
        }
        let agent = match self.agent.take() {
            Some(agent) => Ok(agent),
            None => Agent::connect(path, self.limit).await,
        };
        match agent {
            Ok(agent) => Ok(self.agent.insert(agent)),
            Err(error) => Err(self.note(&error)),
        }
    }

    /// Carries out one command within `limit`.
    ///
    /// # Errors
    /// [`Mute`].
    pub async fn call(&mut self, command: &str, arguments: Value, limit: Duration) -> Result<Value, Mute> {
        let answer = self.agent().await?.call(command, arguments, limit).await;
        answer.map_err(|error| self.note(&error))
    }

    /// Takes note of an agent's error: a connection that has ended is made anew next time, a silence is remembered.
    pub fn note(&mut self, error: &AgentError) -> Mute {
        let mute = Mute::of(error);
        match error {
            AgentError::Unreachable(_) | AgentError::Silent { .. } => {
                self.silence = Some((Instant::now() + self.limit, error.to_string()));
            }
            AgentError::Closed { .. } => {
                self.agent = None;
                self.silence = Some((Instant::now() + self.limit, error.to_string()));
            }
            AgentError::Refused { .. }
            | AgentError::Disabled { .. }
            | AgentError::NotFound { .. }
            | AgentError::TimedOut { .. }
            | AgentError::Garbled { .. }
            | AgentError::TooBig { .. } => {}
        }
        mute
    }

    /// Forgets what was remembered of the guest: it has restarted.
    pub fn forget(&mut self) {
        self.lasting = None;
        self.block = None;
        self.silence = None;
    }
}
