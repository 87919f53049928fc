//! How far a running machine and its next boot have come apart.
//!
//! A live change is gone at the next boot unless the description of that was changed with it; this says what is. It
//! compares what resizing changes and what it depends on, nothing else, and it will not say which side is right.

use super::domain::{Cell, Domain, MemoryDevice, MemoryModel, Topology};
use super::units::{as_attached, as_booted};
use scale::units::Bytes;
use std::fmt;

/// One difference between the running machine and its next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// A memory device that the running machine has and its next boot will not have.
    OnlyLive {
        /// The device, of the live description.
        device: Box<MemoryDevice>,
    },
    /// A memory device that only the next boot will have.
    OnlyNextBoot {
        /// The device, of the other description.
        device: Box<MemoryDevice>,
    },
    /// One device, written with a size that libvirt rounds: as 524287 KiB, say, that is 512 MiB in the guest. Detaching
    /// it live and from the description with one text fails.
    Rounded {
        /// Its kind.
        model: MemoryModel,
        /// Its node.
        node: Option<u32>,
        /// Its size in the running machine.
        live: Bytes,
        /// The number in the description of the next boot.
        next: Bytes,
    },
    /// A virtio-mem device that is asked for another amount.
    Requested {
        /// Its node.
        node: Option<u32>,
        /// What is asked of it now.
        live: Bytes,
        /// What will be asked of it.
        next: Bytes,
    },
    /// Another amount of boot memory.
    BootMemory {
        /// Now.
        live: Bytes,
        /// At the next boot.
        next: Bytes,
    },
    /// What the balloon leaves to the guest, measured at what each side has in all.
    Balloon {
        /// How much it takes now.
        live: Bytes,
        /// How much it will take.
        next: Bytes,
    },
    /// Another number of vCPUs.
    Vcpus {
        /// Now.
        live: u32,
        /// At the next boot.
        next: u32,
    },
    /// vCPUs that are there on both sides and can be taken away on one only.
    RemovableVcpus {
        /// How many now.
        live: usize,
        /// How many at the next boot.
        next: usize,
    },
    /// Another ceiling of memory: prepared and not yet started anew.
    MaxMemory {
        /// Now.
        live: Option<Bytes>,
        /// At the next boot.
        next: Option<Bytes>,
    },
    /// Another number of memory slots.
    Slots {
        /// Now.
        live: Option<u32>,
        /// At the next boot.
        next: Option<u32>,
    },
    /// Another ceiling of vCPUs.
    MaxVcpus {
        /// Now.
        live: u32,
        /// At the next boot.
        next: u32,
    },
    /// Another topology.
    Topology {
        /// Now.
        live: Option<Topology>,
        /// At the next boot.
        next: Option<Topology>,
    },
    /// Other NUMA cells, as pairs of vCPUs and memory.
    Cells {
        /// How many now.
        live: usize,
        /// How many at the next boot.
        next: usize,
    },
    /// A channel for the guest agent on one side only.
    AgentChannel {
        /// Now.
        live: bool,
        /// At the next boot.
        next: bool,
    },
}

impl Drift {
    /// True for what preparing changes, and only a new start of the machine can bring: nothing to mend while it runs.
    pub fn awaits_restart(&self) -> bool {
        match self {
            Drift::MaxMemory { .. }
            | Drift::Slots { .. }
            | Drift::MaxVcpus { .. }
            | Drift::Topology { .. }
            | Drift::Cells { .. }
            | Drift::BootMemory { .. }
            | Drift::AgentChannel { .. } => true,
            Drift::OnlyLive { .. }
            | Drift::OnlyNextBoot { .. }
            | Drift::Rounded { .. }
            | Drift::Requested { .. }
            | Drift::Balloon { .. }
            | Drift::Vcpus { .. }
            | Drift::RemovableVcpus { .. } => false,
        }
    }
}

