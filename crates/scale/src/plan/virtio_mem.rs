//! Memory by virtio-mem: how much of a change its devices take, and the steps.
//!
//! The Linux driver stops when more than 1 GiB of what it added is still offline (drivers/virtio/virtio_mem.c,
//! `offline_threshold`, 6.1), so a guest that does not online by itself gets its memory in chunks, each onlined before
//! the next. A shrink is one step: whatever part of it the guest grants stands.

use super::make::{Part, Scene, scaled, step};
use super::resolve::Delta;
use super::zone::{Zones, shown_by};
use super::{Act, Obstacle, Proof, Step, Strength, When, Zone, dimm, system};
use crate::observed::{VirtioMem, blocks_of};
use crate::units::Bytes;
use crate::wanted::ZoneWish;

/// The most that is added before the guest is helped to online it.
const CHUNK: Bytes = Bytes::gib(1);

/// What the devices are to hold.
#[derive(Debug)]
pub(super) struct Share {
    /// For each device of the machine, in its order.
    sizes: Vec<Bytes>,
    before: Vec<(u32, Bytes)>,
    /// How much of the change this is.
    pub(super) moved: Bytes,
}

impl Share {
    /// What all devices hold once they have done their part.
    pub(super) fn held(&self) -> Bytes {
        self.sizes.iter().copied().sum()
    }

    /// Brings the memory of each node to where it is once the devices have done their part.
    pub(super) fn shift(&self, nodes: &mut [(u32, Bytes)]) {
        for ((node, before), after) in self.before.iter().zip(&self.sizes) {
            if let Some((_, memory)) = nodes.iter_mut().find(|(id, _)| id == node) {
                *memory = (*memory + *after).saturating_sub(*before);
            }
        }
    }
}

/// Divides a change among the devices, and leaves to DIMMs what is beyond them in whole `unit`s.
pub(super) fn share(scene: &Scene<'_>, delta: Delta, unit: Bytes) -> Share {
    let devices = eligible(scene);
    match delta {
        Delta::Grow(by) => {
            let spare: Bytes = devices.iter().map(|v| v.max.saturating_sub(v.size).round_down(v.block)).sum();
            let dimms = by.saturating_sub(spare).round_up(unit).min(by);
            spread(scene, Delta::Grow(by - dimms))
        }
        Delta::Shrink(by) => {
            let dimms = by.saturating_sub(held(scene)).round_up(unit).min(by);
            spread(scene, Delta::Shrink(by - dimms))
        }
    }
}

/// The whole change by virtio-mem, which was asked for by name.
pub(super) fn alone(scene: &Scene<'_>, delta: Delta) -> Part {
    if scene.seen.memory.virtio_mem.is_empty() {
        return Part::obstacle(
            When::Cold,
            "the machine has no virtio-mem device".to_owned(),
            "start the machine with one (-device virtio-mem-pci), or leave the mechanism to Supple"
                .to_owned(),
        );
    }
    let (Delta::Grow(by) | Delta::Shrink(by)) = delta;
    let share = spread(scene, delta);
    let mut part = steps(scene, &share);
    if share.moved != by {
        part.obstacles.push(too_much(scene, delta, by));
    }
    part
}

fn too_much(scene: &Scene<'_>, delta: Delta, by: Bytes) -> Obstacle {
    let devices = eligible(scene);
    let block = devices.iter().map(|v| v.block).min().unwrap_or(Bytes::new(1));
    if !by.is_multiple_of(block) {
        return dimm::misfit(scene, block);
    }
    let held = held(scene);
    let most: Bytes = devices.iter().map(|v| v.max).sum();
    let from = scene.from.memory;
    let (what, limit) = match delta {
        Delta::Grow(_) => ("hold", from.saturating_sub(held) + most),
        Delta::Shrink(_) => ("give back", from.saturating_sub(held)),
    };
    Obstacle {
        when: When::NotNow,
        reason: format!("its virtio-mem devices cannot {what} {by} more: they hold {held} of {most}"),
        way_out: format!("ask for --memory {}, or leave the mechanism to Supple", dimm::exact(limit)),
    }
}

fn eligible<'a>(scene: &'a Scene<'_>) -> Vec<&'a VirtioMem> {
    if !system::uses_virtio_mem(scene) {
        return Vec::new();
    }
    let node = scene.wanted.node;
    scene.seen.memory.virtio_mem.iter().filter(|v| node.is_none_or(|n| n == v.node)).collect()
}

/// What the devices that the change is to be made with hold.
pub(super) fn held(scene: &Scene<'_>) -> Bytes {
    eligible(scene).iter().map(|v| v.size).sum()
}

/// Gives or takes in slices, each at the node with the least or most memory that can.
fn spread(scene: &Scene<'_>, delta: Delta) -> Share {
    let devices = &scene.seen.memory.virtio_mem;
    let mut share = Share {
        sizes: devices.iter().map(|v| v.size).collect(),
        before: devices.iter().map(|v| (v.node, v.size)).collect(),
        moved: Bytes::ZERO,
    };
    let (Delta::Grow(by) | Delta::Shrink(by)) = delta;
    let slice = by.per(64);
    let mut nodes = super::memory::nodes(scene);
    let can = |share: &Share, nth: usize| {
        let device = &devices[nth];
        if scene.wanted.node.is_some_and(|n| n != device.node) {
            return Bytes::ZERO;
        }
        let room = match delta {
            Delta::Grow(_) => device.max.saturating_sub(share.sizes[nth]),
            Delta::Shrink(_) => share.sizes[nth],
        };
        let left = by - share.moved;
        slice.round_up(device.block).min(room.round_down(device.block)).min(left.round_down(device.block))
    };
    loop {
        let load = |nth: usize| {
            nodes.iter().find(|(id, _)| *id == devices[nth].node).map_or(Bytes::ZERO, |(_, memory)| *memory)
        };
        let able = (0..devices.len()).filter(|nth| !can(&share, *nth).is_zero());
        let next = match delta {
            Delta::Grow(_) => able.min_by_key(|nth| (load(*nth), *nth)),
            Delta::Shrink(_) => able.max_by_key(|nth| (load(*nth), std::cmp::Reverse(*nth))),
        };
        let Some(nth) = next else { return share };
        let part = can(&share, nth);
        let before = share.sizes[nth];
        share.sizes[nth] = match delta {
            Delta::Grow(_) => before + part,
            Delta::Shrink(_) => before - part,
        };
        share.moved = share.moved + part;
        if let Some((_, memory)) = nodes.iter_mut().find(|(id, _)| *id == devices[nth].node) {
            *memory = (*memory + share.sizes[nth]).saturating_sub(before);
        }
    }
}

