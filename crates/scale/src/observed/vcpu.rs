//! vCPUs: the places that QEMU has for them, what is in each, and how often one was filled.

use super::Ost;
use serde::{Deserialize, Serialize};

/// The vCPUs that QEMU gives the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vcpus {
    /// All places for a vCPU, in ascending topology order (node, socket, die, core, thread); empty where the machine
    /// has no vCPU hot-plug.
    pub slots: Vec<VcpuSlot>,
    /// True where the machine has shown that a vCPU was removed since it started (an eject that the guest confirmed,
    /// from `query-acpi-ospm-status`, or one of our own).
    pub removed_before: bool,
    /// True where QEMU runs all of them on one thread (TCG with `thread=single`, or with `-icount`). A lone one does
    /// not tell, and is not said to.
    #[serde(default)]
    pub one_thread: bool,
    /// How often places were filled since this QEMU started, or were about to be, as far as the journal knows.
    #[serde(default)]
    pub filled: Vec<Filled>,
}

impl Vcpus {
    /// How many vCPUs are plugged. A slot may hold more than one (whole cores on POWER).
    pub fn plugged(&self) -> u32 {
        self.slots.iter().filter(|s| s.state.is_taken()).map(|s| s.count).sum()
    }

    /// How many vCPUs there can be.
    pub fn ceiling(&self) -> u32 {
        self.slots.iter().map(|s| s.count).sum()
    }

    /// How many vCPUs this QEMU has started in its life, those that are gone counted in. What others plugged and removed
    /// counts as far as its place showed it when somebody looked, so there may have been more. What was about to be
    /// plugged counts, so there may have been fewer.
    pub fn started(&self) -> u32 {
        let of = |slot: &VcpuSlot| slot.count.saturating_mul(self.times(slot));
        self.slots.iter().fold(0, |sum: u32, slot| sum.saturating_add(of(slot)))
    }

    /// The places that were filled since QEMU started, those of vCPUs from its start left out: what the journal knows,
    /// and what the places show.
    pub fn fillings(&self) -> Vec<Filled> {
        let filled = |slot: &VcpuSlot| {
            let id = match &slot.state {
                VcpuState::Boot => return None,
                VcpuState::Device(id) => id.clone(),
                VcpuState::Free | VcpuState::Barred(_) => {
                    self.known(slot).map_or_else(String::new, |known| known.id.clone())
                }
            };
            let times = self.times(slot);
            (times > 0).then_some(Filled { id, props: slot.props, times })
        };
        self.slots.iter().filter_map(filled).collect()
    }

    fn known(&self, slot: &VcpuSlot) -> Option<&Filled> {
        self.filled.iter().find(|filled| filled.props == slot.props)
    }

    /// How often a place was filled.
    fn times(&self, slot: &VcpuSlot) -> u32 {
        let known = self.known(slot);
        let times = known.map_or(0, |known| known.times);
        match &slot.state {
            VcpuState::Boot => times.max(1),
            // Another than the last that is known: somebody else has filled it since.
            VcpuState::Device(id) if known.is_none_or(|known| known.id != *id) => times.saturating_add(1),
            VcpuState::Device(_) => times,
            VcpuState::Free | VcpuState::Barred(_) => {
                times.max(u32::from(slot.ost.is_some_and(|ost| ost.is_ejected())))
            }
        }
    }
}

/// How often one place was filled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Filled {
    /// The device that it was filled with last; empty where nobody saw.
    pub id: String,
    /// The place.
    pub props: VcpuProps,
    /// How often.
    pub times: u32,
}

/// One place for a vCPU (`query-hotpluggable-cpus`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VcpuSlot {
    /// The device type to plug, such as `qemu64-x86_64-cpu`.
    pub driver: String,
    /// How many vCPUs the slot holds.
    pub count: u32,
    /// Where it is: all properties that QEMU lists, which must all be given back to it.
    pub props: VcpuProps,
    /// Whether it is taken, and by what.
    pub state: VcpuState,
    /// The id that a vCPU plugged here gets from the machine's manager; absent where Supple chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the guest's ACPI driver said last of this slot, if anything.
    pub ost: Option<Ost>,
}

/// The place of a vCPU, exactly as QEMU lists it. Ordered by node, drawer, book, socket, die, cluster, module, core,
/// thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VcpuProps {
    /// NUMA node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u32>,
    /// Drawer (s390x, QEMU 8.2 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawer_id: Option<u32>,
    /// Book within the drawer (s390x, QEMU 8.2 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub book_id: Option<u32>,
    /// Socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_id: Option<u32>,
    /// Die within the socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub die_id: Option<u32>,
    /// Cluster within the die.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<u32>,
    /// Module within the cluster (QEMU 9.1 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<u32>,
    /// Core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_id: Option<u32>,
    /// Thread within the core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_id: Option<u32>,
}

impl VcpuProps {
    /// The properties that are listed, by QEMU's names.
    pub fn listed(mut self) -> impl Iterator<Item = (&'static str, u32)> {
        let listed = self.all_mut().map(|(name, number)| number.map(|number| (name, number)));
        listed.into_iter().flatten()
    }