/// Compares the running machine with its next boot. Empty where both have the same.
pub fn drift(live: &Domain, next: &Domain) -> Vec<Drift> {
    let mut found = devices(live, next);
    let mut differs = |differs: bool, drift: Drift| {
        if differs {
            found.push(drift);
        }
    };
    // libvirt rounds boot memory and ceilings up where it starts a machine, and keeps the number in the description
    // (libvirt 9.0 and 11.3, `qemuDomainAlignMemorySizes`).
    let ppc64 = is_ppc64(live);
    let same_size = |live: Bytes, next: Bytes| live == next || live == as_attached(next, ppc64);
    let (boot, next_boot) = (live.memory.boot, next.memory.boot);
    let (cells, next_cells) = (&live.cpu.cells, &next.cpu.cells);
    let same_cell = |(a, b): (&Cell, &Cell)| a.cpus == b.cpus && same_size(a.memory, b.memory);
    let same_cells = cells.len() == next_cells.len() && cells.iter().zip(next_cells).all(same_cell);
    let same_boot = same_size(boot, next_boot) || (same_cells && !cells.is_empty());
    differs(!same_boot, Drift::BootMemory { live: boot, next: next_boot });
    let (taken, will_take) = (balloon(live), balloon(next));
    differs(taken != will_take, Drift::Balloon { live: taken, next: will_take });
    let (vcpus, next_vcpus) = (&live.vcpus, &next.vcpus);
    differs(
        vcpus.current != next_vcpus.current,
        Drift::Vcpus { live: vcpus.current, next: next_vcpus.current },
    );
    let (loose, will_be_loose) = (removable(live), removable(next));
    differs(
        loose != will_be_loose && vcpus.current == next_vcpus.current,
        Drift::RemovableVcpus { live: loose, next: will_be_loose },
    );
    let size = |domain: &Domain| domain.memory.max.map(|max| max.size);
    let same_max = match (size(live), size(next)) {
        (Some(live), Some(next)) => same_size(live, next),
        (live, next) => live == next,
    };
    differs(!same_max, Drift::MaxMemory { live: size(live), next: size(next) });
    let slots = |domain: &Domain| domain.memory.max.and_then(|max| max.slots);
    differs(slots(live) != slots(next), Drift::Slots { live: slots(live), next: slots(next) });
    differs(vcpus.max != next_vcpus.max, Drift::MaxVcpus { live: vcpus.max, next: next_vcpus.max });
    let (shape, next_shape) = (live.cpu.topology, next.cpu.topology);
    differs(shape != next_shape, Drift::Topology { live: shape, next: next_shape });
    differs(!same_cells, Drift::Cells { live: cells.len(), next: next_cells.len() });
    let (agent, next_agent) = (live.agent.is_some(), next.agent.is_some());
    differs(agent != next_agent, Drift::AgentChannel { live: agent, next: next_agent });
    found
}

fn is_ppc64(domain: &Domain) -> bool {
    domain.machine.arch.as_deref().is_some_and(|arch| arch.starts_with("ppc64"))
}

/// How much the balloon takes from the guest: what the machine has without virtio-mem, less `<currentMemory>` without
/// the part of it that virtio-mem gives (libvirt counts it in; 9.0 and 11.3, `qemuProcessRefreshBalloonState`).
fn balloon(domain: &Domain) -> Bytes {
    let virtio_mem = |device: &&MemoryDevice| device.model == MemoryModel::VirtioMem;
    let most: Bytes = domain.memory_devices.iter().filter(virtio_mem).map(|device| device.size).sum();
    let given: Bytes =
        domain.memory_devices.iter().filter(virtio_mem).filter_map(|device| device.current).sum();
    let plain = domain.total_memory().saturating_sub(most);
    let current = domain.memory.current.map_or(plain, |current| current.saturating_sub(given));
    plain.saturating_sub(current)
}

fn removable(domain: &Domain) -> usize {
    domain.vcpus.each.iter().filter(|vcpu| vcpu.enabled && vcpu.hotpluggable).count()
}

/// How two devices are told to be one, the surest way first.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The same slot, and a size that libvirt rounds to the other.
    Slot,
    /// The same size.
    Size,
    /// A size that libvirt rounds to the other.
    Rounding,
}

impl Way {
    fn pairs(self, live: &MemoryDevice, next: &MemoryDevice, ppc64: bool) -> bool {
        if live.model != next.model || live.node != next.node {
            return false;
        }
        let slot = |device: &MemoryDevice| device.slot.map(|slot| slot.number);
        let rounded = [as_attached(next.size, ppc64), as_booted(next.size, ppc64)].contains(&live.size);
        match self {
            Way::Slot => slot(live).is_some() && slot(live) == slot(next) && rounded,
            Way::Size => live.size == next.size,
            Way::Rounding => live.model.takes_slot() && rounded,
        }
    }
}

