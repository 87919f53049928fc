//! A program run inside a guest, through its agent: started, awaited and its output taken, all bounded. There is no
//! shell and no promise about PATH; name the program by its full path. The agent cannot end a program: one that
//! outlives the limit goes on in the guest, and the error gives its process id there.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::files::{bytes, left};
use super::{Agent, AgentError, Call};

pub(super) const START: &str = "guest-exec";
const STATUS: &str = "guest-exec-status";

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub end: End,
    /// Its standard output, at most as many bytes as were allowed.
    pub stdout: Vec<u8>,
    /// Its standard error, at most as many bytes as were allowed.
    pub stderr: Vec<u8>,
    /// Whether any output was cut, by the bound or by the agent (which keeps 16 MiB of each stream).
    pub is_cut: bool,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit status; 0 is success.
    Exit(i64),
    /// By this signal.
    Signal(i64),
    /// The agent does not say.
    Unknown,
}

/// Why a program gave no output.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The agent gave no result; `Refused` if the program could not be started.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It runs longer than was allowed, and goes on.
    #[error("{program} still runs in the guest after {after:?} (process {pid} there)")]
    StillRuns {
        /// The program.
        program: String,
        /// Its process id in the guest.
        pid: i64,
        /// How long was waited.
        after: Duration,
    },
}

/// The wait before each question whether the program has ended: this part of the time that it has run, within bounds. Its
/// end is to be noticed soon, but each question takes a busy guest's time, too.
const LATE: u32 = 4;
const LEAST_WAIT: Duration = Duration::from_millis(10);
const MOST_WAIT: Duration = Duration::from_millis(50);

/// Runs `program` with `arguments` within `limit`, and takes at most `most` bytes of each output stream.
/// A program whose output does not fit the longest answer gives `TooBig`.
///
/// # Errors
/// [`ExecError`]. A program that ran and failed is no error: see [`Output::end`].
pub async fn run(
    agent: &mut Agent,
    program: &str,
    arguments: &[&str],
    most: usize,
    limit: Duration,
) -> Result<Output, ExecError> {
    let until = Instant::now() + limit;
    let (command, ask) = start(program, arguments);
    let started = agent.call(command, ask, left(until)).await?;
    let pid = pid(&started)?;
    // The agent tells of no end by itself.
    sleep(LEAST_WAIT.min(left(until))).await;
    match end(agent, pid, most, until).await? {
        Some(output) => Ok(output),
        None => Err(ExecError::StillRuns { program: program.to_owned(), pid, after: limit }),
    }
}

/// The command that starts `program`.
pub(super) fn start(program: &str, arguments: &[&str]) -> Call {
    (START, json!({ "path": program, "arg": arguments, "capture-output": true }))
}

/// The process id in the answer to the start.
pub(super) fn pid(started: &Value) -> Result<i64, AgentError> {
    let pid = started.get("pid").and_then(Value::as_i64);
    pid.ok_or_else(|| AgentError::garbled(START, "no process id in it"))
}

/// What a program that was started has left behind when it ends; nothing where it still runs at `until`.
pub(super) async fn end(
    agent: &mut Agent,
    pid: i64,
    most: usize,
    until: Instant,
) -> Result<Option<Output>, AgentError> {
    let began = Instant::now();
    loop {
        let status = agent.call(STATUS, json!({ "pid": pid }), left(until)).await?;
        let exited = status.get("exited").and_then(Value::as_bool);
        if exited.ok_or_else(|| AgentError::garbled(STATUS, "it does not say whether it ended"))? {
            let output = output(&status, most);
            return output.map(Some).ok_or_else(|| AgentError::garbled(STATUS, "output that is not base64"));
        }
        let wait = (began.elapsed() / LATE).clamp(LEAST_WAIT, MOST_WAIT);
        if left(until) <= wait {
            return Ok(None);
        }
        sleep(wait).await;
    }
}

fn output(status: &Value, most: usize) -> Option<Output> {
    let mut is_cut = false;
    let mut stream = |key: &str, cut: &str| {
        let mut data = if status.get(key).is_some() { bytes(status, key)? } else { Vec::new() };
        is_cut |= data.len() > most || status.get(cut).and_then(Value::as_bool) == Some(true);
        data.truncate(most);
        Some(data)
    };
    let stdout = stream("out-data", "out-truncated")?;
    let stderr = stream("err-data", "err-truncated")?;
    let number = |key| status.get(key).and_then(Value::as_i64);
    let end = match (number("exitcode"), number("signal")) {
        (_, Some(signal)) => End::Signal(signal),
        (Some(code), None) => End::Exit(code),
        (None, None) => End::Unknown,
    };
    Some(Output { end, stdout, stderr, is_cut })
}
