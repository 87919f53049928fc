//! Plans against a kernel in memory: any rates to any rates, interrupted anywhere, with what others have put there.

use std::collections::BTreeMap;

use proptest::prelude::*;
use scale::setting::{BitRate, NicRate};
use scale::units::Bytes;

use super::*;
use crate::net::tc::{Class, Qdisc};

/// What the kernel would make of each change. It refuses what the kernel refuses.
#[derive(Debug, Clone)]
struct World {
    present: Present,
    next: u32,
}

const TAP: u32 = 7;
const IFB: u32 = 8;

impl World {
    fn new() -> World {
        let tap = Link { index: TAP, name: "tap0".into(), kind: Some("tun".into()), up: true };
        World { present: Present { tap, tc: Tc::default(), ifb: None }, next: 0x8000_0001 }
    }

    fn tc(&mut self, device: Device) -> &mut Tc {
        match device {
            Device::Tap => &mut self.present.tc,
            Device::Ifb => &mut self.present.ifb.as_mut().expect("there is an ifb").1,
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::AddIfb => {
                assert!(self.present.ifb.is_none());
                let link = Link { index: IFB, name: "supple-7".into(), kind: Some("ifb".into()), up: false };
                self.present.ifb = Some((link, Tc::default()));
            }
            Change::RaiseIfb => self.present.ifb.as_mut().expect("there is an ifb").0.up = true,
            Change::RemoveIfb => {
                self.present.ifb.take().expect("there is an ifb");
                let lost = self.present.tc.ingress.iter_mut().filter(|one| one.redirect == Some(IFB));
                lost.for_each(|filter| filter.redirect = Some(0));
            }
            Change::AddRoot(device, replaces) => {
                let tc = self.tc(device);
                assert!(tc.root().is_none() && replaces == tc.has_noqueue());
                tc.qdiscs.retain(|qdisc| qdisc.kind != "noqueue");
                let (kind, default) = ("htb".to_owned(), Some(REST.minor()));
                let root = Qdisc { handle: QDISC, parent: Handle::ROOT, kind, default, limit: None };
                self.tc(device).qdiscs.push(root);
            }
            Change::RemoveRoot(device) => {
                assert!(self.tc(device).root().is_some_and(is_own_root));
                let tc = self.tc(device);
                tc.qdiscs.retain(|one| one.parent == Handle::HOOK);
                (tc.classes, tc.filters) = (Vec::new(), Vec::new());
            }
            Change::AddHook => {
                assert!(!self.present.tc.has_hook());
                let (kind, handle) = ("clsact".to_owned(), Handle::new(0xffff, 0));
                let hook = Qdisc { handle, parent: Handle::HOOK, kind, default: None, limit: None };
                self.present.tc.qdiscs.push(hook);
            }
            Change::AddRedirect => {
                let handle = self.number();
                assert!(self.present.tc.has_hook());
                let ifb = self.present.ifb.as_ref().expect("there is an ifb");
                assert!(ifb.0.up, "a device that is down loses what it gets");
                let at = Handle::INGRESS;
                let filter = filter(at, prio::REDIRECT, protocol::ALL, vec![], None, Some(IFB));
                self.present.tc.ingress.push(Filter { handle, ..filter });
            }
            below @ (Change::AddClass(..)
            | Change::TuneClass(..)
            | Change::RemoveClass(..)
            | Change::AddQueue(..)
            | Change::ResizeQueue(..)
            | Change::AddFilter(..)
            | Change::RemoveFilter(..)) => self.apply_below(below),
        }
    }

