//! The last look and the report share one observation where that can be, and the guest is asked for everything twice:
//! before and after.

use crate::harness::{both, memory};
use drive::journal::MemoryJournal;
use drive::resize::{Party, Progress, resize};
use drive::{ApplyError, Hypervisor, ObserveError};
use scale::limits::Limits;
use scale::observed::Observed;
use scale::plan::{Act, Plan};
use scale::report::{Report, Verdict};
use scale::sight::{Event, Look, Sight};
use scale::time::{Moment, Span};
use scale::units::Bytes;
use scale::wanted::{Scope, Wanted};
use sim::{Lie, Link, Mood, World, finish};

/// A connection that counts the observations made through it.
struct Counted<'w> {
    link: Link<'w>,
    observations: u32,
}

impl Hypervisor for Counted<'_> {
    fn now(&self) -> Moment {
        self.link.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.link.attend(scope);
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        self.observations += 1;
        self.link.observe().await
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        self.link.look(look).await
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.link.apply(act, until).await
    }

    fn remarks(&mut self) -> Vec<String> {
        self.link.remarks()
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        self.link.watch(until).await
    }
}

struct Yes;

impl Party for Yes {
    fn consents(&mut self, _: &Plan, _: &Observed) -> bool {
        true
    }

    fn told(&mut self, _: Progress<'_>) {}
}

/// The report of a resize and how often everything was observed for it.
fn counted(world: &mut World, wanted: Wanted) -> (Report, u32) {
    let mut counted = Counted { link: world.connect(), observations: 0 };
    let (mut journal, limits) = (MemoryJournal::default(), Limits::default());
    let report = finish(resize(&mut counted, &mut journal, wanted, &limits, &mut Yes));
    (report.expect("links do not wait").expect("granted"), counted.observations)
}

#[test]
fn everything_is_observed_before_and_after_and_no_more() {
    let worlds = [
        (World::small(), both(Bytes::gib(3), 3), Bytes::gib(3)),
        (World::small().in_libvirt(), both(Bytes::gib(3), 1), Bytes::gib(3)),
        (World::small().virtio_mem("vm0", 0, Bytes::gib(4)), both(Bytes::gib(2), 2), Bytes::gib(2)),
    ];
    for (mut world, wanted, size) in worlds {
        let (report, observations) = counted(&mut world, wanted);
        assert_eq!((report.verdict, observations), (Verdict::Proven, 2), "{report:#?}");
        assert_eq!(report.guest.online, Some(size));
    }
}

#[test]
fn a_guest_that_only_says_so_is_not_believed() {
    let mut world = World::small().with(Mood::Lies(Lie::Done));
    let (report, _) = counted(&mut world, memory(Bytes::gib(2)));
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    assert_eq!(report.guest.online, Some(Bytes::gib(1)));
}

#[test]
fn a_guest_that_lags_behind_is_waited_for() {
    let mut world = World::small().with(Mood::OnlinesItself(Span::millis(700)));
    let (report, _) = counted(&mut world, both(Bytes::gib(2), 2));
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    assert_eq!((report.guest.online, report.guest.vcpus), (Some(Bytes::gib(2)), Some(2)));
}
