//! A machine's memory: ceiling, slots, nodes, addresses, virtio-mem and the balloon.

use super::{Case, Running, Shape, Span};
use crate::doctor::{Finding, Mend, Section, Severity, roughly};
use crate::guests::{Can, Row};
use crate::observed::DimmKind;
use crate::units::Bytes;

const SECTION: Section = Section::Memory;

/// With so few free slots left, growing in many small steps ends soon.
const FEW_SLOTS: u32 = 2;
/// Slots to ask for where there are none.
const MANY_SLOTS: u32 = 16;

/// The subject of slots at all, and of those that are free.
pub(super) const SLOTS: &str = "dimm-slots";
pub(super) const FREE_SLOTS: &str = "free-slots";

pub(super) fn of_shape(case: &Case<'_>, shape: &Shape) -> Vec<Finding> {
    let ceiling = ceiling(case, shape);
    let has_room = !ceiling.is_in_the_way();
    let mut found = vec![ceiling];
    if has_room {
        found.push(slots(case, shape));
        found.extend(nodes(case, shape));
        found.extend(space(case, shape));
    }
    found.push(virtio_mem(case, shape));
    found.push(balloon(case, shape));
    found
}

fn ceiling(case: &Case<'_>, shape: &Shape) -> Finding {
    const SUBJECT: &str = "memory-ceiling";
    let boot = shape.boot;
    if let (Some(room), Some(ceiling)) = (shape.room(), shape.ceiling) {
        return Finding::ok(SECTION, SUBJECT, format!("{ceiling}: {room} above the {boot} at boot"));
    }
    let more = shape.larger();
    let size = |size: Bytes| size.to_string().replace(' ', "").replace("iB", "");
    let reason = "memory cannot be plugged into a machine that was started without room for it; choose how far it may \
                  ever grow (four times as far is taken here)";
    Finding::missing(SECTION, SUBJECT, format!("{boot}, and no room for more"), reason).mend(
        case.called().prepare(
            &format!("--max-memory {} --slots {MANY_SLOTS}", size(more)),
            &format!("-m {},slots={MANY_SLOTS},maxmem={}", size(boot), size(more)),
        ),
    )
}

fn slots(case: &Case<'_>, shape: &Shape) -> Finding {
    let by_virtio_mem = !shape.virtio_mem.is_empty();
    match shape.slots {
        0 if by_virtio_mem => {
            Finding::ok(SECTION, SLOTS, "none, and none needed: memory moves by virtio-mem")
        }
        0 => Finding::missing(
            SECTION,
            SLOTS,
            "none",
            "each DIMM needs a slot, and the machine has no virtio-mem",
        )
        .mend(case.called().prepare(&format!("--slots {MANY_SLOTS}"), &format!("-m ...,slots={MANY_SLOTS}"))),
        slots => Finding::ok(SECTION, SLOTS, slots.to_string()),
    }
}

fn nodes(case: &Case<'_>, shape: &Shape) -> Option<Finding> {
    const SUBJECT: &str = "guest-numa";
    let of_libvirt = case.called().domain.is_some();
    match (shape.nodes, shape.outside_nodes) {
        (None, _) if of_libvirt => {
            let reason = "libvirt before 9.6 refuses memory hot-plug without a NUMA node of the guest's, and Windows and \
                          some Linux need one to use plugged memory";
            let boot = shape.larger().max(shape.ceiling.unwrap_or_default());
            let size = boot.to_string().replace(' ', "").replace("iB", "");
            Some(
                Finding::note(SECTION, SUBJECT, "no NUMA node is described", reason)
                    .on_host(case.called().supple("prepare", &format!("--max-memory {size}"))),
            )
        }
        // QEMU makes one by itself (hw/core/numa.c, 7.2).
        (None, _) => Some(Finding::ok(SECTION, SUBJECT, "one node, by QEMU's own choice")),
        (Some(nodes), 0) => {
            let plural = if nodes == 1 { "node" } else { "nodes" };
            Some(Finding::ok(SECTION, SUBJECT, format!("{nodes} {plural}")))
        }
        (Some(_), outside) => {
            let found = format!("{outside} possible vCPUs belong to no node");
            let reason = "QEMU puts them somewhere and warns that it will not for long; a definition with all of them \
                          is sound";
            Some(
                Finding::note(SECTION, SUBJECT, found, reason).mend(
                    case.called().prepare(
                        &format!("--max-vcpus {}", shape.max_vcpus),
                        "-numa node,cpus= for every vCPU",
                    ),
                ),
            )
        }
    }
}

