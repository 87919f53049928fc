//! Traffic control and devices as netlink messages: what the kernel tells becomes values of `tc`, changes become
//! messages. Numbers are those of include/uapi/linux/{rtnetlink,if_link,pkt_sched,pkt_cls}.h.

use super::layout::{QDISC, REST, prio, protocol};
use super::netlink::{Answer, Attrs, Message, flag, u32_at};
use super::plan::Sorter;
use super::tc::{Class, Filter, Handle, Htb, Key, Link, Qdisc, Verdict};

mod kind {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DEL_LINK: u16 = 17;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_QDISC: u16 = 36;
    pub(super) const DEL_QDISC: u16 = 37;
    pub(super) const GET_QDISC: u16 = 38;
    pub(super) const NEW_CLASS: u16 = 40;
    pub(super) const DEL_CLASS: u16 = 41;
    pub(super) const GET_CLASS: u16 = 42;
    pub(super) const NEW_FILTER: u16 = 44;
    pub(super) const DEL_FILTER: u16 = 45;
    pub(super) const GET_FILTER: u16 = 46;
}

/// Of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
const NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const ALIAS: u16 = 20;
const EXT_MASK: u16 = 29;
const SKIP_STATS: u32 = 1 << 3;
const UP: u32 = 1;

/// Of `struct tcmsg`.
const TC_HEADER: usize = 20;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const HTB_PARMS: u16 = 1;
const HTB_INIT: u16 = 2;
const HTB_RATE64: u16 = 6;
const HTB_CEIL64: u16 = 7;
const U32_CLASS: u16 = 1;
const U32_SELECTOR: u16 = 5;
const U32_ACTIONS: u16 = 7;
/// The fixed part of `struct tc_u32_sel`, before its keys of 16 bytes each.
const SELECTOR: usize = 16;
const TERMINAL: u8 = 1;
const ACTION_PARMS: u16 = 2;
const REDIRECT: u32 = 1;
/// `TC_ACT_*`.
const SHOT: i32 = 2;
const PIPE: i32 = 3;
const STOLEN: i32 = 4;
const UNSPEC: i32 = -1;

pub(super) fn links() -> Message {
    Message::new(kind::GET_LINK, 0).fixed(&[0; LINK_HEADER]).attr(EXT_MASK, &SKIP_STATS.to_ne_bytes())
}

pub(super) fn link_named(name: &str) -> Message {
    let message = Message::new(kind::GET_LINK, 0).fixed(&[0; LINK_HEADER]);
    message.text(NAME, name).attr(EXT_MASK, &SKIP_STATS.to_ne_bytes())
}

pub(super) fn qdiscs(link: u32) -> Message {
    Message::new(kind::GET_QDISC, 0).fixed(&tc_header(link, 0, Handle::from_raw(0), 0))
}

pub(super) fn classes(link: u32) -> Message {
    Message::new(kind::GET_CLASS, 0).fixed(&tc_header(link, 0, Handle::from_raw(0), 0))
}

pub(super) fn filters(link: u32, parent: Handle) -> Message {
    Message::new(kind::GET_FILTER, 0).fixed(&tc_header(link, 0, parent, 0))
}

/// A new `ifb` with this name; it is down.
pub(super) fn add_ifb(name: &str) -> Message {
    let message = Message::new(kind::NEW_LINK, flag::CREATE | flag::EXCLUSIVE).fixed(&[0; LINK_HEADER]);
    message.text(NAME, name).nest(LINK_INFO, |info| info.text(1, "ifb"))
}

/// Brings a device up and says what it is for.
pub(super) fn raise(link: u32, alias: &str) -> Message {
    let header = link_header(link, UP);
    Message::new(kind::NEW_LINK, 0).fixed(&header).text(ALIAS, alias)
}

pub(super) fn remove_link(link: u32) -> Message {
    Message::new(kind::DEL_LINK, 0).fixed(&link_header(link, 0))
}

