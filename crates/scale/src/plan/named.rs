//! Disks and NICs by the names that operators know them by: any unique one will do.

use super::{Obstacle, When};
use crate::observed::{Disk, Known, Nic, Observed};
use core::net::IpAddr;

/// The disk of this name.
pub(super) fn disk<'a>(seen: &'a Observed, name: &str) -> Result<&'a Disk, Obstacle> {
    find(&seen.disks, name, "disk", |disk| (&disk.name, names_of_disk(disk)))
}

/// The NIC of this name.
pub(super) fn nic<'a>(seen: &'a Observed, name: &str) -> Result<&'a Nic, Obstacle> {
    // A MAC address is one however it is written.
    let name = if name.matches(':').count() == 5 { name.to_ascii_lowercase() } else { name.to_owned() };
    find(&seen.nics, &name, "NIC", |nic| (&nic.name, names_of_nic(nic)))
}

/// The NIC that an address is on: the named one, the only one, or the one on which the guest shows it.
pub(super) fn nic_of<'a>(seen: &'a Observed, ip: IpAddr, named: Option<&str>) -> Result<&'a Nic, Obstacle> {
    if let Some(name) = named {
        return nic(seen, name);
    }
    let nics = match &seen.nics {
        Known::Is(nics) => nics,
        Known::Not(why) => return Err(unknown("NIC", why)),
    };
    let mut showing = nics.iter().filter(|nic| nic.addresses.contains(&ip));
    match (nics.as_slice(), showing.next(), showing.next()) {
        ([only], _, _) => Ok(only),
        (_, Some(nic), None) => Ok(nic),
        (_, first, _) => Err(Obstacle {
            when: When::Impossible,
            reason: match first {
                Some(_) => format!("the guest shows {ip} on several NICs"),
                None => format!("the guest does not show which of its NICs {ip} is on"),
            },
            way_out: format!("name the NIC, as --ip {ip}@NIC=...: {}", listed(nics.iter().map(names_of_nic))),
        }),
    }
}

fn names_of_disk(disk: &Disk) -> Vec<&str> {
    let guest = disk.guest.known().map(|guest| guest.device.as_str());
    let short = guest.and_then(|device| device.strip_prefix("/dev/"));
    let aliases = disk.aliases.iter().map(String::as_str);
    [disk.name.as_str()].into_iter().chain(aliases).chain(guest).chain(short).collect()
}

fn names_of_nic(nic: &Nic) -> Vec<&str> {
    let aliases = nic.aliases.iter().map(String::as_str);
    [nic.name.as_str()].into_iter().chain(aliases).chain(nic.tap.as_deref()).collect()
}

/// A thing's own name goes before all others of others.
fn find<'a, T>(
    known: &'a Known<Vec<T>>,
    name: &str,
    kind: &str,
    names: impl Fn(&'a T) -> (&'a String, Vec<&'a str>),
) -> Result<&'a T, Obstacle> {
    let things = match known {
        Known::Is(things) => things,
        Known::Not(why) => return Err(unknown(kind, why)),
    };
    if let Some(own) = things.iter().find(|thing| names(thing).0 == name) {
        return Ok(own);
    }
    let mut called = things.iter().filter(|thing| names(thing).1.contains(&name));
    match (called.next(), called.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Obstacle {
            when: When::Impossible,
            reason: format!("several {kind}s are called {name}"),
            way_out: format!("use another name: {}", listed(things.iter().map(|thing| names(thing).1))),
        }),
        (None, _) => Err(Obstacle {
            when: When::Impossible,
            reason: format!("the machine has no {kind} {name}"),
            way_out: match things.is_empty() {
                true => format!("it has no {kind} at all"),
                false => format!("it has {}", listed(things.iter().map(|thing| names(thing).1))),
            },
        }),
    }
}

/// `vda (virtio-disk0, /dev/vda), vdb`.
fn listed<'a>(things: impl Iterator<Item = Vec<&'a str>>) -> String {
    let each = things.map(|names| {
        let mut others: Vec<&str> = names[1..].to_vec();
        others.dedup();
        others.retain(|other| *other != names[0]);
        if others.is_empty() { names[0].to_owned() } else { format!("{} ({})", names[0], others.join(", ")) }
    });
    each.collect::<Vec<_>>().join(", ")
}

/// What is not known cannot be changed.
pub(super) fn unknown(what: &str, why: &str) -> Obstacle {
    Obstacle {
        when: When::NotNow,
        reason: format!("the machine's {what}s are not known: {why}"),
        way_out: "see to that, or leave the option away".to_owned(),
    }
}
