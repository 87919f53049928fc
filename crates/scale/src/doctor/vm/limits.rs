//! What the host's way of running a machine sets as bounds: hard limits, locked memory, regions, huge pages.

use super::{Case, Running, Shape};
use crate::doctor::{Finding, Section, roughly};
use crate::observed::{Backing, Manager};

const SECTION: Section = Section::Host;

pub(super) fn of_shape(case: &Case<'_>, shape: &Shape) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(hard_limit(case, shape));
    found.extend(vhost_user(shape));
    found.extend(vdpa(shape));
    found
}

fn hard_limit(case: &Case<'_>, shape: &Shape) -> Option<Finding> {
    const SUBJECT: &str = "hard-limit";
    let (limit, ceiling) = (shape.hard_limit?, shape.ceiling.unwrap_or(shape.boot));
    let found = format!("the host ends it above {limit}");
    if limit > ceiling {
        return Some(Finding::ok(SECTION, SUBJECT, found));
    }
    let reason = format!(
        "it may grow to {ceiling}, and libvirt never raises this limit; Supple moves it with the memory, others who plug \
         memory must do so themselves"
    );
    let finding = Finding::note(SECTION, SUBJECT, found, &reason);
    Some(match &case.called().domain {
        Some((uri, name)) => {
            finding.on_host(format!("virsh -c {uri} memtune {name} --hard-limit -1 --live --config"))
        }
        None => finding.by_hand("raise the limit of its control group"),
    })
}

fn vhost_user(shape: &Shape) -> Option<Finding> {
    (shape.vhost_user > 0).then(|| {
        let found = format!("{} served by other processes (vhost-user)", devices(shape.vhost_user));
        let reason =
            "such a process maps as few as 8 memory regions: the DIMM that is one too many is refused";
        Finding::note(SECTION, "vhost-user", found, reason)
            .by_hand("grow in few large steps, or use virtio-mem, which is one region")
    })
}

fn vdpa(shape: &Shape) -> Option<Finding> {
    (shape.vdpa > 0).then(|| {
        let found = format!("{} by vDPA", devices(shape.vdpa));
        let reason =
            "memory cannot be given back beside it: neither virtio-mem nor the balloon frees any on the host";
        Finding::note(SECTION, "vdpa", found, reason).by_hand("shrink by DIMMs")
    })
}

fn devices(count: u32) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

pub(super) fn running(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(vfio(case, running));
    found.extend(regions(case, running));
    found.extend(cgroup(case, running));
    found.extend(host_memory(running));
    found.extend(backing(running));
    found
}

fn vfio(case: &Case<'_>, running: &Running) -> Option<Finding> {
    const SUBJECT: &str = "vfio";
    let host = &running.seen.host;
    if !host.vfio && !running.shape.vfio {
        return None;
    }
    let room = running.seen.memory.headroom();
    let found = "it holds a device of the host's (VFIO)".to_owned();
    if running.seen.machine.manager == Manager::Libvirt {
        let reason = "memory that is added is locked at once; libvirt raises the limit by itself. The balloon frees \
                      nothing on the host beside it";
        return Some(Finding::note(SECTION, SUBJECT, found, reason));
    }
    let pid = host.qemu_pid.map_or("PID".to_owned(), |pid| pid.to_string());
    match host.memlock_headroom {
        None => {
            let reason = "memory that is added is locked at once, and nothing limits that. The balloon frees nothing \
                          on the host beside it";
            Some(Finding::note(SECTION, SUBJECT, found, reason))
        }
        Some(left) if left >= room && !room.is_zero() => {
            Some(Finding::ok(SECTION, SUBJECT, format!("{found}, and may lock {left} more")))
        }
        Some(left) => {
            let found = format!("{found}, and may lock {left} more");
            let reason = "memory that is added is locked at once, and QEMU ends where it may not be; Supple refuses a \
                          larger growth";
            Some(
                Finding::danger(SECTION, SUBJECT, found, reason)
                    .on_host(format!("prlimit --pid {pid} --memlock=unlimited")),
            )
        }
    }
    .map(|finding| if room.is_zero() && case.called().domain.is_none() { harmless(finding) } else { finding })
}

