//! What a frame from QEMU's monitor means. Pure. Unknown events and unknown members are let through or ignored:
//! each QEMU release adds some (docs/interop/qmp-spec, "Downstream extension of QMP" and "Capabilities").

use std::fmt;

use scale::observed;
use serde_json::{Map, Value};

use crate::wire::shown;

/// One message of QEMU's monitor.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first line of a connection.
    Greeting(Version),
    /// The answer to a command.
    Reply {
        /// The command's id. QEMU leaves it out only where it could not read the command.
        id: Option<u64>,
        /// What the command gave, or why it was refused.
        outcome: Result<Value, Refused>,
    },
    /// Something happened.
    Event(Event),
}

/// QEMU's version, from its greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The 7 of 7.2.22.
    pub major: u64,
    /// The 2 of 7.2.22.
    pub minor: u64,
    /// The 22 of 7.2.22.
    pub micro: u64,
    /// The packager's version string; empty where QEMU was built from its own source tree.
    pub package: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        if self.package.is_empty() { Ok(()) } else { write!(f, " ({})", self.package) }
    }
}

impl From<&Version> for observed::Version {
    fn from(version: &Version) -> Self {
        let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        Self(number(version.major), number(version.minor), number(version.micro))
    }
}

/// An event, as QEMU sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `DEVICE_DELETED`. May be one that nobody here knows.
    pub name: String,
    /// Its data; null where it has none.
    pub data: Value,
    /// When QEMU sent it, in microseconds since the Unix epoch by the host's clock; `None` if QEMU could not read
    /// the clock (it then sends -1).
    pub micros: Option<u64>,
}

/// A peer's "no".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The error class, such as `GenericError` or `CommandNotFound`.
    pub class: String,
    /// The reason in the peer's words, safe to print.
    pub desc: String,
}

impl Refused {
    /// Reads the `error` member of a reply; what is missing in it is left empty.
    pub(crate) fn read(error: &Value) -> Self {
        let text = |key| error.get(key).and_then(Value::as_str).map(shown).unwrap_or_default();
        Self { class: text("class"), desc: text("desc") }
    }
}

/// Tells what an object from the monitor is.
///
/// # Errors
/// In words, if it is none of the messages that QMP knows.
pub fn classify(mut object: Map<String, Value>) -> Result<Message, String> {
    if let Some(event) = object.remove("event") {
        let Value::String(name) = event else { return Err("an event without a name".into()) };
        let micros = object.get("timestamp").and_then(micros);
        let data = object.remove("data").unwrap_or(Value::Null);
        return Ok(Message::Event(Event { name, data, micros }));
    }
    let id = object.get("id").and_then(Value::as_u64);
    if let Some(value) = object.remove("return") {
        return Ok(Message::Reply { id, outcome: Ok(value) });
    }
    if let Some(error) = object.get("error") {
        return Ok(Message::Reply { id, outcome: Err(Refused::read(error)) });
    }
    if let Some(greeting) = object.get("QMP") {
        return version(greeting).map(Message::Greeting).ok_or_else(|| "a greeting without a version".into());
    }
    let keys: Vec<&str> = object.keys().take(5).map(String::as_str).collect();
    Err(shown(&format!("an object that is neither reply nor event, with members {keys:?}")))
}

fn micros(timestamp: &Value) -> Option<u64> {
    let seconds = timestamp.get("seconds")?.as_u64()?;
    let micros = timestamp.get("microseconds")?.as_u64()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

fn version(greeting: &Value) -> Option<Version> {
    let version = greeting.get("version")?;
    let number = |key| version.get("qemu")?.get(key)?.as_u64();
    Some(Version {
        major: number("major")?,
        minor: number("minor")?,
        micro: number("micro")?,
        package: version.get("package").and_then(Value::as_str).map(shown).unwrap_or_default(),
    })
}
