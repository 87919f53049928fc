//! What is known of the guest's system (`guests`): it is never asked for what such a system cannot do.
//!
//! Only a plain "no" with a source counts; what may work is tried, and the proof tells. What the machine itself has shown
//! outweighs what is known of its kind.

use super::make::{Part, Scene};
use super::resolve::Delta;
use super::{Act, Obstacle, When, balloon, dimm, virtio_mem};
use crate::guests::{Can, Claim, Row, System, lookup};
use crate::units::Bytes;
use crate::wanted::Mechanism;

/// The guest's row in the support matrix.
fn row(scene: &Scene<'_>) -> Option<&'static Row> {
    lookup(scene.seen.guest.heard()?.system.as_ref()?)
}

/// What a row says, as a reason: what it is cited for, and the words.
type Says = (Claim, &'static str);
const TAKES_NO_DIMM: Says = (Claim::TakesDimm, "takes no DIMM while it runs");
const GIVES_NO_DIMM: Says = (Claim::GivesDimm, "gives no DIMM back while it runs");
const TAKES_NO_VCPU: Says = (Claim::TakesVcpu, "takes no vCPU while it runs");
const GIVES_NO_VCPU: Says = (Claim::GivesVcpu, "gives no vCPU back while it runs");
const NO_VIRTIO_MEM: Says = (Claim::Drivers, "has no driver for virtio-mem");
const NO_BALLOON: Says = (Claim::Drivers, "has no driver for the balloon");

fn obstacle(row: &Row, (claim, what): Says, when: When, way_out: String) -> Obstacle {
    let source = row.source(claim).map(|source| format!(" ({})", source.title)).unwrap_or_default();
    Obstacle { when, reason: format!("{} {what}{source}", row.title()), way_out }
}

/// What keeps the guest from taking more vCPUs, or fewer.
pub(super) fn vcpus(scene: &Scene<'_>, asked: u32) -> Option<Obstacle> {
    let row = row(scene)?;
    if asked > scene.from.vcpus {
        let way_out = format!("start the machine with {asked} vCPUs");
        return (row.vcpus.add == Can::No).then(|| obstacle(row, TAKES_NO_VCPU, When::Cold, way_out));
    }
    let never = row.vcpus.remove == Can::No && !scene.seen.vcpus.removed_before;
    never.then(|| {
        let way_out = format!("start the machine with {asked} vCPUs{}", quota_instead(asked));
        obstacle(row, GIVES_NO_VCPU, When::Cold, way_out)
    })
}

/// The same computing power without taking a vCPU away: a way that every guest goes.
pub(super) fn quota_instead(vcpus: u32) -> String {
    format!(", or limit its computing power to as much now, which any guest bears: --cpu-limit {vcpus}")
}

/// The system, where it is known never to give a DIMM back nor to say anything of one: it is not asked for what was
/// plugged. An old Linux answers, and a DIMM that it never had in use may come out.
pub(super) fn keeps_dimms_for_good(scene: &Scene<'_>) -> Option<String> {
    row(scene).filter(|row| row.memory.remove == Can::No && !acknowledges(scene)).map(Row::title)
}

/// The system, where it is known never to give a vCPU back.
pub(super) fn keeps_vcpus(scene: &Scene<'_>) -> Option<String> {
    row(scene).filter(|row| row.vcpus.remove == Can::No && !scene.seen.vcpus.removed_before).map(Row::title)
}

/// False where it is not known that the guest tells QEMU of a device that it has taken in. Linux does (`acpi_evaluate_ost`,
/// drivers/acpi/scan.c, 6.1); of Windows its maker describes each step of a hot-add and no such word (Microsoft, Operating
/// system support for hot-add memory in Windows Server).
pub(super) fn acknowledges(scene: &Scene<'_>) -> bool {
    let heard = scene.seen.guest.heard();
    heard.and_then(|facts| facts.system.as_ref()).is_none_or(System::is_linux)
}

/// True where a virtio-mem device is of use to the guest: it has a driver, or has used the device before.
pub(super) fn uses_virtio_mem(scene: &Scene<'_>) -> bool {
    let used = scene.seen.memory.virtio_mem.iter().any(|device| !device.size.is_zero());
    used || row(scene).is_none_or(|row| row.memory.virtio_mem != Can::No)
}

/// What keeps the guest from a change of its memory, by the acts of it.
pub(super) fn memory(scene: &Scene<'_>, delta: Delta, part: &Part) -> Vec<Obstacle> {
    let Some(row) = row(scene) else { return Vec::new() };
    let has = |wanted: fn(&Act) -> bool| part.acts().any(wanted);
    let mut found = Vec::new();
    if row.memory.add == Can::No && has(|act| matches!(act, Act::PlugDimm { .. })) {
        let way_out = "start the machine with that much memory".to_owned();
        found.push(obstacle(row, TAKES_NO_DIMM, When::Cold, way_out));
    }
    let asked = scene.wanted.mechanism == Some(Mechanism::VirtioMem);
    if asked && !uses_virtio_mem(scene) && !matches!(delta, Delta::Grow(Bytes::ZERO)) {
        let way_out = "leave the mechanism to Supple".to_owned();
        found.push(obstacle(row, NO_VIRTIO_MEM, When::Impossible, way_out));
    }
    if row.memory.balloon == Can::No && has(|act| matches!(act, Act::SetBalloon { .. })) {
        let way_out = "leave the mechanism to Supple".to_owned();
        found.push(obstacle(row, NO_BALLOON, When::Impossible, way_out));
    }
    found
}

/// Why the guest gives no memory back, where DIMMs would have to go and such a system never lets one go.
pub(super) fn keeps_dimms(scene: &Scene<'_>, delta: Delta) -> Option<Obstacle> {
    let row = row(scene).filter(|row| row.memory.remove == Can::No)?;
    let Delta::Shrink(by) = delta else { return None };
    let by_virtio_mem = match scene.wanted.mechanism {
        None => virtio_mem::held(scene),
        Some(Mechanism::Dimm) => Bytes::ZERO,
        Some(Mechanism::VirtioMem | Mechanism::Balloon) => return None,
    };
    (by > by_virtio_mem).then(|| {
        let size = dimm::exact(scene.asked_memory());
        let balloon = match scene.seen.memory.balloon.is_some() && row.memory.balloon != Can::No {
            true => {
                format!(", or have the balloon take it, which removes nothing: {}", balloon::option(&size))
            }
            false => String::new(),
        };
        obstacle(row, GIVES_NO_DIMM, When::Cold, format!("start the machine with {size}{balloon}"))
    })
}
