//! Makes a Linux guest put plugged memory and vCPUs online by itself: one udev rule, installed through the agent where
//! it may write files or run programs, else told word by word. It replaces no rule of the guest's own and touches
//! nothing that is plugged already.

use std::time::Duration;

use scale::guests::System;
use serde_json::Value;
use tokio::time::Instant;

use super::exec::{self, End, ExecError};
use super::files::{self, FileError, left};
use super::{Agent, AgentError};
use crate::wire::shown;

/// The rules: memory and CPUs, with comments.
pub const UDEV_RULES: &str = include_str!("80-supple-hotplug.rules");

/// Where the rules belong in the guest. Numbered after the distributions' own.
pub const UDEV_PATH: &str = "/etc/udev/rules.d/80-supple-hotplug.rules";

/// Where udev's control program is: merged and older file system layouts.
const UDEVADM: [&str; 4] = ["/usr/bin/udevadm", "/bin/udevadm", "/sbin/udevadm", "/usr/sbin/udevadm"];

/// The most of a program's output that is kept.
const OUTPUT: usize = 4096;

/// How far the installation came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Installed {
    /// The rules are in place and udev has read them.
    Loaded,
    /// The rules are in place. udev could not be told, for this reason; it looks for changed rules itself at its next
    /// event (systemd-udevd, src/udev/udevd.c, 219 to 252).
    Written(String),
}

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
#[error("the udev rules could not be installed through the guest agent: {why}")]
pub struct NotInstalled {
    /// The obstacles, in words.
    pub why: String,
    /// What to do instead, as commands for a root shell in the guest: see [`by_hand`].
    pub by_hand: String,
}

/// The commands, for a root shell in the guest, that do what [`install_udev_rule`] does.
pub fn by_hand() -> String {
    format!(
        "mkdir -p /etc/udev/rules.d\ncat > {UDEV_PATH} <<'END'\n{UDEV_RULES}END\nudevadm control --reload\n"
    )
}

/// The guest's system, where it says that it is one that is known to be no Linux: nothing is written into it.
pub async fn without_udev(agent: &mut Agent, limit: Duration) -> Option<String> {
    let told = agent.call("guest-get-osinfo", Value::Null, limit).await.ok()?;
    let text = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or_default();
    let system = System::of_agent(text("id"), text("version-id"), text("pretty-name"), text("machine"));
    let name = if system.name.is_empty() { &system.id } else { &system.name };
    (!system.id.is_empty() && !system.is_linux()).then(|| shown(name))
}

/// Installs the rules, each of the few exchanges within `limit`, and reads them back. Installing them again is no harm.
///
/// # Errors
/// [`NotInstalled`], with what to do by hand.
pub async fn install_udev_rule(agent: &mut Agent, limit: Duration) -> Result<Installed, NotInstalled> {
    let by_file = match files::write(agent, UDEV_PATH, UDEV_RULES.as_bytes(), limit).await {
        Ok(()) => verify(agent, limit).await,
        Err(error) => Err(error.to_string()),
    };
    let placed = match by_file {
        Ok(()) => Ok(()),
        Err(file) => by_shell(agent, limit).await.map_err(|shell| format!("{file}; {shell}")),
    };
    placed.map_err(|why| NotInstalled { why, by_hand: by_hand() })?;
    Ok(match reload(agent, limit).await {
        Ok(()) => Installed::Loaded,
        Err(why) => Installed::Written(why),
    })
}

async fn verify(agent: &mut Agent, limit: Duration) -> Result<(), String> {
    match files::read(agent, UDEV_PATH, UDEV_RULES.len(), limit).await {
        Ok(content) if content == UDEV_RULES.as_bytes() => Ok(()),
        Ok(_) | Err(FileError::TooLong { .. }) => Err(format!("{UDEV_PATH} does not hold what was written")),
        Err(FileError::Agent(error)) => Err(error.to_string()),
    }
}

/// For agents that may run programs and not write files.
async fn by_shell(agent: &mut Agent, limit: Duration) -> Result<(), String> {
    let script =
        format!("printf %s \"$1\" > {UDEV_PATH} && [ \"$(wc -c < {UDEV_PATH})\" -eq {} ]", UDEV_RULES.len());
    run(agent, "/bin/sh", &["-c", &script, "sh", UDEV_RULES], limit)
        .await
        .map_err(|error| error.text("/bin/sh"))
}

async fn reload(agent: &mut Agent, limit: Duration) -> Result<(), String> {
    let until = Instant::now() + limit;
    let mut why = String::new();
    for program in UDEVADM {
        match run(agent, program, &["control", "--reload"], left(until)).await {
            Ok(()) => return Ok(()),
            // Not at this place: look at the next.
            Err(Failure::Exec(ExecError::Agent(error @ AgentError::Refused { .. }))) => {
                why = error.to_string()
            }
            Err(failure) => return Err(failure.text(program)),
        }
    }
    Err(why)
}

enum Failure {
    Exec(ExecError),
    Ended(End, String),
}

impl Failure {
    fn text(&self, program: &str) -> String {
        match self {
            Failure::Exec(error) => error.to_string(),
            Failure::Ended(End::Exit(code), said) => format!("{program} ended with status {code}: {said}"),
            Failure::Ended(End::Signal(signal), said) => {
                format!("{program} was ended by signal {signal}: {said}")
            }
            Failure::Ended(End::Unknown, said) => format!("{program} ended somehow: {said}"),
        }
    }
}

async fn run(agent: &mut Agent, program: &str, arguments: &[&str], limit: Duration) -> Result<(), Failure> {
    let output = exec::run(agent, program, arguments, OUTPUT, limit).await.map_err(Failure::Exec)?;
    match output.end {
        End::Exit(0) => Ok(()),
        end @ (End::Exit(_) | End::Signal(_) | End::Unknown) => {
            let said = shown(String::from_utf8_lossy(&output.stderr).trim());
            Err(Failure::Ended(end, said))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_run_on_add_alone() {
        let rules: Vec<&str> =
            UDEV_RULES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(rules.len(), 2, "one for memory, one for CPUs");
        for rule in rules {
            assert!(rule.contains(r#"ACTION=="add""#), "{rule}");
            // `!=` conditions are those of the rule that put an offlined block online again (RHEL 7.6).
            assert!(!rule.contains("!=") && !rule.contains("GOTO"), "{rule}");
        }
    }

    #[test]
    fn what_to_do_by_hand_is_complete() {
        let text = by_hand();
        assert!(
            text.contains(UDEV_RULES)
                && text.contains(UDEV_PATH)
                && text.contains("udevadm control --reload")
        );
        assert!(!UDEV_RULES.lines().any(|line| line == "END"));
    }
}
