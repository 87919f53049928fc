//! What the host must have for a plan's memory: room in QEMU's control group, memory that may be locked, and the pages
//! that the guest's memory is made of, on the host's nodes that it is bound to.
//!
//! Only what would end in a dead machine or in a growth that QEMU refuses midway is an obstacle; more than the host has
//! free otherwise is legal, and worth a word.

use super::dimm::exact;
use super::make::{Part, Scene};
use super::{Act, Obstacle, When};
use crate::observed::{Backing, Manager, Memory, Placement};
use crate::units::Bytes;

/// What the host needs beside the guest's new memory: page tables and QEMU's own books, about 1/256 of it.
const OVERHEAD: u64 = 256;

/// What the host cannot give.
pub(super) fn lacks(scene: &Scene<'_>, part: &Part) -> Vec<Obstacle> {
    let host = &scene.seen.host;
    let peak = part.peak;
    let mut found = Vec::new();
    if peak.is_zero() {
        return found;
    }
    let with_overhead = peak + peak.per(OVERHEAD);
    if let Some(headroom) = host.cgroup_headroom.filter(|headroom| *headroom < with_overhead) {
        found.push(Obstacle {
            when: When::NotNow,
            reason: format!("QEMU's cgroup allows {headroom} more and {with_overhead} are needed: the host would kill QEMU"),
            way_out: "raise memory.max of the cgroup (version 1: memory.limit_in_bytes), or ask for less".to_owned(),
        });
    }
    found.extend(locked(scene, peak));
    found.extend(pages(scene, part));
    found
}

/// Memory that cannot be locked. A VFIO device ends QEMU then (vfio_listener_region_add ends in hw_error where mapping
/// fails; hw/vfio/common.c, 7.2 and 10.0); where QEMU locks all of its memory, the new one is refused (mmap(2), EAGAIN).
/// libvirt raises the limit itself.
fn locked(scene: &Scene<'_>, peak: Bytes) -> Option<Obstacle> {
    let host = &scene.seen.host;
    let why = match (host.vfio, host.locks) {
        (true, _) => "a VFIO device pins all of the guest's memory",
        (false, true) => "QEMU locks all of the guest's memory",
        (false, false) => return None,
    };
    let is_raised = host.lock_limit.is_some() || scene.seen.machine.manager == Manager::Libvirt;
    let headroom = host.memlock_headroom.filter(|headroom| !is_raised && *headroom < peak)?;
    let end = if host.vfio { "QEMU would abort" } else { "the kernel would refuse them" };
    let more = (peak - headroom).get();
    let process = host.qemu_pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    Some(Obstacle {
        when: When::NotNow,
        reason: format!("{why}, QEMU may lock {headroom} more and {peak} are needed: {end}"),
        way_out: format!(
            "raise the limit first by {} or more, as root: prlimit --pid {process} --memlock=$(($(prlimit --pid {process} \
             --memlock --output SOFT --noheadings --raw) + {more})):",
            exact(peak - headroom)
        ),
    })
}

/// More than the host has free is legal, and worth a word.
pub(super) fn overcommit(scene: &Scene<'_>, part: &Part) -> Option<String> {
    let available = scene.seen.host.available?;
    (available < part.peak)
        .then(|| format!("the host has {available} available, less than the {} added", part.peak))
}

/// Where memory comes from: pages of a size, ordinary ones without; on some of the host's nodes, or on any.
#[derive(Clone, PartialEq, Eq)]
struct Spring {
    page: Option<Bytes>,
    nodes: Option<Vec<u32>>,
}

/// What a plan takes from one spring at a time of it, and at most.
struct Draught {
    spring: Spring,
    now: Bytes,
    /// What is given back beyond what was taken: room for what is taken later.
    spare: Bytes,
    most: Bytes,
}

#[derive(Default)]
struct Demand {
    draughts: Vec<Draught>,
}

impl Demand {
    /// What the acts of a part take, step by step.
    fn of(scene: &Scene<'_>, part: &Part) -> Demand {
        let memory = &scene.seen.memory;
        let mut demand = Demand::default();
        // Backends that are made here: what each holds, and of which memory.
        let mut made: Vec<(&str, Bytes, (Backing, Placement))> = Vec::new();
        let mut held: Vec<(&str, Bytes)> =
            memory.virtio_mem.iter().map(|v| (v.id.as_str(), v.size)).collect();
        let by_libvirt = scene.seen.machine.manager == Manager::Libvirt;
        for act in part.acts() {
            match act {
                Act::CreateBackend { memdev, size, backing, placement } => {
                    let source = (backing.clone(), placement.clone());
                    demand.take(&source, *size);
                    made.push((memdev, *size, source));
                }
                Act::PlugDimm { brings: Some(size), node, .. } => {
                    demand.take(&memory.source_of_node(*node), *size);
                }
                Act::UnplugDimm { memdev, .. } if by_libvirt => demand.free(&made, memory, memdev),
                Act::DeleteBackend { memdev } => demand.free(&made, memory, memdev),
                Act::ResizeVirtioMem { id, to, .. } => {
                    let held = held.iter_mut().find(|(of, _)| of == id);
                    if let (Some((_, held)), Some(source)) = (held, memory.source_of_device(id)) {
                        demand.take(&source, to.saturating_sub(*held));
                        demand.give(&source, held.saturating_sub(*to));
                        *held = *to;
                    }
                }
                Act::PlugDimm { brings: None, .. }
                | Act::UnplugDimm { .. }
                | Act::MakeKnown { .. }
                | Act::OnlineBlocks { .. }
                | Act::OfflineBlocks { .. }
                | Act::SettleVirtioMem { .. }
                | Act::SetBalloon { .. }
                | Act::PlugVcpu { .. }
                | Act::UnplugVcpu { .. }
                | Act::AwaitOnline { .. }
                | Act::OnlineVcpus { .. }
                | Act::Set { .. }
                | Act::GrowDisk { .. }
                | Act::GrowInGuest { .. } => {}
            }
        }
        demand
    }

