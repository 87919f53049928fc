//! vCPUs: which places are filled, which are emptied.
//!
//! Each vCPU is a group of its own, plugged and brought online: where the guest takes three of four, three stand and
//! are used. One onlining at the end would save a question to the agent for each vCPU, and would leave vCPUs behind
//! that are plugged and unused when it fails.

use super::make::{Part, Scene, step};
use super::{Act, OWN_PREFIX, Obstacle, Proof, Step, Strength, When, system};
use crate::observed::{PendingDevice, VcpuSlot, VcpuState};
use std::collections::{BTreeMap, BTreeSet};

/// The vCPUs that come, and the vCPUs that go, on the way to `asked`; one of both is empty.
pub(super) fn plan(scene: &Scene<'_>, asked: u32) -> (Part, Part) {
    let now = scene.from.vcpus;
    let (mut more, mut fewer) = (Part::default(), Part::default());
    if asked == now {
        return (more, fewer);
    }
    let part = if asked > now { &mut more } else { &mut fewer };
    if let Some(obstacle) = system::vcpus(scene, asked) {
        part.obstacles.push(obstacle);
        return (more, fewer);
    }
    *part = if asked > now { grow(scene, asked) } else { shrink(scene, asked) };
    let going: u32 = going(scene).iter().map(|slot| slot.count).sum();
    if going > now.saturating_sub(asked) {
        part.obstacles.push(pending(scene, now.saturating_sub(going)));
    }
    (more, fewer)
}

/// vCPUs that the guest was asked for earlier and may still give.
fn going<'a>(scene: &'a Scene<'_>) -> Vec<&'a VcpuSlot> {
    let asked = |id: &str| {
        scene.seen.pending.iter().any(|p| match &p.device {
            PendingDevice::Vcpu { id: pending } => pending == id,
            PendingDevice::Dimm { .. } => false,
        })
    };
    scene.seen.vcpus.slots.iter().filter(|slot| device(slot).is_some_and(asked)).collect()
}

fn pending(scene: &Scene<'_>, without: u32) -> Obstacle {
    let ids: Vec<&str> = going(scene).into_iter().filter_map(device).collect();
    Obstacle {
        when: When::NotNow,
        reason: format!(
            "the removal of {} is still asked of the guest, which may grant it at any time",
            ids.join(", ")
        ),
        way_out: format!(
            "wait until the guest has answered (supple observe shows it), or ask for the removal again: --vcpus {without}"
        ),
    }
}

fn grow(scene: &Scene<'_>, asked: u32) -> Part {
    let vcpus = &scene.seen.vcpus;
    if asked > vcpus.ceiling() {
        return Part::obstacle(
            When::Cold,
            format!("the machine was started for {} vCPUs at most", vcpus.ceiling()),
            format!("start the machine with -smp {},maxcpus={asked}", scene.from.vcpus),
        );
    }
    let mut load = load(vcpus.slots.iter());
    let mut free: Vec<&VcpuSlot> = vcpus.slots.iter().filter(|s| s.state == VcpuState::Free).collect();
    let mut taken: BTreeSet<String> = vcpus.slots.iter().filter_map(device).map(str::to_owned).collect();
    taken.extend(scene.seen.pending.iter().map(|p| p.device.id().to_owned()));
    let mut part = Part::default();
    let mut count = scene.from.vcpus;
    while count < asked {
        let fits = (0..free.len()).filter(|nth| free[*nth].count <= asked - count);
        let emptiest = fits.min_by_key(|nth| (node_load(&load, free[*nth]), *nth));
        let Some(nth) = emptiest else {
            part.obstacles.push(no_place(scene, asked, count, &free));
            return part;
        };
        let slot = free.remove(nth);
        *load.entry(slot.props.node_id).or_default() += slot.count;
        count += slot.count;
        let numbered = || (0..).map(|n| format!("{OWN_PREFIX}vcpu{n}")).find(|id| !taken.contains(id));
        let id = slot.name.clone().or_else(numbered).expect("endless");
        part.groups.push(plug(scene, slot, &id, count));
        taken.insert(id);
    }
    if scene.footing.vcpus().is_none() {
        part.notes.push(
            "no agent shows the guest's vCPUs; the proof is its ACPI driver's acknowledgement".to_owned(),
        );
    } else if !scene.footing.sets_vcpus() && system::acknowledges(scene) {
        part.notes.push(
            "the agent allows no guest-set-vcpus; the guest must online new vCPUs by itself".to_owned(),
        );
    }
    if let Some(system) = system::keeps_vcpus(scene) {
        part.notes.push(format!("{system} gives no vCPU back while it runs: what is plugged stays"));
    }
    part
}

