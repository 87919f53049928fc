//! A scripted peer on a real Unix socket: the test plays QEMU or the guest agent by hand, line by line.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Longer than any limit that a test gives the client.
const PATIENCE: Duration = Duration::from_secs(600);

/// A listening socket in a directory of its own.
pub(crate) struct Stage {
    pub(crate) path: PathBuf,
    listener: UnixListener,
    _dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the socket");
        let path = dir.path().join("peer.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        Self { path, listener, _dir: dir }
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer::new(self.listener.accept().await.expect("a client").0)
    }
}

/// The peer's side of a connection. Dropping it closes the connection.
pub(crate) struct Peer {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    /// The next line that the client sent, a leading 0xFF left out; `None` when it has closed.
    pub(crate) async fn hears(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        // A client that never speaks fails the test instead of holding it up.
        let read = timeout(PATIENCE, self.reader.read_until(b'\n', &mut line)).await;
        read.expect("the client speaks").expect("a line");
        if line.is_empty() {
            return None;
        }
        let line = line.strip_prefix(b"\xff").unwrap_or(&line);
        Some(serde_json::from_slice(line).expect("a line of JSON"))
    }

    /// The next command that the client sent, which must be this one; its id.
    pub(crate) async fn hears_command(&mut self, name: &str) -> Value {
        let command = self.hears().await.expect("a command");
        assert_eq!(command["execute"], name, "{command}");
        command["id"].clone()
    }

    pub(crate) async fn says(&mut self, line: Value) {
        self.sends(format!("{line}\r\n").as_bytes()).await;
    }

    pub(crate) async fn sends(&mut self, bytes: &[u8]) {
        let written = timeout(PATIENCE, self.writer.write_all(bytes)).await;
        written.expect("the client listens").expect("the client takes it");
    }

    /// Sends this much of one line that never ends.
    pub(crate) async fn floods(&mut self, bytes: usize) {
        let piece = b"[\"0123456789\", ".repeat(8000);
        self.sends(b"{\"return\": ").await;
        for _ in 0..bytes.div_ceil(piece.len()) {
            self.sends(&piece).await;
        }
    }
}
