//! A user with one machine, and controllers that can be killed between any two of their deeds.

use drive::journal::{Journal, JournalError, MemoryJournal};
use drive::resize::{Party, Progress, ResizeError, observe, resize};
use drive::{ApplyError, Hypervisor, ObserveError};
use scale::history::History;
use scale::limits::Limits;
use scale::observed::{Backing, Observed, VcpuState};
use scale::plan::{Act, OWN_PREFIX, Plan, Sizes};
use scale::report::{Report, Verdict};
use scale::run::Record;
use scale::sight::{Event, Look, Sight};
use scale::time::{Moment, Span};
use scale::units::{Bytes, Change};
use scale::wanted::{Scope, Wanted};
use sim::{Link, World, finish};
use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;

/// A machine and its journal: all that outlives a controller.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) journal: MemoryJournal,
}

impl Stage {
    pub(crate) fn new(world: World) -> Stage {
        Stage { world, journal: MemoryJournal::default() }
    }

    /// `supple apply --yes`, to its end.
    pub(crate) fn apply(&mut self, wanted: &Wanted) -> Result<Report, ResizeError> {
        let limits = Limits::default();
        let mut link = self.world.connect();
        let answer = finish(resize(&mut link, &mut self.journal, wanted.clone(), &limits, &mut Yes));
        answer.expect("nobody killed the controller")
    }

    /// `supple apply --yes`, killed at the nth boundary; its answer if it was done before that.
    pub(crate) fn apply_until_killed(
        &mut self,
        wanted: &Wanted,
        after: u64,
    ) -> Option<Result<Report, ResizeError>> {
        let fuse = Fuse::of(after);
        let limits = Limits::default();
        let mut mortal = Mortal { link: self.world.connect(), fuse: fuse.clone() };
        let mut journal = MortalJournal { inner: &mut self.journal, fuse: fuse.clone() };
        let answer = finish(resize(&mut mortal, &mut journal, wanted.clone(), &limits, &mut Yes));
        answer.filter(|_| !fuse.is_burnt())
    }

    /// How many boundaries there are on the way to the end.
    pub(crate) fn boundaries(&self, wanted: &Wanted) -> u64 {
        let mut rehearsal = self.clone();
        let fuse = Fuse::of(u64::MAX);
        let limits = Limits::default();
        let mut mortal = Mortal { link: rehearsal.world.connect(), fuse: fuse.clone() };
        let mut journal = MortalJournal { inner: &mut rehearsal.journal, fuse: fuse.clone() };
        let answer = finish(resize(&mut mortal, &mut journal, wanted.clone(), &limits, &mut Yes));
        assert!(answer.is_some_and(|a| a.is_ok()), "{wanted:?}");
        u64::MAX - fuse.0.get()
    }

    /// `supple observe`.
    pub(crate) fn observe(&mut self) -> Observed {
        let seen = finish(observe(&mut self.world.connect(), self.journal.history()));
        seen.expect("links do not wait").expect("QEMU is there")
    }

    /// Somebody else plugs a DIMM of 1 GiB, and brings it into use in nobody's guest.
    pub(crate) fn plug_by_hand(&mut self, id: &str, slot: u32) {
        let memdev = format!("mem-{id}");
        let plug = Act::PlugDimm {
            id: id.to_owned(),
            memdev: memdev.clone(),
            brings: None,
            slot,
            node: 0,
            addr: None,
        };
        for act in [
            Act::CreateBackend {
                memdev,
                size: Bytes::gib(1),
                backing: Backing::Ram,
                placement: Default::default(),
            },
            plug,
        ] {
            let sent = finish(async {
                let mut link = self.world.connect();
                let until = link.now() + Span::secs(30);
                link.apply(&act, until).await
            });
            sent.expect("links do not wait").expect("taken");
        }
        self.world.pass(Span::secs(1));
    }

    /// Applies again and again, as a user does who is told to wait, until it is proven. Gives the last report.
    #[track_caller]
    pub(crate) fn apply_until_proven(&mut self, wanted: &Wanted) -> Report {
        let mut told = Vec::new();
        for _ in 0..6 {
            match self.apply(wanted) {
                Ok(report) if report.verdict == Verdict::Proven && report.pending.is_empty() => {
                    return report;
                }
                Ok(report) => told.push(format!("{report:#?}")),
                Err(ResizeError::Refused(refusal)) => told.push(refusal.to_string()),
                Err(other) => panic!("{other}\n{}", self.past()),
            }
            self.world.pass(Span::secs(150));
            self.follow_the_way_out();
        }
        panic!("{wanted:?} is never proven:\n{}\n{}", told.join("\n"), self.past());
    }

    /// What a user does who is told what stands in the way: a removal that is still asked of the guest is asked for
    /// again, and a DIMM that never appeared in the guest is taken out.
    pub(crate) fn follow_the_way_out(&mut self) {
        let seen = self.observe();
        let going = |id: &str| seen.pending.iter().any(|p| p.device.id() == id);
        let dimms: Bytes = seen.memory.dimms.iter().filter(|d| going(&d.id)).map(|d| d.size).sum();
        let places = seen.vcpus.slots.iter();
        let vcpus = places.filter(|s| matches!(&s.state, VcpuState::Device(id) if going(id))).count();
        let without = u32::try_from(vcpus).expect("few");
        let online = seen.guest.heard().and_then(|h| h.online_memory()).unwrap_or(seen.memory.total());
        let memory = if seen.pending.is_empty() { online } else { seen.memory.total() - dimms };
        let _ = self.apply(&both(memory, seen.vcpus.plugged() - without));
        self.world.pass(Span::secs(150));
    }

