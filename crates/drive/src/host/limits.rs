//! The limits of a QEMU process that move with its guest's memory: of its memory control group, where QEMU is alone in
//! it, and of the memory that it may lock. Read, and set for the one act that asks for it.

use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use scale::observed::Host;
use scale::setting::{Setting, SettingName};
use scale::units::Bytes;
use tokio::time::Instant;

use super::{group, memlock, text};
use crate::ApplyError;
use crate::power::HostFiles;

/// `CAP_SYS_RESOURCE`, linux/capability.h: who has it may raise any limit.
const CAP_SYS_RESOURCE: u32 = 24;

/// Fills in which limits of this QEMU can be moved from here.
pub(crate) fn moving(pid: u32, host: &mut Host) {
    if let Some(limit) = group::limit(&HostFiles, pid) {
        let others = group::levels_of(&HostFiles, pid).into_iter().filter(|level| !level.own);
        host.cgroup_headroom = others.map(|level| level.headroom).min();
        host.memory_limit = Some(limit);
    }
    host.lock_limit = lock_limit(pid);
}

/// A limit of this QEMU as it is now.
pub(crate) fn read_back(pid: u32, name: &SettingName) -> Option<Setting> {
    match name {
        SettingName::Memory => group::limit(&HostFiles, pid).map(|most| Setting::Memory { most }),
        SettingName::Locked => lock_limit(pid).map(|most| Setting::Locked { most }),
        SettingName::CpuPower
        | SettingName::DiskIo { .. }
        | SettingName::NicRate { .. }
        | SettingName::IpRate { .. } => None,
    }
}

/// Moves a limit of this QEMU, from what it is said to be now.
///
/// # Errors
/// Somebody else has changed it, QEMU holds more than it is to be, or the kernel's reason; nothing has changed.
pub(crate) async fn set(
    pid: Option<u32>,
    from: &Setting,
    to: &Setting,
    until: Instant,
) -> Result<(), ApplyError> {
    let name = to.name();
    let refused = |why: String| Err(ApplyError::Refused(why));
    let Some(pid) = pid else { return refused("QEMU's process is not one of this host's".into()) };
    let Some(now) = read_back(pid, &name) else {
        return refused(format!("{name} cannot be moved from here"));
    };
    if !now.stands_between(from, to) {
        let why = format!(
            "{name} is {} and no longer {}: something else has changed it",
            now.value(),
            from.value()
        );
        return refused(why);
    }
    match to {
        Setting::Memory { most } => group::set_limit(&HostFiles, pid, *most, until).await,
        Setting::Locked { most } => set_lock_limit(pid, *most),
        Setting::CpuPower(_) | Setting::DiskIo { .. } | Setting::NicRate { .. } | Setting::IpRate { .. } => {
            refused(format!("{name} is no limit of memory"))
        }
    }
}

/// What the process may lock, where that is limited and may be raised from here.
pub(crate) fn lock_limit(pid: u32) -> Option<Bytes> {
    let limit = memlock(&text(Path::new(&format!("/proc/{pid}/limits")))?)?;
    let own = text(Path::new("/proc/self/status"))?;
    let held = own.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let held = u64::from_str_radix(held.trim(), 16).ok()?;
    (held >> CAP_SYS_RESOURCE & 1 == 1).then_some(limit)
}

/// Sets what the process may lock. The hard limit is raised where it is in the way, and never lowered.
///
/// # Errors
/// The kernel's reason; nothing has changed.
pub(crate) fn set_lock_limit(pid: u32, to: Bytes) -> Result<(), ApplyError> {
    let refused = |why: &str| ApplyError::Refused(format!("QEMU's limit of locked memory stays: {why}"));
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| refused("no such process"))?;
    let hard = |rlimit: Rlimit| rlimit.maximum.map(|hard| hard.max(to.get()));
    let limits = text(Path::new(&format!("/proc/{pid}/limits"))).ok_or_else(|| refused("it is hidden"))?;
    let maximum = hard(Rlimit { current: None, maximum: hard_memlock(&limits) });
    let new = Rlimit { current: Some(to.get()), maximum };
    prlimit(Some(id), Resource::Memlock, new).map(drop).map_err(|error| refused(&error.to_string()))
}

/// The hard limit of locked memory in `/proc/PID/limits`; nothing where there is none.
fn hard_memlock(limits: &str) -> Option<u64> {
    let values = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    values.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_limit_is_read_beside_the_soft_one() {
        let limits = |hard| format!("Limit  Soft  Hard  Units\nMax locked memory  7  {hard}  bytes\n");
        assert_eq!((hard_memlock(&limits("9")), hard_memlock(&limits("unlimited"))), (Some(9), None));
    }
}
