//! Which DIMMs to add and which to take away: pure arithmetic over sizes, slots and nodes.
//!
//! It knows nothing of ids, guests or QEMU. What it keeps to, tested in `layout/tests.rs` against exhaustive search:
//!
//! 1. **Reach.** Every multiple of the unit that any sequence of additions and removals could reach from where the
//!    machine stands is reached.
//! 2. **Thrift.** An addition takes the slots that DIMMs of the usual size take, and fewer when slots run out: then
//!    small DIMMs are merged into larger ones.
//! 3. **The maximum stays.** As long as the machine has one slot more than the maximum needs, each layout leaves as
//!    many slots free as growing to the maximum takes, so the maximum is reached by adding alone after any history.
//!    (Where the address space has no gap for such a DIMM, neighbours are taken out and put back closer.)
//! 4. **Bounds.** Slots, ceiling, addresses and largest DIMM hold at every moment, not only at the end.
//! 5. **Small enough.** A DIMM that the guest cannot empty stays whole, so DIMMs have a usual size, of which a full
//!    machine takes half of its slots, or [`MANY`].
//! 6. **Never less.** Additions come first. At no moment is there less memory than the lesser of before and asked,
//!    unless slots, ceiling or addresses leave no other way; [`Layout::dip`] tells.

mod apart;
mod order;
mod subset;
#[cfg(test)]
mod tests;

use super::space::Space;
use crate::units::Bytes;

/// With more DIMMs than this a machine gains little removability and loses vhost regions and time.
pub(super) const MANY: u64 = 32;

/// Where the DIMMs stand, and what bounds another layout of them.
#[derive(Debug, Clone)]
pub(super) struct Bay {
    /// The DIMMs.
    pub(super) sticks: Vec<Stick>,
    /// Id and memory of each node, DIMMs included. Never empty.
    pub(super) nodes: Vec<(u32, Bytes)>,
    /// Slots that can be filled now; below zero where more are filled than should be (vhost's regions).
    pub(super) free: i64,
    /// What the ceiling still allows.
    pub(super) headroom: Bytes,
    /// The size step of a new DIMM. Not zero.
    pub(super) unit: Bytes,
    /// The largest DIMM that there may ever be; a multiple of the unit, not zero.
    pub(super) largest: Bytes,
    /// The largest DIMM that can be added now; a multiple of the unit, not zero, not above `largest`.
    pub(super) piece: Bytes,
    /// The usual size of a DIMM; a multiple of the unit, not zero.
    pub(super) usual: Bytes,
    /// The addresses that are taken.
    pub(super) space: Space,
    /// How far the memory may fall for a while below the lesser of before and asked.
    pub(super) may_dip: Bytes,
}

/// A DIMM.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stick {
    pub(super) size: Bytes,
    pub(super) node: u32,
    pub(super) addr: u64,
    /// Whether it can be taken away at all.
    pub(super) may_go: bool,
    /// Those with the lowest rank go first.
    pub(super) rank: u32,
}

/// One change of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Add {
        size: Bytes,
        node: u32,
        /// Where QEMU has to be told.
        addr: Option<u64>,
    },
    /// An index into the bay's sticks.
    Remove { stick: usize },
}

impl Move {
    /// The size of the DIMM that is added, if this adds one.
    pub(super) fn added(&self) -> Bytes {
        match self {
            Move::Add { size, .. } => *size,
            Move::Remove { .. } => Bytes::ZERO,
        }
    }
}

/// A way to the size asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) moves: Vec<Move>,
    /// How far the memory falls at most below the lesser of before and asked.
    pub(super) dip: Bytes,
    /// How far the memory rises at most above what it is before.
    pub(super) peak: Bytes,
}

/// Why there is no way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoLayout {
    /// The change is no whole number of units, and no DIMMs make up for it.
    Misfit,
    /// Not enough slots, even by merging what can be taken away.
    Slots,
    /// No gap in the address space is large enough, even by moving what can be taken away.
    Gaps,
    /// More is to go than can be taken away: only this much.
    Stays { removable: Bytes },
}

/// The usual DIMM size: the smallest doubling of the unit of which the whole room takes half of the slots at most.
pub(super) fn usual_size(room: Bytes, slots: u32, unit: Bytes, largest: Bytes) -> Bytes {
    let most = (u64::from(slots) / 2).clamp(1, MANY);
    let mut size = unit;
    while size < largest && room.get().div_ceil(size.get()) > most {
        size = size.times(2);
    }
    size.min(largest)
}

impl Bay {
    /// Adds `by`, to `node` where one is named, else to the nodes with the least memory.
    pub(super) fn grow(&self, by: Bytes, node: Option<u32>) -> Result<Layout, NoLayout> {
        if !by.is_multiple_of(self.unit) {
            return Err(NoLayout::Misfit);
        }
        let headroom = self.headroom.saturating_sub(by);
        let cut = Cut::new(self, Vec::new(), by, node);
        let cuts = self.ways(&cut, self.reserve(headroom));
        let fits = !cuts.is_empty();
        self.best(cuts, headroom).or_else(|| self.best(apart::moved(self, &cut), headroom)).ok_or(if fits {
            NoLayout::Gaps
        } else {
            NoLayout::Slots
        })
    }

