//! Room for a DIMM where no gap holds it: neighbours are taken out and put back closer together.

use super::{Bay, Cut, Shape};
use crate::units::Bytes;

/// Runs of neighbours that are tried at most.
const TRIED: usize = 32;

/// The cut with more sticks taken out, such as stand side by side and leave a gap in which they and all that comes
/// have room; those with the fewest bytes to move first. All that can be taken out is the last of them.
pub(super) fn moved<'a>(bay: &'a Bay, cut: &Cut<'a>) -> Vec<Cut<'a>> {
    let mut standing: Vec<usize> = (0..bay.sticks.len()).collect();
    standing.sort_by_key(|i| bay.sticks[*i].addr);
    let may_go = |i: &usize| {
        let stick = &bay.sticks[*i];
        stick.may_go && stick.size.is_multiple_of(bay.unit) && stick.size <= bay.piece
    };
    let comes: Bytes = cut.coming.iter().map(|(_, size)| *size).sum();
    let mut runs: Vec<(Bytes, &[usize])> = Vec::new();
    for from in 0..standing.len() {
        let mut moved = Bytes::ZERO;
        for to in from..standing.len() {
            if !may_go(&standing[to]) {
                break;
            }
            moved = moved + bay.sticks[standing[to]].size;
            let run = &standing[from..=to];
            let (first, last) = (bay.sticks[run[0]].addr, bay.sticks[standing[to]].addr);
            let gap = bay.space.gap_without(first, last);
            if gap.is_some_and(|(gap, devices)| devices == run.len() && gap >= moved + comes) {
                runs.push((moved, run));
                // A longer run from here moves more for the same end.
                break;
            }
        }
    }
    runs.sort_by_key(|(moved, _)| *moved);
    let all: Vec<usize> = standing.iter().filter(|i| may_go(i)).copied().collect();
    let tried = runs.iter().map(|(_, run)| *run).take(TRIED).chain([all.as_slice()]);
    tried.flat_map(|run| both_shapes(bay, cut, run)).filter(|cut| cut.spare() >= 0).collect()
}

fn both_shapes<'a>(bay: &'a Bay, cut: &Cut<'a>, run: &[usize]) -> Vec<Cut<'a>> {
    let mut usual = cut.clone();
    let mut space = bay.space.clone();
    for stick in run {
        usual.redo(*stick);
        space.give(bay.sticks[*stick].addr);
    }
    let filling = space.gaps().map(|gaps| Cut { shape: Shape::filling(gaps, bay), ..usual.clone() });
    [Some(usual), filling].into_iter().flatten().collect()
}