fn space(case: &Case<'_>, shape: &Shape) -> Option<Finding> {
    const SUBJECT: &str = "address-space";
    let space = shape.space?;
    let reach = Bytes::new(1_u64.checked_shl(space.bits).unwrap_or(u64::MAX));
    let found = format!("addresses end at {}, and its CPU reaches {reach} ({} bits)", space.end, space.bits);
    if space.fits {
        return Some(Finding::ok(SECTION, SUBJECT, found));
    }
    let reason =
        "QEMU does not start such a machine: each slot takes 1 GiB of addresses besides the memory itself";
    Some(Finding::danger(SECTION, SUBJECT, found, reason).by_hand(format!(
        "ask for less or for fewer slots ({}), or give its CPU the host's bits: <maxphysaddr mode='passthrough'/> in <cpu>",
        case.called().supple("prepare", "--max-memory SIZE --slots N")
    )))
}

fn virtio_mem(case: &Case<'_>, shape: &Shape) -> Finding {
    const SUBJECT: &str = "virtio-mem";
    let support = case.row.map(|row| row.memory.virtio_mem);
    if shape.virtio_mem.is_empty() {
        let advice = match support {
            Some(Can::No) => {
                return Finding::ok(
                    SECTION,
                    SUBJECT,
                    "no device, and this guest's system has no driver for one",
                );
            }
            Some(Can::Yes) => "and its guest has the driver",
            Some(Can::Maybe | Can::Unknown) | None => {
                "where its guest has the driver (Linux 5.8, better 5.16)"
            }
        };
        let reason =
            format!("memory moves in whole DIMMs; with virtio-mem it would in steps of a few MiB, {advice}");
        return Finding::note(SECTION, SUBJECT, "no device", &reason).mend(case.called().prepare(
            "--virtio-mem",
            "-object memory-backend-ram,id=vm0,size=SIZE,reserve=off -device virtio-mem-pci,id=vmem0,memdev=vm0",
        ));
    }
    let total: Bytes = shape.virtio_mem.iter().map(|device| device.max).sum();
    let block = shape.virtio_mem.iter().find_map(|device| device.block);
    let steps = block.map(|block| format!(", in steps of {block}")).unwrap_or_default();
    let found = format!("up to {total}{steps}");
    if support == Some(Can::No) {
        let reason = "this guest's system has no driver for it, so it gives nothing";
        return Finding::missing(SECTION, SUBJECT, found, reason)
            .by_hand("grow by DIMMs: `supple apply --mechanism dimm`, with free slots");
    }
    if shape.vdpa > 0 || shape.locked {
        let what = if shape.locked { "locked memory" } else { "vDPA" };
        let reason = format!("{what} keeps memory from being given back, which virtio-mem rests on");
        return Finding::missing(SECTION, SUBJECT, found, &reason)
            .by_hand("take the one or the other out of the machine");
    }
    Finding::ok(SECTION, SUBJECT, found)
}

fn balloon(case: &Case<'_>, shape: &Shape) -> Finding {
    const SUBJECT: &str = "balloon";
    if shape.balloon {
        return Finding::ok(SECTION, SUBJECT, "there; used only on request, and for the guest's figures");
    }
    let reason = "without it a guest without an agent shows nothing of its memory";
    let mend = if case.called().domain.is_some() {
        "add <memballoon model='virtio'><stats period='5'/></memballoon> to the devices"
    } else {
        "start QEMU with -device virtio-balloon-pci"
    };
    Finding::note(SECTION, SUBJECT, "none", reason).by_hand(mend)
}

