//! Where a machine stands, what was asked of it, and what a plan depends on.

use crate::observed::{Accel, Filled, Life, Observed, VcpuProps};
use crate::setting::Setting;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// The sizes of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sizes {
    /// Memory that QEMU gives the guest, the balloon's part taken off.
    pub memory: Bytes,
    /// vCPUs that QEMU gives the guest.
    pub vcpus: u32,
}

impl Sizes {
    /// The sizes of an observed machine, as QEMU tells them.
    pub fn of(seen: &Observed) -> Sizes {
        let ballooned = seen
            .memory
            .balloon
            .map_or(Bytes::ZERO, |b| (seen.memory.boot + seen.memory.dimm_total()).saturating_sub(b.actual));
        Sizes { memory: seen.memory.total().saturating_sub(ballooned), vcpus: seen.vcpus.plugged() }
    }
}

/// The absolute sizes that were asked for; absent where nothing was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Asked {
    /// Total memory.
    pub memory: Option<Bytes>,
    /// Total vCPUs.
    pub vcpus: Option<u32>,
    /// Names and sizes of disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<(String, Bytes)>,
    /// Limits, each with its whole value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// What a plan depends on. Two observations with one basis would be planned alike; a run refuses to start from
/// another basis than its plan's, so a stale plan never moves a machine backwards.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Basis {
    /// Id, slot and size of each DIMM.
    pub dimms: Vec<(String, u32, Bytes)>,
    /// Id and requested size of each virtio-mem device.
    pub virtio_mem: Vec<(String, Bytes)>,
    /// The balloon's `actual`.
    pub balloon: Option<Bytes>,
    /// The taken vCPU places.
    pub vcpus: Vec<VcpuProps>,
    /// Backends without a device.
    pub unused_backends: Vec<String>,
    /// Removals that are pending.
    pub pending: Vec<String>,
    /// Name and size of each disk.
    #[serde(default)]
    pub disks: Vec<(String, Bytes)>,
    /// Every limit that is known.
    #[serde(default)]
    pub settings: Vec<Setting>,
    /// What the machine does, such as `running`.
    #[serde(default)]
    pub state: String,
    /// What it is busy with.
    #[serde(default)]
    pub busy: Vec<String>,
    /// Which QEMU process it runs in.
    #[serde(default)]
    pub life: Option<Life>,
    /// How often places for vCPUs were filled in its life, where it is an emulated one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filled: Vec<Filled>,
}

impl Basis {
    /// The basis of an observation.
    pub fn of(seen: &Observed) -> Basis {
        let memory = &seen.memory;
        Basis {
            dimms: memory.dimms.iter().map(|d| (d.id.clone(), d.slot, d.size)).collect(),
            virtio_mem: memory.virtio_mem.iter().map(|v| (v.id.clone(), v.requested)).collect(),
            balloon: memory.balloon.map(|b| b.actual),
            vcpus: seen.vcpus.slots.iter().filter(|s| s.state.is_taken()).map(|s| s.props).collect(),
            unused_backends: memory.unused_backends.iter().map(|b| b.id.clone()).collect(),
            pending: seen.pending.iter().map(|p| p.device.id().to_owned()).collect(),
            disks: seen.disks().iter().map(|d| (d.name.clone(), d.size)).collect(),
            settings: seen.settings(),
            state: seen.machine.state.clone(),
            busy: seen.machine.busy.clone(),
            life: seen.machine.life,
            filled: match seen.machine.accel {
                Accel::Tcg => seen.vcpus.fillings(),
                Accel::Kvm | Accel::Unknown => Vec::new(),
            },
        }
    }
}
