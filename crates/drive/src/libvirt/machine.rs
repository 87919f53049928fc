//! A machine that libvirt keeps, behind the driver seam: observed as on plain QEMU, through libvirt's passage to the
//! monitor and the agent; changed by libvirt's own calls alone (see `act`), so that its description stays true.

use std::time::Duration;

use scale::limits::Limits;
use scale::observed::Observed;
use scale::plan::Act;
use scale::setting::{Setting, SettingName};
use scale::sight::{Event, Look, Sight};
use scale::time::Moment;
use scale::wanted::Scope;

use super::act::Hand;
use super::definition::vcpu_number;
use super::domain::Domain;
use super::error::{Code, Error};
use super::events::{Event as Told, Events, Heard, Lifecycle};
use super::kept::{FindError, Kept};
use super::passthrough::Passthrough;
use super::pool::{CallError, Lane};
use super::terms::{State, Xml};
use super::{disks, memory_limit, nics, power};
use crate::disk::Names;
use crate::domxml;
use crate::guest::facts;
use crate::guest::reach::Reach;
use crate::qmp::driver::{Clock, duration, observed};
use crate::qmp::lasting::Lasting;
use crate::qmp::message;
use crate::qmp::monitor::{Line, Monitor};
use crate::qmp::{QmpError, look, news};
use crate::{ApplyError, Hypervisor, ObserveError};

/// How long libvirt may take to describe the machine.
const DESCRIPTION: Duration = Duration::from_secs(10);

/// How long QEMU may have owed libvirt an answer before it is taken for stuck. Whoever asks next is kept for 30 s by libvirt
/// (`QEMU_JOB_WAIT_TIME`, 9.0).
const ANSWER: Duration = Duration::from_secs(5);

/// A machine that libvirt keeps. Dropped, the connection is closed; the machine is not touched.
#[derive(Debug)]
pub struct LibvirtMachine {
    hand: Hand,
    persistent: bool,
    monitor: Monitor,
    events: Events,
    reach: Reach,
    clock: Clock,
    lasting: Option<Lasting>,
    scope: Scope,
    /// When the last act was sent.
    changed: Moment,
    names: Names,
}

