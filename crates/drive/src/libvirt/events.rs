//! What libvirt tells of one domain by itself, in a bounded queue. Nothing that comes after the subscription is lost
//! silently: an event, or a mark that says how many are missing. It does not interpret events.
//!
//! Two sources tell of the same machine: libvirt's own events, and QEMU's, which libvirt passes on as they are
//! (`virConnectDomainQemuMonitorEventRegister`, 1.2.3). Only the latter show what a guest answered to the removal of a
//! vCPU: libvirt keeps that to itself (`ACPI_DEVICE_OST` becomes an event for DIMMs alone; 9.0 and 11.3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use scale::units::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::callbacks::{Callback, register};
use super::connection::{Closed, Connection};
use super::domain::Domain;
use super::error::Error;

/// Events kept for a slow reader.
const KEPT: usize = 256;

/// One thing that libvirt told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The domain started, stopped, or the like; the number tells more (`virDomainEvent...DetailType`).
    Lifecycle(Lifecycle, i32),
    /// A device was added. For memory, libvirt gives the *backend's* alias (`memdimm0`), not the device's.
    DeviceAdded(String),
    /// The device with this alias is gone.
    DeviceRemoved(String),
    /// The guest refused to give up the device with this alias, as far as libvirt understands its answer.
    DeviceRemovalFailed(String),
    /// A virtio-mem device has this size now. At most one a second.
    MemoryDeviceSize(String, Bytes),
    /// The balloon leaves the guest this much; virtio-mem is not in it. At most one a second.
    Balloon(Bytes),
    /// The guest agent connected or disconnected.
    Agent(bool),
    /// A limit was changed by someone. NIC bandwidth never tells.
    Tunable,
    /// QEMU's own event: its name, its data, and its time in microseconds since the Unix epoch.
    Qemu(String, Value, u64),
}

/// What became of a domain (`virDomainEventType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// Its definition was made or changed.
    Defined,
    /// Its definition is gone.
    Undefined,
    /// It started.
    Started,
    /// Its vCPUs were stopped.
    Paused,
    /// Its vCPUs run again.
    Resumed,
    /// It ended.
    Stopped,
    /// The guest is going down.
    ShuttingDown,
    /// The guest sleeps.
    Suspended,
    /// It crashed.
    Crashed,
    /// One that is not known here.
    Other,
}

/// A kind of event that can be subscribed to. Which there are depends on both libvirts' versions and on the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// [`Event::Lifecycle`]
    Lifecycle,
    /// [`Event::DeviceAdded`], libvirt 1.2.15.
    DeviceAdded,
    /// [`Event::DeviceRemoved`], libvirt 1.1.1.
    DeviceRemoved,
    /// [`Event::DeviceRemovalFailed`], libvirt 1.3.4.
    DeviceRemovalFailed,
    /// [`Event::MemoryDeviceSize`], libvirt 7.9.
    MemoryDeviceSize,
    /// [`Event::Balloon`], libvirt 0.10.
    Balloon,
    /// [`Event::Agent`], libvirt 1.2.11.
    Agent,
    /// [`Event::Tunable`], libvirt 1.2.9.
    Tunable,
    /// [`Event::Qemu`], libvirt 1.2.3; never on a read-only connection.
    Qemu,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Lifecycle,
        Self::DeviceAdded,
        Self::DeviceRemoved,
        Self::DeviceRemovalFailed,
        Self::MemoryDeviceSize,
        Self::Balloon,
        Self::Agent,
        Self::Tunable,
        Self::Qemu,
    ];
}

/// What a subscription gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// This many events are missing because the reader was too slow: look at the domain itself.
    Lagged(u64),
    /// The moment given has come and nothing has happened.
    Quiet,
    /// The connection has ended and all that came before its end has been given.
    Closed(Closed),
}

/// Events of one domain from the moment of subscribing, until dropped. Keeps the connection open.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Event>,
    lost: Arc<AtomicU64>,
    closed: watch::Receiver<Option<Closed>>,
    missing: Vec<(EventKind, Error)>,
    // Dropped last: from then on the library calls us no more.
    _callbacks: Vec<Callback>,
}

/// The library's end of a subscription. It never waits.
#[derive(Debug, Clone)]
pub(super) struct Sink {
    queue: mpsc::Sender<Event>,
    lost: Arc<AtomicU64>,
}

