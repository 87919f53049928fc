//! The run as a machine of its own: whatever it is told, it writes before it sends, and it ends.

#![allow(clippy::wildcard_enum_match_arm, reason = "a story names the acts that it is about")]

use proptest::prelude::*;
use scale::history::History;
use scale::observed::*;
use scale::plan::*;
use scale::run::*;
use scale::sight::*;
use scale::time::{Moment, Span};
use scale::units::Bytes;
use scale::wanted::Wanted;

fn machine() -> Observed {
    Observed {
        at: Moment::default(),
        machine: Machine { state: "running".into(), ..Machine::default() },
        memory: Memory { boot: Bytes::gib(1), ceiling: Bytes::gib(8), slots: 8, ..Memory::default() },
        vcpus: Vcpus::default(),
        power: Known::default(),
        disks: Known::default(),
        nics: Known::default(),
        guest: Guest::Unheard("nobody asked".into()),
        host: Host::default(),
        pending: Vec::new(),
    }
}

fn step(group: u32, act: Act, proof: Proof, undo: Vec<Act>) -> Step {
    Step { group, act, proof, strength: Strength::GuestConfirmed, deadline: Span::secs(10), undo }
}

fn plan_of(steps: Vec<Step>) -> Plan {
    let seen = machine();
    let sizes = Sizes::of(&seen);
    Plan {
        basis: Basis::of(&seen),
        from: sizes,
        asked: Asked::default(),
        to: sizes,
        steps,
        notes: Vec::new(),
        unmet: Vec::new(),
    }
}

