//! A machine's vCPUs: ceiling, which come and go, and the system's own limits.

use super::{Board, Case, Running, Shape, Span};
use crate::doctor::{Finding, Section};
use crate::guests::{Can, Row};
use crate::observed::VcpuState;

const SECTION: Section = Section::Vcpus;

pub(super) fn of_shape(case: &Case<'_>, shape: &Shape) -> Vec<Finding> {
    let ceiling = ceiling(case, shape);
    // Of vCPUs that can neither come nor go nothing more is to be said.
    if ceiling.is_in_the_way() { vec![ceiling] } else { vec![ceiling, removable(case, shape)] }
}

fn ceiling(case: &Case<'_>, shape: &Shape) -> Finding {
    const SUBJECT: &str = "vcpu-ceiling";
    let (now, max) = (shape.vcpus, shape.max_vcpus);
    if !shape.vcpu_hotplug {
        let found = format!("{now}; this machine plugs none");
        let finding = if shape.arch == "aarch64" {
            Finding::note(SECTION, SUBJECT, found, "QEMU plugs no vCPUs into arm64 machines (up to 10.0)")
        } else if shape.board == Board::Fixed {
            return Finding::missing(SECTION, SUBJECT, found, "its machine type has no vCPU hot-plug")
                .by_hand("take another machine type: q35 or pc");
        } else {
            Finding::note(SECTION, SUBJECT, found, "its machine type has no vCPU hot-plug")
        };
        return finding
            .by_hand("start it with all vCPUs that it may ever need, and take them offline in the guest");
    }
    if max <= now {
        let more = now.saturating_mul(4).max(4);
        let found = format!("{now} of at most {max}");
        return Finding::missing(SECTION, SUBJECT, found, "there is no room for a further vCPU").mend(
            case.called().prepare(&format!("--max-vcpus {more}"), &format!("-smp {now},maxcpus={more}")),
        );
    }
    Finding::ok(SECTION, SUBJECT, format!("{now} of at most {max}"))
}

fn removable(case: &Case<'_>, shape: &Shape) -> Finding {
    const SUBJECT: &str = "removable-vcpus";
    let (now, removable) = (shape.vcpus, shape.removable_vcpus);
    if case.row.is_some_and(|row| row.vcpus.remove == Can::No) {
        let reason = "this guest's system gives no vCPU back";
        return Finding::note(SECTION, SUBJECT, "none, whatever the machine", reason)
            .by_hand("limit their time instead of their number, or shrink by a stop and a start");
    }
    if now <= 1 || removable > 0 {
        return Finding::ok(SECTION, SUBJECT, format!("{removable} of {now}, and each that is added"));
    }
    let reason = "vCPUs that are there at boot stay unless they were described as removable; those that are added \
                  can go again";
    Finding::note(SECTION, SUBJECT, format!("none of the {now} that are there"), reason).mend(
        case.called()
            .prepare("--removable-vcpus", "-smp 1,maxcpus=N and the others as -device, each with an id"),
    )
}

pub(super) fn running(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    let mut found = Vec::new();
    let slots = &running.seen.vcpus.slots;
    if let Some(why) = slots.iter().find_map(|slot| match &slot.state {
        VcpuState::Barred(why) => Some(why),
        VcpuState::Free | VcpuState::Boot | VcpuState::Device(_) => None,
    }) {
        let reason = "Supple cannot give QEMU back a place that it does not know all properties of";
        found.push(Finding::note(SECTION, "barred-places", why.clone(), reason));
    }
    found.extend(kernel_limit(case, running));
    found
}

fn kernel_limit(case: &Case<'_>, running: &Running) -> Option<Finding> {
    let limit = running.inside.command_line.as_ref()?.vcpu_limit()?;
    let max = running.shape.max_vcpus;
    (limit < max).then(|| {
        let found = format!("the guest's kernel takes {limit} of {max} at most");
        let reason = "nr_cpus= or possible_cpus= on its command line ends the count there";
        Finding::missing(SECTION, "kernel-vcpu-limit", found, reason).by_hand(format!(
            "take it off the guest's kernel command line and reboot it, or ask for {limit} at most: {}",
            case.called().supple("apply", &format!("--vcpus {limit}"))
        ))
    })
}

/// How far vCPUs can go. At least one stays.
pub(super) fn span(running: &Running, row: Option<&Row>) -> Span<u32> {
    let vcpus = &running.seen.vcpus;
    let now = if vcpus.slots.is_empty() { running.shape.vcpus } else { vcpus.plugged() };
    let can = |which: fn(&Row) -> Can| row.is_none_or(|row| which(row) != Can::No);
    let free: u32 = vcpus.slots.iter().filter(|s| s.state == VcpuState::Free).map(|s| s.count).sum();
    let held = vcpus.slots.iter().filter(|s| matches!(s.state, VcpuState::Device(_)));
    let removable: u32 = held.map(|s| s.count).sum();
    let least = if can(|row| row.vcpus.remove) { now.saturating_sub(removable).max(1.min(now)) } else { now };
    let most = if can(|row| row.vcpus.add) { now.saturating_add(free) } else { now };
    Span { now, least, most }
}
