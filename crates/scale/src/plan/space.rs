//! Guest-physical addresses of new DIMMs: where QEMU's first fit would put them, and where that is of no use.
//!
//! QEMU places a device at the lowest address that fits its own alignment (2 MiB for ordinary pages), in a region that
//! begins at a whole GiB behind boot memory and holds `maxmem - size` and 1 GiB more for each slot
//! (hw/mem/memory-device.c, hw/i386/pc.c, hw/arm/virt.c; 7.2 and 10.0). Linux takes a DIMM only at whole memory blocks,
//! so behind a foreign device of odd size an address must be named. What is not known of the region is not guessed:
//! QEMU then has its own way, and its refusal is the worst that comes of it.

use crate::observed::{Memory, Observed};
use crate::units::Bytes;
use std::ops::Range;

const GIB: u64 = 1 << 30;

/// The region of memory devices, as far as it is known.
#[derive(Debug, Clone)]
pub(super) struct Space {
    /// Address ranges that are taken, ascending.
    taken: Vec<Range<u64>>,
    /// Where the region begins, at the earliest.
    base: Option<u64>,
    /// Where it ends.
    end: Option<u64>,
    unit: u64,
    alignment: u64,
}

impl Space {
    pub(super) fn of(seen: &Observed, unit: Bytes) -> Space {
        let memory = &seen.memory;
        let dimms = memory.dimms.iter().map(|d| d.addr..d.addr.saturating_add(d.size.get()));
        let virtio = memory.virtio_mem.iter().map(|v| v.addr..v.addr.saturating_add(v.max.get()));
        let others = memory.others.iter().map(|o| o.addr..o.addr.saturating_add(o.size.get()));
        Space::new(dimms.chain(virtio).chain(others).collect(), region(seen), unit, memory.alignment)
    }

    /// `taken` in a region that is believed only if all of it lies within.
    pub(super) fn new(
        mut taken: Vec<Range<u64>>,
        region: Option<Range<u64>>,
        unit: Bytes,
        alignment: Bytes,
    ) -> Space {
        taken.sort_by_key(|range| range.start);
        let region =
            region.filter(|region| taken.iter().all(|r| region.start <= r.start && r.end <= region.end));
        Space {
            base: region.as_ref().map(|r| r.start).or_else(|| taken.first().map(|range| range.start)),
            end: region.map(|r| r.end),
            taken,
            unit: unit.get().max(1),
            alignment: alignment.get().max(1),
        }
    }

    /// True if a gap holds this, as far as is known.
    pub(super) fn fits(&self, size: Bytes) -> bool {
        let (Some(base), Some(end)) = (self.base, self.end) else { return true };
        self.first_fit(base, size, self.unit).saturating_add(size.get()) <= end
    }

    /// Takes the place of a new DIMM that fits. The address is given where QEMU must be told it.
    pub(super) fn take(&mut self, size: Bytes) -> Option<u64> {
        let base = self.base?;
        let own = self.first_fit(base, size, self.alignment);
        let fitting = self.first_fit(base, size, self.unit);
        let at = self.taken.partition_point(|range| range.start < fitting);
        self.taken.insert(at, fitting..fitting.saturating_add(size.get()));
        // Without the region's true begin, QEMU may choose a lower address than is foreseen here; that one is at a
        // whole GiB or behind a device, and all devices seen end well where this foresees a good place.
        let ends_well = self.taken.iter().all(|range| range.end.is_multiple_of(self.unit));
        let as_foreseen = own == fitting && (self.end.is_some() || ends_well);
        (!as_foreseen).then_some(fitting)
    }

    /// Gives the place of a DIMM back.
    pub(super) fn give(&mut self, addr: u64) {
        self.taken.retain(|range| range.start != addr);
    }

    /// The gaps, as far as they begin at whole units, where the region is known.
    pub(super) fn gaps(&self) -> Option<Vec<Bytes>> {
        let (base, end) = (self.base?, self.end?);
        let up = |addr: u64| addr.checked_next_multiple_of(self.unit).unwrap_or(u64::MAX);
        let starts = self.taken.iter().map(|r| r.start).chain([end]);
        let ends = [base].into_iter().chain(self.taken.iter().map(|r| r.end));
        Some(ends.zip(starts).map(|(from, to)| Bytes::new(to.saturating_sub(up(from)))).collect())
    }

