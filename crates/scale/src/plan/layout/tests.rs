//! The layout against exhaustive search on small bays, and its promises over random histories.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

/// One unit in these tests.
const UNIT: Bytes = Bytes::mib(128);

/// A DIMM of the naive model: node, size in units, whether it may go.
type Naive = (u32, u64, bool);

#[derive(Debug, Clone)]
struct Case {
    /// In units.
    room: u64,
    slots: usize,
    largest: u64,
    dimms: Vec<Naive>,
}

fn bay(case: &Case) -> Bay {
    let used: u64 = case.dimms.iter().map(|d| d.1).sum();
    let free = i64::try_from(case.slots - case.dimms.len()).expect("few slots");
    let largest = UNIT.times(case.largest);
    let sticks = (0..)
        .zip(&case.dimms)
        .map(|(rank, (node, size, may_go))| Stick {
            size: UNIT.times(*size),
            node: *node,
            addr: 0,
            may_go: *may_go,
            rank,
        })
        .collect();
    let on = |node| UNIT.times(case.dimms.iter().filter(|d| d.0 == node).map(|d| d.1).sum());
    let slots = u32::try_from(case.slots).expect("few slots");
    Bay {
        sticks,
        nodes: vec![(0, on(0)), (1, on(1))],
        free,
        headroom: UNIT.times(case.room - used),
        unit: UNIT,
        largest,
        piece: largest,
        usual: usual_size(UNIT.times(case.room), slots, UNIT, largest),
        space: Space::new(Vec::new(), None, UNIT, UNIT),
        may_dip: Bytes::new(u64::MAX),
    }
}

/// Carries a layout out, with every bound checked at every moment.
fn carry_out(case: &Case, layout: &Layout) -> Vec<Naive> {
    let mut dimms: Vec<Option<Naive>> = case.dimms.iter().copied().map(Some).collect();
    for change in &layout.moves {
        match change {
            Move::Add { size, node, .. } => {
                assert!(size.is_multiple_of(UNIT) && !size.is_zero(), "{size} is no DIMM");
                assert!(size.count_of(UNIT) <= case.largest, "{size} is too large");
                dimms.push(Some((*node, size.count_of(UNIT), true)));
            }
            Move::Remove { stick } => {
                let gone = dimms[*stick].take().expect("removed once");
                assert!(gone.2, "removed what stays");
            }
        }
        assert!(dimms.iter().flatten().count() <= case.slots, "more DIMMs than slots");
        assert!(dimms.iter().flatten().map(|d| d.1).sum::<u64>() <= case.room, "above the ceiling");
    }
    dimms.into_iter().flatten().collect()
}

fn total(dimms: &[Naive]) -> u64 {
    dimms.iter().map(|d| d.1).sum()
}

fn on_node(dimms: &[Naive], node: u32) -> u64 {
    dimms.iter().filter(|d| d.0 == node).map(|d| d.1).sum()
}

/// Every layout that any sequence of additions and removals comes to.
fn reachable(case: &Case, nodes: u32) -> BTreeSet<Vec<Naive>> {
    let mut start = case.dimms.clone();
    start.sort_unstable();
    let mut seen = BTreeSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    while let Some(dimms) = queue.pop_front() {
        let mut next = Vec::new();
        for at in (0..dimms.len()).filter(|at| dimms[*at].2) {
            let mut fewer = dimms.clone();
            fewer.remove(at);
            next.push(fewer);
        }
        if dimms.len() < case.slots {
            for size in 1..=case.largest.min(case.room - total(&dimms)) {
                for node in 0..nodes {
                    let mut more = dimms.clone();
                    more.push((node, size, true));
                    more.sort_unstable();
                    next.push(more);
                }
            }
        }
        for dimms in next {
            if seen.insert(dimms.clone()) {
                queue.push_back(dimms);
            }
        }
    }
    seen
}

fn go(bay: &Bay, from: u64, to: u64, node: Option<u32>) -> Result<Layout, NoLayout> {
    if to >= from { bay.grow(UNIT.times(to - from), node) } else { bay.shrink(UNIT.times(from - to), node) }
}

fn cases(room: u64, slots: usize, nodes: u32) -> impl Strategy<Value = Case> {
    (1..=room, 1..=slots, 1..=room).prop_flat_map(move |(room, slots, largest)| {
        let dimm = (0..nodes, 1..=room, prop::bool::weighted(0.8));
        prop::collection::vec(dimm, 0..=slots).prop_map(move |mut dimms| {
            // What does not fit the room is left out.
            let mut used = 0;
            dimms.retain(|d| {
                let fits = used + d.1 <= room;
                used += if fits { d.1 } else { 0 };
                fits
            });
            Case { room, slots, largest, dimms }
        })
    })
}

