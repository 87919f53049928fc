//! Which of some sizes add up to a sum, or to the least above it.

use crate::units::Bytes;

/// Bits of the table at most (2 MiB): beyond, a greedy choice takes the place of the best one.
const TABLE: u64 = 1 << 24;

/// Indices into `sizes` of a subset with the least sum that is `target` or more and lies whole `unit`s above it. Among
/// equal sums, earlier sizes are preferred. Nothing where there is none.
pub(super) fn pick(sizes: &[Bytes], target: Bytes, unit: Bytes) -> Option<Vec<usize>> {
    if target.is_zero() {
        return Some(Vec::new());
    }
    let grain = sizes.iter().fold(gcd(target.get(), unit.get()), |g, size| gcd(g, size.get()));
    let largest = sizes.iter().max()?.get();
    let total: u64 = sizes.iter().map(|s| s.get() / grain).sum();
    let (goal, stride) = (target.get() / grain, unit.get() / grain);
    // The least sum above the goal loses the goal with any one of its members, so it lies within one member of it;
    // only where the grain is finer than the unit, sums further up may be the first that fit.
    let top = if stride == 1 { total.min(goal + largest / grain) } else { total };
    if top.saturating_mul(sizes.len() as u64 + 1) > TABLE {
        return greedy(sizes, target, unit);
    }
    let words = usize::try_from(top / 64 + 1).expect("bounded by the table");
    let mut rows = vec![0u64; words * (sizes.len() + 1)];
    rows[words * sizes.len()] = 1;
    for nth in (0..sizes.len()).rev() {
        let (upper, lower) = rows.split_at_mut(words * (nth + 1));
        add_row(&mut upper[words * nth..], &lower[..words], sizes[nth].get() / grain);
    }
    let reach = |row: usize, sum: u64| {
        let word = rows[words * row + usize::try_from(sum / 64).expect("within the table")];
        word >> (sum % 64) & 1 == 1
    };
    let stride = usize::try_from(stride).unwrap_or(usize::MAX).max(1);
    let mut left = (goal..=top).step_by(stride).find(|sum| reach(0, *sum))?;
    let mut picked = Vec::new();
    for (nth, size) in sizes.iter().enumerate() {
        let size = size.get() / grain;
        if size > 0 && size <= left && reach(nth + 1, left - size) {
            picked.push(nth);
            left -= size;
        }
    }
    Some(picked)
}

/// `row` becomes the sums of `below` with and without `by` added.
fn add_row(row: &mut [u64], below: &[u64], by: u64) {
    row.copy_from_slice(below);
    let (skip, shift) = (usize::try_from(by / 64).unwrap_or(usize::MAX), by % 64);
    for at in skip..row.len() {
        let mut bits = below[at - skip] << shift;
        if shift > 0 && at > skip {
            bits |= below[at - skip - 1] >> (64 - shift);
        }
        row[at] |= bits;
    }
}

/// Takes sizes in their order until they suffice, then gives back the largest that is not needed.
fn greedy(sizes: &[Bytes], target: Bytes, unit: Bytes) -> Option<Vec<usize>> {
    let (mut picked, mut sum) = (Vec::new(), Bytes::ZERO);
    for (nth, size) in sizes.iter().enumerate().filter(|(_, s)| s.is_multiple_of(unit)) {
        if sum >= target {
            break;
        }
        picked.push(nth);
        sum = sum + *size;
    }
    let mut by_size = picked.clone();
    by_size.sort_by_key(|nth| std::cmp::Reverse(sizes[*nth]));
    for nth in by_size {
        if sum.saturating_sub(sizes[nth]) >= target {
            sum = sum - sizes[nth];
            picked.retain(|p| *p != nth);
        }
    }
    let over = sum.checked_sub(target)?;
    over.is_multiple_of(unit).then_some(picked)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}
