//! What hangs at a tap besides libvirt's own. libvirt removes the outermost discipline and the place of filters before it
//! lays out a limit (virNetDevBandwidthClear, src/util/virnetdevbandwidth.c, 9.0 and 11.3), and with them whatever
//! hangs there. Pure.

use std::fmt;

use super::layout::{QDISC, protocol};
use super::tc::{Filter, Handle, Qdisc, Tc};

/// One thing that hangs at a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hanging {
    device: String,
    what: String,
}

impl fmt::Display for Hanging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.what, self.device)
    }
}

/// libvirt's own discipline.
const LIBVIRT: Handle = Handle::new(1, 0);

/// The first thing that is not libvirt's.
pub(super) fn libvirt(device: &str, tc: &Tc) -> Option<Hanging> {
    let hanging = |what: String| Hanging { device: device.to_owned(), what };
    let root = tc.root().filter(|root| !is_root(root));
    let filter = |filter: &Filter| format!("a {} filter of priority {}", filter.kind, filter.prio);
    match root {
        Some(root) if root.handle == QDISC => {
            return Some(hanging(format!("Supple's limits of single addresses ({} {QDISC})", root.kind)));
        }
        Some(root) => return Some(hanging(format!("{} {}", root.kind, root.handle))),
        None => {}
    }
    // By a mark it sorts what comes from the network's own limit; what anyone receives it polices by one filter.
    let below = tc.filters.iter().filter(|filter| filter.kind != "fw");
    let before = tc.ingress.iter().filter(|filter| !is_police(filter));
    below.chain(before).chain(&tc.egress).next().map(|one| hanging(filter(one)))
}

fn is_root(root: &Qdisc) -> bool {
    root.kind == "htb" && root.handle == LIBVIRT
}

/// `u32 match u32 0 0 police ... flowid :1`, of all protocols.
fn is_police(filter: &Filter) -> bool {
    filter.kind == "u32"
        && filter.protocol == protocol::ALL
        && filter.flow == Some(Handle::new(0, 1))
        && filter.keys.iter().all(|key| key.mask == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tc::{Key, Verdict};

    fn root(kind: &str, handle: Handle) -> Tc {
        let qdisc =
            Qdisc { handle, parent: Handle::ROOT, kind: kind.to_owned(), default: Some(1), limit: None };
        Tc { qdiscs: vec![qdisc], ..Tc::default() }
    }

    fn filter(kind: &str, prio: u16, flow: Option<Handle>) -> Filter {
        let keys = vec![Key { mask: 0, value: 0, at: 0 }];
        let (parent, kind, verdict) = (Handle::INGRESS, kind.to_owned(), Verdict::Decides);
        Filter { parent, prio, protocol: protocol::ALL, handle: 1, kind, keys, flow, redirect: None, verdict }
    }

    fn said(tc: &Tc) -> Option<String> {
        libvirt("vnet0", tc).map(|hanging| hanging.to_string())
    }

    #[test]
    fn what_is_libvirts_own_or_the_kernels_is_nobody_elses() {
        let mut tc = root("htb", LIBVIRT);
        tc.filters = vec![filter("fw", 1, None)];
        tc.ingress = vec![filter("u32", 49152, Some(Handle::new(0, 1)))];
        assert_eq!(said(&tc), None);
        assert_eq!(said(&root("fq_codel", Handle::new(0, 0))), None);
        assert_eq!(said(&Tc::default()), None);
    }

    #[test]
    fn what_is_anyone_elses_is_named() {
        let ours = said(&root("htb", QDISC)).unwrap_or_default();
        assert!(ours.contains("single addresses") && ours.ends_with("on vnet0"), "{ours}");
        assert_eq!(said(&root("tbf", Handle::new(1, 0))).as_deref(), Some("tbf 1: on vnet0"));
        let mirror = filter("u32", 100, None);
        for tc in [
            Tc { ingress: vec![mirror.clone()], ..Tc::default() },
            Tc { egress: vec![mirror.clone()], ..Tc::default() },
            Tc { filters: vec![mirror], ..root("htb", LIBVIRT) },
        ] {
            assert_eq!(said(&tc).as_deref(), Some("a u32 filter of priority 100 on vnet0"));
        }
    }
}
