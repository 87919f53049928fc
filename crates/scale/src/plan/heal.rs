//! What is plugged and not used: memory blocks and vCPUs that the guest shows and has not brought online.
//!
//! A resize that ended halfway, or a guest that onlines nothing by itself, leaves such things behind; they are part of
//! the size that was asked for, so asking for it again brings them online. A DIMM that the guest has processed and never
//! shown (it was short of memory for its page structures then) is unplugged and plugged again: Linux tries once. Where
//! the guest's kernel has `probe`, it is told of such a DIMM instead.

use super::make::{Part, Scene, make_known, scaled, step};
use super::place::own_prefix;
use super::zone::{Zones, shown_by};
use super::{Act, Obstacle, Proof, Step, Strength, Zone, vcpu, virtio_mem};
use crate::observed::{Dimm, DimmKind, Manager};
use crate::wanted::Mechanism;
use std::collections::BTreeSet;

/// Onlines the memory of devices that `parts` leave in place.
pub(super) fn memory(scene: &Scene<'_>, parts: &[Part]) -> Part {
    let footing = &scene.footing;
    if !footing.sets_blocks || scene.wanted.mechanism == Some(Mechanism::Balloon) {
        return Part::default();
    }
    let touched: BTreeSet<&str> = parts.iter().flat_map(Part::acts).filter_map(device).collect();
    let limits = scene.limits;
    let mut part = Part::default();
    // DIMMs of which the guest shows nothing and which nothing here mends: a step that breaks ends a run.
    let mut unlikely = Vec::new();
    let seen = &scene.seen.memory;
    let leaving: Vec<&str> = scene.seen.pending.iter().map(|p| p.device.id()).collect();
    for dimm in seen.dimms.iter().filter(|d| d.kind == DimmKind::Dimm && !d.id.is_empty()) {
        let range = dimm.blocks(footing.block);
        let shown = footing.blocks_in(&range);
        let all = shown.len() as u64 == range.end - range.start && shown.iter().all(|b| b.online);
        let stays = || !touched.contains(dimm.id.as_str()) && !leaving.contains(&dimm.id.as_str());
        if all || !stays() || !dimm.fits_blocks(footing.block) {
            continue;
        }
        let is_hidden = (shown.len() as u64) < range.end - range.start;
        let mut group = if is_hidden && footing.probes {
            vec![make_known(&dimm.id, dimm.size, Vec::new(), limits)]
        } else if was_swallowed(scene, dimm) {
            plugged_again(scene, dimm)
        } else {
            Vec::new()
        };
        let zone = match zone(scene, dimm) {
            Ok(zone) => zone,
            Err(obstacle) => {
                part.obstacles.push(obstacle);
                continue;
            }
        };
        let unused = shown.iter().all(|block| !block.online);
        let plugs = group.iter().any(|step| matches!(step.act, Act::PlugDimm { .. }));
        group.push(step(
            Act::OnlineBlocks { device: dimm.id.clone(), zone },
            shown_by(zone, &dimm.id, true, unused),
            Strength::GuestConfirmed,
            scaled(limits.online, limits.online, dimm.size),
            if plugs { vec![Act::OfflineBlocks { device: dimm.id.clone() }] } else { Vec::new() },
        ));
        if shown.is_empty() && group.len() == 1 && !footing.probes {
            unlikely.push(group);
        } else {
            part.groups.push(group);
        }
    }
    part.groups.append(&mut unlikely);
    for device in seen.virtio_mem.iter().filter(|v| !v.size.is_zero() && !touched.contains(v.id.as_str())) {
        let range = crate::observed::blocks_of(device.addr, device.max, footing.block);
        if footing.blocks_in(&range).iter().all(|b| b.online) {
            continue;
        }
        part.groups.push(vec![step(
            Act::OnlineBlocks { device: device.id.clone(), zone: virtio_mem::left_over(scene) },
            Proof::BlocksOnline { device: device.id.clone(), whole: false },
            Strength::GuestConfirmed,
            scaled(limits.online, limits.online, device.size),
            Vec::new(),
        )]);
    }
    if !part.groups.is_empty() {
        part.notes.push("the guest has memory plugged that it does not use; it is brought online".to_owned());
    }
    part
}

