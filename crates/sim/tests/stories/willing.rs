//! A willing guest gets exactly what was asked, and gives it back.

use crate::harness::{Stage, both, memory, vcpus};
use proptest::prelude::*;
use scale::plan::{Act, Strength};
use scale::report::Verdict;
use scale::run::Record;
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted};
use sim::{Mood, World};

fn machines() -> Vec<(&'static str, World)> {
    let small = World::small;
    vec![
        ("dimms", small()),
        ("two nodes", small().nodes(2)),
        ("large blocks", small().block(Bytes::gib(1)).boot_memory(Bytes::gib(2))),
        ("virtio-mem", small().virtio_mem("vm0", 0, Bytes::gib(4))),
        ("three slots", small().slots(3)),
        (
            "foreign dimms",
            small().foreign_dimm("dimm7", 0, Bytes::gib(1)).boot_dimm("d0", 0, Bytes::mib(512)),
        ),
        ("kept by libvirt", small().in_libvirt()),
        ("a balloon that rests", small().balloon(true)),
        ("a kernel that onlines", small().with(Mood::OnlinesItself(Span::millis(0)))),
        ("a kernel with probe", small().with_probe()),
        ("a rule that onlines", small().with(Mood::OnlinesItself(Span::millis(700)))),
    ]
}

#[test]
fn grown_is_proven_by_the_guest() {
    for (name, world) in machines() {
        let mut stage = Stage::new(world);
        let wanted = both(Bytes::gib(6), 3);
        let report = stage.apply(&wanted).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(report.verdict, Verdict::Proven, "{name}: {report:#?}\n{}", stage.past());
        assert!(report.strength >= Some(Strength::DriverConfirmed), "{name}: {report:#?}");
        stage.assert_clean(&wanted);
    }
}

#[test]
fn grow_then_shrink_comes_back() {
    for (name, world) in machines() {
        let mut stage = Stage::new(world);
        let before = stage.observe();
        let there = both(Bytes::gib(7), 4);
        let back = both(before.memory.total(), before.vcpus.plugged());
        for _ in 0..3 {
            stage.apply(&there).unwrap_or_else(|e| panic!("{name}: {e}"));
            // A rule that onlines what comes should be done with it before it goes.
            stage.world.pass(Span::secs(1));
            let report = stage.apply(&back).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(report.verdict, Verdict::Proven, "{name}: {report:#?}\n{}", stage.past());
            stage.assert_clean(&back);
        }
    }
}

#[test]
fn asked_for_what_is_there_nothing_is_sent() {
    let mut stage = Stage::new(World::small());
    let wanted = both(Bytes::gib(3), 2);
    stage.apply(&wanted).expect("granted");
    let before = stage.world.log().count();
    assert_eq!(stage.apply(&wanted).expect("granted").verdict, Verdict::Proven);
    assert_eq!(stage.world.log().count(), before);
}

#[test]
fn each_act_is_in_the_journal_before_it_is_sent() {
    let mut stage = Stage::new(World::small());
    stage.apply(&both(Bytes::gib(3), 2)).expect("granted");
    stage.apply(&both(Bytes::gib(1), 1)).expect("granted");
    let written = stage.journal.records().iter().filter(|r| matches!(r, Record::Sending { .. })).count();
    let sent = stage.world.log().filter(|line| line.contains(" Goes: ")).count();
    assert_eq!(written, sent);
    assert!(sent > 8, "{sent}");
}

#[test]
fn the_balloon_moves_only_when_it_is_named() {
    let mut stage = Stage::new(World::small().balloon(true).boot_dimm("d", 0, Bytes::gib(1)));
    let by_balloon = Wanted { mechanism: Some(Mechanism::Balloon), ..memory(Bytes::mib(1280)) };
    assert_eq!(stage.apply(&by_balloon).expect("granted").verdict, Verdict::Proven);
    let refusal = stage.apply(&memory(Bytes::gib(3))).expect_err("the balloon is inflated").to_string();
    assert!(refusal.contains("balloon"), "{refusal}");
    let back = Wanted { mechanism: Some(Mechanism::Balloon), ..memory(Bytes::gib(2)) };
    assert_eq!(stage.apply(&back).expect("granted").verdict, Verdict::Proven);
    stage.assert_clean(&back);
    let balloons = stage.journal.records().iter().filter_map(|r| match r {
        Record::Began { plan, .. } => {
            Some(plan.steps.iter().any(|s| matches!(s.act, Act::SetBalloon { .. })))
        }
        Record::Sending { .. }
        | Record::Concluded { .. }
        | Record::Ended { .. }
        | Record::Filled { .. }
        | Record::Remarked { .. }
        | Record::Settled { .. }
        | Record::Reported { .. } => None,
    });
    assert_eq!(balloons.collect::<Vec<_>>(), [true, true]);
}

#[test]
fn a_step_counts_from_where_the_machine_stands() {
    let mut stage = Stage::new(World::small());
    let more = Wanted { memory: Some(Change::Grow(Bytes::gib(1))), ..vcpus(2) };
    stage.apply(&more).expect("granted");
    stage.apply(&more).expect("granted");
    stage.assert_clean(&both(Bytes::gib(3), 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_walk_of_sizes_is_walked(sizes in prop::collection::vec((8u64..128, 1u32..8), 1..12), which in 0usize..11) {
        let (_, world) = machines().swap_remove(which);
        let mut stage = Stage::new(world);
        let before = stage.observe().memory.total();
        for (blocks, count) in sizes {
            let size = before + Bytes::mib(128).times(blocks - 8).round_down(stage.observe().guest.heard().and_then(|h| h.block).unwrap_or_default());
            let wanted = both(size.min(Bytes::gib(15)), count);
            stage.world.pass(Span::secs(1));
            match stage.apply(&wanted) {
                Ok(report) => {
                    prop_assert_eq!(report.verdict, Verdict::Proven, "{:#?}\n{}", report, stage.past());
                    stage.assert_clean(&wanted);
                }
                Err(drive::resize::ResizeError::Refused(refusal)) => {
                    prop_assert!(!refusal.obstacles.is_empty());
                    stage.assert_recorded();
                }
                Err(other) => prop_assert!(false, "{other}\n{}", stage.past()),
            }
        }
    }
}
