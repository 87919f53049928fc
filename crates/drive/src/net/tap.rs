//! Which tap is whose: QEMU says which of its NICs has which back-end, and the host which device that is. A tap's name
//! is used again after its machine is gone, so it is looked up each time. Nothing is changed.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

/// The most open files of a process that are looked at.
const MOST_FILES: usize = 65_536;

/// A NIC of QEMU's and what it is connected to, from `info network`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    /// The NIC: its device's id, or a name that QEMU made.
    pub(crate) nic: String,
    /// Its model, such as `virtio-net-pci`.
    pub(crate) model: String,
    /// The address that it uses now; the guest may have changed it.
    pub(crate) mac: String,
    /// The id of what it is connected to.
    pub(crate) netdev: String,
    /// How its tap can be found.
    pub(crate) via: Via,
}

/// How a tap can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Via {
    /// By its name, which QEMU opened.
    Name(String),
    /// By a descriptor that QEMU was given.
    Descriptor(u32),
    /// QEMU was given it by a helper and does not tell.
    Helper,
    /// It is no tap but this.
    No(String),
}

/// Reads `info network`: a line for each NIC, and below it one for what it is connected to
/// (`hmp_info_network`, net/net.c, 7.2 and 10.0). Of several queues the first counts.
pub(crate) fn connected(text: &str) -> Vec<Connected> {
    let mut found: Vec<Connected> = Vec::new();
    let mut nic: Option<(String, String, String)> = None;
    for line in text.lines() {
        let Some((name, rest)) = line.trim_start_matches([' ', '\\']).split_once(": index=") else {
            continue;
        };
        let mut words = rest.trim_end().split(',');
        let is_first = words.next() == Some("0");
        let members: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
        let member = |key: &str| members.iter().find(|(found, _)| *found == key).map(|(_, value)| *value);
        let Some(kind) = member("type").filter(|_| is_first) else {
            nic = None;
            continue;
        };
        if !line.starts_with(' ') {
            let of = |key| member(key).unwrap_or_default().to_owned();
            nic = (kind == "nic").then(|| (name.to_owned(), of("model"), of("macaddr")));
            continue;
        }
        let Some((nic, model, mac)) = nic.take() else { continue };
        let via = match (kind, member("ifname"), member("fd").and_then(|fd| fd.parse().ok())) {
            ("tap", Some(name), _) => Via::Name(name.to_owned()),
            ("tap", _, Some(fd)) => Via::Descriptor(fd),
            ("tap", None, None) => Via::Helper,
            (other, _, _) => Via::No(other.to_owned()),
        };
        found.push(Connected { nic, model, mac, netdev: name.to_owned(), via });
    }
    found
}

/// The name of a NIC's tap in our network namespace, or why there is none. `pid` is QEMU's process; `others` are the
/// ways of its other NICs.
pub(crate) fn name(via: &Via, pid: Option<u32>, others: &[&Via]) -> Result<String, String> {
    if let Via::No(kind) = via {
        return Err(format!("the NIC is connected by {kind}, and only a tap's traffic can be limited here"));
    }
    let Some(pid) = pid else {
        return Err(
            "QEMU's process is not one of this host's that can be told, so its tap cannot be".to_owned()
        );
    };
    same_network(pid)?;
    let held = held(pid);
    match via {
        Via::No(_) => unreachable!("answered above"),
        Via::Name(name) => match held {
            // Who may not look may not set limits either.
            Err(ErrorKind::PermissionDenied) => Ok(name.clone()),
            Ok(held) if !held.contains(name) => {
                Err(format!("QEMU names the tap {name} and does not hold it: it was renamed or made anew"))
            }
            Ok(_) => Ok(name.clone()),
            Err(error) => Err(format!("QEMU's open files cannot be looked at: {error}")),
        },
        Via::Descriptor(number) => match tun(pid, *number) {
            Ok(Some(name)) => Ok(name),
            Ok(None) => Err(format!("QEMU's file {number}, which the NIC sends to, is no tap (a macvtap?)")),
            Err(error) => {
                Err(format!("QEMU's file {number}, which the NIC sends to, cannot be looked at: {error}"))
            }
        },
        Via::Helper => {
            let mut left = held.map_err(|error| format!("QEMU's open files cannot be looked at: {error}"))?;
            for other in others {
                match other {
                    Via::Name(name) => drop(left.remove(name)),
                    Via::Descriptor(number) => {
                        if let Ok(Some(name)) = tun(pid, *number) {
                            left.remove(&name);
                        }
                    }
                    Via::Helper | Via::No(_) => {}
                }
            }
            let mut left = left.into_iter();
            match (left.next(), left.next(), others.contains(&&Via::Helper)) {
                (Some(only), None, false) => Ok(only),
                _ => {
                    Err("a helper opened the tap, and QEMU does not tell which of its taps this is"
                        .to_owned())
                }
            }
        }
    }
}