/// A DIMM of the naive model with addresses: begin and size in units, whether it may go.
type Placed = (u64, u64, bool);

fn collides(dimms: &[Placed], at: u64, size: u64) -> bool {
    dimms.iter().any(|(start, len, _)| at < start + len && *start < at + size)
}

/// Every total that any sequence of additions, anywhere in a region of `region` units, and removals comes to.
fn placeable(start: &[Placed], slots: usize, room: u64, region: u64) -> BTreeSet<u64> {
    let sum = |dimms: &[Placed]| dimms.iter().map(|d| d.1).sum::<u64>();
    let mut start = start.to_vec();
    start.sort_unstable();
    let mut seen = BTreeSet::from([start.clone()]);
    let mut queue = VecDeque::from([start]);
    while let Some(dimms) = queue.pop_front() {
        let mut next = Vec::new();
        for at in (0..dimms.len()).filter(|at| dimms[*at].2) {
            let mut fewer = dimms.clone();
            fewer.remove(at);
            next.push(fewer);
        }
        for size in (1..=room - sum(&dimms)).filter(|_| dimms.len() < slots) {
            for at in (0..=region - size).filter(|at| !collides(&dimms, *at, size)) {
                let mut more = dimms.clone();
                more.push((at, size, true));
                more.sort_unstable();
                next.push(more);
            }
        }
        queue.extend(next.into_iter().filter(|dimms| seen.insert(dimms.clone())));
    }
    seen.iter().map(|dimms| sum(dimms)).collect()
}

fn placed_cases() -> impl Strategy<Value = (Vec<Placed>, usize, u64, u64)> {
    let dimm = (0u64..9, 1u64..6, prop::bool::weighted(0.8));
    (prop::collection::vec(dimm, 0..4), 1usize..4, 1u64..8, 0u64..3).prop_map(
        |(wishes, slots, room, slack)| {
            let mut dimms: Vec<Placed> = Vec::new();
            for (at, size, may_go) in wishes {
                let fits = dimms.len() < slots && dimms.iter().map(|d| d.1).sum::<u64>() + size <= room;
                if fits && at + size <= room + slack && !collides(&dimms, at, size) {
                    dimms.push((at, size, may_go));
                }
            }
            (dimms, slots, room, room + slack)
        },
    )
}

fn placed_bay(dimms: &[Placed], slots: usize, room: u64, region: u64) -> Bay {
    let at = |units: u64| UNIT.get() * (32 + units);
    let case = Case { room, slots, largest: room, dimms: dimms.iter().map(|d| (0, d.1, d.2)).collect() };
    let mut bay = bay(&case);
    for (stick, dimm) in bay.sticks.iter_mut().zip(dimms) {
        stick.addr = at(dimm.0);
    }
    let taken = dimms.iter().map(|d| at(d.0)..at(d.0 + d.1)).collect();
    bay.space = Space::new(taken, Some(at(0)..at(region)), UNIT, UNIT);
    bay
}

