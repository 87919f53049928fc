//! The limit of what a machine of libvirt's may hold (`<memtune><hard_limit>`): libvirt owns the control group, so it is
//! read and set through it, on both descriptions. libvirt itself never moves it when memory is plugged (seen with 9.0),
//! and the host's kernel ends QEMU where the guest uses more.

use std::time::Duration;

use scale::observed::Host;
use scale::setting::{Setting, SettingName};
use scale::units::Bytes;
use tokio::time::Instant;

use super::act::{Hand, left, refused};
use super::pool::CallError;
use super::stats::Params;
use super::terms::Affect;
use crate::power::HostFiles;
use crate::qmp::monitor::Monitor;
use crate::{ApplyError, host};

/// How long a look at it may take.
const READ: Duration = Duration::from_secs(10);
/// From here on it is no limit (`VIR_DOMAIN_MEMORY_PARAM_UNLIMITED`, libvirt-domain.h: in KiB).
const UNLIMITED: u64 = 9_007_199_254_740_991;

/// Puts the limit in place of what the host's files tell of it. Where libvirt does not tell, there is none to move.
pub(super) async fn overlay(hand: &Hand, monitor: &Monitor, host: &mut Host) {
    let told = told(hand, Affect::Live, Instant::now() + READ).await;
    let Some(limit) = told.ok().as_ref().and_then(of) else { return };
    host.memory_limit = Some(limit);
    let all = monitor.pid().map(|pid| host::group::levels_of(&HostFiles, pid));
    let others = all.unwrap_or_default().into_iter();
    let others = others.filter(|level| !host::group::is_near(level.limit, limit));
    host.cgroup_headroom = others.map(|level| level.headroom).min();
}

/// The limit as it is now. What may be locked is libvirt's own business.
pub(super) async fn look(hand: &Hand, name: &SettingName) -> Option<Setting> {
    match name {
        SettingName::Memory => {
            let told = told(hand, Affect::Live, Instant::now() + READ).await.ok()?;
            of(&told).map(|most| Setting::Memory { most })
        }
        SettingName::Locked
        | SettingName::CpuPower
        | SettingName::DiskIo { .. }
        | SettingName::NicRate { .. }
        | SettingName::IpRate { .. } => None,
    }
}

/// Sets it, and the definition's with it where that has one that was the same or would be too low.
pub(super) async fn set(
    hand: &Hand,
    monitor: &Monitor,
    from: &Setting,
    to: &Setting,
    until: Instant,
) -> Result<(), ApplyError> {
    let now = of(&told(hand, Affect::Live, until).await.map_err(refused)?);
    let now = now.map(|most| Setting::Memory { most });
    let (Some(now), Some(was), Setting::Memory { most }) = (now, from.bytes(), to) else {
        return Err(ApplyError::Refused(format!("libvirt has no {} here", to.name())));
    };
    if !now.stands_between(from, to) {
        let (name, is, was) = (to.name(), now.value(), from.value());
        let why = format!("{name} is {is} and no longer {was}: something else has changed it");
        return Err(ApplyError::Refused(why));
    }
    let most = *most;
    if let Some(pid) = monitor.pid() {
        host::group::until_held(&HostFiles, pid, now.bytes().unwrap_or_default(), most, until).await?;
    }
    let affect = match hand.definition.both() {
        Affect::Both => {
            let defined = of(&told(hand, Affect::Config, until).await.map_err(refused)?);
            if follows(defined, was, most) { Affect::Both } else { Affect::Live }
        }
        live @ (Affect::Live | Affect::Config) => live,
    };
    hand.change("the memory limit", until, move |domain| domain.set_hard_limit(most, affect)).await
}

/// Whether the definition's limit goes along. None is not made one, and another one that somebody has chosen for the
/// next start is raised alone: the definition gets the memory too.
fn follows(defined: Option<Bytes>, from: Bytes, to: Bytes) -> bool {
    defined.is_some_and(|most| host::group::is_near(most, from) || from < to && most < to)
}

async fn told(hand: &Hand, affect: Affect, until: Instant) -> Result<Params, CallError> {
    let domain = hand.domain().clone();
    hand.lane().call("the memory limit", left(until), move || domain.memory_limits(affect)).await
}

fn of(params: &Params) -> Option<Bytes> {
    let kib = params.number("hard_limit").filter(|kib| *kib > 0 && *kib < UNLIMITED)?;
    kib.checked_mul(1024).map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::super::stats::Param;
    use super::*;

    #[test]
    fn a_definition_without_a_limit_gets_none_and_another_one_is_not_lowered() {
        let follows = |defined: Option<u64>, from, to| {
            follows(defined.map(Bytes::mib), Bytes::mib(from), Bytes::mib(to))
        };
        assert!(follows(Some(1024), 1024, 2048) && follows(Some(2048), 2048, 1024));
        assert!(follows(Some(1000), 1024, 2048), "it would be too low for the memory");
        assert!(!follows(None, 1024, 2048) && !follows(None, 2048, 1024));
        assert!(!follows(Some(4096), 1024, 2048) && !follows(Some(4096), 2048, 1024));
        assert!(!follows(Some(1500), 2048, 1024) && !follows(Some(512), 2048, 1024));
    }

    #[test]
    fn no_limit_is_told_as_a_number() {
        let told = |kib| [("hard_limit".to_owned(), Param::Unsigned(kib))].into_iter().collect::<Params>();
        assert_eq!(of(&told(2 << 20)), Some(Bytes::gib(2)));
        assert_eq!((of(&told(UNLIMITED)), of(&told(0)), of(&Params::default())), (None, None, None));
    }
}
