//! Chance that a seed repeats, and the faults that it strikes.

/// A small generator (xorshift64*): the same seed gives the same world on every machine and release.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The chance of this seed.
    pub fn new(seed: u64) -> Chance {
        // Neighbouring seeds are spread out, and zero, which xorshift cannot leave, is never reached.
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0xd1b5_4a32_d192_ed03) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.draw() >> 11).checked_rem(bound).unwrap_or(0)
    }

    /// True so many times in a thousand.
    pub fn permille(&mut self, rate: u64) -> bool {
        self.below(1000) < rate
    }
}

/// How often the way to the machine fails, in times out of a thousand commands or events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// An act is refused although nothing stands in its way.
    pub refused: u64,
    /// An act is lost on its way: it does not happen, and no answer comes.
    pub lost: u64,
    /// An act happens, and its answer is lost.
    pub unanswered: u64,
    /// An event is dropped, and the driver notices that something was.
    pub dropped: u64,
}

impl Faults {
    /// A bad day: each kind strikes about one time in twenty.
    pub const OFTEN: Faults = Faults { refused: 50, lost: 50, unanswered: 50, dropped: 80 };
}

/// What befalls one act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Goes,
    Refused,
    Lost,
    Unanswered,
}

impl Faults {
    pub(crate) fn fate(self, chance: &mut Chance) -> Fate {
        let roll = chance.below(1000);
        match roll {
            _ if roll < self.refused => Fate::Refused,
            _ if roll < self.refused + self.lost => Fate::Lost,
            _ if roll < self.refused + self.lost + self.unanswered => Fate::Unanswered,
            _ => Fate::Goes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let draws = |seed| {
            let mut chance = Chance::new(seed);
            [(); 8].map(|()| chance.draw())
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        assert_ne!(draws(0), [0; 8]);
    }

    #[test]
    fn a_rate_is_kept_roughly() {
        let mut chance = Chance::new(1);
        let hits = (0..10_000).filter(|_| chance.permille(100)).count();
        assert!((900..1100).contains(&hits), "{hits} of 10000");
    }
}
