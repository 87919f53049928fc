//! Memory blocks that a Linux guest does not find by itself, made known to its kernel by their addresses. The kernel
//! believes whatever address it is given, and dies of a wrong one when that is put online
//! (Documentation/admin-guide/mm/memory-hotplug.rst): which blocks there are is told from above, by what QEMU lists, and
//! none that the guest shows is written. Nothing is put online here, and nothing is undone.

use scale::units::Bytes;
use tokio::time::Instant;

use super::Call;
use super::facts;
use super::files::{left, open_call, write_each};
use super::reach::{Mute, Reach};
use crate::ApplyError;

/// Takes the address of one memory block at a time (`probe_store`, drivers/base/memory.c; CONFIG_ARCH_MEMORY_PROBE).
pub const PROBE: &str = "/sys/devices/system/memory/probe";

/// The command that tells whether the guest has the file, and lets its agent write it; nothing is written. Opened to
/// append, no file is cut short or, in /sys, made.
pub(super) fn open_to_write() -> Call {
    open_call(PROBE, "a")
}

/// Makes these blocks of size `block` known, one after the other, up to the first that the kernel does not take. One
/// that the guest shows by the time that it is refused (EEXIST) counts as known: its kernel found it meanwhile.
///
/// # Errors
/// `Refused` says which block and why, `Unknown` of which the outcome is not known.
pub(crate) async fn make_known(
    reach: &mut Reach,
    blocks: &[u64],
    block: Bytes,
    until: Instant,
) -> Result<(), ApplyError> {
    for (done, index) in blocks.iter().enumerate() {
        let progress = format!("{done} of {} memory blocks were made known", blocks.len());
        let limit = left(until);
        if limit.is_zero() {
            return Err(ApplyError::Refused(format!("no time left: {progress}")));
        }
        let addr = index
            .checked_mul(block.get())
            .ok_or_else(|| ApplyError::Refused(format!("memory{index} has no address")))?;
        let agent = reach.agent().await?;
        let written = write_each(agent, &[PROBE], format!("{addr:#x}").as_bytes(), limit).await;
        let refused = match written {
            Ok(answers) => answers.into_iter().find_map(Result::err),
            Err(error) => Some(error),
        };
        let Some(error) = refused else { continue };
        match reach.note(&error) {
            Mute::Refused(_) if shows(reach, *index).await? => {}
            Mute::Refused(why) | Mute::Unasked(why) | Mute::Silent(why) => {
                return Err(ApplyError::Refused(format!("memory{index} at {addr:#x}: {why} ({progress})")));
            }
            Mute::Unknown(why) => {
                return Err(ApplyError::Unknown(format!("memory{index} at {addr:#x}: {why} ({progress})")));
            }
        }
    }
    Ok(())
}

async fn shows(reach: &mut Reach, index: u64) -> Result<bool, Mute> {
    Ok(facts::shown_blocks(reach).await?.iter().any(|block| block.index == index))
}
