//! Supple's DIMM layout beside the rules of other managers: the same machine, the same slots, the same resizes.
//!
//! `cargo xtask bench layout`. Each pair goes through the same 1000 seeded random resizes, in which the guest keeps a
//! DIMM at random now and then. Then random blocks of the guest are pinned and all memory is asked back. Numbers are
//! means over the seeds.
//!
//! The bounds: Supple is never further off, and more memory leaves the machine. Of the slots it leaves at least as
//! many, where resizes are small enough for the other rule to follow: one that is stuck with two huge DIMMs spends
//! no slots either.

mod ours;
mod rivals;

use ours::Supple;
use rivals::{Manager, OnePerGrowth, Proxmox};
use std::fmt;
use std::process::ExitCode;

/// Boot memory and the ceiling, in MiB; Proxmox boots with 1 GiB.
const BASE: u64 = 4 << 10;
const TOP: u64 = 64 << 10;
const RESIZES: u64 = 1000;
const SEEDS: u64 = 50;
/// How often a guest keeps a DIMM that it is asked for during the resizes, in percent.
const REFUSALS: [u64; 2] = [0, 10];
/// How many of the guest's 128 MiB blocks are pinned in the end, in per mille.
const PINNED: u64 = 20;

/// How the sizes asked for come about.
#[derive(Debug, Clone, Copy)]
enum Walk {
    /// Anywhere between boot memory and the ceiling.
    Anywhere,
    /// Up or down by 2 GiB at most.
    Small,
}

/// Makes a manager of a fresh machine.
type Make = fn() -> Box<dyn Manager>;

/// What is measured of one manager.
#[derive(Debug, Clone, Copy, Default)]
struct Score {
    /// MiB between asked and achieved, per resize.
    off: f64,
    /// Slots free after the last resize.
    free: f64,
    /// GiB that left the machine when everything was asked back.
    back: f64,
    /// GiB that were plugged then.
    of: f64,
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.1} {:>6.1} {:>6.1} of {:>4.1}", self.off, self.free, self.back, self.of)
    }
}

fn main() -> ExitCode {
    println!(
        "{RESIZES} resizes between boot memory and {} GiB, {SEEDS} seeds; anywhere, or by 2 GiB at most.\n\
         off: MiB between asked and achieved, per resize. free: slots left after the last.\n\
         back: GiB that leave the machine when all is asked back and {:.0} % of the guest's blocks are pinned, and of \
         how many. A balloon removes none.\n",
        TOP >> 10,
        PINNED as f64 / 10.0
    );
    println!("{:41}|{:^32}|{:^32}|", "", "the rule", "Supple");
    println!(
        "{:<11} {:>5}  {:<9} {:>12} | {:>8} {:>6} {:>6} of {:>4} | {:>8} {:>6} {:>6} of {:>4} |",
        "rule", "slots", "resizes", "refusals", "off", "free", "back", "", "off", "free", "back", ""
    );
    let pairs: [(Make, u64, u64); 4] = [
        (|| Box::new(Proxmox::new(1 << 10)), 1 << 10, 255),
        (|| Box::new(OnePerGrowth::ovirt(BASE, TOP)), BASE, 16),
        (|| Box::new(OnePerGrowth::opennebula(BASE, TOP)), BASE, 16),
        (|| Box::new(OnePerGrowth::incus(BASE, TOP)), BASE, 8),
    ];
    let mut missed = 0;
    for (rival, boot, slots) in pairs {
        for walk in [Walk::Small, Walk::Anywhere] {
            for refusals in REFUSALS {
                let theirs = score(&|| rival(), boot, walk, refusals);
                let ours = score(&|| Box::new(Supple::new(boot, TOP, slots)), boot, walk, refusals);
                let follows = matches!(walk, Walk::Small);
                let holds = ours.off <= theirs.off
                    && ours.back >= theirs.back
                    && (ours.free >= theirs.free || !follows);
                missed += u32::from(!holds);
                let verdict = if holds { "holds" } else { "MISSED" };
                let (name, walk) = (rival().name(), format!("{walk:?}").to_lowercase());
                println!("{name:<11} {slots:>5}  {walk:<9} {refusals:>10} % | {theirs} | {ours} | {verdict}");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn score(make: &dyn Fn() -> Box<dyn Manager>, boot: u64, walk: Walk, refusals: u64) -> Score {
    let mut sum = Score::default();
    for seed in 0..SEEDS {
        let mut manager = make();
        // The sizes come from one stream and the guest's moods from another, so both managers get the same sizes.
        let (mut sizes, mut moods) = (Chance(seed), Chance(!seed));
        let mut want = boot;
        let mut off = 0;
        for _ in 0..RESIZES {
            want = next(want, boot, walk, &mut sizes);
            manager.resize(want, &mut |_, _| moods.below(100) < refusals);
            off += manager.total().abs_diff(want);
        }
        sum.off += off as f64 / RESIZES as f64;
        sum.free += manager.free_slots() as f64;
        let plugged = manager.plugged();
        manager.resize(boot, &mut |place, size| pinned(seed, place, size));
        sum.back += (plugged - manager.plugged()) as f64 / 1024.0;
        sum.of += plugged as f64 / 1024.0;
    }
    let mean = |sum: f64| sum / SEEDS as f64;
    Score { off: mean(sum.off), free: mean(sum.free), back: mean(sum.back), of: mean(sum.of) }
}

fn next(now: u64, boot: u64, walk: Walk, sizes: &mut Chance) -> u64 {
    let (block, reach) = (128, 2048);
    match walk {
        Walk::Anywhere => boot + sizes.below((TOP - boot) / block + 1) * block,
        Walk::Small => {
            let up = sizes.below(2 * reach / block + 1) * block;
            (now + up).saturating_sub(reach).clamp(boot, TOP)
        }
    }
}

/// True if one of the blocks of a DIMM of `size` MiB at `place` is pinned.
fn pinned(seed: u64, place: u64, size: u64) -> bool {
    let mut blocks = Chance(seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ size);
    (0..size / 128).any(|_| blocks.below(1000) < PINNED)
}

/// Numbers that look random and are the same each time (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