    /// The property of this name, if it is a known one.
    pub fn named_mut(&mut self, name: &str) -> Option<&mut Option<u32>> {
        self.all_mut().into_iter().find(|(known, _)| *known == name).map(|(_, number)| number)
    }

    fn all_mut(&mut self) -> [(&'static str, &mut Option<u32>); 9] {
        let VcpuProps {
            node_id,
            drawer_id,
            book_id,
            socket_id,
            die_id,
            cluster_id,
            module_id,
            core_id,
            thread_id,
        } = self;
        [
            ("node-id", node_id),
            ("drawer-id", drawer_id),
            ("book-id", book_id),
            ("socket-id", socket_id),
            ("die-id", die_id),
            ("cluster-id", cluster_id),
            ("module-id", module_id),
            ("core-id", core_id),
            ("thread-id", thread_id),
        ]
    }
}

/// Whether a vCPU slot is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VcpuState {
    /// Nothing there.
    Free,
    /// There since boot without an id (`-smp`): QEMU cannot remove it.
    Boot,
    /// A device with this id: removable if the guest agrees.
    Device(String),
    /// Nothing there, and Supple cannot plug anything, for this reason (a place described by a property that it does
    /// not know and could not give back).
    Barred(String),
}

impl VcpuState {
    /// True where the slot holds a vCPU.
    pub fn is_taken(&self) -> bool {
        match self {
            VcpuState::Boot | VcpuState::Device(_) => true,
            VcpuState::Free | VcpuState::Barred(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(core: u32, state: VcpuState) -> VcpuSlot {
        let props = VcpuProps { core_id: Some(core), ..VcpuProps::default() };
        VcpuSlot { driver: String::new(), count: 1, props, state, name: None, ost: None }
    }

    fn device(id: &str) -> VcpuState {
        VcpuState::Device(id.to_owned())
    }

    fn filled(core: u32, id: &str, times: u32) -> Filled {
        Filled { id: id.to_owned(), props: slot(core, VcpuState::Free).props, times }
    }

    #[test]
    fn a_property_is_found_by_the_name_under_which_it_is_listed() {
        let mut props = VcpuProps::default();
        assert_eq!(props.listed().count(), 0);
        *props.named_mut("die-id").expect("known") = Some(3);
        *props.named_mut("thread-id").expect("known") = Some(0);
        assert_eq!((props.die_id, props.thread_id), (Some(3), Some(0)));
        assert_eq!(props.listed().collect::<Vec<_>>(), [("die-id", 3), ("thread-id", 0)]);
        assert_eq!(props.named_mut("colour"), None);
    }

    #[test]
    fn what_is_there_and_what_the_guest_let_go_was_started_once() {
        let mut vcpus = Vcpus {
            slots: vec![slot(0, VcpuState::Boot), slot(1, device("theirs")), slot(2, VcpuState::Free)],
            ..Vcpus::default()
        };
        assert_eq!(vcpus.started(), 2);
        vcpus.slots[2].ost = Some(Ost { source: 3, status: 0x82 });
        assert_eq!(vcpus.started(), 2, "a refusal is no removal");
        vcpus.slots[2].ost = Some(Ost { source: 3, status: 0 });
        assert_eq!(vcpus.started(), 3);
        vcpus.slots[1].count = 8;
        assert_eq!(vcpus.started(), 10);
    }

    #[test]
    fn what_was_plugged_and_is_gone_counts_and_is_not_counted_twice() {
        let mut vcpus = Vcpus {
            slots: vec![slot(0, VcpuState::Boot), slot(1, device("ours")), slot(2, VcpuState::Free)],
            filled: vec![filled(1, "ours", 1)],
            ..Vcpus::default()
        };
        assert_eq!(vcpus.started(), 2, "what is there is what was plugged");
        vcpus.filled[0].times = 3;
        assert_eq!(vcpus.started(), 4);
        vcpus.filled.push(filled(2, "ours", 2));
        vcpus.slots[2].ost = Some(Ost { source: 3, status: 0 });
        assert_eq!(vcpus.started(), 6, "the guest's word is of one of these");
        vcpus.slots[1].state = device("theirs");
        assert_eq!(vcpus.started(), 7, "somebody else has plugged there since");
        vcpus.filled.push(filled(9, "elsewhere", 5));
        assert_eq!(vcpus.started(), 7, "no place of this machine");
    }

    #[test]
    fn what_others_did_is_known_from_the_moment_that_it_was_seen() {
        let mut vcpus = Vcpus {
            slots: vec![slot(0, VcpuState::Boot), slot(1, device("theirs")), slot(2, VcpuState::Free)],
            ..Vcpus::default()
        };
        vcpus.slots[2].ost = Some(Ost { source: 3, status: 0 });
        let known = vcpus.fillings();
        assert_eq!(known, [filled(1, "theirs", 1), filled(2, "", 1)]);
        vcpus.filled = known.clone();
        assert_eq!((vcpus.started(), vcpus.fillings()), (3, known), "seen twice is not done twice");
        // Both are filled anew, and the guest's word is overwritten.
        vcpus.slots[1].state = device("others");
        (vcpus.slots[2].state, vcpus.slots[2].ost) = (device("others"), None);
        assert_eq!(vcpus.started(), 5);
    }
}
