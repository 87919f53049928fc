//! A controller is killed at every boundary of every step: before and after each record, each act, each look. The next
//! one takes up what it finds.

use crate::harness::{Stage, both, memory, vcpus};
use drive::journal::Journal;
use drive::resize::ResizeError;
use scale::report::Verdict;
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted};
use sim::{Mood, World};

/// Kills a controller on the way to `wanted` at each boundary in turn; the next follows at once, or after a while.
#[track_caller]
fn dies_everywhere(stage: &Stage, wanted: &Wanted) {
    let boundaries = stage.boundaries(wanted);
    assert!(boundaries > 10, "{boundaries} boundaries");
    for after in 1..=boundaries {
        for pause in [Span::millis(0), Span::secs(200)] {
            let mut stage = stage.clone();
            let answer = stage.apply_until_killed(wanted, after);
            assert!(answer.is_none(), "killed at {after} of {boundaries}, it answers {answer:?}");
            stage.world.pass(pause);
            let report = stage.apply_until_proven(wanted);
            assert_eq!(report.verdict, Verdict::Proven);
            stage.assert_clean(wanted);
        }
    }
}

fn stage(world: World) -> Stage {
    Stage::new(world)
}

fn grown(world: World, wanted: &Wanted) -> Stage {
    let mut stage = Stage::new(world);
    let report = stage.apply(wanted).expect("granted");
    assert_eq!(report.verdict, Verdict::Proven);
    stage
}

#[test]
fn growing_by_dimms() {
    dies_everywhere(&stage(World::small()), &memory(Bytes::mib(3 * 1024 + 256)));
}

#[test]
fn shrinking_by_dimms() {
    dies_everywhere(&grown(World::small(), &memory(Bytes::gib(4))), &memory(Bytes::gib(1)));
}

#[test]
fn shrinking_by_somebody_elses_dimms() {
    let world = World::small().foreign_dimm("dimm7", 0, Bytes::gib(1)).boot_dimm("dimm8", 0, Bytes::gib(1));
    dies_everywhere(&stage(world), &memory(Bytes::gib(1)));
}

#[test]
fn where_libvirt_keeps_the_machine() {
    let world = World::small().in_libvirt();
    dies_everywhere(&stage(world.clone()), &both(Bytes::mib(2 * 1024 + 256), 2));
    dies_everywhere(&grown(world, &both(Bytes::gib(3), 3)), &both(Bytes::gib(1), 1));
}

#[test]
fn where_the_guest_must_be_told_of_its_memory() {
    let wanted = memory(Bytes::mib(2 * 1024 + 256));
    dies_everywhere(&stage(World::small().with(Mood::NeedsProbe)), &wanted);
    dies_everywhere(&stage(World::small().with_probe()), &wanted);
    dies_everywhere(&stage(World::small().in_libvirt().with(Mood::NeedsProbe)), &wanted);
}

#[test]
fn merging_dimms() {
    let world =
        World::small().slots(3).foreign_dimm("a", 0, Bytes::mib(256)).foreign_dimm("b", 0, Bytes::mib(256));
    dies_everywhere(&stage(world), &memory(Bytes::mib(1024 + 512 + 1152)));
}

#[test]
fn growing_and_shrinking_virtio_mem() {
    let world = World::small().virtio_mem("vm0", 0, Bytes::gib(8));
    dies_everywhere(&stage(world.clone()), &memory(Bytes::gib(4)));
    dies_everywhere(&grown(world, &memory(Bytes::gib(4))), &memory(Bytes::gib(2)));
}

#[test]
fn adding_and_removing_vcpus() {
    dies_everywhere(&stage(World::small()), &vcpus(3));
    dies_everywhere(&grown(World::small(), &vcpus(4)), &vcpus(2));
}

#[test]
fn changing_memory_and_vcpus_together() {
    dies_everywhere(&stage(World::small()), &both(Bytes::gib(2), 2));
    dies_everywhere(&grown(World::small(), &both(Bytes::gib(3), 3)), &both(Bytes::gib(2), 2));
}

#[test]
fn moving_the_balloon() {
    let world = World::small().balloon(true).boot_memory(Bytes::gib(4));
    let wanted = Wanted { mechanism: Some(Mechanism::Balloon), ..memory(Bytes::gib(3)) };
    dies_everywhere(&stage(world), &wanted);
}

#[test]
fn with_a_guest_that_lets_go_late() {
    let mut stage = grown(World::small(), &memory(Bytes::gib(2)));
    stage.world.put_for(Span::secs(300), Mood::EjectsLate(Span::secs(50)));
    let wanted = memory(Bytes::gib(1));
    for after in 1..=stage.boundaries(&wanted) {
        let mut stage = stage.clone();
        stage.apply_until_killed(&wanted, after);
        stage.apply_until_proven(&wanted);
        stage.assert_clean(&wanted);
    }
}

#[test]
fn killed_twice_on_one_way() {
    let start = stage(World::small());
    let wanted = both(Bytes::gib(3), 2);
    let boundaries = start.boundaries(&wanted);
    for first in (1..=boundaries).step_by(3) {
        for second in (1..=boundaries).step_by(5) {
            let mut stage = start.clone();
            stage.apply_until_killed(&wanted, first);
            stage.apply_until_killed(&wanted, second);
            stage.apply_until_proven(&wanted);
            stage.assert_clean(&wanted);
        }
    }
}

#[test]
fn another_size_may_be_asked_for_after_a_death() {
    let start = stage(World::small());
    let wanted = both(Bytes::gib(4), 3);
    for after in 1..=start.boundaries(&wanted) {
        let mut stage = start.clone();
        stage.apply_until_killed(&wanted, after);
        let other = both(Bytes::gib(1), 1);
        stage.apply_until_proven(&other);
        stage.assert_clean(&other);
    }
}

#[test]
fn a_step_after_a_death_is_not_added_twice() {
    let start = stage(World::small());
    let more = Wanted { memory: Some(Change::Grow(Bytes::gib(1))), ..Wanted::default() };
    let mut refused = 0;
    for after in 1..=start.boundaries(&more) {
        let mut stage = start.clone();
        stage.apply_until_killed(&more, after);
        if stage.journal.history().open().is_none() {
            continue;
        }
        match stage.apply(&more) {
            Err(ResizeError::StepAfterInterruption { way_out, .. }) => {
                assert_eq!(way_out, "--memory 2GiB");
                refused += 1;
            }
            other => panic!("killed at {after}: {other:?}"),
        }
        stage.apply_until_proven(&memory(Bytes::gib(2)));
    }
    assert!(refused > 5, "{refused}");
}
