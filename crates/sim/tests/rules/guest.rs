//! The guest's side: Linux's blocks, zones and page tables, and the agent's way to them.

use super::*;
use scale::sight::GuestView;
use sim::Mood;

fn shown(world: &mut World, device: &str) -> (usize, usize) {
    let answer = look(world, &Look::Blocks(device.into()));
    let Sight::Blocks(Some(GuestView::Shows(sight))) = answer else { panic!("{answer:?}") };
    (sight.blocks.len(), sight.blocks.iter().filter(|b| b.online).count())
}

#[test]
fn plugged_is_not_online() {
    let mut world = World::small();
    let before = world.guest_total();
    plugged(&mut world, "d", 0);
    assert_eq!(seen(&mut world).memory.total(), Bytes::gib(2));
    assert_eq!(shown(&mut world, "d"), (8, 0));
    assert_eq!(world.guest_total(), before);
    done(&mut world, &online("d", Zone::Movable));
    assert_eq!(shown(&mut world, "d"), (8, 8));
    assert_eq!(world.guest_total(), before + Bytes::gib(1));
}

#[test]
fn an_observation_answers_a_look_as_the_look_is_answered() {
    let mut world = World::small().virtio_mem("vm0", 0, Bytes::gib(4));
    plugged(&mut world, "d", 0);
    done(&mut world, &Act::ResizeVirtioMem { id: "vm0".into(), from: Bytes::ZERO, to: Bytes::mib(640) });
    for onlined in [None, Some("d"), Some("vm0")] {
        if let Some(device) = onlined {
            done(&mut world, &online(device, Zone::Movable));
        }
        world.pass(Span::secs(1));
        for question in [Look::Blocks("d".into()), Look::Blocks("vm0".into()), Look::Vcpus] {
            let answer = question.answered_by(&seen(&mut world));
            assert_eq!(answer, Some(look(&mut world, &question)), "{question:?}");
        }
    }
    assert_eq!(Look::Blocks("e".into()).answered_by(&seen(&mut world)), None, "it asks the driver then");
    let mut mute = World::small().with(Mood::NoAgent);
    assert_eq!(Look::Vcpus.answered_by(&seen(&mut mute)), None, "and here");
}

#[test]
fn the_guest_needs_a_moment_to_show_a_dimm() {
    let mut world = World::small().spare_backend("m", Bytes::gib(1));
    done(&mut world, &plug("d", "m", 0));
    assert_eq!(shown(&mut world, "d"), (0, 0));
    world.pass(Span::millis(100));
    assert_eq!(shown(&mut world, "d"), (8, 0));
}

fn tell(device: &str) -> Act {
    Act::MakeKnown { device: device.into(), after: Span::secs(2) }
}

#[test]
fn a_kernel_that_needs_probe_shows_nothing_until_it_is_told() {
    let mut world = World::small().with(Mood::NeedsProbe);
    done(&mut world, &create("m", Bytes::gib(1)));
    let events = events_after(&mut world, &plug("d", "m", 0), Span::secs(60));
    assert!(events.is_empty(), "{events:?}");
    assert!(heard(&mut world).has_probe && !heard(&mut World::small()).has_probe);
    assert_eq!(shown(&mut world, "d"), (0, 0));
    done(&mut world, &tell("d"));
    assert_eq!(shown(&mut world, "d"), (8, 0));
    // Nor does it hear of a removal.
    assert!(events_after(&mut world, &unplug("d"), Span::secs(60)).is_empty());
    assert_eq!(world.dimms(), ["d"]);
}

#[test]
fn probe_takes_no_block_twice_and_none_without_memory() {
    let mut world = World::small().with(Mood::NeedsProbe);
    plugged(&mut world, "d", 0);
    let start = 4 << 30;
    assert_eq!(world.write_probe(start), Ok(()));
    assert_eq!(world.write_probe(start), Err("File exists"));
    assert_eq!(world.write_probe(0), Err("File exists"), "boot memory");
    assert_eq!(world.write_probe(start + (64 << 20)), Err("Invalid argument"));
    assert!(world.write_probe(start + (1 << 30)).expect_err("nothing there").contains("crash"));
    assert_eq!(World::small().write_probe(start), Err("No such file or directory"));
    done(&mut world, &tell("d"));
    assert_eq!(shown(&mut world, "d"), (8, 0), "the one that was known is left as it is");
    assert!(refused(&mut world, &tell("e")).contains("no memory device e"));
}

#[test]
fn a_guest_that_finds_its_memory_is_told_nothing() {
    let mut world = World::small().with_probe().spare_backend("m", Bytes::gib(1));
    done(&mut world, &plug("d", "m", 0));
    let before = world.now();
    done(&mut world, &tell("d"));
    assert!(world.now().since(before) < Span::millis(500), "it is not waited for longer than it takes");
    assert_eq!(shown(&mut world, "d"), (8, 0));
    assert!(!world.log().any(|line| line.contains("told of memory block")));
}

#[test]
fn unaligned_dimm_never_appears_in_the_guest() {
    let mut world = World::small().block(Bytes::gib(2)).boot_memory(Bytes::gib(2));
    done(&mut world, &create("m", Bytes::gib(1)));
    let events = events_after(&mut world, &plug("d", "m", 0), Span::secs(60));
    assert_eq!(osts(&events), [(1, 0)], "ACPI reports a success all the same");
    assert_eq!(shown(&mut world, "d"), (0, 0));
    assert_eq!(world.dimms(), ["d"]);
}

