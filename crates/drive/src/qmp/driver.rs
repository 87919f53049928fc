//! A machine on plain QEMU: the monitor, the guest's agent and the host behind the driver seam. What to do is told
//! from above; how each question and act is put is in `observe`, `look` and `act`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scale::limits::Limits;
use scale::observed::{Guest, Known, Observed};
use scale::plan::Act;
use scale::sight::{Event, Look, Sight};
use scale::time::{Moment, Span};
use scale::wanted::Scope;
use tokio::time::Instant;

use super::lasting::Lasting;
use super::monitor::{Line, Monitor};
use super::observe::Seen;
use super::{ConnectError, Events, Heard, Qmp, act, balloon, look, news, nics, observe, power};
use crate::disk::{self, Names};
use crate::guest::facts;
use crate::guest::reach::Reach;
use crate::{ApplyError, Hypervisor, ObserveError};

/// How long QEMU may take to greet. A monitor that another client holds never does.
const GREETING: Duration = Duration::from_secs(10);

/// A machine on plain QEMU. Dropped, it is disconnected; the machine is not touched.
#[derive(Debug)]
pub struct QmpMachine {
    monitor: Monitor,
    events: Events,
    reach: Reach,
    clock: Clock,
    /// How long the guest may take to empty one memory block.
    block: Duration,
    lasting: Option<Lasting>,
    scope: Scope,
    /// When the last act was sent.
    changed: Moment,
}

/// Why the machine cannot be driven.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its monitor cannot be used.
    #[error(transparent)]
    Monitor(#[from] ConnectError),
}

/// Wall-clock time that never goes back: read once, then carried on by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Moment,
    at: Instant,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Clock { wall: Moment::from_unix_millis(u64::try_from(wall).unwrap_or(u64::MAX)), at: Instant::now() }
    }

    pub(crate) fn now(&self) -> Moment {
        let passed = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.wall + Span::millis(passed)
    }

    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        self.at + duration(moment.since(self.wall))
    }
}

/// At most a year, so that no sum of it with a point in time overflows.
pub(crate) fn duration(span: Span) -> Duration {
    Duration::from_millis(span.as_millis()).min(Duration::from_secs(365 * 24 * 3600))
}

impl QmpMachine {
    /// Connects to QEMU's monitor at the socket `qmp` and begins to connect to the guest's agent at the socket
    /// `agent`. An agent that cannot be reached is no error: [`Guest::Unheard`] will say why.
    ///
    /// # Errors
    /// [`OpenError`], with what to do about it.
    pub async fn open(qmp: &Path, agent: Option<&Path>, limits: &Limits) -> Result<QmpMachine, OpenError> {
        let mut reach = Reach::new(agent, duration(limits.agent));
        let limit = duration(limits.monitor);
        // An agent without a client looks for one every 100 ms only: QEMU is asked meanwhile.
        reach.knock();
        let qmp = Qmp::connect(qmp, GREETING.min(limit)).await?;
        // Before any command, so that no event is missed.
        let events = qmp.events();
        let clock = Clock::start();
        Ok(QmpMachine {
            monitor: Monitor::new(Line::Qmp(qmp), limit),
            events,
            reach,
            clock,
            block: duration(limits.offline_block),
            lasting: None,
            scope: Scope::ALL,
            changed: clock.now(),
        })
    }
}

impl QmpMachine {
    /// What it is asked by, for questions that no resize needs.
    pub(crate) fn parts(&mut self) -> (&Monitor, &mut Reach) {
        (&self.monitor, &mut self.reach)
    }
}

/// Everything in `scope` that is to be known through `monitor` and `reach`, at `clock`'s time. `names` are those that a
/// manager has given to disks.
pub(crate) async fn observed(
    monitor: &Monitor,
    lasting: &mut Option<Lasting>,
    reach: &mut Reach,
    clock: &Clock,
    names: &Names,
    scope: Scope,
) -> Result<Observed, ObserveError> {
    let told = async {
        let guest = facts::gather(reach, scope).await;
        let disks = match scope.disks {
            true => disk::observe(monitor, scope.disk_guests.then_some(reach), names).await,
            false => Ok(disk::Seen { disks: Known::default(), tools: BTreeSet::new() }),
        };
        (guest, disks)
    };
    let power = async { if scope.power { power::read(monitor).await } else { Ok(Known::default()) } };
    let nics = async { if scope.nics { nics::observe(monitor).await } else { Ok(Known::default()) } };
    let (seen, (mut guest, disks), power, nics) =
        tokio::join!(observe::observe(monitor, lasting, scope), told, power, nics);
    let (mut seen, mut nics) = (seen?, nics?);
    nics::named_by_guest(&mut nics, &guest);
    if scope.memory {
        figures(monitor, &mut seen, &guest).await?;
    }
    let disk::Seen { disks, tools } = disks?;
    if let Guest::Heard(facts) = &mut guest {
        facts.tools = tools;
    }
    let Seen { machine, memory, vcpus, host, balloon: _ } = seen;
    let power = power?;
    Ok(Observed {
        at: clock.now(),
        machine,
        memory,
        vcpus,
        power,
        disks,
        nics,
        guest,
        host,
        pending: Vec::new(),
    })
}

/// The guest's figures through the balloon, where its agent does not tell all that they stand for.
async fn figures(monitor: &Monitor, seen: &mut Seen, guest: &Guest) -> Result<(), ObserveError> {
    let told = guest.heard().is_some_and(|facts| facts.meminfo.is_some());
    let shown = guest.heard().is_some_and(|facts| !facts.blocks.is_empty());
    let Some(balloon) = seen.memory.balloon.as_mut().filter(|_| !told || !shown) else { return Ok(()) };
    let path = match seen.balloon.take() {
        Some(path) => Some(path),
        // Not looked for, as long as the agent might tell.
        None => balloon::path(&observe::peripherals(monitor).await?),
    };
    let Some(path) = path else { return Ok(()) };
    if balloon.stats.is_none() {
        balloon.stats = balloon::latest(monitor, &path).await?;
    }
    if !told && seen.machine.is_running() && balloon::turn_on(monitor, &path).await? {
        balloon.stats = balloon::first(monitor, &path, balloon.stats).await?;
    }
    Ok(())
}

impl Hypervisor for QmpMachine {
    fn now(&self) -> Moment {
        self.clock.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.scope = scope;
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        let QmpMachine { monitor, reach, clock, lasting, scope, .. } = self;
        observed(monitor, lasting, reach, clock, &Names::new(), *scope).await
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        look::look(&self.monitor, &mut self.reach, look, self.changed, &Names::new()).await
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.changed = self.now();
        self.reach.changes();
        let until = self.clock.instant(until);
        act::apply(&self.monitor, &mut self.reach, act, self.block, until).await
    }

    fn remarks(&mut self) -> Vec<String> {
        self.reach.remarks()
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        let event = match self.events.next(self.clock.instant(until)).await {
            Heard::Event(event) => news::meaning(&event),
            Heard::Lagged(missed) => Event::Other { name: format!("{missed} events were lost") },
            Heard::Quiet => return None,
            Heard::Closed => Event::Gone { why: "the connection to QEMU has ended".into() },
        };
        if event == Event::GuestReset {
            // The guest may come back with another kernel and another agent.
            self.reach.forget();
        }
        Some(event)
    }
}
