//! What each mood does, and that a seed repeats a world.

use super::*;
use drive::ObserveError;
use scale::observed::AutoOnline;
use scale::sight::GuestView;
use sim::{Faults, Lie, Mood, Pinned};

fn with_dimm(mood: Mood) -> World {
    World::small().boot_dimm("d", 0, Bytes::gib(1)).with(mood)
}

#[test]
fn eject_of_a_busy_dimm_is_refused_by_ost_0x82() {
    let mut world =
        with_dimm(Mood::Refuses(Pinned::In(vec!["d".into()]))).foreign_dimm("e", 0, Bytes::gib(1));
    let events = events_after(&mut world, &unplug("d"), Span::secs(2));
    assert_eq!(osts(&events), [(3, 0x84), (3, 0x82)]);
    assert!(events[1].refuses(&unplug("d")).is_some());
    let ost = seen(&mut world).memory.dimms[0].ost.expect("QEMU keeps the last word");
    assert!(ost.refusal().is_some());
    let said = refused(&mut world, &offline("d"));
    assert!(said.contains("memory block 36: operation-failed (4 done"), "{said}");
    done(&mut world, &offline("e"));
}

#[test]
fn a_refusing_guest_shrinks_virtio_mem_in_part() {
    let mut world =
        World::small().virtio_mem("vm0", 0, Bytes::gib(4)).with(Mood::OnlinesItself(Span::millis(0)));
    let to = |from, to| Act::ResizeVirtioMem { id: "vm0".into(), from: Bytes::gib(from), to: Bytes::gib(to) };
    done(&mut world, &to(0, 2));
    world.pass(Span::secs(2));
    world.put(Mood::Refuses(Pinned::All));
    done(&mut world, &to(2, 0));
    world.pass(Span::secs(300));
    let device = &seen(&mut world).memory.virtio_mem[0];
    assert_eq!((device.requested, device.size), (Bytes::ZERO, Bytes::gib(1)));
    world.heal();
    world.pass(Span::secs(60));
    assert_eq!(seen(&mut world).memory.virtio_mem[0].size, Bytes::ZERO, "the driver tries again by itself");
}

#[test]
fn a_stalling_agent_does_it_late() {
    let mut world = with_dimm(Mood::Stalls(Span::secs(60)));
    assert!(matches!(seen(&mut world).guest, Guest::Unheard(_)));
    let before = world.now();
    assert!(matches!(send(&mut world, &offline("d")), Err(ApplyError::Unknown(_))));
    assert_eq!(world.now().since(before), Span::millis(30_000));
    assert_eq!(world.guest_total(), Bytes::mib(2048 - 40));
    world.pass(Span::secs(30));
    assert_eq!(world.guest_total(), Bytes::mib(1024 - 40));
    assert!(matches!(seen(&mut world).guest, Guest::Heard(_)));
}

#[test]
fn a_lying_agent_changes_nothing_and_says_it_did() {
    let mut world = with_dimm(Mood::Lies(Lie::Done));
    done(&mut world, &offline("d"));
    assert_eq!(world.guest_total(), Bytes::mib(2048 - 40));
}

#[test]
fn a_lying_agent_shows_blocks_that_are_not_there() {
    let mut world =
        World::small().block(Bytes::gib(2)).boot_memory(Bytes::gib(2)).with(Mood::Lies(Lie::Phantoms));
    plugged(&mut world, "d", 0);
    let Sight::Blocks(Some(GuestView::Shows(sight))) = look(&mut world, &Look::Blocks("d".into())) else {
        panic!("the agent answers")
    };
    assert_eq!(sight.blocks.len() as u64, sight.covers);
    assert!(refused(&mut world, &online("d", Zone::Default)).contains("not-found"));
    assert!(heard(&mut world).blocks.iter().any(|b| b.index == u64::MAX));
    let mut world = with_dimm(Mood::Lies(Lie::AllOnline));
    done(&mut world, &offline("d"));
    assert!(heard(&mut world).blocks.iter().all(|b| b.online));
}

#[test]
fn a_vanished_machine_is_unreachable_and_says_so_once_and_for_all() {
    let mut world = World::small().with(Mood::Vanishes(Span::secs(1)));
    let events = finish(async {
        let mut link = world.connect();
        let first = link.watch(link.now() + Span::secs(5)).await;
        let second = link.watch(link.now() + Span::secs(5)).await;
        assert!(matches!(link.observe().await, Err(ObserveError::Unreachable(_))));
        assert!(matches!(link.apply(&offline("d"), link.now()).await, Err(ApplyError::Unknown(_))));
        [first, second]
    })
    .expect("links do not wait");
    assert!(events.iter().all(|e| matches!(e, Some(Event::Gone { .. }))), "{events:?}");
}

#[test]
fn a_late_eject_comes_after_everybody_has_stopped_waiting() {
    let mut world = with_dimm(Mood::EjectsLate(Span::secs(90)));
    let events = events_after(&mut world, &unplug("d"), Span::secs(60));
    assert_eq!(osts(&events), [(3, 0x84)]);
    world.pass(Span::secs(60));
    assert!(world.dimms().is_empty());
}

#[test]
fn a_removal_that_nobody_heard_fires_at_the_next_plug() {
    let mut world = with_dimm(Mood::NoAcpi);
    done(&mut world, &unplug("d"));
    world.pass(Span::secs(600));
    assert_eq!(world.dimms(), ["d"]);
    world.heal();
    plugged(&mut world, "e", 1);
    assert_eq!(world.dimms(), ["e"]);
}

#[test]
fn a_removal_that_overtakes_its_insertion_waits_for_the_next_scan() {
    let mut world = World::small().spare_backend("m", Bytes::gib(1));
    done(&mut world, &plug("d", "m", 0));
    done(&mut world, &unplug("d"));
    world.pass(Span::millis(45));
    assert_eq!(world.dimms(), ["d"]);
}

