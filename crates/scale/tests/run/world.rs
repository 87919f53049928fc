//! A machine, plans for it, and a world that proves every act, save where a story answers otherwise.

use scale::observed::*;
use scale::plan::*;
use scale::run::*;
use scale::sight::*;
use scale::time::{Moment, Span};
use scale::units::Bytes;
use scale::wanted::Wanted;

pub(crate) fn machine() -> Observed {
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

pub(crate) fn step(group: u32, act: Act, proof: Proof, undo: Vec<Act>) -> Step {
    Step { group, act, proof, strength: Strength::GuestConfirmed, deadline: Span::secs(10), undo }
}

pub(crate) fn plan_of(steps: Vec<Step>) -> Plan {
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
pub(crate) fn grow_and_shrink() -> Plan {
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

pub(crate) fn blocks(online: bool) -> GuestView<BlocksSight> {
    let blocks = (40..48).map(|index| MemBlock { index, online }).collect();
    GuestView::Shows(BlocksSight { block: Bytes::mib(128), covers: 8, blocks })
}

pub(crate) fn dimm(id: &str) -> Dimm {
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
pub(crate) fn proving(look: &Look, act: &Act) -> Sight {
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
pub(crate) fn tell(plan: Plan, mut story: impl FnMut(&Act) -> Option<Fate>) -> (Run, Vec<Record>, Vec<Act>) {
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

pub(crate) enum Fate {
    RefusedByQemu,
    RefusedByGuest,
    Never,
    Dies,
}

pub(crate) fn busy(act: &Act) -> Event {
    let Act::UnplugDimm { id, slot, .. } = act else { panic!("{act} is not refused by the guest") };
    Event::Ost {
        slot_type: "DIMM".into(),
        slot: slot.to_string(),
        device: Some(id.clone()),
        source: 3,
        status: 0x82,
    }
}

pub(crate) fn names(acts: &[Act]) -> Vec<String> {
    acts.iter().map(ToString::to_string).collect()
}
