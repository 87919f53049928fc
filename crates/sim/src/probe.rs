//! The kernel's file `probe`: memory made known to it by hand, address by address (drivers/base/memory.c, 2.6.32).

use crate::clock::{Happening, pace};
use crate::guest::{Block, tables_of};
use crate::mood::Mood;
use crate::world::World;
use drive::ApplyError;
use scale::observed::DimmKind;
use scale::time::{Moment, Span};
use scale::units::Bytes;

impl World {
    /// True where the guest's kernel has the file.
    pub(crate) fn has_probe(&self) -> bool {
        self.guest.probe || self.is(&Mood::NeedsProbe)
    }

    /// An address is written to the guest's `probe`. A real kernel takes one behind which there is no memory, too, and
    /// dies when that is put online; this one is kinder and says so.
    ///
    /// # Errors
    /// What the kernel answers, in the words of its errors.
    pub fn write_probe(&mut self, addr: u64) -> Result<(), &'static str> {
        let block = self.guest.block;
        if !self.has_probe() {
            return Err("No such file or directory");
        }
        if !Bytes::new(addr).is_multiple_of(block) {
            return Err("Invalid argument");
        }
        let index = addr / block.get();
        if self.guest.blocks.contains_key(&index) {
            return Err("File exists");
        }
        let end = addr.saturating_add(block.get());
        let covers = |d: &&crate::qemu::Stick| {
            d.kind == DimmKind::Dimm && d.addr <= addr && end <= d.addr.saturating_add(d.size.get())
        };
        let Some(owner) = self.qemu.dimms.iter().find(covers).map(|d| d.id.clone()) else {
            return Err("no memory is there: online, it would crash the guest");
        };
        if self.guest.kernel_room(self.held()) < tables_of(block) || self.is(&Mood::OutOfMetadata) {
            return Err("Cannot allocate memory");
        }
        self.guest.tables = self.guest.tables + tables_of(block);
        let fresh = Block { owner: owner.clone(), size: block, online: false, movable: false };
        self.guest.blocks.insert(index, fresh);
        self.note(format!("guest: told of memory block {index}"));
        self.appeared(Happening::OnlinesMemory(owner));
        Ok(())
    }

    /// The agent's part: it waits for the guest to find a DIMM by itself, then writes what it does not show.
    pub(crate) fn make_known(&mut self, device: &str, after: Span, until: Moment) -> Result<(), ApplyError> {
        if self.qemu.blocks_of(device, self.guest.block).is_none() {
            return Err(ApplyError::Refused(format!("QEMU lists no memory device {device}")));
        }
        let patience = (self.clock.now + after).min(until);
        while !self.absent(device).is_empty() && self.clock.now < patience {
            self.pass(pace::AGENT);
        }
        let absent = self.absent(device);
        for (done, index) in absent.iter().enumerate() {
            let of = absent.len();
            if self.clock.now + pace::ONLINE > until {
                return Err(ApplyError::Unknown(format!("{done} of {of} blocks were answered for in time")));
            }
            self.pass(pace::ONLINE);
            let refused = self.write_probe(index * self.guest.block.get()).err();
            if let Some(why) = refused.filter(|_| self.absent(device).contains(index)) {
                return Err(ApplyError::Refused(format!(
                    "memory block {index}: {why} ({done} of {of} made known before it)"
                )));
            }
        }
        Ok(())
    }

    /// The blocks of a DIMM that the agent does not show.
    fn absent(&self, device: &str) -> Vec<u64> {
        let Some(range) = self.qemu.blocks_of(device, self.guest.block) else { return Vec::new() };
        let shown = self.said_blocks(device).unwrap_or_default();
        range.filter(|index| shown.iter().all(|b| b.index != *index)).collect()
    }
}
