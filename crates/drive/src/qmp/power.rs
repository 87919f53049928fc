//! CPU power of a machine on plain QEMU: QEMU names the threads, the host's control groups hold them.

use scale::observed::{Known, Manager};
use scale::setting::CpuPower;
use serde_json::Value;

use super::monitor::Monitor;
use super::replies::VcpuThread;
use crate::power::{self, HostFiles, Threads};
use crate::{ApplyError, ObserveError};

/// What the vCPUs may take now.
pub(crate) async fn read(monitor: &Monitor) -> Result<Known<CpuPower>, ObserveError> {
    if monitor.manager() != Manager::Nobody {
        // Its manager owns the groups, and tells.
        return Ok(Known::default());
    }
    let read = threads(monitor).await?.and_then(|threads| power::read(&HostFiles, &threads));
    Ok(read.map_or_else(Known::Not, Known::Is))
}

/// Sets it.
pub(super) async fn set(monitor: &Monitor, from: CpuPower, to: CpuPower) -> Result<(), ApplyError> {
    let threads = threads(monitor).await?.map_err(ApplyError::Refused)?;
    power::set(&HostFiles, &threads, from, to)
}

/// Has a vCPU that was just plugged share the limit of the others, if they have one. QEMU has started its thread when
/// `device_add` returns (qemu_init_vcpu, softmmu/cpus.c, 7.2).
pub(super) async fn follow(monitor: &Monitor) -> Result<(), ApplyError> {
    if !monitor.pid().is_some_and(|pid| power::is_held(&HostFiles, pid)) {
        return Ok(());
    }
    let without = |why: String| {
        ApplyError::Unknown(format!(
            "the vCPU was plugged, and does not share the limit of the others: {why}"
        ))
    };
    let threads = threads(monitor).await.map_err(|error| without(error.to_string()))?;
    threads.and_then(|threads| power::follow(&HostFiles, &threads)).map_err(without)
}

/// The vCPUs' threads, or why they cannot be told.
async fn threads(monitor: &Monitor) -> Result<Result<Threads, String>, ObserveError> {
    let Some(pid) = monitor.pid() else {
        return Ok(Err("QEMU's process is not one of this host's that can be told".to_owned()));
    };
    let cpus: Option<Vec<VcpuThread>> = monitor.ask_if("query-cpus-fast", Value::Null).await?;
    let Some(cpus) = cpus else { return Ok(Err("this QEMU does not name its vCPUs' threads".to_owned())) };
    let mut vcpus: Vec<u32> = cpus.iter().map(|cpu| cpu.thread_id).collect();
    // Without `thread=multi`, TCG runs all vCPUs on one.
    vcpus.sort_unstable();
    vcpus.dedup();
    Ok(Ok(Threads { pid, vcpus }))
}
