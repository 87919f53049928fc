//! What a guest says of itself through its agent: gathered in one exchange, read warily. The guest may say anything;
//! numbers, lists and texts are bounded here, and an answer that makes no sense is told as such, never mended.

use std::collections::BTreeSet;

use scale::guests::System;
use scale::observed::{AutoOnline, Guest, GuestFacts, GuestInterface, GuestVcpu, MemBlock, MemInfo};
use scale::units::Bytes;
use scale::wanted::Scope;
use serde_json::Value;
use tokio::time::Instant;

use super::files::{close_call, content, number, open_call, read_and_close};
use super::reach::{After, Mute, Reach};
use super::{Agent, AgentError, Answer, Call, probe};
use crate::wire::shown;

/// The most memory blocks that are taken from a guest: 8 TiB in blocks of 128 MiB.
pub const MOST_BLOCKS: usize = 65_536;
/// The most vCPUs; QEMU's own limit is 4096 (q35, 10.0).
pub const MOST_VCPUS: usize = 16_384;
/// The most network interfaces, and the most addresses of one.
const MOST_INTERFACES: usize = 1024;
/// The most commands; agents have about 60.
const MOST_COMMANDS: usize = 1024;
/// The longest text that a guest may say of itself, in characters.
const LONGEST_TEXT: usize = 200;
/// The longest file: /proc/meminfo has about 1500 bytes.
const LONGEST_FILE: usize = 16 * 1024;

const INFO: &str = "guest-info";
const OS: &str = "guest-get-osinfo";
const BLOCK_INFO: &str = "guest-get-memory-block-info";
const BLOCKS: &str = "guest-get-memory-blocks";
/// Lists the vCPUs.
pub(crate) const VCPUS: &str = "guest-get-vcpus";
const INTERFACES: &str = "guest-network-get-interfaces";
const MEMINFO: &str = "/proc/meminfo";
const AUTO_ONLINE: &str = "/sys/devices/system/memory/auto_online_blocks";

/// What changes only when the guest restarts: asked once.
#[derive(Debug, Clone, Default)]
pub(super) struct Lasting {
    agent_version: String,
    commands: BTreeSet<String>,
    os: Option<String>,
    os_id: Option<String>,
    system: Option<System>,
    kernel: Option<String>,
    /// True where the rest was asked for too, which is about memory.
    with_memory: bool,
    block: Option<Bytes>,
    has_probe: bool,
    /// The kernel's policy for new memory blocks, which only somebody in the guest changes.
    auto_online: Option<AutoOnline>,
}

impl Lasting {
    pub(super) fn offers(&self, command: &str) -> bool {
        self.commands.contains(command)
    }

    pub(super) fn os_id(&self) -> Option<&str> {
        self.os_id.as_deref()
    }

    fn facts(self) -> GuestFacts {
        let Lasting {
            agent_version, commands, os, os_id, system, kernel, block, has_probe, auto_online, ..
        } = self;
        let all = GuestFacts::default();
        GuestFacts {
            agent_version,
            commands,
            os,
            os_id,
            system,
            kernel,
            block,
            has_probe,
            auto_online,
            ..all
        }
    }
}

/// Asks the guest for everything in `scope`. A guest that says nothing or nonsense, or that has no part in it, is
/// [`Guest::Unheard`], with the reason; what its agent merely does not offer is absent.
pub async fn gather(reach: &mut Reach, scope: Scope) -> Guest {
    if !scope.asks_guest() {
        return Guest::Unheard("the guest was not asked".to_owned());
    }
    match try_gather(reach, scope).await {
        Ok(facts) => Guest::Heard(Box::new(facts)),
        Err(mute) => Guest::Unheard(mute.to_string()),
    }
}

/// Has what the guest says that lasts be known, asking it if it has not been asked.
///
/// # Errors
/// [`Mute`].
pub(crate) async fn make_known(reach: &mut Reach) -> Result<(), Mute> {
    if reach.lasting.is_none() {
        // Whatever is asked, that is asked first.
        try_gather(reach, Scope { memory: false, vcpus: false, nic_guests: false, ..Scope::ALL }).await?;
    }
    Ok(())
}

/// Begins to ask, on the runtime that this is called on: what has to be done first needs not delay the guest's answer.
/// [`gather`] with the same scope takes it, if it comes soon.
#[cfg(feature = "libvirt")]
pub(crate) fn gather_ahead(reach: &mut Reach, scope: Scope) {
    if !scope.asks_guest() {
        return;
    }
    let until = Instant::now() + reach.limit();
    reach.ask_ahead(scope, move |mut agent| async move { ask(&mut agent, None, None, scope, until).await });
}