impl Sink {
    fn pair() -> (Self, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(KEPT);
        (Self { queue, lost: Arc::default() }, events)
    }

    pub(super) fn put(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(event) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Events {
    /// Subscribes to all that this libvirt can tell of `domain`. Blocks as any call does.
    ///
    /// # Errors
    /// Not even the domain's lifecycle can be had.
    pub fn subscribe(domain: &Domain) -> Result<Self, Error> {
        Self::to(domain, &EventKind::ALL, &[])
    }

    /// Subscribes to what a change of `domain` waits for: QEMU's own events, which tell most of the others too, for each
    /// kind costs an exchange. Where those cannot be had, to all.
    ///
    /// # Errors
    /// As for [`Events::subscribe`].
    pub fn of_changes(domain: &Domain) -> Result<Self, Error> {
        const NEEDED: [EventKind; 3] = [EventKind::Qemu, EventKind::Lifecycle, EventKind::DeviceRemoved];
        let others: Vec<EventKind> =
            EventKind::ALL.into_iter().filter(|kind| !NEEDED.contains(kind)).collect();
        Self::to(domain, &NEEDED, &others)
    }

    /// Subscribes to `kinds`, and to `others` where one of those cannot be had.
    fn to(domain: &Domain, kinds: &[EventKind], others: &[EventKind]) -> Result<Self, Error> {
        let (sink, queue) = Sink::pair();
        let connection: &Connection = domain.connection();
        let (mut callbacks, mut missing) = (Vec::new(), Vec::new());
        for (nth, kind) in kinds.iter().chain(others).enumerate() {
            if nth == kinds.len() && missing.is_empty() {
                break;
            }
            match register(connection, domain, *kind, sink.clone()) {
                Ok(callback) => callbacks.push(callback),
                Err(error) if *kind == EventKind::Lifecycle => return Err(error),
                Err(error) => missing.push((*kind, error)),
            }
        }
        let closed = connection.closed();
        Ok(Self { queue, lost: sink.lost, closed, missing, _callbacks: callbacks })
    }

    /// The kinds that this libvirt cannot tell of, with its reason.
    pub fn missing(&self) -> &[(EventKind, Error)] {
        &self.missing
    }

    /// The next event, at once if it has come already (even where `until` has passed), else by `until` at the latest.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self, until: Instant) -> Heard {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            return Heard::Lagged(lost);
        }
        if let Ok(event) = self.queue.try_recv() {
            return Heard::Event(event);
        }
        let ended = async {
            match self.closed.wait_for(Option::is_some).await {
                Ok(closed) => closed.unwrap_or(Closed::Failed),
                // The library has forgotten its callback: we hold the connection open, so it cannot be by us.
                Err(_) => Closed::Failed,
            }
        };
        let next = async {
            tokio::select! {
                biased;
                event = self.queue.recv() => event.map_or(Heard::Closed(Closed::ByUs), Heard::Event),
                closed = ended => Heard::Closed(closed),
            }
        };
        timeout_at(until, next).await.unwrap_or(Heard::Quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_events_it_missed() {
        let (sink, queue) = Sink::pair();
        for number in 0..KEPT + 3 {
            sink.put(Event::Balloon(Bytes::mib(number as u64)));
        }
        let (_open, closed) = watch::channel(None);
        let lost = sink.lost.clone();
        let mut events = Events { queue, lost, closed, missing: Vec::new(), _callbacks: Vec::new() };
        let now = Instant::now();
        assert_eq!(events.next(now).await, Heard::Lagged(3));
        for number in 0..KEPT {
            assert_eq!(events.next(now).await, Heard::Event(Event::Balloon(Bytes::mib(number as u64))));
        }
        assert_eq!(events.next(now).await, Heard::Quiet);
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_given_before_the_end() {
        let (sink, queue) = Sink::pair();
        let (end, closed) = watch::channel(None);
        let lost = sink.lost.clone();
        let mut events = Events { queue, lost, closed, missing: Vec::new(), _callbacks: Vec::new() };
        sink.put(Event::Agent(true));
        end.send_replace(Some(Closed::ByDaemon));
        let later = Instant::now() + std::time::Duration::from_secs(60);
        assert_eq!(events.next(later).await, Heard::Event(Event::Agent(true)));
        assert_eq!(events.next(later).await, Heard::Closed(Closed::ByDaemon));
        assert_eq!(events.next(later).await, Heard::Closed(Closed::ByDaemon));
    }
}
