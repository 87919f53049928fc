//! The NICs of a machine: QEMU names them and what they are connected to, the host's taps have their limits, and the
//! guest tells its own names and addresses of them.

use std::time::Duration;

use scale::observed::{Guest, Known, Nic, RateGrain};
use scale::setting::{NicRate, Setting, SettingName};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::monitor::{Monitor, each};
use super::observe::{Peripheral, peripherals};
use crate::net::tap::{self, Connected, Via};
use crate::net::{self, SetError, TapRates};
use crate::{ApplyError, ObserveError};

/// How long the kernel may take to tell of all taps.
pub(crate) const READ: Duration = Duration::from_secs(10);

/// A NIC as QEMU and the host know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The MAC address that it was given, in lower case; the guest may use another.
    pub(crate) mac: String,
    /// The device's id and the back-end's.
    pub(crate) aliases: Vec<String>,
    /// The tap, or why there is none.
    pub(crate) tap: Result<String, String>,
}

/// All NICs that are connected to something.
pub(crate) async fn found(monitor: &Monitor) -> Result<Vec<Found>, ObserveError> {
    let ask = json!({ "command-line": "info network" });
    let (told, devices) =
        tokio::try_join!(monitor.ask_if::<String>("human-monitor-command", ask), peripherals(monitor))?;
    let connected = tap::connected(&told.unwrap_or_default());
    let macs = macs(monitor, &connected, &devices).await?;
    let vias: Vec<&Via> = connected.iter().map(|one| &one.via).collect();
    let of = |(at, one): (usize, &Connected)| {
        let given = macs.iter().find(|(netdev, _)| *netdev == one.netdev).map(|(_, mac)| mac);
        let others: Vec<&Via> =
            vias.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, via)| *via).collect();
        let is_id = devices.iter().any(|(_, device)| device.name == one.nic);
        let mut aliases: Vec<String> = is_id.then(|| one.nic.clone()).into_iter().collect();
        aliases.push(one.netdev.clone());
        Found {
            mac: given.unwrap_or(&one.mac).to_ascii_lowercase(),
            aliases,
            tap: tap::name(&one.via, monitor.pid(), &others),
        }
    };
    Ok(connected.iter().enumerate().map(of).collect())
}

/// Back-ends and the MAC addresses that their NICs were given. What `info network` shows is the one in use, which the
/// guest sets (virtio_net_handle_mac, hw/net/virtio-net.c, 7.2); a device's property stays.
async fn macs(
    monitor: &Monitor,
    connected: &[Connected],
    devices: &[Peripheral],
) -> Result<Vec<(String, String)>, ObserveError> {
    let is_nic = |device: &&Peripheral| {
        device.1.child().is_some_and(|kind| connected.iter().any(|one| one.model == kind))
    };
    let asked = devices.iter().filter(is_nic).map(|(folder, device)| async move {
        let path = format!("{folder}/{}", device.name);
        tokio::try_join!(monitor.property::<Value>(&path, "netdev"), monitor.property::<Value>(&path, "mac"))
    });
    let mut macs = Vec::new();
    for told in each(asked).await {
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let (netdev, mac) = told?;
        macs.extend(text(netdev).zip(text(mac)));
    }
    Ok(macs)
}

/// All NICs with their limits at their taps.
pub(crate) async fn observe(monitor: &Monitor) -> Result<Known<Vec<Nic>>, ObserveError> {
    let found = found(monitor).await?;
    let taps: Vec<Result<String, String>> = found.iter().map(|nic| nic.tap.clone()).collect();
    let read =
        move || taps.into_iter().map(|tap| net::read(&tap?).map_err(|error| error.to_string())).collect();
    let rates: Vec<Result<TapRates, String>> = match net::off_thread(READ, read).await {
        Some(rates) => rates,
        None => return Ok(Known::Not(format!("the kernel did not tell of the taps within {READ:?}"))),
    };
    let nic = |(found, rates): (Found, Result<TapRates, String>)| {
        let Found { mac, aliases, tap } = found;
        let (rate, ips) = match rates {
            Ok(TapRates { nic, ips }) => (Known::Is(nic), Known::Is(ips)),
            Err(why) => (Known::Not(why.clone()), Known::Not(why)),
        };
        let (addresses, grain) = (Vec::new(), RateGrain::default());
        Nic { name: mac, aliases, tap: tap.ok(), addresses, rate, ips, grain }
    };
    Ok(Known::Is(found.into_iter().zip(rates).map(nic).collect()))
}

