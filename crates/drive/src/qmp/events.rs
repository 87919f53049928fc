//! A subscription to QEMU's events. Nothing that comes after it was made is lost silently: an event, or a mark that
//! says how many are missing. It does not interpret events.

use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::Instant;

use super::message::Event;

/// What a subscription gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// This many events are missing, because the reader was too slow or the line was unreadable.
    /// Whoever depends on events must now ask QEMU for the state itself.
    Lagged(u64),
    /// The moment given has come and nothing has happened.
    Quiet,
    /// The connection has ended and all that came before its end has been given.
    Closed,
}

/// Events from the moment of subscribing. Made by [`super::Qmp::events`].
#[derive(Debug)]
pub struct Events {
    queue: broadcast::Receiver<Notice>,
}

/// What the link tells its subscribers.
#[derive(Debug, Clone)]
pub(super) enum Notice {
    Event(Event),
    /// Something came that could not be read; it may have been an event.
    Unreadable,
}

impl Events {
    pub(super) fn new(queue: broadcast::Receiver<Notice>) -> Self {
        Self { queue }
    }

    /// The next event, at once if it has come already (even where `until` has passed), else by `until` at the
    /// latest. Dropping the future loses nothing.
    pub async fn next(&mut self, until: Instant) -> Heard {
        match tokio::time::timeout_at(until, self.queue.recv()).await {
            Ok(Ok(Notice::Event(event))) => Heard::Event(event),
            Ok(Ok(Notice::Unreadable)) => Heard::Lagged(1),
            Ok(Err(RecvError::Lagged(missed))) => Heard::Lagged(missed),
            Ok(Err(RecvError::Closed)) => Heard::Closed,
            Err(_) => Heard::Quiet,
        }
    }
}
