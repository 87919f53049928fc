//! Zones of new memory: what was asked for by name is had or refused, what Supple chose may be replaced and is remarked
//! on, and what a refused shrink took offline comes back where it was.

use crate::harness::{Stage, memory};
use drive::Hypervisor;
use drive::journal::Journal;
use scale::report::{Report, Verdict};
use scale::sight::{GuestView, Look, Sight};
use scale::time::Span;
use scale::units::Bytes;
use scale::wanted::{Wanted, ZoneWish};
use sim::{Mood, Pinned, World, finish};
use std::collections::BTreeSet;

fn in_zone(gib: u64, zone: ZoneWish) -> Wanted {
    Wanted { zone, ..memory(Bytes::gib(gib)) }
}

fn granted(stage: &mut Stage, wanted: &Wanted) -> Report {
    stage.apply(wanted).unwrap_or_else(|e| panic!("{e}\n{}", stage.past()))
}

/// The zones of all DIMMs' blocks.
fn zones(stage: &mut Stage) -> BTreeSet<String> {
    let dimms: Vec<String> = stage.world.dimms().iter().map(|id| (*id).to_owned()).collect();
    let mut zones = BTreeSet::new();
    for id in dimms {
        let sight = finish(async { stage.world.connect().look(&Look::Zones(id)).await });
        let sight = sight.expect("links do not wait").expect("QEMU is there");
        let Sight::Zones(Some(GuestView::Shows(sight))) = sight else { panic!("{sight:?}") };
        assert_eq!(sight.zones.len() as u64, sight.shown.covers, "all are online");
        zones.extend(sight.zones.into_values());
    }
    zones
}

fn only(zone: &str) -> BTreeSet<String> {
    BTreeSet::from([zone.to_owned()])
}

#[test]
fn movable_by_name_is_proven_movable() {
    let mut stage = Stage::new(World::small());
    let wanted = in_zone(3, ZoneWish::Movable);
    assert_eq!(granted(&mut stage, &wanted).verdict, Verdict::Proven, "{}", stage.past());
    assert_eq!(zones(&mut stage), only("Movable"));
    stage.assert_clean(&wanted);
}

#[test]
fn movable_by_name_is_refused_where_the_kernel_does_not_take_it() {
    let mut stage = Stage::new(World::small().with(Mood::NotMovable));
    let report = granted(&mut stage, &in_zone(2, ZoneWish::Movable));
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}\n{}", stage.past());
    assert!(report.held_back[0].contains("movable only: "), "{report:#?}");
    assert!(report.held_back[0].contains("Invalid argument"), "{report:#?}");
    assert!(stage.world.dimms().is_empty() && stage.world.spare_backends().is_empty());
    stage.assert_recorded();
}

#[test]
fn movable_by_name_is_refused_where_the_guest_was_quicker() {
    let mut stage = Stage::new(World::small().with(Mood::OnlinesItself(Span::millis(1))));
    let report = granted(&mut stage, &in_zone(2, ZoneWish::Movable));
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}\n{}", stage.past());
    assert!(report.held_back[0].contains("online in the zone Normal"), "{report:#?}");
    assert!(stage.world.dimms().is_empty(), "{}", stage.past());
}

#[test]
fn what_was_chosen_may_be_replaced_and_is_remarked_on() {
    let mut stage = Stage::new(World::small().with(Mood::NotMovable));
    let wanted = in_zone(2, ZoneWish::Auto);
    let report = granted(&mut stage, &wanted);
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}\n{}", stage.past());
    assert!(report.held_back.iter().any(|note| note.contains("not in Movable")), "{report:#?}");
    assert_eq!(stage.journal.history().report().map(|r| &r.held_back), Some(&report.held_back));
    assert_eq!(zones(&mut stage), only("Normal"));
    let willing = granted(&mut Stage::new(World::small()), &wanted);
    assert_eq!(willing.held_back, Vec::<String>::new());
}

#[test]
fn a_remark_outlives_the_controller_that_would_have_reported_it() {
    let wanted = in_zone(2, ZoneWish::Auto);
    let fresh = Stage::new(World::small().with(Mood::NotMovable));
    let boundaries = fresh.boundaries(&wanted);
    let (mut remarked, mut reported) = (0, 0);
    for after in 1..=boundaries {
        let mut stage = fresh.clone();
        assert!(stage.apply_until_killed(&wanted, after).is_none());
        if stage.journal.history().remarks().is_empty() {
            continue;
        }
        remarked += 1;
        let report = stage.apply_until_proven(&wanted);
        reported += u32::from(report.held_back.iter().any(|note| note.contains("not in Movable")));
        assert!(stage.journal.history().remarks().is_empty(), "it is reported once");
    }
    assert!(remarked > 3 && remarked == reported, "{reported} of {remarked} were reported");
}

#[test]
fn a_dimm_that_is_kept_comes_back_in_the_zone_that_it_had() {
    for (wish, zone) in [(ZoneWish::Kernel, "Normal"), (ZoneWish::Movable, "Movable")] {
        let mut stage = Stage::new(World::small());
        granted(&mut stage, &in_zone(2, wish));
        stage.world.put(Mood::Refuses(Pinned::All));
        let report = granted(&mut stage, &memory(Bytes::gib(1)));
        assert_eq!((report.verdict, report.guest.online), (Verdict::Failed, Some(Bytes::gib(2))));
        assert_eq!(zones(&mut stage), only(zone), "{}", stage.past());
    }
}

#[test]
fn a_dimm_that_was_left_offline_is_movable_by_name_or_refused() {
    let mut stage = Stage::new(World::small());
    stage.plug_by_hand("dimm7", 7);
    stage.world.put(Mood::NotMovable);
    let report = granted(&mut stage, &in_zone(2, ZoneWish::Movable));
    assert_ne!(report.verdict, Verdict::Proven, "{report:#?}");
    stage.world.heal();
    assert_eq!(granted(&mut stage, &in_zone(2, ZoneWish::Movable)).verdict, Verdict::Proven);
    assert_eq!(zones(&mut stage), only("Movable"));
}
