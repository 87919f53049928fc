//! A plan is for one state of the machine: made for another, it never runs.

use crate::harness::{Stage, both, memory};
use drive::resize::{Party, Progress, resize};
use drive::{ApplyError, Hypervisor, ObserveError};
use proptest::prelude::*;
use scale::limits::Limits;
use scale::observed::Observed;
use scale::plan::{Act, Plan, plan};
use scale::report::Verdict;
use scale::run::{Run, Stale};
use scale::sight::{Event, Look, Sight};
use scale::time::{Moment, Span};
use scale::units::Bytes;
use sim::{Link, World, finish};

/// A connection behind which somebody else resizes the machine while the user thinks.
struct Meddled<'w> {
    link: Link<'w>,
    meddle: Option<Bytes>,
}

impl Hypervisor for Meddled<'_> {
    fn now(&self) -> Moment {
        self.link.now()
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        let seen = self.link.observe().await?;
        if let Some(size) = self.meddle.take() {
            let memdev = "theirs".to_owned();
            let acts = [
                Act::CreateBackend { memdev: memdev.clone(), size, backing: seen.memory.backing.clone() },
                Act::PlugDimm { id: "dimm7".into(), memdev, brings: None, slot: 7, node: 0, addr: None },
            ];
            for act in acts {
                self.link.apply(&act, self.link.now()).await.expect("nothing is in its way");
            }
            self.link.watch(self.link.now() + Span::secs(2)).await;
            self.link.watch(self.link.now() + Span::secs(2)).await;
        }
        Ok(seen)
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

/// A user who counts what was asked.
#[derive(Default)]
struct Asked(Vec<Plan>);

impl Party for Asked {
    fn consents(&mut self, plan: &Plan, _seen: &Observed) -> bool {
        self.0.push(plan.clone());
        true
    }

    fn told(&mut self, _progress: Progress<'_>) {}
}

#[test]
fn a_machine_that_changed_while_the_user_thought_is_planned_for_again() {
    let mut stage = Stage::new(World::small());
    let mut asked = Asked::default();
    let wanted = memory(Bytes::gib(3));
    let report = {
        let mut meddled = Meddled { link: stage.world.connect(), meddle: Some(Bytes::gib(1)) };
        let limits = Limits::default();
        finish(resize(&mut meddled, &mut stage.journal, wanted.clone(), &limits, &mut asked))
    };
    let report = report.expect("links do not wait").expect("granted");
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    let froms: Vec<Bytes> = asked.0.iter().map(|p| p.from.memory).collect();
    assert_eq!(froms, [Bytes::gib(1), Bytes::gib(2)]);
    stage.assert_clean(&wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stale_plan_never_moves_a_machine_backwards(
        first in (8u64..64, 1u32..8),
        then in (8u64..64, 1u32..8),
    ) {
        let wish = |(blocks, vcpus): (u64, u32)| both(Bytes::mib(128).times(blocks), vcpus);
        let mut stage = Stage::new(World::small());
        let seen = stage.observe();
        let early = plan(&seen, &wish(first), &Limits::default()).expect("within reach");
        stage.apply(&wish(then)).expect("within reach");
        let now = stage.observe();
        let moved = (then != (8, 1)).then_some(Stale);
        prop_assert_eq!(Run::start(early, &now, stage.world.now()).err(), moved);
    }
}