    /// Classes, their queues, and filters.
    fn apply_below(&mut self, change: Change) {
        match change.clone() {
            Change::AddClass(device, handle, parent, htb) => {
                let tc = self.tc(device);
                assert!(tc.class(handle).is_none() && tc.root().is_some_and(is_own_root));
                assert!(parent == QDISC || tc.class(parent).is_some());
                tc.classes.push(Class { handle, parent, htb });
            }
            Change::TuneClass(device, handle, parent, htb) => {
                let class = self.tc(device).classes.iter_mut().find(|class| class.handle == handle);
                let class = class.expect("there is such a class");
                assert_eq!(class.parent, parent);
                class.htb = htb;
            }
            Change::RemoveClass(device, class) => {
                let tc = self.tc(device);
                assert!(!tc.classes.iter().any(|other| other.parent == class), "{class} has classes in it");
                assert!(!tc.filters.iter().any(|one| one.flow == Some(class)), "{class} has filters to it");
                tc.classes.retain(|other| other.handle != class);
                tc.qdiscs.retain(|queue| queue.parent != class);
            }
            Change::AddQueue(device, class, limit) => {
                let handle = Handle::from_raw(self.number());
                let tc = self.tc(device);
                assert!(tc.class(class).is_some() && tc.queue(class).is_none());
                let (kind, limit) = ("bfifo".to_owned(), Some(limit));
                tc.qdiscs.push(Qdisc { handle, parent: class, kind, default: None, limit });
            }
            Change::ResizeQueue(device, class, handle, limit) => {
                let queue = self.tc(device).qdiscs.iter_mut().find(|one| one.handle == handle);
                let queue = queue.expect("there is such a queue");
                assert_eq!(queue.parent, class);
                queue.limit = Some(limit);
            }
            Change::AddFilter(device, Sorter { prio, protocol, keys, flow }) => {
                let handle = self.number();
                assert!(self.tc(device).class(flow).is_some());
                let filter = filter(QDISC, prio, protocol, keys, Some(flow), None);
                self.tc(device).filters.push(Filter { handle, ..filter });
            }
            Change::RemoveFilter(device, parent, prio, protocol, handle) => {
                let tc = self.tc(device);
                let list = if parent == QDISC { &mut tc.filters } else { &mut tc.ingress };
                let before = list.len();
                let is_it = |one: &Filter| {
                    (one.prio, one.protocol) == (prio, protocol) && (handle == 0 || one.handle == handle)
                };
                list.retain(|one| !is_it(one));
                assert!(list.len() < before && (handle == 0 || list.len() + 1 == before));
            }
            Change::AddIfb
            | Change::RaiseIfb
            | Change::RemoveIfb
            | Change::AddRoot(..)
            | Change::RemoveRoot(_)
            | Change::AddHook
            | Change::AddRedirect => unreachable!("{change} is carried out above"),
        }
    }

    /// Plans and carries out, with `each` after every change.
    fn reach(&mut self, wanted: &TapRates, mut each: impl FnMut(&World)) {
        for change in plan(wanted, &self.present).expect("a plan") {
            self.apply(&change);
            each(self);
        }
    }
}

fn filter(
    parent: Handle,
    prio: u16,
    protocol: u16,
    keys: Vec<Key>,
    flow: Option<Handle>,
    redirect: Option<u32>,
) -> Filter {
    let (kind, verdict) = ("u32".to_owned(), Verdict::Decides);
    Filter { parent, prio, protocol, handle: 0, kind, keys, flow, redirect, verdict }
}

fn rate(mbit: u64, peak: Option<u64>) -> Rate {
    let burst = Some(Rate::usual_burst(BitRate::mbit(mbit)));
    Rate { average: BitRate::mbit(mbit), peak: peak.map(|more| BitRate::mbit(mbit + more)), burst }
}

fn rates() -> impl Strategy<Value = TapRates> {
    let rate = (1..2000u64, prop::option::of(0..2000u64)).prop_map(|(mbit, peak)| rate(mbit, peak));
    let side = prop::option::of(rate);
    let nic = (side.clone(), side).prop_map(|(to_guest, from_guest)| NicRate { to_guest, from_guest });
    // Few addresses, so that those of two rates meet.
    let ip = prop_oneof![
        (0..6u32).prop_map(|n| IpAddr::V4((0x0a00_0000 + n).into())),
        (0..6u128).prop_map(|n| IpAddr::V6((0xfd00 << 112 | n).into())),
    ];
    let ips = prop::collection::btree_map(ip, nic.clone(), 0..6);
    (nic, ips).prop_map(|(nic, ips): (NicRate, BTreeMap<IpAddr, NicRate>)| {
        ips.into_iter().fold(TapRates { nic, ..TapRates::default() }, |all, (ip, rate)| all.with_ip(ip, rate))
    })
}

