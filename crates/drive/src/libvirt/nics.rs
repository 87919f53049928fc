//! NICs of a machine of libvirt's. Their limits are libvirt's own and stand in its description; it has none for single
//! addresses, so these are laid out at the tap as on plain QEMU, where nothing of libvirt's stands.
//!
//! libvirt removes all that hangs at a tap before it lays out a limit. Where something of others, or of ours, hangs
//! there, that is refused instead.

use scale::observed::{Known, Nic, RateGrain};
use scale::setting::{NicRate, Setting, SettingName};
use tokio::time::Instant;

use super::act::{Hand, left, refused};
use super::bandwidth::{Bandwidth, STEP};
use super::pool::CallError;
use super::terms::Affect;
use crate::net::{self, Hanging};
use crate::qmp::monitor::Monitor;
use crate::qmp::nics as at_tap;
use crate::{ApplyError, ObserveError};

/// Puts libvirt's account of each NIC's limits in the place of what its tap shows.
pub(super) async fn overlay(hand: &Hand, nics: &mut Known<Vec<Nic>>) {
    let Known::Is(nics) = nics else { return };
    for nic in nics {
        nic.grain = RateGrain { step: STEP, peak_from_guest: false };
        match bandwidth(hand, &nic.name).await {
            Ok(Bandwidth { rate, .. }) => {
                nic.rate = Known::Is(rate);
                if !rate.is_free() {
                    nic.ips = Known::Not(
                        "libvirt limits this NIC, and limits of single addresses cannot stand beside that"
                            .to_owned(),
                    );
                }
            }
            Err(CallError::Libvirt(error)) if error.message.contains("is not a known interface") => {
                nic.rate = Known::Not("libvirt does not know this NIC".to_owned());
            }
            Err(error) => nic.rate = Known::Not(error.to_string()),
        }
    }
}

/// Reads one limit back: a NIC's from libvirt, an address's from the tap.
pub(super) async fn look(
    hand: &Hand,
    monitor: &Monitor,
    name: &SettingName,
) -> Result<Option<Setting>, ObserveError> {
    match name {
        SettingName::NicRate { nic } => match bandwidth(hand, nic).await {
            Ok(Bandwidth { rate, .. }) => Ok(Some(Setting::NicRate { nic: nic.clone(), rate })),
            Err(CallError::Libvirt(_)) => Ok(None),
            Err(
                error @ (CallError::TimedOut { .. } | CallError::Busy { .. } | CallError::Crowded { .. }),
            ) => Err(ObserveError::Unreachable(error.to_string())),
        },
        SettingName::IpRate { .. }
        | SettingName::CpuPower
        | SettingName::DiskIo { .. }
        | SettingName::Memory
        | SettingName::Locked => at_tap::look(monitor, name).await,
    }
}

/// Sets one limit, if it is what it is said to be now.
pub(super) async fn set(
    hand: &Hand,
    monitor: &Monitor,
    from: &Setting,
    to: &Setting,
    until: Instant,
) -> Result<(), ApplyError> {
    match (from, to) {
        (Setting::NicRate { .. }, Setting::NicRate { nic, rate }) => {
            let before = bandwidth(hand, nic).await.map_err(refused)?;
            let now = Setting::NicRate { nic: nic.clone(), rate: before.rate };
            if !now.stands_between(from, to) {
                return Err(ApplyError::Refused(format!(
                    "{} is {} and no longer {}: something else has changed it",
                    to.name(),
                    now.value(),
                    from.value()
                )));
            }
            set_nic(hand, monitor, nic, before, *rate, until).await
        }
        (_, Setting::IpRate { nic, .. }) => {
            let now = bandwidth(hand, nic).await.map_err(refused)?;
            if !now.rate.is_free() {
                return Err(ApplyError::Refused(format!(
                    "libvirt limits NIC {nic} to {}, and limits of single addresses cannot stand beside that: lift \
                     it first",
                    now.rate
                )));
            }
            at_tap::set(monitor, from, to, until).await
        }
        (
            _,
            Setting::NicRate { .. }
            | Setting::CpuPower(_)
            | Setting::DiskIo { .. }
            | Setting::Memory { .. }
            | Setting::Locked { .. },
        ) => Err(ApplyError::Refused(format!("{} does not become {}", from.name(), to.name()))),
    }
}

async fn set_nic(
    hand: &Hand,
    monitor: &Monitor,
    nic: &str,
    now: Bandwidth,
    to: NicRate,
    until: Instant,
) -> Result<(), ApplyError> {
    if let Some(hanging) = hanging(monitor, nic).await? {
        return Err(ApplyError::Refused(format!(
            "libvirt would remove {hanging}, which is not its own; take that away first"
        )));
    }
    let put = async |bandwidth: Bandwidth, affect| {
        let nic = nic.to_owned();
        hand.change("a NIC's limit", until, move |domain| domain.set_bandwidth(&nic, &bandwidth, affect))
            .await
    };
    match put(Bandwidth { rate: to, ..now }, hand.definition.both()).await {
        // Where the kernel lacks a part, libvirt leaves what it laid out until then, and a limit acts that it does not
        // know of (seen with 9.0): the one from before is laid out again.
        Err(ApplyError::Refused(why)) => Err(match put(now, Affect::Live).await {
            Ok(()) => ApplyError::Refused(why),
            Err(left) => ApplyError::Unknown(format!(
                "{why}; the limit from before could not be laid out again: {left}"
            )),
        }),
        other => other,
    }
}

/// What hangs at the NIC's tap besides libvirt's own, where the tap is on this host.
async fn hanging(monitor: &Monitor, nic: &str) -> Result<Option<Hanging>, ApplyError> {
    let found = at_tap::found(monitor).await?.into_iter().find(|found| found.mac == nic);
    let Some(Ok(tap)) = found.map(|found| found.tap) else { return Ok(None) };
    match net::off_thread(at_tap::READ, move || net::beside_libvirt(&tap)).await {
        Some(hanging) => hanging.map_err(|error| ApplyError::Refused(error.to_string())),
        None => Err(ApplyError::Refused("the kernel does not tell what hangs at the NIC's tap".to_owned())),
    }
}

async fn bandwidth(hand: &Hand, nic: &str) -> Result<Bandwidth, CallError> {
    let (domain, nic) = (hand.domain().clone(), nic.to_owned());
    let call = move || domain.bandwidth(&nic, Affect::Live);
    hand.lane().call("a NIC's limit", left(Instant::now() + at_tap::READ), call).await
}
