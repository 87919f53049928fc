//! An observation: QEMU's side, the guest's side and the difference, one row for each thing.

use scale::observed::{Dimm, DimmKind, Observed, VcpuState, VirtioMem};
use scale::time::Span;
use scale::units::Bytes;

use crate::drift::{Blocks, Drift, Kind, MEMORY, VCPUS, drift};
use crate::paint::{BOLD, DIM, GOOD, PLAIN, WARN, paint};
use crate::show::{guest_line, headline, limits, paragraph};
use crate::table::{Cell, Column, Table};
use crate::words::{about, ago, count};

const COLUMNS: [Column; 4] = [
    Column { title: "", wraps: false },
    Column { title: "QEMU", wraps: true },
    Column { title: "guest", wraps: true },
    Column { title: "difference", wraps: true },
];

/// Figures that were told longer ago than this are shown with their age.
const FRESH: Span = Span::secs(5);

/// The whole observation in `room` columns.
pub(crate) fn observed(seen: &Observed, address: &str, room: usize) -> String {
    let drifts = drift(seen);
    let mut table = Table::new(&COLUMNS);
    memory_rows(&mut table, seen, &drifts);
    for dimm in &seen.memory.dimms {
        table.row(dimm_row(seen, dimm, &drifts));
    }
    for device in &seen.memory.virtio_mem {
        table.row(virtio_mem_row(seen, device, &drifts));
    }
    for backend in &seen.memory.unused_backends {
        let size = format!("{} of host memory", about(backend.size));
        table.row([indented(&backend.id), size.into(), "".into(), differences(&drifts, &backend.id)]);
    }
    balloon_row(&mut table, seen);
    vcpu_row(&mut table, seen, &drifts);
    limits::rows(&mut table, seen);
    host_row(&mut table, seen);

    let mut out = headline(&seen.machine, address, room);
    out.push_str(&guest_line(seen, room));
    out.push('\n');
    out.push_str(&table.render(room));
    out.push('\n');
    out.push_str(&verdict(seen, &drifts, room));
    out
}

fn verdict(seen: &Observed, drifts: &[Drift], room: usize) -> String {
    let known = seen.guest.heard().is_some();
    let mut out = match (drifts.len() as u64, known) {
        (0, true) => return format!("{}\n", paint(GOOD, "QEMU and the guest agree.")),
        (0, false) => return "The guest was not heard, so nothing is known to differ.\n".to_owned(),
        (n, _) => format!("{}\n", paint(WARN, &format!("{}.", count(n, "difference")))),
    };
    for drift in drifts {
        if let Some(way_out) = &drift.way_out {
            out.push_str(&paragraph("  ", &format!("{}: {way_out}.", drift.subject), room));
        }
    }
    out
}

fn memory_rows(table: &mut Table, seen: &Observed, drifts: &[Drift]) {
    let memory = &seen.memory;
    let total = memory.total();
    let most = if memory.ceiling > memory.boot {
        format!("{} of at most {}", about(total), about(memory.ceiling))
    } else {
        format!("{}, no room for more", about(total))
    };
    let mut guest = match seen.guest.heard().and_then(|facts| facts.online_memory()) {
        Some(online) => Cell::from(format!("{} in online blocks", about(online))),
        None => Cell::from(""),
    };
    if let Some((total, available, told)) = figures(seen) {
        guest = guest.or_line(&format!("MemTotal {}", about(total)));
        guest = guest.or_line(&format!("{} available", about(available)));
        guest = told.iter().fold(guest, |guest, told| guest.or_line(told));
    }
    let slots = memory.slots;
    let used = memory.dimms.len();
    let mut qemu = Cell::from(most);
    if slots > 0 {
        qemu = qemu.line(&format!("{used} of {slots} slots used"));
    }
    if memory.nodes.len() > 1 {
        let nodes = memory.nodes.iter().map(|n| format!("node {}: {}", n.id, about(n.memory)));
        qemu = qemu.line(&nodes.collect::<Vec<_>>().join(", "));
    }
    table.row([Cell::new("memory", BOLD), qemu, guest, differences(drifts, MEMORY)]);
    let boot = Blocks::of_boot(seen).map(blocks);
    table.row([indented("boot"), about(memory.boot).into(), boot.unwrap_or_default().into(), "".into()]);
}

/// MemTotal and MemAvailable by the guest's own word, else by its balloon driver's, and when that was told if not just
/// now: it tells only while it is asked.
fn figures(seen: &Observed) -> Option<(Bytes, Bytes, Option<String>)> {
    if let Some(own) = seen.guest.heard().and_then(|facts| facts.meminfo) {
        return Some((own.total, own.available, None));
    }
    let stats = seen.memory.balloon.and_then(|balloon| balloon.stats)?;
    let old = seen.at.since(stats.at) > FRESH;
    let told = old.then(|| format!("told {}", ago(stats.at, seen.at)));
    Some((stats.total, stats.available, told))
}

