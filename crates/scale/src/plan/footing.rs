//! What the guest lets a plan build on: its block size, what its agent can do, how much memory it uses.
//!
//! The guest's word is taken only where it makes sense and is fresh; where it is missing, the assumption that takes its
//! place is named in a note. Nothing here decides what to do.

use super::space::boot_end;
use crate::limits::Limits;
use crate::observed::{AutoOnline, BalloonStats, GuestFacts, MemBlock, Observed, blocks_of};
use crate::units::Bytes;
use std::ops::Range;

/// Bounds of a believable block size: Linux has 16 MiB (POWER) to 2 GiB (x86-64), powers of two all
/// (MIN_MEMORY_BLOCK_SIZE and memory_block_size_bytes, Linux 6.1).
const BLOCKS: Range<u64> = (1 << 20)..(1 << 36);

/// Linux x86-64 takes larger blocks where boot memory ends here or later (`probe_memory_block_size`,
/// arch/x86/mm/init_64.c, 3.19 to 6.12: by the end of memory, not by its size).
const LARGE_GUEST: Bytes = Bytes::gib(64);

/// What the guest lets a plan build on.
pub(super) struct Footing<'a> {
    facts: Option<&'a GuestFacts>,
    /// The balloon driver's figures, if fresh.
    pub(super) stats: Option<BalloonStats>,
    /// The guest's memory block, as it says or as it is assumed.
    pub(super) block: Bytes,
    /// True where the guest itself gave the block size.
    pub(super) block_is_told: bool,
    /// True where the agent shows memory blocks.
    pub(super) shows_blocks: bool,
    /// True where the agent can take blocks offline and online.
    pub(super) sets_blocks: bool,
    /// True where the agent can choose the zone of a block, by writing its file.
    pub(super) chooses_zone: bool,
    /// True where blocks that the guest does not find by itself can be made known to it.
    pub(super) probes: bool,
    /// What the guest uses and what is available to it, if it tells.
    pub(super) usage: Option<Usage>,
    /// Free memory that the guest's kernel can use for itself, if the guest tells.
    pub(super) kernel_free: Option<Bytes>,
}

impl<'a> Footing<'a> {
    pub(super) fn of(seen: &'a Observed, limits: &Limits) -> Footing<'a> {
        let facts = seen.guest.heard();
        let stats = seen
            .memory
            .balloon
            .and_then(|b| b.stats)
            .filter(|stats| seen.at.since(stats.at) <= limits.stale && stats.total >= stats.available);
        let told =
            facts.and_then(|f| f.block).filter(|b| BLOCKS.contains(&b.get()) && b.get().is_power_of_two());
        let shows_blocks = told.is_some() && facts.is_some_and(|f| !f.blocks.is_empty());
        let writes = facts.is_some_and(GuestFacts::can_write_files);
        let sets = writes || facts.is_some_and(|f| f.can("guest-set-memory-blocks"));
        let assumed =
            if boot_end(seen) < LARGE_GUEST { Bytes::mib(128) } else { limits.block_of_large_guests };
        Footing {
            facts,
            stats,
            block: told.unwrap_or(assumed),
            block_is_told: told.is_some(),
            shows_blocks,
            sets_blocks: shows_blocks && sets,
            chooses_zone: shows_blocks && writes,
            probes: shows_blocks && writes && facts.is_some_and(|f| f.has_probe),
            usage: usage(facts, stats),
            kernel_free: kernel_free(seen, facts, stats),
        }
    }

    /// True where the guest's kernel onlines new memory by itself.
    pub(super) fn onlines_itself(&self) -> bool {
        match self.auto_online() {
            Some(AutoOnline::Online | AutoOnline::Kernel | AutoOnline::Movable) => true,
            Some(AutoOnline::Offline) | None => false,
        }
    }

    /// The guest's own policy, where it can be read.
    pub(super) fn auto_online(&self) -> Option<AutoOnline> {
        self.facts.and_then(|f| f.auto_online)
    }

    /// The blocks that the guest shows in this range; none where it shows no blocks at all.
    pub(super) fn blocks_in(&self, range: &Range<u64>) -> &'a [MemBlock] {
        let Some(facts) = self.facts.filter(|_| self.shows_blocks) else { return &[] };
        let from = facts.blocks.partition_point(|b| b.index < range.start);
        let to = facts.blocks.partition_point(|b| b.index < range.end);
        facts.blocks.get(from..to).unwrap_or(&[])
    }

    /// How many vCPUs the guest shows, and how many of them online; nothing where it shows none.
    pub(super) fn vcpus(&self) -> Option<(u32, u32)> {
        let facts = self.facts.filter(|f| !f.vcpus.is_empty())?;
        Some((u32::try_from(facts.vcpus.len()).unwrap_or(u32::MAX), facts.online_vcpus()))
    }

    /// True where the agent can online vCPUs.
    pub(super) fn sets_vcpus(&self) -> bool {
        self.facts.is_some_and(|f| !f.vcpus.is_empty() && f.can("guest-set-vcpus"))
    }

    /// True where the guest is known to be Windows.
    pub(super) fn is_windows(&self) -> bool {
        self.facts.and_then(|f| f.os_id.as_deref()) == Some("mswindows")
    }

    /// How much can be taken from what the guest has online; nothing where it does not tell what it uses.
    pub(super) fn can_spare(&self, limits: &Limits) -> Option<Bytes> {
        self.usage.map(|usage| {
            let part = Bytes::new(usage.used.get() / 100).times(limits.shrink_margin_percent);
            usage.available.saturating_sub(part.max(limits.shrink_margin)).round_down(Bytes::mib(1))
        })
    }

    /// How much of a device the guest does not use, of `size` bytes somewhere in the range of `span` from `addr`.
    pub(super) fn idle(&self, addr: u64, span: Bytes, size: Bytes) -> Bytes {
        if !self.shows_blocks {
            return Bytes::ZERO;
        }
        let online = self.blocks_in(&blocks_of(addr, span, self.block)).iter().filter(|b| b.online).count();
        size.saturating_sub(self.block.times(online as u64))
    }
}

/// The guest's own account of its memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub(super) used: Bytes,
    pub(super) available: Bytes,
}

/// From the agent, else from the balloon's driver.
fn usage(facts: Option<&GuestFacts>, stats: Option<BalloonStats>) -> Option<Usage> {
    let told = facts.and_then(|f| f.meminfo).map(|info| (info.total, info.available));
    let (total, available) = told.or(stats.map(|s| (s.total, s.available)))?;
    Some(Usage { used: total.checked_sub(available)?, available })
}

/// Available memory, as far as it can be the kernel's own: hot-plugged memory is taken as movable, so only the boot
/// memory's part of it counts.
fn kernel_free(seen: &Observed, facts: Option<&GuestFacts>, stats: Option<BalloonStats>) -> Option<Bytes> {
    let available = match facts.and_then(|f| f.meminfo) {
        Some(info) => info.available,
        None => stats?.available,
    };
    // What is plugged and not in use holds nothing that is available.
    let in_use = facts.and_then(GuestFacts::online_memory).unwrap_or(seen.memory.total());
    let (boot, total) = (seen.memory.boot.get(), in_use.min(seen.memory.total()).max(seen.memory.boot).get());
    let share = u128::from(available.get()) * u128::from(boot) / u128::from(total.max(1));
    Some(Bytes::new(u64::try_from(share).unwrap_or(u64::MAX)).min(seen.memory.boot))
}
