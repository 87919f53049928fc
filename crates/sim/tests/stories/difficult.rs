//! One difficult guest each: what is reported, what is left, and that a willing guest makes it good.

use crate::harness::{Stage, both, memory, vcpus};
use drive::Hypervisor;
use drive::journal::Journal;
use drive::resize::ResizeError;
use scale::plan::Act;
use scale::report::{Report, Verdict};
use scale::time::{Moment, Span};
use scale::units::Bytes;
use scale::wanted::Wanted;
use sim::{Faults, Lie, Mood, Pinned, World, finish};

fn with_gib(count: u64) -> Stage {
    let mut stage = Stage::new(World::small());
    for gib in 2..=count {
        stage.apply(&memory(Bytes::gib(gib))).expect("granted");
    }
    stage
}

fn achieved(report: &Report) -> Bytes {
    report.achieved.expect("QEMU is there").memory
}

#[track_caller]
fn held_back(stage: &mut Stage, wanted: &Wanted, verdict: Verdict) -> Report {
    let report = stage.apply(wanted).unwrap_or_else(|e| panic!("{e}\n{}", stage.past()));
    assert_eq!(report.verdict, verdict, "{report:#?}\n{}", stage.past());
    assert!(!report.held_back.is_empty(), "{report:#?}");
    stage.assert_recorded();
    report
}

#[track_caller]
fn made_good(mut stage: Stage, wanted: &Wanted) {
    stage.world.heal();
    stage.world.pass(Span::secs(150));
    stage.apply_until_proven(wanted);
    stage.assert_clean(wanted);
}

#[test]
fn a_guest_that_refuses_keeps_all_it_has() {
    let mut stage = with_gib(3);
    stage.world.put(Mood::Refuses(Pinned::All));
    let wanted = memory(Bytes::gib(1));
    let report = held_back(&mut stage, &wanted, Verdict::Failed);
    assert_eq!(achieved(&report), Bytes::gib(3));
    assert_eq!(report.guest.online, Some(Bytes::gib(3)), "what was taken offline on the way is back");
    made_good(stage, &wanted);
}

#[test]
fn a_guest_that_is_busy_for_a_moment_is_given_that_moment() {
    let mut stage = with_gib(2);
    stage.world.put_for(Span::secs(2), Mood::Refuses(Pinned::All));
    let wanted = memory(Bytes::gib(1));
    let report = stage.apply(&wanted).expect("granted");
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    stage.assert_clean(&wanted);
}

#[test]
fn a_guest_that_keeps_one_dimm_gives_up_another() {
    let stage = with_gib(3);
    let dimms: Vec<String> = stage.world.dimms().iter().map(|id| (*id).to_owned()).collect();
    assert!(dimms.len() > 1, "{dimms:?}");
    for kept in &dimms {
        let mut stage = stage.clone();
        stage.world.put(Mood::Refuses(Pinned::In(vec![kept.clone()])));
        let wanted = memory(Bytes::gib(2));
        let report = stage.apply(&wanted).expect("granted");
        assert_eq!(achieved(&report), Bytes::gib(2), "{report:#?}\n{}", stage.past());
        assert!(stage.world.dimms().contains(&kept.as_str()));
        made_good(stage, &wanted);
    }
}

#[test]
fn a_guest_that_keeps_the_first_dimm_gives_up_all_others() {
    let stage = with_gib(4);
    let dimms: Vec<String> = stage.world.dimms().iter().map(|id| (*id).to_owned()).collect();
    assert!(dimms.len() > 2, "{dimms:?}");
    for kept in &dimms {
        let mut stage = stage.clone();
        stage.world.put(Mood::Refuses(Pinned::In(vec![kept.clone()])));
        let wanted = memory(Bytes::gib(1));
        let report = held_back(&mut stage, &wanted, Verdict::Partial);
        assert_eq!(stage.world.dimms(), [kept.as_str()], "{report:#?}\n{}", stage.past());
        made_good(stage, &wanted);
    }
}

#[test]
fn a_silent_agent_costs_time_and_nothing_else() {
    let mut stage = with_gib(1);
    stage.world.put(Mood::Stalls(Span::secs(3)));
    let wanted = memory(Bytes::gib(2));
    let report = stage.apply(&wanted).expect("granted");
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    made_good(stage, &wanted);
}

