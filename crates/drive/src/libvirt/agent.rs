//! The guest agent through libvirt, which holds its socket: the same commands as over a socket of our own, with a limit
//! always (libvirt's default is to wait for ever) and libvirt's errors told apart. It interprets no answer.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::domain::Domain;
use super::error::{Code, Error};
use super::pool::{CallError, Lane};
use crate::guest::message::{Refused, classify};
use crate::guest::{AgentError, Answer, Call, LONGEST_ANSWER};
use crate::wire::shown;

/// One domain's agent. Clones share the turn at it.
#[derive(Debug, Clone)]
pub struct AgentLine {
    domain: Domain,
    lane: Lane,
}

impl AgentLine {
    /// The agent of `domain`, asked on `lane`, which should serve nothing else.
    pub fn new(domain: Domain, lane: Lane) -> Self {
        Self { domain, lane }
    }

    /// As [`crate::guest::Agent::call_chain`]. Each command is an exchange of its own here, so that nothing is gained by
    /// not waiting for all answers before the commands that follow from them.
    pub(crate) async fn call_chain(
        &self,
        calls: &[(&str, Value)],
        mut then: impl FnMut(usize, &Answer) -> Vec<Call>,
        limit: Duration,
    ) -> Result<Vec<Answer>, AgentError> {
        let until = Instant::now() + limit;
        let mut answers = self.call_all(calls, limit).await?;
        let follow: Vec<Call> =
            answers.iter().enumerate().flat_map(|(nth, answer)| then(nth, answer)).collect();
        let left = until.saturating_duration_since(Instant::now());
        answers.extend(self.call_all(&follow, left).await?);
        Ok(answers)
    }

    /// Carries out several commands in their order within `limit` in all.
    async fn call_all(&self, calls: &[(&str, Value)], limit: Duration) -> Result<Vec<Answer>, AgentError> {
        const WHAT: &str = "a question to the guest agent";
        let Some((first, _)) = calls.first() else { return Ok(Vec::new()) };
        let first = (*first).to_owned();
        let domain = self.domain.clone();
        let lines: Vec<(String, String)> = calls.iter().map(line).collect();
        let until = Instant::now() + limit;
        // The C calls run behind each other on one thread; their errors are values in the result.
        let ask = move || Ok(ask(&domain, &lines, until, limit));
        match self.lane.call(WHAT, limit, ask).await {
            Ok(answers) => answers,
            Err(CallError::TimedOut { .. }) => Err(AgentError::TimedOut { command: first, after: limit }),
            Err(CallError::Libvirt(error)) => Err(AgentError::Absent { why: error.message }),
            Err(error @ (CallError::Busy { .. } | CallError::Crowded { .. })) => {
                Err(AgentError::Absent { why: error.to_string() })
            }
        }
    }
}

/// A command's name and its line.
fn line((command, arguments): &(&str, Value)) -> (String, String) {
    let mut line = json!({ "execute": command });
    if !arguments.is_null() {
        line["arguments"] = arguments.clone();
    }
    ((*command).to_owned(), line.to_string())
}

fn ask(
    domain: &Domain,
    lines: &[(String, String)],
    until: Instant,
    limit: Duration,
) -> Result<Vec<Answer>, AgentError> {
    let mut answers = Vec::new();
    let mut room = LONGEST_ANSWER;
    for (command, line) in lines {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AgentError::TimedOut { command: command.clone(), after: limit });
        }
        answers.push(match domain.agent_command(line, left) {
            Ok(reply) => {
                let too_big = || AgentError::TooBig { command: command.clone(), limit: LONGEST_ANSWER };
                room = room.checked_sub(reply.len()).ok_or_else(too_big)?;
                read(command, &reply)?
            }
            Err(error) => Err(AgentError::no(command, refusal(command, &error, limit)?)),
        });
    }
    Ok(answers)
}

fn read(command: &str, reply: &str) -> Result<Answer, AgentError> {
    let garbled = |why: String| AgentError::garbled(command, why);
    let members = serde_json::from_str(reply).map_err(|error| garbled(shown(&error.to_string())))?;
    let outcome = classify(members).map_err(garbled)?;
    Ok(outcome.map_err(|refused| AgentError::no(command, refused)))
}

/// The agent's own "no", if libvirt's error is one; else why there is no answer.
///
/// libvirt keeps of the agent's "no" only the text (`qemuAgentCheckError`, 9.0), in an error that says what was tried.
fn refusal(command: &str, error: &Error, limit: Duration) -> Result<Refused, AgentError> {
    let why = || error.message.clone();
    let timed_out = || AgentError::TimedOut { command: command.to_owned(), after: limit };
    match error.code {
        Code::Internal | Code::AgentFailed => {
            let said =
                error.message.split_once("agent command '").and_then(|(_, rest)| rest.split_once("': "));
            let Some((_, desc)) = said else { return Err(AgentError::Closed { why: why() }) };
            let class = if desc.contains("has not been found") { "CommandNotFound" } else { "GenericError" };
            Ok(Refused { class: class.to_owned(), desc: desc.to_owned() })
        }
        Code::AgentTimeout => Err(timed_out()),
        Code::AgentUnresponsive if error.message.contains("respond to command") => Err(timed_out()),
        // Nothing was sent: no agent, none that answers libvirt's own greeting, or another call of somebody's.
        Code::AgentUnresponsive | Code::OperationTimeout | Code::Unsupported | Code::ConfigUnsupported => {
            Err(AgentError::Absent { why: why() })
        }
        Code::NoLibrary
        | Code::NoSupport
        | Code::NoConnect
        | Code::InvalidArgument
        | Code::OperationFailed
        | Code::Xml
        | Code::Denied
        | Code::System
        | Code::Rpc
        | Code::NoDomain
        | Code::Auth
        | Code::OperationInvalid
        | Code::Busy
        | Code::DeviceMissing
        | Code::Other(_) => Err(AgentError::Closed { why: why() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn sorted(code: i32, message: &str) -> AgentError {
        match refusal("guest-x", &Error::new(code, 0, message), LIMIT) {
            Ok(refused) => AgentError::no("guest-x", refused),
            Err(error) => error,
        }
    }

    /// Messages as libvirt 9.0 gave them.
    #[test]
    fn the_agents_no_is_told_from_an_agent_that_is_not_there() {
        let not_found = "internal error: unable to execute QEMU agent command 'guest-x': The command guest-x has not \
                         been found";
        assert!(matches!(sorted(1, not_found), AgentError::NotFound { .. }));
        let disabled = "internal error: unable to execute QEMU agent command 'guest-x': Command guest-x has been \
                        disabled: the command is not allowed";
        assert!(matches!(sorted(1, disabled), AgentError::Disabled { .. }));
        let failed =
            "internal error: unable to execute QEMU agent command 'guest-x': failed to open file '/a': b";
        let AgentError::Refused { desc, .. } = sorted(113, failed) else { panic!("{failed}") };
        assert_eq!(desc, "failed to open file '/a': b");

        let late = "Guest agent is not responding: guest agent didn't respond to command within '5' seconds";
        assert!(matches!(sorted(86, late), AgentError::TimedOut { .. }));
        assert!(matches!(sorted(112, "anything"), AgentError::TimedOut { .. }));
        let absent = "Guest agent is not responding: QEMU guest agent is not connected";
        assert!(matches!(sorted(86, absent), AgentError::Absent { .. }));
        assert!(matches!(sorted(55, "domain is not running"), AgentError::Closed { .. }));
        assert!(matches!(sorted(1, "internal error: something else"), AgentError::Closed { .. }));
    }
}
