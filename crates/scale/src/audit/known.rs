//! The rules of telling a guest of memory that it does not find by itself.

use super::{Auditor, Kind};
use crate::observed::DimmKind;
use crate::units::Bytes;

impl Auditor<'_> {
    /// A DIMM was plugged with QEMU's word alone as proof: what the guest makes of it, its group has yet to show.
    pub(super) fn plugged_unshown(&mut self, id: &str, group: u32) {
        let at = self.at;
        if let Some(stick) = self.ledger.stick(id) {
            stick.unshown_by = at.map(|at| (at, group));
        }
    }

    /// A wrong address crashes the guest once it is online, so only blocks of a DIMM that QEMU lists are told of, and
    /// only whole ones (Documentation/admin-guide/mm/memory-hotplug.rst; lkml, July 2013).
    pub(super) fn make_known(&mut self, device: &str, group: u32) {
        let heard = self.seen.guest.heard();
        let able = heard.is_some_and(|h| h.has_probe && h.can_write_files());
        self.require(able, Kind::GuestCannot, || {
            format!("nobody can tell the guest of the blocks of {device}")
        });
        let leaving = self.seen.pending.iter().any(|p| p.device.id() == device);
        self.require(!leaving, Kind::Probe, || {
            format!("the guest is told of {device}, which it may be giving up")
        });
        let block = heard.and_then(|h| h.block);
        let Some(stick) = self.ledger.stick(device) else {
            self.find(Kind::Probe, format!("the guest is told of '{device}', which is no DIMM"));
            return;
        };
        if stick.unshown_by.is_some_and(|(_, by)| by == group) {
            stick.unshown_by = None;
        }
        let (kind, size, addr, hidden) = (stick.kind, stick.size, stick.addr, stick.hidden);
        stick.hidden = false;
        self.require(kind == DimmKind::Dimm, Kind::Probe, || format!("{device} is an NVDIMM"));
        self.require(hidden, Kind::Probe, || format!("the guest shows all blocks of {device} already"));
        let whole = |b: Bytes| size.is_multiple_of(b) && addr.is_none_or(|a| Bytes::new(a).is_multiple_of(b));
        self.require(block.is_none_or(whole), Kind::Probe, || {
            format!("{device} does not begin and end with the guest's blocks")
        });
    }
}
