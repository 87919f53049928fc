//! An observation on the wire.

use scale::history::OpenRun;
use scale::observed::{
    Accel, AutoOnline, Guest as CoreGuest, GuestFacts, Host as CoreHost, Machine as CoreMachine,
    Observed as CoreObserved, VcpuProps, VcpuSlot, VcpuState,
};
use scale::report::GuestSizes;
use scale::units::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;

use super::Sizes;
use super::limits::Dimensions;
use super::memory::Memory;
use super::report::{Open, Pending};
use crate::drift::{Drift, Kind, drift};
use crate::words::rfc3339;

/// Everything known about one machine.
#[derive(Debug, Serialize)]
pub(crate) struct Observed {
    /// When the last of these facts was told.
    pub(crate) at: String,
    /// The machine.
    pub(crate) machine: Machine,
    /// Its sizes, as QEMU tells them.
    pub(crate) sizes: Sizes,
    /// Its memory, as QEMU tells it.
    pub(crate) memory: Memory,
    /// Its vCPUs, as QEMU tells them.
    pub(crate) vcpus: Vcpus,
    /// Disks, NICs and limits.
    #[serde(flatten)]
    pub(crate) dimensions: Dimensions,
    /// What the guest says of itself.
    pub(crate) guest: Guest,
    /// The host around the QEMU process.
    pub(crate) host: Host,
    /// Where QEMU, the guest and the journal differ.
    pub(crate) differences: Vec<Difference>,
    /// How the machine's definition in libvirt differs from what runs; null where it has none, or it is not known.
    pub(crate) definition: Option<Definition>,
    /// Removals that the guest has neither done nor refused.
    pub(crate) pending: Vec<Pending>,
    /// A run that has begun and not ended; null where there is none.
    pub(crate) open: Option<Open>,
}

/// How a definition differs from what runs.
#[derive(Debug, Serialize)]
#[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "plain QEMU keeps no definition"))]
pub(crate) struct Definition {
    /// What the definition did not follow.
    pub(crate) apart: Vec<Apart>,
    /// What the next start brings: prepared, and meant so.
    pub(crate) waits: Vec<String>,
}

/// One difference.
#[derive(Debug, Serialize)]
#[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "as above"))]
pub(crate) struct Apart {
    /// The difference.
    pub(crate) what: String,
    /// What `supple reconcile` does about it; null where a person must.
    pub(crate) mend: Option<String>,
    /// What a person must do; null where nothing.
    pub(crate) by_hand: Option<String>,
}