/// Pairs the devices of both sides. What remains is on one side only.
fn devices(live: &Domain, next: &Domain) -> Vec<Drift> {
    let ppc64 = is_ppc64(live);
    let mut found = Vec::new();
    let mut left: Vec<&MemoryDevice> = live.memory_devices.iter().collect();
    let mut right: Vec<&MemoryDevice> = next.memory_devices.iter().collect();
    for way in [Way::Slot, Way::Size, Way::Rounding] {
        left.retain(|a| {
            let Some(place) = right.iter().position(|b| way.pairs(a, b, ppc64)) else { return true };
            found.extend(between(a, right.remove(place)));
            false
        });
    }
    found.extend(left.into_iter().map(|device| Drift::OnlyLive { device: Box::new(device.clone()) }));
    found.extend(right.into_iter().map(|device| Drift::OnlyNextBoot { device: Box::new(device.clone()) }));
    found
}

/// What is different between two that are one device.
fn between(live: &MemoryDevice, next: &MemoryDevice) -> Option<Drift> {
    let node = live.node;
    if live.size != next.size {
        return Some(Drift::Rounded { model: live.model.clone(), node, live: live.size, next: next.size });
    }
    let asked = |device: &MemoryDevice| device.requested.unwrap_or(Bytes::ZERO);
    let differs = live.model == MemoryModel::VirtioMem && asked(live) != asked(next);
    differs.then(|| Drift::Requested { node, live: asked(live), next: asked(next) })
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |device: &MemoryDevice| {
            let name =
                device.alias.as_ref().map_or(String::new(), |alias| format!(" {}", alias.escape_debug()));
            let node = device.node.map_or(String::new(), |node| format!(" on node {node}"));
            format!("the {}{name} of {}{node}", device.model.word(), device.size)
        };
        let size = |size: &Option<Bytes>| size.map_or("none".to_owned(), |size| size.to_string());
        let slots = |slots: &Option<u32>| slots.map_or("none".to_owned(), |slots| slots.to_string());
        match self {
            Drift::OnlyLive { device } => write!(f, "{} is in the running machine only", named(device)),
            Drift::OnlyNextBoot { device } => write!(f, "{} is in the next boot only", named(device)),
            Drift::Rounded { model, live, next, .. } => {
                write!(f, "a {} of {live} stands as {next} in the next boot", model.word())
            }
            Drift::Requested { live, next, .. } => {
                write!(f, "virtio-mem is asked for {live} now and for {next} at the next boot")
            }
            Drift::BootMemory { live, next } => {
                write!(f, "boot memory is {live} now and {next} at the next boot")
            }
            Drift::Balloon { live, next } => {
                write!(f, "the balloon takes {live} now and {next} at the next boot")
            }
            Drift::Vcpus { live, next } => write!(f, "{live} vCPUs now and {next} at the next boot"),
            Drift::RemovableVcpus { live, next } => {
                write!(f, "{live} of the vCPUs can be taken away now and {next} at the next boot")
            }
            Drift::MaxMemory { live, next } => {
                write!(f, "the ceiling of memory is {} now and {} at the next boot", size(live), size(next))
            }
            Drift::Slots { live, next } => {
                write!(f, "memory slots: {} now and {} at the next boot", slots(live), slots(next))
            }
            Drift::MaxVcpus { live, next } => {
                write!(f, "the ceiling of vCPUs is {live} now and {next} at the next boot")
            }
            Drift::Topology { .. } => f.write_str("the CPU topology will be another one at the next boot"),
            Drift::Cells { live, next } if live == next => {
                f.write_str("the NUMA cells will have other vCPUs or memory at the next boot")
            }
            Drift::Cells { live, next } => write!(f, "{live} NUMA cells now and {next} at the next boot"),
            Drift::AgentChannel { live: true, .. } => {
                f.write_str("the agent's channel will be gone at the next boot")
            }
            Drift::AgentChannel { .. } => f.write_str("the agent's channel comes with the next boot"),
        }
    }
}
