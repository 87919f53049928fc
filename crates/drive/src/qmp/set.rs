//! Limits on plain QEMU, each set where it acts: control groups, QEMU itself, the kernel's traffic control.

use scale::setting::{Setting, SettingName};
use tokio::time::Instant;

use super::monitor::Monitor;
use super::{nics, power};
use crate::disk::{self, Names};
use crate::{ApplyError, ObserveError, host};

/// Sets a limit, from what it is said to be now.
pub(super) async fn set(
    monitor: &Monitor,
    from: &Setting,
    to: &Setting,
    until: Instant,
) -> Result<(), ApplyError> {
    match (from, to) {
        (Setting::CpuPower(from), Setting::CpuPower(to)) => power::set(monitor, *from, *to).await,
        (Setting::DiskIo { io: from, .. }, Setting::DiskIo { disk, io: to }) => {
            disk::act::limit(monitor, disk, from, to, until).await
        }
        (_, Setting::NicRate { .. } | Setting::IpRate { .. }) => nics::set(monitor, from, to, until).await,
        (_, Setting::Memory { .. } | Setting::Locked { .. }) => {
            host::limits::set(monitor.pid(), from, to, until).await
        }
        (_, Setting::CpuPower(_) | Setting::DiskIo { .. }) => {
            Err(ApplyError::Refused(format!("{} cannot become {}", from.name(), to.name())))
        }
    }
}

/// Reads a limit back. `names` are those that a manager has given to disks.
pub(crate) async fn look(
    monitor: &Monitor,
    name: &SettingName,
    names: &Names,
) -> Result<Option<Setting>, ObserveError> {
    Ok(match name {
        SettingName::CpuPower => power::read(monitor).await?.known().copied().map(Setting::CpuPower),
        SettingName::DiskIo { disk } => match disk::find(monitor, disk, names).await? {
            Some(drive) => {
                let io = disk::limits(monitor, &drive).await?.known().cloned();
                io.map(|io| Setting::DiskIo { disk: disk.clone(), io })
            }
            None => None,
        },
        SettingName::NicRate { .. } | SettingName::IpRate { .. } => nics::look(monitor, name).await?,
        SettingName::Memory | SettingName::Locked => {
            monitor.pid().and_then(|pid| host::limits::read_back(pid, name))
        }
    })
}
