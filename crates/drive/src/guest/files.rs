//! Small files of a guest, through its agent. Bounded in bytes and time; nothing is kept open after a finished call.
//! A call that times out or is dropped leaves its handle open in the agent until the agent restarts: the protocol
//! has no way to ask for it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Agent, AgentError, Answer, Call, LONGEST_ANSWER};

/// The most bytes asked for in one `guest-file-read`, or sent in one `guest-file-write`: an answer's base64 text stays
/// well below the longest answer.
const PIECE: usize = 256 * 1024;
const _: () = assert!(PIECE * 2 < LONGEST_ANSWER);

/// Why a guest's file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The agent gave no result.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The file is longer than was allowed.
    #[error("{path} in the guest is longer than {most} bytes")]
    TooLong {
        /// The file.
        path: String,
        /// The most that was allowed, in bytes.
        most: usize,
    },
}

/// Reads the whole of a file of at most `most` bytes, within `limit` in all.
///
/// # Errors
/// [`FileError`]; a file that cannot be opened is `Agent(Refused)` with the guest's reason.
pub async fn read(agent: &mut Agent, path: &str, most: usize, limit: Duration) -> Result<Vec<u8>, FileError> {
    let until = Instant::now() + limit;
    let handle = open(agent, path, "r", until).await?;
    let content = read_open(agent, handle, path, most, until).await;
    finish(agent, handle, until, content).await
}

/// Makes the file's content `content`, within `limit` in all. Not atomic: a failure may leave a part of it.
///
/// # Errors
/// [`FileError`].
pub async fn write(agent: &mut Agent, path: &str, content: &[u8], limit: Duration) -> Result<(), FileError> {
    let until = Instant::now() + limit;
    let handle = open(agent, path, "w", until).await?;
    let written = write_open(agent, handle, content, until).await;
    finish(agent, handle, until, written).await
}

/// Reads several files of at most `most` bytes each, within `limit` in all. For the small files of /proc and /sys: one
/// read takes all. At most [`MOST_FILES`] at a time.
///
/// # Errors
/// Inside, why one file could not be read; outside, why none could be asked for.
pub async fn read_each(
    agent: &mut Agent,
    paths: &[&str],
    most: usize,
    limit: Duration,
) -> Result<Vec<Result<Vec<u8>, FileError>>, AgentError> {
    let opens: Vec<_> = paths.iter().map(|path| open_call(path, "r")).collect();
    let then = |_, opened: &Answer| read_and_close(opened, most);
    let mut opened = agent.call_chain(&opens, then, limit).await?;
    let mut rest = opened.split_off(paths.len()).into_iter();
    Ok(paths.iter().zip(opened).map(|(path, opened)| content(path, opened, &mut rest, most)).collect())
}

/// The commands that follow when a file was opened to be read.
pub(super) fn read_and_close(opened: &Answer, most: usize) -> Vec<Call> {
    assert!(most < PIECE, "a file that is read in one answer must fit it");
    let Some(handle) = number(opened) else { return Vec::new() };
    // One byte more than is allowed, so that a longer file shows.
    vec![("guest-file-read", json!({ "handle": handle, "count": most + 1 })), close_call(handle)]
}

/// A file's content, from the answer to its opening and the next of the answers to [`read_and_close`].
pub(super) fn content(
    path: &str,
    opened: Answer,
    rest: &mut impl Iterator<Item = Answer>,
    most: usize,
) -> Result<Vec<u8>, FileError> {
    handle(opened?)?;
    let read = next("guest-file-read", rest);
    // What was read counts, whatever the close says.
    drop(next(CLOSE, rest));
    whole(&read?, path, most)
}

/// Makes each file's content `content`, in their order, within `limit` in all. For the small files of /sys: one write
/// takes all. At most [`MOST_FILES`] at a time.
///
/// # Errors
/// Inside, why one file could not be written; outside, why none could be, or what is known of none.
pub async fn write_each(
    agent: &mut Agent,
    paths: &[&str],
    content: &[u8],
    limit: Duration,
) -> Result<Vec<Result<(), AgentError>>, AgentError> {
    let content = STANDARD.encode(content);
    let opens: Vec<_> = paths.iter().map(|path| open_call(path, "w")).collect();
    let then = |_, opened: &Answer| {
        let Some(handle) = number(opened) else { return Vec::new() };
        // The agent writes through stdio: the write itself is made, and its error told, at the close.
        vec![("guest-file-write", json!({ "handle": handle, "buf-b64": content })), close_call(handle)]
    };
    let mut opened = agent.call_chain(&opens, then, limit).await?;
    let mut rest = opened.split_off(paths.len()).into_iter();
    let done = |opened: Answer| {
        handle(opened?)?;
        let written = next("guest-file-write", &mut rest);
        let closed = next(CLOSE, &mut rest);
        written.and(closed).map(drop)
    };
    Ok(opened.into_iter().map(done).collect())
}

