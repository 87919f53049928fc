//! The guest's kernel: memory blocks and zones, what is used of them, vCPUs.

use crate::clock::{Happening, pace};
use crate::mood::Mood;
use crate::world::World;
use scale::disk::Tool;
use scale::observed::blocks_of;
use scale::plan::Zone;
use scale::time::Moment;
use scale::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// One memory block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The device that it belongs to; empty for boot memory.
    pub(crate) owner: String,
    /// How much of it is there: all, but for the last block of a virtio-mem device.
    pub(crate) size: Bytes,
    pub(crate) online: bool,
    pub(crate) movable: bool,
}

/// The guest.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// The size of a memory block.
    pub(crate) block: Bytes,
    pub(crate) blocks: BTreeMap<u64, Block>,
    /// vCPUs that the kernel sees, by number, and whether it uses them.
    pub(crate) vcpus: BTreeMap<u32, bool>,
    /// What programs use.
    pub(crate) demand: Bytes,
    /// The kernel's own image, which MemTotal does not count.
    pub(crate) image: Bytes,
    /// Page tables of memory that was added.
    pub(crate) tables: Bytes,
    /// Whether the kernel has the file `probe`, beside an ACPI driver that finds memory by itself.
    pub(crate) probe: bool,
    /// What the agent can do.
    pub(crate) commands: BTreeSet<String>,
    /// The programs that it has for growing what lies on a disk.
    pub(crate) tools: BTreeSet<Tool>,
    /// Set while the guest restarts.
    pub(crate) booting_until: Option<Moment>,
}

impl Guest {
    fn online(&self, movable: bool) -> Bytes {
        self.blocks.values().filter(|b| b.online && b.movable == movable).map(|b| b.size).sum()
    }

    /// MemTotal, with so much held by the balloon.
    pub(crate) fn total(&self, held: Bytes) -> Bytes {
        (self.online(false) + self.online(true)).saturating_sub(self.image + held)
    }

    /// MemAvailable.
    pub(crate) fn available(&self, held: Bytes) -> Bytes {
        self.total(held).saturating_sub(self.demand + self.tables)
    }

    /// What the kernel can take for itself. Programs fill the movable zone first.
    pub(crate) fn kernel_room(&self, held: Bytes) -> Bytes {
        let spill = (self.demand + held).saturating_sub(self.online(true));
        self.online(false).saturating_sub(self.image + self.tables + spill)
    }

    /// The zones of a device's blocks that are online, in Linux's words.
    pub(crate) fn zones_of(&self, device: &str) -> BTreeMap<u64, String> {
        let blocks = self.blocks.iter().filter(|(_, b)| b.owner == device && b.online);
        let zone = |b: &Block| if b.movable { "Movable" } else { "Normal" };
        blocks.map(|(index, b)| (*index, zone(b).to_owned())).collect()
    }

    /// The blocks of a device, ascending.
    pub(crate) fn blocks_of(&self, device: &str) -> Vec<u64> {
        self.blocks.iter().filter(|(_, b)| b.owner == device).map(|(index, _)| *index).collect()
    }
}

/// The page tables of so much memory: 64 bytes for each page of 4 KiB.
pub(crate) fn tables_of(memory: Bytes) -> Bytes {
    memory.per(64)
}

impl World {
    /// What the balloon holds.
    pub(crate) fn held(&self) -> Bytes {
        self.qemu.balloon.map_or(Bytes::ZERO, |b| b.held)
    }

    /// The guest's kernel adds the memory of a device, or silently does not: Linux swallows the failure and reports a
    /// success to ACPI (acpi_bus_attach, drivers/acpi/scan.c, 6.1).
    pub(crate) fn memory_appears(&mut self, device: &str, addr: u64, size: Bytes) -> bool {
        let block = self.guest.block;
        if !Bytes::new(addr).is_multiple_of(block) || !size.is_multiple_of(block) {
            self.note(format!(
                "guest: Block size [{:#x}] unaligned hotplug range: start {addr:#x}",
                block.get()
            ));
            return false;
        }
        // What the kernel was told of already it does not take again (EEXIST).
        let known = blocks_of(addr, size, block).filter(|i| self.guest.blocks.contains_key(i)).count();
        let added = size.saturating_sub(block.times(known as u64));
        let short = self.guest.kernel_room(self.held()) < tables_of(added);
        if short || self.is(&Mood::OutOfMetadata) {
            self.note(format!("guest: no memory for the page tables of {device}"));
            return false;
        }
        self.guest.tables = self.guest.tables + tables_of(added);
        for index in blocks_of(addr, size, block) {
            let fresh = Block { owner: device.to_owned(), size: block, online: false, movable: false };
            self.guest.blocks.entry(index).or_insert(fresh);
        }
        self.appeared(Happening::OnlinesMemory(device.to_owned()));
        true
    }

    /// The guest's kernel forgets the memory of a device.
    pub(crate) fn memory_disappears(&mut self, device: &str) {
        let gone: Bytes = self.guest.blocks.values().filter(|b| b.owner == device).map(|b| b.size).sum();
        self.guest.blocks.retain(|_, b| b.owner != device);
        self.guest.tables = self.guest.tables.saturating_sub(tables_of(gone));
    }

