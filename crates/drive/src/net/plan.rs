//! From what hangs at a tap to the rates that are wanted: the changes, in order. Pure, and the same from any half-done
//! state, so that running it again is how anything is repaired.
//!
//! Held at every moment: what is limited before and after is limited between; each limit is changed in place. What is
//! not ours stays as it is, and where it stands in the way, that is the answer.

use core::net::IpAddr;
use std::fmt;

use scale::setting::Rate;

use super::layout::{
    self, End, MOST_IPS, NEIGHBOURS, NIC, QDISC, REST, Side, TapRates, is_own_class, is_own_filter,
    is_own_root, keys, neighbour_filters, place, prio, protocol, read_keys, read_side, slot, unfit,
};
use super::tc::{Filter, Handle, Htb, Key, Link, Tc, Verdict};

/// All that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) tap: Link,
    pub(super) tc: Tc,
    /// The device that what the tap receives goes through, if there is one.
    pub(super) ifb: Option<(Link, Tc)>,
}

/// One of the two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    /// The tap: what it sends is what the guest receives.
    Tap,
    /// Ours: what the guest sends passes it.
    Ifb,
}

/// One change of the kernel's state. Each is one message to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    AddIfb,
    RaiseIfb,
    RemoveIfb,
    /// The outermost discipline; true where it is to take the place of a `noqueue` that someone put there.
    AddRoot(Device, bool),
    RemoveRoot(Device),
    AddClass(Device, Handle, Handle, Htb),
    /// In place.
    TuneClass(Device, Handle, Handle, Htb),
    RemoveClass(Device, Handle),
    /// A class's own queue: a fair one where the kernel has it, else one of so many bytes.
    AddQueue(Device, Handle, u32),
    /// In place.
    ResizeQueue(Device, Handle, Handle, u32),
    AddFilter(Device, Sorter),
    /// Where it hangs, its priority, its protocol and its number; the number 0 is for all of that priority.
    RemoveFilter(Device, Handle, u16, u16, u32),
    /// A place for filters of what the tap receives.
    AddHook,
    /// Sends what the tap receives through our device.
    AddRedirect,
}

/// A filter of ours that gives a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sorter {
    pub(super) prio: u16,
    pub(super) protocol: u16,
    pub(super) keys: Vec<Key>,
    pub(super) flow: Handle,
}

/// Why rates cannot be set. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Clash {
    /// Someone else queues there.
    #[error(
        "{device} is queued by {kind} {handle}, which is not Supple's and would be lost; take it away \
         (tc qdisc del dev {device} root), or leave this limit to whoever set it"
    )]
    Root {
        /// The device.
        device: String,
        /// What queues.
        kind: String,
        /// Its name.
        handle: String,
    },
    /// Someone else's filter takes packets out of the limit's sight.
    #[error(
        "what {device} receives is filtered by a {kind} of priority {prio} that is not Supple's, and what that lets \
         through would pass the limit; take it away (tc filter del dev {device} ingress prio {prio}), or end its \
         actions with `continue`"
    )]
    Ingress {
        /// The device.
        device: String,
        /// What filters.
        kind: String,
        /// Its priority.
        prio: u16,
    },
    /// A rate that cannot be laid out.
    #[error("{0}")]
    Unfit(String),
    /// More addresses than there is room for.
    #[error("limits of single addresses: {0} on one NIC, and there is room for {MOST_IPS}")]
    TooMany(usize),
}

/// The rates that act at a tap.
pub(super) fn read(present: &Present) -> TapRates {
    let to = read_side(&present.tc, End::Destination);
    let free = Side { end: End::Source, nic: None, ips: Vec::new() };
    let from = match &present.ifb {
        Some((link, tc)) if redirects(present).any(|filter| filter.redirect == Some(link.index)) => {
            read_side(tc, End::Source)
        }
        _ => free,
    };
    let mut rates = TapRates::default();
    (rates.nic.to_guest, rates.nic.from_guest) = (to.nic, from.nic);
    for (ip, rate) in to.ips {
        let both = rates.ip(ip);
        rates = rates.with_ip(ip, scale::setting::NicRate { to_guest: Some(rate), ..both });
    }
    for (ip, rate) in from.ips {
        let both = rates.ip(ip);
        rates = rates.with_ip(ip, scale::setting::NicRate { from_guest: Some(rate), ..both });
    }
    rates
}

/// The changes that lead to the rates.
pub(super) fn plan(wanted: &TapRates, present: &Present) -> Result<Vec<Change>, Clash> {
    let (to, from) = (Side::of(wanted, End::Destination), Side::of(wanted, End::Source));
    for side in [&to, &from] {
        let rates = side.nic.iter().chain(side.ips.iter().map(|(_, rate)| rate));
        if let Some(why) = rates.into_iter().find_map(unfit) {
            return Err(Clash::Unfit(why));
        }
        if side.ips.len() > MOST_IPS {
            return Err(Clash::TooMany(side.ips.len()));
        }
    }
    let mut changes = Plan { device: Device::Tap, tc: &present.tc, changes: Vec::new() };
    changes.side(&to, &present.tap.name)?;
    let mut all = changes.changes;
    all.extend(from_guest(&from, present)?);
    Ok(all)
}

