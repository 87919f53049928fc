//! A client of the QEMU guest agent: over a Unix socket, or through libvirt where that holds the socket. Commands are
//! answered in their order, since answers carry no id. What the guest says is hostile until read: bounded in size and time, and a wrong type is an error.
//!
//! ```text
//! clean --command sent--> dirty --answer read--> clean
//!                         dirty --time-out, dropped future, unreadable answer--> dirty
//! clean --unasked bytes--> dirty --next call: 0xFF, guest-sync-delimited, its id seen--> clean
//! ```
//! (libvirt does the same before each command.) So an answer is only ever taken for the command that it belongs to. It does not reconnect and does not retry.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

#[cfg(feature = "libvirt")]
use crate::libvirt::AgentLine;
use crate::wire::DialError;

pub(crate) mod answers;
pub mod exec;
pub mod facts;
pub mod files;
pub mod message;
pub mod onlining;
pub mod probe;
pub mod reach;
pub mod setup;
mod socket;
pub mod zones;

use message::{No, Refused};
use socket::Socket;

/// The longest answer taken from a guest, in bytes. `guest-get-memory-blocks` takes about 64 bytes a block: 2 MiB
/// for 4 TiB in blocks of 128 MiB.
pub const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// A command and its arguments.
pub type Call = (&'static str, Value);

/// What the agent answered to a command: a result, or its "no".
pub type Answer = Result<Value, AgentError>;

/// The most commands that are sent together. Their lines fit any socket's buffer, so that sending never waits for the
/// agent to read while the agent waits for us.
pub const MOST_CALLS: usize = 128;

/// A connection to a guest's agent.
#[derive(Debug)]
pub struct Agent {
    way: Way,
}

#[derive(Debug)]
enum Way {
    Socket(Socket),
    #[cfg(feature = "libvirt")]
    Libvirt(AgentLine),
}

/// Why the guest agent gave no result.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket could not be reached.
    #[error(transparent)]
    Unreachable(#[from] DialError),
    /// The agent tried and failed.
    #[error("the guest agent refused {command}: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// The error class, mostly `GenericError`.
        class: String,
        /// The agent's reason, safe to print.
        desc: String,
    },
    /// The command is switched off.
    #[error(
        "the guest agent does not allow {command} ({desc}): allow it in the agent's configuration inside the guest \
         (FILTER_RPC_ARGS, BLOCK_RPCS or BLACKLIST_RPC in /etc/sysconfig/qemu-ga, or block-rpcs in qemu-ga.conf)"
    )]
    Disabled {
        /// The command.
        command: String,
        /// The agent's reason, safe to print; it says so where the cause is a frozen file system.
        desc: String,
    },
    /// This agent is too old for the command, or was built without it for this guest.
    #[error("the guest agent has no command {command}: install a newer qemu-guest-agent in the guest")]
    NotFound {
        /// The command.
        command: String,
    },
    /// No answer in time. The guest may still carry the command out: observe before trying again.
    #[error("the guest agent gave no answer to {command} within {after:?}; the guest may still carry it out")]
    TimedOut {
        /// The command.
        command: String,
        /// How long was waited.
        after: Duration,
    },
    /// The agent did not even answer the greeting that is asked before commands. Nothing was asked of it.
    #[error(
        "the guest agent is silent (no answer within {after:?}): it is not running in the guest, it is busy with an \
         earlier command, or another program (libvirt) holds its socket"
    )]
    Silent {
        /// How long was waited.
        after: Duration,
    },
    /// libvirt does not reach an agent, and sent nothing.
    #[error("libvirt does not reach the guest agent: {why}")]
    Absent {
        /// Why, in libvirt's words.
        why: String,
    },
    /// The connection has ended; connect anew.
    #[error("the connection to the guest agent ended: {why}")]
    Closed {
        /// How.
        why: String,
    },
    /// The answer could not be read, or has not the shape that the command's documentation promises.
    #[error("the guest agent's answer to {command} could not be read: {why}")]
    Garbled {
        /// The command.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// The answer is longer than is safe to take from a guest.
    #[error("the guest agent's answer to {command} is longer than {limit} bytes")]
    TooBig {
        /// The command.
        command: String,
        /// The most that is taken, in bytes.
        limit: usize,
    },
}