    /// Something appeared that is offline: a guest that onlines by itself will do so.
    pub(crate) fn appeared(&mut self, what: Happening) {
        match self.onlines_itself() {
            Some(after) if after.as_millis() == 0 => self.happen(what),
            Some(after) if !self.clock.is_decided(&what) => self.clock.after(after, what),
            Some(_) | None => {}
        }
    }

    /// The guest by itself brings all blocks of a device into use.
    pub(crate) fn online_device(&mut self, device: &str) {
        self.guest.blocks.values_mut().filter(|b| b.owner == device).for_each(|b| b.online = true);
        self.note(format!("guest: brings {device} into use"));
        self.wake_virtio_mem();
    }

    /// The guest by itself brings a vCPU into use.
    pub(crate) fn online_vcpu(&mut self, number: u32) {
        if let Some(online) = self.guest.vcpus.get_mut(&number) {
            *online = true;
        }
    }

    /// Puts one block into use.
    pub(crate) fn online_block(&mut self, index: u64, zone: Zone) -> Result<(), &'static str> {
        let rigid = self.is(&Mood::NotMovable);
        let block = self.guest.blocks.get_mut(&index).ok_or("not-found")?;
        if block.online {
            return Ok(());
        }
        let movable = match zone {
            Zone::Default => false,
            Zone::Movable | Zone::PreferMovable => true,
            Zone::AsBefore => block.movable,
        };
        if movable && rigid && zone == Zone::Movable {
            return Err("Invalid argument");
        }
        block.online = true;
        block.movable = movable && !rigid;
        if movable && rigid {
            let wanted = "online in Normal and not in Movable, which may not come out again";
            self.remarks.push(format!("memory block {index} is {wanted}"));
        }
        self.wake_virtio_mem();
        Ok(())
    }

    /// Empties one block and takes it out of use, if what it holds can go elsewhere.
    pub(crate) fn offline_block(&mut self, index: u64) -> Result<(), &'static str> {
        let block = self.guest.blocks.get(&index).ok_or("not-found")?;
        if !block.online {
            return Ok(());
        }
        let held = self.held();
        let enough = self.guest.available(held) >= block.size
            && (block.movable || self.guest.kernel_room(held) >= block.size);
        if self.is_pinned(index) || !enough {
            return Err("operation-failed");
        }
        self.guest.blocks.get_mut(&index).expect("looked up above").online = false;
        Ok(())
    }

    /// The middle block of a pinned device is the one that cannot be emptied.
    pub(crate) fn is_pinned(&self, index: u64) -> bool {
        let Some(block) = self.guest.blocks.get(&index).filter(|b| !b.owner.is_empty()) else { return false };
        let all = self.guest.blocks_of(&block.owner);
        self.pins(&block.owner) && all.get(all.len() / 2) == Some(&index)
    }

    /// The guest restarts: what it had in its blocks and drivers is forgotten. QEMU's devices stay, and so do requests
    /// for removal: there is no reset handler in QEMU's hw/acpi/memory_hotplug.c.
    pub(crate) fn reset(&mut self) {
        self.note("guest: reset");
        self.tell(scale::sight::Event::GuestReset);
        self.clock.forget(|what| match what {
            Happening::ScanDimms
            | Happening::ScanVcpus
            | Happening::Eject(_)
            | Happening::Keep(_)
            | Happening::OnlinesMemory(_)
            | Happening::OnlinesVcpu(_)
            | Happening::VirtioMem(_)
            | Happening::Balloon
            | Happening::AgentActs(_)
            | Happening::Booted => false,
            Happening::SizeEvent | Happening::Reset | Happening::RemakeTaps | Happening::Vanish(_) => true,
        });
        self.guest.blocks.retain(|_, b| b.owner.is_empty());
        self.guest.tables = Bytes::ZERO;
        self.guest.booting_until = Some(self.clock.now + pace::BOOT);
        for device in &mut self.qemu.virtio_mem {
            device.size = Bytes::ZERO;
        }
        if let Some(balloon) = &mut self.qemu.balloon {
            balloon.held = Bytes::ZERO;
        }
        self.clock.after(pace::BOOT, Happening::Booted);
    }

    /// The guest has restarted: it finds the devices that are plugged, and its drivers take up what is asked of them.
    pub(crate) fn booted(&mut self) {
        self.note("guest: up again");
        self.guest.booting_until = None;
        self.look_at_disks();
        let deaf = self.is(&Mood::NeedsProbe);
        let dimms: Vec<_> = self
            .qemu
            .dimms
            .iter_mut()
            .map(|d| {
                d.inserting = deaf && d.kind == scale::observed::DimmKind::Dimm;
                (d.id.clone(), d.kind, d.addr, d.size)
            })
            .collect();
        for (id, kind, addr, size) in dimms {
            if kind == scale::observed::DimmKind::Dimm && !deaf {
                self.memory_appears(&id, addr, size);
            }
        }
        self.guest.vcpus = self.qemu.taken_places().map(|number| (number, true)).collect();
        let devices: Vec<String> = self.qemu.virtio_mem.iter().map(|v| v.id.clone()).collect();
        for id in devices {
            self.clock.after(pace::PER_CHUNK, Happening::VirtioMem(id));
        }
        if self.qemu.balloon.is_some() {
            self.clock.after(pace::PER_CHUNK, Happening::Balloon);
        }
    }
}