/// Why the machine cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// libvirt cannot be reached, or does not know the machine.
    #[error(transparent)]
    Find(#[from] FindError),
    /// libvirt knows it and does not tell of it.
    #[error("{name}: {source}")]
    Untold {
        /// The domain's name.
        name: String,
        /// What libvirt said.
        source: CallError,
    },
    /// It does not run.
    #[error("{name} does not run ({state}); start it with: virsh -c '{uri}' start {name}")]
    NotRunning {
        /// The connection's URI.
        uri: String,
        /// The domain's name.
        name: String,
        /// What it does.
        state: State,
    },
    /// libvirt is at work on it, and asks QEMU nothing until that is over.
    #[error("{name}: {}", held(.what))]
    Held {
        /// The domain's name.
        name: String,
        /// What libvirt does.
        what: &'static str,
    },
    /// QEMU leaves libvirt's questions unanswered.
    #[error(
        "{name}: QEMU has not answered libvirt for {} s: it is stuck, stopped or very busy (virsh domcontrol {name} \
         tells); try again when it answers",
        since.as_secs()
    )]
    Stuck {
        /// The domain's name.
        name: String,
        /// For how long.
        since: Duration,
    },
    /// Its description makes no sense.
    #[error("the description of {name} makes no sense: {why}")]
    Description {
        /// The domain's name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its monitor cannot be asked.
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

/// What keeps a domain from being driven.
enum Hindrance {
    NotRunning(State),
    Held(&'static str),
    Stuck(Duration),
}

/// What is asked of a domain before it is driven.
struct Before {
    persistent: bool,
    live: String,
}

impl LibvirtMachine {
    /// Connects to libvirt at `uri` and takes the running domain of this name or uuid. An agent that cannot be reached
    /// is no error: the observation will say why.
    ///
    /// # Errors
    /// [`OpenError`], with what to do about it.
    pub async fn open(uri: &str, name: &str, limits: &Limits) -> Result<LibvirtMachine, OpenError> {
        LibvirtMachine::of(&Kept::find(uri, name, limits).await?, limits).await
    }

    /// The same for a machine that was found already, on its connection.
    ///
    /// # Errors
    /// [`OpenError`], with what to do about it.
    pub async fn of(kept: &Kept, limits: &Limits) -> Result<LibvirtMachine, OpenError> {
        LibvirtMachine::attending(kept, Scope::ALL, limits).await
    }

    /// The same, to be observed within this scope at once: the guest is asked already while libvirt tells of the machine.
    ///
    /// # Errors
    /// [`OpenError`], with what to do about it.
    pub async fn attending(kept: &Kept, scope: Scope, limits: &Limits) -> Result<LibvirtMachine, OpenError> {
        let agent = duration(limits.agent);
        let mut reach = Reach::through(kept.agent_line(), agent);
        facts::gather_ahead(&mut reach, scope);
        let name = kept.name();
        let untold = |source| OpenError::Untold { name: name.clone(), source };
        // Before anything is asked of the machine, so that no event is missed.
        let events = kept.call_beside("a subscription to its events", Events::of_changes);
        let (told, events) = tokio::join!(kept.call("a look at the domain", ask), events);
        let told = told.map_err(&untold)?.map_err(|hindrance| match hindrance {
            Hindrance::NotRunning(state) => {
                OpenError::NotRunning { uri: kept.uri().to_owned(), name: name.clone(), state }
            }
            Hindrance::Held(what) => OpenError::Held { name: name.clone(), what },
            Hindrance::Stuck(since) => OpenError::Stuck { name: name.clone(), since },
        })?;
        let events = events.map_err(untold)?;
        let description = domxml::Domain::parse(&told.live)
            .map_err(|error| OpenError::Description { name: name.clone(), why: error.to_string() })?;
        let (domain, lane) = (kept.domain().clone(), kept.lane().clone());
        let limit = duration(limits.monitor);
        let passthrough = Passthrough::open(domain.clone(), lane.clone(), kept.is_local(), limit).await?;
        if description.agent.is_none() {
            reach = Reach::new(None, agent);
        }
        let clock = Clock::start();
        // Who looks at everything hears QEMU itself.
        let lasting = (!scope.rest).then(|| Lasting::described(&description, passthrough.pid())).flatten();
        Ok(LibvirtMachine {
            persistent: told.persistent,
            hand: Hand::new(domain, lane, told.persistent, duration(limits.offline_block)),
            monitor: Monitor::new(Line::Libvirt(passthrough), limit),
            events,
            reach,
            clock,
            lasting,
            scope,
            changed: clock.now(),
            names: disks::names(&description),
        })
    }

    /// The way to its guest's agent, for questions that no resize needs.
    pub(crate) fn reach(&mut self) -> &mut Reach {
        &mut self.reach
    }

    /// Changes only the running machine, and leaves the definition that its next start takes as it is.
    #[must_use]
    pub fn live_only(mut self) -> LibvirtMachine {
        self.hand.definition.keep(false);
        self
    }

    /// Whether it has a definition for its next start; one without vanishes at its end.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Whether the definition follows each change.
    pub fn keeps_definition(&self) -> bool {
        self.hand.definition.keeps()
    }

    /// Changes of the running machine that its definition for the next start did not follow, with libvirt's reasons.
    pub fn not_followed(&self) -> &[String] {
        self.hand.definition.not_followed()
    }
}

/// What there is to know before driving, or what is in its way. Blocks as its calls do.
fn ask(domain: &Domain) -> Result<Result<Before, Hindrance>, Error> {
    let state = domain.state()?;
    if !state.is_there() {
        return Ok(Err(Hindrance::NotRunning(state)));
    }
    // This first: all below waits for what has not been answered.
    let since = known(domain.owes_answer())?.flatten();
    if let Some(since) = since.filter(|since| *since >= ANSWER) {
        return Ok(Err(Hindrance::Stuck(since)));
    }
    if let Some(what) = known(domain.job())?.and_then(|job| job.holds()) {
        return Ok(Err(Hindrance::Held(what)));
    }
    Ok(Ok(Before { persistent: domain.is_persistent()?, live: domain.xml(Xml::Live)? }))
}

/// What was asked. Nothing where it is not QEMU's driver that was asked, which the description will show.
fn known<T>(told: Result<T, Error>) -> Result<Option<T>, Error> {
    match told {
        Ok(told) => Ok(Some(told)),
        Err(error) if error.code == Code::NoSupport => Ok(None),
        Err(error) => Err(error),
    }
}

impl Hypervisor for LibvirtMachine {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.scope = scope;
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        refuse_while_held(self.hand.domain(), self.hand.lane()).await?;
        if self.scope.disks {
            let until = tokio::time::Instant::now() + DESCRIPTION;
            self.names = disks::ask(&self.hand, until).await.map_err(ObserveError::Unreachable)?;
        }
        let LibvirtMachine { monitor, reach, clock, lasting, names, scope, .. } = self;
        let mut seen = observed(monitor, lasting, reach, clock, names, *scope).await?;
        self.hand.definition.gone_from(&seen).await;
        nics::overlay(&self.hand, &mut seen.nics).await;
        memory_limit::overlay(&self.hand, &self.monitor, &mut seen.host).await;
        if self.scope.power {
            seen.power = power::read(&self.hand, &self.monitor).await;
        }
        Ok(seen)
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        if let Look::Setting(name @ (SettingName::NicRate { .. } | SettingName::IpRate { .. })) = look {
            return Ok(Sight::Setting(nics::look(&self.hand, &self.monitor, name).await?));
        }
        if let Look::Setting(SettingName::CpuPower) = look {
            let power = power::read(&self.hand, &self.monitor).await;
            return Ok(Sight::Setting(power.known().copied().map(Setting::CpuPower)));
        }
        if let Look::Setting(name @ (SettingName::Memory | SettingName::Locked)) = look {
            return Ok(Sight::Setting(memory_limit::look(&self.hand, name).await));
        }
        let sight = look::look(&self.monitor, &mut self.reach, look, self.changed, &self.names).await?;
        match (look, &sight) {
            (Look::DimmDevice(id), Sight::Dimm(None))
            | (Look::VcpuDevice(id), Sight::Vcpu { plugged: false, .. }) => {
                self.hand.definition.gone(id).await
            }
            _other_sights => {}
        }
        Ok(sight)
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.changed = self.now();
        self.reach.changes();
        let until = self.clock.instant(until);
        self.hand.apply(&self.monitor, &mut self.reach, act, &self.names, until).await
    }

    fn remarks(&mut self) -> Vec<String> {
        self.reach.remarks()
    }

    async fn follow(&mut self, device: &str) {
        // QEMU is asked: libvirt itself learns of an emulated vCPU's end only when it looks at the machine anew, and of a
        // DIMM's when it comes to that event.
        let device = device.to_owned();
        let asked = match vcpu_number(&device) {
            Some(_) => Look::VcpuDevice(device.clone()),
            None => Look::DimmDevice(device.clone()),
        };
        let sight = look::look(&self.monitor, &mut self.reach, &asked, self.changed, &self.names).await;
        let is_gone = |sight| matches!(sight, Sight::Vcpu { plugged: false, .. } | Sight::Dimm(None));
        let is_gone = sight.map(is_gone).map_err(|error| error.to_string());
        self.hand.definition.follow(&device, is_gone).await;
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        let heard = loop {
            match self.events.next(self.clock.instant(until)).await {
                // libvirt's reply has said so: a look now would be one in vain. Ends: the queue is bounded.
                Heard::Event(Told::DeviceAdded(_)) => {}
                heard @ (Heard::Event(_) | Heard::Lagged(_) | Heard::Quiet | Heard::Closed(_)) => {
                    break heard;
                }
            }
        };
        let event = match heard {
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

async fn refuse_while_held(domain: &Domain, lane: &Lane) -> Result<(), ObserveError> {
    const LIMIT: Duration = Duration::from_secs(10);
    let domain = domain.clone();
    match lane.call("a question to libvirt", LIMIT, move || domain.job()).await {
        Ok(job) => job.holds().map_or(Ok(()), |what| Err(ObserveError::Unreachable(held(what)))),
        Err(error) => Err(ObserveError::Unreachable(error.to_string())),
    }
}

fn held(what: &str) -> String {
    format!(
        "libvirt is at work on {what} of this machine and asks QEMU nothing meanwhile; try again when it is done (virsh \
         domjobinfo tells)"
    )
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