/// The steps that bring each device to its share. One that is on its way elsewhere is called back as well.
pub(super) fn steps(scene: &Scene<'_>, share: &Share) -> Part {
    let mut part = Part::default();
    let mut zones = Zones::new(scene, super::memory::hotplugged(scene));
    for (device, target) in scene.seen.memory.virtio_mem.iter().zip(&share.sizes) {
        if device.size == *target && device.requested == *target {
            continue;
        }
        if *target > device.size {
            part.adds_memory = true;
            part.peak = part.peak + (*target - device.size);
            if let Err(obstacle) = grow(scene, device, *target, &mut zones, &mut part) {
                part.obstacles.push(obstacle);
            }
        } else {
            let taken = device.size - *target;
            part.idle = part.idle + scene.footing.idle(device.addr, device.max, device.size).min(taken);
            part.groups.push(vec![resize(scene, device, device.requested, *target, taken)]);
        }
    }
    part.notes.extend(zones.note().filter(|_| part.adds_memory));
    part
}

fn grow(
    scene: &Scene<'_>,
    device: &VirtioMem,
    target: Bytes,
    zones: &mut Zones<'_>,
    part: &mut Part,
) -> Result<(), Obstacle> {
    let footing = &scene.footing;
    let helped = footing.sets_blocks && !footing.onlines_itself();
    let chunk = if helped { CHUNK.round_down(device.block).max(device.block) } else { target };
    if !footing.onlines_itself() && !helped {
        part.notes.push(format!(
            "nobody is known to online what {} adds; a Linux guest stops at 1 GiB offline",
            device.id
        ));
    }
    let range = blocks_of(device.addr, device.max, footing.block);
    if helped && footing.blocks_in(&range).iter().any(|b| !b.online) {
        // An earlier run was cut short here: a driver that waits for these would wait for ever.
        part.groups.push(vec![online(scene, device, left_over(scene), device.size)]);
    }
    let (mut at, mut requested) = (device.size, device.requested);
    while at < target {
        let next = target.min(at + chunk);
        let zone = zones.next(next - at)?;
        let mut group = vec![resize(scene, device, requested, next, next - at)];
        if helped {
            group.push(online(scene, device, zone, next - at));
        } else if footing.shows_blocks {
            // The device's size tells of what the driver has added, and Linux puts that online a little later.
            group.push(await_online(scene, device, next - at));
        }
        part.groups.push(group);
        (at, requested) = (next, next);
    }
    Ok(())
}

/// The zone of what an earlier run left offline.
pub(super) fn left_over(scene: &Scene<'_>) -> Zone {
    match scene.wanted.zone {
        ZoneWish::Movable if scene.footing.chooses_zone => Zone::Movable,
        ZoneWish::Movable | ZoneWish::Auto | ZoneWish::Kernel => Zone::Default,
    }
}

fn await_online(scene: &Scene<'_>, device: &VirtioMem, size: Bytes) -> Step {
    step(
        Act::AwaitOnline { device: device.id.clone() },
        Proof::BlocksOnline { device: device.id.clone(), whole: false },
        Strength::GuestConfirmed,
        scaled(scene.limits.online, scene.limits.online, size),
        Vec::new(),
    )
}

fn online(scene: &Scene<'_>, device: &VirtioMem, zone: Zone, size: Bytes) -> Step {
    step(
        Act::OnlineBlocks { device: device.id.clone(), zone },
        shown_by(zone, &device.id, false, device.size.is_zero()),
        Strength::GuestConfirmed,
        scaled(scene.limits.online, scene.limits.online, size),
        Vec::new(),
    )
}

fn resize(scene: &Scene<'_>, device: &VirtioMem, from: Bytes, to: Bytes, moved: Bytes) -> Step {
    let id = device.id.clone();
    step(
        Act::ResizeVirtioMem { id: id.clone(), from, to },
        Proof::VirtioMemSize { id: id.clone(), size: to },
        Strength::DriverConfirmed,
        scaled(scene.limits.appear, scene.limits.per_gib, moved),
        vec![Act::SettleVirtioMem { id }],
    )
}

/// Why DIMMs have a part in it.
pub(super) fn why_dimms(scene: &Scene<'_>, delta: Delta) -> String {
    if scene.seen.memory.virtio_mem.is_empty() {
        return "by DIMM: the machine has no virtio-mem device".to_owned();
    }
    if !system::uses_virtio_mem(scene) {
        return "by DIMM: such a guest has no driver for virtio-mem".to_owned();
    }
    if eligible(scene).is_empty() {
        return "by DIMM: the node has no virtio-mem device".to_owned();
    }
    match delta {
        Delta::Grow(_) => "partly by DIMM: the virtio-mem devices hold no more".to_owned(),
        Delta::Shrink(_) => "partly by DIMM: the virtio-mem devices have no more to give".to_owned(),
    }
}
