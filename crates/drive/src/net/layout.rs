//! How rates are laid out on a device, both ways: rates to classes and filters, and back. Pure.
//!
//! ```text
//! 5ca1:  htb, the device's outermost discipline; what no filter takes goes to 5ca1:2
//! └─ 5ca1:1      the NIC: rate = average, ceil = peak
//!    ├─ 5ca1:2       all traffic without a limit of its own
//!    ├─ 5ca1:3       ARP and neighbour discovery: a small rate of their own, which never waits for the NIC's
//!    ├─ 5ca1:100     an address: ceil = average
//!    │  └─ 5ca1:101      its queue: ceil = peak
//!    └─ 5ca1:102     the next address
//!       └─ 5ca1:103
//! ```
//! An HTB class sends up to its `rate` whatever stands above it (`htb_class_mode`, net/sched/sch_htb.c, 6.1), so an
//! address's class has next to none: it borrows all it sends from the NIC, and is held to both.

use core::net::IpAddr;

use scale::observed::IpRate;
use scale::setting::{BitRate, NicRate, Rate};
use scale::units::Bytes;

use super::tc::{Filter, Handle, Htb, Key, Qdisc, Tc};

/// The rates at one tap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TapRates {
    /// Those of the NIC.
    pub nic: NicRate,
    /// Those of single addresses, in ascending order, each once and none without a limit.
    pub ips: Vec<IpRate>,
}

impl TapRates {
    /// True where nothing is limited.
    pub fn is_free(&self) -> bool {
        self.nic.is_free() && self.ips.is_empty()
    }

    /// The same with another limit for one address.
    #[must_use]
    pub fn with_ip(mut self, ip: IpAddr, rate: NicRate) -> TapRates {
        self.ips.retain(|other| other.ip != ip);
        if !rate.is_free() {
            self.ips.push(IpRate { ip, rate });
            self.ips.sort_by_key(|other| other.ip);
        }
        self
    }

    /// The limit of one address; a free one where it has none.
    pub fn ip(&self, ip: IpAddr) -> NicRate {
        self.ips.iter().find(|other| other.ip == ip).map(|other| other.rate).unwrap_or_default()
    }
}

/// One direction of a tap: what is to be held on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Side {
    pub(super) end: End,
    pub(super) nic: Option<Rate>,
    pub(super) ips: Vec<(IpAddr, Rate)>,
}

impl Side {
    pub(super) fn of(rates: &TapRates, end: End) -> Side {
        let pick = |rate: &NicRate| match end {
            End::Destination => rate.to_guest,
            End::Source => rate.from_guest,
        };
        let ips = rates.ips.iter().filter_map(|one| Some((one.ip, pick(&one.rate)?))).collect();
        Side { end, nic: pick(&rates.nic), ips }
    }

    pub(super) fn is_free(&self) -> bool {
        self.nic.is_none() && self.ips.is_empty()
    }
}

/// Which end of a packet is the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// What the guest receives.
    Destination,
    /// What the guest sends.
    Source,
}

/// Our disciplines' number.
pub(super) const MAJOR: u16 = 0x5ca1;
pub(super) const QDISC: Handle = Handle::new(MAJOR, 0);
pub(super) const NIC: Handle = Handle::new(MAJOR, 1);
pub(super) const REST: Handle = Handle::new(MAJOR, 2);
pub(super) const NEIGHBOURS: Handle = Handle::new(MAJOR, 3);
/// The first address's class; each has two.
const FIRST: u16 = 0x100;
/// So many addresses of one NIC have a limit at most.
pub(super) const MOST_IPS: usize = 256;

/// Our filters' priorities in our discipline.
pub(super) mod prio {
    pub(in crate::net) const ARP: u16 = 0x5ca0;
    pub(in crate::net) const DISCOVERY: u16 = 0x5ca1;
    pub(in crate::net) const IPV4: u16 = 0x5ca2;
    pub(in crate::net) const IPV6: u16 = 0x5ca3;
    /// The last of all: whatever others filter of what the tap receives comes before.
    pub(in crate::net) const REDIRECT: u16 = 0xffff;
}

/// EtherTypes (include/uapi/linux/if_ether.h).
pub(super) mod protocol {
    pub(in crate::net) const ALL: u16 = 0x0003;
    pub(in crate::net) const IPV4: u16 = 0x0800;
    pub(in crate::net) const ARP: u16 = 0x0806;
    pub(in crate::net) const IPV6: u16 = 0x86dd;
}

/// Bytes a second that stand for "no limit": 8 Tbit.
const FREE: u64 = 1_000_000_000_000;
/// Bytes a second that a class has by itself where it is to borrow: the kernel takes no zero.
const TRICKLE: u64 = 1;
/// A class's turn: nearly the largest packet there is, so that turns are even.
const QUANTUM: u32 = 60_000;
/// What ARP and neighbour discovery may take: some five hundred packets a second.
pub(super) const NEIGHBOURS_RATE: Rate =
    Rate { average: BitRate::kbit(256), peak: None, burst: Some(Bytes::new(16 << 10)) };

