//! In which order DIMMs come and go: additions as early as slots and ceiling allow, so that the guest has the least
//! while short of memory; and into which DIMMs what comes is divided.

use super::{Bay, Cut, Layout, Move, Shape, Stick};
use crate::plan::space::Space;
use crate::units::Bytes;

/// The moves of a cut, if there is an order in which all that comes finds a gap. `headroom` is what the ceiling allows
/// when all is done.
pub(super) fn order(bay: &Bay, cut: &Cut<'_>, headroom: Bytes) -> Option<Layout> {
    let mut adds = pieces(bay, cut, headroom);
    let mut removes = cut.going.clone();
    let mut now = Standing {
        free: bay.free,
        headroom: bay.headroom,
        above: Bytes::ZERO,
        below: Bytes::ZERO,
        space: bay.space.clone(),
    };
    let gone: Bytes = removes.iter().map(|i| bay.sticks[*i].size).sum();
    let come: Bytes = adds.iter().map(|(size, _)| *size).sum();
    // How far below the present memory the end lies.
    let allowed = gone.saturating_sub(come);
    let mut layout = Layout { moves: Vec::new(), dip: Bytes::ZERO, peak: Bytes::ZERO };
    while !adds.is_empty() || !removes.is_empty() {
        // What is to fill gaps comes largest first, or a small one would be put where a large one is to be.
        let open = if matches!(cut.shape, Shape::Gaps(_)) { adds.len().min(1) } else { adds.len() };
        if let Some(at) = adds[..open].iter().position(|(size, _)| now.takes(*size)) {
            let (size, node) = adds.remove(at);
            let addr = now.add(size);
            layout.moves.push(Move::Add { size, node, addr });
        } else {
            let surplus = now.above + allowed.saturating_sub(now.below);
            let stick = removes.remove(next_to_go(bay, &removes, surplus)?);
            layout.moves.push(Move::Remove { stick });
            now.remove(&bay.sticks[stick]);
        }
        layout.peak = layout.peak.max(now.above);
        layout.dip = layout.dip.max(now.below.saturating_sub(allowed));
    }
    Some(layout)
}

/// Where the machine stands between two moves.
struct Standing {
    free: i64,
    headroom: Bytes,
    /// How much more memory than before; one of this and `below` is zero.
    above: Bytes,
    below: Bytes,
    space: Space,
}

impl Standing {
    fn takes(&self, size: Bytes) -> bool {
        self.free > 0 && size <= self.headroom && self.space.fits(size)
    }

    fn add(&mut self, size: Bytes) -> Option<u64> {
        self.free -= 1;
        self.headroom = self.headroom - size;
        let up = self.above + size;
        (self.above, self.below) = (up.saturating_sub(self.below), self.below.saturating_sub(up));
        self.space.take(size)
    }

    fn remove(&mut self, stick: &Stick) {
        self.free += 1;
        self.headroom = self.headroom + stick.size;
        let down = self.below + stick.size;
        (self.above, self.below) = (self.above.saturating_sub(down), down.saturating_sub(self.above));
        self.space.give(stick.addr);
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
    let mut sizes = match &cut.shape {
        Shape::Usual => usual(bay, cut, headroom),
        Shape::Gaps(gaps) => fill(&cut.coming, gaps).unwrap_or_default(),
    };
    sizes.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let mut nodes = nodes_without(bay, &cut.going);
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

/// DIMMs of the usual size, on all nodes that are to be level, as far as there are slots beside those that growing by `headroom` takes.
fn usual(bay: &Bay, cut: &Cut<'_>, headroom: Bytes) -> Vec<(Bytes, Option<u32>)> {
    let mut extra = u64::try_from(cut.spare() - i64::from(bay.reserve(headroom))).unwrap_or(0);
    let usual = bay.usual.min(bay.piece);
    let pieces = |size: &Bytes| size.get().div_ceil(bay.piece.get());
    let mut sizes = Vec::new();
    for (node, coming) in &cut.coming {
        let mut shares = vec![(*node, *coming)];
        if node.is_none() {
            let even = level(&nodes_without(bay, &cut.going), *coming, bay.unit);
            let more = even.iter().map(|(_, size)| pieces(size)).sum::<u64>() - pieces(coming);
            if more <= extra {
                extra -= more;
                shares = even;
            }
        }
        for (node, coming) in shares {
            let least = pieces(&coming);
            let count = coming.get().div_ceil(usual.get()).min(least + extra);
            extra -= count - least;
            sizes.extend(divide(coming, count, usual, bay.unit).into_iter().map(|size| (size, node)));
        }
    }
    sizes
}

/// The nodes and their memory when the DIMMs in `going` are gone.
fn nodes_without(bay: &Bay, going: &[usize]) -> Vec<(u32, Bytes)> {
    let mut nodes = bay.nodes.clone();
    for stick in going.iter().map(|at| &bay.sticks[*at]) {
        if let Some((_, memory)) = nodes.iter_mut().find(|(id, _)| *id == stick.node) {
            *memory = memory.saturating_sub(stick.size);
        }
    }
    nodes
}

/// `size` shared among the nodes so that the emptiest end level, as far as whole units go.
fn level(nodes: &[(u32, Bytes)], size: Bytes, unit: Bytes) -> Vec<(Option<u32>, Bytes)> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|(id, memory)| (*memory, *id));
    // The most nodes that can be brought to one level: the fullest of them may not be above it.
    let height =
        |of: usize| (nodes[..of].iter().map(|(_, memory)| *memory).sum::<Bytes>() + size).per(of as u64);
    let of = (1..=nodes.len()).rev().find(|of| nodes[of - 1].1 <= height(*of)).unwrap_or(1);
    let mut left = size;
    let mut shares = Vec::new();
    for (still, (id, memory)) in (1..=of as u64).rev().zip(&nodes[..of]) {
        let fair =
            if still == 1 { left } else { height(of).saturating_sub(*memory).round_up(unit).min(left) };
        left = left - fair;
        shares.push((Some(*id), fair));
    }
    shares.retain(|(_, share)| !share.is_zero());
    shares
}

/// DIMMs that fill gaps from the first on; nothing where the gaps do not hold it all.
pub(super) fn fill(coming: &[(Option<u32>, Bytes)], gaps: &[Bytes]) -> Option<Vec<(Bytes, Option<u32>)>> {
    let mut gaps = gaps.iter().copied();
    let mut sizes = Vec::new();
    let mut gap = Bytes::ZERO;
    for (node, coming) in coming {
        let mut left = *coming;
        while !left.is_zero() {
            if gap.is_zero() {
                gap = gaps.next()?;
            }
            let part = left.min(gap);
            sizes.push((part, *node));
            (left, gap) = (left - part, gap - part);
        }
    }
    Some(sizes)
}

/// `size` in `count` DIMMs: of the usual size and a rest where that is the count, else even ones.
fn divide(size: Bytes, count: u64, usual: Bytes, unit: Bytes) -> Vec<Bytes> {
    let mut left = size;
    let mut parts = Vec::new();
    for still in (1..=count).rev() {
        let even = left.per(still).round_up(unit);
        let part = if usual.times(count) >= size { usual.min(left) } else { even };
        parts.push(part);
        left = left - part;
    }
    parts
}
