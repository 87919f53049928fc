//! What the kernel's traffic control tells of one network device, as values: queueing disciplines, classes, filters.
//! Only what Supple lays out or must not harm is told apart. Nothing is asked or changed here.

use std::fmt;

/// The name of a queueing discipline or class: a major and a minor number, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Handle(u32);

impl Handle {
    /// The parent of a device's outermost discipline (`TC_H_ROOT`).
    pub(super) const ROOT: Handle = Handle(0xffff_ffff);
    /// Where what a device receives can be filtered, by `clsact` and by `ingress` (`TC_H_CLSACT`, `TC_H_MIN_INGRESS`).
    pub(super) const INGRESS: Handle = Handle(0xffff_fff2);
    /// Where what a device sends can be filtered, by `clsact` (`TC_H_MIN_EGRESS`).
    pub(super) const EGRESS: Handle = Handle(0xffff_fff3);
    /// The parent of `clsact` and `ingress` themselves (`TC_H_INGRESS`).
    pub(super) const HOOK: Handle = Handle(0xffff_fff1);

    /// `major:minor`.
    pub(super) const fn new(major: u16, minor: u16) -> Handle {
        Handle((major as u32) << 16 | minor as u32)
    }

    /// As the kernel writes it.
    pub(super) const fn from_raw(raw: u32) -> Handle {
        Handle(raw)
    }

    /// As the kernel writes it.
    pub(super) const fn raw(self) -> u32 {
        self.0
    }

    /// The first number.
    pub(super) const fn major(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The second number.
    pub(super) const fn minor(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor() {
            0 => write!(f, "{:x}:", self.major()),
            minor => write!(f, "{:x}:{minor:x}", self.major()),
        }
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number, unique in its network namespace.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// What made it, such as `tun` or `ifb`; nothing for hardware.
    pub(super) kind: Option<String>,
    /// Whether it is up.
    pub(super) up: bool,
}

/// A queueing discipline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Qdisc {
    /// Its name; zero for what the kernel chose by itself.
    pub(super) handle: Handle,
    /// The class that it queues for, or where it hangs.
    pub(super) parent: Handle,
    /// `htb`, `fq_codel`, ...
    pub(super) kind: String,
    /// The class that takes what no filter takes, of an HTB.
    pub(super) default: Option<u16>,
    /// The bytes that a `bfifo` holds.
    pub(super) limit: Option<u32>,
}

/// A class of an HTB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class {
    /// Its name.
    pub(super) handle: Handle,
    /// The class or discipline above it.
    pub(super) parent: Handle,
    /// Its numbers.
    pub(super) htb: Htb,
}

/// The numbers of an HTB class: two buckets, in bytes a second and ticks.
///
/// A bucket's size is kept as the time that its rate takes to fill it, in ticks of 64 ns (`PSCHED_SHIFT`,
/// include/net/pkt_sched.h, 6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Htb {
    /// What the class may send by itself.
    pub(super) rate: u64,
    /// What it may send at most, with what it borrows.
    pub(super) ceil: u64,
    /// The bucket of `rate`.
    pub(super) buffer: u32,
    /// The bucket of `ceil`.
    pub(super) cbuffer: u32,
    /// How much it sends before the next class has its turn.
    pub(super) quantum: u32,
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// Where it hangs.
    pub(super) parent: Handle,
    /// Lower ones are asked first.
    pub(super) prio: u16,
    /// The EtherType that it is asked for; 3 is all.
    pub(super) protocol: u16,
    /// Its number among those of its kind and priority.
    pub(super) handle: u32,
    /// `u32`, `flower`, ...
    pub(super) kind: String,
    /// What a `u32` compares.
    pub(super) keys: Vec<Key>,
    /// The class that it gives.
    pub(super) flow: Option<Handle>,
    /// The device that it sends packets to instead, by its number.
    pub(super) redirect: Option<u32>,
    /// What becomes of a packet that it takes.
    pub(super) verdict: Verdict,
}

/// One comparison of a `u32`: four bytes at an offset from the network header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Which bits count.
    pub(super) mask: u32,
    /// What they are to be.
    pub(super) value: u32,
    /// From the start of the network header, in bytes.
    pub(super) at: i32,
}

/// What becomes of a packet that a filter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is dropped.
    Drops,
    /// The next filter is asked.
    GoesOn,
    /// No other filter is asked; what happens is this filter's to say.
    Decides,
}

/// All that hangs at one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tc {
    /// Its disciplines.
    pub(super) qdiscs: Vec<Qdisc>,
    /// Its HTB classes.
    pub(super) classes: Vec<Class>,
    /// The filters of its outermost discipline.
    pub(super) filters: Vec<Filter>,
    /// The filters of what it receives.
    pub(super) ingress: Vec<Filter>,
    /// The filters of what it sends, before it is queued.
    pub(super) egress: Vec<Filter>,
}

impl Tc {
    /// The outermost discipline, unless the kernel chose it by itself or it is none: libvirt gives its taps `noqueue`
    /// (virNetDevSetRootQDisc, 9.0 and 11.3).
    pub(super) fn root(&self) -> Option<&Qdisc> {
        self.made_root().filter(|root| root.kind != "noqueue")
    }

    /// Whether `noqueue` was put in the place of the kernel's choice.
    pub(super) fn has_noqueue(&self) -> bool {
        self.made_root().is_some_and(|root| root.kind == "noqueue")
    }

    fn made_root(&self) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|qdisc| qdisc.parent == Handle::ROOT && qdisc.handle.raw() != 0)
    }

    /// The discipline that queues for a class.
    pub(super) fn queue(&self, class: Handle) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|qdisc| qdisc.parent == class && qdisc.handle.raw() != 0)
    }

    /// A class by its name.
    pub(super) fn class(&self, handle: Handle) -> Option<&Class> {
        self.classes.iter().find(|class| class.handle == handle)
    }

    /// Whether filters of what it receives have a place.
    pub(super) fn has_hook(&self) -> bool {
        self.qdiscs.iter().any(|qdisc| qdisc.parent == Handle::HOOK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_reads_as_in_tc() {
        assert_eq!(Handle::new(0x5ca1, 0).to_string(), "5ca1:");
        assert_eq!(Handle::new(0x5ca1, 0x10f).to_string(), "5ca1:10f");
        assert_eq!(Handle::HOOK.to_string(), "ffff:fff1");
    }
}
