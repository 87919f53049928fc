//! A machine that libvirt keeps, behind the driver seam: observed as on plain QEMU, through libvirt's passage to the
//! monitor and the agent; changed by libvirt's own calls alone (see `act`), so that its description stays true.

use std::time::Duration;

use scale::limits::Limits;
use scale::observed::Observed;
use scale::plan::Act;
use scale::sight::{Event, Look, Sight};
use scale::time::Moment;

use super::act::Hand;
use super::agent::AgentLine;
use super::connection::Connection;
use super::domain::Domain;
use super::error::Error;
use super::events::{Event as Told, Events, Heard, Lifecycle};
use super::passthrough::Passthrough;
use super::pool::{CallError, Lane, Pool};
use super::terms::{Job, State, Xml};
use crate::domxml;
use crate::guest::reach::Reach;
use crate::qmp::driver::{Clock, duration, observed};
use crate::qmp::message;
use crate::qmp::monitor::{Line, Monitor};
use crate::qmp::{QmpError, look, news, observe};
use crate::{ApplyError, Hypervisor, ObserveError};

/// Calls of one machine that wait for libvirt at the same time at most: its monitor's, its agent's, and as many stuck.
const THREADS: usize = 4;

/// After so many unanswered signs of life, one each so many seconds, a connection counts as ended.
const ALIVE: (u16, u16) = (5, 3);

/// A machine that libvirt keeps. Dropped, the connection is closed; the machine is not touched.
#[derive(Debug)]
pub struct LibvirtMachine {
    hand: Hand,
    monitor: Monitor,
    events: Events,
    reach: Reach,
    clock: Clock,
    lasting: Option<observe::Lasting>,
    /// When the last act was sent.
    changed: Moment,
}

/// Why the machine cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// libvirt cannot be reached, or does not know the machine.
    #[error("{name} at {uri}: {source}")]
    Unreachable {
        /// The connection's URI.
        uri: String,
        /// The domain's name or uuid.
        name: String,
        /// What libvirt said.
        source: CallError,
    },
    /// It does not run.
    #[error("{name} does not run ({state:?}); start it with: virsh -c {uri} start {name}")]
    NotRunning {
        /// The connection's URI.
        uri: String,
        /// The domain's name or uuid.
        name: String,
        /// What it does.
        state: State,
    },
    /// Its description makes no sense.
    #[error("the description of {name} makes no sense: {why}")]
    Description {
        /// The domain's name or uuid.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its monitor cannot be asked.
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

/// What is found behind a URI and a name.
struct Found {
    domain: Domain,
    state: State,
    persistent: bool,
    live: String,
    local: bool,
    events: Option<Events>,
}

impl LibvirtMachine {
    /// Connects to libvirt at `uri` and takes the running domain of this name or uuid. An agent that cannot be reached
    /// is no error: the observation will say why.
    ///
    /// # Errors
    /// [`OpenError`], with what to do about it.
    pub async fn open(uri: &str, name: &str, limits: &Limits) -> Result<LibvirtMachine, OpenError> {
        let pool = Pool::new(THREADS);
        let lane = pool.lane();
        let limit = duration(limits.monitor);
        let (to, whom) = (uri.to_owned(), name.to_owned());
        let found = lane.call("a connection to libvirt", limit, move || find(&to, &whom)).await;
        let unreachable =
            |source| OpenError::Unreachable { uri: uri.to_owned(), name: name.to_owned(), source };
        let found = found.map_err(unreachable)?;
        let Some(events) = found.events else {
            let (uri, name) = (uri.to_owned(), name.to_owned());
            return Err(OpenError::NotRunning { uri, name, state: found.state });
        };
        let description = domxml::Domain::parse(&found.live)
            .map_err(|error| OpenError::Description { name: name.to_owned(), why: error.to_string() })?;
        let passthrough = Passthrough::open(found.domain.clone(), lane.clone(), found.local, limit).await?;
        let agent = duration(limits.agent);
        let reach = match description.agent {
            Some(_) => Reach::through(AgentLine::new(found.domain.clone(), pool.lane()), agent),
            None => Reach::new(None, agent),
        };
        let clock = Clock::start();
        Ok(LibvirtMachine {
            hand: Hand::new(found.domain, lane, found.persistent, duration(limits.offline_block)),
            monitor: Monitor::new(Line::Libvirt(passthrough), limit),
            events,
            reach,
            clock,
            lasting: None,
            changed: clock.now(),
        })
    }

    /// Changes only the running machine, and leaves the definition that its next start takes as it is.
    #[must_use]
    pub fn live_only(mut self) -> LibvirtMachine {
        self.hand.keep_definition(false);
        self
    }

    /// Changes of the running machine that its definition for the next start did not follow, with libvirt's reasons.
    pub fn not_followed(&self) -> &[String] {
        self.hand.not_followed()
    }
}

/// Blocks as its calls do.
fn find(uri: &str, name: &str) -> Result<Found, Error> {
    let connection = Connection::open(uri)?;
    // Not every kind of connection has it.
    let _ = connection.keep_alive(ALIVE.0, ALIVE.1);
    let domain = connection.domain(name)?;
    let state = domain.state()?;
    let is_there = match state {
        State::Running | State::Blocked | State::Paused | State::Suspended | State::Unknown => true,
        State::ShuttingDown | State::Off | State::Crashed => false,
    };
    Ok(Found {
        state,
        persistent: domain.is_persistent()?,
        live: domain.xml(Xml::Live)?,
        local: is_local(&connection.uri()?),
        // Before anything is asked of the machine, so that no event is missed.
        events: if is_there { Some(Events::subscribe(&domain)?) } else { None },
        domain,
    })
}

/// True for a URI whose hypervisor is on this host: no transport or `unix`, and no host named (libvirt's docs/uri).
fn is_local(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let transport = scheme.split_once('+').map(|(_, transport)| transport);
    matches!(transport, None | Some("unix")) && rest.starts_with('/')
}

impl Hypervisor for LibvirtMachine {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        refuse_while_held(self.hand.domain(), self.hand.lane()).await?;
        observed(&self.monitor, &mut self.lasting, &mut self.reach, &self.clock).await
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        let sight = look::look(&self.monitor, &mut self.reach, look, self.changed).await?;
        match (look, &sight) {
            (Look::DimmDevice(id), Sight::Dimm(None))
            | (Look::VcpuDevice(id), Sight::Vcpu { plugged: false, .. }) => self.hand.gone(id).await,
            _other_sights => {}
        }
        Ok(sight)
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.changed = self.now();
        let until = self.clock.instant(until);
        self.hand.apply(&self.monitor, &mut self.reach, act, until).await
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        let event = match self.events.next(self.clock.instant(until)).await {
            Heard::Event(event) => meaning(event),
            Heard::Lagged(missed) => Event::Other { name: format!("{missed} events were lost") },
            Heard::Quiet => return None,
            Heard::Closed(how) => Event::Gone { why: how.to_string() },
        };
        if event == Event::GuestReset {
            // The guest may come back with another kernel and another agent.
            self.reach.forget();
        }
        Some(event)
    }
}

