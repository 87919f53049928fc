//! A client of QEMU's monitor (QMP). It speaks the protocol and no more: what a command means for a machine is told
//! elsewhere, and so are retries.
//!
//! - Calls may be made at the same time; they leave together and cost one round trip.
//! - A call may time out or be dropped at any point; later calls are not affected, its late reply is dropped.
//! - [`Qmp::events`] loses nothing between a command's reply and the wait for its event, if made before the command.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::wire::socket::{Inlet, dial};
use crate::wire::{DialError, Ends, Frame, Framer, command_line};

pub(crate) mod act;
mod backends;
pub(crate) mod balloon;
mod cmdline;
pub(crate) mod driver;
mod events;
pub(crate) mod lasting;
mod link;
pub(crate) mod look;
pub mod message;
pub(crate) mod monitor;
pub mod news;
pub(crate) mod nics;
pub(crate) mod observe;
pub(crate) mod power;
mod replies;
mod set;

pub use driver::{OpenError, QmpMachine};
pub use events::{Events, Heard};
pub use message::{Event, Version};

use events::Notice;
use link::{Answer, Call, Epitaph, Link};
use message::{Message, classify};

/// The longest line taken from QEMU, in bytes. The longest that one sends of itself, `query-qmp-schema`, is about
/// 200 KiB on QEMU 7.2; lists grow with the machine's CPUs and devices.
pub const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// The id of `qmp_capabilities`; calls count on from it.
const FIRST_ID: u64 = 0;

/// A connection to a monitor. Its task ends when this is dropped.
#[derive(Debug)]
pub struct Qmp {
    calls: mpsc::Sender<Call>,
    ids: AtomicU64,
    version: Version,
    peer_pid: Option<u32>,
    /// Weak, so that subscribers see the end of the link and not of this.
    events: broadcast::WeakSender<Notice>,
    epitaph: Epitaph,
    task: AbortHandle,
}

/// Why there is no connection to a monitor.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// Connected, but no greeting came. A monitor serves one client; the next waits unseen in the socket's queue.
    #[error(
        "{path} gave no greeting within {after:?}: another program holds this monitor (libvirt, or another run of \
         this program), or QEMU is stuck; disconnect the other program, or give QEMU one more monitor \
         (-qmp unix:OTHER,server=on,wait=off) and use that"
    )]
    Held {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// A greeting came and then nothing.
    #[error(
        "QEMU at {path} greeted, then gave no answer within {after:?}: it is stuck or very busy; try again later"
    )]
    Stuck {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// Something else than a QMP monitor answers there.
    #[error(
        "{path} is not a QMP monitor ({got}): name the socket of -qmp, not a guest agent's or a text monitor's"
    )]
    NotQmp {
        /// The socket.
        path: PathBuf,
        /// What it said.
        got: String,
    },
    /// The connection ended before the monitor was ready.
    #[error("{path} closed the connection before it was ready: {why}")]
    Closed {
        /// The socket.
        path: PathBuf,
        /// How.
        why: String,
    },
}

