//! The sizes that a user or a policy asks for.

use crate::units::{Bytes, Change};
use serde::{Deserialize, Serialize};

/// What is asked of one machine. What is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Wanted {
    /// Total memory of the guest.
    pub memory: Option<Change<Bytes>>,
    /// Total vCPUs of the guest.
    pub vcpus: Option<Change<u32>>,
    /// How memory is to change; by default the planner chooses between virtio-mem and DIMMs, never the balloon.
    pub mechanism: Option<Mechanism>,
    /// The NUMA node that new memory goes to, or that memory is taken from; by default nodes are kept balanced.
    pub node: Option<u32>,
    /// The zone that new memory blocks go to in a Linux guest.
    pub zone: ZoneWish,
    /// DIMMs (by id) that are not to be removed: the guest refused them earlier in the same command.
    pub keep: Vec<String>,
}

/// How memory changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mechanism {
    /// A virtio-mem device's requested size.
    VirtioMem,
    /// DIMMs, plugged and unplugged.
    Dimm,
    /// The balloon: takes memory from the guest without removing it, and gives it back.
    Balloon,
}

impl std::fmt::Display for Mechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Mechanism::VirtioMem => "virtio-mem",
            Mechanism::Dimm => "dimm",
            Mechanism::Balloon => "balloon",
        })
    }
}

/// Which zone new memory blocks are wanted in. Movable memory can be removed again, but the kernel cannot use it for
/// itself; more than three parts movable to one part kernel memory starves the kernel
/// (Documentation/admin-guide/mm/memory-hotplug.rst, Linux 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneWish {
    /// Movable where the agent can say so and the 3:1 rule allows it, else whatever the guest's kernel chooses.
    #[default]
    Auto,
    /// Movable, or a refusal.
    Movable,
    /// As the guest's kernel chooses.
    Kernel,
}