/// True where each limit of `wanted` is read back, and no other.
fn shows(wanted: &TapRates, read: &TapRates) -> bool {
    let ips = wanted.ips.len() == read.ips.len()
        && wanted.ips.iter().zip(&read.ips).all(|(a, b)| a.ip == b.ip && a.rate.is_shown_by(&b.rate));
    ips && wanted.nic.is_shown_by(&read.nic)
}

/// Each limit that both have is the one or the other's, average by average: no moment is without.
fn is_between(before: &TapRates, after: &TapRates, now: &TapRates) -> Result<(), String> {
    let pairs = [(before.nic, after.nic, now.nic, "the NIC".to_owned())]
        .into_iter()
        .chain(before.ips.iter().map(|one| (one.rate, after.ip(one.ip), now.ip(one.ip), one.ip.to_string())));
    for (before, after, now, what) in pairs {
        let sides = [
            (before.to_guest, after.to_guest, now.to_guest),
            (before.from_guest, after.from_guest, now.from_guest),
        ];
        for (before, after, now) in sides {
            let (Some(before), Some(after)) = (before, after) else { continue };
            let Some(now) = now else { return Err(format!("{what} is without a limit")) };
            if now.average != before.average && now.average != after.average {
                return Err(format!("{what} is at {now} between {before} and {after}"));
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_rates_follow_any_rates_and_no_moment_is_without(first in rates(), second in rates()) {
        let mut world = World::new();
        world.reach(&first, |_| {});
        prop_assert!(shows(&first, &read(&world.present)), "{:?}", read(&world.present));
        prop_assert_eq!(plan(&first, &world.present), Ok(vec![]), "what is there is not done again");
        let mut torn = Ok(());
        world.reach(&second, |world| {
            torn = torn.clone().and(is_between(&first, &second, &read(&world.present)));
        });
        prop_assert_eq!(torn, Ok(()));
        prop_assert!(shows(&second, &read(&world.present)), "{:?}", read(&world.present));
        prop_assert_eq!(plan(&second, &world.present), Ok(vec![]));
        prop_assert_eq!(world.present.ifb.is_some(), !Side::of(&second, End::Source).is_free());
    }

    #[test]
    fn whoever_dies_midway_is_followed_by_one_that_ends_right(
        first in rates(), second in rates(), third in rates(), at in 0..60usize,
    ) {
        let mut world = World::new();
        world.reach(&first, |_| {});
        for change in plan(&second, &world.present).expect("a plan").iter().take(at) {
            world.apply(change);
        }
        world.reach(&third, |_| {});
        prop_assert!(shows(&third, &read(&world.present)), "{:?}", read(&world.present));
        prop_assert_eq!(plan(&third, &world.present), Ok(vec![]));
    }

    #[test]
    fn what_others_put_there_stays(first in rates(), second in rates()) {
        let mut world = World::new();
        let (kind, handle) = ("ingress".to_owned(), Handle::new(0xffff, 0));
        let hook = Qdisc { handle, parent: Handle::HOOK, kind, default: None, limit: None };
        world.present.tc.qdiscs.push(hook.clone());
        let theirs = filter(Handle::INGRESS, 49152, protocol::IPV4, vec![], None, None);
        let theirs = Filter { verdict: Verdict::Drops, handle: 5, ..theirs };
        world.present.tc.ingress.push(theirs.clone());
        world.reach(&first, |_| {});
        let inside = Filter { handle: 6, prio: 9, ..filter(QDISC, 9, protocol::IPV4, vec![], Some(REST), None) };
        let stands = !Side::of(&first, End::Destination).is_free();
        if stands {
            world.present.tc.filters.push(inside.clone());
        }
        for wanted in [&second, &TapRates::default()] {
            world.reach(wanted, |_| {});
            prop_assert!(shows(wanted, &read(&world.present)));
            prop_assert!(world.present.tc.ingress.contains(&theirs));
            prop_assert!(world.present.tc.qdiscs.contains(&hook));
            prop_assert_eq!(world.present.tc.filters.contains(&inside), stands);
        }
        prop_assert!(world.present.ifb.is_none());
    }
}

fn nic(to_guest: Option<Rate>, from_guest: Option<Rate>) -> TapRates {
    TapRates { nic: NicRate { to_guest, from_guest }, ips: Vec::new() }
}

#[test]
fn a_foreign_discipline_is_refused_and_only_where_it_stands_in_the_way() {
    let mut world = World::new();
    let (kind, handle) = ("htb".to_owned(), Handle::new(1, 0));
    let root = Qdisc { handle, parent: Handle::ROOT, kind, default: Some(1), limit: None };
    world.present.tc.qdiscs.push(root.clone());
    let clash = plan(&nic(Some(rate(20, None)), None), &world.present);
    assert!(
        matches!(&clash, Err(Clash::Root { kind, handle, .. }) if kind == "htb" && handle == "1:"),
        "{clash:?}"
    );
    world.reach(&nic(None, Some(rate(20, None))), |_| {});
    world.reach(&TapRates::default(), |_| {});
    assert!(world.present.tc.qdiscs.contains(&root));
}

#[test]
fn no_queue_is_nobodys_limit() {
    let mut world = World::new();
    let (kind, handle) = ("noqueue".to_owned(), Handle::new(0x803d, 0));
    let root = Qdisc { handle, parent: Handle::ROOT, kind, default: None, limit: None };
    world.present.tc.qdiscs.push(root);
    let wanted = nic(Some(rate(20, None)), None);
    world.reach(&wanted, |_| {});
    assert!(shows(&wanted, &read(&world.present)));
}

#[test]
fn a_discipline_of_our_number_that_is_laid_out_otherwise_is_foreign() {
    let mut world = World::new();
    let kind = "htb".to_owned();
    let root = Qdisc { handle: QDISC, parent: Handle::ROOT, kind, default: Some(0x30), limit: None };
    world.present.tc.qdiscs.push(root);
    assert!(matches!(plan(&nic(Some(rate(20, None)), None), &world.present), Err(Clash::Root { .. })));
}

#[test]
fn a_filter_that_lets_packets_past_the_limit_is_refused() {
    for (verdict, refused) in [(Verdict::Decides, true), (Verdict::GoesOn, false), (Verdict::Drops, false)] {
        let mut world = World::new();
        let theirs = filter(Handle::INGRESS, 49152, protocol::ALL, vec![], None, Some(99));
        world.present.tc.ingress.push(Filter { verdict, ..theirs });
        let limited = plan(&nic(None, Some(rate(20, None))), &world.present);
        assert_eq!(matches!(limited, Err(Clash::Ingress { prio: 49152, .. })), refused, "{limited:?}");
        assert!(
            plan(&nic(Some(rate(20, None)), None), &world.present).is_ok(),
            "it is not in this one's way"
        );
    }
}

#[test]
fn a_redirect_to_nowhere_is_no_limit_and_is_mended_without_a_gap() {
    let mut world = World::new();
    let wanted = nic(None, Some(rate(20, None)));
    world.reach(&wanted, |_| {});
    world.apply(&Change::RemoveIfb);
    assert!(read(&world.present).is_free());
    world.reach(&wanted, |world| assert!(!world.present.tc.ingress.is_empty(), "someone always holds it"));
    assert!(shows(&wanted, &read(&world.present)));
    assert_eq!(world.present.tc.ingress.len(), 1);
}

#[test]
fn places_of_addresses_that_go_are_taken_by_those_that_come() {
    let all = |from: u32| {
        let ips = (from..from + 256).map(|n| IpAddr::V4(n.into()));
        let one = NicRate { to_guest: Some(rate(5, None)), from_guest: None };
        ips.fold(TapRates::default(), |rates, ip| rates.with_ip(ip, one))
    };
    let mut world = World::new();
    world.reach(&all(0x0a00_0000), |_| {});
    world.reach(&all(0x0a00_0080), |_| {});
    assert!(shows(&all(0x0a00_0080), &read(&world.present)));
    let one = NicRate { to_guest: Some(rate(5, None)), from_guest: None };
    let more = all(0x0a00_0000).with_ip("fd00::1".parse().unwrap(), one);
    assert_eq!(plan(&more, &world.present), Err(Clash::TooMany(257)));
}

#[test]
fn a_rate_that_cannot_be_counted_changes_nothing() {
    let odd = Rate { average: BitRate::new(1001), peak: None, burst: Some(Bytes::new(4096)) };
    assert!(matches!(plan(&nic(Some(odd), None), &World::new().present), Err(Clash::Unfit(_))));
}