fn dimm_row(seen: &Observed, dimm: &Dimm, drifts: &[Drift]) -> [Cell; 4] {
    let name = if dimm.id.is_empty() { "DIMM without id" } else { &dimm.id };
    let (kind, shown) = match dimm.kind {
        DimmKind::Dimm => ("", Blocks::of_range(seen, dimm.addr, dimm.size).map(blocks)),
        DimmKind::Nvdimm => (" NVDIMM", None),
    };
    let place =
        format!("{}{kind}, slot {}, node {}, at {:#x}", about(dimm.size), dimm.slot, dimm.node, dimm.addr);
    [indented(name), place.into(), shown.unwrap_or_default().into(), differences(drifts, &dimm.id)]
}

fn virtio_mem_row(seen: &Observed, device: &VirtioMem, drifts: &[Drift]) -> [Cell; 4] {
    let qemu = Cell::from(format!(
        "virtio-mem, {} of at most {}, node {}",
        about(device.size),
        about(device.max),
        device.node
    ))
    .line(&format!("{} requested, in steps of {}", about(device.requested), about(device.block)));
    // It covers what it may ever hold: only the blocks that are there count.
    let shown =
        Blocks::of_range(seen, device.addr, device.max).map(|b| blocks(Blocks { covered: b.shown, ..b }));
    [indented(&device.id), qemu, shown.unwrap_or_default().into(), differences(drifts, &device.id)]
}

fn balloon_row(table: &mut Table, seen: &Observed) {
    let Some(balloon) = seen.memory.balloon else { return };
    let held = (seen.memory.boot + seen.memory.dimm_total()).saturating_sub(balloon.actual);
    let qemu = if held.is_zero() { "empty".to_owned() } else { format!("holds {}", about(held)) };
    table.row([indented("balloon"), qemu.into(), "".into(), "".into()]);
}

fn vcpu_row(table: &mut Table, seen: &Observed, drifts: &[Drift]) {
    let vcpus = &seen.vcpus;
    let qemu = if vcpus.slots.is_empty() {
        Cell::from("this machine type has no vCPU hot-plug")
    } else {
        let fixed: u32 = vcpus.slots.iter().filter(|s| s.state == VcpuState::Boot).map(|s| s.count).sum();
        let removable: Vec<&str> = vcpus
            .slots
            .iter()
            .filter_map(|s| match &s.state {
                VcpuState::Device(id) => Some(id.as_str()),
                VcpuState::Free | VcpuState::Boot | VcpuState::Barred(_) => None,
            })
            .collect();
        let cell = Cell::from(format!("{} of at most {}", vcpus.plugged(), vcpus.ceiling()));
        let cell = cell.line(&format!("{fixed} there since boot, fixed"));
        if removable.is_empty() { cell } else { cell.line(&format!("removable: {}", removable.join(", "))) }
    };
    let guest = match seen.guest.heard().filter(|facts| !facts.vcpus.is_empty()) {
        Some(facts) => format!("{} of {} online", facts.online_vcpus(), facts.vcpus.len()),
        None => String::new(),
    };
    let ids = vcpus.slots.iter().filter_map(|s| match &s.state {
        VcpuState::Device(id) => Some(id.as_str()),
        VcpuState::Free | VcpuState::Boot | VcpuState::Barred(_) => None,
    });
    let subjects: Vec<&str> = ids.chain([VCPUS]).collect();
    table.row([Cell::new("vCPUs", BOLD), qemu, guest.into(), differences_of(drifts, &subjects)]);
}

fn host_row(table: &mut Table, seen: &Observed) {
    let host = &seen.host;
    let pid = host.qemu_pid.map(|pid| format!("QEMU is process {pid}"));
    let available = host.available.map(|a| format!("{} available", about(a)));
    let cgroup = host.cgroup_headroom.map(|h| format!("{} left in its cgroup", about(h)));
    let pages = pools(host);
    let vhost =
        host.vhost_regions.map(|n| format!("vhost maps {} at most", count(n.into(), "memory region")));
    let vfio = host.vfio.then(|| "holds a VFIO device: plugged memory is pinned".to_owned());
    // Of interest only where plugged memory is pinned.
    let lock = host.memlock_headroom.filter(|_| host.vfio).map(|m| format!("may lock {} more", about(m)));
    let mut cell = Cell::from("");
    for line in [pid, available, cgroup, vhost, vfio, lock].into_iter().flatten().chain(pages) {
        cell = cell.or_line(&line);
    }
    table.row([Cell::new("host", BOLD), cell, "".into(), "".into()]);
}

/// What is left of the memory that the guest's is made of: in all, then node by node.
fn pools(host: &scale::observed::Host) -> Vec<String> {
    let line = |pool: &scale::observed::MemoryPool| {
        let free = about(pool.free.saturating_sub(pool.promised));
        let what =
            pool.page.map_or_else(|| "free".to_owned(), |page| format!("free in huge pages of {page}"));
        match pool.node {
            None => format!("{free} {what}"),
            Some(node) => format!("{free} {what} on its node {node}"),
        }
    };
    host.pools.iter().map(line).collect()
}

