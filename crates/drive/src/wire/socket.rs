//! Unix sockets for the two clients: dialling with an error that a person can act on, and reading frames so that a
//! dropped read loses nothing. It never retries; who calls decides that.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;

use super::{Frame, FrameError, Framer};

/// Why a socket could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no such socket.
    #[error("there is no socket at {path}: is the machine running, and is the path right?")]
    Missing {
        /// The socket.
        path: PathBuf,
    },
    /// The socket file is left over: nobody listens on it.
    #[error("nobody listens at {path}: the machine that made this socket has ended; start it again")]
    Deserted {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not connect.
    #[error("no permission to connect to {path}: run as its owner or as root")]
    Forbidden {
        /// The socket.
        path: PathBuf,
    },
    /// Its queue of waiting clients is full (QEMU listens with room for one client and few waiters).
    #[error("{path} is busy: another client holds it and more are waiting; disconnect that client")]
    Busy {
        /// The socket.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot connect to {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Connects. On Linux this ends at once: a Unix socket takes a client into its queue or refuses.
pub(crate) async fn dial(path: &Path) -> Result<UnixStream, DialError> {
    UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is the standard library's, and open")]
        match source.kind() {
            io::ErrorKind::NotFound => DialError::Missing { path },
            io::ErrorKind::ConnectionRefused => DialError::Deserted { path },
            io::ErrorKind::PermissionDenied => DialError::Forbidden { path },
            io::ErrorKind::WouldBlock => DialError::Busy { path },
            _ => DialError::Io { path, source },
        }
    })
}

/// Bytes read and not yet framed, with their framer.
#[derive(Debug)]
pub(crate) struct Inlet {
    framer: Framer,
    chunk: Box<[u8]>,
    /// The bytes of `chunk` that are read and not yet framed.
    fresh: std::ops::Range<usize>,
}

impl Inlet {
    pub(crate) fn new(framer: Framer) -> Self {
        Self { framer, chunk: vec![0; 16 * 1024].into_boxed_slice(), fresh: 0..0 }
    }

    /// See [`Framer::held`].
    pub(crate) fn held(&self) -> usize {
        self.framer.held()
    }

    /// The next frame of what was read; `None` when [`Inlet::fill`] is due.
    pub(crate) fn take(&mut self) -> Option<Result<Frame, FrameError>> {
        let mut bytes = &self.chunk[self.fresh.clone()];
        let frame = self.framer.next(&mut bytes);
        self.fresh.start = self.fresh.end - bytes.len();
        frame
    }

    /// Reads once, when all that was read before is framed. Dropping the future loses nothing.
    /// `Ok(false)` when the peer has closed.
    pub(crate) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        debug_assert!(self.fresh.is_empty(), "unframed bytes would be overwritten");
        let read = from.read(&mut self.chunk).await?;
        self.fresh = 0..read;
        Ok(read > 0)
    }

    /// The next frame, read when needed. Dropping the future loses nothing.
    pub(crate) async fn next(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Result<Frame, FrameError>>> {
        loop {
            if let Some(frame) = self.take() {
                return Ok(Some(frame));
            }
            if !self.fill(from).await? {
                return Ok(None);
            }
        }
    }

    /// Whether anything has come that is not yet framed, an end of stream included. Asks the socket itself, without
    /// waiting: the runtime may not have heard of the newest bytes yet.
    pub(crate) fn anything(&mut self, from: &UnixStream) -> io::Result<bool> {
        if !self.fresh.is_empty() || self.framer.is_amid() {
            return Ok(true);
        }
        match rustix::net::recv(from, &mut self.chunk[..], RecvFlags::DONTWAIT) {
            Ok((read, _)) => {
                self.fresh = 0..read;
                Ok(true)
            }
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
