//! Waiting, with an end, for what nothing announces. It will not hide how long that took: the caller sets the limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Often enough to see a change soon, seldom enough to leave an emulated guest its core.
const LOOK: Duration = Duration::from_millis(50);

/// Calls `look` until it returns a value, at most for `limit`.
///
/// # Errors
/// `look` failed, or never had a value; the error says that it waited for `what`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let since = Instant::now();
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if since.elapsed() >= limit {
            bail!("{what}: not within {limit:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}
