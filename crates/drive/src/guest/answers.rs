//! How an agent's answers are read: warily. The guest may say anything; numbers, lists and texts are bounded here, and an
//! answer that makes no sense is told as such, never mended.

use std::collections::BTreeSet;

use scale::observed::{AutoOnline, GuestInterface, GuestVcpu, MemBlock, MemInfo};
use scale::units::Bytes;
use serde_json::Value;

use super::AgentError;
use crate::wire::shown;

/// The most memory blocks that are taken from a guest: 8 TiB in blocks of 128 MiB.
pub(crate) const MOST_BLOCKS: usize = 65_536;
/// The most vCPUs; QEMU's own limit is 4096 (q35, 10.0).
pub(crate) const MOST_VCPUS: usize = 16_384;
/// The most network interfaces, and the most addresses of one.
const MOST_INTERFACES: usize = 1024;
/// The most commands; agents have about 60.
const MOST_COMMANDS: usize = 1024;
/// The longest text that a guest may say of itself, in characters.
const LONGEST_TEXT: usize = 200;

pub(super) const INFO: &str = "guest-info";
pub(super) const OS: &str = "guest-get-osinfo";
pub(super) const BLOCK_INFO: &str = "guest-get-memory-block-info";
pub(super) const BLOCKS: &str = "guest-get-memory-blocks";
/// Lists the vCPUs.
pub(crate) const VCPUS: &str = "guest-get-vcpus";
pub(super) const INTERFACES: &str = "guest-network-get-interfaces";

/// The agent's version and the commands it has enabled, from `guest-info`.
///
/// # Errors
/// `Garbled`.
pub(crate) fn info(answer: &Value) -> Result<(String, BTreeSet<String>), AgentError> {
    let version = answer.get("version").and_then(Value::as_str).map(clipped).unwrap_or_default();
    let mut commands = BTreeSet::new();
    for item in list(answer.get("supported_commands").unwrap_or(&Value::Null), INFO, MOST_COMMANDS)? {
        let name = item.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| AgentError::garbled(INFO, "a command without a name"))?;
        // Agents before 1.2 have no such member: all that they list is enabled.
        if item.get("enabled").is_none_or(|enabled| enabled == &Value::Bool(true)) {
            commands.insert(clipped(name));
        }
    }
    Ok((version, commands))
}

/// The size of a memory block, from `guest-get-memory-block-info`: a power of two of at least 1 MiB.
///
/// # Errors
/// `Garbled`.
pub(crate) fn block_size(answer: &Value) -> Result<Bytes, AgentError> {
    let size = answer.get("size").and_then(Value::as_u64);
    let size = size.filter(|size| size.is_power_of_two() && *size >= 1 << 20);
    size.map(Bytes::new).ok_or_else(|| AgentError::garbled(BLOCK_INFO, "a block size that cannot be"))
}

/// The memory blocks in ascending order, from `guest-get-memory-blocks`.
///
/// # Errors
/// `Garbled`: not such a list, more than [`MOST_BLOCKS`], or one block twice.
pub(crate) fn blocks(answer: &Value) -> Result<Vec<MemBlock>, AgentError> {
    let mut blocks = Vec::new();
    for item in list(answer, BLOCKS, MOST_BLOCKS)? {
        let index = item.get("phys-index").and_then(Value::as_u64);
        let online = item.get("online").and_then(Value::as_bool);
        let (Some(index), Some(online)) = (index, online) else {
            return Err(AgentError::garbled(
                BLOCKS,
                format!("not a memory block: {}", shown(&item.to_string())),
            ));
        };
        blocks.push(MemBlock { index, online });
    }
    blocks.sort_by_key(|block| block.index);
    if blocks.windows(2).any(|pair| pair[0].index == pair[1].index) {
        return Err(AgentError::garbled(BLOCKS, "one memory block twice"));
    }
    Ok(blocks)
}

