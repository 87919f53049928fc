//! The monitor as drivers ask it: typed answers within one limit, and a "no" told apart from silence. Questions go to
//! QEMU itself or, where libvirt holds the monitor, through libvirt; it knows hardly any command by name.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use scale::observed::Manager;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::look::Region;
use super::{Qmp, QmpError, Version};
#[cfg(feature = "libvirt")]
use crate::libvirt::Passthrough;
use crate::wire::shown;
use crate::{ApplyError, ObserveError, host};

/// A monitor and how long it may take to answer.
#[derive(Debug)]
pub(crate) struct Monitor {
    line: Line,
    limit: Duration,
    /// Where the DIMM lies that was looked at last, and when that was.
    place: Mutex<Option<(Instant, String, Region)>>,
}

/// What was seen longer ago than this is asked for again.
const FRESH: Duration = Duration::from_secs(1);

/// How the monitor is reached.
#[derive(Debug)]
pub(crate) enum Line {
    /// Over a socket of ours.
    Qmp(Qmp),
    /// Through libvirt, for questions alone.
    #[cfg(feature = "libvirt")]
    Libvirt(Passthrough),
}

impl Monitor {
    pub(crate) fn new(line: Line, limit: Duration) -> Monitor {
        Monitor { line, limit, place: Mutex::default() }
    }

    /// Who keeps the machine.
    pub(crate) fn manager(&self) -> Manager {
        match &self.line {
            Line::Qmp(_) => Manager::Nobody,
            #[cfg(feature = "libvirt")]
            Line::Libvirt(_) => Manager::Libvirt,
        }
    }

    /// QEMU's version.
    pub(crate) fn version(&self) -> &Version {
        match &self.line {
            Line::Qmp(qmp) => qmp.version(),
            #[cfg(feature = "libvirt")]
            Line::Libvirt(passthrough) => passthrough.version(),
        }
    }

    /// The QEMU process, where it is one of this host's that can be told.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.line {
            Line::Qmp(qmp) => qmp.peer_pid().and_then(host::qemu),
            #[cfg(feature = "libvirt")]
            Line::Libvirt(passthrough) => passthrough.pid(),
        }
    }

    async fn execute(&self, command: &str, arguments: Value, limit: Duration) -> Result<Value, QmpError> {
        match &self.line {
            Line::Qmp(qmp) => qmp.execute(command, arguments, limit).await,
            #[cfg(feature = "libvirt")]
            Line::Libvirt(passthrough) => passthrough.execute(command, arguments, limit).await,
        }
    }

    /// True where whoever keeps the machine says that it runs, without asking QEMU.
    pub(crate) async fn is_said_to_run(&self) -> bool {
        match &self.line {
            Line::Qmp(_) => false,
            #[cfg(feature = "libvirt")]
            Line::Libvirt(passthrough) => passthrough.is_running(self.limit).await,
        }
    }

    /// Has the balloon at `path` ask its guest for figures every `seconds`. False where that cannot be.
    pub(crate) async fn poll_balloon(&self, path: &str, seconds: u16) -> Result<bool, ObserveError> {
        match &self.line {
            Line::Qmp(_) => {
                let set =
                    json!({ "path": path, "property": "guest-stats-polling-interval", "value": seconds });
                Ok(self.ask_if::<Value>("qom-set", set).await?.is_some())
            }
            #[cfg(feature = "libvirt")]
            Line::Libvirt(passthrough) => Ok(passthrough.poll_balloon(seconds, self.limit).await),
        }
    }

    /// Takes note of where a DIMM lies, where it stays.
    pub(super) fn note_place(&self, dimm: &str, region: Region) {
        *self.place() = Some((Instant::now(), dimm.to_owned(), region));
    }

    /// Where this DIMM lies, if it was just looked at: what is brought into use then was plugged a moment ago.
    pub(super) fn place_of(&self, dimm: &str) -> Option<Region> {
        let (since, id, region) = self.place().take()?;
        (id == dimm && since.elapsed() < FRESH).then_some(region)
    }

    fn place(&self) -> MutexGuard<'_, Option<(Instant, String, Region)>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What QEMU answers; a refusal is an error.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<T, ObserveError> {
        let answer = self.execute(command, arguments, self.limit).await;
        read(command, answer.map_err(|error| ObserveError::Unreachable(error.to_string()))?)
    }

    /// What QEMU answers; nothing where it refuses: an older QEMU, a machine without such a thing.
    pub(crate) async fn ask_if<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<Option<T>, ObserveError> {
        match self.execute(command, arguments, self.limit).await {
            Ok(answer) => read(command, answer).map(Some),
            Err(QmpError::Refused { .. }) => Ok(None),
            Err(
                error @ (QmpError::TimedOut { .. }
                | QmpError::Withheld { .. }
                | QmpError::Closed { .. }
                | QmpError::Garbled { .. }),
            ) => Err(ObserveError::Unreachable(error.to_string())),
        }
    }

    /// The value of an object's property; nothing where there is no such object or property.
    pub(crate) async fn property<T: DeserializeOwned>(
        &self,
        path: &str,
        property: &str,
    ) -> Result<Option<T>, ObserveError> {
        self.ask_if("qom-get", json!({ "path": path, "property": property })).await
    }

    /// Has a command carried out.
    pub(crate) async fn order(
        &self,
        command: &str,
        arguments: Value,
        until: Instant,
    ) -> Result<(), ApplyError> {
        let limit = until.saturating_duration_since(Instant::now());
        match self.execute(command, arguments, limit).await {
            Ok(_) => Ok(()),
            Err(QmpError::Refused { desc, .. }) => Err(ApplyError::Refused(desc)),
            Err(error @ QmpError::Withheld { .. }) => Err(ApplyError::Refused(error.to_string())),
            Err(error @ (QmpError::TimedOut { .. } | QmpError::Closed { .. } | QmpError::Garbled { .. })) => {
                Err(ApplyError::Unknown(error.to_string()))
            }
        }
    }
}

fn read<T: DeserializeOwned>(command: &str, answer: Value) -> Result<T, ObserveError> {
    serde_json::from_value(answer).map_err(|error| {
        ObserveError::Nonsense(format!(
            "QEMU's answer to {command} makes no sense: {}",
            shown(&error.to_string())
        ))
    })
}

/// Waits for all of them at once; their results in order.
pub(crate) async fn each<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<F::Output>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, result) in running.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(output) => *result = Some(output),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}