    /// The gap that would be there without the devices from `first` to `last` (their addresses), and how many devices
    /// those are.
    pub(super) fn gap_without(&self, first: u64, last: u64) -> Option<(Bytes, usize)> {
        let (base, end) = (self.base?, self.end?);
        let from = self.taken.partition_point(|r| r.start < first);
        let to = self.taken.partition_point(|r| r.start <= last);
        let start = from.checked_sub(1).map_or(base, |before| self.taken[before].end);
        let start = start.checked_next_multiple_of(self.unit)?;
        let stop = self.taken.get(to).map_or(end, |r| r.start);
        Some((Bytes::new(stop.saturating_sub(start)), to - from))
    }

    fn first_fit(&self, base: u64, size: Bytes, step: u64) -> u64 {
        let up = |addr: u64| addr.checked_next_multiple_of(step).unwrap_or(u64::MAX);
        let mut at = up(base);
        for range in &self.taken {
            if range.start >= at.saturating_add(size.get()) {
                break;
            }
            if range.end > at {
                at = up(range.end);
            }
        }
        at
    }
}

/// The region of memory devices on a PC, from the machine's type and its memory.
fn region(seen: &Observed) -> Option<Range<u64>> {
    let memory: &Memory = &seen.memory;
    let boot = memory.boot.get();
    if seen.machine.arch != "x86_64" {
        return None;
    }
    let low = below_4_gib(seen)?;
    let base = (4 * GIB + (boot - low)).checked_next_multiple_of(GIB)?;
    let size = memory.ceiling.get().saturating_sub(boot).checked_add(u64::from(memory.slots) * GIB)?;
    Some(base..base.checked_add(size)?)
}

/// How much of a PC's boot memory lies below 4 GiB; the rest begins there. Nothing where that is not known.
fn below_4_gib(seen: &Observed) -> Option<u64> {
    let boot = seen.memory.boot.get();
    // pc_q35.c and pc_piix.c with gigabyte alignment, 7.2 and 10.0.
    if seen.machine.kind.contains("q35") {
        Some(if boot >= 0xb000_0000 { 0x8000_0000 } else { boot })
    } else if seen.machine.kind.contains("i440fx") {
        Some(if boot >= 0xe000_0000 { 0xc000_0000 } else { boot })
    } else {
        None
    }
}

/// Where boot memory ends in the guest's address space, at the most where that is not known: beyond the hole for
/// devices below 4 GiB, it ends later than it is large.
pub(super) fn boot_end(seen: &Observed) -> Bytes {
    let boot = seen.memory.boot;
    if seen.machine.arch != "x86_64" {
        return boot;
    }
    match below_4_gib(seen) {
        Some(low) if low == boot.get() => boot,
        Some(low) => Bytes::gib(4) + (boot - Bytes::new(low)),
        None => boot + Bytes::gib(4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    fn space(taken: Vec<Range<u64>>, end: Option<u64>) -> Space {
        Space::new(taken, end.map(|end| 4 * GIB..end), Bytes::mib(128), Bytes::mib(2))
    }

    #[test]
    fn qemu_chooses_where_its_choice_is_good() {
        assert_eq!(space(Vec::new(), None).take(Bytes::gib(1)), None);
        assert_eq!(space(iter::once(4 * GIB..5 * GIB).collect(), None).take(Bytes::gib(1)), None);
    }

    #[test]
    fn behind_an_odd_device_the_address_is_named() {
        let odd = 4 * GIB..4 * GIB + (66 << 20);
        let mut space = space(iter::once(odd).collect(), Some(64 * GIB));
        assert_eq!(space.take(Bytes::gib(1)), Some(4 * GIB + (128 << 20)));
        assert_eq!(space.take(Bytes::mib(128)), None);
        assert_eq!(space.take(Bytes::mib(4)), Some(5 * GIB + (256 << 20)));
    }

    #[test]
    fn gaps_are_used_and_a_full_region_is_known() {
        let taken = [4 * GIB..5 * GIB, 6 * GIB..8 * GIB];
        let mut space = space(taken.to_vec(), Some(9 * GIB));
        assert!(!space.fits(Bytes::gib(2)) && space.fits(Bytes::gib(1)));
        assert_eq!(space.gaps(), Some(vec![Bytes::ZERO, Bytes::gib(1), Bytes::gib(1)]));
        assert_eq!(space.gap_without(6 * GIB, 6 * GIB), Some((Bytes::gib(4), 1)));
        assert_eq!((space.take(Bytes::gib(1)), space.take(Bytes::gib(1))), (None, None));
        assert!(!space.fits(Bytes::mib(128)));
        space.give(6 * GIB);
        assert!(space.fits(Bytes::gib(2)));
    }
}
