//! Lives of emulated QEMUs: what would end one is refused, whoever was killed before and wherever.

use crate::harness::{Stage, both, vcpus};
use drive::Hypervisor;
use drive::resize::ResizeError;
use scale::observed::{Accel, Version};
use scale::plan::Act;
use scale::report::Verdict;
use scale::time::Span;
use scale::units::Bytes;
use sim::{Chance, Mood, World, finish};

/// 1 of 4 vCPUs, on an emulated QEMU.
fn emulated() -> World {
    World::small().vcpus(1, 4).qemu(Version(10, 0, 0), Accel::Tcg)
}

#[track_caller]
fn proven(stage: &mut Stage, count: u32) {
    let report = stage.apply(&vcpus(count)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
}

#[track_caller]
fn refused(stage: &mut Stage, count: u32, word: &str) {
    match stage.apply(&vcpus(count)) {
        Err(ResizeError::Refused(refusal)) => assert!(refusal.to_string().contains(word), "{refusal}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.world.gone(), None);
}

fn by_others(stage: &mut Stage, act: &Act) {
    let mut link = stage.world.connect();
    let until = link.now() + Span::secs(30);
    finish(link.apply(act, until)).expect("links do not wait").expect("taken");
    stage.world.pass(Span::secs(5));
}

#[test]
fn each_place_of_an_emulated_qemu_is_filled_as_often_as_there_are_places() {
    let mut stage = Stage::new(emulated());
    for _ in 0..3 {
        proven(&mut stage, 2);
        proven(&mut stage, 1);
    }
    refused(&mut stage, 2, "4 were started");
    // The machine is stopped and started.
    stage.world = emulated().process(2);
    proven(&mut stage, 4);
}

#[test]
fn what_others_plugged_and_removed_counts_as_far_as_it_shows() {
    let mut stage = Stage::new(emulated());
    let slot = stage.observe().vcpus.slots[1].clone();
    by_others(&mut stage, &Act::PlugVcpu { id: "theirs".into(), driver: slot.driver, props: slot.props });
    by_others(&mut stage, &Act::UnplugVcpu { id: "theirs".into() });
    refused(&mut stage, 4, "--vcpus 3 at most");
    proven(&mut stage, 3);
    proven(&mut stage, 1);
    // The guest's word on the first place is overwritten, and the journal has it.
    refused(&mut stage, 2, "4 were started");
}

#[test]
fn an_emulated_qemu_outlives_whatever_is_asked_of_its_vcpus() {
    let (mut proven, mut refused) = (0, 0);
    for seed in 0..100 {
        let mut chance = Chance::new(seed);
        let world = if seed % 2 == 0 { emulated() } else { emulated().in_libvirt() };
        let mut stage = Stage::new(world);
        for _ in 0..16 {
            let wanted = vcpus(1 + u32::try_from(chance.below(4)).expect("few"));
            let answer = match chance.below(3) {
                0 => stage.apply_until_killed(&wanted, 1 + chance.below(30)),
                _ => Some(stage.apply(&wanted)),
            };
            match answer {
                Some(Ok(report)) if report.verdict == Verdict::Proven => proven += 1,
                Some(Err(ResizeError::Refused(_))) => refused += 1,
                Some(_) | None => {}
            }
            stage.world.pass(Span::secs(chance.below(30)));
            assert_eq!(stage.world.gone(), None, "seed {seed}\n{}", stage.past());
        }
    }
    assert!(proven > 300 && refused > 300, "{proven} proven, {refused} refused");
}

#[test]
fn an_old_emulated_qemu_outlives_whatever_is_asked_of_its_memory_and_vcpus() {
    let (mut proven, mut refused) = (0, 0);
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let mut stage = Stage::new(emulated().qemu(Version(7, 2, 0), Accel::Tcg));
        for _ in 0..8 {
            if chance.below(4) == 0 {
                stage
                    .world
                    .put_for(Span::secs(chance.below(90)), Mood::EjectsLate(Span::secs(chance.below(90))));
            }
            let vcpus = 1 + u32::try_from(chance.below(4)).expect("few");
            let wanted = both(Bytes::gib(1 + chance.below(3)), vcpus);
            let answer = match chance.below(3) {
                0 => stage.apply_until_killed(&wanted, 1 + chance.below(60)),
                _ => Some(stage.apply(&wanted)),
            };
            match answer {
                Some(Ok(report)) if report.verdict == Verdict::Proven => proven += 1,
                Some(Err(ResizeError::Refused(_))) => refused += 1,
                Some(_) | None => {}
            }
            stage.world.pass(Span::secs(chance.below(60)));
            assert_eq!(stage.world.gone(), None, "seed {seed}\n{}", stage.past());
        }
    }
    assert!(proven > 100 && refused > 100, "{proven} proven, {refused} refused");
}

#[test]
fn a_qemu_with_one_thread_for_all_vcpus_keeps_them() {
    let mut stage = Stage::new(emulated().one_thread());
    proven(&mut stage, 3);
    refused(&mut stage, 1, "one thread");
    proven(&mut stage, 4);
}
