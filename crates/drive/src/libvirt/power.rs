//! CPU power of a machine of libvirt's: libvirt owns the control groups, so they are read and set through it.
//!
//! The limit is `global_quota`, which holds all of QEMU together, new vCPUs included: `vcpu_quota` would hold each vCPU
//! by itself, so that the whole changed with their number. Where somebody has set that one, nothing here is changed.

use scale::observed::Known;
use scale::setting::{CpuPower, Millicpus, Setting, Weight};
use tokio::time::Instant;

use super::act::{Hand, left, refused};
use super::pool::CallError;
use super::stats::{Param, Params};
use super::terms::Affect;
use super::tuning::CpuTime;
use crate::ApplyError;
use crate::power::{self, HostFiles, Version};
use crate::qmp::monitor::Monitor;

/// The period of a limit, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;
/// What libvirt tells of a group without a limit is above this (`VIR_CGROUP_CPU_QUOTA_MAX`, vircgroup.h, 9.0 and 11.3).
const LARGEST: u64 = 17_592_186_044_415;
/// How long a look at it may take.
const READ: std::time::Duration = std::time::Duration::from_secs(10);

/// What the machine may take now.
pub(super) async fn read(hand: &Hand, monitor: &Monitor) -> Known<CpuPower> {
    let version = match version(monitor) {
        Ok(version) => version,
        Err(why) => return Known::Not(why),
    };
    match told(hand, Instant::now() + READ).await {
        Ok(params) => of(&params, version).map_or_else(Known::Not, Known::Is),
        Err(error) => Known::Not(error.to_string()),
    }
}

/// Sets it, on both sides.
pub(super) async fn set(
    hand: &Hand,
    monitor: &Monitor,
    from: CpuPower,
    to: CpuPower,
    until: Instant,
) -> Result<(), ApplyError> {
    let version = version(monitor).map_err(ApplyError::Refused)?;
    let now = of(&told(hand, until).await.map_err(refused)?, version).map_err(ApplyError::Refused)?;
    let (was, is, asked) = (Setting::CpuPower(from), Setting::CpuPower(now), Setting::CpuPower(to));
    if !is.stands_between(&was, &asked) {
        let why = format!("CPU power is {now} and no longer {from}: something else has changed it");
        return Err(ApplyError::Refused(why));
    }
    let time = CpuTime {
        global: (now.limit != to.limit).then(|| (PERIOD, quota(to.limit))),
        shares: (now.weight != to.weight).then(|| shares(to.weight, version)),
    };
    if time == CpuTime::default() {
        return Ok(());
    }
    let affect = hand.definition.both();
    hand.change("CPU power", until, move |domain| domain.set_cpu_time(&time, affect)).await
}

async fn told(hand: &Hand, until: Instant) -> Result<Params, CallError> {
    let domain = hand.domain().clone();
    hand.lane().call("CPU power", left(until), move || domain.cpu_time(Affect::Live)).await
}

/// Which control groups libvirt's shares are counted in: it hands the number through as it is.
fn version(monitor: &Monitor) -> Result<Version, String> {
    if monitor.pid().is_none() {
        return Err("which control groups the machine's host has cannot be told from here".to_owned());
    }
    power::version(&HostFiles)
}

fn of(params: &Params, version: Version) -> Result<CpuPower, String> {
    let limit = |name: &str| {
        let quota = match params.get(&format!("{name}_quota"))? {
            Param::Signed(quota) => u64::try_from(*quota).ok()?,
            Param::Unsigned(quota) => *quota,
            Param::Float(_) | Param::Bool(_) | Param::Text(_) => return None,
        };
        let period = params.number(&format!("{name}_period"))?;
        Millicpus::of_quota(quota, period).filter(|_| quota > 0 && quota <= LARGEST)
    };
    if let Some(each) = limit("vcpu") {
        return Err(format!(
            "each vCPU is held to {each} CPUs by itself; lift that first: virsh schedinfo DOMAIN --set \
             vcpu_quota=-1 --live --config"
        ));
    }
    let shares = params.number("cpu_shares").ok_or("libvirt does not tell the machine's weight here")?;
    let weight = match version {
        Version::V1 => Some(Weight::of_v1_shares(shares)),
        Version::V2 => u32::try_from(shares).ok().and_then(Weight::new),
    };
    Ok(CpuPower { limit: limit("global"), weight: weight.ok_or(format!("{shares} is no weight"))? })
}

fn quota(limit: Option<Millicpus>) -> i64 {
    limit.and_then(|limit| i64::try_from(limit.quota(PERIOD)).ok()).unwrap_or(-1)
}

fn shares(weight: Weight, version: Version) -> u64 {
    match version {
        Version::V1 => weight.to_v1_shares(),
        Version::V2 => weight.get().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(all: &[(&str, Param)]) -> Params {
        all.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn told(quota: i64, shares: u64) -> Params {
        params(&[
            ("cpu_shares", Param::Unsigned(shares)),
            ("global_period", Param::Unsigned(50_000)),
            ("global_quota", Param::Signed(quota)),
            ("vcpu_period", Param::Unsigned(100_000)),
            ("vcpu_quota", Param::Signed(-1)),
        ])
    }

    #[test]
    fn shares_are_read_in_the_version_that_they_are_kept_in() {
        let power = CpuPower { limit: Some(Millicpus::new(2500)), weight: Weight::new(200).unwrap() };
        assert_eq!(of(&told(125_000, 2048), Version::V1), Ok(power));
        assert_eq!(of(&told(125_000, 200), Version::V2), Ok(power));
        assert!(of(&told(125_000, 0), Version::V2).is_err());
        for version in [Version::V1, Version::V2] {
            let told = told(quota(power.limit) / 2, shares(power.weight, version));
            assert_eq!(of(&told, version), Ok(power));
        }
    }

    #[test]
    fn no_limit_has_many_numbers() {
        for none in [-1, 0, 18_446_744_073_709_551] {
            assert_eq!(of(&told(none, 1024), Version::V1), Ok(power::FREE), "{none}");
        }
        assert_eq!(quota(None), -1);
    }

    #[test]
    fn a_limit_of_each_vcpu_is_somebody_elses() {
        let all = [("vcpu_quota", Param::Signed(50_000)), ("vcpu_period", Param::Unsigned(100_000))];
        let refused = of(&params(&all), Version::V1);
        assert!(refused.is_err_and(|why| why.contains("0.5 CPUs") && why.contains("vcpu_quota=-1")));
    }
}