#[cfg(feature = "libvirt")]
impl From<&drive::libvirt::Apart> for Definition {
    fn from(found: &drive::libvirt::Apart) -> Definition {
        let mends = found.mends.iter().map(|mend| (&mend.drift, Some(mend.what()), None));
        let by_hand = found.by_hand.iter().map(|(drift, why)| (drift, None, Some(why.clone())));
        let all = mends.chain(by_hand);
        Definition {
            apart: all
                .map(|(drift, mend, by_hand)| Apart { what: drift.to_string(), mend, by_hand })
                .collect(),
            waits: found.waits.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// QEMU's `-name`.
    pub(crate) name: Option<String>,
    /// Its UUID.
    pub(crate) uuid: Option<String>,
    /// Its machine type: `pc-q35-7.2`.
    pub(crate) kind: String,
    /// Its architecture: `x86_64`.
    pub(crate) arch: String,
    /// QEMU's version: `7.2.22`.
    pub(crate) qemu: String,
    /// `kvm`, `tcg` or null.
    pub(crate) accel: Option<&'static str>,
    /// QEMU's run state: `running`.
    pub(crate) state: String,
    /// What occupies it now and makes hot-plug fail.
    pub(crate) busy: Vec<String>,
}

/// The vCPUs that QEMU gives the guest.
#[derive(Debug, Serialize)]
pub(crate) struct Vcpus {
    /// How many are plugged.
    pub(crate) plugged: u32,
    /// How many there can be.
    pub(crate) ceiling: u32,
    /// How many this QEMU has started in its life, as far as it is known.
    pub(crate) started: u32,
    /// All places for a vCPU; empty where the machine has no vCPU hot-plug.
    pub(crate) slots: Vec<Slot>,
}

/// One place for a vCPU.
#[derive(Debug, Serialize)]
pub(crate) struct Slot {
    /// `free`, `boot` (cannot be removed), `device` (removable) or `barred` (cannot be used by Supple).
    pub(crate) state: &'static str,
    /// The device's id; null unless `device`.
    pub(crate) id: Option<String>,
    /// How many vCPUs it holds.
    pub(crate) count: u32,
    /// Where it is: those of `node_id`, `drawer_id`, `book_id`, `socket_id`, `die_id`, `cluster_id`, `module_id`,
    /// `core_id` and `thread_id` that QEMU lists.
    pub(crate) place: BTreeMap<String, u32>,
}

/// What the guest says of itself. All is null where it was not heard.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Guest {
    /// Whether the agent answered.
    pub(crate) heard: bool,
    /// Why it was not heard.
    pub(crate) why_unheard: Option<String>,
    /// The agent's version.
    pub(crate) agent_version: Option<String>,
    /// The operating system.
    pub(crate) os: Option<String>,
    /// The kernel's release.
    pub(crate) kernel: Option<String>,
    /// The size of a memory block.
    pub(crate) block_bytes: Option<u64>,
    /// Memory in online blocks.
    pub(crate) online_bytes: Option<u64>,
    /// MemTotal.
    pub(crate) mem_total_bytes: Option<u64>,
    /// MemAvailable.
    pub(crate) mem_available_bytes: Option<u64>,
    /// vCPUs that the guest shows.
    pub(crate) vcpus_shown: Option<u64>,
    /// vCPUs online.
    pub(crate) vcpus_online: Option<u32>,
    /// What the guest's kernel does with new memory: `offline`, `online`, `kernel` or `movable`.
    pub(crate) auto_online: Option<&'static str>,
    /// Whether the guest's kernel can be told of memory that it does not find by itself (`probe`).
    pub(crate) has_probe: Option<bool>,
}

/// The host around the QEMU process. Null is not known, or not limited.
#[derive(Debug, Serialize)]
pub(crate) struct Host {
    /// The QEMU process.
    pub(crate) qemu_pid: Option<u32>,
    /// MemAvailable of the host.
    pub(crate) available_bytes: Option<u64>,
    /// What the cgroup of QEMU still lets it take.
    pub(crate) cgroup_headroom_bytes: Option<u64>,
    /// Free bytes of the huge pages that back the guest.
    pub(crate) hugepages_free_bytes: Option<u64>,
    /// How many memory regions vhost can map.
    pub(crate) vhost_regions: Option<u32>,
    /// Whether QEMU holds a VFIO device.
    pub(crate) vfio: bool,
    /// How much more QEMU may lock.
    pub(crate) memlock_headroom_bytes: Option<u64>,
}

/// Where QEMU, the guest and the journal differ.
#[derive(Debug, Serialize)]
pub(crate) struct Difference {
    /// A device's id, `memory` or `vcpus`.
    pub(crate) subject: String,
    /// `not-shown`, `offline`, `not-as-requested`, `pending`, `refused` or `unused`.
    pub(crate) kind: Kind,
    /// The difference, as text.
    pub(crate) what: String,
    /// What would set it right; null where nothing is to be done.
    pub(crate) way_out: Option<String>,
}

impl Observed {
    /// An observation, and the run that is on record as open with the process that is at it.
    pub(crate) fn of(seen: &CoreObserved, open: Option<&OpenRun>, process: Option<u32>) -> Observed {
        Observed {
            at: rfc3339(seen.at),
            machine: Machine::from(&seen.machine),
            sizes: scale::plan::Sizes::of(seen).into(),
            memory: Memory::of(seen),
            vcpus: Vcpus {
                plugged: seen.vcpus.plugged(),
                ceiling: seen.vcpus.ceiling(),
                started: seen.vcpus.started(),
                slots: seen.vcpus.slots.iter().map(Slot::from).collect(),
            },
            dimensions: Dimensions::from(seen),
            guest: Guest::of(seen),
            host: Host::from(&seen.host),
            differences: drift(seen).into_iter().map(Difference::from).collect(),
            definition: None,
            pending: seen.pending.iter().map(Pending::from).collect(),
            open: open.map(|open| Open::of(open, process)),
        }
    }
}

impl From<&CoreMachine> for Machine {
    fn from(machine: &CoreMachine) -> Machine {
        Machine {
            name: machine.name.clone(),
            uuid: machine.uuid.clone(),
            kind: machine.kind.clone(),
            arch: machine.arch.clone(),
            qemu: machine.qemu.to_string(),
            accel: match machine.accel {
                Accel::Kvm => Some("kvm"),
                Accel::Tcg => Some("tcg"),
                Accel::Unknown => None,
            },
            state: machine.state.clone(),
            busy: machine.busy.clone(),
        }
    }
}

impl From<&VcpuSlot> for Slot {
    fn from(slot: &VcpuSlot) -> Slot {
        let (state, id) = match &slot.state {
            VcpuState::Free => ("free", None),
            VcpuState::Boot => ("boot", None),
            VcpuState::Device(id) => ("device", Some(id.clone())),
            VcpuState::Barred(_) => ("barred", None),
        };
        Slot { state, id, count: slot.count, place: place(slot.props) }
    }
}

fn place(props: VcpuProps) -> BTreeMap<String, u32> {
    props.listed().map(|(name, number)| (name.replace('-', "_"), number)).collect()
}

impl Guest {
    fn of(seen: &CoreObserved) -> Guest {
        match &seen.guest {
            CoreGuest::Unheard(why) => Guest { why_unheard: Some(why.clone()), ..Guest::default() },
            CoreGuest::Heard(facts) => Guest::heard(facts, GuestSizes::of(seen)),
        }
    }