/// Why a command gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// QEMU said no; nothing was changed unless the command's documentation says otherwise.
    #[error("QEMU refused {command}: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's error class, such as `GenericError` or `DeviceNotFound`.
        class: String,
        /// QEMU's reason, safe to print.
        desc: String,
    },
    /// No answer in time. The command may still be carried out: observe before trying again.
    #[error("QEMU gave no answer to {command} within {after:?}; it may still carry it out")]
    TimedOut {
        /// The command.
        command: String,
        /// How long was waited.
        after: Duration,
    },
    /// libvirt, which holds the monitor, did not put the command to QEMU.
    #[error("libvirt did not put {command} to QEMU: {why}")]
    Withheld {
        /// The command.
        command: String,
        /// Why, in libvirt's words.
        why: String,
    },
    /// The connection has ended. The command may have been carried out.
    #[error("the connection to QEMU ended during {command}: {why}")]
    Closed {
        /// The command.
        command: String,
        /// How it ended.
        why: String,
    },
    /// The answer could not be read. The command may have been carried out.
    #[error("QEMU's answer to {command} could not be read: {why}")]
    Garbled {
        /// The command.
        command: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Qmp {
    /// Connects to the monitor's Unix socket and makes it ready, within `limit`, in one round trip.
    ///
    /// # Errors
    /// [`ConnectError`], with what to do about it.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, ConnectError> {
        Self::over(dial(path).await?, path, limit).await
    }

    /// Makes the monitor at the other end of `stream` ready; `path` is what errors call it.
    ///
    /// # Errors
    /// As for [`Qmp::connect`].
    pub(crate) async fn over(
        mut stream: UnixStream,
        path: &Path,
        limit: Duration,
    ) -> Result<Self, ConnectError> {
        let mut inlet = Inlet::new(Framer::new(Ends::Line, LONGEST_LINE));
        let mut version = None;
        let made_ready = timeout(limit, make_ready(&mut stream, &mut inlet, &mut version, path)).await;
        let path = || path.to_owned();
        let version = match (made_ready, version) {
            (Ok(Ok(())), Some(version)) => version,
            (Ok(Ok(())), None) => {
                return Err(ConnectError::NotQmp { path: path(), got: "it did not greet".into() });
            }
            (Ok(Err(error)), _) => return Err(error),
            (Err(_), None) => return Err(ConnectError::Held { path: path(), after: limit }),
            (Err(_), Some(_)) => return Err(ConnectError::Stuck { path: path(), after: limit }),
        };
        // 0 stands for a process outside of our PID namespace (unix(7), SO_PEERCRED).
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let peer_pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);

        let (calls, queue) = mpsc::channel(link::QUEUE);
        let (events, _) = broadcast::channel(link::EVENTS);
        let epitaph = Epitaph::default();
        let weak = events.downgrade();
        let link = Link::new(stream, inlet, queue, events, epitaph.clone());
        let task = tokio::spawn(link.run()).abort_handle();
        Ok(Self { calls, ids: AtomicU64::new(FIRST_ID + 1), version, peer_pid, events: weak, epitaph, task })
    }

    /// QEMU's version, from its greeting.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The process that made the socket, in our PID namespace; `None` where it is in another.
    /// That is QEMU itself, unless a manager opened the socket and passed it on.
    pub fn peer_pid(&self) -> Option<u32> {
        self.peer_pid
    }

    /// Carries out one command; `arguments` is an object, or null for none. May be called many times at once, and
    /// the future may be dropped at any point (a command not yet sent is then never sent).
    ///
    /// # Errors
    /// [`QmpError`]. After any but `Refused`, whether QEMU carried the command out is not known.
    pub async fn execute(&self, command: &str, arguments: Value, limit: Duration) -> Result<Value, QmpError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let line = command_line(command, &arguments, Some(id));
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.calls.send(Call { id, line, reply }).await.ok()?;
            answer.await.ok()
        };
        let answer = timeout(limit, exchange).await;
        let command = command.to_owned();
        match answer {
            Ok(Some(Answer::Reply(Ok(value)))) => Ok(value),
            Ok(Some(Answer::Reply(Err(refused)))) => {
                Err(QmpError::Refused { command, class: refused.class, desc: refused.desc })
            }
            Ok(Some(Answer::Garbled(why))) => Err(QmpError::Garbled { command, why }),
            Ok(None) => Err(QmpError::Closed { command, why: self.epitaph() }),
            Err(_) => Err(QmpError::TimedOut { command, after: limit }),
        }
    }

    /// Subscribes to all events from now on. Subscribe before the command whose event is awaited.
    /// A subscriber that falls more than 256 events behind is told so ([`Heard::Lagged`]).
    pub fn events(&self) -> Events {
        let live = self.events.upgrade();
        // After the link's end: a queue that says so.
        let sender = live.unwrap_or_else(|| broadcast::channel(1).0);
        Events::new(sender.subscribe())
    }

    fn epitaph(&self) -> String {
        self.epitaph.get().cloned().unwrap_or_else(|| "its task has ended".into())
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Greeting and `qmp_capabilities`. The command is sent without waiting for the greeting: QEMU reads it after it has
/// greeted, and a round trip is saved.
async fn make_ready(
    stream: &mut UnixStream,
    inlet: &mut Inlet,
    version: &mut Option<Version>,
    path: &Path,
) -> Result<(), ConnectError> {
    let closed = |why: String| ConnectError::Closed { path: path.to_owned(), why };
    let not_qmp = |got: String| ConnectError::NotQmp { path: path.to_owned(), got };
    let hello = command_line("qmp_capabilities", &Value::Null, Some(FIRST_ID));
    stream.write_all(&hello).await.map_err(|error| closed(error.to_string()))?;
    loop {
        let frame = inlet.next(stream).await.map_err(|error| closed(error.to_string()))?;
        let members = match frame {
            None => return Err(closed("end of stream".into())),
            Some(Ok(Frame::Object { members, .. })) => members,
            Some(Ok(Frame::Sentinel)) => return Err(not_qmp("a 0xFF byte".into())),
            Some(Err(error)) => return Err(not_qmp(error.to_string())),
        };
        match classify(members) {
            Ok(Message::Greeting(greeting)) => *version = Some(greeting),
            // Events before this moment have no subscriber yet.
            Ok(Message::Event(_)) => {}
            Ok(Message::Reply { id: Some(FIRST_ID), outcome: Ok(_) }) => return Ok(()),
            Ok(Message::Reply { outcome: Ok(_), .. }) => return Err(not_qmp("a reply to nothing".into())),
            Ok(Message::Reply { outcome: Err(refused), .. }) => return Err(not_qmp(refused.desc)),
            Err(why) => return Err(not_qmp(why)),
        }
    }
}
