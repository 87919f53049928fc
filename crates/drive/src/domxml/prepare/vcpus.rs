//! The ceiling of vCPUs: their number, the list of them, the topology and the NUMA cells that must cover them.

use super::{Case, Obstacle, Said};
use crate::domxml::cpuset::CpuSet;
use crate::domxml::document::{at, attribute, child, children};
use crate::domxml::domain::{Domain, Topology};
use crate::domxml::edit::Edits;
use crate::domxml::fragment::Fragment;
use crate::domxml::machine::Board;
use roxmltree::Node;

/// Without extended interrupt mode an x86 machine ends here (libvirt 9.0, `QEMU_MAX_VCPUS_WITHOUT_EIM`).
const MOST_WITHOUT_IOMMU: u32 = 255;
/// The i440FX boards end here, whatever IOMMU (QEMU 7.2 and 10.0, `pc_i440fx_machine_options`).
const MOST_OF_PC: u32 = 255;
/// No machine type of QEMU has more.
const MOST: u32 = 4096;

/// What the machine's vCPUs should be.
pub(super) struct Goal {
    pub(super) max: u32,
    topology: Option<Topology>,
    /// The vCPUs of each cell that is there already.
    cells: Vec<CpuSet>,
}

pub(super) fn goal(case: &Case<'_>, obstacles: &mut Vec<Obstacle>) -> Goal {
    let has = case.domain.vcpus.max;
    let max = case.want.max_vcpus.unwrap_or(has);
    if case.arch == "aarch64" && (max > has || case.want.removable_vcpus) {
        obstacles.push(Obstacle::ArmVcpus);
    }
    let mut topology = case.domain.cpu.topology;
    if max < has {
        obstacles.push(Obstacle::FewerVcpus { has });
    } else if max > has {
        check_board(case, max, obstacles);
    }
    if case.want.max_vcpus.is_some() && max >= has {
        topology = topology.and_then(|topology| multiplied(case, topology, max, obstacles));
    }
    let cells = if case.is_about_sizes() { covered(case, max) } else { cells_of(case.domain) };
    Goal { max, topology, cells }
}

fn check_board(case: &Case<'_>, max: u32, obstacles: &mut Vec<Obstacle>) {
    let (most, why) = match (case.board, case.host.max_vcpus) {
        (Board::Pc, None) => (MOST_OF_PC, "that is all that the pc board has"),
        (_, Some(most)) => (most, "that is all that this host's QEMU gives such a machine"),
        (_, None) => (MOST, "no machine of QEMU has more"),
    };
    if max > most {
        obstacles.push(Obstacle::TooManyVcpus { asked: max, most, why });
    } else if case.is_x86() && max > MOST_WITHOUT_IOMMU && !case.domain.backends.extended_interrupts {
        obstacles.push(Obstacle::NeedsIommu);
    }
}

/// The topology with so many vCPUs: more sockets, or for Windows with its limits on sockets more cores in each. Where
/// cells are several the sockets grow in any case, so that no socket comes to lie across two of them.
fn multiplied(
    case: &Case<'_>,
    topology: Topology,
    max: u32,
    obstacles: &mut Vec<Obstacle>,
) -> Option<Topology> {
    if topology.vcpus() == u64::from(max) {
        return Some(topology);
    }
    let by_cores = case.domain.is_windows() && case.domain.cpu.cells.len() <= 1;
    let (unit, part) = if by_cores {
        (topology.per_core_place().saturating_mul(u64::from(topology.sockets)), "core of each socket")
    } else {
        (topology.per_socket(), "socket")
    };
    if !u64::from(max).is_multiple_of(unit) {
        let below = u64::from(max) / unit * unit;
        let below = (below >= u64::from(case.domain.vcpus.max)).then_some(below);
        let above = u64::from(max).next_multiple_of(unit);
        obstacles.push(Obstacle::Topology { asked: max, unit, part, below, above });
        return None;
    }
    let parts = u32::try_from(u64::from(max) / unit).expect("no more than the vCPUs");
    Some(if by_cores {
        Topology { cores: parts, ..topology }
    } else {
        Topology { sockets: parts, ..topology }
    })
}