fn plug(scene: &Scene<'_>, slot: &VcpuSlot, id: &str, count: u32) -> Vec<Step> {
    let strength = match scene.footing.vcpus() {
        Some(_) => Strength::GuestConfirmed,
        None => Strength::DriverConfirmed,
    };
    let mut group = vec![step(
        Act::PlugVcpu { id: id.to_owned(), driver: slot.driver.clone(), props: slot.props },
        Proof::VcpuSeen { id: id.to_owned(), present: count },
        strength,
        scene.limits.appear,
        match system::keeps_vcpus(scene) {
            Some(_) => Vec::new(),
            None => vec![Act::UnplugVcpu { id: id.to_owned() }],
        },
    )];
    if scene.footing.sets_vcpus() {
        group.push(online(scene, count));
    }
    group
}

/// The step that brings vCPUs online.
pub(super) fn online(scene: &Scene<'_>, count: u32) -> Step {
    step(
        Act::OnlineVcpus { count },
        Proof::VcpusOnline { count },
        Strength::GuestConfirmed,
        scene.limits.online,
        Vec::new(),
    )
}

fn no_place(scene: &Scene<'_>, asked: u32, count: u32, free: &[&VcpuSlot]) -> Obstacle {
    let barred = scene.seen.vcpus.slots.iter().find_map(|s| match &s.state {
        VcpuState::Barred(why) => Some(why.as_str()),
        VcpuState::Free | VcpuState::Boot | VcpuState::Device(_) => None,
    });
    if let Some(smallest) = free.iter().map(|s| s.count).min() {
        let (below, above) = (count, count + smallest);
        return Obstacle {
            when: When::Impossible,
            reason: format!("{asked} vCPUs cannot be made of places that hold {smallest} each"),
            way_out: format!("ask for --vcpus {below} or --vcpus {above}"),
        };
    }
    Obstacle {
        when: When::Cold,
        reason: match barred {
            Some(why) => format!("the machine has no place left that Supple can fill: {why}"),
            None => "the machine has no place left for a vCPU".to_owned(),
        },
        way_out: format!("ask for --vcpus {count}, or start the machine with all {asked}"),
    }
}

fn shrink(scene: &Scene<'_>, asked: u32) -> Part {
    let vcpus = &scene.seen.vcpus;
    let mut load = load(vcpus.slots.iter().filter(|s| s.state.is_taken()));
    let mut left: Vec<&VcpuSlot> = vcpus.slots.iter().filter(|s| device(s).is_some()).collect();
    let fixed = scene.from.vcpus - left.iter().map(|s| s.count).sum::<u32>();
    if asked < fixed {
        return Part::obstacle(
            When::Cold,
            format!("{fixed} of its vCPUs are there since boot (-smp {fixed}), and QEMU cannot remove those"),
            format!(
                "ask for --vcpus {fixed}, or start the machine with -smp {asked},maxcpus={}{}",
                vcpus.ceiling(),
                system::quota_instead(asked)
            ),
        );
    }
    let going: Vec<&str> = going(scene).into_iter().filter_map(device).collect();
    let mut part = Part::default();
    let mut count = scene.from.vcpus;
    while count > asked {
        // First what the guest was asked for earlier and may still give: it would come on top otherwise.
        let going = |nth: &usize| device(left[*nth]).is_some_and(|id| going.contains(&id));
        let fits = (0..left.len()).filter(|nth| left[*nth].count <= count - asked);
        let Some(nth) = fits.max_by_key(|nth| (going(nth), node_load(&load, left[*nth]), *nth)) else {
            part.obstacles.push(Obstacle {
                when: When::Impossible,
                reason: format!("{asked} vCPUs cannot be reached by removing whole cores"),
                way_out: format!("ask for --vcpus {count}"),
            });
            return part;
        };
        let slot = left.remove(nth);
        let entry = load.entry(slot.props.node_id).or_default();
        *entry = entry.saturating_sub(slot.count);
        count -= slot.count;
        let id = device(slot).expect("only devices are left").to_owned();
        part.groups.push(vec![step(
            Act::UnplugVcpu { id: id.clone() },
            Proof::VcpuGone { id },
            Strength::DriverConfirmed,
            scene.limits.unplug,
            Vec::new(),
        )]);
    }
    part
}

/// The id of the vCPU in a slot, if it has one.
pub(super) fn device(slot: &VcpuSlot) -> Option<&str> {
    match &slot.state {
        VcpuState::Device(id) if !id.is_empty() => Some(id),
        VcpuState::Device(_) | VcpuState::Free | VcpuState::Boot | VcpuState::Barred(_) => None,
    }
}

type Load = BTreeMap<Option<u32>, u32>;

/// vCPUs by node; where slots name no node, all are of one.
fn load<'a>(slots: impl Iterator<Item = &'a VcpuSlot>) -> Load {
    let mut load = Load::new();
    for slot in slots.filter(|s| s.state.is_taken()) {
        *load.entry(slot.props.node_id).or_default() += slot.count;
    }
    load
}

fn node_load(load: &Load, slot: &VcpuSlot) -> u32 {
    load.get(&slot.props.node_id).copied().unwrap_or(0)
}