fn from_guest(side: &Side, present: &Present) -> Result<Vec<Change>, Clash> {
    let nothing = Tc::default();
    let (link, tc) = match &present.ifb {
        Some((link, tc)) => (Some(link), tc),
        None => (None, &nothing),
    };
    let is_ours = |filter: &Filter| link.is_some_and(|link| filter.redirect == Some(link.index));
    let mut plan = Plan { device: Device::Ifb, tc, changes: Vec::new() };
    if side.is_free() {
        // First the way to it, so that no packet goes nowhere.
        plan.forget(Device::Tap, Some(&present.tc.ingress), redirects(present).collect());
        if link.is_some() {
            plan.changes.push(Change::RemoveIfb);
        }
        return Ok(plan.changes);
    }
    let others = present.tc.ingress.iter().filter(|filter| !is_redirect(filter, present));
    if let Some(other) = others.into_iter().find(|filter| filter.verdict == Verdict::Decides) {
        let (device, kind) = (present.tap.name.clone(), other.kind.clone());
        return Err(Clash::Ingress { device, kind, prio: other.prio });
    }
    if link.is_none() {
        plan.changes.push(Change::AddIfb);
    }
    plan.side(side, "the device for what the guest sends")?;
    if !link.is_some_and(|link| link.up) {
        plan.changes.push(Change::RaiseIfb);
    }
    if !present.tc.has_hook() {
        plan.changes.push(Change::AddHook);
    }
    if !redirects(present).any(is_ours) {
        plan.changes.push(Change::AddRedirect);
    }
    plan.forget(Device::Tap, None, redirects(present).filter(|filter| !is_ours(filter)).collect());
    Ok(plan.changes)
}

/// Our filters that send what the tap receives to a device of ours, or to one that is gone.
fn redirects(present: &Present) -> impl Iterator<Item = &Filter> {
    present.tc.ingress.iter().filter(|filter| is_redirect(filter, present))
}

fn is_redirect(filter: &Filter, present: &Present) -> bool {
    let ifb = present.ifb.as_ref().map(|(link, _)| link.index);
    // A redirect to a device that is gone has no device's number any more (`mirred_device_event`,
    // net/sched/act_mirred.c, 6.1).
    let gone = filter.redirect == Some(0);
    filter.kind == "u32"
        && (filter.prio, filter.protocol) == (prio::REDIRECT, protocol::ALL)
        && filter.redirect.is_some()
        && (gone || filter.redirect == ifb)
}

/// The changes of one device.
struct Plan<'a> {
    device: Device,
    tc: &'a Tc,
    changes: Vec<Change>,
}