async fn try_gather(reach: &mut Reach, scope: Scope) -> Result<GuestFacts, Mute> {
    let until = Instant::now() + reach.limit();
    let after = reach.after().filter(|_| scope.memory);
    // What was asked without its memory may yet be asked for that.
    let known = reach.lasting.clone().filter(|known| known.with_memory || !scope.memory);
    let told = match reach.told_ahead(scope).await {
        Some(told) => told,
        None => ask(reach.agent().await?, known, after, scope, until).await,
    };
    match told {
        Ok((lasting, facts)) => {
            reach.block = lasting.block;
            reach.lasting = Some(lasting);
            Ok(facts)
        }
        Err(error) => Err(reach.note(&error)),
    }
}

/// Asks for all but what is `known`, or was shown `after` a change.
async fn ask(
    agent: &mut Agent,
    known: Option<Lasting>,
    after: Option<After>,
    scope: Scope,
    until: Instant,
) -> Result<(Lasting, GuestFacts), AgentError> {
    let memory = scope.memory;
    let figures = Some(MEMINFO).filter(|_| memory && after.is_none());
    let policy = Some(AUTO_ONLINE).filter(|_| memory && (scope.rest || known.is_none()));
    let mut calls: Vec<Call> =
        [figures, policy].into_iter().flatten().map(|path| open_call(path, "r")).collect();
    let probed = calls.len();
    if known.is_none() {
        calls.extend(Some(probe::open_to_write()).filter(|_| memory));
        calls.extend([INFO, OS].map(|command| (command, Value::Null)));
    }
    let sized = Some(BLOCK_INFO).filter(|_| memory && known.is_none());
    let (shown, nics) = (Some(VCPUS).filter(|_| scope.vcpus), Some(INTERFACES).filter(|_| scope.nic_guests));
    // Blocks come last: what a guest onlines by itself has a little more time to come.
    let listed = Some(BLOCKS).filter(|_| memory && after.is_none());
    calls.extend([sized, shown, nics, listed].into_iter().flatten().map(|command| (command, Value::Null)));
    let then = |nth: usize, answer: &Answer| match nth {
        nth if nth < probed => read_and_close(answer, LONGEST_FILE),
        nth if nth == probed && memory && known.is_none() => {
            number(answer).map(close_call).into_iter().collect()
        }
        _ => Vec::new(),
    };
    let mut answers = agent.call_chain(&calls, then, super::files::left(until)).await?;
    let mut rest = answers.split_off(calls.len()).into_iter();
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or(Ok(Value::Null));
    // A file that cannot be read is a fact that is absent: most agents outside of Debian may not read files.
    let mut text = |path: &str, opened: Answer| {
        let content = content(path, opened, &mut rest, LONGEST_FILE).ok()?;
        Some(String::from_utf8_lossy(&content).into_owned())
    };
    let meminfo = figures.and_then(|path| meminfo(&text(path, next())?));
    let policy = policy.map(|path| text(path, next()).as_deref().and_then(auto_online));
    let mut lasting = match known {
        Some(lasting) => lasting,
        None => {
            let has_probe = memory && number(&next()).is_some();
            let (info, os) = (offered(next())?, offered(next())?);
            let block = sized.map_or(Ok(None), |_| offered(next()))?;
            Lasting { has_probe, with_memory: memory, ..lasting(info, os, block)? }
        }
    };
    lasting.auto_online = policy.unwrap_or(lasting.auto_online);
    let mut told = |command: Option<&str>| command.map_or(Ok(None), |_| offered(next()));
    let vcpus = told(shown)?.map_or(Ok(Vec::new()), |value| vcpus(&value))?;
    let interfaces = told(nics)?.map_or(Ok(Vec::new()), |value| interfaces(&value))?;
    let blocks = told(listed)?.map_or(Ok(Vec::new()), |value| blocks(&value))?;
    let (meminfo, blocks) = after.map_or((meminfo, blocks), |after| (Some(after.meminfo), after.blocks));
    let facts = GuestFacts { blocks, vcpus, meminfo, interfaces, ..lasting.clone().facts() };
    Ok((lasting, facts))
}

