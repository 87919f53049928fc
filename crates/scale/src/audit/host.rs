//! The rules of the host: what would kill QEMU, or be refused midway.

use super::{Auditor, Kind};
use crate::observed::{Backing, HostPolicy, Manager, Placement};
use crate::units::Bytes;

/// Memory of one kind that the steps so far have taken from the host.
pub(super) struct Well {
    /// The size of its pages; absent for ordinary ones.
    page: Option<Bytes>,
    /// The host's nodes that it must come from; none for any.
    nodes: Vec<u32>,
    /// What was taken, less what was given back.
    net: i128,
}

impl Auditor<'_> {
    /// Memory is made: pages of a hugetlbfs that are not there (SIGBUS), a VFIO mapping that cannot be locked (QEMU
    /// aborts; hw/vfio/common.c, 7.2), the cgroup's limit, a node of the host that is full.
    pub(super) fn host_takes(&mut self, source: &(Backing, Placement), size: Bytes) {
        self.made = self.made + size;
        self.draw(source, i128::from(size.get()));
        self.holds(i128::from(size.get()));
        let (host, grown) = (&self.seen.host, self.made.saturating_sub(self.freed));
        let pins = (host.vfio || host.locks) && host.lock_limit.is_none();
        if pins
            && self.seen.machine.manager == Manager::Nobody
            && let Some(room) = host.memlock_headroom
        {
            self.require(grown <= room, Kind::Host, || format!("{grown} to lock, {room} may be locked"));
        }
        if let Some(room) = host.cgroup_headroom {
            self.require(grown <= room, Kind::Host, || {
                format!("{grown} more, the cgroup has room for {room}")
            });
        }
    }

    /// Memory is given back; of which kind may not be known.
    pub(super) fn host_gets_back(&mut self, source: Option<&(Backing, Placement)>, size: Bytes) {
        self.freed = self.freed + size;
        self.holds(-i128::from(size.get()));
        if let Some(source) = source {
            self.draw(source, -i128::from(size.get()));
        }
    }

    /// A virtio-mem device takes its memory from its own backend as the guest touches it.
    pub(super) fn host_lends(&mut self, device: &str, from: Bytes, to: Bytes) {
        self.holds(i128::from(to.get()) - i128::from(from.get()));
        if let Some(source) = self.seen.memory.source_of_device(device) {
            self.draw(&source, i128::from(to.get()) - i128::from(from.get()));
        }
    }

    fn holds(&mut self, more: i128) {
        self.held += more;
        self.limits_follow();
    }

    /// What QEMU may hold, and lock, is never nearer to what it holds than it was at the start: the host's kernel would
    /// kill it (mm/memcontrol.c, 6.1).
    pub(super) fn limits_follow(&mut self) {
        for limit in self.seen.host.moving_limits() {
            let now = self.ledger.setting(&limit.name()).and_then(|now| now.bytes());
            let (Some(was), Some(now)) = (limit.bytes(), now) else { continue };
            let least = i128::from(was.get()) + self.held;
            let held = self.held;
            self.require(i128::from(now.get()) >= least, Kind::Host, || {
                format!("{} is {now} beside {held} bytes more than before, and was {was}", limit.name())
            });
        }
    }

    /// After the last step: no limit is left higher than what came calls for, nor lowered below what is left.
    pub(super) fn limits_are_back(&mut self) {
        for limit in self.seen.host.moving_limits() {
            let now = self.ledger.setting(&limit.name()).and_then(|now| now.bytes());
            let (Some(was), Some(now)) = (limit.bytes(), now) else { continue };
            let (was, left) = (i128::from(was.get()), i128::from(self.seen.memory.held().get()) + self.held);
            let due = (was + self.held).max(left.min(was));
            self.require(i128::from(now.get()) == due, Kind::Leftover, || {
                format!("{} is left at {now}, and {due} bytes are due", limit.name())
            });
        }
    }

    fn draw(&mut self, (backing, placement): &(Backing, Placement), by: i128) {
        let page = match backing {
            Backing::Hugepages { page, .. } | Backing::HugeMemfd { page, .. } => Some(*page),
            Backing::Ram | Backing::SharedMemfd | Backing::Unknown(_) => None,
        };
        let mut sets = vec![Vec::new()];
        if placement.policy == HostPolicy::Bind && !placement.host_nodes.is_empty() {
            sets.push(placement.host_nodes.clone());
        }
        for nodes in sets {
            let found = self.wells.iter().position(|well| well.page == page && well.nodes == nodes);
            let at = found.unwrap_or_else(|| {
                self.wells.push(Well { page, nodes: nodes.clone(), net: 0 });
                self.wells.len() - 1
            });
            self.wells[at].net += by;
            let net = self.wells[at].net;
            let free = match (page, nodes.is_empty()) {
                (Some(page), true) => self.seen.host.free_pages(page, None),
                (Some(page), false) => self.seen.host.free_pages(page, Some(&nodes)),
                (None, true) => None,
                (None, false) => self.seen.host.free_on(&nodes),
            };
            let Some(free) = free.filter(|_| by > 0) else { continue };
            self.require(net <= i128::from(free.get()), Kind::Host, || {
                format!("{net} bytes of {backing:?} on nodes {nodes:?} of the host, {free} are free")
            });
        }
    }
}