impl Plan<'_> {
    fn side(&mut self, side: &Side, device: &str) -> Result<(), Clash> {
        let root = self.tc.root();
        let ours = root.is_some_and(is_own_root);
        if side.is_free() && !ours {
            return Ok(());
        }
        match root {
            Some(root) if !ours => {
                let (kind, handle) = (root.kind.clone(), root.handle.to_string());
                return Err(Clash::Root { device: device.to_owned(), kind, handle });
            }
            None => self.changes.push(Change::AddRoot(self.device, self.tc.has_noqueue())),
            Some(_) if side.is_free() && !self.has_guests() => {
                self.changes.push(Change::RemoveRoot(self.device));
                return Ok(());
            }
            Some(_) => {}
        }
        self.class(NIC, QDISC, layout::nic(side.nic));
        self.class(REST, NIC, layout::rest());
        self.queue(REST, layout::queue([side.nic]));
        self.class(NEIGHBOURS, NIC, layout::neighbours());
        self.queue(NEIGHBOURS, layout::queue([Some(layout::NEIGHBOURS_RATE)]));
        for (prio, protocol, keys) in neighbour_filters() {
            self.sorter(prio, protocol, keys, NEIGHBOURS);
        }
        self.addresses(side);
        Ok(())
    }

    /// Whether others have put something into our discipline.
    fn has_guests(&self) -> bool {
        let class = self.tc.classes.iter().any(|class| !is_own_class(class.handle));
        class || self.tc.filters.iter().any(|filter| filter.parent == QDISC && !is_own_filter(filter))
    }

    fn addresses(&mut self, side: &Side) {
        let tc = self.tc;
        let mut used: Vec<usize> = Vec::new();
        let mut gone: Vec<&Filter> = Vec::new();
        let mut new: Vec<(IpAddr, Rate)> = side.ips.clone();
        for filter in tc.filters.iter().filter(|filter| filter.parent == QDISC && is_own_filter(filter)) {
            let Some(ip) = read_keys(filter, side.end) else { continue };
            let at = new.iter().position(|(other, _)| *other == ip);
            match (at, filter.flow.and_then(place)) {
                (Some(at), Some(place)) if !used.contains(&place) => {
                    let (_, rate) = new.remove(at);
                    self.address(place, &rate, side.nic);
                    used.push(place);
                }
                _ => gone.push(filter),
            }
        }
        // What these held is to be free, so their places are free too.
        self.forget(self.device, Some(&tc.filters), gone);
        for (ip, rate) in new {
            let free = (0..MOST_IPS).find(|place| !used.contains(place));
            let place = free.expect("no more addresses than places were let in");
            used.push(place);
            self.address(place, &rate, side.nic);
            let (prio, protocol, keys) = keys(ip, side.end);
            self.sorter(prio, protocol, keys, slot(place).1);
        }
        // The inner class first: one with a class in it stays.
        for (outer, inner) in (0..MOST_IPS).filter(|place| !used.contains(place)).map(slot) {
            for class in [inner, outer].into_iter().filter(|class| tc.class(*class).is_some()) {
                self.changes.push(Change::RemoveClass(self.device, class));
            }
        }
    }

    fn address(&mut self, place: usize, rate: &Rate, nic: Option<Rate>) {
        let (outer, inner) = slot(place);
        let (above, below) = layout::address(rate);
        self.class(outer, NIC, above);
        self.class(inner, outer, below);
        self.queue(inner, layout::queue([nic, Some(*rate)]));
    }

    fn class(&mut self, handle: Handle, parent: Handle, htb: Htb) {
        match self.tc.class(handle) {
            None => self.changes.push(Change::AddClass(self.device, handle, parent, htb)),
            Some(class) if class.htb != htb => {
                self.changes.push(Change::TuneClass(self.device, handle, parent, htb));
            }
            Some(_) => {}
        }
    }

    fn queue(&mut self, class: Handle, limit: u32) {
        match self.tc.queue(class) {
            None => self.changes.push(Change::AddQueue(self.device, class, limit)),
            Some(queue) if queue.kind == "bfifo" && queue.limit != Some(limit) => {
                self.changes.push(Change::ResizeQueue(self.device, class, queue.handle, limit));
            }
            Some(_) => {}
        }
    }

    fn sorter(&mut self, prio: u16, protocol: u16, keys: Vec<Key>, flow: Handle) {
        let is_it = |filter: &&Filter| {
            filter.parent == QDISC
                && (filter.prio, filter.protocol, filter.flow) == (prio, protocol, Some(flow))
                && filter.keys == keys
        };
        if !self.tc.filters.iter().any(|filter| is_it(&filter)) {
            self.changes.push(Change::AddFilter(self.device, Sorter { prio, protocol, keys, flow }));
        }
    }

    /// Removes some filters. Where `all` of that place are told, those that leave a priority empty go with the priority
    /// itself: the kernel keeps the empty table of a `u32` while another `u32` hangs there (`u32_delete`,
    /// net/sched/cls_u32.c, 6.1).
    fn forget(&mut self, device: Device, all: Option<&[Filter]>, mut gone: Vec<&Filter>) {
        while let Some(first) = gone.first() {
            let Filter { parent, prio, protocol, handle, .. } = **first;
            let same =
                |other: &Filter| (other.parent, other.prio, other.protocol) == (parent, prio, protocol);
            let is_all = all
                .is_some_and(|all| all.iter().filter(|other| same(other)).all(|other| gone.contains(&other)));
            let handle = if is_all { 0 } else { handle };
            self.changes.push(Change::RemoveFilter(device, parent, prio, protocol, handle));
            gone.retain(|other| if is_all { !same(other) } else { other.handle != handle || !same(other) });
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::AddIfb => write!(f, "add the device for what the guest sends (ifb)"),
            Change::RaiseIfb => write!(f, "bring up the device for what the guest sends"),
            Change::RemoveIfb => write!(f, "remove the device for what the guest sends"),
            Change::AddRoot(device, _) => write!(f, "queue {device} by htb {QDISC}"),
            Change::RemoveRoot(device) => write!(f, "give {device} back to its default queue"),
            Change::AddClass(device, class, ..) => write!(f, "add class {class} on {device}"),
            Change::TuneClass(device, class, ..) => write!(f, "change class {class} on {device}"),
            Change::RemoveClass(device, class) => write!(f, "remove class {class} on {device}"),
            Change::AddQueue(device, class, _) => write!(f, "add a queue for class {class} on {device}"),
            Change::ResizeQueue(device, class, ..) => {
                write!(f, "resize the queue of class {class} on {device}")
            }
            Change::AddFilter(device, to) => write!(f, "add a u32 filter to class {} on {device}", to.flow),
            Change::RemoveFilter(device, _, prio, ..) => {
                write!(f, "remove a filter of priority {prio:#x} on {device}")
            }
            Change::AddHook => write!(f, "make a place (clsact) for filters of what the tap receives"),
            Change::AddRedirect => write!(f, "redirect (u32, mirred) what the tap receives"),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Tap => "the tap",
            Device::Ifb => "the tap's ifb",
        })
    }
}

#[cfg(test)]
mod tests;