#[test]
fn an_agent_that_falls_silent_in_the_middle_leaves_nothing_half_done() {
    for at in [1, 20, 45, 60, 80] {
        let mut stage = with_gib(2);
        let wanted = memory(Bytes::gib(4));
        let before = stage.world.clone();
        stage.world.put(Mood::Stalls(Span::secs(400)));
        stage.world = before;
        stage.world.pass(Span::millis(at));
        stage.world.put(Mood::Stalls(Span::secs(400)));
        let _ = stage.apply(&wanted);
        stage.assert_recorded();
        stage.world.pass(Span::secs(500));
        made_good(stage, &wanted);
    }
}

#[test]
fn a_lying_agent_is_found_out() {
    let mut stage = with_gib(2);
    stage.world.put(Mood::Lies(Lie::Done));
    let grown = memory(Bytes::gib(3));
    let report = held_back(&mut stage, &grown, Verdict::Failed);
    assert_eq!(achieved(&report), Bytes::gib(2), "{report:#?}\n{}", stage.past());
    let shrunk = memory(Bytes::gib(1));
    held_back(&mut stage, &shrunk, Verdict::Failed);
    made_good(stage, &shrunk);
}

#[test]
fn a_machine_that_vanishes_is_reported_lost() {
    for after in [5, 60, 90] {
        let mut stage = with_gib(1);
        stage.world.put(Mood::Vanishes(Span::millis(after)));
        match stage.apply(&memory(Bytes::gib(4))) {
            Ok(report) => assert_ne!(report.verdict, Verdict::Proven, "{report:#?}"),
            Err(ResizeError::Observe(error)) => assert!(error.to_string().contains("QEMU was killed")),
            Err(other) => panic!("{other}"),
        }
        assert!(stage.journal.history().open().is_none(), "{}", stage.past());
    }
}

#[test]
fn a_late_removal_is_pending_and_finished_later() {
    let mut stage = with_gib(2);
    stage.world.put(Mood::EjectsLate(Span::secs(100)));
    let wanted = memory(Bytes::gib(1));
    let report = held_back(&mut stage, &wanted, Verdict::Failed);
    assert_eq!(report.pending.len(), 1, "{report:#?}");
    assert_eq!(stage.observe().pending.len(), 1);
    stage.world.pass(Span::secs(200));
    assert!(stage.observe().pending.is_empty(), "gone is gone");
    stage.apply_until_proven(&wanted);
    stage.assert_clean(&wanted);
}

#[test]
fn a_removal_that_nobody_hears_is_never_forgotten() {
    let mut stage = with_gib(3);
    stage.world.put(Mood::NoAcpi);
    let wanted = memory(Bytes::gib(2));
    let report = held_back(&mut stage, &wanted, Verdict::Failed);
    assert_eq!(report.pending.len(), 1);
    stage.world.pass(Span::secs(100_000));
    assert_eq!(stage.observe().pending.len(), 1);
    // To grow now would fire the stale removal.
    let refusal = stage.apply(&memory(Bytes::gib(4))).expect_err("pending").to_string();
    assert!(refusal.contains("removal"), "{refusal}");
    made_good(stage, &wanted);
}

#[test]
fn an_old_refusal_is_no_answer_to_a_new_request() {
    for wanted in [memory(Bytes::gib(1)), vcpus(1)] {
        let mut stage = with_gib(2);
        stage.apply(&vcpus(2)).expect("granted");
        // With the blocks offline only the ejection itself is refused, and QEMU keeps that word of the slot.
        stage.world.put(Mood::Refuses(Pinned::All));
        let dimm = stage.world.dimms()[0].to_owned();
        let unplug = Act::UnplugDimm { id: dimm, memdev: String::new(), slot: 0 };
        finish(async { stage.world.connect().apply(&unplug, Moment::default()).await })
            .expect("done")
            .expect("taken");
        stage.apply(&vcpus(1)).expect("granted");
        stage.world.pass(Span::secs(5));
        stage.world.heal();
        stage.world.put(Mood::NoAcpi);
        let report = held_back(&mut stage, &wanted, Verdict::Failed);
        assert_eq!(report.pending.len(), 1, "{report:#?}");
        stage.world.pass(Span::secs(50));
        assert_eq!(stage.observe().pending.len(), 1, "the guest has not heard of it yet\n{}", stage.past());
        stage.world.heal();
        stage.world.put(Mood::Refuses(Pinned::All));
        let again = stage.apply(&wanted).expect("granted");
        assert!(again.pending.is_empty(), "now it has answered: {again:#?}\n{}", stage.past());
        made_good(stage, &wanted);
    }
}

