//! The wire that both clients share: newline-delimited JSON objects out of a byte stream, within bounds.
//!
//! [`Framer`] is without I/O: bytes in, frames out, and never more than one frame's limit in memory, whatever the
//! peer sends. It does not know what a frame means (`qmp::message` and `guest::message` do) and never repairs one:
//! a bad frame costs one [`FrameError`] and the stream goes on at the next boundary.

use serde_json::{Map, Value};

pub(crate) mod socket;

pub use socket::DialError;

/// The byte that the guest agent puts before its answer to `guest-sync-delimited` (QEMU,
/// docs/interop/qemu-ga-ref). It is never part of UTF-8, so all that stands before it is void.
pub const SENTINEL: u8 = 0xFF;

/// Where a frame ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// At a newline. QEMU's monitor ends its lines with `\r\n`.
    Line,
    /// At a newline, or, cut short, at [`SENTINEL`]. The guest agent.
    LineOrSentinel,
}

/// One piece of the stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// A line that is a JSON object.
    Object {
        /// Its members; of a repeated key the last value.
        members: Map<String, Value>,
        /// How long the line was, in bytes.
        bytes: usize,
    },
    /// A [`SENTINEL`]: whatever part of a frame stood before it was thrown away.
    Sentinel,
}

/// A line that is no frame. It has been passed over; the next call goes on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The line is longer than the limit; it is thrown away as it comes, not kept.
    #[error("a message of more than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The line is not UTF-8.
    #[error("not UTF-8: `{begins}`")]
    NotUtf8 {
        /// How it begins, made safe to print.
        begins: String,
    },
    /// The line is not a JSON object, or is nested deeper than 128 levels.
    #[error("not a JSON object ({why}): `{begins}`")]
    NotObject {
        /// The parser's complaint.
        why: String,
        /// How it begins, made safe to print.
        begins: String,
    },
}

/// Cuts a byte stream into frames. See the module's header.
#[derive(Debug)]
pub struct Framer {
    ends: Ends,
    limit: usize,
    /// The part of a frame that has come so far; at most `limit` bytes.
    part: Vec<u8>,
    /// The frame under way was too long: throw away up to its boundary.
    skipping: bool,
}

/// A buffer that one long frame has made larger than this is given back after that frame.
const KEEP: usize = 64 * 1024;

impl Framer {
    /// A framer that takes lines of at most `limit` bytes, the line's end not counted.
    pub fn new(ends: Ends, limit: usize) -> Self {
        assert!(limit > 0, "a framer without room can frame nothing");
        Self { ends, limit, part: Vec::new(), skipping: false }
    }

    /// Takes bytes off the front of `stream` up to the end of the next frame; `None` when all are taken and more
    /// are needed. How the stream was cut into pieces makes no difference to the frames.
    ///
    /// # Errors
    /// [`FrameError`], once for each line that is no frame. Blank lines are passed over without one.
    pub fn next(&mut self, stream: &mut &[u8]) -> Option<Result<Frame, FrameError>> {
        loop {
            let Some(end) = self.boundary(stream) else {
                let rest = std::mem::take(stream);
                return self.keep(rest).err().map(Err);
            };
            let (line, rest) = stream.split_at(end);
            *stream = &rest[1..];
            if rest[0] == SENTINEL {
                if let Err(error) = self.keep(line) {
                    // Told now; the sentinel itself is next.
                    *stream = rest;
                    return Some(Err(error));
                }
                self.forget();
                return Some(Ok(Frame::Sentinel));
            }
            if let Some(frame) = self.finish(line) {
                return Some(frame);
            }
        }
    }

    /// How much memory the framer holds, in bytes: at most its limit, and little between long frames.
    pub fn held(&self) -> usize {
        self.part.capacity()
    }

    /// Whether the stream so far ends inside a frame.
    pub fn is_amid(&self) -> bool {
        self.skipping || !self.part.is_empty()
    }

    fn boundary(&self, stream: &[u8]) -> Option<usize> {
        match self.ends {
            Ends::Line => memchr::memchr(b'\n', stream),
            Ends::LineOrSentinel => memchr::memchr2(b'\n', SENTINEL, stream),
        }
    }

    /// Ends the frame under way with `line`; `None` if there was nothing in it to report.
    fn finish(&mut self, line: &[u8]) -> Option<Result<Frame, FrameError>> {
        if self.skipping {
            self.forget();
            return None;
        }
        if self.part.is_empty() && line.len() <= self.limit {
            return parse(line);
        }
        let frame = match self.keep(line) {
            Ok(()) => parse(&self.part),
            Err(error) => Some(Err(error)),
        };
        self.forget();
        frame
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.skipping {
            return Ok(());
        }
        let needed = self.part.len() + bytes.len();
        if needed > self.limit {
            self.forget();
            self.skipping = true;
            return Err(FrameError::TooLong { limit: self.limit });
        }
        if needed > self.part.capacity() {
            // Doubling, as Vec does, but never past the limit.
            let room = needed.max(self.part.capacity() * 2).min(self.limit);
            self.part.reserve_exact(room - self.part.len());
        }
        self.part.extend_from_slice(bytes);
        Ok(())
    }

    fn forget(&mut self) {
        self.skipping = false;
        self.part.clear();
        if self.part.capacity() > KEEP {
            self.part = Vec::new();
        }
    }
}

/// `None` for a blank line.
fn parse(line: &[u8]) -> Option<Result<Frame, FrameError>> {
    let text = line.trim_ascii();
    if text.is_empty() {
        return None;
    }
    let begins = || shown(&String::from_utf8_lossy(&text[..text.len().min(60)]));
    let Ok(utf8) = std::str::from_utf8(text) else {
        return Some(Err(FrameError::NotUtf8 { begins: begins() }));
    };
    // serde_json stops at 128 levels of nesting, so no peer can exhaust the stack.
    Some(match serde_json::from_str::<Map<String, Value>>(utf8) {
        Ok(members) => Ok(Frame::Object { members, bytes: line.len() }),
        Err(error) => Err(FrameError::NotObject { why: shown(&error.to_string()), begins: begins() }),
    })
}

/// Text from a peer, made safe to keep and to print: control characters escaped (a guest must not steer the
/// operator's terminal), at most 2000 characters.
pub fn shown(text: &str) -> String {
    const MOST: usize = 2000;
    let mut safe = String::new();
    for (count, char) in text.chars().enumerate() {
        if count == MOST {
            safe.push('…');
            break;
        }
        if char.is_control() {
            safe.extend(char.escape_default());
        } else {
            safe.push(char);
        }
    }
    safe
}

/// A command as both parties take it: one line, without `arguments` where there are none. It is kept short, since
/// QEMU's monitor reads one byte a turn of its loop (monitor/monitor.c, `monitor_can_read`): 5 us a byte, measured on
/// QEMU 7.2, which is most of the time of a small query.
pub(crate) fn command_line(command: &str, arguments: &Value, id: Option<u64>) -> Vec<u8> {
    let mut line = Map::new();
    line.insert("execute".into(), command.into());
    if !arguments.is_null() && arguments.as_object().is_none_or(|given| !given.is_empty()) {
        line.insert("arguments".into(), arguments.clone());
    }
    if let Some(id) = id {
        line.insert("id".into(), id.into());
    }
    let mut bytes = Value::Object(line).to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}
