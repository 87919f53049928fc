//! QEMU's monitor through libvirt, for questions alone: what is changed behind libvirt's back makes its own description
//! of the domain false, so a command that could change anything is refused here and never sent.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::domain::Domain;
use super::pool::{CallError, Lane};
use super::terms::{Affect, State};
use crate::host;
use crate::qmp::message::{Message, classify};
use crate::qmp::{QmpError, Version};
use crate::wire::shown;

/// The monitor of one domain.
#[derive(Debug)]
pub struct Passthrough {
    domain: Domain,
    lane: Lane,
    version: Version,
    pid: Option<u32>,
}

impl Passthrough {
    /// The monitor of `domain`, asked on `lane`. `is_local` tells whether its QEMU runs on this host.
    ///
    /// # Errors
    /// QEMU could not be asked for its version.
    pub async fn open(domain: Domain, lane: Lane, is_local: bool, limit: Duration) -> Result<Self, QmpError> {
        let version = Version { major: 0, minor: 0, micro: 0, package: String::new() };
        let mut passthrough = Self { domain, lane, version, pid: None };
        let told = passthrough.execute("query-version", Value::Null, limit).await?;
        let number = |key| told["qemu"][key].as_u64().unwrap_or(0);
        passthrough.version = Version {
            major: number("major"),
            minor: number("minor"),
            micro: number("micro"),
            package: told["package"].as_str().map(shown).unwrap_or_default(),
        };
        if is_local {
            passthrough.pid = process(&passthrough.domain.uuid());
        }
        Ok(passthrough)
    }

    /// QEMU's version.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The QEMU process, if it was found on this host.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Puts one question to QEMU within `limit`.
    ///
    /// # Errors
    /// [`QmpError`]; a command that is no question is `Withheld`.
    pub async fn execute(&self, command: &str, arguments: Value, limit: Duration) -> Result<Value, QmpError> {
        const WHAT: &str = "a question to QEMU";
        let name = || command.to_owned();
        if !is_question(command, &arguments) {
            let why = "it is no question, and changes are libvirt's to make".to_owned();
            return Err(QmpError::Withheld { command: name(), why });
        }
        let mut line = json!({ "execute": command });
        if !arguments.is_null() {
            line["arguments"] = arguments;
        }
        let (domain, line) = (self.domain.clone(), line.to_string());
        let reply = self.lane.call(WHAT, limit, move || domain.monitor_command(&line)).await;
        let reply = reply.map_err(|error| match error {
            CallError::TimedOut { after, .. } => QmpError::TimedOut { command: name(), after },
            CallError::Libvirt(error) if error.is_held() => {
                QmpError::Withheld { command: name(), why: error.held() }
            }
            CallError::Libvirt(_) | CallError::Busy { .. } | CallError::Crowded { .. } => {
                QmpError::Withheld { command: name(), why: error.to_string() }
            }
        })?;
        let garbled = |why: String| QmpError::Garbled { command: name(), why };
        let members = serde_json::from_str(&reply).map_err(|error| garbled(shown(&error.to_string())))?;
        match classify(members).map_err(garbled)? {
            Message::Reply { outcome, .. } => outcome.map_err(|refused| QmpError::Refused {
                command: name(),
                class: refused.class,
                desc: refused.desc,
            }),
            Message::Greeting(_) | Message::Event(_) => Err(garbled("it is no reply".into())),
        }
    }

    /// True where libvirt, which follows QEMU's events, has the machine for running. It says so without asking QEMU.
    pub async fn is_running(&self, limit: Duration) -> bool {
        let domain = self.domain.clone();
        let state = self.lane.call("a question to libvirt", limit, move || domain.state()).await;
        matches!(state, Ok(State::Running))
    }

    /// Has the balloon driver tell its figures every `seconds`, by libvirt. False where that cannot be.
    pub async fn poll_balloon(&self, seconds: u16, limit: Duration) -> bool {
        let domain = self.domain.clone();
        let set = move || domain.set_memory_stats_period(seconds, Affect::Live);
        self.lane.call("the balloon's reporting", limit, set).await.is_ok()
    }
}

/// True for a command that changes nothing.
fn is_question(command: &str, arguments: &Value) -> bool {
    match command {
        "qom-get" | "qom-list" => true,
        "human-monitor-command" => {
            arguments["command-line"].as_str().is_some_and(|line| line.starts_with("info "))
        }
        _ => command.starts_with("query-"),
    }
}

/// The process that libvirt started for the domain: it gives QEMU the domain's uuid as an argument.
fn process(uuid: &str) -> Option<u32> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names = |pid: &u32| {
        let line = host::command_line(*pid);
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.windows(2).any(|pair| pair[0] == b"-uuid" && pair[1] == uuid.as_bytes())
    };
    pids.filter(names).find_map(host::qemu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_change_the_machine_is_no_question() {
        let none = Value::Null;
        for command in ["query-memory-devices", "qom-get", "qom-list"] {
            assert!(is_question(command, &none), "{command}");
        }
        for command in ["device_add", "qom-set", "object-del", "balloon", "quit", "human-monitor-command"] {
            assert!(!is_question(command, &none), "{command}");
        }
        let text = |line: &str| is_question("human-monitor-command", &json!({ "command-line": line }));
        assert!(text("info numa") && !text("device_del x") && !text("infox"));
    }
}
