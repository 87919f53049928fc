//! What a guest says of itself through its agent: gathered in one exchange where that can be, in few elsewhere. How each
//! answer is read, and what is taken of it, is in `answers`.

use std::collections::BTreeSet;

use scale::guests::System;
use scale::observed::{AutoOnline, Guest, GuestFacts, MemBlock};
use scale::units::Bytes;
use scale::wanted::Scope;
use serde_json::Value;
use tokio::time::Instant;

use super::answers::{
    self, BLOCK_INFO, BLOCKS, INFO, INTERFACES, OS, VCPUS, auto_online, block_size, blocks, clipped,
    interfaces, meminfo, vcpus,
};
use super::files::{OPEN, close_call, content, left, number, open_call, read_and_close};
use super::reach::{After, Mute, Reach};
use super::{Agent, AgentError, Answer, Call, probe};

/// The longest file: /proc/meminfo has about 1500 bytes.
const LONGEST_FILE: usize = 16 * 1024;

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
    let known = reach.lasting.clone();
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
    // What was asked without its memory may yet be asked for that.
    let first = memory && known.as_ref().is_none_or(|known| !known.with_memory);
    let figures = Some(MEMINFO).filter(|_| memory && after.is_none());
    let policy = Some(AUTO_ONLINE).filter(|_| first || memory && scope.rest);
    let mut calls: Vec<Call> =
        [figures, policy].into_iter().flatten().map(|path| open_call(path, "r")).collect();
    let files = calls.len();
    if known.is_none() {
        calls.extend([INFO, OS].map(|command| (command, Value::Null)));
    }
    let sized = Some(BLOCK_INFO).filter(|_| first);
    let (shown, nics) = (Some(VCPUS).filter(|_| scope.vcpus), Some(INTERFACES).filter(|_| scope.nic_guests));
    // Blocks come last: what a guest onlines by itself has a little more time to come.
    let listed = Some(BLOCKS).filter(|_| memory && after.is_none());
    calls.extend([sized, shown, nics, listed].into_iter().flatten().map(|command| (command, Value::Null)));
    let then = |nth: usize, answer: &Answer| match nth {
        nth if nth < files => read_and_close(answer, LONGEST_FILE),
        _ => Vec::new(),
    };
    let mut answers = agent.call_chain(&calls, then, left(until)).await?;
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
        None => lasting(offered(next())?, offered(next())?)?,
    };
    if sized.is_some() {
        let block = offered(next())?;
        lasting.block = block.as_ref().map(block_size).transpose()?;
    }
    lasting.with_memory |= memory;
    lasting.auto_online = policy.unwrap_or(lasting.auto_online);
    let mut told = |command: Option<&str>| command.map_or(Ok(None), |_| offered(next()));
    let vcpus = told(shown)?.map_or(Ok(Vec::new()), |value| vcpus(&value))?;
    let interfaces = told(nics)?.map_or(Ok(Vec::new()), |value| interfaces(&value))?;
    let blocks = told(listed)?.map_or(Ok(Vec::new()), |value| blocks(&value))?;
    // A kernel that has a policy for new blocks (drivers/base/memory.c, 4.6 and later) is newer than those that have the
    // file by default (up to 3.11), and is asked for it only where everything is asked for.
    if first && (scope.rest || lasting.auto_online.is_none()) && lasting.offers(OPEN) {
        let then = |_, opened: &Answer| number(opened).map(close_call).into_iter().collect();
        let opened = agent.call_chain(&[probe::open_to_write()], then, left(until)).await?;
        lasting.has_probe = opened.first().is_some_and(|opened| number(opened).is_some());
    }
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

fn lasting(info: Option<Value>, os: Option<Value>) -> Result<Lasting, AgentError> {
    let info = info.unwrap_or(Value::Null);
    let (agent_version, commands) = answers::info(&info)?;
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
        block: None,
        with_memory: false,
        has_probe: false,
        auto_online: None,
    })
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
