//! The task behind a [`super::Qmp`]: it alone owns the socket, so a caller that gives up can break nothing.
//!
//! ```text
//! caller --Call--> queue --> out (bytes) --> QEMU        a call whose caller is gone before it is sent is not sent
//! caller <-oneshot-- waiting (in order) <-- QEMU         a reply whose caller is gone is dropped
//! subscribers <----- broadcast <----------- QEMU         never waits for a slow subscriber
//! ```
//! All of it is bounded: the queue, the bytes to send, the calls in flight, the events kept, the size of one.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::events::Notice;
use super::message::{Message, Refused, classify};
use crate::wire::socket::Inlet;
use crate::wire::{Frame, FrameError};

/// Calls that have not reached the task yet.
pub(super) const QUEUE: usize = 64;
/// Events kept for a slow subscriber.
pub(super) const EVENTS: usize = 256;
/// Calls in flight, those included whose caller has gone but whose reply is still to come.
const IN_FLIGHT: usize = 256;
/// Bytes ready to send above which no further call is taken.
const OUT: usize = 64 * 1024;
/// An event longer than this many bytes is told as lost, so that the queue of events has a bound in bytes too.
/// The longest known (`BLOCK_JOB_*`, `DEVICE_*`) stay below 1 KiB.
const EVENT_BYTES: usize = 64 * 1024;

/// A command on its way.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) line: Vec<u8>,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// How a call ended.
#[derive(Debug)]
pub(super) enum Answer {
    Reply(Result<Value, Refused>),
    Garbled(String),
}

/// Why the link has ended; empty while it lives.
pub(super) type Epitaph = Arc<OnceLock<String>>;

/// The task's state.
#[derive(Debug)]
pub(super) struct Link {
    inlet: Inlet,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    calls: mpsc::Receiver<Call>,
    out: Vec<u8>,
    waiting: VecDeque<(u64, oneshot::Sender<Answer>)>,
    events: broadcast::Sender<Notice>,
    epitaph: Epitaph,
}

impl Link {
    pub(super) fn new(
        stream: UnixStream,
        inlet: Inlet,
        calls: mpsc::Receiver<Call>,
        events: broadcast::Sender<Notice>,
        epitaph: Epitaph,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        Self { inlet, reader, writer, calls, out: Vec::new(), waiting: VecDeque::new(), events, epitaph }
    }

    /// Serves until QEMU or the owner ends the connection.
    pub(super) async fn run(mut self) {
        let why = self.serve().await;
        // First the reason, then (as `self` is dropped) the news: who is woken finds it.
        self.epitaph.get_or_init(|| why);
    }

    async fn serve(&mut self) -> String {
        loop {
            while let Some(frame) = self.inlet.take() {
                self.hear(frame);
            }
            // Not biased: a peer that floods must not keep commands from being sent.
            tokio::select! {
                read = self.inlet.fill(&mut self.reader) => match read {
                    Ok(true) => {}
                    Ok(false) => return "QEMU closed the connection (it has quit, or someone disconnected the monitor)".into(),
                    Err(error) => return format!("reading failed: {error}"),
                },
                call = self.calls.recv(), if self.out.len() < OUT && self.waiting.len() < IN_FLIGHT => match call {
                    Some(call) => self.post(call),
                    None => return "closed by us".into(),
                },
                sent = self.writer.write(&self.out), if !self.out.is_empty() => match sent {
                    Ok(sent) => drop(self.out.drain(..sent)),
                    Err(error) => return format!("writing failed: {error}"),
                },
            }
        }
    }

    /// Takes this call and all that wait behind it, so that calls made together leave in one write.
    fn post(&mut self, first: Call) {
        let mut next = Some(first);
        while let Some(call) = next {
            if !call.reply.is_closed() {
                self.out.extend_from_slice(&call.line);
                self.waiting.push_back((call.id, call.reply));
            }
            let room = self.out.len() < OUT && self.waiting.len() < IN_FLIGHT;
            next = if room { self.calls.try_recv().ok() } else { None };
        }
    }

    fn hear(&mut self, frame: Result<Frame, FrameError>) {
        let (members, bytes) = match frame {
            Ok(Frame::Object { members, bytes }) => (members, bytes),
            Ok(Frame::Sentinel) => return self.unreadable("a stray 0xFF byte".into()),
            Err(error) => return self.unreadable(error.to_string()),
        };
        match classify(members) {
            Ok(Message::Reply { id: Some(id), outcome }) => self.settle(id, outcome),
            Ok(Message::Reply { id: None, outcome }) => self.unreadable(match outcome {
                Ok(_) => "a reply that does not say to what".into(),
                Err(refused) => format!("QEMU could not read a command: {}", refused.desc),
            }),
            Ok(Message::Event(_)) if bytes > EVENT_BYTES => self.tell(Notice::Unreadable),
            Ok(Message::Event(event)) => self.tell(Notice::Event(event)),
            Ok(Message::Greeting(_)) => {}
            Err(why) => self.unreadable(why),
        }
    }

    fn settle(&mut self, id: u64, outcome: Result<Value, Refused>) {
        let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == id) else {
            return; // Late: its caller has gone and so has its place.
        };
        if let Some((_, reply)) = self.waiting.remove(at) {
            // An error means only that the caller has gone.
            let _ = reply.send(Answer::Reply(outcome));
        }
        // QEMU answers in order (docs/interop/qmp-spec), so what was sent earlier and is awaited by nobody will
        // not be answered any more: give its place back.
        let mut index = 0;
        self.waiting.retain(|(_, reply)| {
            index += 1;
            index > at || !reply.is_closed()
        });
    }

    /// An unreadable line costs one error: it stands where the oldest call's reply should, or where an event did.
    fn unreadable(&mut self, why: String) {
        if let Some((_, reply)) = self.waiting.pop_front() {
            let _ = reply.send(Answer::Garbled(why));
        }
        self.tell(Notice::Unreadable);
    }

    fn tell(&self, notice: Notice) {
        // An error means only that nobody has subscribed.
        let _ = self.events.send(notice);
    }
}
