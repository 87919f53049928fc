//! Lives of machines, made by seeds: every dimension at once, every kind of trouble, controllers that die. After each
//! command every invariant of `invariants` must hold, and in the end a willing machine becomes what was asked.
//!
//! `STORM_SEEDS=10000 cargo test --release -p sim --test storm -- --nocapture` lives ten thousand of them, and
//! `STORM_FIRST=123 STORM_SEEDS=1` one again.

mod invariants;
mod life;

#[path = "../stories/harness.rs"]
#[allow(dead_code, reason = "the stories use more of it")]
mod harness;

use life::Tally;
use std::time::Instant;

fn number(name: &str, usual: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn no_life_breaks_an_invariant() {
    let (first, seeds) = (number("STORM_FIRST", 0), number("STORM_SEEDS", 400));
    let began = Instant::now();
    let mut tally = Tally::default();
    for seed in first..first + seeds {
        tally.add(&life::live(seed));
    }
    println!(
        "{seeds} lives, {tally}, no invariant broken of {}, in {:.1} s",
        invariants::ALL.len(),
        began.elapsed().as_secs_f64()
    );
    // Were all commands refused, nothing would have been tried.
    assert!(seeds < 100 || tally.proven > seeds && tally.partial > 0 && tally.killed > 0, "{tally}");
}

#[test]
fn one_seed_is_one_life() {
    for seed in 0..20 {
        assert_eq!(life::live(seed).to_string(), life::live(seed).to_string());
    }
}