#[test]
fn a_refusal_of_somebody_elses_request_does_not_end_ours() {
    let mut stage = with_gib(1);
    stage.apply(&vcpus(2)).expect("granted");
    stage.world.put_for(Span::millis(50), Mood::Refuses(Pinned::All));
    let theirs = Act::UnplugVcpu { id: "supple-vcpu0".into() };
    finish(async { stage.world.connect().apply(&theirs, Moment::default()).await })
        .expect("done")
        .expect("taken");
    // The guest's no to them comes while our DIMM is plugged; by the time of our own request it is willing.
    let wanted = both(Bytes::gib(2), 1);
    let report = stage.apply(&wanted).expect("granted");
    assert!(
        stage.world.log().any(|line| line.contains("status: 130")),
        "they were refused\n{}",
        stage.past()
    );
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    stage.assert_clean(&wanted);
}

#[test]
fn what_the_monitor_refuses_may_still_be_asked_of_the_guest() {
    let mut stage = with_gib(2);
    stage.world.put(Mood::NoAcpi);
    let wanted = memory(Bytes::gib(1));
    let report = held_back(&mut stage, &wanted, Verdict::Failed);
    assert_eq!(report.pending.len(), 1);
    stage.world = stage.world.clone().with_faults(1, Faults { refused: 1000, ..Faults::default() });
    let report = held_back(&mut stage, &wanted, Verdict::Failed);
    assert_eq!(report.pending.len(), 1, "{report:#?}\n{}", stage.past());
    made_good(stage, &wanted);
}

#[test]
fn a_dimm_that_never_appears_is_taken_back() {
    let mut stage = with_gib(1);
    stage.world.put(Mood::OutOfMetadata);
    let wanted = memory(Bytes::gib(2));
    let report = held_back(&mut stage, &wanted, Verdict::Failed);
    assert_eq!(achieved(&report), Bytes::gib(1), "{}", stage.past());
    assert!(stage.world.dimms().is_empty() && stage.world.spare_backends().is_empty());
    made_good(stage, &wanted);
}

#[test]
fn a_guest_without_agent_is_not_asked_to_shrink() {
    let mut stage = with_gib(2);
    stage.world.put(Mood::NoAgent);
    let refusal = stage.apply(&memory(Bytes::gib(1))).expect_err("nobody empties it").to_string();
    assert!(refusal.contains("agent"), "{refusal}");
    made_good(stage, &memory(Bytes::gib(1)));
}

#[test]
fn a_restart_in_the_middle_is_survived() {
    for after in [5, 50, 90, 130] {
        for size in [1, 4] {
            let mut stage = with_gib(2);
            stage.world.put(Mood::Reboots(Span::millis(after)));
            let wanted = memory(Bytes::gib(size));
            let _ = stage.apply(&wanted);
            stage.assert_recorded();
            made_good(stage, &wanted);
        }
    }
}

#[test]
fn virtio_mem_shrinks_in_part_with_a_reason() {
    let world = World::small().virtio_mem("vm0", 0, Bytes::gib(4)).with(Mood::OnlinesItself(Span::millis(0)));
    let mut stage = Stage::new(world);
    stage.apply(&memory(Bytes::gib(3))).expect("granted");
    stage.world.put(Mood::Refuses(Pinned::All));
    let wanted = memory(Bytes::gib(1));
    let report = held_back(&mut stage, &wanted, Verdict::Partial);
    assert_eq!(achieved(&report), Bytes::gib(2), "{}", stage.past());
    let device = &stage.observe().memory.virtio_mem[0];
    assert_eq!(device.requested, device.size, "it is settled at what the guest holds");
    made_good(stage, &wanted);
}

#[test]
fn a_guest_that_keeps_its_vcpus_says_so() {
    let mut stage = Stage::new(World::small());
    stage.apply(&vcpus(4)).expect("granted");
    stage.world.put(Mood::Refuses(Pinned::All));
    let report = held_back(&mut stage, &vcpus(2), Verdict::Failed);
    assert!(report.held_back.iter().any(|why| why.contains("busy")), "{report:#?}");
    assert!(report.pending.is_empty());
    made_good(stage, &vcpus(2));
}
