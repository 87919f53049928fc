//! A plan is for one state of the machine: made for another, it never runs.

use crate::harness::{Stage, both};
use proptest::prelude::*;
use scale::limits::Limits;
use scale::plan::plan;
use scale::run::{Run, Stale};
use scale::units::Bytes;
use sim::World;

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