/// The class of an address and its queue's, by the address's place.
pub(super) fn slot(place: usize) -> (Handle, Handle) {
    let first = FIRST + 2 * u16::try_from(place).expect("places are below MOST_IPS");
    (Handle::new(MAJOR, first), Handle::new(MAJOR, first + 1))
}

/// The place of a class of an address, of either of its two.
pub(super) fn place(class: Handle) -> Option<usize> {
    let number = class.minor().checked_sub(FIRST).filter(|_| class.major() == MAJOR)?;
    Some(usize::from(number) / 2).filter(|place| *place < MOST_IPS)
}

/// True for a discipline that only we make.
pub(super) fn is_own_root(root: &Qdisc) -> bool {
    root.kind == "htb" && root.handle == QDISC && root.default == Some(REST.minor())
}

/// True for a class that only we make.
pub(super) fn is_own_class(class: Handle) -> bool {
    [NIC, REST, NEIGHBOURS].contains(&class) || place(class).is_some()
}

/// True for a filter in our discipline that only we make.
pub(super) fn is_own_filter(filter: &Filter) -> bool {
    let ours = [prio::ARP, prio::DISCOVERY, prio::IPV4, prio::IPV6];
    filter.kind == "u32" && ours.contains(&filter.prio)
}

/// The NIC's class.
pub(super) fn nic(rate: Option<Rate>) -> Htb {
    let Some(rate) = rate else { return Htb { rate: FREE, ceil: FREE, ..borrowing() } };
    let (average, burst) = (bytes(rate.average), burst(&rate));
    let buffer = ticks(burst, average);
    let (ceil, cbuffer) = peak(&rate, buffer);
    Htb { rate: average, ceil, buffer, cbuffer, quantum: QUANTUM }
}

/// The class of what has no limit of its own.
pub(super) fn rest() -> Htb {
    borrowing()
}

/// The class of ARP and neighbour discovery.
pub(super) fn neighbours() -> Htb {
    nic(Some(NEIGHBOURS_RATE))
}

/// The two classes of an address.
pub(super) fn address(rate: &Rate) -> (Htb, Htb) {
    let average = bytes(rate.average);
    let cbuffer = ticks(burst(rate), average);
    let outer = Htb { ceil: average, cbuffer, ..borrowing() };
    let (ceil, cbuffer) = peak(rate, cbuffer);
    (outer, Htb { ceil, cbuffer, ..borrowing() })
}

fn borrowing() -> Htb {
    /// A millisecond of no limit.
    const BUFFER: u32 = 15_625;
    Htb { rate: TRICKLE, ceil: FREE, buffer: BUFFER, cbuffer: BUFFER, quantum: QUANTUM }
}

/// The second bucket: the peak's, or the first again, which says that there is no peak.
fn peak(rate: &Rate, buffer: u32) -> (u64, u32) {
    /// What passes at once at the peak at least, so that timers that are late by some milliseconds take nothing.
    const SPURT: u64 = 16 << 10;
    let Some(peak) = rate.peak.map(bytes) else { return (bytes(rate.average), buffer) };
    let spurt = (peak / 100).max(SPURT).min(burst(rate) / 2);
    (peak, ticks(spurt, peak))
}

/// Reads the NIC's class back.
pub(super) fn read_nic(htb: &Htb) -> Option<Rate> {
    (htb.rate < FREE).then(|| read(htb.rate, htb.buffer, htb.ceil, htb.cbuffer))
}

/// Reads the two classes of an address back.
pub(super) fn read_address(outer: &Htb, inner: &Htb) -> Rate {
    read(outer.ceil, outer.cbuffer, inner.ceil, inner.cbuffer)
}

fn read(average: u64, buffer: u32, ceil: u64, cbuffer: u32) -> Rate {
    let peak = ((ceil, cbuffer) != (average, buffer)).then(|| bits(ceil));
    Rate { average: bits(average), peak, burst: Some(Bytes::new(size(buffer, average))) }
}

/// The bytes that a class's queue holds where it has no fair one: what passes in 100 ms, within reason.
pub(super) fn queue(rates: impl IntoIterator<Item = Option<Rate>>) -> u32 {
    const LEAST: u64 = 128 << 10;
    const MOST: u64 = 16 << 20;
    let slowest = rates.into_iter().flatten().map(|rate| bytes(rate.peak.unwrap_or(rate.average))).min();
    u32::try_from(slowest.map_or(MOST, |rate| (rate / 10).clamp(LEAST, MOST))).expect("below 16 MiB")
}