/// Carries a layout out where QEMU would place each DIMM, and gives the total.
fn place_out(dimms: &[Placed], slots: usize, region: u64, layout: &Layout) -> u64 {
    let mut now: Vec<Option<Placed>> = dimms.iter().copied().map(Some).collect();
    for change in &layout.moves {
        match change {
            Move::Add { size, addr, .. } => {
                assert_eq!(*addr, None, "all devices lie well");
                let there: Vec<Placed> = now.iter().flatten().copied().collect();
                let size = size.count_of(UNIT);
                let fits = (0..=region - size).find(|at| !collides(&there, *at, size));
                now.push(Some((fits.expect("QEMU finds a gap"), size, true)));
                assert!(there.len() < slots, "more DIMMs than slots");
            }
            Move::Remove { stick } => assert!(now[*stick].take().is_some_and(|gone| gone.2)),
        }
    }
    now.iter().flatten().map(|d| d.1).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn what_any_layout_reaches_is_reached(case in cases(12, 4, 1)) {
        let from = total(&case.dimms);
        let totals: BTreeSet<u64> = reachable(&case, 1).iter().map(|d| total(d)).collect();
        for to in 0..=case.room {
            match go(&bay(&case), from, to, None) {
                Ok(layout) => {
                    let dimms = carry_out(&case, &layout);
                    prop_assert_eq!(total(&dimms), to, "{:?}", layout);
                }
                Err(none) => prop_assert!(!totals.contains(&to), "{} of {:?}: {:?}", to, totals, none),
            }
        }
    }

    #[test]
    fn what_any_placing_reaches_is_reached((dimms, slots, room, region) in placed_cases()) {
        let from = dimms.iter().map(|d| d.1).sum::<u64>();
        let totals = placeable(&dimms, slots, room, region);
        for to in 0..=room {
            match go(&placed_bay(&dimms, slots, room, region), from, to, None) {
                Ok(layout) => prop_assert_eq!(place_out(&dimms, slots, region, &layout), to, "{:?}", layout),
                Err(none) => prop_assert!(!totals.contains(&to), "{} of {:?}: {:?}", to, totals, none),
            }
        }
    }

    #[test]
    fn the_named_node_changes_and_no_other(case in cases(6, 3, 2)) {
        let (on_0, on_1) = (on_node(&case.dimms, 0), on_node(&case.dimms, 1));
        let reach: BTreeSet<u64> = reachable(&case, 2)
            .iter()
            .filter(|d| on_node(d, 0) == on_0)
            .map(|d| on_node(d, 1))
            .collect();
        for to in 0..=case.room - on_0 {
            match go(&bay(&case), on_1, to, Some(1)) {
                Ok(layout) => {
                    let dimms = carry_out(&case, &layout);
                    prop_assert_eq!((on_node(&dimms, 0), on_node(&dimms, 1)), (on_0, to), "{:?}", layout);
                }
                Err(none) => prop_assert!(!reach.contains(&to), "{} of {:?}: {:?}", to, reach, none),
            }
        }
    }

    #[test]
    fn the_maximum_stays_reachable_by_adding_alone(
        room in 1u64..200,
        largest in 1u64..80,
        more in 0usize..20,
        wishes in prop::collection::vec((0u64..200, prop::option::weighted(0.3, 0u32..2)), 1..40),
    ) {
        // One slot more than the maximum takes for one pool, and one more for each further named node.
        let slots = usize::try_from(room.div_ceil(largest)).expect("small") + 2 + more;
        let mut case = Case { room, slots, largest, dimms: Vec::new() };
        for (wish, node) in wishes {
            let (from, to) = match node {
                None => (total(&case.dimms), wish % (room + 1)),
                Some(n) => (on_node(&case.dimms, n), wish % (room + 1 - on_node(&case.dimms, 1 - n))),
            };
            let layout = go(&bay(&case), from, to, node);
            let layout = layout.unwrap_or_else(|none| panic!("{from} to {to} on {node:?} of {case:?}: {none:?}"));
            case.dimms = carry_out(&case, &layout);
            let now = match node {
                None => total(&case.dimms),
                Some(n) => on_node(&case.dimms, n),
            };
            prop_assert_eq!(now, to);
            let free = (case.slots - case.dimms.len()) as u64;
            let headroom = room - total(&case.dimms);
            prop_assert!(free * largest >= headroom, "{} slots left for {} of {:?}", free, headroom, case);
        }
    }

    #[test]
    fn memory_dips_only_where_nothing_can_come_first(case in cases(12, 4, 1)) {
        let from = total(&case.dimms);
        for to in 0..=case.room {
            let Ok(layout) = go(&bay(&case), from, to, None) else { continue };
            let (mut now, mut least, mut most) = (from, from, from);
            for change in &layout.moves {
                match change {
                    Move::Add { size, .. } => now += size.count_of(UNIT),
                    Move::Remove { stick } => now -= case.dimms[*stick].1,
                }
                least = least.min(now);
                most = most.max(now);
            }
            prop_assert_eq!(layout.dip, UNIT.times(from.min(to).saturating_sub(least)));
            prop_assert_eq!(layout.peak, UNIT.times(most - from));
            let adds: Vec<u64> = layout.moves.iter().map(|m| m.added().count_of(UNIT)).filter(|s| *s > 0).collect();
            let come_first = adds.len() <= case.slots - case.dimms.len() && adds.iter().sum::<u64>() <= case.room - from;
            prop_assert!(layout.dip.is_zero() || !come_first, "a dip without need: {:?}", layout);
        }
    }

    #[test]
    fn a_subset_is_the_least_that_suffices(
        sizes in prop::collection::vec(1u64..20, 0..9),
        target in 1u64..120,
        unit in prop::sample::select(vec![1u64, 2, 4]),
    ) {
        let bytes: Vec<Bytes> = sizes.iter().map(|s| UNIT.times(*s)).collect();
        let picked = subset::pick(&bytes, UNIT.times(target), UNIT.times(unit));
        let sum_of = |mask: usize| -> u64 {
            (0..sizes.len()).filter(|at| mask >> at & 1 == 1).map(|at| sizes[at]).sum()
        };
        let best = (0..1usize << sizes.len())
            .map(sum_of)
            .filter(|sum| *sum >= target && (sum - target).is_multiple_of(unit))
            .min();
        let sum = picked.map(|picked| picked.into_iter().map(|at| sizes[at]).sum::<u64>());
        prop_assert_eq!(sum, best);
    }
}

