//! Known dangers, refused with their reason.
//!
//! Each stands for something that has killed a machine, its guest or a later change somewhere. Where the danger lies
//! only in part of a plan, only plans with that part are refused.

use super::dimm::{self, exact};
use super::make::{Part, Scene};
use super::resolve::Delta;
use super::{Act, Obstacle, When, system};
use crate::generations::DIES_AFTER_A_VCPU_REMOVAL;
use crate::observed::{Accel, Backing, Pending, PendingDevice, VcpuSlot};
use crate::units::Bytes;
use crate::wanted::Mechanism;

/// Dangers of a plan as a whole.
pub(super) fn whole(scene: &Scene<'_>, parts: &[Part]) -> Vec<Obstacle> {
    let has = |wanted: fn(&Act) -> bool| parts.iter().flat_map(Part::acts).any(wanted);
    let refused = parts.iter().any(|part| !part.obstacles.is_empty());
    let mut found = Vec::new();
    if has(|act| !matches!(act, Act::DeleteBackend { .. })) || refused {
        found.extend(machine(scene));
    }
    if has(|act| matches!(act, Act::PlugDimm { .. })) {
        found.extend(plugging(scene, parts));
    }
    if has(|act| matches!(act, Act::PlugDimm { .. } | Act::UnplugDimm { .. } | Act::PlugVcpu { .. })) {
        found.extend(after_vcpu_removal(scene));
    }
    if has(|act| matches!(act, Act::PlugVcpu { .. } | Act::UnplugVcpu { .. })) {
        found.extend(before_a_late_dimm(scene, parts));
    }
    if scene.seen.machine.accel == Accel::Tcg {
        found.extend(too_many_vcpus(scene, parts));
        if has(|act| matches!(act, Act::UnplugVcpu { .. })) {
            found.extend(removal_from_one_thread(scene));
        }
    }
    found
}

/// What keeps the machine from any change now.
pub(super) fn machine(scene: &Scene<'_>) -> Vec<Obstacle> {
    let machine = &scene.seen.machine;
    let mut found = Vec::new();
    if !machine.is_running() {
        found.push(Obstacle {
            when: When::NotNow,
            reason: format!("the machine is {}, so its guest can answer nothing", machine.state),
            way_out: "resume the machine first".to_owned(),
        });
    }
    if !machine.busy.is_empty() {
        found.push(Obstacle {
            when: When::NotNow,
            reason: format!("the machine is busy: {}", machine.busy.join(", ")),
            way_out: "wait until that is over".to_owned(),
        });
    }
    found
}

/// DIMMs that are proven gone by the time that the first one is added.
fn unplugged_before_any_plug(parts: &[Part]) -> Vec<&str> {
    let first = parts.iter().flat_map(Part::acts).take_while(|act| !matches!(act, Act::PlugDimm { .. }));
    first.filter_map(Act::removed).collect()
}

/// Dangers of adding a DIMM.
fn plugging(scene: &Scene<'_>, parts: &[Part]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let answered = unplugged_before_any_plug(parts);
    let pending: Vec<&str> = dimm::pending(scene).filter(|id| !answered.contains(id)).collect();
    if !pending.is_empty() {
        // The request stays in the slot's register and is raised again with the next memory event
        // (hw/acpi/memory_hotplug.c, 7.2 and 10.0).
        found.push(Obstacle {
            when: When::NotNow,
            reason: format!(
                "the removal of {} is still asked of the guest, and adding a DIMM would raise that request again",
                pending.join(", ")
            ),
            way_out: "wait until the guest has answered (supple observe shows it), or ask for the removal again"
                .to_owned(),
        });
    }
    found.extend(unknown_backing(scene, parts));
    found
}

