//! Memory blocks put online in a zone of one's choice, through the files of the guest's kernel: the agent's own command
//! knows no zones. A zone that was insisted on is never replaced by another; where one is replaced, that is remarked on.

use std::collections::BTreeMap;
use std::time::Duration;

use scale::observed::{MemBlock, MemInfo};
use scale::plan::Zone;
use tokio::time::{Instant, sleep};

use super::answers::{self, MOST_BLOCKS};
use super::exec::{self, End, ExecError, Output};
use super::facts;
use super::files::{MOST_FILES, left, read_each, write_each};
use super::onlining::{self, named};
use super::reach::{Mute, Reach};
use crate::ApplyError;
use crate::wire::shown;

/// More than the numbers of 4096 blocks take, each with a zone or a reason.
const OUTPUT: usize = 256 * 1024;
/// The longest content of `valid_zones`: the names of two zones and then some.
const ZONES: usize = 64;

/// After so long a block that refused the movable zone is asked once more before it goes elsewhere.
const AGAIN: Duration = Duration::from_millis(100);

/// The zone that Linux calls so.
const MOVABLE: &str = "Movable";

/// Puts memory blocks online in `zone`. Blocks that are online already are left as they are, in whatever zone.
///
/// # Errors
/// `Refused` names the blocks that stay offline and the guest's reason for each.
pub async fn online(reach: &mut Reach, blocks: &[u64], zone: Zone, until: Instant) -> Result<(), ApplyError> {
    match zone {
        Zone::Default => onlining::online(reach, blocks, until).await,
        Zone::Movable => movable_only(reach, blocks, until).await,
        Zone::PreferMovable => {
            let mut refused = write_states(reach, blocks, "online_movable", until).await?;
            if !refused.is_empty() && left(until) > AGAIN {
                // A kernel that is still busy with the plugging may refuse what it takes a moment later; in its own zone
                // the block might never come out again.
                sleep(AGAIN).await;
                refused = write_states(reach, &numbers(&refused), "online_movable", until).await?;
            }
            instead(reach, &numbers(&refused), &BTreeMap::new(), until).await
        }
        Zone::AsBefore => as_before(reach, blocks, until).await,
    }
}

async fn movable_only(reach: &mut Reach, blocks: &[u64], until: Instant) -> Result<(), ApplyError> {
    let refused = write_states(reach, blocks, "online_movable", until).await?;
    if refused.is_empty() {
        return Ok(());
    }
    // A block that somebody else put online refuses, too: whether in the right zone is for the proof to tell.
    let online = online_now(reach, &numbers(&refused)).await?;
    let remaining: Vec<String> = refused
        .iter()
        .filter(|(index, _)| !online.contains(index))
        .map(|(index, why)| format!("memory{index}: {why}"))
        .collect();
    if remaining.is_empty() {
        return Ok(());
    }
    Err(ApplyError::Refused(format!(
        "{} of {} memory blocks do not go online as movable: {}",
        remaining.len(),
        blocks.len(),
        named(&remaining)
    )))
}

/// Each block in the zone that it had when it was taken offline; movable, where that is not known.
async fn as_before(reach: &mut Reach, blocks: &[u64], until: Instant) -> Result<(), ApplyError> {
    let was_kernel = |index: &&u64| reach.zones.get(index).is_some_and(|zone| zone != MOVABLE);
    let (kernel, movable): (Vec<&u64>, Vec<&u64>) = blocks.iter().partition(was_kernel);
    let mut refused = Vec::new();
    for (blocks, word) in [(movable, "online_movable"), (kernel, "online_kernel")] {
        let blocks: Vec<u64> = blocks.into_iter().copied().collect();
        refused.extend(numbers(&write_states(reach, &blocks, word, until).await?));
    }
    refused.sort_unstable();
    let wanted = reach.zones.clone();
    instead(reach, &refused, &wanted, until).await
}

/// Puts what did not go where it was to go online in the zone of the kernel's choice, and says so. `wanted` are the zones
/// where they were to go; the movable zone, where there is none.
async fn instead(
    reach: &mut Reach,
    blocks: &[u64],
    wanted: &BTreeMap<u64, String>,
    until: Instant,
) -> Result<(), ApplyError> {
    if blocks.is_empty() {
        return Ok(());
    }
    onlining::online(reach, blocks, until).await?;
    let zones = zones(reach, blocks, until).await;
    let mut elsewhere = BTreeMap::<(&str, &str), Vec<String>>::new();
    for index in blocks {
        let zone = zones.get(index).map_or("a zone that the guest does not tell", String::as_str);
        let wanted = wanted.get(index).map_or(MOVABLE, String::as_str);
        if zone != wanted {
            elsewhere.entry((zone, wanted)).or_default().push(format!("memory{index}"));
        }
    }
    for ((zone, wanted), blocks) in elsewhere {
        let stays = if wanted == MOVABLE { ", which may not come out again" } else { "" };
        let count = match blocks.len() {
            1 => "1 memory block is".to_owned(),
            more => format!("{more} memory blocks are"),
        };
        reach.remark(format!("{count} online in {zone} and not in {wanted}{stays}: {}", named(&blocks)));
    }
    Ok(())
}