/// A migration, a save and the like keep libvirt from asking QEMU anything for as long as they last: say so instead of
/// waiting. During a backup it can (`qemuDomainObjSetAsyncJobMask` in `qemuBackupBegin`, 9.0).
async fn refuse_while_held(domain: &Domain, lane: &Lane) -> Result<(), ObserveError> {
    const LIMIT: Duration = Duration::from_secs(10);
    let domain = domain.clone();
    match lane.call("a question to libvirt", LIMIT, move || domain.job()).await {
        Ok(Job::Running(what)) if what != "a backup" => Err(ObserveError::Unreachable(format!(
            "libvirt is at work on {what} of this machine and asks QEMU nothing meanwhile; try again when it is done \
             (virsh domjobinfo tells)"
        ))),
        Ok(Job::Running(_) | Job::None) => Ok(()),
        Err(error) => Err(ObserveError::Unreachable(error.to_string())),
    }
}

/// What an event means for a run. What libvirt and QEMU both tell is told twice: each is only a cause to look.
fn meaning(event: Told) -> Event {
    let other = |name: &str| Event::Other { name: name.to_owned() };
    match event {
        Told::Qemu(name, data, micros) => news::meaning(&message::Event { name, data, micros: Some(micros) }),
        Told::Lifecycle(Lifecycle::Stopped | Lifecycle::Crashed, _) => {
            Event::Gone { why: "libvirt says that the machine has stopped".into() }
        }
        Told::Lifecycle(lifecycle, _) => other(&format!("{lifecycle:?}")),
        Told::DeviceAdded(alias) => other(&format!("{alias} was added")),
        Told::DeviceRemoved(alias) => Event::DeviceDeleted { id: alias },
        // QEMU's own event has the guest's reason and comes as well.
        Told::DeviceRemovalFailed(alias) => other(&format!("the guest keeps {alias}")),
        Told::MemoryDeviceSize(..) | Told::Balloon(_) => Event::SizeChanged,
        Told::Agent(connected) => other(if connected { "the agent came" } else { "the agent went" }),
        Told::Tunable => other("a limit was changed"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_uri_with_a_host_or_another_transport_is_not_local() {
        for uri in ["qemu:///system", "qemu+unix:///session?socket=/run/x", "test:///default"] {
            assert!(is_local(uri), "{uri}");
        }
        for uri in ["qemu+ssh://host/system", "qemu://host/system", "qemu+tls:///system", "nonsense"] {
            assert!(!is_local(uri), "{uri}");
        }
    }

    #[test]
    fn a_guests_refusal_comes_with_its_reason_from_qemu() {
        let info = json!({"info": {"device": "dimm0", "slot": "0", "slot-type": "DIMM", "source": 3, "status": 130}});
        let event = meaning(Told::Qemu("ACPI_DEVICE_OST".into(), info, 7));
        let act = Act::UnplugDimm { id: "dimm0".into(), memdev: "memdimm0".into(), slot: 0 };
        assert!(event.refuses(&act).is_some_and(|why| why.contains("busy")), "{event:?}");
        assert_eq!(meaning(Told::DeviceRemoved("dimm0".into())), Event::DeviceDeleted { id: "dimm0".into() });
        assert!(matches!(meaning(Told::Lifecycle(Lifecycle::Stopped, 5)), Event::Gone { .. }));
        assert!(matches!(meaning(Told::Lifecycle(Lifecycle::Paused, 0)), Event::Other { .. }));
    }
}