/// The most files that are written or read together: three commands each.
pub const MOST_FILES: usize = super::MOST_CALLS / 3;

fn next(command: &str, answers: &mut impl Iterator<Item = Answer>) -> Answer {
    answers.next().unwrap_or_else(|| Err(AgentError::garbled(command, "there is none")))
}

pub(super) const OPEN: &str = "guest-file-open";

/// The command that opens a file; `mode` as in fopen(3).
pub(super) fn open_call(path: &str, mode: &str) -> Call {
    (OPEN, json!({ "path": path, "mode": mode }))
}

const CLOSE: &str = "guest-file-close";

/// The command that closes it again.
pub(super) fn close_call(handle: i64) -> Call {
    (CLOSE, json!({ "handle": handle }))
}

/// The handle in the answer to its opening, if it was opened.
pub(super) fn number(opened: &Answer) -> Option<i64> {
    opened.as_ref().ok()?.as_i64()
}

/// The same, or why there is none.
fn handle(answer: Value) -> Result<i64, AgentError> {
    answer.as_i64().ok_or_else(|| AgentError::garbled(OPEN, "the handle is no number"))
}

/// The content in one answer, if it is the file's whole content.
fn whole(answer: &Value, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
    let content =
        bytes(answer, "buf-b64").ok_or_else(|| AgentError::garbled("guest-file-read", "no base64 in it"))?;
    if content.len() > most {
        return Err(FileError::TooLong { path: path.to_owned(), most });
    }
    Ok(content)
}

async fn open(agent: &mut Agent, path: &str, mode: &str, until: Instant) -> Result<i64, AgentError> {
    let (command, arguments) = open_call(path, mode);
    handle(agent.call(command, arguments, left(until)).await?)
}

async fn read_open(
    agent: &mut Agent,
    handle: i64,
    path: &str,
    most: usize,
    until: Instant,
) -> Result<Vec<u8>, FileError> {
    const COMMAND: &str = "guest-file-read";
    let mut content = Vec::new();
    // Ends: each turn brings at least one byte, up to one more than `most`.
    loop {
        let count = (most + 1 - content.len()).min(PIECE);
        let answer = agent.call(COMMAND, json!({ "handle": handle, "count": count }), left(until)).await?;
        let piece =
            bytes(&answer, "buf-b64").ok_or_else(|| AgentError::garbled(COMMAND, "no base64 in it"))?;
        let is_end = answer.get("eof").and_then(Value::as_bool);
        let is_end =
            is_end.ok_or_else(|| AgentError::garbled(COMMAND, "it does not say whether more follows"))?;
        if piece.len() > count {
            return Err(AgentError::garbled(COMMAND, "more bytes than were asked for").into());
        }
        if piece.is_empty() && !is_end {
            return Err(AgentError::garbled(COMMAND, "neither bytes nor the end").into());
        }
        content.extend_from_slice(&piece);
        if content.len() > most {
            return Err(FileError::TooLong { path: path.to_owned(), most });
        }
        if is_end {
            return Ok(content);
        }
    }
}

async fn write_open(agent: &mut Agent, handle: i64, content: &[u8], until: Instant) -> Result<(), FileError> {
    const COMMAND: &str = "guest-file-write";
    let mut rest = content;
    // Ends: each turn takes at least one byte off `rest`.
    while !rest.is_empty() {
        let piece = STANDARD.encode(&rest[..rest.len().min(PIECE)]);
        let answer = agent.call(COMMAND, json!({ "handle": handle, "buf-b64": piece }), left(until)).await?;
        let count = answer.get("count").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|count| (1..=rest.len().min(PIECE)).contains(count));
        let count = count.ok_or_else(|| AgentError::garbled(COMMAND, "a count that cannot be"))?;
        rest = &rest[count..];
    }
    agent.call("guest-file-flush", json!({ "handle": handle }), left(until)).await?;
    Ok(())
}

/// Closes the file, unless the agent no longer answers. The first error counts.
async fn finish<T>(
    agent: &mut Agent,
    handle: i64,
    until: Instant,
    done: Result<T, FileError>,
) -> Result<T, FileError> {
    if let Err(FileError::Agent(
        AgentError::TimedOut { .. }
        | AgentError::Silent { .. }
        | AgentError::Absent { .. }
        | AgentError::Closed { .. },
    )) = done
    {
        return done;
    }
    let (command, arguments) = close_call(handle);
    let closed = agent.call(command, arguments, left(until)).await;
    let value = done?;
    closed?;
    Ok(value)
}

/// The decoded bytes of a base64 member.
pub(super) fn bytes(answer: &Value, key: &str) -> Option<Vec<u8>> {
    STANDARD.decode(answer.get(key)?.as_str()?).ok()
}

/// The time left until a deadline; zero after it.
pub(crate) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
