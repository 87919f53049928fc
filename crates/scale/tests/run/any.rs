//! A run that is told anything in any order.

use crate::world::{blocks, busy, grow_and_shrink, machine};
use proptest::prelude::*;
use scale::plan::*;
use scale::run::*;
use scale::sight::*;
use scale::time::{Moment, Span};

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
