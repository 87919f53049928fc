//! The run as a machine of its own: whatever it is told, it writes before it sends, and it ends.

#![allow(clippy::wildcard_enum_match_arm, reason = "a story names the acts that it is about")]

mod any;
mod world;

use scale::history::History;
use scale::observed::*;
use scale::plan::*;
use scale::report::{Account, Verdict};
use scale::run::*;
use scale::sight::*;
use scale::time::{Moment, Span};
use scale::units::Bytes;
use world::*;

#[test]
fn what_a_driver_told_before_the_run_is_not_what_the_guest_shows_after_it() {
    let began = Moment::from_unix_millis(100_900);
    let reported = |told_ms| {
        let mut seen = machine();
        let (total, available, free) = (Bytes::mib(391), Bytes::ZERO, Bytes::ZERO);
        let stats = BalloonStats { at: Moment::from_unix_millis(told_ms), total, available, free };
        seen.memory.balloon = Some(Balloon { actual: Bytes::gib(1), stats: Some(stats) });
        Account::open(began, &seen, Asked::default()).close(began + Span::secs(3), Ok(&seen)).guest.total
    };
    assert_eq!(reported(7_000), None, "told when the guest had started");
    assert_eq!(reported(100_000), None, "told in the second in which the run began, maybe before it");
    assert_eq!(reported(101_000), Some(Bytes::mib(391)));
}

#[test]
fn what_can_never_be_shown_any_more_is_not_waited_for() {
    let mut plan = grow_and_shrink();
    let device = "supple-dimm0".to_owned();
    plan.steps[2].act = Act::OnlineBlocks { device: device.clone(), zone: Zone::Movable };
    plan.steps[2].proof = Proof::BlocksMovable { device: device.clone(), whole: true };
    let now = Moment::default();
    let mut run = Run::start(plan, &machine(), now).unwrap();
    let mut looks = 0;
    let end = loop {
        match run.next(now) {
            Next::Write(_) => run.written(now),
            Next::Send { .. } => run.replied(now, Reply::Accepted),
            Next::Look(Look::Zones(_)) => {
                looks += 1;
                let GuestView::Shows(shown) = blocks(true) else { unreachable!("they are shown") };
                let zones =
                    (40..48).map(|n| (n, if n == 43 { "Normal" } else { "Movable" }.to_owned())).collect();
                run.saw(now, Ok(&Sight::Zones(Some(GuestView::Shows(ZonesSight { shown, zones })))));
            }
            Next::Look(look) => {
                let sight = match look {
                    Look::Dimm(id) => {
                        Sight::Dimm(Some(DimmSight { device: dimm(&id), guest: blocks(false) }))
                    }
                    Look::Backend(_) => Sight::Backend(looks == 0),
                    Look::DimmDevice(_) => Sight::Dimm(None),
                    other => Sight::Blocks(Some(blocks(matches!(other, Look::Zones(_))))),
                };
                run.saw(now, Ok(&sight));
            }
            Next::Watch { .. } => run.heard(now, None),
            Next::End(end) => break end,
        }
    };
    assert_eq!(looks, 1, "no time has passed, and none was waited for");
    let End::Broken { step: 2, why, left_behind, .. } = end else { panic!("{end:?}") };
    assert!(why.contains("memory43 is online in the zone Normal") && left_behind.is_empty(), "{why}");
}

/// Plugs a DIMM where the plan counts on this much, into a guest that cannot be asked, and returns what the step came to.
fn plugged(strength: Strength, acknowledged: bool) -> (Option<Outcome>, Span) {
    let mut plan = grow_and_shrink();
    plan.steps.truncate(2);
    plan.steps[1].strength = strength;
    let mut now = Moment::default();
    let mut run = Run::start(plan, &machine(), now).unwrap();
    for _ in 0..1_000 {
        match run.next(now) {
            Next::Write(Record::Concluded { place: Place { step: 1, undo: None }, outcome, .. }) => {
                return (Some(outcome), now.since(Moment::default()));
            }
            Next::Write(_) => run.written(now),
            Next::Send { .. } => run.replied(now, Reply::Accepted),
            Next::Look(Look::DimmDevice(id)) => {
                let guest = GuestView::Unasked("it shows no blocks".into());
                run.saw(now, Ok(&Sight::Dimm(Some(DimmSight { device: dimm(&id), guest }))));
            }
            Next::Look(_) => run.saw(now, Ok(&Sight::Backend(true))),
            Next::Watch { until } => {
                now = until;
                let ost = Event::Ost {
                    slot_type: "DIMM".into(),
                    slot: "0".into(),
                    device: Some("supple-dimm0".into()),
                    source: 1,
                    status: 0,
                };
                run.heard(now, acknowledged.then_some(&ost));
            }
            Next::End(_) => break,
        }
    }
    (None, now.since(Moment::default()))
}