/// The answer, if the agent offers the command and could carry it out; any "no" is an absence.
fn offered(answer: Result<Value, AgentError>) -> Result<Option<Value>, AgentError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(AgentError::Refused { .. } | AgentError::Disabled { .. } | AgentError::NotFound { .. }) => {
            Ok(None)
        }
        Err(
            error @ (AgentError::Unreachable(_)
            | AgentError::TimedOut { .. }
            | AgentError::Silent { .. }
            | AgentError::Absent { .. }
            | AgentError::Closed { .. }
            | AgentError::Garbled { .. }
            | AgentError::TooBig { .. }),
        ) => Err(error),
    }
}

fn lasting(info: Option<Value>, os: Option<Value>, block: Option<Value>) -> Result<Lasting, AgentError> {
    let info = info.unwrap_or(Value::Null);
    let (agent_version, commands) = self::info(&info)?;
    let text = |key| Some(clipped(os.as_ref()?.get(key)?.as_str()?)).filter(|text| !text.is_empty());
    Ok(Lasting {
        agent_version,
        commands,
        os: text("pretty-name").or_else(|| text("name")),
        os_id: text("id"),
        system: text("id").map(|id| {
            let more = |key| text(key).unwrap_or_default();
            System::of_agent(&id, &more("version-id"), &more("pretty-name"), &more("machine"))
        }),
        kernel: text("kernel-release"),
        block: block.as_ref().map(block_size).transpose()?,
        with_memory: false,
        has_probe: false,
        auto_online: None,
    })
}

/// The agent's version and the commands it has enabled, from `guest-info`.
///
/// # Errors
/// `Garbled`.
pub fn info(answer: &Value) -> Result<(String, BTreeSet<String>), AgentError> {
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
pub fn block_size(answer: &Value) -> Result<Bytes, AgentError> {
    let size = answer.get("size").and_then(Value::as_u64);
    let size = size.filter(|size| size.is_power_of_two() && *size >= 1 << 20);
    size.map(Bytes::new).ok_or_else(|| AgentError::garbled(BLOCK_INFO, "a block size that cannot be"))
}

/// The memory blocks in ascending order, from `guest-get-memory-blocks`.
///
/// # Errors
/// `Garbled`: not such a list, more than [`MOST_BLOCKS`], or one block twice.
pub fn blocks(answer: &Value) -> Result<Vec<MemBlock>, AgentError> {
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
pub fn vcpus(answer: &Value) -> Result<Vec<GuestVcpu>, AgentError> {
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
pub fn interfaces(answer: &Value) -> Result<Vec<GuestInterface>, AgentError> {
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
fn clipped(text: &str) -> String {
    shown(&text.chars().take(LONGEST_TEXT).collect::<String>())
}

/// The figures of `/proc/meminfo`; nothing where one is missing. MemAvailable is missing before Linux 3.14: MemFree
/// is then taken, which is less.
pub fn meminfo(text: &str) -> Option<MemInfo> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Bytes::new(number.checked_mul(1024)?))
    };
    let (total, free) = (kib("MemTotal")?, kib("MemFree")?);
    Some(MemInfo { total, free, available: kib("MemAvailable").unwrap_or(free) })
}

/// The kernel's policy for new memory blocks, from `auto_online_blocks` (drivers/base/memory.c, Linux 4.6 to 6.12).
pub fn auto_online(text: &str) -> Option<AutoOnline> {
    match text.trim() {
        "offline" => Some(AutoOnline::Offline),
        "online" => Some(AutoOnline::Online),
        "online_kernel" => Some(AutoOnline::Kernel),
        "online_movable" => Some(AutoOnline::Movable),
        _ => None,
    }
}

/// All memory blocks that the guest shows, in ascending order.
///
/// # Errors
/// [`Mute`].
pub(crate) async fn shown_blocks(reach: &mut Reach) -> Result<Vec<MemBlock>, Mute> {
    if let Some(after) = reach.after() {
        return Ok(after.blocks);
    }
    let limit = reach.limit();
    let answer = reach.call(BLOCKS, Value::Null, limit).await?;
    let blocks = blocks(&answer).map_err(|error| Mute::of(&error))?;
    reach.lists(&blocks);
    Ok(blocks)
}

/// The size of a memory block, asked for if the agent has not told it yet.
///
/// # Errors
/// [`Mute`].
pub(crate) async fn block(reach: &mut Reach) -> Result<Bytes, Mute> {
    if let Some(block) = reach.block {
        return Ok(block);
    }
    let limit = reach.limit();
    let answer = reach.call(BLOCK_INFO, Value::Null, limit).await?;
    let block = block_size(&answer).map_err(|error| Mute::of(&error))?;
    reach.block = Some(block);
    Ok(block)
}
