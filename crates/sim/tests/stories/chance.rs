//! Anything may happen, in any order: moods and faults by chance, controllers that die, wishes that change. What is
//! left is always written down, and a willing guest always makes it good.

use crate::harness::{Stage, both};
use drive::resize::ResizeError;
use proptest::prelude::*;
use scale::time::Span;
use scale::units::Bytes;
use sim::{Chance, Faults, Mood, World};

/// One thing in a machine's life.
#[derive(Debug, Clone)]
enum Turn {
    /// The guest gets into a mood by this seed, for so many seconds.
    Mood(u64, u64),
    /// The way to the machine gets bad.
    Faults,
    /// All is well again.
    Heal,
    /// Time passes, in seconds.
    Pass(u64),
    /// Somebody applies a size, so many blocks and vCPUs, and is killed at this boundary if there is one.
    Apply(u64, u32, Option<u64>),
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        3 => (any::<u64>(), 1u64..200).prop_map(|(seed, secs)| Turn::Mood(seed, secs)),
        1 => Just(Turn::Faults),
        1 => Just(Turn::Heal),
        1 => (0u64..300).prop_map(Turn::Pass),
        4 => (8u64..100, 1u32..8, prop::option::weighted(0.4, 1u64..80))
            .prop_map(|(blocks, vcpus, killed)| Turn::Apply(blocks, vcpus, killed)),
    ];
    prop::collection::vec(turn, 1..14)
}

fn machine(which: u8, seed: u64) -> World {
    let world = match which {
        0 => World::small(),
        1 => World::small().virtio_mem("vm0", 0, Bytes::gib(3)),
        2 => World::small().slots(4).foreign_dimm("dimm7", 0, Bytes::gib(1)),
        3 => World::small().nodes(2).balloon(true),
        4 => World::small().in_libvirt().slots(6),
        5 => World::small().with_probe(),
        _others => World::small().boot_dimm("d0", 0, Bytes::mib(512)).boot_dimm("d1", 0, Bytes::mib(256)),
    };
    world.with_faults(seed, Faults::default())
}

fn live(stage: &mut Stage, turns: &[Turn], seed: u64) {
    for turn in turns {
        match turn {
            Turn::Mood(seed, secs) => {
                stage.world.put_for(Span::secs(*secs), Mood::any(&mut Chance::new(*seed)));
            }
            Turn::Faults => stage.world = stage.world.clone().with_seed(seed),
            Turn::Heal => stage.world.heal(),
            Turn::Pass(secs) => stage.world.pass(Span::secs(*secs)),
            Turn::Apply(blocks, vcpus, killed) => {
                let wanted = both(Bytes::mib(128).times(*blocks), *vcpus);
                match killed {
                    Some(after) => {
                        if let Some(Err(ResizeError::Unsound(findings))) =
                            stage.apply_until_killed(&wanted, *after)
                        {
                            panic!("{findings:#?}\n{}", stage.past());
                        }
                    }
                    None => match stage.apply(&wanted) {
                        Ok(_) => stage.assert_recorded(),
                        Err(ResizeError::Refused(_) | ResizeError::Unsteady) => {}
                        Err(other) => panic!("{other}\n{}", stage.past()),
                    },
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_willing_guest_makes_it_good(
        which in 0u8..7,
        seed in any::<u64>(),
        turns in turns(),
        last in (8u64..100, 1u32..8),
    ) {
        let mut stage = Stage::new(machine(which, seed));
        live(&mut stage, &turns, seed);
        stage.world.heal();
        stage.world.pass(Span::secs(400));
        let seen = stage.observe();
        // What nobody can remove stays.
        let least = seen.memory.boot;
        let wanted = both(Bytes::mib(128).times(last.0).max(least), last.1);
        stage.apply_until_proven(&wanted);
        stage.assert_clean(&wanted);
    }

    #[test]
    fn one_seed_is_one_story(which in 0u8..7, seed in any::<u64>(), turns in turns()) {
        let tell = || {
            let mut stage = Stage::new(machine(which, seed));
            live(&mut stage, &turns, seed);
            stage.past()
        };
        prop_assert_eq!(tell(), tell());
    }
}