#[test]
fn an_acknowledgement_that_comes_is_worth_more_than_qemus_word() {
    for strength in [Strength::DeviceOnly, Strength::DriverConfirmed] {
        let (outcome, took) = plugged(strength, true);
        let Some(Outcome::Proven { strength: reached, .. }) = outcome else { panic!("{outcome:?}") };
        assert!(reached == Strength::DriverConfirmed && took < Span::secs(10), "{reached} after {took}");
    }
}

#[test]
fn qemus_word_counts_when_time_is_up_only_where_the_plan_counts_on_no_more() {
    let (outcome, took) = plugged(Strength::DeviceOnly, false);
    let Some(Outcome::Proven { strength: Strength::DeviceOnly, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(took >= Span::secs(10), "the guest is given its time: {took}");
    let (outcome, _) = plugged(Strength::DriverConfirmed, false);
    assert!(matches!(outcome, Some(Outcome::Overdue { .. })), "{outcome:?}");
}

#[test]
fn a_run_that_is_proven_throughout_is_done() {
    let (run, _, sent) = tell(grow_and_shrink(), |_| None);
    assert_eq!(run.end(), Some(&End::Done));
    assert_eq!(sent.len(), 6);
    assert!(run.outcomes().iter().all(|o| matches!(o, Some(Outcome::Proven { .. }))));
}

#[test]
fn what_was_proven_throughout_is_no_failure_where_the_machine_is_out_of_sight() {
    let reported = |story: fn(&Act) -> Option<Fate>| {
        let (run, ..) = tell(grow_and_shrink(), story);
        let now = Moment::default();
        let mut account = Account::open(now, &machine(), Asked::default());
        account.add(&run);
        account.close(now, Err("it was migrated".into()))
    };
    let whole = reported(|_| None);
    assert!(whole.verdict == Verdict::Partial && whole.achieved.is_none(), "{whole:?}");
    assert!(whole.held_back.iter().any(|why| why.contains("it was migrated")), "{whole:?}");
    let dead = reported(|act| matches!(act, Act::OfflineBlocks { .. }).then_some(Fate::Dies));
    assert_eq!(dead.verdict, Verdict::Failed);
}

#[test]
fn a_group_that_breaks_is_taken_back_in_reverse() {
    let (run, _, sent) = tell(grow_and_shrink(), |act| match act {
        Act::OnlineBlocks { device, .. } if device == "supple-dimm0" => Some(Fate::Never),
        _ => None,
    });
    assert!(
        matches!(run.end(), Some(End::Broken { step: 2, pending: false, left_behind, .. }) if left_behind.is_empty())
    );
    assert_eq!(
        names(&sent[3..]),
        [
            "take the blocks of supple-dimm0 offline",
            "unplug DIMM supple-dimm0",
            "give host memory supple-mem0 back"
        ]
    );
}

#[test]
fn what_was_refused_to_be_made_is_somebody_elses_and_not_taken_back() {
    let refused = |act: &Act| matches!(act, Act::PlugDimm { .. }).then_some(Fate::RefusedByQemu);
    let (run, _, sent) = tell(grow_and_shrink(), refused);
    assert!(matches!(run.end(), Some(End::Broken { step: 1, .. })));
    assert_eq!(
        names(&sent[2..]),
        ["give host memory supple-mem0 back"],
        "its own backend goes, no DIMM does"
    );
    let (run, _, sent) = tell(grow_and_shrink(), |act| {
        matches!(act, Act::CreateBackend { .. }).then_some(Fate::RefusedByQemu)
    });
    assert!(matches!(run.end(), Some(End::Broken { step: 0, .. })));
    assert_eq!(sent.len(), 1, "{:?}", names(&sent));
}

#[test]
fn a_group_that_is_whole_is_kept() {
    let (run, _, sent) = tell(grow_and_shrink(), |act| {
        matches!(act, Act::OfflineBlocks { .. }).then_some(Fate::RefusedByQemu)
    });
    assert!(matches!(run.end(), Some(End::Broken { step: 3, .. })));
    assert!(!names(&sent).iter().any(|act| act == "unplug DIMM supple-dimm0"), "the grown DIMM stays");
    assert_eq!(names(&sent[4..]), ["online the blocks of dimm9"]);
}

#[test]
fn a_refused_removal_brings_its_blocks_back() {
    let (run, records, sent) =
        tell(grow_and_shrink(), |act| matches!(act, Act::UnplugDimm { .. }).then_some(Fate::RefusedByGuest));
    let Some(End::Broken { why, pending: false, .. }) = run.end() else { panic!("{:?}", run.end()) };
    assert!(why.contains("busy") && why.contains("0x82"), "{why}");
    assert_eq!(names(&sent).last().unwrap(), "online the blocks of dimm9");
    assert!(History::of(&records).pending().is_empty(), "a refusal is an end");
}

#[test]
fn an_overdue_removal_stays_pending_and_is_not_undone() {
    let (run, records, sent) =
        tell(grow_and_shrink(), |act| matches!(act, Act::UnplugDimm { .. }).then_some(Fate::Never));
    assert!(matches!(run.end(), Some(End::Broken { pending: true, .. })));
    assert_eq!(names(&sent).last().unwrap(), "unplug DIMM dimm9", "nothing is sent after it");
    let pending = History::of(&records).pending().to_vec();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].device, PendingDevice::Dimm { id: "dimm9".into(), memdev: "mem9".into() });
}