    fn heard(facts: &GuestFacts, sizes: GuestSizes) -> Guest {
        Guest {
            heard: true,
            why_unheard: None,
            agent_version: Some(facts.agent_version.clone()),
            os: facts.os.clone(),
            kernel: facts.kernel.clone(),
            block_bytes: facts.block.map(Bytes::get),
            online_bytes: sizes.online.map(Bytes::get),
            mem_total_bytes: facts.meminfo.map(|m| m.total.get()),
            mem_available_bytes: facts.meminfo.map(|m| m.available.get()),
            vcpus_shown: sizes.vcpus.map(|_| facts.vcpus.len() as u64),
            vcpus_online: sizes.vcpus,
            auto_online: facts.auto_online.map(|policy| match policy {
                AutoOnline::Offline => "offline",
                AutoOnline::Online => "online",
                AutoOnline::Kernel => "kernel",
                AutoOnline::Movable => "movable",
            }),
            has_probe: Some(facts.has_probe),
        }
    }
}

impl From<&CoreHost> for Host {
    fn from(host: &CoreHost) -> Host {
        Host {
            qemu_pid: host.qemu_pid,
            available_bytes: host.available.map(Bytes::get),
            cgroup_headroom_bytes: host.cgroup_headroom.map(Bytes::get),
            hugepages_free_bytes: (host.pools.iter())
                .find(|pool| pool.node.is_none() && pool.page.is_some())
                .map(|pool| pool.free.saturating_sub(pool.promised).get()),
            vhost_regions: host.vhost_regions,
            vfio: host.vfio,
            memlock_headroom_bytes: host.memlock_headroom.map(Bytes::get),
        }
    }
}

impl From<Drift> for Difference {
    fn from(drift: Drift) -> Difference {
        Difference { subject: drift.subject, kind: drift.kind, what: drift.what, way_out: drift.way_out }
    }
}