/// How many of the first vCPUs can never be taken away: the first, on ppc64 with all threads of its core, which libvirt
/// wants to be treated alike (libvirt 9.0, `qemuProcessValidateHotpluggableVcpus`).
fn fixed(case: &Case<'_>) -> u32 {
    let threads = case.domain.cpu.topology.map_or(1, |topology| topology.threads);
    if case.is_ppc64() { threads } else { 1 }
}

fn cells_of(domain: &Domain) -> Vec<CpuSet> {
    domain.cpu.cells.iter().map(|cell| cell.cpus.clone()).collect()
}

/// The cells with all vCPUs up to `max`. Those that exist and are in no cell are in the first, where libvirt puts them
/// (libvirt 9.0, `qemuDomainDefNumaCPUsRectify`). The new ones are shared out among the cells that have any, socket by
/// socket.
fn covered(case: &Case<'_>, max: u32) -> Vec<CpuSet> {
    let mut cells = cells_of(case.domain);
    if cells.is_empty() {
        return cells;
    }
    let has = case.domain.vcpus.max;
    for cpu in 0..has.min(max) {
        if !cells.iter().any(|cell| cell.contains(cpu)) {
            cells[0].insert(cpu);
        }
    }
    let new: Vec<u32> = (has..max).filter(|cpu| !cells.iter().any(|cell| cell.contains(*cpu))).collect();
    let unit = case
        .domain
        .cpu
        .topology
        .map_or(1, |topology| usize::try_from(topology.per_socket()).unwrap_or(1).max(1));
    let takers: Vec<usize> = (0..cells.len()).filter(|cell| !cells[*cell].is_empty()).collect();
    let chunks = new.len().div_ceil(unit);
    let mut rest = new.as_slice();
    for (turn, cell) in takers.iter().enumerate() {
        let share = chunks / takers.len() + usize::from(turn < chunks % takers.len());
        let (mine, others) = rest.split_at((share * unit).min(rest.len()));
        for cpu in mine {
            cells[*cell].insert(*cpu);
        }
        rest = others;
    }
    cells
}

impl Goal {
    pub(super) fn edit<'t, 'a>(
        &self,
        case: &Case<'_>,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let has = &case.domain.vcpus;
        if self.max > has.max {
            self.edit_number(case, root, edits, said);
        }
        if self.max > has.max || case.want.removable_vcpus {
            self.edit_list(case, root, edits, said);
        }
        self.edit_topology(case, root, edits, said);
        self.edit_cells(case, root, edits, said);
    }

    fn edit_number<'t, 'a>(
        &self,
        case: &Case<'_>,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let current = case.domain.vcpus.current;
        match child(root, "vcpu") {
            Some(node) => {
                edits.set_text(node, self.max);
                edits.set_attribute(node, "current", current);
            }
            None => {
                let vcpu =
                    Fragment::text("vcpu", self.max).with("placement", "static").with("current", current);
                edits.insert_after(super::anchor(root), &vcpu);
            }
        }
        said.changes
            .push(format!("A ceiling of {} vCPUs; at boot {current} are there, as before.", self.max));
        if case.domain.machine.secure_firmware {
            said.notes.push(
                "With secure boot the firmware must agree to each new vCPU: it needs a machine type from 5.2 on to add \
                 (6.0 to remove) and a firmware of that time."
                    .to_owned(),
            );
        }
        if case.domain.is_windows() {
            said.notes.push(
                "Windows adds vCPUs while it runs and never gives one back; its editions limit sockets, and what is \
                 above the limit stays unused."
                    .to_owned(),
            );
        }
    }