/// The zone that the DIMM would have got when it was plugged, so that it can be removed again.
fn zone(scene: &Scene<'_>, dimm: &Dimm) -> Result<Zone, Obstacle> {
    let others = scene.seen.memory.dimm_total().saturating_sub(dimm.size);
    Zones::new(scene, others).next(dimm.size)
}

/// True for a DIMM of ours that the guest's ACPI driver has taken in and of which the guest shows no block, while it
/// has the memory for it now. Linux reports success all the same (acpi_bus_attach, drivers/acpi/scan.c, 6.1).
fn was_swallowed(scene: &Scene<'_>, dimm: &Dimm) -> bool {
    let footing = &scene.footing;
    let taken_in = dimm.ost.is_some_and(|ost| matches!(ost.source, 1 | 0x200));
    let hidden = footing.blocks_in(&dimm.blocks(footing.block)).is_empty();
    let room = footing.kernel_free.map(|free| free.times(scene.limits.metadata_ratio));
    let ours = dimm.id.starts_with(own_prefix(scene.seen.machine.manager)) && !dimm.memdev.is_empty();
    taken_in && hidden && ours && room.is_some_and(|room| dimm.size <= room)
}

/// Takes a DIMM of which the guest uses nothing out, and puts it back where it was.
fn plugged_again(scene: &Scene<'_>, dimm: &Dimm) -> Vec<Step> {
    let (id, memdev, slot) = (dimm.id.clone(), dimm.memdev.clone(), dimm.slot);
    let out = Act::UnplugDimm { id: id.clone(), memdev: memdev.clone(), slot };
    let brings = match scene.seen.machine.manager {
        Manager::Nobody => None,
        Manager::Libvirt => Some(dimm.size),
    };
    vec![
        step(
            out.clone(),
            Proof::DimmGone { id: id.clone() },
            Strength::DriverConfirmed,
            scene.limits.unplug,
            Vec::new(),
        ),
        step(
            Act::PlugDimm { id: id.clone(), memdev, brings, slot, node: dimm.node, addr: Some(dimm.addr) },
            Proof::DimmSeen { id },
            Strength::GuestConfirmed,
            scene.limits.appear,
            vec![out],
        ),
    ]
}

/// Onlines the vCPUs that stay plugged, where `parts` do not already.
pub(super) fn vcpus(scene: &Scene<'_>, parts: &[Part]) -> Part {
    let changes = parts
        .iter()
        .flat_map(Part::acts)
        .any(|act| matches!(act, Act::PlugVcpu { .. } | Act::UnplugVcpu { .. } | Act::OnlineVcpus { .. }));
    let Some((shown, online)) = scene.footing.vcpus().filter(|_| !changes && scene.footing.sets_vcpus())
    else {
        return Part::default();
    };
    let count = scene.from.vcpus;
    if online >= count {
        return Part::default();
    }
    let mut group = Vec::new();
    if shown < count {
        // Plugged a moment ago by a run that was cut short, or never taken in by the guest.
        let Some(id) = scene.seen.vcpus.slots.iter().rev().find_map(vcpu::device) else {
            return Part::default();
        };
        group.push(step(
            Act::AwaitOnline { device: id.to_owned() },
            Proof::VcpuSeen { id: id.to_owned(), present: count },
            Strength::GuestConfirmed,
            scene.limits.appear,
            Vec::new(),
        ));
    }
    group.push(vcpu::online(scene, count));
    Part {
        groups: vec![group],
        notes: vec![format!("the guest uses {online} of its {count} vCPUs; the others are brought online")],
        ..Part::default()
    }
}

/// The memory device that an act deals with.
fn device(act: &Act) -> Option<&str> {
    match act {
        Act::UnplugDimm { id, .. } | Act::ResizeVirtioMem { id, .. } | Act::SettleVirtioMem { id } => {
            Some(id)
        }
        Act::MakeKnown { device, .. }
        | Act::OnlineBlocks { device, .. }
        | Act::OfflineBlocks { device }
        | Act::AwaitOnline { device } => Some(device),
        Act::CreateBackend { .. }
        | Act::DeleteBackend { .. }
        | Act::PlugDimm { .. }
        | Act::SetBalloon { .. }
        | Act::PlugVcpu { .. }
        | Act::UnplugVcpu { .. }
        | Act::OnlineVcpus { .. }
        | Act::Set { .. }
        | Act::GrowDisk { .. }
        | Act::GrowInGuest { .. } => None,
    }
}
