//! The bounds that plans and runs keep to. One place, so that an operator can read and change them all.

use crate::time::Span;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// Bounds of planning and running, with their defaults in [`Limits::default`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// The guest must keep this part of its used memory free after a shrink, in percent.
    pub shrink_margin_percent: u64,
    /// ... and at least this much.
    pub shrink_margin: Bytes,
    /// Added memory may be at most this many times the free kernel memory: Linux needs 64 bytes for each 4 KiB page
    /// it adds (1:64); twice that is kept, as openEuler's guide asks.
    pub metadata_ratio: u64,
    /// Movable memory may be at most this many times the kernel's own.
    pub movable_ratio: u64,
    /// The largest single DIMM, so that no one step stalls the monitor or the guest for long.
    pub dimm_max: Bytes,
    /// The memory block that is assumed where the guest does not tell: 128 MiB where its boot memory ends below 64 GiB,
    /// this where it ends there or later (Linux x86-64 uses up to 2 GiB blocks there; arch/x86/mm/init_64.c).
    pub block_of_large_guests: Bytes,
    /// Memory regions of a vhost backend that are left for later devices.
    pub vhost_reserve: u32,
    /// How long QEMU may take to answer one command.
    pub monitor: Span,
    /// How long the guest's agent may take to answer a question.
    pub agent: Span,
    /// How long the guest may take to show a plugged device.
    pub appear: Span,
    /// How long a guest of which it is not known that it acknowledges a plugged DIMM is given to do so. QEMU's word counts
    /// after that.
    pub acknowledge: Span,
    /// How long a guest with `probe` is given to find plugged memory by itself before it is told of it. To be told too
    /// early does no harm: the kernel takes no block twice (EEXIST; mm/memory_hotplug.c, 2.6.32 to 6.1).
    pub probe_after: Span,
    /// How long the guest may take to online a block or a vCPU.
    pub online: Span,
    /// How long the guest may take to empty one memory block.
    pub offline_block: Span,
    /// How long the guest may take to give a device up.
    pub unplug: Span,
    /// How long the guest may take to move one GiB through virtio-mem or the balloon.
    pub per_gib: Span,
    /// How long a layer of what lies on a disk may take to grow in the guest.
    pub grow_layer: Span,
    /// Figures of the guest older than this are not believed.
    pub stale: Span,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            shrink_margin_percent: 10,
            shrink_margin: Bytes::mib(128),
            metadata_ratio: 32,
            movable_ratio: 3,
            dimm_max: Bytes::gib(64),
            block_of_large_guests: Bytes::gib(2),
            vhost_reserve: 4,
            monitor: Span::secs(30),
            agent: Span::secs(5),
            appear: Span::secs(30),
            acknowledge: Span::secs(5),
            probe_after: Span::secs(2),
            online: Span::secs(30),
            offline_block: Span::secs(10),
            unplug: Span::secs(30),
            per_gib: Span::secs(30),
            grow_layer: Span::secs(120),
            stale: Span::secs(30),
        }
    }
}