/// Our discipline as the outermost one. What the kernel chose by itself has no name and is replaced in any case; what has
/// one only where that is said, so that what another made meanwhile is not.
pub(super) fn add_root(link: u32, replaces: bool) -> Message {
    let header = tc_header(link, QDISC.raw(), Handle::ROOT, 0);
    let mut init = [0; 20];
    // Its version, and the quantum's divisor, which no class of ours uses.
    init[0..4].copy_from_slice(&3u32.to_ne_bytes());
    init[4..8].copy_from_slice(&10u32.to_ne_bytes());
    init[8..12].copy_from_slice(&u32::from(REST.minor()).to_ne_bytes());
    let flags = flag::CREATE | if replaces { flag::REPLACE } else { flag::EXCLUSIVE };
    let message = Message::new(kind::NEW_QDISC, flags).fixed(&header).text(KIND, "htb");
    message.nest(OPTIONS, |options| options.attr(HTB_INIT, &init))
}

pub(super) fn remove_root(link: u32) -> Message {
    let header = tc_header(link, QDISC.raw(), Handle::ROOT, 0);
    Message::new(kind::DEL_QDISC, 0).fixed(&header).text(KIND, "htb")
}

pub(super) fn class(link: u32, class: &Class, is_new: bool) -> Message {
    let flags = if is_new { flag::CREATE | flag::EXCLUSIVE } else { 0 };
    let Htb { rate, ceil, buffer, cbuffer, quantum } = class.htb;
    let mut parms = Vec::with_capacity(44);
    for rate in [rate, ceil] {
        // `struct tc_ratespec` with the link layer Ethernet: then the kernel needs no rate table
        // (htb_change_class, net/sched/sch_htb.c, 6.1).
        parms.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        parms.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    }
    for number in [buffer, cbuffer, quantum, 0, 0] {
        parms.extend(number.to_ne_bytes());
    }
    let header = tc_header(link, class.handle.raw(), class.parent, 0);
    Message::new(kind::NEW_CLASS, flags).fixed(&header).text(KIND, "htb").nest(OPTIONS, |mut options| {
        for (kind, rate) in [(HTB_RATE64, rate), (HTB_CEIL64, ceil)] {
            if u32::try_from(rate).is_err() {
                options = options.attr(kind, &rate.to_ne_bytes());
            }
        }
        options.attr(HTB_PARMS, &parms)
    })
}

pub(super) fn remove_class(link: u32, class: Handle) -> Message {
    let header = tc_header(link, class.raw(), Handle::from_raw(0), 0);
    Message::new(kind::DEL_CLASS, 0).fixed(&header)
}

pub(super) fn fair_queue(link: u32, class: Handle) -> Message {
    let header = tc_header(link, 0, class, 0);
    Message::new(kind::NEW_QDISC, flag::CREATE | flag::EXCLUSIVE).fixed(&header).text(KIND, "fq_codel")
}

/// A queue of so many bytes; `handle` names the one to resize.
pub(super) fn plain_queue(link: u32, class: Handle, handle: Option<Handle>, limit: u32) -> Message {
    let flags = if handle.is_none() { flag::CREATE | flag::EXCLUSIVE } else { 0 };
    let header = tc_header(link, handle.map_or(0, Handle::raw), class, 0);
    let message = Message::new(kind::NEW_QDISC, flags).fixed(&header);
    message.text(KIND, "bfifo").attr(OPTIONS, &limit.to_ne_bytes())
}

pub(super) fn add_hook(link: u32) -> Message {
    let header = tc_header(link, 0xffff_0000, Handle::HOOK, 0);
    Message::new(kind::NEW_QDISC, flag::CREATE | flag::EXCLUSIVE).fixed(&header).text(KIND, "clsact")
}

pub(super) fn add_sorter(link: u32, sorter: &Sorter) -> Message {
    let selector = selector(&sorter.keys);
    new_filter(link, QDISC, sorter.prio, sorter.protocol).nest(OPTIONS, |options| {
        options.attr(U32_CLASS, &sorter.flow.raw().to_ne_bytes()).attr(U32_SELECTOR, &selector)
    })
}

