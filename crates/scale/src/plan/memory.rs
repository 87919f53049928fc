//! Memory: which mechanism does how much of the change.
//!
//! virtio-mem first, DIMMs for what it cannot do, the balloon only where it was asked for by name. A change goes one
//! way only, so no two mechanisms ever pull against each other.

use super::make::{Part, Scene};
use super::resolve::Delta;
use super::{When, balloon, danger, dimm, host, system, virtio_mem};
use crate::units::Bytes;
use crate::wanted::Mechanism;

/// Plans the way to `asked` bytes in total.
pub(super) fn plan(scene: &Scene<'_>, asked: Bytes) -> Part {
    if let Some(part) = unknown_node(scene) {
        return part;
    }
    let delta = Delta::between(scene.from.memory, asked);
    if let Some(obstacle) = system::keeps_dimms(scene, delta) {
        return Part { obstacles: vec![obstacle], ..Part::default() };
    }
    let mut part = match scene.wanted.mechanism {
        Some(Mechanism::Balloon) => balloon::plan(scene, delta),
        Some(Mechanism::Dimm) => bounded(scene, asked, |scene| {
            dimm::plan(scene, delta, dimm::Before { nodes: nodes(scene), hotplugged: hotplugged(scene) })
        }),
        Some(Mechanism::VirtioMem) => bounded(scene, asked, |scene| virtio_mem::alone(scene, delta)),
        None => bounded(scene, asked, |scene| shared(scene, delta)),
    };
    part.obstacles.extend(system::memory(scene, delta, &part));
    part.obstacles.extend(danger::shrink(scene, delta, &part));
    part.obstacles.extend(host::lacks(scene, &part));
    part.notes.extend(host::overcommit(scene, &part));
    part.notes.extend(danger::unwatched(scene, delta, &part));
    part
}

/// The memory of each node.
pub(super) fn nodes(scene: &Scene<'_>) -> Vec<(u32, Bytes)> {
    let nodes: Vec<(u32, Bytes)> = scene.seen.memory.nodes.iter().map(|n| (n.id, n.memory)).collect();
    if nodes.is_empty() { vec![(0, scene.seen.memory.total())] } else { nodes }
}

/// What is hot-plugged now.
pub(super) fn hotplugged(scene: &Scene<'_>) -> Bytes {
    scene.seen.memory.total().saturating_sub(scene.seen.memory.boot)
}

fn shared(scene: &Scene<'_>, delta: Delta) -> Part {
    let share = match delta {
        Delta::Grow(_) => virtio_mem::share(scene, delta, dimm::unit(scene)),
        // First the DIMMs that the guest was asked for earlier and may still give: they would come on top otherwise.
        Delta::Shrink(by) => {
            let left = Delta::Shrink(by.saturating_sub(dimm::going(scene)));
            virtio_mem::share(scene, left, dimm::unit(scene))
        }
    };
    let mut part = virtio_mem::steps(scene, &share);
    let mut nodes = nodes(scene);
    share.shift(&mut nodes);
    let rest = match delta {
        Delta::Grow(by) => Delta::Grow(by.saturating_sub(share.moved)),
        Delta::Shrink(by) => Delta::Shrink(by.saturating_sub(share.moved)),
    };
    let hotplugged = scene.seen.memory.dimm_total() + share.held();
    let mut dimms = dimm::plan(scene, rest, dimm::Before { nodes, hotplugged });
    if !dimms.groups.is_empty() {
        part.notes.push(virtio_mem::why_dimms(scene, delta));
    }
    if matches!(delta, Delta::Shrink(_)) && dimms.adds_memory {
        // DIMMs are merged: what they add comes before anything is taken.
        dimms.then(part);
        return dimms;
    }
    part.then(dimms);
    part
}

/// The most that a shrink could take now, by what each mechanism holds.
pub(super) fn removable(scene: &Scene<'_>) -> Bytes {
    match scene.wanted.mechanism {
        Some(Mechanism::Balloon) => Bytes::ZERO,
        Some(Mechanism::Dimm) => dimm::removable(scene),
        Some(Mechanism::VirtioMem) => virtio_mem::held(scene),
        None => virtio_mem::held(scene) + dimm::removable(scene),
    }
}

fn unknown_node(scene: &Scene<'_>) -> Option<Part> {
    let node = scene.wanted.node?;
    let nodes = nodes(scene);
    if nodes.iter().any(|(id, _)| *id == node) {
        return None;
    }
    let ids: Vec<String> = nodes.iter().map(|(id, _)| id.to_string()).collect();
    Some(Part::obstacle(
        When::Impossible,
        format!("the machine has no NUMA node {node}"),
        format!("name one of its nodes: {}", ids.join(", ")),
    ))
}

/// What no mechanism but the balloon can go beyond: boot memory below, the ceiling above.
fn bounded(scene: &Scene<'_>, asked: Bytes, plan: impl Fn(&Scene<'_>) -> Part) -> Part {
    let memory = &scene.seen.memory;
    if asked == scene.from.memory {
        return plan(scene);
    }
    if asked < memory.boot {
        let balloon = match memory.balloon {
            Some(_) => ", or take it with the balloon: --mechanism balloon",
            None => "",
        };
        return Part::obstacle(
            When::Cold,
            format!("boot memory ({}) cannot be removed from a running machine", memory.boot),
            format!("start the machine with -m {}{balloon}", dimm::exact(asked)),
        );
    }
    if asked > memory.ceiling && asked > scene.from.memory {
        return Part::obstacle(
            When::Cold,
            format!("the machine was started with a ceiling of {}", memory.ceiling),
            format!(
                "start the machine with -m {},slots={},maxmem={} or more",
                dimm::exact(memory.boot),
                if memory.slots == 0 { 16 } else { memory.slots },
                dimm::exact(asked.round_up(Bytes::mib(1))),
            ),
        );
    }
    plan(scene)
}
