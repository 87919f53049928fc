//! The monitor as the driver asks it: typed answers within one limit, and a "no" told apart from silence. It knows no
//! command by name.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Qmp, QmpError};
use crate::wire::shown;
use crate::{ApplyError, ObserveError};

/// A monitor and how long it may take to answer.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) qmp: Qmp,
    limit: Duration,
}

impl Monitor {
    pub(super) fn new(qmp: Qmp, limit: Duration) -> Monitor {
        Monitor { qmp, limit }
    }

    /// What QEMU answers; a refusal is an error.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<T, ObserveError> {
        let answer = self.qmp.execute(command, arguments, self.limit).await;
        read(command, answer.map_err(|error| ObserveError::Unreachable(error.to_string()))?)
    }

    /// What QEMU answers; nothing where it refuses: an older QEMU, a machine without such a thing.
    pub(super) async fn ask_if<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
    ) -> Result<Option<T>, ObserveError> {
        match self.qmp.execute(command, arguments, self.limit).await {
            Ok(answer) => read(command, answer).map(Some),
            Err(QmpError::Refused { .. }) => Ok(None),
            Err(error @ (QmpError::TimedOut { .. } | QmpError::Closed { .. } | QmpError::Garbled { .. })) => {
                Err(ObserveError::Unreachable(error.to_string()))
            }
        }
    }

    /// The value of an object's property; nothing where there is no such object or property.
    pub(super) async fn property<T: DeserializeOwned>(
        &self,
        path: &str,
        property: &str,
    ) -> Result<Option<T>, ObserveError> {
        self.ask_if("qom-get", json!({ "path": path, "property": property })).await
    }

    /// Has a command carried out.
    pub(super) async fn order(
        &self,
        command: &str,
        arguments: Value,
        until: Instant,
    ) -> Result<(), ApplyError> {
        let limit = until.saturating_duration_since(Instant::now());
        match self.qmp.execute(command, arguments, limit).await {
            Ok(_) => Ok(()),
            Err(QmpError::Refused { desc, .. }) => Err(ApplyError::Refused(desc)),
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
pub(super) async fn each<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
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