#[test]
fn some_guests_online_by_themselves() {
    let mut world = World::small().with(Mood::OnlinesItself(Span::millis(500)));
    assert_eq!(
        heard(&mut world).auto_online,
        Some(AutoOnline::Offline),
        "a udev rule is not the kernel's policy"
    );
    plugged(&mut world, "d", 0);
    assert_eq!(world.guest_total(), Bytes::mib(2048 - 40));
    let mut world = World::small().with(Mood::OnlinesItself(Span::millis(0)));
    assert_eq!(heard(&mut world).auto_online, Some(AutoOnline::Online));
}

#[test]
fn without_room_for_page_tables_nothing_appears() {
    let mut world = World::small().with(Mood::OutOfMetadata);
    plugged(&mut world, "d", 0);
    let Sight::Blocks(Some(GuestView::Shows(sight))) = look(&mut world, &Look::Blocks("d".into())) else {
        panic!("the agent answers")
    };
    assert_eq!((sight.covers, sight.blocks.len()), (8, 0));
}

#[test]
fn without_an_agent_the_balloon_may_still_tell() {
    let mut world = with_dimm(Mood::NoAgent).balloon(true);
    assert!(matches!(seen(&mut world).guest, Guest::Unheard(_)));
    let stats = seen(&mut world).memory.balloon.expect("there is one").stats.expect("it tells");
    assert_eq!(stats.total, Bytes::mib(2048 - 40));
    assert!(matches!(look(&mut world, &Look::Vcpus), Sight::Vcpus(GuestView::Unasked(_))));
    refused(&mut world, &offline("d"));
}

#[test]
fn a_filtered_agent_does_what_is_left() {
    let filtered = ["guest-exec", "guest-file-write", "guest-file-open"].map(String::from);
    let mut world = with_dimm(Mood::FilteredAgent(filtered.into()));
    done(&mut world, &offline("d"));
    assert!(refused(&mut world, &online("d", Zone::Movable)).contains("has been disabled"));
    done(&mut world, &online("d", Zone::Default));
}

#[test]
fn a_restart_empties_virtio_mem_and_forgets_zones() {
    let mut world = with_dimm(Mood::NoAcpi).virtio_mem("vm0", 0, Bytes::gib(2));
    done(&mut world, &unplug("d"));
    done(&mut world, &Act::ResizeVirtioMem { id: "vm0".into(), from: Bytes::ZERO, to: Bytes::mib(512) });
    world.pass(Span::secs(5));
    assert_eq!(seen(&mut world).memory.virtio_mem[0].size, Bytes::mib(512));
    world.put(Mood::Reboots(Span::millis(10)));
    world.pass(Span::millis(20));
    assert_eq!(seen(&mut world).memory.virtio_mem[0].size, Bytes::ZERO);
    world.pass(Span::secs(10));
    let seen = seen(&mut world);
    assert_eq!(seen.memory.virtio_mem[0].size, Bytes::mib(512), "the driver plugs what is still requested");
    assert_eq!(seen.memory.dimms.len(), 1, "a restart does not complete a removal");
    assert_eq!(heard(&mut world).blocks_in(&(32..40)).iter().filter(|b| b.online).count(), 0);
}

#[test]
fn lost_acts_and_lost_answers_look_alike() {
    let with = |faults| {
        let mut world = World::small().with_faults(1, faults);
        let answer = send(&mut world, &create("m", Bytes::gib(1)));
        (answer, world.spare_backends().len())
    };
    let (lost, unanswered) = (
        with(Faults { lost: 1000, ..Faults::default() }),
        with(Faults { unanswered: 1000, ..Faults::default() }),
    );
    assert_eq!(lost.0, unanswered.0);
    assert_eq!((lost.1, unanswered.1), (0, 1));
    assert!(matches!(with(Faults { refused: 1000, ..Faults::default() }), (Err(ApplyError::Refused(_)), 0)));
}

#[test]
fn dropped_events_leave_a_hint() {
    let mut world = World::small().with_faults(1, Faults { dropped: 1000, ..Faults::default() });
    done(&mut world, &create("m", Bytes::gib(1)));
    let events = events_after(&mut world, &plug("d", "m", 0), Span::secs(1));
    assert!(matches!(events[..], [Event::Other { .. }]), "{events:?}");
}

#[test]
fn nobody_hears_what_is_told_while_nobody_is_connected() {
    let mut world = World::small().boot_dimm("d", 0, Bytes::gib(1));
    done(&mut world, &unplug("d"));
    world.pass(Span::secs(1));
    let heard = finish(async {
        let mut link = world.connect();
        link.watch(link.now() + Span::secs(1)).await
    });
    assert_eq!(heard, Some(None));
}

#[test]
fn a_seed_repeats_a_world() {
    let story = |seed| {
        let mut world = World::small().with_seed(seed);
        for n in 0..8 {
            let (id, memdev) = (format!("d{n}"), format!("mem-d{n}"));
            let _ = send(&mut world, &create(&memdev, Bytes::gib(1)));
            let _ = send(&mut world, &plug(&id, &memdev, n));
            let _ = send(&mut world, &online(&id, Zone::Movable));
            let _ = send(&mut world, &unplug(&id));
        }
        world.log().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}

#[test]
fn a_clone_goes_its_own_way() {
    let mut world = World::small().boot_dimm("d", 0, Bytes::gib(1));
    let mut other = world.clone();
    done(&mut other, &unplug("d"));
    other.pass(Span::secs(1));
    assert_eq!((world.dimms().len(), other.dimms().len()), (1, 0));
    assert_eq!(seen(&mut world).memory.total(), Bytes::gib(2));
}
