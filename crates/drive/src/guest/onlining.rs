//! Memory blocks and vCPUs of a guest, put online and taken offline through its agent. Which blocks is told, and zones
//! are `zones`'; nothing is chosen here. Nothing is undone here either: what was done before a refusal stays done, and the
//! refusal says so.

use std::collections::BTreeMap;
use std::time::Duration;

use scale::observed::{GuestVcpu, MemBlock};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::answers::{self, MOST_BLOCKS, VCPUS};
use super::files::left;
use super::reach::{Mute, Reach};
use crate::ApplyError;

const SET_BLOCKS: &str = "guest-set-memory-blocks";
const SET_VCPUS: &str = "guest-set-vcpus";
/// How often one block is asked for that is busy, and the pauses in between: from the first, doubled up to the last.
const TRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Error numbers that may pass: EINTR, EAGAIN, EBUSY.
const PASSES: [i64; 3] = [4, 11, 16];
/// The most blocks that one message names; the others are counted.
const NAMED: usize = 8;

/// Puts memory blocks online in the zone of the kernel's choice. Blocks that are online already are left as they are.
///
/// # Errors
/// `Refused` names the blocks that stay offline and the guest's reason for each.
pub(super) async fn online(reach: &mut Reach, blocks: &[u64], until: Instant) -> Result<(), ApplyError> {
    let answers = set(reach, blocks, true, left(until)).await?;
    told("online", answers)
}

/// Takes memory blocks offline, one after the other in the order given, each within `each` and all within `until`. A
/// block that is busy is asked for again a few times. It stops at the first block that the guest does not let go: those
/// before it are offline then.
///
/// # Errors
/// `Refused` says which block and why; `Unknown` which block gave no answer in time.
pub async fn offline(
    reach: &mut Reach,
    blocks: &[u64],
    each: Duration,
    until: Instant,
) -> Result<(), ApplyError> {
    for (done, index) in blocks.iter().enumerate() {
        let until = until.min(Instant::now() + each);
        let progress = format!("{done} of {} memory blocks are offline", blocks.len());
        if left(until).is_zero() {
            return Err(ApplyError::Refused(format!("no time left: {progress}")));
        }
        match patiently(reach, *index, until).await {
            Ok(answers) => told("offline", answers).map_err(|error| with(error, &progress))?,
            Err(Mute::Unknown(why)) => {
                return Err(ApplyError::Unknown(format!("memory{index}: {why} ({progress})")));
            }
            Err(mute) => return Err(with(mute.into(), &progress)),
        }
    }
    Ok(())
}

/// Takes one block offline. Linux moves what is in it elsewhere, and gives up with EBUSY on a page that somebody holds:
/// often for a moment only (offline_pages, mm/memory_hotplug.c, 2.6.32 to 6.12).
async fn patiently(
    reach: &mut Reach,
    index: u64,
    until: Instant,
) -> Result<Vec<(u64, Result<(), No>)>, Mute> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        let answers = set(reach, &[index], false, left(until)).await?;
        if !matches!(answers.as_slice(), [(_, Err(No { passes: true, .. }))]) || left(until) <= pause {
            return Ok(answers);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
    let mut answers = set(reach, &[index], false, left(until)).await?;
    if let [(_, Err(No { why, passes: true }))] = answers.as_mut_slice() {
        why.push_str(&format!(", asked {TRIES} times"));
    }
    Ok(answers)
}

fn with(error: ApplyError, progress: &str) -> ApplyError {
    match error {
        ApplyError::Refused(why) => ApplyError::Refused(format!("{why} ({progress})")),
        ApplyError::Unknown(why) => ApplyError::Unknown(format!("{why} ({progress})")),
    }
}

/// Why a block stays as it is.
#[derive(Debug, PartialEq, Eq)]
struct No {
    why: String,
    /// True where it may pass: asked again, the guest may say yes.
    passes: bool,
}

impl No {
    fn for_good(why: &str) -> No {
        No { why: why.to_owned(), passes: false }
    }
}

/// Asks for one state of several blocks, in one call; for each block why not, if not.
async fn set(
    reach: &mut Reach,
    blocks: &[u64],
    online: bool,
    limit: Duration,
) -> Result<Vec<(u64, Result<(), No>)>, Mute> {
    let wanted: Vec<Value> =
        blocks.iter().map(|index| json!({ "phys-index": index, "online": online })).collect();
    reach.changes();
    let answer = reach.call(SET_BLOCKS, json!({ "mem-blks": wanted }), limit).await?;
    Ok(outcomes(blocks, &answer))
}