    /// Takes `by` away, from `node` where one is named, else from the nodes with the most memory.
    pub(super) fn shrink(&self, by: Bytes, node: Option<u32>) -> Result<Layout, NoLayout> {
        let candidates = self.going(node);
        let removable: Bytes = candidates.iter().map(|i| self.sticks[*i].size).sum();
        if removable < by {
            return Err(NoLayout::Stays { removable });
        }
        let sizes: Vec<Bytes> = candidates.iter().map(|i| self.sticks[*i].size).collect();
        let picked = subset::pick(&sizes, by, self.unit).ok_or(NoLayout::Misfit)?;
        let picked: Vec<usize> = picked.into_iter().map(|nth| candidates[nth]).collect();
        let sum: Bytes = picked.iter().map(|i| self.sticks[*i].size).sum();
        let headroom = self.headroom + by;
        let mut cuts = self.ways(&Cut::new(self, picked, sum - by, node), self.reserve(headroom));
        cuts.extend(self.clear(&candidates, by, node).filter(|_| cuts.is_empty()));
        let fits = !cuts.is_empty();
        self.best(cuts, headroom).ok_or(if fits { NoLayout::Gaps } else { NoLayout::Slots })
    }

    /// A cut completed by merging: with the slots kept that growing to the maximum takes, then without; each in DIMMs
    /// of the usual size, then in such as fill the present gaps.
    fn ways<'a>(&'a self, cut: &Cut<'a>, reserve: u32) -> Vec<Cut<'a>> {
        let filling = self.space.gaps().map(|gaps| Cut { shape: Shape::filling(gaps, self), ..cut.clone() });
        let reserves = if reserve == 0 { vec![0] } else { vec![reserve, 0] };
        reserves
            .into_iter()
            .flat_map(|spare| {
                [Some(cut), filling.as_ref()].into_iter().flatten().map(move |cut| (cut, spare))
            })
            .filter_map(|(cut, spare)| cut.clone().merge_until(spare))
            .collect()
    }

    /// The first cut that the guest can bear, else the first that can be carried out at all.
    fn best(&self, cuts: Vec<Cut<'_>>, headroom: Bytes) -> Option<Layout> {
        let mut fallback = None;
        for cut in cuts {
            match order::order(self, &cut, headroom) {
                Some(layout) if layout.dip <= self.may_dip => return Some(layout),
                Some(layout) if fallback.is_none() => fallback = Some(layout),
                Some(_) | None => {}
            }
        }
        fallback
    }

    /// Slots that growing by `headroom` takes.
    fn reserve(&self, headroom: Bytes) -> u32 {
        u32::try_from(headroom.get().div_ceil(self.largest.get())).unwrap_or(u32::MAX)
    }

    /// The sticks that may go, the most wanted first: by turns from the node that has the most memory left.
    fn going(&self, node: Option<u32>) -> Vec<usize> {
        let mut nodes: Vec<(u32, Bytes, std::vec::IntoIter<usize>)> = Vec::with_capacity(self.nodes.len());
        for (id, memory) in &self.nodes {
            if node.is_some_and(|n| n != *id) {
                continue;
            }
            let mut sticks: Vec<usize> = (0..self.sticks.len())
                .filter(|i| self.sticks[*i].may_go && self.sticks[*i].node == *id)
                .collect();
            sticks.sort_by_key(|i| self.sticks[*i].rank);
            nodes.push((*id, *memory, sticks.into_iter()));
        }
        let mut going = Vec::with_capacity(self.sticks.len());
        while let Some(fullest) = (0..nodes.len())
            .filter(|n| nodes[*n].2.len() > 0)
            .max_by_key(|n| (nodes[*n].1, std::cmp::Reverse(nodes[*n].0)))
        {
            let stick = nodes[fullest].2.next().expect("a node that has sticks left");
            nodes[fullest].1 = nodes[fullest].1.saturating_sub(self.sticks[stick].size);
            going.push(stick);
        }
        going
    }

    /// The last resort of a shrink: everything that may go goes, and what is too much of it comes back in large
    /// pieces. Foreign DIMMs above the largest size stay as long as the others suffice, for each costs slots to redo.
    fn clear(&self, candidates: &[usize], by: Bytes, node: Option<u32>) -> Option<Cut<'_>> {
        let mut all = candidates.to_vec();
        all.sort_by_key(|i| self.sticks[*i].size);
        let (mut sum, mut count) = (Bytes::ZERO, 0);
        for stick in &all {
            if sum >= by && self.sticks[*stick].size > self.piece {
                break;
            }
            sum = sum + self.sticks[*stick].size;
            count += 1;
        }
        all.truncate(count);
        let back = sum.checked_sub(by).filter(|back| back.is_multiple_of(self.unit))?;
        Cut::new(self, all, back, node).merge_until(0)
    }
}

