//! The guest's own figures as its balloon driver tells them. The driver tells only while QEMU asks for them at an
//! interval, so reading them may have to turn that on; nothing else is changed, and the balloon's size never.

use std::time::Duration;

use scale::observed::BalloonStats;
use scale::time::Moment;
use scale::units::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::monitor::Monitor;
use super::observe::Peripheral;
use crate::ObserveError;

const INTERVAL: &str = "guest-stats-polling-interval";
/// How often the guest is asked once that was turned on, in seconds: the least that QEMU takes.
const SECONDS: u16 = 1;
/// How long the first figures are waited for: one interval, and the guest's time to answer.
const FIRST: Duration = Duration::from_millis(2500);
/// How often QEMU is asked whether they have come.
const LOOK: Duration = Duration::from_millis(50);

/// The balloon's `guest-stats` (docs/interop/virtio-balloon-stats.rst).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Told {
    last_update: u64,
    stats: Value,
}

impl Told {
    /// Nothing where the driver has told no total yet: QEMU then has 2^64-1, or -1, in its place.
    fn figures(&self) -> Option<BalloonStats> {
        let bytes =
            |key: &str| self.stats.get(key)?.as_u64().filter(|bytes| *bytes != u64::MAX).map(Bytes::new);
        let total = bytes("stat-total-memory").filter(|_| self.last_update > 0)?;
        let free = bytes("stat-free-memory").unwrap_or(Bytes::ZERO);
        // Linux before 4.6 does not tell it: free memory is less, and safe.
        let available = bytes("stat-available-memory").unwrap_or(free);
        let at = Moment::from_unix_millis(self.last_update.saturating_mul(1000));
        Some(BalloonStats { at, total, available, free })
    }
}

/// Where the balloon is among the objects; QEMU has at most one.
pub(super) fn path(peripherals: &[Peripheral]) -> Option<String> {
    let balloon = |kind: &str| kind.starts_with("virtio-balloon");
    let (folder, device) = peripherals.iter().find(|(_, device)| device.child().is_some_and(balloon))?;
    Some(format!("{folder}/{}", device.name))
}

/// The guest's latest figures; nothing where its driver has told none.
pub(super) async fn latest(monitor: &Monitor, path: &str) -> Result<Option<BalloonStats>, ObserveError> {
    Ok(monitor.property::<Told>(path, "guest-stats").await?.and_then(|told| told.figures()))
}

/// Makes QEMU ask the guest for its figures every second, if it does not ask yet. True if that was changed. It stays
/// on: the guest's cost is one message a second, and later looks need not wait.
pub(crate) async fn turn_on(monitor: &Monitor, path: &str) -> Result<bool, ObserveError> {
    match monitor.property::<u64>(path, INTERVAL).await? {
        Some(0) => monitor.poll_balloon(path, SECONDS).await,
        Some(_) | None => Ok(false),
    }
}

/// The figures of a guest that was just begun to be asked for them, or what there is when it did not answer soon.
pub(crate) async fn first(
    monitor: &Monitor,
    path: &str,
    before: Option<BalloonStats>,
) -> Result<Option<BalloonStats>, ObserveError> {
    let until = Instant::now() + FIRST;
    loop {
        let told = latest(monitor, path).await?;
        if told.map(|told| told.at) != before.map(|told| told.at) || Instant::now() >= until {
            return Ok(told);
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(value: Value) -> Option<BalloonStats> {
        serde_json::from_value::<Told>(value).expect("guest-stats").figures()
    }

    #[test]
    fn a_driver_that_never_answered_tells_nothing() {
        let never =
            json!({"last-update": 0, "stats": {"stat-total-memory": u64::MAX, "stat-free-memory": u64::MAX}});
        assert_eq!(told(never), None);
        let old_spelling = json!({"last-update": 7, "stats": {"stat-total-memory": -1}});
        assert_eq!(told(old_spelling), None);
    }

    #[test]
    fn an_old_driver_without_available_memory_counts_its_free_memory() {
        let answer = json!({"last-update": 1_700_000_000_u64, "stats": {
            "stat-total-memory": 1 << 30, "stat-free-memory": 1 << 29, "stat-available-memory": u64::MAX}});
        let at = Moment::from_unix_millis(1_700_000_000_000);
        let half = Bytes::mib(512);
        assert_eq!(
            told(answer),
            Some(BalloonStats { at, total: Bytes::gib(1), available: half, free: half })
        );
    }
}