/// Takes note of the zones of blocks that are online and about to be taken offline. What cannot be read is not known.
pub(crate) async fn remember(reach: &mut Reach, blocks: &[u64], until: Instant) {
    let zones = zones(reach, blocks, until).await;
    for index in blocks {
        reach.zones.remove(index);
    }
    reach.zones.extend(zones);
}

/// The zones of blocks that are online, as far as the guest tells: the first word of `valid_zones`
/// (drivers/base/memory.c, 3.18 to 6.12).
pub(crate) async fn zones(reach: &mut Reach, blocks: &[u64], until: Instant) -> BTreeMap<u64, String> {
    const SCRIPT: &str = "cd /sys/devices/system/memory && for block; do \
                          read zone rest < memory$block/valid_zones && echo $block $zone; done 2> /dev/null; :";
    if blocks.is_empty() {
        return BTreeMap::new();
    }
    if let Ok(Some(said)) = by_shell(reach, SCRIPT, blocks, until).await {
        return lines(&said).into_iter().collect();
    }
    let mut zones = BTreeMap::new();
    for chunk in blocks.chunks(MOST_FILES) {
        let paths: Vec<String> = chunk.iter().map(|index| file(*index, "valid_zones")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let Ok(agent) = reach.agent().await else { break };
        match read_each(agent, &paths, ZONES, left(until)).await {
            Ok(files) => zones.extend(chunk.iter().zip(files).filter_map(|(index, content)| {
                let content = String::from_utf8_lossy(&content.ok()?).into_owned();
                Some((*index, shown(content.split_whitespace().next()?)))
            })),
            Err(error) => {
                reach.note(&error);
                break;
            }
        }
    }
    zones
}

/// Writes a word to the blocks' state files; those that did not take it, and why.
async fn write_states(
    reach: &mut Reach,
    blocks: &[u64],
    word: &'static str,
    until: Instant,
) -> Result<Vec<(u64, String)>, ApplyError> {
    // Built-in commands alone: a process for each block would cost a slow guest more than bringing the block into use.
    let script = format!(
        "cd /sys/devices/system/memory || exit 1; exec 2>&1; \
         for block; do echo {word} > memory$block/state || echo \"#$block\"; done; {AFTER}"
    );
    reach.changes();
    if let Some(said) = by_shell(reach, &script, blocks, until).await? {
        reach.changed(after(&said));
        return Ok(refusals(&said));
    }
    let mut refused = Vec::new();
    for chunk in blocks.chunks(MOST_FILES) {
        let paths: Vec<String> = chunk.iter().map(|index| file(*index, "state")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let agent = reach.agent().await?;
        match write_each(agent, &paths, word.as_bytes(), left(until)).await {
            Ok(written) => refused.extend(
                chunk.iter().zip(written).filter_map(|(index, done)| Some((*index, done.err()?.to_string()))),
            ),
            Err(error) => return Err(reach.note(&error).into()),
        }
    }
    Ok(refused)
}

/// Has the shell tell what the guest shows now of these blocks, which saves the questions after it: `=32 online`, and the
/// first lines of /proc/meminfo. Of more blocks than fit in its output it tells nothing.
const AFTER: &str = "[ $# -gt 4096 ] && exit 0; \
                     for block; do read -r state < memory$block/state && echo \"=$block $state\"; done; \
                     while read -r name amount unit; do case $name in Mem*) echo \"$name $amount $unit\";; *) break;; \
                     esac; done < /proc/meminfo; exit 0";

/// What the shell told of the guest at its end; nothing, unless all of it makes sense. A block is online as it is to the
/// agent: by how the word begins (qga/commands-posix.c, 7.2 and 10.0).
fn after(said: &str) -> Option<(Vec<MemBlock>, MemInfo)> {
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

/// Has one shell in the guest see to all blocks, and takes what it says; nothing where three commands a block are cheaper
/// (they share one exchange), or there is no shell that may be run.
async fn by_shell(
    reach: &mut Reach,
    script: &str,
    blocks: &[u64],
    until: Instant,
) -> Result<Option<String>, ApplyError> {
    if blocks.len() < 2 || !reach.pays_per_command() || !reach.offers("guest-exec") {
        return Ok(None);
    }
    let numbers: Vec<String> = blocks.iter().map(u64::to_string).collect();
    let mut words = vec!["-c", script, "sh"];
    words.extend(numbers.iter().map(String::as_str));
    let agent = reach.agent().await?;
    match exec::run(agent, "/bin/sh", &words, OUTPUT, left(until)).await {
        Ok(Output { end: End::Exit(0), stdout, is_cut: false, .. }) => {
            Ok(Some(String::from_utf8_lossy(&stdout).into_owned()))
        }
        // Whatever it did of it stays done, and doing it again does no harm.
        Ok(_) => Ok(None),
        Err(ExecError::Agent(error)) => match reach.note(&error) {
            Mute::Refused(_) | Mute::Unasked(_) => Ok(None),
            mute @ (Mute::Silent(_) | Mute::Unknown(_)) => Err(mute.into()),
        },
        Err(error @ ExecError::StillRuns { .. }) => Err(ApplyError::Unknown(error.to_string())),
    }
}

/// Lines of a block's number and a text.
fn lines(said: &str) -> Vec<(u64, String)> {
    let line = |line: &str| {
        let (number, text) = line.trim().split_once(' ')?;
        Some((number.parse().ok()?, shown(text)))
    };
    said.lines().filter_map(line).collect()
}

/// The blocks that a shell names as `#32`, each with the end of the line before: the shell's own complaint of it, such as
/// `sh: write error: Device or resource busy`.
fn refusals(said: &str) -> Vec<(u64, String)> {
    let mut refused = Vec::new();
    let mut complaint = None;
    for line in said.lines().map(str::trim) {
        match line.strip_prefix('#').map(str::parse) {
            Some(Ok(index)) => {
                let why = complaint.take().unwrap_or("the guest does not say why");
                refused.push((index, shown(why)));
            }
            Some(Err(_)) | None => complaint = line.rsplit(": ").next(),
        }
    }
    refused
}

/// Which of these blocks the guest shows online.
async fn online_now(reach: &mut Reach, blocks: &[u64]) -> Result<Vec<u64>, Mute> {
    let all = facts::shown_blocks(reach).await?;
    Ok(all.iter().filter(|b| b.online && blocks.contains(&b.index)).map(|b| b.index).collect())
}

fn numbers(refused: &[(u64, String)]) -> Vec<u64> {
    refused.iter().map(|(index, _)| *index).collect()
}

fn file(index: u64, name: &str) -> String {
    format!("/sys/devices/system/memory/memory{index}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_says_of_blocks_is_read_and_cannot_steer_a_terminal() {
        let read = lines("32 Movable\n33\nnonsense\n34 \u{1b}[2J\n");
        assert_eq!(read[0], (32, "Movable".to_owned()));
        assert!(read.len() == 2 && !read[1].1.contains('\u{1b}'), "{read:?}");
    }

    #[test]
    fn what_a_shell_shows_at_its_end_is_taken_whole_or_not_at_all() {
        let figures = "MemTotal: 4096 kB\nMemFree: 1024 kB\nMemAvailable: 2048 kB\n";
        let told = |blocks: &str| after(&format!("sh: write error: Invalid argument\n#9\n{blocks}{figures}"));
        let (shown, meminfo) = told("=33 offline\n=9 going-offline\n=32 online\n").expect("told");
        let states: Vec<(u64, bool)> = shown.iter().map(|block| (block.index, block.online)).collect();
        assert_eq!(states, [(9, false), (32, true), (33, false)]);
        assert_eq!(meminfo.total.get(), 4 << 20);
        for nonsense in ["", "=32\n", "=x online\n", "=32 online\n=32 offline\n"] {
            assert!(told(nonsense).is_none(), "{nonsense:?}");
        }
        assert!(after("=32 online\n").is_none());
    }

    #[test]
    fn a_block_that_refuses_has_its_shells_own_complaint() {
        // busybox 1.35, bash 5.2, dash 0.5.12, and a shell that says nothing.
        let said = "sh: write error: Device or resource busy\n#32\nsh: line 1: echo: write error: Invalid argument\n#33\n\
                    sh: 1: cannot create memory34/state: Directory nonexistent\n#34\n#35\n";
        let why = ["Device or resource busy", "Invalid argument", "Directory nonexistent"];
        let expected: Vec<(u64, String)> = (32..).zip(why.map(str::to_owned)).collect();
        let read = refusals(said);
        assert_eq!(read[..3], expected);
        assert_eq!(read[3], (35, "the guest does not say why".to_owned()));
        assert!(!refusals("\u{1b}[2J\n#36\n")[0].1.contains('\u{1b}'));
        assert_eq!(refusals(""), []);
    }
}
