//! What a frame from the guest agent means. Pure, and wary: the guest may say anything.

use serde_json::{Map, Value};

pub use crate::qmp::message::Refused;

/// The answer to a command: its value, or the agent's "no".
pub type Outcome = Result<Value, Refused>;

/// Tells what an object from the agent is. All that an agent may send is answers.
///
/// # Errors
/// In words, if it is no answer.
pub fn classify(mut object: Map<String, Value>) -> Result<Outcome, String> {
    if let Some(value) = object.remove("return") {
        return Ok(Ok(value));
    }
    match object.get("error") {
        Some(error) => Ok(Err(Refused::read(error))),
        None => Err("an object that is no answer".into()),
    }
}

/// How an agent's "no" is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// The command exists and is switched off, by the agent's configuration or while file systems are frozen.
    Disabled,
    /// This agent has no such command.
    NotFound,
    /// The command was tried and failed.
    Failed,
}

impl Refused {
    /// Sorts the "no". A command that is switched off comes as `CommandNotFound` or `GenericError`, depending on
    /// the agent's age; only the text, "has been disabled", is the same (QEMU, qapi/qmp-dispatch.c, 2.12 to 10.0).
    pub fn kind(&self) -> No {
        if self.desc.contains("has been disabled") || self.class == "CommandDisabled" {
            No::Disabled
        } else if self.class == "CommandNotFound" {
            No::NotFound
        } else {
            No::Failed
        }
    }
}
