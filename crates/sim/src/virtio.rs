//! virtio-mem and the balloon: what QEMU is asked for, and how the guest's drivers get there chunk by chunk.

use crate::clock::{Happening, pace};
use crate::guest::{Block, tables_of};
use crate::mood::Mood;
use crate::world::World;
use scale::observed::blocks_of;
use scale::sight::Event;
use scale::units::Bytes;

/// A virtio-mem device. Its memory is plugged from its lowest address up.
#[derive(Debug, Clone)]
pub(crate) struct VirtioMemDevice {
    pub(crate) id: String,
    pub(crate) node: u32,
    pub(crate) addr: u64,
    pub(crate) block: Bytes,
    pub(crate) max: Bytes,
    pub(crate) requested: Bytes,
    pub(crate) size: Bytes,
    /// Below this the guest cannot shrink it now: something is pinned there.
    pub(crate) stuck_at: Bytes,
}

/// The balloon.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BalloonDevice {
    /// What it is to hold.
    pub(crate) wanted: Bytes,
    /// What it holds.
    pub(crate) held: Bytes,
    /// Whether the guest's driver reports figures.
    pub(crate) stats: bool,
}

/// The driver waits while more than this of its memory is offline (VIRTIO_MEM_DEFAULT_OFFLINE_THRESHOLD,
/// drivers/virtio/virtio_mem.c, 6.1).
const OFFLINE_MAX: Bytes = Bytes::gib(1);

impl World {
    /// `qom-set requested-size` (hw/virtio/virtio-mem.c, 7.2).
    pub(crate) fn request_virtio_mem(&mut self, id: &str, to: Bytes) -> Result<(), String> {
        let pinned = self.pins(id);
        let Some(device) = self.qemu.virtio_mem.iter_mut().find(|v| v.id == id) else {
            return Err(format!("Device '{id}' not found"));
        };
        if !to.is_multiple_of(device.block) {
            return Err(format!(
                "'requested-size' has to be multiple of 'block-size' ({:#x})",
                device.block.get()
            ));
        }
        if to > device.max {
            let most = device.max.get();
            return Err(format!("'requested-size' cannot exceed the memory backend size({most:#x})"));
        }
        device.requested = to;
        device.stuck_at = if pinned { device.size.per(2).round_up(device.block) } else { Bytes::ZERO };
        self.move_virtio_mem_after(id, pace::PER_CHUNK);
        Ok(())
    }

    fn move_virtio_mem_after(&mut self, id: &str, span: scale::time::Span) {
        let what = Happening::VirtioMem(id.to_owned());
        if self.guest.booting_until.is_none() && !self.clock.is_decided(&what) {
            self.clock.after(span, what);
        }
    }

    /// The driver moves one chunk towards what is requested.
    pub(crate) fn move_virtio_mem(&mut self, id: &str) {
        let pinned = self.pins(id);
        let Some(index) = self.qemu.virtio_mem.iter().position(|v| v.id == id) else { return };
        if !pinned {
            self.qemu.virtio_mem[index].stuck_at = Bytes::ZERO;
        }
        let device = self.qemu.virtio_mem[index].clone();
        let next = match device.requested > device.size {
            true => (device.size + pace::CHUNK).min(device.requested),
            false => device.size.saturating_sub(pace::CHUNK).max(device.requested),
        };
        let moved = match next > device.size {
            true => self.virtio_mem_grows(&device, next),
            false => next < device.size && self.virtio_mem_shrinks(&device, next),
        };
        if moved {
            self.qemu.virtio_mem[index].size = next;
            self.is_killed_at(self.host_memory());
            self.size_changed();
        }
        if next != device.requested && moved {
            self.clock.after(pace::PER_CHUNK, Happening::VirtioMem(id.to_owned()));
        } else if !moved && device.size != device.requested {
            self.clock.after(pace::RETRY, Happening::VirtioMem(id.to_owned()));
        }
    }