    /// Nothing is half done: every trace of a change is either complete or gone.
    #[track_caller]
    pub(crate) fn assert_clean(&mut self, wanted: &Wanted) {
        let past = self.past();
        assert_eq!(self.world.removals_under_way(), Vec::<String>::new(), "{past}");
        let own = |id: &&str| id.starts_with(OWN_PREFIX);
        assert_eq!(self.world.spare_backends().into_iter().find(own), None, "{past}");
        assert!(self.journal.history().open().is_none(), "{past}");
        assert!(self.journal.history().pending().is_empty(), "{past}");
        let seen = self.observe();
        let facts = seen.guest.heard().expect("a willing guest answers");
        if let Some(Change::To(memory)) = wanted.memory {
            let held = seen.memory.total().saturating_sub(Sizes::of(&seen).memory);
            assert_eq!(seen.memory.total(), memory + held, "{past}");
            assert_eq!(facts.online_memory(), Some(memory + held), "{past}");
        }
        if let Some(Change::To(vcpus)) = wanted.vcpus {
            assert_eq!((seen.vcpus.plugged(), facts.online_vcpus()), (vcpus, vcpus), "{past}");
        }
    }

    /// Whatever went wrong is written down: no run is open, and each removal that may still happen is known.
    #[track_caller]
    pub(crate) fn assert_recorded(&mut self) {
        let past = self.past();
        let history = self.journal.history();
        assert!(history.open().is_none(), "{past}");
        for id in self.world.removals_under_way() {
            assert!(history.pending().iter().any(|p| p.device.id() == id), "{id} is forgotten\n{past}");
        }
    }

    /// What happened, for a failure.
    pub(crate) fn past(&self) -> String {
        let records = self.journal.records().iter().map(|r| match r {
            Record::Began { plan, wanted, .. } => {
                let acts = plan.steps.iter().map(|s| format!("  {}: {}", s.group, s.act));
                format!("began {wanted:?}\n{}", acts.collect::<Vec<_>>().join("\n"))
            }
            Record::Reported { report } => format!("reported {} {:?}", report.verdict, report.held_back),
            Record::Sending { .. }
            | Record::Concluded { .. }
            | Record::Ended { .. }
            | Record::Filled { .. }
            | Record::Remarked { .. }
            | Record::Settled { .. } => {
                format!("{r:?}")
            }
        });
        let log: Vec<&str> = self.world.log().collect();
        let tail = log[log.len().saturating_sub(120)..].join("\n");
        format!("--- journal\n{}\n--- world\n{tail}", records.collect::<Vec<_>>().join("\n"))
    }
}

pub(crate) fn memory(size: Bytes) -> Wanted {
    Wanted { memory: Some(Change::To(size)), ..Wanted::default() }
}

pub(crate) fn vcpus(count: u32) -> Wanted {
    Wanted { vcpus: Some(Change::To(count)), ..Wanted::default() }
}

pub(crate) fn both(size: Bytes, count: u32) -> Wanted {
    Wanted { memory: Some(Change::To(size)), vcpus: Some(Change::To(count)), ..Wanted::default() }
}

/// A user who says yes.
pub(crate) struct Yes;

impl Party for Yes {
    fn consents(&mut self, _plan: &Plan, _seen: &Observed) -> bool {
        true
    }

    fn told(&mut self, _progress: Progress<'_>) {}
}

/// How many boundaries a controller has left to live.
#[derive(Debug, Clone)]
struct Fuse(Rc<Cell<u64>>);

impl Fuse {
    fn of(length: u64) -> Fuse {
        Fuse(Rc::new(Cell::new(length)))
    }

    fn burn(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }

    fn is_burnt(&self) -> bool {
        self.0.get() == 0
    }

    /// One boundary: the dead never come back from it.
    async fn boundary(&self) {
        self.burn();
        if self.is_burnt() {
            pending::<()>().await;
        }
    }
}

/// A connection of a controller that dies: before or after each thing that it does.
struct Mortal<'w> {
    link: Link<'w>,
    fuse: Fuse,
}

impl Hypervisor for Mortal<'_> {
    fn now(&self) -> Moment {
        self.link.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.link.attend(scope);
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        self.fuse.boundary().await;
        self.link.observe().await
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        self.fuse.boundary().await;
        self.link.look(look).await
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.fuse.boundary().await;
        let answer = self.link.apply(act, until).await;
        self.fuse.boundary().await;
        answer
    }

    fn remarks(&mut self) -> Vec<String> {
        self.link.remarks()
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        self.fuse.boundary().await;
        self.link.watch(until).await
    }
}

/// The journal of a controller that dies: a record is there or not, and nothing follows it.
struct MortalJournal<'j> {
    inner: &'j mut MemoryJournal,
    fuse: Fuse,
}

impl Journal for MortalJournal<'_> {
    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        self.fuse.burn();
        if self.fuse.is_burnt() {
            return Ok(());
        }
        self.inner.append(record)?;
        self.fuse.burn();
        Ok(())
    }

    fn history(&self) -> &History {
        self.inner.history()
    }
}