/// Memory of a kind that nobody here can make more of. libvirt makes a DIMM's backend itself.
fn unknown_backing(scene: &Scene<'_>, parts: &[Part]) -> Option<Obstacle> {
    let mut made = parts.iter().flat_map(Part::acts).filter_map(|act| {
        if let Act::CreateBackend { backing: Backing::Unknown(what), .. } = act { Some(what) } else { None }
    });
    let what = made.next()?;
    let known = scene.seen.memory.nodes.iter().map(|node| node.id).find(|node| {
        let (backing, _) = scene.seen.memory.source_of_node(*node);
        !matches!(backing, Backing::Unknown(_))
    });
    let other = known.map_or_else(String::new, |node| format!(", or name another node: --node {node}"));
    Some(Obstacle {
        when: When::Cold,
        reason: format!("the machine's memory is backed by {what}, of which Supple can make no more"),
        way_out: format!(
            "start the machine with memory-backend-ram, -memfd or -file on a hugetlbfs mount{other}"
        ),
    })
}

/// What comes after a vCPU's removal, or may: one that is asked of the guest can be granted at any time.
fn after_vcpu_removal(scene: &Scene<'_>) -> Option<Obstacle> {
    if !DIES_AFTER_A_VCPU_REMOVAL.concerns(&scene.seen.machine) {
        return None;
    }
    let qemu = scene.seen.machine.qemu;
    let dies = format!(
        "QEMU {qemu} under TCG dies when a DIMM is added or removed, or a vCPU added, after a vCPU was removed"
    );
    if scene.seen.vcpus.removed_before {
        return Some(Obstacle {
            when: When::Cold,
            reason: format!("{dies}, which happened here"),
            way_out: "stop and start the machine, use KVM, or a later QEMU (10.0 was tried)".to_owned(),
        });
    }
    let is_asked = |pending: &&Pending| matches!(pending.device, PendingDevice::Vcpu { .. });
    let asked = scene.seen.pending.iter().find(is_asked)?;
    Some(Obstacle {
        when: When::NotNow,
        reason: format!(
            "{dies}, and the removal of {} is still asked of the guest, which may grant it at any time",
            asked.device.id()
        ),
        way_out: "wait until the guest has answered (supple observe shows it), or stop and start the machine"
            .to_owned(),
    })
}

/// A DIMM that the guest may yet let go, behind a vCPU that is removed now, or on the way back from its plugging.
fn before_a_late_dimm(scene: &Scene<'_>, parts: &[Part]) -> Option<Obstacle> {
    if !DIES_AFTER_A_VCPU_REMOVAL.concerns(&scene.seen.machine) {
        return None;
    }
    // A plan that asks for the DIMM again has its answer, or goes no further: vCPUs come after DIMMs.
    let asks = |id: &str| parts.iter().flat_map(Part::acts).any(|act| act.removed() == Some(id));
    let late = dimm::pending(scene).find(|id| !asks(id))?;
    Some(Obstacle {
        when: When::NotNow,
        reason: format!(
            "QEMU {} under TCG dies when a DIMM goes after a vCPU was removed, and the removal of {late} is still asked of \
             the guest",
            scene.seen.machine.qemu
        ),
        way_out: "wait until the guest has answered (supple observe shows it), or ask for the removal again"
            .to_owned(),
    })
}

/// Under TCG each vCPU takes one of as many contexts as there can be vCPUs, and a removed one does not give it back: QEMU
/// ends itself at the first that finds none (`tcg_register_thread`, tcg/tcg.c, 2.12 to 10.0; seen with 10.0).
fn too_many_vcpus(scene: &Scene<'_>, parts: &[Part]) -> Option<Obstacle> {
    let vcpus = &scene.seen.vcpus;
    let plugged = |slot: &&VcpuSlot| {
        let is_here = |act: &Act| matches!(act, Act::PlugVcpu { props, .. } if *props == slot.props);
        parts.iter().flat_map(Part::acts).any(is_here)
    };
    let more: u32 = vcpus.slots.iter().filter(plugged).map(|slot| slot.count).sum();
    let (started, ceiling) = (vcpus.started(), vcpus.ceiling());
    let left = ceiling.saturating_sub(started);
    (more > left).then(|| Obstacle {
        when: When::Cold,
        reason: format!(
            "QEMU under TCG ends itself when it has started more than {ceiling} vCPUs in its life, those that are \
             gone counted in, and {started} were started"
        ),
        way_out: match left {
            0 => "stop and start the machine, or use KVM".to_owned(),
            left => format!(
                "ask for --vcpus {} at most, stop and start the machine, or use KVM",
                scene.from.vcpus + left
            ),
        },
    })
}