/// Group 1 plugs a DIMM, group 2 removes another.
fn grow_and_shrink() -> Plan {
    let (id, memdev) = ("supple-dimm0".to_owned(), "supple-mem0".to_owned());
    let (old, old_mem) = ("dimm9".to_owned(), "mem9".to_owned());
    let unplug = Act::UnplugDimm { id: id.clone(), memdev: memdev.clone(), slot: 0 };
    let online = Act::OnlineBlocks { device: old.clone(), zone: Zone::Default };
    plan_of(vec![
        step(
            1,
            Act::CreateBackend {
                memdev: memdev.clone(),
                size: Bytes::gib(1),
                backing: Backing::Ram,
                placement: Default::default(),
            },
            Proof::BackendExists { memdev: memdev.clone() },
            vec![Act::DeleteBackend { memdev: memdev.clone() }],
        ),
        step(
            1,
            Act::PlugDimm { id: id.clone(), memdev, brings: None, slot: 0, node: 0, addr: None },
            Proof::DimmSeen { id: id.clone() },
            vec![unplug],
        ),
        step(
            1,
            Act::OnlineBlocks { device: id.clone(), zone: Zone::Default },
            Proof::BlocksOnline { device: id.clone(), whole: true },
            vec![Act::OfflineBlocks { device: id }],
        ),
        step(
            2,
            Act::OfflineBlocks { device: old.clone() },
            Proof::BlocksOffline { device: old.clone() },
            vec![online],
        ),
        step(
            2,
            Act::UnplugDimm { id: old.clone(), memdev: old_mem.clone(), slot: 9 },
            Proof::DimmGone { id: old },
            vec![],
        ),
        step(
            2,
            Act::DeleteBackend { memdev: old_mem.clone() },
            Proof::BackendGone { memdev: old_mem },
            vec![],
        ),
    ])
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

fn blocks(online: bool) -> GuestView<BlocksSight> {
    let blocks = (40..48).map(|index| MemBlock { index, online }).collect();
    GuestView::Shows(BlocksSight { block: Bytes::mib(128), covers: 8, blocks })
}

fn dimm(id: &str) -> Dimm {
    Dimm {
        id: id.into(),
        memdev: "m".into(),
        kind: DimmKind::Dimm,
        slot: 0,
        node: 0,
        addr: 40 << 27,
        size: Bytes::gib(1),
        hotplugged: true,
        ost: None,
    }
}

/// The sight that makes a proof hold.
fn proving(look: &Look, act: &Act) -> Sight {
    match look {
        Look::Backend(_) => Sight::Backend(matches!(act, Act::CreateBackend { .. })),
        Look::Dimm(id) => Sight::Dimm(Some(DimmSight { device: dimm(id), guest: blocks(false) })),
        Look::DimmDevice(_) => Sight::Dimm(None),
        Look::Blocks(_) => Sight::Blocks(Some(blocks(matches!(act, Act::OnlineBlocks { .. })))),
        other => panic!("no such look in this plan: {other:?}"),
    }
}

/// Runs a plan against a world that proves every act, save where `story` answers otherwise. Returns the run, its
/// records and the acts in the order of their sending.
fn tell(plan: Plan, mut story: impl FnMut(&Act) -> Option<Fate>) -> (Run, Vec<Record>, Vec<Act>) {
    let began =
        Record::Began { at: Moment::default(), wanted: Wanted::default(), plan: Box::new(plan.clone()) };
    let mut records = vec![began];
    let mut sent = Vec::new();
    let mut now = Moment::default();
    let mut run = Run::start(plan, &machine(), now).unwrap();
    let mut fate = None;
    for _ in 0..10_000 {
        match run.next(now) {
            Next::Write(record) => {
                records.push(record);
                run.written(now);
            }
            Next::Send { act, .. } => {
                fate = story(&act);
                let reply = match &fate {
                    Some(Fate::RefusedByQemu) => Reply::Refused("no".into()),
                    Some(Fate::RefusedByGuest | Fate::Never | Fate::Dies) | None => Reply::Accepted,
                };
                sent.push(act);
                run.replied(now, reply);
            }
            Next::Look(look) => {
                let act = sent.last().expect("a look follows an act");
                let sight = proving(&look, act);
                run.saw(now, if fate.is_some() { Err("nothing to see") } else { Ok(&sight) });
            }
            Next::Watch { until } => {
                let act = sent.last().expect("a watch follows an act");
                let event = match &fate {
                    Some(Fate::RefusedByGuest) => Some(busy(act)),
                    Some(Fate::Dies) => Some(Event::Gone { why: "SIGKILL".into() }),
                    Some(Fate::RefusedByQemu | Fate::Never) | None => None,
                };
                now = until;
                run.heard(now, event.as_ref());
            }
            Next::End(end) => {
                records.push(Record::Ended { at: now, end });
                return (run, records, sent);
            }
        }
    }
    panic!("the run does not end");
}

enum Fate {
    RefusedByQemu,
    RefusedByGuest,
    Never,
    Dies,
}

fn busy(act: &Act) -> Event {
    let Act::UnplugDimm { id, slot, .. } = act else { panic!("{act} is not refused by the guest") };
    Event::Ost {
        slot_type: "DIMM".into(),
        slot: slot.to_string(),
        device: Some(id.clone()),
        source: 3,
        status: 0x82,
    }
}

fn names(acts: &[Act]) -> Vec<String> {
    acts.iter().map(ToString::to_string).collect()
}

#[test]
fn a_run_that_is_proven_throughout_is_done() {
    let (run, _, sent) = tell(grow_and_shrink(), |_| None);
    assert_eq!(run.end(), Some(&End::Done));
    assert_eq!(sent.len(), 6);
    assert!(run.outcomes().iter().all(|o| matches!(o, Some(Outcome::Proven { .. }))));
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

#[derive(Debug, Clone)]
enum Fact {
    Reply(u8),
    Sight(u8),
    Event(u8),
    Late(u64),
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let fact = prop_oneof![
        (0u8..3).prop_map(Fact::Reply),
        (0u8..6).prop_map(Fact::Sight),
        (0u8..6).prop_map(Fact::Event),
        (0u64..20_000).prop_map(Fact::Late),
    ];
    prop::collection::vec(fact, 1..80)
}

fn some_sight(kind: u8) -> Result<Sight, &'static str> {
    Ok(match kind {
        0 => Sight::Backend(true),
        1 => Sight::Backend(false),
        2 => Sight::Dimm(None),
        3 => Sight::Blocks(Some(blocks(true))),
        4 => Sight::Blocks(Some(blocks(false))),
        _ => return Err("no answer"),
    })
}

fn some_event(kind: u8) -> Option<Event> {
    Some(match kind {
        0 => Event::SizeChanged,
        1 => Event::Other { name: "X".into() },
        2 => busy(&Act::UnplugDimm { id: "dimm9".into(), memdev: String::new(), slot: 9 }),
        3 => Event::DeviceDeleted { id: "dimm9".into() },
        4 => Event::GuestReset,
        _ => return None,
    })
}

proptest! {
    #[test]
    fn any_facts_in_any_order_end_the_run_and_nothing_is_sent_unwritten(facts in facts()) {
        let mut run = Run::start(grow_and_shrink(), &machine(), Moment::default()).unwrap();
        let mut now = Moment::default();
        let mut written: Option<Place> = None;
        let mut turns = 0;
        let mut facts = facts.into_iter().cycle();
        while run.end().is_none() {
            turns += 1;
            prop_assert!(turns < 20_000, "the run does not end");
            // Facts come round and round; time passes meanwhile, as it does.
            now = now + Span::millis(7);
            let fact = facts.next().unwrap();
            if let Fact::Late(by) = fact {
                now = now + Span::millis(by);
            }
            match (run.next(now), fact) {
                (Next::Write(record), _) => {
                    if let Record::Sending { place, .. } = record {
                        written = Some(place);
                    }
                    run.written(now);
                }
                (Next::Send { act, .. }, fact) => {
                    let place = written.take().expect("an act that was not written first");
                    prop_assert_eq!(place.act(run.plan()), Some(&act));
                    run.replied(now, match fact {
                        Fact::Reply(0) => Reply::Refused("no".into()),
                        Fact::Reply(1) => Reply::Unknown("no answer".into()),
                        Fact::Reply(_) | Fact::Sight(_) | Fact::Event(_) | Fact::Late(_) => Reply::Accepted,
                    });
                }
                (Next::Look(_), Fact::Sight(kind)) => {
                    let sight = some_sight(kind);
                    run.saw(now, sight.as_ref().map_err(|e| *e));
                }
                (Next::Look(_), _) => run.saw(now, Err("nothing")),
                (Next::Watch { .. }, Fact::Event(kind)) => run.heard(now, some_event(kind).as_ref()),
                (Next::Watch { until }, _) => {
                    now = now.max(until);
                    run.heard(now, None);
                }
                (Next::End(_), _) => {}
            }
        }
    }
}