/// A name means a device only in the namespace that it is from.
fn same_network(pid: u32) -> Result<(), String> {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
    match (network("thread-self"), network(&pid.to_string())) {
        (Ok(own), Ok(its)) if own != its => Err(format!(
            "QEMU runs in another network namespace, and limits of its taps are set there: \
             nsenter --target {pid} --net supple ..."
        )),
        // Who may not look there may not set limits either.
        _ => Ok(()),
    }
}

/// The names of all taps that a process holds.
fn held(pid: u32) -> Result<BTreeSet<String>, ErrorKind> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo")).map_err(|error| error.kind())?;
    let numbers = files.take(MOST_FILES).filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.filter_map(|number| tun(pid, number).ok()?).collect())
}

/// The tap that a descriptor of a process is, if it is one: `tun_chr_show_fdinfo` (drivers/net/tun.c, 3.18) tells.
fn tun(pid: u32, number: u32) -> Result<Option<String>, ErrorKind> {
    let told = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).map_err(|error| error.kind())?;
    let name = told.lines().find_map(|line| line.strip_prefix("iff:")).map(str::trim);
    Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:aa:00:01\r\n \
         \\ n0: index=0,type=tap,ifname=tapA,script=no,downscript=no\r\n\
         nic0: index=1,type=nic,\r\n \\ n0: index=1,type=tap,ifname=tapA,script=no,downscript=no\r\n\
         e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:aa:00:02\r\n \\ hostnet1: index=0,type=tap,fd=27\r\n\
         net2: index=0,type=nic,model=e1000,macaddr=52:54:00:aa:00:03\r\n \\ n2: index=0,type=user,net=10.0.2.0,restrict=off\r\n\
         net3: index=0,type=nic,model=e1000,macaddr=52:54:00:aa:00:04\r\n \\ n3: index=0,type=tap,helper=/usr/lib/bridge,br=br0\r\n\
         lonely: index=0,type=nic,model=e1000,macaddr=52:54:00:aa:00:05\r\n\
         unused: index=0,type=tap,ifname=tapZ,script=no,downscript=no\r\n";

    #[test]
    fn each_nic_has_what_it_is_connected_to() {
        let found = connected(TOLD);
        let told: Vec<_> =
            found.iter().map(|one| (one.nic.as_str(), one.netdev.as_str(), &one.via)).collect();
        assert_eq!(
            told,
            [
                ("nic0", "n0", &Via::Name("tapA".into())),
                ("e1000.0", "hostnet1", &Via::Descriptor(27)),
                ("net2", "n2", &Via::No("user".into())),
                ("net3", "n3", &Via::Helper),
            ]
        );
        assert_eq!((found[0].model.as_str(), found[0].mac.as_str()), ("virtio-net-pci", "52:54:00:aa:00:01"));
    }

    #[test]
    fn whatever_is_told_in_place_of_that_harms_nothing() {
        for end in 0..TOLD.len() {
            connected(&TOLD[..end]);
            connected(&TOLD[end..]);
        }
        assert_eq!(connected(": index=0,type=nic\n \\ : index=0,type=tap\n").len(), 1);
    }

    #[test]
    fn what_is_no_tap_or_nobodys_has_a_reason() {
        let no = Via::No("user".to_owned());
        assert!(name(&no, Some(1), &[]).is_err_and(|why| why.contains("by user")));
        let tap = Via::Name("tapA".to_owned());
        assert!(name(&tap, None, &[]).is_err_and(|why| why.contains("process")));
        let own = Some(std::process::id());
        assert!(name(&tap, own, &[]).is_err_and(|why| why.contains("does not hold it")));
        assert!(name(&Via::Helper, own, &[]).is_err_and(|why| why.contains("helper")));
    }
}