/// A removed vCPU's thread is waited for, and here that is the thread that waits: QEMU ends itself
/// (`cpu_remove_sync`, softmmu/cpus.c; seen with 7.2 and 10.0).
fn removal_from_one_thread(scene: &Scene<'_>) -> Option<Obstacle> {
    scene.seen.vcpus.one_thread.then(|| Obstacle {
        when: When::Cold,
        reason: "QEMU runs all vCPUs on one thread (TCG), and ends itself when one is removed".to_owned(),
        way_out: "stop the machine and start it with fewer vCPUs, with thread=multi, or with KVM".to_owned(),
    })
}

/// Memory that the guest needs is never taken.
pub(super) fn shrink(scene: &Scene<'_>, delta: Delta, part: &Part) -> Option<Obstacle> {
    let Delta::Shrink(by) = delta else { return None };
    let taken = by.saturating_sub(part.idle);
    if taken.is_zero() {
        return None;
    }
    match scene.footing.can_spare(scene.limits) {
        Some(spare) if taken <= spare => None,
        Some(spare) => Some(Obstacle {
            when: When::NotNow,
            reason: format!("the guest uses its memory and can spare {spare} where {taken} are to go"),
            way_out: smallest_safe(scene, spare + part.idle),
        }),
        // DIMMs are emptied block by block in the guest, which keeps what it needs.
        None if !takes_unasked(part) || is_blind(scene) => None,
        None => Some(Obstacle {
            when: When::NotNow,
            reason: "the guest does not tell how much memory it uses, and what is taken might be needed".to_owned(),
            way_out: "name the guest's agent with --agent, or let the balloon report (guest-stats-polling-interval)"
                .to_owned(),
        }),
    }
}

/// True where the guest can tell nothing of what it uses, and the balloon was asked for by name: its system's agent has no
/// command for that, and the balloon is the only way down. What it takes comes back as easily.
fn is_blind(scene: &Scene<'_>) -> bool {
    let blind = scene.footing.usage.is_none() && !system::acknowledges(scene);
    blind && scene.wanted.mechanism == Some(Mechanism::Balloon)
}

/// What to know before the balloon takes from such a guest.
pub(super) fn unwatched(scene: &Scene<'_>, delta: Delta, part: &Part) -> Option<String> {
    let Delta::Shrink(by) = delta else { return None };
    (!by.is_zero() && takes_unasked(part) && is_blind(scene)).then(|| {
        format!(
            "the guest does not tell how much memory it uses: what is taken might be needed. --mechanism balloon --memory {} \
             gives it back",
            exact(scene.from.memory)
        )
    })
}

/// True where memory goes without the guest's blocks being emptied first.
fn takes_unasked(part: &Part) -> bool {
    part.acts().any(|act| matches!(act, Act::ResizeVirtioMem { .. } | Act::SetBalloon { .. }))
}

fn smallest_safe(scene: &Scene<'_>, can_go: Bytes) -> String {
    let from = scene.from.memory;
    let grain = if scene.wanted.mechanism == Some(Mechanism::Balloon) {
        Bytes::mib(1)
    } else {
        let blocks = scene.seen.memory.virtio_mem.iter().map(|v| v.block);
        blocks.min().unwrap_or_else(|| dimm::unit(scene))
    };
    let least = from.saturating_sub(can_go.round_down(grain));
    if least >= from {
        "nothing can be taken now; free memory in the guest first".to_owned()
    } else {
        format!("the smallest size that is safe now is --memory {}", exact(least))
    }
}