/// Sends all that a device receives to another, in place of its own way.
pub(super) fn add_redirect(link: u32, to: u32) -> Message {
    let selector = selector(&[Key { mask: 0, value: 0, at: 0 }]);
    // `struct tc_mirred`.
    let mut parms = Vec::with_capacity(28);
    for number in [0, 0, STOLEN.cast_unsigned(), 0, 0, REDIRECT, to] {
        parms.extend(number.to_ne_bytes());
    }
    new_filter(link, Handle::INGRESS, prio::REDIRECT, protocol::ALL).nest(OPTIONS, |options| {
        options.attr(U32_SELECTOR, &selector).nest(U32_ACTIONS, |actions| {
            actions.nest(1, |action| {
                action.text(KIND, "mirred").nest(OPTIONS, |options| options.attr(ACTION_PARMS, &parms))
            })
        })
    })
}

pub(super) fn remove_filter(link: u32, parent: Handle, prio: u16, protocol: u16, handle: u32) -> Message {
    let header = tc_header(link, handle, parent, filter_info(prio, protocol));
    Message::new(kind::DEL_FILTER, 0).fixed(&header).text(KIND, "u32")
}

fn new_filter(link: u32, parent: Handle, prio: u16, protocol: u16) -> Message {
    let header = tc_header(link, 0, parent, filter_info(prio, protocol));
    Message::new(kind::NEW_FILTER, flag::CREATE | flag::EXCLUSIVE).fixed(&header).text(KIND, "u32")
}

fn filter_info(prio: u16, protocol: u16) -> u32 {
    u32::from(prio) << 16 | u32::from(protocol.to_be())
}

