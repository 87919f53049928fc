//! What the guest's agent says of the guest: its memory blocks, vCPUs and memory, and what it takes.

use super::GuestInterface;
use crate::guests::System;
use crate::units::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the guest says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// Nothing, for this reason (no agent named, agent silent, ...).
    Unheard(String),
    /// The agent answered.
    Heard(Box<GuestFacts>),
}

impl Guest {
    /// The agent's facts, where it answered.
    pub fn heard(&self) -> Option<&GuestFacts> {
        match self {
            Guest::Unheard(_) => None,
            Guest::Heard(facts) => Some(facts),
        }
    }
}

/// What the guest agent answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestFacts {
    /// The agent's version, as it writes it.
    pub agent_version: String,
    /// The agent's commands that are enabled.
    pub commands: BTreeSet<String>,
    /// The operating system's name as the agent gives it, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    /// The operating system's short id, such as `debian`, `rhel`, `mswindows`.
    pub os_id: Option<String>,
    /// Which system it is, for what is known of such systems ([`crate::guests`]); absent where the agent does not say.
    #[serde(default)]
    pub system: Option<System>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The size of a memory block; nothing where the guest has none or the agent cannot say.
    pub block: Option<Bytes>,
    /// All memory blocks in ascending order.
    pub blocks: Vec<MemBlock>,
    /// All vCPUs that the guest sees, in ascending order.
    pub vcpus: Vec<GuestVcpu>,
    /// The guest's memory figures, where it can be asked for them.
    pub meminfo: Option<MemInfo>,
    /// The kernel's own onlining policy (`auto_online_blocks`), where it can be read.
    pub auto_online: Option<AutoOnline>,
    /// True where the kernel's file `/sys/devices/system/memory/probe` can be written through the agent: memory blocks
    /// are made known there by their addresses (CONFIG_ARCH_MEMORY_PROBE; drivers/base/memory.c, 2.6.32 to 6.12).
    #[serde(default)]
    pub has_probe: bool,
    /// Which of the programs that grow what lies on a disk the guest has; empty where it was not looked for.
    #[serde(default)]
    pub tools: BTreeSet<crate::disk::Tool>,
    /// Its network interfaces that have a MAC address; empty where the agent cannot say.
    #[serde(default)]
    pub interfaces: Vec<GuestInterface>,
}

impl GuestFacts {
    /// True if the agent takes this command.
    pub fn can(&self, command: &str) -> bool {
        self.commands.contains(command)
    }

    /// True if a file in the guest can be written through the agent.
    pub fn can_write_files(&self) -> bool {
        ["guest-file-open", "guest-file-write", "guest-file-close"].iter().all(|c| self.can(c))
    }

    /// Memory in online blocks; nothing where the guest shows no blocks.
    pub fn online_memory(&self) -> Option<Bytes> {
        let online = self.blocks.iter().filter(|b| b.online).count();
        self.block.filter(|_| !self.blocks.is_empty()).map(|b| b.times(online as u64))
    }

    /// vCPUs that are online.
    pub fn online_vcpus(&self) -> u32 {
        u32::try_from(self.vcpus.iter().filter(|v| v.online).count()).unwrap_or(u32::MAX)
    }

    /// The blocks within `range` that the guest shows.
    pub fn blocks_in(&self, range: &std::ops::Range<u64>) -> Vec<MemBlock> {
        self.blocks.iter().filter(|b| range.contains(&b.index)).copied().collect()
    }
}

/// One memory block of a Linux guest (`/sys/devices/system/memory/memoryN`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemBlock {
    /// N: its address divided by the block size.
    pub index: u64,
    /// Whether the guest uses it.
    pub online: bool,
}

/// One vCPU as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestVcpu {
    /// The guest's number for it.
    pub id: u32,
    /// Whether the guest schedules on it.
    pub online: bool,
    /// Whether the guest can take it offline.
    pub can_offline: bool,
}

/// The guest's memory figures (`/proc/meminfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemInfo {
    /// MemTotal.
    pub total: Bytes,
    /// MemAvailable.
    pub available: Bytes,
    /// MemFree.
    pub free: Bytes,
}

/// What the guest's kernel does with a new memory block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoOnline {
    /// Leaves it offline for user space.
    Offline,
    /// Onlines it in a zone of its own choice.
    Online,
    /// Onlines it in a kernel zone.
    Kernel,
    /// Onlines it in the movable zone.
    Movable,
}
