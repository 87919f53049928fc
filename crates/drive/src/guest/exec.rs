//! A program run inside a guest, through its agent: started, awaited and its output taken, all bounded. There is no
//! shell and no promise about PATH; name the program by its full path. The agent cannot end a program: one that
//! outlives the limit goes on in the guest, and the error gives its process id there.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::files::{bytes, left};
use super::{Agent, AgentError};

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
    const START: &str = "guest-exec";
    const STATUS: &str = "guest-exec-status";
    let until = Instant::now() + limit;
    let ask = json!({ "path": program, "arg": arguments, "capture-output": true });
    let started = agent.call(START, ask, left(until)).await?;
    let pid = started.get("pid").and_then(Value::as_i64);
    let pid = pid.ok_or_else(|| AgentError::garbled(START, "no process id in it"))?;
    let began = Instant::now();
    let mut wait = LEAST_WAIT;
    loop {
        // The agent tells of no end by itself.
        sleep(wait.min(left(until))).await;
        let status = agent.call(STATUS, json!({ "pid": pid }), left(until)).await?;
        let exited = status.get("exited").and_then(Value::as_bool);
        if exited.ok_or_else(|| AgentError::garbled(STATUS, "it does not say whether it ended"))? {
            let output = output(&status, most);
            return output.ok_or_else(|| AgentError::garbled(STATUS, "output that is not base64").into());
        }
        wait = (began.elapsed() / LATE).clamp(LEAST_WAIT, MOST_WAIT);
        if left(until) <= wait {
            return Err(ExecError::StillRuns { program: program.to_owned(), pid, after: limit });
        }
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
