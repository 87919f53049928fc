//! Kernels with `probe`: those that need to be told of plugged memory, and those that find it by themselves.

use crate::harness::{Stage, both, memory};
use drive::journal::Journal;
use scale::plan::Strength;
use scale::report::{Report, Verdict};
use scale::time::Span;
use scale::units::Bytes;
use sim::{Mood, World};

fn told(stage: &Stage) -> usize {
    stage.world.log().filter(|line| line.contains("told of memory block")).count()
}

fn granted(stage: &mut Stage, size: Bytes) -> Report {
    stage.apply(&memory(size)).unwrap_or_else(|e| panic!("{e}\n{}", stage.past()))
}

#[test]
fn a_kernel_that_needs_probe_is_told_block_by_block_and_proven() {
    let mut stage = Stage::new(World::small().with(Mood::NeedsProbe));
    let wanted = both(Bytes::mib(3 * 1024 + 256), 2);
    let report = stage.apply(&wanted).expect("granted");
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    assert_eq!(report.strength, Some(Strength::GuestConfirmed));
    assert_eq!(told(&stage), 18);
    stage.assert_clean(&wanted);
    assert_eq!(
        granted(&mut stage, Bytes::mib(3 * 1024 + 256)).steps.len(),
        0,
        "asked again, nothing is done"
    );
}

#[test]
fn a_kernel_with_a_rule_that_onlines_is_told_as_well() {
    let world = World::small().with(Mood::NeedsProbe).with(Mood::OnlinesItself(Span::millis(20)));
    let mut stage = Stage::new(world);
    let wanted = memory(Bytes::gib(2));
    assert_eq!(granted(&mut stage, Bytes::gib(2)).verdict, Verdict::Proven, "{}", stage.past());
    stage.assert_clean(&wanted);
}

#[test]
fn a_kernel_that_finds_memory_by_itself_is_told_nothing() {
    let mut stage = Stage::new(World::small().with_probe());
    for size in [4, 2, 3, 1] {
        let wanted = memory(Bytes::gib(size));
        assert_eq!(granted(&mut stage, Bytes::gib(size)).verdict, Verdict::Proven, "{}", stage.past());
        stage.assert_clean(&wanted);
    }
    assert_eq!(told(&stage), 0, "{}", stage.past());
}

#[test]
fn a_dimm_that_somebody_else_plugged_is_made_known() {
    let mut stage = Stage::new(World::small().with(Mood::NeedsProbe));
    stage.plug_by_hand("dimm7", 7);
    // One block is known already: it is left as it is.
    stage.world.write_probe(4 << 30).expect("taken");
    let report = granted(&mut stage, Bytes::gib(2));
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    assert_eq!(told(&stage), 8, "{}", stage.past());
    stage.assert_clean(&memory(Bytes::gib(2)));
}

#[test]
fn a_kernel_that_takes_no_address_is_reported_with_its_reason() {
    let mut stage = Stage::new(World::small().with(Mood::NeedsProbe).with(Mood::OutOfMetadata));
    let report = granted(&mut stage, Bytes::gib(2));
    assert_eq!(report.verdict, Verdict::Partial, "{report:#?}\n{}", stage.past());
    assert_eq!(report.guest.online, Some(Bytes::gib(1)));
    assert!(report.held_back.iter().any(|why| why.contains("Cannot allocate memory")), "{report:#?}");
    // It cannot be taken back either: such a kernel never hears of a removal. That is on record.
    assert_eq!(report.pending.len(), 1, "{report:#?}");
    assert!(!report.left_behind.is_empty(), "{report:#?}");
    stage.assert_recorded();
    stage.world.heal();
    stage.world.pass(Span::secs(150));
    stage.apply_until_proven(&memory(Bytes::gib(2)));
    stage.assert_clean(&memory(Bytes::gib(2)));
}

#[test]
fn what_such_a_kernel_was_given_stays_asked_back() {
    let mut stage = Stage::new(World::small().with(Mood::NeedsProbe));
    assert_eq!(granted(&mut stage, Bytes::gib(2)).verdict, Verdict::Proven);
    let report = granted(&mut stage, Bytes::gib(1));
    assert_eq!((report.verdict, report.pending.len()), (Verdict::Failed, 1), "{report:#?}");
    assert_eq!(stage.journal.history().pending().len(), 1);
}