    fn virtio_mem_grows(&mut self, device: &VirtioMemDevice, to: Bytes) -> bool {
        let offline: Bytes =
            self.guest.blocks.values().filter(|b| b.owner == device.id && !b.online).map(|b| b.size).sum();
        let short = self.guest.kernel_room(self.held()) < tables_of(to - device.size);
        if offline > OFFLINE_MAX || short || self.is(&Mood::OutOfMetadata) {
            return false;
        }
        self.guest.tables = self.guest.tables + tables_of(to - device.size);
        self.fit_blocks(device, to);
        self.appeared(Happening::OnlinesMemory(device.id.clone()));
        true
    }

    fn virtio_mem_shrinks(&mut self, device: &VirtioMemDevice, to: Bytes) -> bool {
        let less = device.size - to;
        if to < device.stuck_at || self.guest.available(self.held()) < less {
            return false;
        }
        self.guest.tables = self.guest.tables.saturating_sub(tables_of(less));
        self.fit_blocks(device, to);
        true
    }

    /// The guest's blocks of a virtio-mem device that holds `size`.
    fn fit_blocks(&mut self, device: &VirtioMemDevice, size: Bytes) {
        let (block, end) = (self.guest.block, device.addr + size.get());
        let covered = blocks_of(device.addr, size, block);
        self.guest.blocks.retain(|index, b| b.owner != device.id || covered.contains(index));
        for index in covered {
            let start = index * block.get();
            let part = Bytes::new(end.min(start + block.get()) - start.max(device.addr));
            let fresh = Block { owner: device.id.clone(), size: part, online: false, movable: true };
            self.guest.blocks.entry(index).or_insert(fresh).size = part;
        }
    }

    /// Onlined blocks let a waiting driver go on.
    pub(crate) fn wake_virtio_mem(&mut self) {
        let waiting: Vec<String> =
            self.qemu.virtio_mem.iter().filter(|v| v.requested > v.size).map(|v| v.id.clone()).collect();
        for id in waiting {
            self.clock.forget(|what| *what != Happening::VirtioMem(id.clone()));
            self.move_virtio_mem_after(&id, pace::PER_CHUNK);
        }
    }

    /// `balloon`: how much it is to hold is worked out here and now (virtio_balloon_to_target, 7.2).
    pub(crate) fn set_balloon(&mut self, to: Bytes) -> Result<(), String> {
        let all = self.qemu.boot + self.qemu.dimm_total();
        let Some(balloon) = &mut self.qemu.balloon else {
            return Err("No balloon device has been activated".into());
        };
        if to.is_zero() {
            return Err("Parameter 'target' expects a size".into());
        }
        balloon.wanted = all.saturating_sub(to);
        if self.guest.booting_until.is_none() && !self.clock.is_decided(&Happening::Balloon) {
            self.clock.after(pace::PER_CHUNK, Happening::Balloon);
        }
        Ok(())
    }

    /// The driver moves one chunk; where the guest has none left it tries again ("Out of puff").
    pub(crate) fn move_balloon(&mut self) {
        let room = self.guest.available(self.held());
        let Some(balloon) = &mut self.qemu.balloon else { return };
        let step = match balloon.wanted > balloon.held {
            true => pace::CHUNK.min(balloon.wanted - balloon.held).min(room),
            false => pace::CHUNK.min(balloon.held - balloon.wanted),
        };
        balloon.held = match balloon.wanted > balloon.held {
            true => balloon.held + step,
            false => balloon.held - step,
        };
        if balloon.held != balloon.wanted {
            self.clock.after(pace::PER_CHUNK.times(if step.is_zero() { 20 } else { 1 }), Happening::Balloon);
        }
        if !step.is_zero() {
            self.size_changed();
        }
    }

    /// A size event, at most one a second.
    fn size_changed(&mut self) {
        let now = self.clock.now;
        let since = self.qemu.size_told.map(|told| now.since(told));
        match since {
            Some(since) if since < pace::SIZE_EVENTS => {
                if !self.clock.is_decided(&Happening::SizeEvent) {
                    let wait = pace::SIZE_EVENTS.as_millis() - since.as_millis();
                    self.clock.after(scale::time::Span::millis(wait), Happening::SizeEvent);
                }
            }
            Some(_) | None => self.tell_size(),
        }
    }

    pub(crate) fn tell_size(&mut self) {
        self.qemu.size_told = Some(self.clock.now);
        self.tell(Event::SizeChanged);
    }
}