/// What the filter of an address compares, and for which EtherType.
pub(super) fn keys(ip: IpAddr, end: End) -> (u16, u16, Vec<Key>) {
    let whole = |value: u32, at: i32| Key { mask: u32::MAX, value, at };
    match ip {
        IpAddr::V4(ip) => {
            let at = if end == End::Source { 12 } else { 16 };
            (prio::IPV4, protocol::IPV4, vec![whole(ip.to_bits(), at)])
        }
        IpAddr::V6(ip) => {
            let start = if end == End::Source { 8 } else { 24 };
            let word = |number: u8| (ip.to_bits() >> (96 - 32 * u32::from(number))) as u32;
            let keys = (0..4).map(|number| whole(word(number), start + 4 * i32::from(number))).collect();
            (prio::IPV6, protocol::IPV6, keys)
        }
    }
}

/// The address that a filter of ours is about.
pub(super) fn read_keys(filter: &Filter, end: End) -> Option<IpAddr> {
    let words: Vec<u32> = filter.keys.iter().map(|key| key.value).collect();
    let ip = match (filter.prio, words.as_slice()) {
        (prio::IPV4, [word]) => IpAddr::V4((*word).into()),
        (prio::IPV6, words @ [_, _, _, _]) => {
            let bits = words.iter().fold(0, |bits: u128, word| bits << 32 | u128::from(*word));
            IpAddr::V6(bits.into())
        }
        _ => return None,
    };
    (keys(ip, end).2 == filter.keys).then_some(ip)
}

/// The filters of ARP and neighbour discovery: ICMPv6 of the types 133 to 137 (RFC 4861), directly behind the header.
pub(super) fn neighbour_filters() -> Vec<(u16, u16, Vec<Key>)> {
    // With a hop limit of 255, which no router lets through.
    let icmp = Key { mask: 0x0000_ffff, value: 58 << 8 | 255, at: 4 };
    // 133..=135 and 136..=137 as bits; 132, which the first also takes, ends a multicast report.
    let kinds = [(0xfc, 0x84), (0xfe, 0x88)];
    let discovery = kinds.map(|(mask, value): (u32, u32)| {
        let kind = Key { mask: mask << 24, value: value << 24, at: 40 };
        (prio::DISCOVERY, protocol::IPV6, vec![icmp, kind])
    });
    let arp = (prio::ARP, protocol::ARP, vec![Key { mask: 0, value: 0, at: 0 }]);
    [arp].into_iter().chain(discovery).collect()
}

/// What is held on a device in one direction.
pub(super) fn read_side(tc: &Tc, end: End) -> Side {
    let ours = tc.root().is_some_and(is_own_root);
    let nic = tc.class(NIC).filter(|_| ours).and_then(|class| read_nic(&class.htb));
    let mut ips: Vec<(IpAddr, Rate)> = Vec::new();
    for filter in tc.filters.iter().filter(|filter| ours && filter.parent == QDISC) {
        let Some(ip) = read_keys(filter, end).filter(|ip| !ips.iter().any(|(other, _)| other == ip)) else {
            continue;
        };
        let Some((outer, inner)) = filter.flow.and_then(place).map(slot) else { continue };
        if let (Some(outer), Some(inner)) = (tc.class(outer), tc.class(inner)) {
            ips.push((ip, read_address(&outer.htb, &inner.htb)));
        }
    }
    ips.sort_by_key(|(ip, _)| *ip);
    Side { end, nic, ips }
}

/// Why a rate cannot be laid out.
pub(super) fn unfit(rate: &Rate) -> Option<String> {
    let step = BitRate::new(8);
    let most = BitRate::new(FREE * 8 - 8);
    let rates = [Some(rate.average), rate.peak];
    if rates.iter().flatten().any(|one| *one < step || !one.is_multiple_of(step) || *one > most) {
        return Some(format!("{rate} is not a whole number of bytes a second between {step} and {most}"));
    }
    if rate.peak.is_some_and(|peak| peak < rate.average) {
        return Some(format!("the peak of {rate} is below its average"));
    }
    // A bucket's size is kept as time in 32 bits: 274 s.
    let time = u128::from(burst(rate)) * 1_000_000_000 / u128::from(bytes(rate.average)) / TICK;
    (time > u128::from(u32::MAX))
        .then(|| format!("at {} a burst of {} takes more than 274 s", rate.average, Bytes::new(burst(rate))))
}

/// Nanoseconds of a tick.
const TICK: u128 = 64;

fn burst(rate: &Rate) -> u64 {
    rate.burst.unwrap_or_else(|| Rate::usual_burst(rate.average)).get().max(2)
}

fn bytes(rate: BitRate) -> u64 {
    rate.get() / 8
}

fn bits(bytes: u64) -> BitRate {
    BitRate::new(bytes.saturating_mul(8))
}

/// The ticks that a rate takes for a size, rounded up.
fn ticks(size: u64, rate: u64) -> u32 {
    let time = (u128::from(size) * 1_000_000_000).div_ceil(u128::from(rate) * TICK);
    u32::try_from(time).unwrap_or(u32::MAX).max(1)
}

/// The size that a rate passes in ticks.
fn size(ticks: u32, rate: u64) -> u64 {
    let size = u128::from(ticks) * TICK * u128::from(rate) / 1_000_000_000;
    u64::try_from(size).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