#[test]
fn an_undo_that_breaks_names_what_it_leaves() {
    let (run, _, sent) = tell(grow_and_shrink(), |act| match act {
        Act::OnlineBlocks { .. } | Act::OfflineBlocks { .. } => Some(Fate::RefusedByQemu),
        _ => None,
    });
    let Some(End::Broken { left_behind, .. }) = run.end() else { panic!("{:?}", run.end()) };
    assert_eq!(left_behind.len(), 1);
    assert!(left_behind[0].contains("offline"), "{left_behind:?}");
    assert!(
        !names(&sent).iter().any(|a| a.starts_with("unplug")),
        "a DIMM with online blocks is not unplugged"
    );
}

#[test]
fn a_machine_that_dies_ends_the_run_at_once() {
    let (run, _, sent) =
        tell(grow_and_shrink(), |act| matches!(act, Act::PlugDimm { .. }).then_some(Fate::Dies));
    assert!(matches!(run.end(), Some(End::Lost { step: 1, .. })));
    assert_eq!(sent.len(), 2, "nothing is sent to a dead machine");
}

#[test]
fn a_stale_plan_does_not_start() {
    let mut changed = machine();
    changed.memory.dimms.push(dimm("someone-elses"));
    assert_eq!(Run::start(grow_and_shrink(), &changed, Moment::default()).unwrap_err(), Stale);
}

#[test]
fn a_late_removal_is_settled_by_what_the_machine_shows() {
    let (_, records, _) =
        tell(grow_and_shrink(), |act| matches!(act, Act::UnplugDimm { .. }).then_some(Fate::Never));
    let history = History::of(&records);
    let mut seen = machine();
    assert_eq!(history.settled(&seen).len(), 1, "gone from QEMU is done");

    seen.memory.dimms.push(dimm("dimm9"));
    assert!(history.settled(&seen).is_empty(), "still listed, nothing said: still pending");

    seen.memory.dimms[0].ost = Some(Ost { source: 3, status: 0x82 });
    assert!(history.settled(&seen).is_empty(), "the last word may be an older one while the guest is silent");

    seen.guest = Guest::Heard(Box::default());
    assert_eq!(history.settled(&seen).len(), 1, "a guest that answers has refused");
}

#[test]
fn a_controller_that_dies_at_any_record_forgets_no_removal() {
    let (_, records, _) = tell(grow_and_shrink(), |_| None);
    for cut in 0..=records.len() {
        let history = History::of(&records[..cut]);
        let sent =
            records[..cut].iter().any(|r| matches!(r, Record::Sending { place: Place { step: 4, .. }, .. }));
        let over = records[..cut]
            .iter()
            .any(|r| matches!(r, Record::Concluded { place: Place { step: 4, .. }, .. }));
        assert_eq!(history.pending().len(), usize::from(sent && !over), "cut after {cut} records");
        let ended = cut == 0 || matches!(records[cut - 1], Record::Ended { .. });
        assert_eq!(history.open().is_none(), ended, "cut after {cut} records");
    }
}