/// Adds what the guest calls its NICs and which addresses it shows on them. A name that the host has for any NIC is not
/// the guest's to give.
pub(crate) fn named_by_guest(nics: &mut Known<Vec<Nic>>, guest: &Guest) {
    let (Known::Is(nics), Some(facts)) = (nics, guest.heard()) else { return };
    let taken: Vec<String> = nics
        .iter()
        .flat_map(|nic| nic.aliases.iter().chain(nic.tap.as_ref()).chain([&nic.name]).cloned())
        .collect();
    for nic in nics {
        for shown in facts.interfaces.iter().filter(|shown| shown.mac == nic.name) {
            if !taken.contains(&shown.name) && !nic.aliases.contains(&shown.name) {
                nic.aliases.push(shown.name.clone());
            }
            nic.addresses.extend(shown.addresses.iter().copied());
        }
        nic.addresses.sort_unstable();
        nic.addresses.dedup();
    }
}

/// Reads one limit back from the kernel; nothing where there is no such tap.
pub(crate) async fn look(monitor: &Monitor, name: &SettingName) -> Result<Option<Setting>, ObserveError> {
    let nic = match name {
        SettingName::NicRate { nic } | SettingName::IpRate { nic, .. } => nic,
        SettingName::CpuPower | SettingName::DiskIo { .. } | SettingName::Memory | SettingName::Locked => {
            return Ok(None);
        }
    };
    match found(monitor).await?.into_iter().find(|found| found.mac == *nic).map(|found| found.tap) {
        Some(Ok(tap)) => Ok(Some(of(&read(tap).await?, name, nic.clone()))),
        Some(Err(_)) | None => Ok(None),
    }
}

async fn read(tap: String) -> Result<TapRates, ObserveError> {
    match net::off_thread(READ, move || net::read(&tap)).await {
        Some(rates) => rates.map_err(|error| ObserveError::Unreachable(error.to_string())),
        None => Err(ObserveError::Unreachable(format!("the kernel did not tell of the tap within {READ:?}"))),
    }
}

fn of(rates: &TapRates, name: &SettingName, nic: String) -> Setting {
    match name {
        SettingName::IpRate { ip, .. } => Setting::IpRate { nic, ip: *ip, rate: rates.ip(*ip) },
        SettingName::NicRate { .. }
        | SettingName::CpuPower
        | SettingName::DiskIo { .. }
        | SettingName::Memory
        | SettingName::Locked => Setting::NicRate { nic, rate: rates.nic },
    }
}

/// Sets one limit at the tap of its NIC, if the limit is what it is said to be now.
pub(crate) async fn set(
    monitor: &Monitor,
    from: &Setting,
    to: &Setting,
    until: Instant,
) -> Result<(), ApplyError> {
    let (nic, rate) = match to {
        Setting::NicRate { nic, rate } | Setting::IpRate { nic, rate, .. } => (nic.clone(), *rate),
        Setting::CpuPower(_) | Setting::DiskIo { .. } | Setting::Memory { .. } | Setting::Locked { .. } => {
            return Err(ApplyError::Refused(format!("{to} is not set at a tap")));
        }
    };
    let found = found(monitor).await?.into_iter().find(|found| found.mac == nic);
    let found = found.ok_or_else(|| ApplyError::Refused(format!("the machine has no NIC {nic}")))?;
    let tap = found.tap.map_err(ApplyError::Refused)?;
    let now = of(&read(tap.clone()).await?, &to.name(), nic);
    if !now.stands_between(from, to) {
        let (now, from) = (now.value(), from.value());
        return Err(ApplyError::Refused(format!(
            "{} is {now} and no longer {from}: something else has changed it",
            to.name()
        )));
    }
    put(tap, to.clone(), rate, until).await
}

async fn put(tap: String, to: Setting, rate: NicRate, until: Instant) -> Result<(), ApplyError> {
    let limit = until.saturating_duration_since(Instant::now());
    let call = move || match to {
        Setting::IpRate { ip, .. } => net::set_ip(&tap, ip, rate),
        Setting::NicRate { .. }
        | Setting::CpuPower(_)
        | Setting::DiskIo { .. }
        | Setting::Memory { .. }
        | Setting::Locked { .. } => net::set_nic(&tap, rate),
    };
    match net::off_thread(limit, call).await {
        None => Err(ApplyError::Unknown(format!(
            "the kernel did not answer within {limit:?}; it may still do it"
        ))),
        Some(Ok(())) => Ok(()),
        Some(Err(error @ SetError::Half { .. })) => Err(ApplyError::Unknown(error.to_string())),
        Some(Err(
            error @ (SetError::Read(_) | SetError::Clash(_) | SetError::Privilege | SetError::Refused { .. }),
        )) => Err(ApplyError::Refused(error.to_string())),
    }
}