/// Sticks that go, and memory that comes: per node where a node is named, in one pool otherwise.
#[derive(Debug, Clone)]
struct Cut<'a> {
    bay: &'a Bay,
    going: Vec<usize>,
    /// What comes, by node. Without a named node there is one entry, of no node.
    coming: Vec<(Option<u32>, Bytes)>,
    shape: Shape,
}

/// Into which DIMMs what comes is divided.
#[derive(Debug, Clone)]
enum Shape {
    /// Such of the usual size, or larger ones where slots are short.
    Usual,
    /// Such as fill these gaps, in this order.
    Gaps(Vec<Bytes>),
}

impl Shape {
    /// The largest gaps first, those above the largest DIMM in several parts.
    fn filling(gaps: Vec<Bytes>, bay: &Bay) -> Shape {
        let mut parts: Vec<Bytes> = Vec::new();
        for gap in gaps {
            let mut left = gap.round_down(bay.unit);
            while !left.is_zero() && parts.len() < bay.sticks.len() + 256 {
                parts.push(left.min(bay.piece));
                left = left - left.min(bay.piece);
            }
        }
        parts.sort_by_key(|part| std::cmp::Reverse(*part));
        Shape::Gaps(parts)
    }
}

impl<'a> Cut<'a> {
    fn new(bay: &'a Bay, going: Vec<usize>, coming: Bytes, node: Option<u32>) -> Cut<'a> {
        Cut { bay, going, coming: vec![(node, coming)], shape: Shape::Usual }
    }

    /// How many DIMMs what comes takes at least; as many as cannot be where the gaps do not hold it.
    fn needs(&self) -> u64 {
        match &self.shape {
            Shape::Usual => {
                self.coming.iter().map(|(_, size)| size.get().div_ceil(self.bay.piece.get())).sum()
            }
            Shape::Gaps(gaps) => {
                order::fill(&self.coming, gaps).map_or(u64::from(u32::MAX), |dimms| dimms.len() as u64)
            }
        }
    }

    /// Slots that are free afterwards, below zero if there are too few.
    fn spare(&self) -> i64 {
        let held = self.bay.free + i64::try_from(self.going.len()).unwrap_or(i64::MAX);
        held.saturating_sub(i64::try_from(self.needs()).unwrap_or(i64::MAX))
    }

    fn pool(&mut self, stick: usize) -> &mut Bytes {
        let node = self.coming[0].0.map(|_| self.bay.sticks[stick].node);
        let at = self.coming.iter().position(|(n, _)| *n == node).unwrap_or_else(|| {
            self.coming.push((node, Bytes::ZERO));
            self.coming.len() - 1
        });
        &mut self.coming[at].1
    }

    /// Takes a stick out, to come back as part of what comes.
    fn redo(&mut self, stick: usize) {
        self.going.push(stick);
        let size = self.bay.sticks[stick].size;
        let pool = self.pool(stick);
        *pool = *pool + size;
    }

    /// Merges small sticks into what comes, smallest first, until `spare` slots are left. A stick that fits one piece
    /// gives a slot and costs one at most, so taking more of them never makes it worse: where all of them do not
    /// suffice, nothing does.
    fn merge_until(mut self, spare: u32) -> Option<Cut<'a>> {
        let enough = |cut: &Cut<'_>| cut.spare() >= i64::from(spare) || (spare == 0 && cut.needs() == 0);
        if enough(&self) {
            return Some(self);
        }
        let bay = self.bay;
        let mut small: Vec<usize> = (0..bay.sticks.len())
            .filter(|i| {
                let stick = &bay.sticks[*i];
                stick.may_go
                    && stick.size <= bay.piece
                    && stick.size.is_multiple_of(bay.unit)
                    && !self.going.contains(i)
            })
            .collect();
        small.sort_by_key(|i| (bay.sticks[*i].size, bay.sticks[*i].rank));
        let first = self.going.len();
        for stick in small {
            self.redo(stick);
            if enough(&self) {
                self.prune(first, &enough);
                return Some(self);
            }
        }
        None
    }

    /// Leaves out again what turned out to be of no help, the largest first.
    fn prune(&mut self, first: usize, enough: &dyn Fn(&Cut<'_>) -> bool) {
        for at in (first..self.going.len()).rev() {
            let stick = self.going.remove(at);
            let size = self.bay.sticks[stick].size;
            let pool = self.pool(stick);
            *pool = *pool - size;
            if !enough(self) {
                let pool = self.pool(stick);
                *pool = *pool + size;
                self.going.insert(at, stick);
            }
        }
    }
}