fn selector(keys: &[Key]) -> Vec<u8> {
    let mut bytes = vec![0; SELECTOR];
    bytes[0] = TERMINAL;
    bytes[2] = u8::try_from(keys.len()).expect("a filter of ours has few keys");
    for key in keys {
        bytes.extend(key.mask.to_be_bytes());
        bytes.extend(key.value.to_be_bytes());
        bytes.extend(key.at.to_ne_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

fn tc_header(link: u32, handle: u32, parent: Handle, info: u32) -> [u8; TC_HEADER] {
    let mut bytes = [0; TC_HEADER];
    for (at, number) in [(4, link), (8, handle), (12, parent.raw()), (16, info)] {
        bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

fn link_header(link: u32, up: u32) -> [u8; LINK_HEADER] {
    let mut bytes = [0; LINK_HEADER];
    for (at, number) in [(4, link), (8, up), (12, up)] {
        bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

/// Reads a device.
pub(super) fn read_link(answer: &Answer) -> Option<Link> {
    let attrs = Attrs(answer.content.get(LINK_HEADER..)?);
    Some(Link {
        index: u32_at(&answer.content, 4)?,
        name: attrs.text(NAME)?,
        kind: attrs.within(LINK_INFO).text(1),
        up: u32_at(&answer.content, 8)? & UP != 0,
    })
}

/// The fixed part of what is told of traffic control, and its attributes.
struct Told<'a> {
    link: u32,
    handle: u32,
    parent: Handle,
    info: u32,
    attrs: Attrs<'a>,
}

fn told(answer: &Answer) -> Option<Told<'_>> {
    let number = |at| u32_at(&answer.content, at);
    Some(Told {
        link: number(4)?,
        handle: number(8)?,
        parent: Handle::from_raw(number(12)?),
        info: number(16)?,
        attrs: Attrs(answer.content.get(TC_HEADER..)?),
    })
}

/// Reads a discipline of the device.
pub(super) fn read_qdisc(answer: &Answer, link: u32) -> Option<Qdisc> {
    let told = told(answer).filter(|told| told.link == link && answer.kind == kind::NEW_QDISC)?;
    let kind = told.attrs.text(KIND)?;
    let options = told.attrs.get(OPTIONS).unwrap_or_default();
    let init = Attrs(options).get(HTB_INIT).filter(|_| kind == "htb");
    let default = init.and_then(|init| u16::try_from(u32_at(init, 8)?).ok());
    let limit = u32_at(options, 0).filter(|_| kind == "bfifo");
    Some(Qdisc { handle: Handle::from_raw(told.handle), parent: told.parent, kind, default, limit })
}

/// Reads a class of an HTB of the device.
pub(super) fn read_class(answer: &Answer, link: u32) -> Option<Class> {
    let told = told(answer).filter(|told| told.link == link && answer.kind == kind::NEW_CLASS)?;
    if told.attrs.text(KIND)? != "htb" {
        return None;
    }
    let options = told.attrs.within(OPTIONS);
    let parms = options.get(HTB_PARMS)?;
    let rate = |at: usize, wide: u16| {
        let wide = options.get(wide).and_then(|bytes| Some(u64::from_ne_bytes(bytes.try_into().ok()?)));
        wide.or_else(|| u32_at(parms, at).map(u64::from))
    };
    let htb = Htb {
        rate: rate(8, HTB_RATE64)?,
        ceil: rate(20, HTB_CEIL64)?,
        buffer: u32_at(parms, 24)?,
        cbuffer: u32_at(parms, 28)?,
        quantum: u32_at(parms, 32)?,
    };
    // A class right below its discipline is told with the root as its parent (htb_dump_class, 6.1).
    let handle = Handle::from_raw(told.handle);
    let parent = if told.parent == Handle::ROOT { Handle::new(handle.major(), 0) } else { told.parent };
    Some(Class { handle, parent, htb })
}

/// Reads a filter of the device; nothing for the tables that the kernel lists between filters.
pub(super) fn read_filter(answer: &Answer, link: u32) -> Option<Filter> {
    let told = told(answer).filter(|told| told.link == link && answer.kind == kind::NEW_FILTER)?;
    let kind = told.attrs.text(KIND)?;
    let options = told.attrs.within(OPTIONS);
    // The list of a priority itself comes first, and of `u32` its hash tables do.
    if told.handle == 0 || kind == "u32" && options.get(U32_SELECTOR).is_none() {
        return None;
    }
    let actions = match kind.as_str() {
        "u32" => Some(U32_ACTIONS),
        "flower" | "basic" => Some(3),
        "matchall" => Some(2),
        "fw" => Some(4),
        "bpf" => Some(1),
        _ => None,
    };
    let actions = actions.and_then(|actions| options.get(actions)).map(Attrs);
    let is_u32 = kind == "u32";
    Some(Filter {
        parent: told.parent,
        prio: u16::try_from(told.info >> 16).ok()?,
        protocol: u16::from_be(u16::try_from(told.info & 0xffff).ok()?),
        handle: told.handle,
        keys: options.get(U32_SELECTOR).filter(|_| is_u32).map(read_keys).unwrap_or_default(),
        flow: options.number(U32_CLASS).filter(|_| is_u32).map(Handle::from_raw),
        redirect: actions.and_then(redirect),
        verdict: actions.map_or(Verdict::Decides, verdict),
        kind,
    })
}

fn read_keys(selector: &[u8]) -> Vec<Key> {
    let keys = selector.get(SELECTOR..).unwrap_or_default().chunks_exact(16);
    let word = |key: &[u8], at: usize| u32_at(key, at).unwrap_or(0);
    keys.map(|key| Key {
        mask: u32::from_be(word(key, 0)),
        value: u32::from_be(word(key, 4)),
        at: word(key, 8).cast_signed(),
    })
    .collect()
}

/// The device that the only action redirects to.
fn redirect(mut actions: Attrs<'_>) -> Option<u32> {
    let (_, action) = actions.next()?;
    let parms = Attrs(action).within(OPTIONS).get(ACTION_PARMS)?;
    let is_redirect = Attrs(action).text(KIND)? == "mirred" && u32_at(parms, 20)? == REDIRECT;
    if is_redirect && actions.next().is_none() { u32_at(parms, 24) } else { None }
}

/// What becomes of a packet after all actions; a kind of action that is not known may do anything.
fn verdict(actions: Attrs<'_>) -> Verdict {
    let mut last = None;
    for (_, action) in actions {
        if !matches!(last, None | Some(PIPE)) {
            return Verdict::Decides;
        }
        let is_known = Attrs(action).text(KIND).is_some_and(|kind| kind == "gact" || kind == "mirred");
        let parms = Attrs(action).within(OPTIONS).get(ACTION_PARMS).filter(|_| is_known);
        let Some(control) = parms.and_then(|parms| u32_at(parms, 8)) else { return Verdict::Decides };
        last = Some(control.cast_signed());
    }
    match last {
        Some(SHOT) => Verdict::Drops,
        Some(UNSPEC) => Verdict::GoesOn,
        _ => Verdict::Decides,
    }
}
