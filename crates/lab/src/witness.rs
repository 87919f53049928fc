//! A shell in the guest that owes nothing to the guest agent: the lab's own eyes.
//!
//! Commands go to the guest's `init` over a virtio-serial port of their own, one line each, and run beside each
//! other. Every command has a time limit, which the guest enforces and the host backs. It will not interpret
//! what it reads beyond the handful of questions below; all of them are answered by the guest's kernel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a guest may take, beyond a command's limit, to enforce it and to tell.
const TELLS: Duration = Duration::from_secs(30);

/// More than the longest answer: 1 MiB and 64 KiB in base64, and some words.
const LONGEST_LINE: u64 = 2 << 20;

/// What a command in the guest left behind. More than 1 MiB of output is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit status; 128 + the signal's number when a signal ended it (137: it outlived its limit).
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output without its last line end, if the command succeeded.
    ///
    /// # Errors
    /// The command failed; the error has its status and what it said.
    pub fn ok(self) -> Result<String> {
        let Self { status, stdout, stderr } = self;
        ensure!(status == 0, "a command in the guest ended with {status}: {stdout}{stderr}");
        Ok(stdout.trim_end_matches('\n').to_owned())
    }
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Output>>>>;

/// A connection to the witness port of one guest.
#[derive(Debug)]
pub struct Witness {
    writer: AsyncMutex<OwnedWriteHalf>,
    pending: Pending,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Witness {
    /// Connects to the host's end of the port.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let (reader, writer) =
            UnixStream::connect(socket).await.context("cannot reach the witness")?.into_split();
        let pending = Pending::default();
        let reader = tokio::spawn(read(BufReader::new(reader), pending.clone()));
        Ok(Self { writer: writer.into(), pending, next: 0.into(), reader })
    }

    /// Runs `command` with the guest's `sh`, for at most `limit`.
    ///
    /// # Errors
    /// No answer came within the limit and half a minute, or the connection is gone.
    pub async fn shell(&self, command: &str, limit: Duration) -> Result<Output> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.pending).insert(id, answer);
        let seconds = limit.as_secs().max(1);
        let line = format!("{id} {seconds} {}\n", STANDARD.encode(command));
        let outcome = timeout(limit + TELLS, async {
            self.writer.lock().await.write_all(line.as_bytes()).await?;
            answered.await.context("the guest's witness is gone")
        });
        let outcome = outcome.await;
        lock(&self.pending).remove(&id);
        match outcome {
            Ok(output) => output,
            Err(_) => bail!("the guest did not answer within {seconds} s: {command}"),
        }
    }
}

async fn read(mut lines: BufReader<OwnedReadHalf>, pending: Pending) {
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(count) if count > 0 => {}
            _ => break,
        }
        // A line that cannot be read belongs to nobody; its asker's time runs out.
        if let Some((id, output)) = parse(&line)
            && let Some(asker) = lock(&pending).remove(&id)
        {
            let _ = asker.send(output);
        }
    }
    lock(&pending).clear();
}

/// `ID STATUS oOUT eERR`
fn parse(line: &[u8]) -> Option<(u64, Output)> {
    let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
    let id = words.next()?.parse().ok()?;
    let status = words.next()?.parse().ok()?;
    let mut text = |mark| {
        let bytes = STANDARD.decode(words.next()?.strip_prefix(mark)?).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    Some((id, Output { status, stdout: text('o')?, stderr: text('e')? }))
}

/// What a panicking thread left in a mutex is still whole: every change under one is a single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_both_streams_apart() {
        let output = Output { status: 3, stdout: "a b\n".into(), stderr: String::new() };
        assert_eq!(parse(b"7 3 oYSBiCg== e\n"), Some((7, output)));
    }

    #[test]
    fn a_broken_answer_is_nobodys() {
        for line in [&b"7 3 oYSB\n"[..], b"7\n", b"\xff\xfe\n", b"x 0 o e\n", b"7 0 o?? e\n"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