/// The vCPUs in ascending order, from `guest-get-vcpus`.
///
/// # Errors
/// `Garbled`: not such a list, more than [`MOST_VCPUS`], or one vCPU twice.
pub(crate) fn vcpus(answer: &Value) -> Result<Vec<GuestVcpu>, AgentError> {
    let mut vcpus = Vec::new();
    for item in list(answer, VCPUS, MOST_VCPUS)? {
        let id = item.get("logical-id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        let online = item.get("online").and_then(Value::as_bool);
        let (Some(id), Some(online)) = (id, online) else {
            return Err(AgentError::garbled(VCPUS, format!("not a vCPU: {}", shown(&item.to_string()))));
        };
        let can_offline = item.get("can-offline").and_then(Value::as_bool).unwrap_or(false);
        vcpus.push(GuestVcpu { id, online, can_offline });
    }
    vcpus.sort_by_key(|vcpu| vcpu.id);
    if vcpus.windows(2).any(|pair| pair[0].id == pair[1].id) {
        return Err(AgentError::garbled(VCPUS, "one vCPU twice"));
    }
    Ok(vcpus)
}

/// The network interfaces that have a MAC address, from `guest-network-get-interfaces`. An address that makes no sense
/// is left out: agents write those of other families there too.
///
/// # Errors
/// `Garbled`: not such a list, or more than a guest has.
pub(crate) fn interfaces(answer: &Value) -> Result<Vec<GuestInterface>, AgentError> {
    let mut interfaces = Vec::new();
    for item in list(answer, INTERFACES, MOST_INTERFACES)? {
        let text = |item: &Value, key| item.get(key).and_then(Value::as_str).map(clipped);
        let Some(name) = text(item, "name") else {
            return Err(AgentError::garbled(INTERFACES, "an interface without a name"));
        };
        let Some(mac) = text(item, "hardware-address") else { continue };
        let addresses = match item.get("ip-addresses") {
            Some(shown) => list(shown, INTERFACES, MOST_INTERFACES)?,
            None => &[],
        };
        let addresses = addresses.iter().filter_map(|shown| text(shown, "ip-address")?.parse().ok());
        interfaces.push(GuestInterface {
            name,
            mac: mac.to_ascii_lowercase(),
            addresses: addresses.collect(),
        });
    }
    Ok(interfaces)
}

fn list<'a>(answer: &'a Value, command: &str, most: usize) -> Result<&'a [Value], AgentError> {
    let list = answer.as_array().ok_or_else(|| AgentError::garbled(command, "no list in it"))?;
    if list.len() > most {
        let why = format!("a list of {}, more than the {most} that are taken from a guest", list.len());
        return Err(AgentError::garbled(command, why));
    }
    Ok(list)
}

/// A guest's text, safe to print and of bounded length.
pub(super) fn clipped(text: &str) -> String {
    shown(&text.chars().take(LONGEST_TEXT).collect::<String>())
}

/// The figures of `/proc/meminfo`; nothing where one is missing. MemAvailable is missing before Linux 3.14: MemFree
/// is then taken, which is less.
pub(crate) fn meminfo(text: &str) -> Option<MemInfo> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Bytes::new(number.checked_mul(1024)?))
    };
    let (total, free) = (kib("MemTotal")?, kib("MemFree")?);
    Some(MemInfo { total, free, available: kib("MemAvailable").unwrap_or(free) })
}

/// The kernel's policy for new memory blocks, from `auto_online_blocks` (drivers/base/memory.c, Linux 4.6 to 6.12).
pub(crate) fn auto_online(text: &str) -> Option<AutoOnline> {
    match text.trim() {
        "offline" => Some(AutoOnline::Offline),
        "online" => Some(AutoOnline::Online),
        "online_kernel" => Some(AutoOnline::Kernel),
        "online_movable" => Some(AutoOnline::Movable),
        _ => None,
    }
}