pub(super) fn running(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(free_slots(running));
    found.extend(kernel_limit(running));
    found.extend(metadata(case, running));
    found.extend(balloon_service(case, running));
    found
}

/// A Windows shows its memory through its balloon's service alone, which is installed by itself.
fn balloon_service(case: &Case<'_>, running: &Running) -> Option<Finding> {
    let silent = running.seen.memory.balloon.is_some_and(|balloon| balloon.stats.is_none());
    if !silent || !case.is_windows() || case.guest().is_none() {
        return None;
    }
    let reason = "new memory is then proven by QEMU's word alone, and what the guest uses is not known when the balloon takes \
                  from it";
    let finding = Finding::note(SECTION, "balloon-figures", "its balloon driver tells no figures", reason);
    Some(finding.mend(Mend::InGuest("blnsvr.exe -i".to_owned())))
}

fn free_slots(running: &Running) -> Option<Finding> {
    let memory = &running.seen.memory;
    if memory.slots == 0 || running.shape.room().is_none() {
        return None;
    }
    let free = u32::try_from(memory.free_slots().len()).unwrap_or(u32::MAX);
    let found = format!("{free} of {} slots, and {} of room", memory.slots, memory.headroom());
    let has_other = !memory.virtio_mem.is_empty();
    if free > FEW_SLOTS || has_other || memory.headroom().is_zero() {
        return Some(Finding::ok(SECTION, FREE_SLOTS, found));
    }
    let severity = if free == 0 { Severity::Missing } else { Severity::Note };
    let reason = "each further DIMM takes one; a slot comes free when its DIMM is removed";
    let finding = Finding { severity, ..Finding::note(SECTION, FREE_SLOTS, found, reason) };
    Some(finding.by_hand("shrink first (`supple apply --memory LESS`), or grow in one large step"))
}

fn kernel_limit(running: &Running) -> Option<Finding> {
    let limit = running.inside.command_line.as_ref()?.memory_limit()?;
    let found = format!("the guest's kernel uses {limit} at most");
    let reason = "mem= on its command line ends its memory there, whatever is plugged";
    Some(
        Finding::missing(SECTION, "kernel-memory-limit", found, reason)
            .by_hand("take mem= off the guest's kernel command line and reboot it"),
    )
}

/// Linux needs 64 bytes of metadata for each 4 KiB page that comes, from memory that is there.
fn metadata(case: &Case<'_>, running: &Running) -> Option<Finding> {
    let free = case.guest()?.meminfo?.available;
    let at_once = free.times(case.facts.limits.metadata_ratio);
    let wanted = running.seen.memory.headroom();
    (at_once < wanted && !wanted.is_zero()).then(|| {
        let found = format!("room for about {} more at once", roughly(at_once));
        let reason = format!(
            "a Linux guest keeps 1/64 of what comes as tables, out of the {} that it has available now; Supple keeps \
             twice that free",
            roughly(free)
        );
        Finding::note(SECTION, "metadata", found, &reason).by_hand("grow in several steps")
    })
}

/// How far memory can go, the balloon left alone.
pub(super) fn span(running: &Running, row: Option<&Row>) -> Span<Bytes> {
    let memory = &running.seen.memory;
    let can = |which: fn(&Row) -> Can| row.is_none_or(|row| which(row) != Can::No);
    let (by_device, gives_back) = (can(|row| row.memory.virtio_mem), can(|row| row.memory.remove));
    let now = memory.total();
    let removable = memory.dimms.iter().filter(|dimm| dimm.kind == DimmKind::Dimm && !dimm.id.is_empty());
    let mut least = now;
    if gives_back {
        least = least.saturating_sub(removable.map(|dimm| dimm.size).sum());
    }
    let mut most = now;
    if by_device {
        least = least.saturating_sub(memory.virtio_mem.iter().map(|device| device.size).sum());
        most = most + memory.virtio_mem.iter().map(|device| device.max.saturating_sub(device.size)).sum();
    }
    if can(|row| row.memory.add) && !memory.free_slots().is_empty() && running.shape.acpi != Some(false) {
        most = most + memory.headroom().round_down(memory.alignment);
    }
    Span { now, least, most }
}
