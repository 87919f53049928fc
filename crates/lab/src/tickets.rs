//! Limits how many guests run at once on this machine, over all processes that use the lab's cache.
//!
//! An emulated guest takes a core; more guests than cores only make each other late. It will not be fair: who
//! waits longest need not be next.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cache::{Cache, Lock};

/// Longer than any test run should hold a guest.
const PATIENCE: Duration = Duration::from_secs(900);

/// The right to run one guest, given back when dropped or when the process ends.
#[derive(Debug)]
pub(crate) struct Ticket {
    _lock: Lock,
}

impl Ticket {
    /// Waits for a free ticket; there are as many as cores.
    pub(crate) async fn take(cache: &Cache) -> Result<Self> {
        let tickets = thread::available_parallelism().map_or(1, usize::from);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            for number in 0..tickets {
                if let Some(lock) = cache.try_lock(&format!("ticket-{number}"))? {
                    return Ok(Self { _lock: lock });
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{tickets} guests run already and none ended in {} s", PATIENCE.as_secs())
    }
}