/// Where nothing can be added nothing is locked either.
fn harmless(finding: Finding) -> Finding {
    Finding { severity: crate::doctor::Severity::Note, ..finding }
}

fn regions(case: &Case<'_>, running: &Running) -> Option<Finding> {
    const SUBJECT: &str = "vhost-regions";
    let most = running.seen.host.vhost_regions?;
    let memory = &running.seen.memory;
    let used = u32::try_from(memory.dimms.len() + memory.virtio_mem.len()).unwrap_or(u32::MAX);
    let left = most.saturating_sub(used).saturating_sub(case.facts.limits.vhost_reserve);
    let slots = u32::try_from(memory.free_slots().len()).unwrap_or(u32::MAX);
    let found = format!("vhost maps {most} memory regions, so about {left} more DIMMs");
    if left >= slots {
        return Some(Finding::ok(SECTION, SUBJECT, found));
    }
    let reason =
        "the DIMM that is one too many is refused, and network cards that are added later need regions too";
    Some(Finding::note(SECTION, SUBJECT, found, reason).on_host(
        "echo 'options vhost max_mem_regions=509' > /etc/modprobe.d/vhost.conf   # at the module's next load",
    ))
}

fn cgroup(case: &Case<'_>, running: &Running) -> Option<Finding> {
    const SUBJECT: &str = "cgroup-limit";
    let left = running.seen.host.cgroup_headroom?;
    let room = running.seen.memory.headroom();
    // libvirt's own limit is told as such.
    if room.is_zero() || running.shape.hard_limit.is_some() {
        return None;
    }
    let found = format!("its control group lets it take {left} more");
    if left >= room {
        return Some(Finding::ok(SECTION, SUBJECT, found));
    }
    let reason = format!("it may grow by {room}, and the host ends it above the limit");
    let finding = Finding::danger(SECTION, SUBJECT, found, &reason);
    Some(match &case.called().domain {
        Some((uri, name)) => {
            finding.on_host(format!("virsh -c {uri} memtune {name} --hard-limit -1 --live --config"))
        }
        None => {
            finding.by_hand("raise memory.max (version 1: memory.limit_in_bytes) of its control group first")
        }
    })
}

fn host_memory(running: &Running) -> Option<Finding> {
    const SUBJECT: &str = "host-memory";
    let available = running.seen.host.available?;
    let room = running.seen.memory.headroom();
    let shown = roughly(available);
    if running.seen.memory.backing.page().is_some() {
        return None;
    }
    if available >= room {
        return Some(Finding::ok(SECTION, SUBJECT, format!("{shown} available")));
    }
    let reason = format!("it could grow by {room}; Supple refuses what the host does not have");
    Some(
        Finding::note(SECTION, SUBJECT, format!("{shown} available"), &reason)
            .by_hand("grow by less, or move something off this host"),
    )
}

fn backing(running: &Running) -> Option<Finding> {
    const SUBJECT: &str = "backing";
    match &running.seen.memory.backing {
        Backing::Ram | Backing::SharedMemfd => None,
        Backing::Hugepages { page, .. } | Backing::HugeMemfd { page, .. } => {
            let free = running.seen.host.free_pages(*page, None).unwrap_or_default();
            let found = format!("huge pages of {page}, {free} of them free");
            if free.is_zero() && !running.seen.memory.headroom().is_zero() {
                let reason = "new DIMMs are backed as the boot memory is, so it cannot grow now";
                let kib = page.get() / 1024;
                return Some(Finding::missing(SECTION, SUBJECT, found, reason).by_hand(format!(
                    "set more aside: echo COUNT > /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"
                )));
            }
            Some(Finding::ok(SECTION, SUBJECT, found))
        }
        Backing::Unknown(what) => {
            let reason =
                "Supple does not know how to make more memory of this kind, so DIMMs cannot be added";
            Some(
                Finding::missing(SECTION, SUBJECT, what.clone(), reason).by_hand(
                    "back the boot memory by memory-backend-ram, -memfd or hugetlbfs at the next start",
                ),
            )
        }
    }
}