#[test]
fn an_odd_dimm_misaligns_the_next() {
    let mut world = World::small();
    done(&mut world, &create("m", Bytes::mib(1026)));
    done(&mut world, &plug("d", "m", 0));
    plugged(&mut world, "e", 1);
    assert_eq!(shown(&mut world, "e"), (0, 0));
    assert!(!seen(&mut world).memory.dimms[1].fits_blocks(Bytes::mib(128)));
}

#[test]
fn a_growth_beyond_the_free_kernel_memory_fails_silently() {
    // 8 GiB need 128 MiB of page tables.
    let mut world = World::small().demand(Bytes::mib(900));
    done(&mut world, &create("m", Bytes::gib(8)));
    let events = events_after(&mut world, &plug("d", "m", 0), Span::secs(60));
    assert_eq!(osts(&events), [(1, 0)]);
    assert_eq!(shown(&mut world, "d"), (0, 0));
    // Less goes in, and once it is in use as kernel memory the rest does too.
    plugged(&mut world, "e", 1);
    done(&mut world, &online("e", Zone::Default));
    done(&mut world, &unplug("d"));
    world.pass(Span::secs(1));
    done(&mut world, &plug("d", "m", 0));
    world.pass(Span::secs(1));
    assert_eq!(shown(&mut world, "d"), (64, 0));
}

#[test]
fn movable_memory_is_of_no_use_to_the_kernel() {
    let blocks_of_the_second = |zone| {
        let mut world = World::small().boot_memory(Bytes::mib(256)).demand(Bytes::ZERO);
        // 12 GiB take 192 of the kernel's 216 MiB; 3 GiB more need 48.
        done(&mut world, &create("m", Bytes::gib(12)));
        done(&mut world, &plug("d", "m", 0));
        world.pass(Span::secs(1));
        done(&mut world, &online("d", zone));
        done(&mut world, &create("n", Bytes::gib(3)));
        done(&mut world, &plug("e", "n", 1));
        world.pass(Span::secs(1));
        shown(&mut world, "e").0
    };
    assert_eq!(blocks_of_the_second(Zone::Movable), 0);
    assert_eq!(blocks_of_the_second(Zone::Default), 24);
}

#[test]
fn a_guest_that_needs_its_memory_does_not_give_it_up() {
    let mut world = World::small().boot_dimm("d", 0, Bytes::gib(1)).demand(Bytes::mib(1500));
    let said = refused(&mut world, &offline("d"));
    assert!(said.contains("operation-failed"), "{said}");
    let (there, online) = shown(&mut world, "d");
    assert_eq!(there, 8);
    assert!((1..8).contains(&online), "a part is offline: {online}");
    let events = events_after(&mut world, &unplug("d"), Span::secs(2));
    assert_eq!(osts(&events), [(3, 0x84), (3, 0x82)]);
    assert_eq!(shown(&mut world, "d"), (8, online), "what the kernel took offline for the ejection is back");
}

#[test]
fn the_kernel_empties_a_dimm_by_itself_where_it_can() {
    let mut world = World::small().boot_dimm("d", 0, Bytes::gib(1));
    done(&mut world, &unplug("d"));
    world.pass(Span::secs(1));
    assert!(world.dimms().is_empty());
    assert_eq!(world.guest_total(), Bytes::mib(1024 - 40));
}

#[test]
fn a_vcpu_is_seen_before_it_is_used() {
    let mut world = World::small();
    let slots = seen(&mut world).vcpus.slots;
    let act = Act::PlugVcpu { id: "c1".into(), driver: slots[1].driver.clone(), props: slots[1].props };
    let events = events_after(&mut world, &act, Span::secs(1));
    assert_eq!(osts(&events), [(1, 0)]);
    assert_eq!((heard(&mut world).vcpus.len(), heard(&mut world).online_vcpus()), (2, 1));
    done(&mut world, &Act::OnlineVcpus { count: 2 });
    assert_eq!(heard(&mut world).online_vcpus(), 2);
    let events = events_after(&mut world, &Act::UnplugVcpu { id: "c1".into() }, Span::secs(1));
    assert!(events.contains(&Event::DeviceDeleted { id: "c1".into() }));
    assert_eq!((heard(&mut world).vcpus.len(), world.online_vcpus()), (1, 1));
}

#[test]
fn virtio_mem_waits_for_its_blocks_to_be_onlined() {
    let mut world = World::small().virtio_mem("vm0", 0, Bytes::gib(8));
    done(&mut world, &Act::ResizeVirtioMem { id: "vm0".into(), from: Bytes::ZERO, to: Bytes::gib(4) });
    world.pass(Span::secs(600));
    let held = seen(&mut world).memory.virtio_mem[0].size;
    assert_eq!(held, Bytes::mib(1024 + 128), "no more than a GiB and a chunk while offline");
    done(&mut world, &online("vm0", Zone::Default));
    world.pass(Span::secs(1));
    assert!(seen(&mut world).memory.virtio_mem[0].size > held);
}

#[test]
fn an_inflated_balloon_leaves_the_guest_what_it_uses() {
    let mut world = World::small().balloon(true).demand(Bytes::mib(600));
    done(&mut world, &Act::SetBalloon { from: Bytes::gib(1), to: Bytes::mib(256) });
    world.pass(Span::secs(60));
    assert_eq!(world.guest_available(), Bytes::ZERO);
    assert_eq!(look(&mut world, &Look::Balloon), Sight::Balloon(Some(Bytes::mib(640))));
    let total = look(&mut world, &Look::GuestTotal);
    assert_eq!(total, Sight::GuestTotal(Some(Bytes::mib(600))));
}
