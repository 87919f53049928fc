//! In which order DIMMs come and go: additions as early as slots and ceiling allow, so that the guest has the least
//! while short of memory; and into which DIMMs what comes is divided.

use super::{Bay, Cut, Layout, Move};
use crate::units::Bytes;

/// The moves of a cut. `headroom` is what the ceiling allows when all is done.
pub(super) fn order(bay: &Bay, cut: &Cut<'_>, headroom: Bytes) -> Layout {
    let mut adds = pieces(bay, cut, headroom);
    let mut removes = cut.going.clone();
    let mut now = Standing { free: bay.free, headroom: bay.headroom, above: Bytes::ZERO, below: Bytes::ZERO };
    let gone: Bytes = removes.iter().map(|i| bay.sticks[*i].size).sum();
    let come: Bytes = adds.iter().map(|(size, _)| *size).sum();
    // How far below the present memory the end lies.
    let allowed = gone.saturating_sub(come);
    let mut layout = Layout { moves: Vec::new(), dip: Bytes::ZERO, peak: Bytes::ZERO };
    while !adds.is_empty() || !removes.is_empty() {
        let fits = adds.iter().position(|(size, _)| now.free > 0 && *size <= now.headroom);
        if let Some(at) = fits {
            let (size, node) = adds.remove(at);
            layout.moves.push(Move::Add { size, node });
            now.add(size);
        } else if let Some(at) = next_to_go(bay, &removes, now.above + allowed.saturating_sub(now.below)) {
            let stick = removes.remove(at);
            layout.moves.push(Move::Remove { stick });
            now.remove(bay.sticks[stick].size);
        } else {
            unreachable!("a cut has slots and headroom for all that comes");
        }
        layout.peak = layout.peak.max(now.above);
        layout.dip = layout.dip.max(now.below.saturating_sub(allowed));
    }
    layout
}

/// Where the machine stands between two moves.
struct Standing {
    free: i64,
    headroom: Bytes,
    /// How much more memory than before; one of this and `below` is zero.
    above: Bytes,
    below: Bytes,
}

impl Standing {
    fn add(&mut self, size: Bytes) {
        self.free -= 1;
        self.headroom = self.headroom - size;
        let up = self.above + size;
        (self.above, self.below) = (up.saturating_sub(self.below), self.below.saturating_sub(up));
    }

    fn remove(&mut self, size: Bytes) {
        self.free += 1;
        self.headroom = self.headroom + size;
        let down = self.below + size;
        (self.above, self.below) = (self.above.saturating_sub(down), down.saturating_sub(self.above));
    }
}

/// The first that can go without leaving less than before or asked; where none can, the smallest.
fn next_to_go(bay: &Bay, removes: &[usize], surplus: Bytes) -> Option<usize> {
    let size = |at: &usize| bay.sticks[removes[*at]].size;
    (0..removes.len()).find(|at| size(at) <= surplus).or_else(|| (0..removes.len()).min_by_key(size))
}

/// What comes, divided into DIMMs with their nodes, the largest first: DIMMs of the usual size, or fewer and larger
/// ones where the slots left are to be kept for growing by `headroom`.
fn pieces(bay: &Bay, cut: &Cut<'_>, headroom: Bytes) -> Vec<(Bytes, u32)> {
    let mut extra = u64::try_from(cut.spare() - i64::from(bay.reserve(headroom))).unwrap_or(0);
    let mut sizes: Vec<(Bytes, Option<u32>)> = Vec::new();
    for (node, coming) in &cut.coming {
        let least = coming.get().div_ceil(bay.piece.get());
        let usual = coming.get().div_ceil(bay.usual.min(bay.piece).get());
        let count = usual.min(least + extra);
        extra -= count - least;
        sizes.extend(divide(*coming, count, bay).into_iter().map(|size| (size, *node)));
    }
    sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let mut nodes = bay.nodes.clone();
    for stick in &cut.going {
        let stick = &bay.sticks[*stick];
        if let Some((_, memory)) = nodes.iter_mut().find(|(id, _)| *id == stick.node) {
            *memory = memory.saturating_sub(stick.size);
        }
    }
    let mut placed = Vec::with_capacity(sizes.len());
    for (size, wish) in sizes {
        let node = match wish {
            Some(node) => node,
            None => {
                let emptiest = nodes.iter_mut().min_by_key(|(id, memory)| (*memory, *id));
                let (id, memory) = emptiest.expect("a bay has nodes");
                *memory = *memory + size;
                *id
            }
        };
        placed.push((size, node));
    }
    placed
}

/// `size` in `count` DIMMs: of the usual size and a rest where that is the count, else even ones.
fn divide(size: Bytes, count: u64, bay: &Bay) -> Vec<Bytes> {
    let usual = bay.usual.min(bay.piece);
    let mut left = size;
    let mut parts = Vec::new();
    for still in (1..=count).rev() {
        let even = left.per(still).round_up(bay.unit);
        let part = if usual.times(count) >= size { usual.min(left) } else { even };
        parts.push(part);
        left = left - part;
    }
    parts
}