    fn take(&mut self, source: &(Backing, Placement), size: Bytes) {
        for draught in self.of_source(source) {
            let from_spare = draught.spare.min(size);
            draught.spare = draught.spare - from_spare;
            draught.now = draught.now + (size - from_spare);
            draught.most = draught.most.max(draught.now);
        }
    }

    fn give(&mut self, source: &(Backing, Placement), size: Bytes) {
        for draught in self.of_source(source) {
            let of_now = draught.now.min(size);
            draught.now = draught.now - of_now;
            draught.spare = draught.spare + (size - of_now);
        }
    }

    /// A backend goes that a part has made, or that a DIMM had.
    fn free(&mut self, made: &[(&str, Bytes, (Backing, Placement))], memory: &Memory, memdev: &str) {
        if let Some((_, size, source)) = made.iter().rev().find(|(id, ..)| *id == memdev) {
            self.give(source, *size);
        } else if let Some(dimm) = memory.dimms.iter().find(|dimm| dimm.memdev == memdev) {
            self.give(&memory.source_of_node(dimm.node), dimm.size);
        }
    }

    /// What is bound to nodes is taken from them and from the host as a whole.
    fn of_source(&mut self, (backing, placement): &(Backing, Placement)) -> Vec<&mut Draught> {
        let (page, bound) = (backing.page(), placement.bound().map(<[u32]>::to_vec));
        let whole = Spring { page, nodes: None };
        let near = bound.map(|nodes| Spring { page, nodes: Some(nodes) });
        for spring in [Some(whole.clone()), near.clone()].into_iter().flatten() {
            if !self.draughts.iter().any(|draught| draught.spring == spring) {
                let (now, spare, most) = Default::default();
                self.draughts.push(Draught { spring, now, spare, most });
            }
        }
        self.draughts.iter_mut().filter(|d| d.spring == whole || Some(&d.spring) == near.as_ref()).collect()
    }
}

/// Pages that are not there. Huge ones are taken when a backend is made (`prealloc`), and QEMU refuses where they are
/// too few; a virtio-mem device's at the guest's first touch, and a shortage kills QEMU then (SIGBUS). Memory that is
/// bound to a full node is not found elsewhere: the host's kernel kills QEMU (mm/oom_kill.c, 6.1,
/// `CONSTRAINT_MEMORY_POLICY`).
fn pages(scene: &Scene<'_>, part: &Part) -> Vec<Obstacle> {
    let host = &scene.seen.host;
    let demand = Demand::of(scene, part);
    let mut short: Vec<(&Spring, Bytes, Bytes)> = Vec::new();
    for Draught { spring, most, .. } in &demand.draughts {
        let free = match (spring.page, &spring.nodes) {
            (Some(page), nodes) => host.free_pages(page, nodes.as_deref()),
            (None, Some(nodes)) => host.free_on(nodes),
            (None, None) => None,
        };
        short.extend(free.filter(|free| free < most).map(|free| (spring, free, *most)));
    }
    // What is missing on a node is missing in all; the node is the better word.
    let near = |page| short.iter().any(|(other, ..)| other.page == page && other.nodes.is_some());
    let told = short.iter().filter(|(spring, ..)| spring.nodes.is_some() || !near(spring.page));
    told.map(|(spring, free, most)| shortage(spring, *free, *most)).collect()
}

fn shortage(Spring { page, nodes }: &Spring, free: Bytes, needed: Bytes) -> Obstacle {
    let place = match nodes.as_deref() {
        None => String::new(),
        Some([node]) => format!(" on the host's node {node}, to which the guest's memory is bound,"),
        Some(nodes) => {
            let all: Vec<String> = nodes.iter().map(u32::to_string).collect();
            format!(" on the host's nodes {}, to which the guest's memory is bound,", all.join(", "))
        }
    };
    let Some(page) = page else {
        return Obstacle {
            when: When::NotNow,
            reason: format!("{free} are free{place} and {needed} are needed: the host would kill QEMU"),
            way_out:
                "free memory on that node, name another of the guest's nodes with --node, or ask for less"
                    .to_owned(),
        };
    };
    let kib = page.count_of(Bytes::new(1024));
    let more = (needed - free).round_up(*page).count_of(*page);
    let file = match nodes.as_deref() {
        Some([node, ..]) => {
            format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB/nr_hugepages")
        }
        Some([]) | None => format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"),
    };
    Obstacle {
        when: When::NotNow,
        reason: format!("{free} are free{place} in huge pages of {page} and {needed} are needed"),
        way_out: format!(
            "set {more} more aside on the host: echo $(($(cat {file}) + {more})) > {file}; or ask for less"
        ),
    }
}