/// What `guest-set-memory-blocks` answered for each block that was asked for.
fn outcomes(blocks: &[u64], answer: &Value) -> Vec<(u64, Result<(), No>)> {
    let items = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let by_index: BTreeMap<u64, &Value> = items
        .iter()
        .take(MOST_BLOCKS)
        .filter_map(|item| Some((item.get("phys-index")?.as_u64()?, item)))
        .collect();
    let outcome = |index: &u64| {
        let Some(item) = by_index.get(index) else {
            return Err(No::for_good("the agent says nothing of it"));
        };
        match item.get("response").and_then(Value::as_str) {
            Some("success") => Ok(()),
            Some("not-found") => Err(No::for_good("the guest has no such memory block")),
            Some("operation-not-supported") => Err(No::for_good("the guest's kernel cannot do that")),
            Some(_) | None => Err(item.get("error-code").and_then(Value::as_i64).map_or_else(
                || No::for_good("the guest's kernel failed and does not say why"),
                |code| No { why: errno_text(code), passes: PASSES.contains(&code) },
            )),
        }
    };
    blocks.iter().map(|index| (*index, outcome(index))).collect()
}

/// The refusal that names every failure, as far as a message can hold them.
fn told(goal: &str, outcomes: Vec<(u64, Result<(), No>)>) -> Result<(), ApplyError> {
    let of = outcomes.len();
    let failed: Vec<String> = outcomes
        .into_iter()
        .filter_map(|(index, outcome)| Some(format!("memory{index}: {}", outcome.err()?.why)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let mut text = named(&failed);
    if of > 1 {
        text = format!("{} of {of} memory blocks did not go {goal}: {text}", failed.len());
    }
    Err(ApplyError::Refused(text))
}

/// As many as a message can hold, the others counted.
pub(super) fn named(blocks: &[String]) -> String {
    let mut text = blocks.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if blocks.len() > NAMED {
        text += &format!("; and {} more", blocks.len() - NAMED);
    }
    text
}

/// What Linux means by an error number, as far as onlining and offlining give it (drivers/base/memory.c,
/// mm/memory_hotplug.c, 6.1). The agent reads the number late and it may be another's (qga/commands-linux.c, 7.2):
/// a hint, no proof.
fn errno_text(code: i64) -> String {
    let text = match code {
        1 => "Operation not permitted",
        4 => "Interrupted system call",
        5 => "Input/output error",
        11 => "Resource temporarily unavailable",
        12 => "Cannot allocate memory",
        16 => "Device or resource busy",
        22 => "Invalid argument",
        _ => return format!("error {code}"),
    };
    text.to_owned()
}

/// Puts offline vCPUs online, lowest first, until `count` are.
///
/// # Errors
/// `Refused` where the guest shows too few, or does not put one online.
pub async fn online_vcpus(reach: &mut Reach, count: u32, until: Instant) -> Result<(), ApplyError> {
    let answer = reach.call(VCPUS, Value::Null, left(until).min(reach.limit())).await?;
    let vcpus = answers::vcpus(&answer).map_err(|error| ApplyError::Unknown(error.to_string()))?;
    let mut wanted = to_online(&vcpus, count)?;
    // Ends: each turn takes at least one off `wanted`. The agent answers how many it did before the first failure,
    // and tells the failure itself only of the first that it was asked for (qapi-schema.json, `guest-set-vcpus`).
    while !wanted.is_empty() {
        let ask: Vec<Value> = wanted.iter().map(|id| json!({ "logical-id": id, "online": true })).collect();
        let done = reach.call(SET_VCPUS, json!({ "vcpus": ask }), left(until)).await?;
        let done = done.as_u64().and_then(|done| usize::try_from(done).ok());
        let done = done.filter(|done| (1..=wanted.len()).contains(done));
        let Some(done) = done else {
            return Err(ApplyError::Unknown(format!(
                "the guest agent's answer to {SET_VCPUS} makes no sense"
            )));
        };
        wanted.drain(..done);
    }
    Ok(())
}

/// Which vCPUs to put online, lowest first.
fn to_online(vcpus: &[GuestVcpu], count: u32) -> Result<Vec<u32>, ApplyError> {
    let online = vcpus.iter().filter(|vcpu| vcpu.online).count();
    let missing = (count as usize).saturating_sub(online);
    let offline: Vec<u32> = vcpus.iter().filter(|vcpu| !vcpu.online).map(|vcpu| vcpu.id).collect();
    if offline.len() < missing {
        let shown = vcpus.len();
        return Err(ApplyError::Refused(format!(
            "the guest shows only {shown} vCPUs; {count} are to be online"
        )));
    }
    Ok(offline.into_iter().take(missing).collect())
}

/// The blocks of `range` that the guest shows in the given state.
pub(crate) fn in_state(blocks: &[MemBlock], range: &std::ops::Range<u64>, online: bool) -> Vec<u64> {
    blocks
        .iter()
        .filter(|block| range.contains(&block.index) && block.online == online)
        .map(|b| b.index)
        .collect()
}

impl From<Mute> for ApplyError {
    fn from(mute: Mute) -> ApplyError {
        match mute {
            Mute::Unasked(why) | Mute::Silent(why) | Mute::Refused(why) => ApplyError::Refused(why),
            Mute::Unknown(why) => ApplyError::Unknown(why),
        }
    }
}