#[test]
fn many_small_sizes_are_picked_from_without_a_table() {
    let sizes: Vec<Bytes> = (0..256).map(|n| Bytes::mib(2 + 2 * (n % 7)).times(1 << 16)).collect();
    let target = Bytes::mib(2).times(100_001);
    let picked = subset::pick(&sizes, target, Bytes::mib(2)).expect("there is enough");
    let sum: Bytes = picked.iter().map(|nth| sizes[*nth]).sum();
    assert!(sum >= target && sum - target < Bytes::mib(14).times(1 << 16), "{sum} for {target}");
}

#[test]
fn a_large_growth_comes_in_dimms_of_the_usual_size() {
    let case = Case { room: 256, slots: 16, largest: 256, dimms: Vec::new() };
    let layout = bay(&case).grow(UNIT.times(96), Some(0)).expect("it fits");
    let sizes: Vec<u64> = carry_out(&case, &layout).iter().map(|d| d.1).collect();
    assert_eq!(sizes, [32, 32, 32]);
}

#[test]
fn new_memory_goes_to_the_node_with_the_least() {
    let case = Case { room: 64, slots: 8, largest: 64, dimms: vec![(0, 4, true)] };
    let layout = bay(&case).grow(UNIT.times(2), None).expect("it fits");
    assert_eq!(layout.moves, [Move::Add { size: UNIT.times(2), node: 1, addr: None }]);
}

#[test]
fn nodes_are_brought_level_where_slots_allow() {
    let case = Case { room: 64, slots: 8, largest: 64, dimms: vec![(0, 4, true)] };
    let sizes = |slots| {
        let layout = bay(&Case { slots, ..case.clone() }).grow(UNIT.times(12), None).expect("it fits");
        let mut nodes = [4, 0];
        for dimm in &carry_out(&Case { slots, ..case.clone() }, &layout)[1..] {
            nodes[dimm.0 as usize] += dimm.1;
        }
        nodes
    };
    assert_eq!(sizes(8), [8, 8]);
    assert_eq!(sizes(3), [4, 12], "the last slot is worth more than balance");
}

#[test]
fn the_last_slot_is_kept_and_small_dimms_are_merged_instead() {
    let dimms = vec![(0, 1, true), (0, 2, true), (0, 3, true)];
    let case = Case { room: 64, slots: 4, largest: 64, dimms };
    let layout = bay(&case).grow(UNIT.times(4), None).expect("it fits");
    let mut sizes: Vec<u64> = carry_out(&case, &layout).iter().map(|d| d.1).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 3, 5]);
    assert!(matches!(layout.moves[0], Move::Add { .. }), "{layout:?}");
    assert!(layout.dip.is_zero());
}

#[test]
fn a_shrink_takes_an_exact_set_where_there_is_one() {
    let dimms = vec![(0, 5, true), (0, 3, true), (0, 4, true)];
    let case = Case { room: 64, slots: 8, largest: 64, dimms };
    let layout = bay(&case).shrink(UNIT.times(7), None).expect("there is enough");
    let mut gone: Vec<u64> = layout
        .moves
        .iter()
        .map(|m| match m {
            Move::Remove { stick } => case.dimms[*stick].1,
            Move::Add { .. } => panic!("nothing is to be added: {layout:?}"),
        })
        .collect();
    gone.sort_unstable();
    assert_eq!(gone, [3, 4]);
}

#[test]
fn foreign_dimms_above_the_largest_are_divided_where_that_takes_no_more_slots() {
    let case = Case { room: 12, slots: 3, largest: 1, dimms: vec![(0, 6, true), (0, 3, true), (0, 3, true)] };
    let layout = bay(&case).shrink(UNIT.times(4), None).expect("the two small ones go, two units come back");
    assert_eq!(total(&carry_out(&case, &layout)), 8);
}
