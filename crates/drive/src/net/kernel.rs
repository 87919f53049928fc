//! Reads what hangs at taps from the kernel and carries plans out there, one message for each change. Where a change
//! fails midway, the rates from before are laid out again.
//!
//! Its calls block while the kernel is busy; tasks reach them through the functions of `super`.

use std::collections::HashSet;

use rustix::io::Errno;

use super::beside::{self, Hanging};
use super::codec;
use super::layout::{self, TapRates};
use super::netlink::Netlink;
use super::plan::{self, Change, Clash, Device, Present};
use super::tc::{Class, Handle, Link, Tc};

/// How the devices for what guests send are named: this, and the tap's number in hexadecimal. Fifteen letters at most,
/// as long as a name may be.
const IFB: &str = "supple-";

/// Why a tap's rates are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no such device in our network namespace.
    #[error("there is no network device {0} here")]
    NoDevice(String),
    /// What the guest receives is queued by someone else, and what limit that makes cannot be told.
    #[error("{device} is queued by {kind} {handle}, which is not Supple's")]
    Foreign {
        /// The device.
        device: String,
        /// What queues.
        kind: String,
        /// Its name.
        handle: String,
    },
    /// The kernel did not tell.
    #[error("the kernel does not tell of {device}: {why}")]
    Kernel {
        /// The device.
        device: String,
        /// Its reason.
        why: String,
    },
}

/// Why a tap's rates were not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// What is there is not known. Nothing was changed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something stands in the way. Nothing was changed.
    #[error(transparent)]
    Clash(#[from] Clash),
    /// It is not ours to do. Nothing was changed.
    #[error("limits of traffic are the administrator's to set: run supple as root (CAP_NET_ADMIN)")]
    Privilege,
    /// The kernel refused a change; what had been changed before it is taken back.
    #[error("the kernel refused to {change}: {why}; nothing was changed")]
    Refused {
        /// The change.
        change: String,
        /// Its reason.
        why: String,
    },
    /// The kernel refused a change, and then to take back what had been changed before it.
    #[error(
        "the kernel refused to {change}: {why}; a part is changed and stays so ({left}); look with: tc class show dev {device}"
    )]
    Half {
        /// The device.
        device: String,
        /// The change.
        change: String,
        /// Its reason.
        why: String,
        /// Why it stays.
        left: String,
    },
}

/// A line to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Kernel {
    netlink: Netlink,
}

impl Kernel {
    pub(super) fn open() -> Result<Kernel, ReadError> {
        let told = Netlink::open();
        let told =
            told.map_err(|error| ReadError::Kernel { device: "networks".into(), why: error.to_string() });
        Ok(Kernel { netlink: told? })
    }

