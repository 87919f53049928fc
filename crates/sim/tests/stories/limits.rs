//! Limits of the host's memory that a machine moves under: raised before memory comes, lowered after it is gone, and set
//! back with what broke.

use crate::harness::{Stage, memory};
use scale::report::Verdict;
use scale::units::Bytes;
use sim::{Mood, Pinned, World};

/// 1 GiB of boot memory, and 512 MiB more that QEMU may hold and lock.
fn world() -> World {
    let most = Bytes::mib(1536);
    World::small().memory_limit(most).lock_limit(most)
}

/// What the machine has between its limits and what it holds.
fn distances(stage: &Stage) -> Vec<Bytes> {
    let held = stage.world.host_memory();
    stage.world.settings().iter().filter_map(|s| s.bytes()).map(|most| most.saturating_sub(held)).collect()
}

fn kept(stage: &Stage) {
    assert_eq!(distances(stage), [Bytes::mib(512); 2], "{}", stage.past());
}

#[test]
fn limits_follow_the_memory_up_and_down() {
    for world in [world(), world().in_libvirt(), world().virtio_mem("vmem0", 0, Bytes::gib(2))] {
        let mut stage = Stage::new(world);
        for gib in [4, 2, 5, 1] {
            let wanted = memory(Bytes::gib(gib));
            let report = stage.apply(&wanted).unwrap_or_else(|e| panic!("{e}\n{}", stage.past()));
            assert_eq!(report.verdict, Verdict::Proven, "{gib}: {report:#?}\n{}", stage.past());
            kept(&stage);
        }
    }
}

#[test]
fn a_limit_that_cannot_be_raised_costs_nothing_but_the_growth() {
    let mut stage = Stage::new(world().with(Mood::NoLimits));
    let report = stage.apply(&memory(Bytes::gib(2))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    assert!(stage.world.dimms().is_empty() && stage.world.spare_backends().is_empty());
    kept(&stage);
}

#[test]
fn memory_that_the_guest_keeps_keeps_its_limit() {
    let world = World::small().virtio_mem("vmem0", 0, Bytes::gib(4)).memory_limit(Bytes::mib(1536));
    for world in [world, World::small().memory_limit(Bytes::mib(1536)).in_libvirt()] {
        let mut stage = Stage::new(world);
        let grown = stage.apply(&memory(Bytes::gib(4))).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(grown.verdict, Verdict::Proven, "{grown:#?}");
        stage.world.put(Mood::Refuses(Pinned::All));
        let report = stage.apply(&memory(Bytes::gib(1))).unwrap_or_else(|e| panic!("{e}"));
        assert_ne!(report.verdict, Verdict::Proven, "{report:#?}");
        assert!(stage.world.host_memory() > Bytes::gib(2), "{}", stage.past());
        for distance in distances(&stage) {
            assert!(distance >= Bytes::mib(512), "{distance}\n{}", stage.past());
        }
    }
}

#[test]
fn a_limit_that_cannot_be_lowered_is_told_and_the_memory_is_gone() {
    let mut stage = Stage::new(world());
    let _grown = stage.apply(&memory(Bytes::gib(2))).unwrap_or_else(|e| panic!("{e}"));
    stage.world.put(Mood::NoLimits);
    let report = stage.apply(&memory(Bytes::gib(1))).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.achieved.map(|sizes| sizes.memory), Some(Bytes::gib(1)), "{report:#?}");
    assert!(report.held_back.iter().any(|why| why.contains("set QEMU's")), "{report:#?}");
    assert_eq!(distances(&stage), [Bytes::mib(1536); 2], "{}", stage.past());
}

#[test]
fn a_machine_without_limits_gets_none() {
    for world in [World::small(), World::small().in_libvirt()] {
        let mut stage = Stage::new(world);
        for gib in [3, 1] {
            let report = stage.apply(&memory(Bytes::gib(gib))).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
            assert_eq!(distances(&stage), []);
        }
    }
}

#[test]
fn a_growth_that_breaks_sets_its_limit_back() {
    let mut stage = Stage::new(world().with(Mood::NotMovable));
    let wanted = scale::wanted::Wanted { zone: scale::wanted::ZoneWish::Movable, ..memory(Bytes::gib(2)) };
    let report = stage.apply(&wanted).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.verdict, Verdict::Failed, "{report:#?}");
    assert!(stage.world.dimms().is_empty() && stage.world.spare_backends().is_empty());
    kept(&stage);
}

#[test]
fn a_controller_that_dies_anywhere_leaves_no_limit_too_low() {
    for target in [3, 1] {
        let mut start = Stage::new(world());
        let _grown = start.apply(&memory(Bytes::gib(2))).unwrap_or_else(|e| panic!("{e}"));
        let wanted = memory(Bytes::gib(target));
        for after in 0..start.boundaries(&wanted) {
            let mut stage = start.clone();
            let _killed = stage.apply_until_killed(&wanted, after);
            let report = stage.apply_until_proven(&wanted);
            assert_eq!(report.verdict, Verdict::Proven, "{after}: {report:#?}\n{}", stage.past());
            for distance in distances(&stage) {
                assert!(distance >= Bytes::mib(512), "{after}: {distance}\n{}", stage.past());
            }
        }
    }
}
