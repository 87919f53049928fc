//! The world keeps the rules of QEMU and Linux that a resizer meets. Each claim here stands for a fact of
//! docs/qemu.md that was seen on real machines or read in their sources.

mod dimensions;
mod guest;
mod moods;
mod qemu;

use drive::{ApplyError, Hypervisor};
use scale::observed::{Backing, Guest, GuestFacts, Observed};
use scale::plan::{Act, Zone};
use scale::sight::{Event, Look, Sight};
use scale::time::Span;
use scale::units::Bytes;
use sim::{World, finish};

fn create(memdev: &str, size: Bytes) -> Act {
    Act::CreateBackend { memdev: memdev.into(), size, backing: Backing::Ram, placement: Default::default() }
}

fn plug(id: &str, memdev: &str, slot: u32) -> Act {
    Act::PlugDimm { id: id.into(), memdev: memdev.into(), brings: None, slot, node: 0, addr: None }
}

fn unplug(id: &str) -> Act {
    Act::UnplugDimm { id: id.into(), memdev: format!("mem-{id}"), slot: 0 }
}

fn online(device: &str, zone: Zone) -> Act {
    Act::OnlineBlocks { device: device.into(), zone }
}

fn offline(device: &str) -> Act {
    Act::OfflineBlocks { device: device.into() }
}

/// Sends an act with 30 s to be answered.
fn send(world: &mut World, act: &Act) -> Result<(), ApplyError> {
    finish(async {
        let mut link = world.connect();
        let until = link.now() + Span::secs(30);
        link.apply(act, until).await
    })
    .expect("links do not wait")
}

#[track_caller]
fn done(world: &mut World, act: &Act) {
    assert_eq!(send(world, act), Ok(()), "{act}");
}

#[track_caller]
fn refused(world: &mut World, act: &Act) -> String {
    match send(world, act) {
        Err(ApplyError::Refused(why)) => why,
        other => panic!("{act}: {other:?}"),
    }
}

fn look(world: &mut World, look: &Look) -> Sight {
    finish(async { world.connect().look(look).await }).expect("links do not wait").expect("QEMU is there")
}

fn seen(world: &mut World) -> Observed {
    finish(async { world.connect().observe().await }).expect("links do not wait").expect("QEMU is there")
}

fn heard(world: &mut World) -> GuestFacts {
    match seen(world).guest {
        Guest::Heard(facts) => *facts,
        Guest::Unheard(why) => panic!("{why}"),
    }
}

/// Everything that is told within so long of sending an act.
fn events_after(world: &mut World, act: &Act, span: Span) -> Vec<Event> {
    finish(async {
        let mut link = world.connect();
        let until = link.now() + span;
        link.apply(act, until).await.expect("accepted");
        let mut events = Vec::new();
        while let Some(event) = link.watch(until).await {
            events.push(event);
        }
        events
    })
    .expect("links do not wait")
}

/// The source and status of ACPI's reports among these events.
fn osts(events: &[Event]) -> Vec<(u64, u64)> {
    events
        .iter()
        .filter_map(
            |e| if let Event::Ost { source, status, .. } = e { Some((*source, *status)) } else { None },
        )
        .collect()
}

/// One DIMM of 1 GiB in slot 0, made, plugged and seen by the guest, not online.
fn plugged(world: &mut World, id: &str, slot: u32) {
    let memdev = format!("mem-{id}");
    done(world, &create(&memdev, Bytes::gib(1)));
    done(world, &plug(id, &memdev, slot));
    world.pass(Span::secs(1));
}