impl AgentError {
    pub(crate) fn no(command: &str, refused: Refused) -> Self {
        let command = command.to_owned();
        let kind = refused.kind();
        let Refused { class, desc } = refused;
        match kind {
            No::Disabled => Self::Disabled { command, desc },
            No::NotFound => Self::NotFound { command },
            No::Failed => Self::Refused { command, class, desc },
        }
    }

    pub(crate) fn garbled(command: &str, why: impl Into<String>) -> Self {
        Self::Garbled { command: command.to_owned(), why: why.into() }
    }
}

impl Agent {
    /// Connects and synchronises, within `limit`. The same limit holds for each later synchronisation.
    ///
    /// # Errors
    /// `Unreachable`, `Silent` or `Closed`.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, AgentError> {
        Ok(Self { way: Way::Socket(Socket::connect(path, limit).await?) })
    }

    /// The agent that libvirt holds. Nothing is asked of it yet.
    #[cfg(feature = "libvirt")]
    pub fn through(line: AgentLine) -> Self {
        Self { way: Way::Libvirt(line) }
    }

    /// Carries out one command within `limit`; `arguments` is an object, or null for none. Where an earlier call
    /// was left without its answer, the agent is first synchronised with, within the limit given to
    /// [`Agent::connect`]. The future may be dropped at any point.
    ///
    /// # Errors
    /// [`AgentError`]. After `TimedOut`, `Closed`, `Garbled` and `TooBig`, whether the guest carried the command
    /// out is not known; after `Silent` it was not sent.
    pub async fn call(&mut self, command: &str, arguments: Value, limit: Duration) -> Answer {
        let mut answers = self.call_all(&[(command, arguments)], limit).await?;
        answers.pop().unwrap_or_else(|| Err(AgentError::garbled(command, "there is none")))
    }

    /// Carries out several commands in their order, within `limit` in all, for little more than one round trip: they
    /// leave together and the agent, which parses a stream, answers one after the other (QEMU, qga/main.c,
    /// `process_event`, 7.2). A refused command does not keep those behind it from being carried out. At most
    /// [`MOST_CALLS`] at a time; each of them small.
    ///
    /// # Errors
    /// Inside, the refusals, as for [`Agent::call`]. Outside, all else: what became of any of the commands is then
    /// not known, except after `Silent`. `TooBig` if all answers together are longer than [`LONGEST_ANSWER`].
    pub async fn call_all(
        &mut self,
        calls: &[(&str, Value)],
        limit: Duration,
    ) -> Result<Vec<Answer>, AgentError> {
        self.call_chain(calls, |_, _| Vec::new(), limit).await
    }

    /// Carries out several commands as [`Agent::call_all`] does, and those that follow from their answers: `then` is told
    /// each answer to `calls`, with its number, and what it names is sent at once, behind all that was sent before. So a
    /// file is opened, read and closed, and other things are asked, for little more than one round trip. The answers
    /// come in the order of sending: first those to `calls`. All together, at most [`MOST_CALLS`].
    ///
    /// # Errors
    /// As for [`Agent::call_all`].
    pub async fn call_chain(
        &mut self,
        calls: &[(&str, Value)],
        then: impl FnMut(usize, &Answer) -> Vec<Call>,
        limit: Duration,
    ) -> Result<Vec<Answer>, AgentError> {
        match &mut self.way {
            Way::Socket(socket) => socket.call_chain(calls, then, limit).await,
            #[cfg(feature = "libvirt")]
            Way::Libvirt(line) => line.call_chain(calls, then, limit).await,
        }
    }

    /// How much memory unfinished answers hold, in bytes; at most [`LONGEST_ANSWER`].
    pub fn held(&self) -> usize {
        match &self.way {
            Way::Socket(socket) => socket.held(),
            #[cfg(feature = "libvirt")]
            Way::Libvirt(_) => 0,
        }
    }
}
