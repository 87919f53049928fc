//! What one shell in a guest tells of its memory in one breath. Through libvirt each of the agent's commands is an
//! exchange of its own, and a remote libvirt is as far away as its network: a look takes ten of them, and a shell two.
//! It tells nothing that the agent's own commands may not be asked for, and is believed whole or not at all.

use std::time::Duration;

use scale::observed::{AutoOnline, MemBlock, MemInfo};
use scale::units::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::answers::{self, MOST_BLOCKS};
use super::exec::{self, End, Output};
use super::files::left;
use super::{Agent, AgentError, Answer, Call};

/// A shell that every Linux guest has.
pub(super) const SHELL: &str = "/bin/sh";

/// Has a shell tell the first lines of /proc/meminfo. Built-in commands alone, as everywhere here: each process costs a slow
/// guest more than all that is read.
pub(super) const FIGURES: &str = "while read -r name amount unit; do case $name in Mem*) \
                                  echo \"$name $amount $unit\";; *) break;; esac; done < /proc/meminfo";

/// The commands that it stands for, and the one that starts it.
const STANDS_FOR: [&str; 5] = [
    exec::START,
    "guest-file-open",
    "guest-file-read",
    "guest-get-memory-block-info",
    "guest-get-memory-blocks",
];

/// More than 8192 blocks take, a line each. Of more than fit, the agent's command tells.
const OUTPUT: usize = 256 * 1024;

/// What is known of a guest's memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) block: Bytes,
    pub(super) has_probe: bool,
    pub(super) auto_online: Option<AutoOnline>,
    /// In ascending order.
    pub(super) blocks: Vec<MemBlock>,
    pub(super) meminfo: MemInfo,
}

/// True where an agent that offers these commands may be asked by a shell.
pub(super) fn is_allowed(offers: impl Fn(&str) -> bool) -> bool {
    STANDS_FOR.into_iter().all(offers)
}

/// The command that starts it.
pub(super) fn start() -> Call {
    let script = format!(
        "cd /sys/devices/system/memory || exit 1; \
         read -r size < block_size_bytes && echo \"size $size\"; \
         {{ read -r policy < auto_online_blocks; }} 2> /dev/null && echo \"policy $policy\"; \
         [ -w probe ] && echo probe; \
         for block in memory[0-9]*; do read -r state < $block/state && echo \"=${{block#memory}} $state\"; done; \
         {FIGURES}; exit 0"
    );
    exec::start(SHELL, &["-c", &script])
}

/// What it tells when it ends; nothing where it did not start, did not end in half of the time, or makes no sense: then the
/// agent's own commands are to be asked.
///
/// # Errors
/// The agent gives no answer any more.
pub(super) async fn told(
    agent: &mut Agent,
    started: Answer,
    until: Instant,
) -> Result<Option<Told>, AgentError> {
    let Some(pid) = started.ok().and_then(|started| exec::pid(&started).ok()) else { return Ok(None) };
    let patience: Duration = left(until) / 2;
    match exec::end(agent, pid, OUTPUT, Instant::now() + patience).await {
        Ok(Some(Output { end: End::Exit(0), stdout, is_cut: false, .. })) => {
            Ok(memory(&String::from_utf8_lossy(&stdout)))
        }
        Ok(_) => Ok(None),
        Err(
            AgentError::Refused { .. }
            | AgentError::Disabled { .. }
            | AgentError::NotFound { .. }
            | AgentError::Garbled { .. }
            | AgentError::TooBig { .. },
        ) => Ok(None),
        Err(
            error @ (AgentError::Unreachable(_)
            | AgentError::TimedOut { .. }
            | AgentError::Silent { .. }
            | AgentError::Absent { .. }
            | AgentError::Closed { .. }),
        ) => Err(error),
    }
}

fn memory(said: &str) -> Option<Told> {
    let word = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    let (blocks, meminfo) = shown(said)?;
    // In hexadecimal figures without a prefix (drivers/base/memory.c, `block_size_bytes_show`, 2.6.32 to 6.12).
    let size = u64::from_str_radix(word("size")?.trim(), 16).ok()?;
    Some(Told {
        block: answers::block_size(&json!({ "size": size })).ok()?,
        has_probe: said.lines().any(|line| line.trim() == "probe"),
        auto_online: word("policy").and_then(answers::auto_online),
        blocks,
        meminfo,
    })
}

/// Memory blocks that a shell tells of as `=32 online`, and the figures; nothing, unless all of it makes sense. A block is
/// online as it is to the agent: by how the word begins (qga/commands-posix.c, 7.2 and 10.0).
pub(super) fn shown(said: &str) -> Option<(Vec<MemBlock>, MemInfo)> {
    let mut blocks = Vec::new();
    for line in said.lines().filter_map(|line| line.strip_prefix('=')) {
        let (number, state) = line.trim().split_once(' ')?;
        blocks.push(MemBlock { index: number.parse().ok()?, online: state.starts_with("online") });
    }
    blocks.sort_by_key(|block| block.index);
    let is_list = (1..=MOST_BLOCKS).contains(&blocks.len());
    let is_set = blocks.windows(2).all(|pair| pair[0].index < pair[1].index);
    let meminfo = answers::meminfo(said)?;
    (is_list && is_set).then_some((blocks, meminfo))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: &str = "MemTotal: 4096 kB\nMemFree: 1024 kB\nMemAvailable: 2048 kB\n";

    #[test]
    fn what_a_shell_shows_is_taken_whole_or_not_at_all() {
        let told = |blocks: &str| shown(&format!("sh: write error: Invalid argument\n#9\n{blocks}{FIGURES}"));
        let (blocks, meminfo) = told("=33 offline\n=9 going-offline\n=32 online\n").expect("told");
        let states: Vec<(u64, bool)> = blocks.iter().map(|block| (block.index, block.online)).collect();
        assert_eq!(states, [(9, false), (32, true), (33, false)]);
        assert_eq!(meminfo.total.get(), 4 << 20);
        for nonsense in ["", "=32\n", "=x online\n", "=32 online\n=32 offline\n"] {
            assert!(told(nonsense).is_none(), "{nonsense:?}");
        }
        assert!(shown("=32 online\n").is_none());
    }

    #[test]
    fn a_look_at_memory_has_a_block_size_that_can_be() {
        let told = |head: &str| memory(&format!("{head}=0 online\n=1 offline\n{FIGURES}"));
        let all = told("size 8000000\npolicy online_movable\nprobe\n").expect("told");
        assert_eq!((all.block, all.auto_online), (Bytes::mib(128), Some(AutoOnline::Movable)));
        assert!(all.has_probe && all.blocks.len() == 2);
        let old = told("size 8000000\n").expect("told");
        assert_eq!((old.auto_online, old.has_probe), (None, false));
        for nonsense in ["", "size\n", "size 7fffff\n", "size 0\n", "size ffffffffffffffffff\n", "size x\n"] {
            assert_eq!(told(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_shell_is_not_asked_for_what_the_agent_may_not_tell() {
        assert!(is_allowed(|_| true));
        for command in STANDS_FOR {
            assert!(!is_allowed(|offered| offered != command), "{command}");
        }
    }
}
