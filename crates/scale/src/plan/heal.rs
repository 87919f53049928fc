//! What is plugged and not used: memory blocks and vCPUs that the guest shows and has not brought online.
//!
//! A resize that ended halfway, or a guest that onlines nothing by itself, leaves such things behind; they are part of
//! the size that was asked for, so asking for it again brings them online.

use super::make::{Part, Scene, scaled, step};
use super::{Act, Proof, Strength, Zone, vcpu};
use crate::observed::DimmKind;
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
    let seen = &scene.seen.memory;
    let leaving: Vec<&str> = scene.seen.pending.iter().map(|p| p.device.id()).collect();
    for dimm in seen.dimms.iter().filter(|d| d.kind == DimmKind::Dimm && !d.id.is_empty()) {
        let range = dimm.blocks(footing.block);
        let shown = footing.blocks_in(&range);
        let all = shown.len() as u64 == range.end - range.start && shown.iter().all(|b| b.online);
        let stays = !touched.contains(dimm.id.as_str()) && !leaving.contains(&dimm.id.as_str());
        if all || !stays || !dimm.fits_blocks(footing.block) {
            continue;
        }
        part.groups.push(vec![step(
            Act::OnlineBlocks { device: dimm.id.clone(), zone: Zone::Default },
            Proof::BlocksOnline { device: dimm.id.clone(), whole: true },
            Strength::GuestConfirmed,
            scaled(limits.online, limits.online, dimm.size),
            Vec::new(),
        )]);
    }
    for device in seen.virtio_mem.iter().filter(|v| !v.size.is_zero() && !touched.contains(v.id.as_str())) {
        let range = crate::observed::blocks_of(device.addr, device.max, footing.block);
        if footing.blocks_in(&range).iter().all(|b| b.online) {
            continue;
        }
        part.groups.push(vec![step(
            Act::OnlineBlocks { device: device.id.clone(), zone: Zone::Default },
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
    if online >= count || shown < count {
        return Part::default();
    }
    Part {
        groups: vec![vec![vcpu::online(scene, count)]],
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
        Act::OnlineBlocks { device, .. } | Act::OfflineBlocks { device } | Act::AwaitOnline { device } => {
            Some(device)
        }
        Act::CreateBackend { .. }
        | Act::DeleteBackend { .. }
        | Act::PlugDimm { .. }
        | Act::SetBalloon { .. }
        | Act::PlugVcpu { .. }
        | Act::UnplugVcpu { .. }
        | Act::OnlineVcpus { .. } => None,
    }
}