    /// A device by its name.
    pub(super) fn link(&mut self, name: &str) -> Result<Option<Link>, ReadError> {
        match self.netlink.ask(codec::link_named(name)) {
            Ok(answers) => Ok(answers.iter().find_map(codec::read_link)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(ReadError::Kernel { device: name.to_owned(), why: error.to_string() }),
        }
    }

    /// The rates that act at a tap.
    pub(super) fn read(&mut self, tap: &str) -> Result<TapRates, ReadError> {
        let present = self.present(tap)?;
        match present.tc.root().filter(|root| !layout::is_own_root(root)) {
            Some(root) => Err(ReadError::Foreign {
                device: tap.to_owned(),
                kind: root.kind.clone(),
                handle: root.handle.to_string(),
            }),
            None => Ok(plan::read(&present)),
        }
    }

    /// What hangs at a tap and is not libvirt's.
    pub(super) fn beside_libvirt(&mut self, tap: &str) -> Result<Option<Hanging>, ReadError> {
        Ok(beside::libvirt(tap, &self.present(tap)?.tc))
    }

    /// Changes the rates at a tap from what they are to what `change` makes of them.
    pub(super) fn set(
        &mut self,
        tap: &str,
        change: impl FnOnce(TapRates) -> TapRates,
    ) -> Result<(), SetError> {
        let present = self.present(tap)?;
        let before = plan::read(&present);
        let wanted = change(before.clone());
        let changes = plan::plan(&wanted, &present)?;
        let Err((failed, why)) = self.carry_out(&present, &changes) else { return Ok(()) };
        if why == Errno::PERM {
            return Err(SetError::Privilege);
        }
        let (change, why) = (failed.to_string(), reason(&failed, why));
        let back = self.present(tap).map_err(SetError::Read).and_then(|now| {
            let changes = plan::plan(&before, &now)?;
            self.carry_out(&now, &changes).map_err(|(change, why)| SetError::Refused {
                change: change.to_string(),
                why: reason(&change, why),
            })
        });
        Err(match back {
            Ok(()) => SetError::Refused { change, why },
            Err(left) => SetError::Half { device: tap.to_owned(), change, why, left: left.to_string() },
        })
    }

    /// Removes the devices of ours whose tap is gone; their names.
    pub(super) fn sweep(&mut self) -> Result<Vec<String>, SetError> {
        let error = |error: Errno| ReadError::Kernel { device: "devices".into(), why: error.to_string() };
        let links: Vec<Link> =
            self.netlink.dump(&codec::links()).map_err(error)?.iter().filter_map(codec::read_link).collect();
        let there: HashSet<u32> = links.iter().map(|link| link.index).collect();
        let mut removed = Vec::new();
        for link in links.iter().filter(|link| link.kind.as_deref() == Some("ifb")) {
            let of = link.name.strip_prefix(IFB).and_then(|of| u32::from_str_radix(of, 16).ok());
            if of.is_none_or(|of| there.contains(&of)) {
                continue;
            }
            match self.netlink.order(codec::remove_link(link.index)) {
                Ok(()) => removed.push(link.name.clone()),
                // Another one was faster.
                Err(Errno::NODEV) => {}
                Err(Errno::PERM) => return Err(SetError::Privilege),
                Err(why) => {
                    let (change, why) = (format!("remove {}", link.name), why.to_string());
                    return Err(SetError::Refused { change, why });
                }
            }
        }
        Ok(removed)
    }

    fn present(&mut self, tap: &str) -> Result<Present, ReadError> {
        let link = self.link(tap)?.ok_or_else(|| ReadError::NoDevice(tap.to_owned()))?;
        let tc = self.tc(&link)?;
        let ifb = self.link(&ifb_of(&link))?.filter(|ifb| ifb.kind.as_deref() == Some("ifb"));
        let ifb = match ifb {
            Some(ifb) => Some((ifb.clone(), self.tc(&ifb)?)),
            None => None,
        };
        Ok(Present { tap: link, tc, ifb })
    }

    fn tc(&mut self, link: &Link) -> Result<Tc, ReadError> {
        let index = link.index;
        let mut list = |message| {
            let listed = self.netlink.dump(&message);
            listed.map_err(|error| ReadError::Kernel { device: link.name.clone(), why: error.to_string() })
        };
        let mut tc = Tc {
            qdiscs: list(codec::qdiscs(index))?
                .iter()
                .filter_map(|answer| codec::read_qdisc(answer, index))
                .collect(),
            ..Tc::default()
        };
        // Asked only where there can be any: the kernel refuses the question where there is no such place.
        if let Some(root) = tc.root().map(|root| root.handle) {
            tc.classes = list(codec::classes(index))?
                .iter()
                .filter_map(|answer| codec::read_class(answer, index))
                .collect();
            tc.filters = list(codec::filters(index, root))?
                .iter()
                .filter_map(|answer| codec::read_filter(answer, index))
                .collect();
        }
        if tc.has_hook() {
            tc.ingress = list(codec::filters(index, Handle::INGRESS))?
                .iter()
                .filter_map(|answer| codec::read_filter(answer, index))
                .collect();
        }
        if tc.qdiscs.iter().any(|qdisc| qdisc.kind == "clsact") {
            tc.egress = list(codec::filters(index, Handle::EGRESS))?
                .iter()
                .filter_map(|answer| codec::read_filter(answer, index))
                .collect();
        }
        Ok(tc)
    }

    fn carry_out(&mut self, present: &Present, changes: &[Change]) -> Result<(), (Change, Errno)> {
        let tap = present.tap.index;
        let name = ifb_of(&present.tap);
        let mut ifb = present.ifb.as_ref().map(|(link, _)| link.index);
        for change in changes {
            let failed = |why| (change.clone(), why);
            if *change == Change::AddIfb {
                self.netlink.order(codec::add_ifb(&name)).map_err(failed)?;
                let made = self.link(&name).map_err(|_| failed(Errno::NODEV))?;
                ifb = Some(made.ok_or_else(|| failed(Errno::NODEV))?.index);
                continue;
            }
            self.change(change, present, tap, ifb.unwrap_or(0)).map_err(failed)?;
        }
        Ok(())
    }

    fn change(&mut self, change: &Change, present: &Present, tap: u32, ifb: u32) -> Result<(), Errno> {
        let on = |device: &Device| match device {
            Device::Tap => tap,
            Device::Ifb => ifb,
        };
        let message = match change {
            Change::AddIfb => codec::add_ifb(&ifb_of(&present.tap)),
            Change::RaiseIfb => {
                codec::raise(ifb, &format!("what {} sends, held to its limit by Supple", present.tap.name))
            }
            Change::RemoveIfb => codec::remove_link(ifb),
            Change::AddRoot(device, replaces) => codec::add_root(on(device), *replaces),
            Change::RemoveRoot(device) => codec::remove_root(on(device)),
            Change::AddClass(device, handle, parent, htb) => {
                codec::class(on(device), &Class { handle: *handle, parent: *parent, htb: *htb }, true)
            }
            Change::TuneClass(device, handle, parent, htb) => {
                codec::class(on(device), &Class { handle: *handle, parent: *parent, htb: *htb }, false)
            }
            Change::RemoveClass(device, class) => codec::remove_class(on(device), *class),
            Change::AddQueue(device, class, limit) => {
                // `fq_codel` where the kernel has it.
                let fair = self.netlink.order(codec::fair_queue(on(device), *class));
                if fair != Err(Errno::NOENT) {
                    return fair;
                }
                codec::plain_queue(on(device), *class, None, *limit)
            }
            Change::ResizeQueue(device, class, handle, limit) => {
                codec::plain_queue(on(device), *class, Some(*handle), *limit)
            }
            Change::AddFilter(device, sorter) => codec::add_sorter(on(device), sorter),
            Change::RemoveFilter(device, parent, prio, protocol, handle) => {
                codec::remove_filter(on(device), *parent, *prio, *protocol, *handle)
            }
            Change::AddHook => codec::add_hook(tap),
            Change::AddRedirect => codec::add_redirect(tap, ifb),
        };
        self.netlink.order(message)
    }
}

fn ifb_of(tap: &Link) -> String {
    format!("{IFB}{:x}", tap.index)
}

/// What a kernel that lacks a part says is that there is no such thing.
fn reason(change: &Change, why: Errno) -> String {
    let needs = match change {
        Change::AddIfb => Some("ifb (CONFIG_IFB)"),
        Change::AddRoot(..) => Some("HTB (CONFIG_NET_SCH_HTB)"),
        Change::AddFilter(..) => Some("u32 (CONFIG_NET_CLS_U32)"),
        Change::AddHook => Some("clsact (CONFIG_NET_SCH_INGRESS)"),
        Change::AddRedirect => Some("u32 and mirred (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)"),
        Change::RaiseIfb
        | Change::RemoveIfb
        | Change::RemoveRoot(_)
        | Change::AddClass(..)
        | Change::TuneClass(..)
        | Change::RemoveClass(..)
        | Change::AddQueue(..)
        | Change::ResizeQueue(..)
        | Change::RemoveFilter(..) => None,
    };
    let is_absent = matches!(why, Errno::NOENT | Errno::OPNOTSUPP);
    match needs.filter(|_| is_absent) {
        Some(needs) => format!("it has no {needs}"),
        None => why.to_string(),
    }
}