    /// The list of vCPUs. libvirt takes those that are not there for hot-pluggable even without it; written down, it is
    /// said to whoever reads the description, and the ones that are there can be made removable.
    fn edit_list<'t, 'a>(
        &self,
        case: &Case<'_>,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let has = &case.domain.vcpus;
        let removable = |id: u32| case.want.removable_vcpus && id >= fixed(case);
        let listed = child(root, "vcpus");
        let entry =
            |id: u32| has.each.binary_search_by_key(&id, |vcpu| vcpu.id).ok().map(|place| has.each[place]);
        let mut freed = 0;
        for node in listed.into_iter().flat_map(|list| children(list, "vcpu")) {
            let vcpu = attribute(node, "id").and_then(|id| id.trim().parse().ok()).and_then(entry);
            if vcpu.is_some_and(|vcpu| vcpu.enabled && !vcpu.hotpluggable && removable(vcpu.id)) {
                edits.set_attribute(node, "hotpluggable", "yes");
                freed += 1;
            }
        }
        let unlisted = |id: &u32| entry(*id).is_none();
        let mut new = Vec::new();
        for id in (0..self.max).filter(unlisted) {
            let enabled = has.each.is_empty() && id < has.current;
            let hotpluggable = !enabled || removable(id);
            freed += u32::from(enabled && hotpluggable);
            let word = |yes| if yes { "yes" } else { "no" };
            new.push(
                Fragment::empty("vcpu")
                    .with("id", id)
                    .with("enabled", word(enabled))
                    .with("hotpluggable", word(hotpluggable)),
            );
        }
        let is_needed = self.max > has.max || freed > 0;
        if !is_needed {
            return;
        }
        match listed {
            Some(list) => new.into_iter().for_each(|vcpu| edits.append(list, vcpu)),
            None => {
                let before = child(root, "vcpu").unwrap_or_else(|| super::anchor(root));
                edits.insert_after(before, &Fragment::holding("vcpus", new));
                said.notes.push(
                    "From now on the list <vcpus> says which vCPUs are there at boot, and no longer current=''; `virsh \
                     setvcpus --config` changes it."
                        .to_owned(),
                );
            }
        }
        if freed > 0 {
            said.changes
                .push(format!("{freed} of the vCPUs at boot can be taken away while the machine runs."));
        }
    }

    fn edit_topology<'t, 'a>(
        &self,
        case: &Case<'_>,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let (Some(new), Some(old)) = (self.topology, case.domain.cpu.topology) else { return };
        let Some(node) = at(root, &["cpu", "topology"]).filter(|_| new != old) else { return };
        for (part, new, old) in [("sockets", new.sockets, old.sockets), ("cores", new.cores, old.cores)] {
            if new != old {
                edits.set_attribute(node, part, new);
                said.changes.push(format!(
                    "{new} {part} instead of {old}: QEMU wants the topology to have exactly the ceiling of vCPUs."
                ));
            }
        }
    }

    fn edit_cells<'t, 'a>(
        &self,
        case: &Case<'_>,
        root: Node<'t, 'a>,
        edits: &mut Edits<'t, 'a>,
        said: &mut Said,
    ) {
        let nodes = at(root, &["cpu", "numa"]).into_iter().flat_map(|numa| children(numa, "cell"));
        for (place, node) in (0u32..).zip(nodes) {
            let id = attribute(node, "id").and_then(|id| id.trim().parse().ok()).unwrap_or(place);
            let cell = case.domain.cpu.cells.iter().zip(&self.cells).find(|(cell, _)| cell.id == id);
            if let Some((_, new)) = cell.filter(|(cell, new)| cell.cpus != **new) {
                edits.set_attribute(node, "cpus", new);
                said.changes.push(format!(
                    "NUMA cell {id} has the vCPUs {new}: all up to the ceiling must be in a cell."
                ));
            }
        }
    }

    pub(super) fn is_in(&self, domain: &Domain) -> bool {
        let cells = cells_of(domain);
        let fits = self.cells.is_empty() || cells == self.cells;
        domain.vcpus.max == self.max && domain.cpu.topology == self.topology && fits
    }
}