fn blocks(of: Blocks) -> String {
    format!("{} of {} online", of.online, count(of.covered, "block"))
}

fn indented(name: &str) -> Cell {
    Cell::new(name, PLAIN).indent()
}

fn differences(drifts: &[Drift], subject: &str) -> Cell {
    differences_of(drifts, &[subject])
}

fn differences_of(drifts: &[Drift], subjects: &[&str]) -> Cell {
    let mut about = drifts.iter().filter(|d| subjects.contains(&d.subject.as_str())).peekable();
    let style = match about.peek().map(|d| d.kind) {
        Some(Kind::NotShown | Kind::Offline | Kind::NotAsRequested | Kind::Pending) => WARN,
        Some(Kind::Refused | Kind::Unused) => PLAIN,
        None => DIM,
    };
    about.fold(Cell::new("", style), |cell, drift| cell.or_line(&drift.what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use scale::observed::{BalloonStats, Guest, Pending, PendingDevice};

    fn shown(seen: &Observed) -> String {
        example::text(&observed(seen, "qmp:/run/web1/qmp.sock", 120))
    }

    #[test]
    fn three_sides_stand_beside_each_other() {
        let expected = "\
web1 (pc-q35-7.2, QEMU 7.2.22, TCG, running)
guest Debian GNU/Linux 12 (bookworm), kernel 6.1.0-44-amd64, agent 7.2.22

                QEMU                                   guest                   difference
memory          3 GiB of at most 8 GiB                 2 GiB in online blocks
                1 of 16 slots used                     MemTotal 1.92 GiB
                                                       1.82 GiB available
  boot          1 GiB                                  8 of 8 blocks online
  supple-dimm0  2 GiB, slot 0, node 0, at 0x100000000  8 of 16 blocks online   8 of 16 blocks not online
  balloon       empty
vCPUs           3 of at most 4                         3 of 3 online
                1 there since boot, fixed
                removable: supple-cpu1, supple-cpu2
host            QEMU is process 4242
                40 GiB available

1 difference.
  supple-dimm0: `supple apply --memory 3GiB` onlines them.
";
        assert_eq!(shown(&example::observed()), expected);
    }

    #[test]
    fn a_balloon_drivers_figures_are_shown_with_their_age() {
        let mut seen = example::in_agreement();
        seen.guest = Guest::Unheard("no agent is named: add --agent".to_owned());
        let stats =
            |at| BalloonStats { at, total: Bytes::gib(1), available: Bytes::mib(512), free: Bytes::ZERO };
        seen.memory.balloon.as_mut().expect("a balloon").stats = Some(stats(seen.at));
        let fresh = shown(&seen);
        assert!(fresh.contains("MemTotal 1 GiB") && !fresh.contains("told"), "{fresh}");
        seen.memory.balloon.as_mut().expect("a balloon").stats = Some(stats(seen.at - Span::secs(40)));
        let old = shown(&seen);
        assert!(old.contains("MemTotal 1 GiB") && old.contains("told 40 s ago"), "{old}");
    }

    #[test]
    fn nodes_are_told_where_there_are_several() {
        let mut seen = example::in_agreement();
        seen.memory.nodes.push(scale::observed::Node { id: 1, memory: Bytes::mib(512) });
        assert!(shown(&seen).contains("node 0: 3 GiB, node 1: 512 MiB"));
    }

    #[test]
    fn agreement_is_said() {
        assert!(shown(&example::in_agreement()).ends_with("\nQEMU and the guest agree.\n"));
    }

    #[test]
    fn a_guest_that_was_not_heard_is_not_said_to_agree() {
        let mut seen = example::observed();
        seen.guest = Guest::Unheard("no agent is named: add --agent\u{1b}[2J".to_owned());
        let shown = shown(&seen);
        assert!(shown.contains("guest not heard: no agent is named: add --agent [2J\n"), "{shown}");
        assert!(shown.ends_with("The guest was not heard, so nothing is known to differ.\n"), "{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn a_pending_removal_stands_beside_its_device() {
        let mut seen = example::in_agreement();
        let device = PendingDevice::Dimm { id: "supple-dimm0".to_owned(), memdev: "supple-mem0".to_owned() };
        seen.pending.push(Pending { device, since: example::NOW - Span::secs(300) });
        let shown = shown(&seen);
        assert!(shown.contains("removal asked 5 min ago;"), "{shown}");
    }

    #[test]
    fn nothing_is_lost_at_any_width() {
        let words = |room| {
            let text = example::text(&observed(&example::observed(), "qmp:/q", room));
            assert!(
                room < 60 || text.lines().all(|line| crate::words::width(line) <= room),
                "{room}:\n{text}"
            );
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort();
            words
        };
        let all = words(140);
        for room in [60, 80, 100, 120] {
            assert_eq!(words(room), all, "{room}");
        }
    }
}
