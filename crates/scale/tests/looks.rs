//! When a run looks: soon after a proof may hold, seldom where it does not, and at everything once it may be over.

use scale::observed::*;
use scale::plan::*;
use scale::run::*;
use scale::sight::*;
use scale::time::{Moment, Span};
use scale::units::Bytes;

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

fn start(acts: Vec<(Act, Proof)>) -> Run {
    let seen = machine();
    let sizes = Sizes::of(&seen);
    let step = |(act, proof)| Step {
        group: 1,
        act,
        proof,
        strength: Strength::GuestConfirmed,
        deadline: Span::secs(60),
        undo: Vec::new(),
    };
    let steps = acts.into_iter().map(step).collect();
    let (basis, asked) = (Basis::of(&seen), Asked::default());
    let plan = Plan { basis, from: sizes, asked, to: sizes, steps, notes: Vec::new(), unmet: Vec::new() };
    Run::start(plan, &seen, Moment::default()).expect("the machine is as planned for")
}

fn resize() -> (Act, Proof) {
    let (id, size) = ("vm0".to_owned(), Bytes::gib(1));
    let act = Act::ResizeVirtioMem { id: id.clone(), from: Bytes::ZERO, to: size };
    (act, Proof::VirtioMemSize { id, size })
}

fn online() -> (Act, Proof) {
    let device = "vm0".to_owned();
    let act = Act::OnlineBlocks { device: device.clone(), zone: Zone::Default };
    (act, Proof::BlocksOnline { device, whole: false })
}

fn device(size: Bytes) -> Sight {
    Sight::VirtioMem(Some(VirtioMem {
        id: "vm0".into(),
        node: 0,
        addr: 1 << 32,
        size,
        requested: Bytes::gib(1),
        max: Bytes::gib(4),
        block: Bytes::mib(2),
    }))
}

/// Writes and sends up to the next look or wait.
fn until_it_waits(run: &mut Run, now: Moment) -> Next {
    loop {
        match run.next(now) {
            Next::Write(_) => run.written(now),
            Next::Send { .. } => run.replied(now, Reply::Accepted),
            next @ (Next::Look(_) | Next::Watch { .. } | Next::End(_)) => return next,
        }
    }
}

/// When a size that is reached after `span` is noticed, and by how many looks.
fn noticed(span: Span) -> (Span, u32) {
    let start_of_it = Moment::from_unix_millis(1_000_000);
    let (mut run, mut now, mut looks) = (start(vec![resize()]), start_of_it, 0);
    loop {
        match until_it_waits(&mut run, now) {
            Next::Look(_) => {
                looks += 1;
                let there = if now.since(start_of_it) >= span { Bytes::gib(1) } else { Bytes::ZERO };
                run.saw(now, Ok(&device(there)));
            }
            Next::Watch { until } => {
                now = until;
                run.heard(now, None);
            }
            Next::End(end) => {
                assert_eq!(end, End::Done);
                return (now.since(start_of_it), looks);
            }
            next @ (Next::Write(_) | Next::Send { .. }) => panic!("{next:?}"),
        }
    }
}

#[test]
fn a_proof_is_noticed_within_an_eighth_of_its_time() {
    for millis in [0, 1, 5, 20, 80, 87, 150, 300, 1000, 1999] {
        let (at, looks) = noticed(Span::millis(millis));
        assert!(at.as_millis() <= millis + millis / 8 + 5, "{millis} ms are noticed at {at}");
        assert!(looks <= 50, "{looks} looks for {millis} ms");
    }
    let (at, looks) = noticed(Span::secs(50));
    assert!(at <= Span::millis(50_250) && looks < 250, "{looks} looks until {at}");
}

#[test]
fn the_first_look_after_the_guests_last_act_is_at_everything() {
    let now = Moment::default();
    let mut run = start(vec![resize(), online()]);
    assert!(matches!(until_it_waits(&mut run, now), Next::Look(Look::VirtioMem(_))));
    assert!(!run.is_closing(), "more is to be done");
    run.saw(now, Ok(&device(Bytes::gib(1))));
    assert!(matches!(until_it_waits(&mut run, now), Next::Look(Look::Blocks(_))));
    assert!(run.is_closing());
    run.saw(now, Err("not yet"));
    assert!(!run.is_closing(), "it waits");
    run.heard(now, None);
    assert!(matches!(until_it_waits(&mut run, now), Next::Look(Look::Blocks(_))));
    assert!(!run.is_closing(), "a guest that lags is asked no more than is needed");
}

#[test]
fn what_qemu_alone_tells_is_not_looked_for_in_the_guest() {
    let mut run = start(vec![resize()]);
    assert!(matches!(until_it_waits(&mut run, Moment::default()), Next::Look(_)));
    assert!(!run.is_closing());
}
