//! QEMU's monitor: memory backends and DIMMs, with its refusals in its words (hw/mem, hw/acpi, qom; 7.2).

use crate::clock::{Happening, pace};
use crate::mood::Mood;
use crate::vcpus::Place;
use crate::virtio::{BalloonDevice, VirtioMemDevice};
use crate::world::World;
use scale::generations::DIES_AFTER_A_VCPU_REMOVAL;
use scale::observed::{Accel, Backing, DimmKind, Manager, Ost, Version};
use scale::sight::Event;
use scale::units::Bytes;
use std::collections::BTreeMap;

/// A QEMU process.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    pub(crate) kind: String,
    pub(crate) version: Version,
    pub(crate) accel: Accel,
    pub(crate) state: String,
    pub(crate) busy: Vec<String>,
    pub(crate) boot: Bytes,
    pub(crate) ceiling: Bytes,
    pub(crate) slots: u32,
    pub(crate) alignment: Bytes,
    pub(crate) backing: Backing,
    /// Boot memory of each NUMA node.
    pub(crate) nodes: Vec<Bytes>,
    pub(crate) dimms: Vec<Stick>,
    pub(crate) backends: BTreeMap<String, Bytes>,
    pub(crate) manager: Manager,
    pub(crate) virtio_mem: Vec<VirtioMemDevice>,
    pub(crate) balloon: Option<BalloonDevice>,
    pub(crate) places: Vec<Place>,
    pub(crate) vcpu_removed: bool,
    /// How many vCPUs were plugged since it started.
    pub(crate) vcpus_plugged: usize,
    /// All vCPUs run on one thread.
    pub(crate) one_thread: bool,
    /// What tells this process from others.
    pub(crate) process: u32,
    /// When the last size event was sent.
    pub(crate) size_told: Option<scale::time::Moment>,
    pub(crate) gone: Option<String>,
}

/// A DIMM in its slot.
#[derive(Debug, Clone)]
pub(crate) struct Stick {
    pub(crate) id: String,
    pub(crate) memdev: String,
    pub(crate) kind: DimmKind,
    pub(crate) slot: u32,
    pub(crate) node: u32,
    pub(crate) addr: u64,
    pub(crate) size: Bytes,
    pub(crate) hotplugged: bool,
    pub(crate) ost: Option<Ost>,
    /// The guest has yet to be told of it.
    pub(crate) inserting: bool,
    /// The guest has yet to be told to give it up.
    pub(crate) removing: bool,
}

/// What `device_add pc-dimm` is given.
pub(crate) struct Plug<'a> {
    pub(crate) id: &'a str,
    pub(crate) memdev: &'a str,
    pub(crate) slot: u32,
    pub(crate) node: u32,
    pub(crate) addr: Option<u64>,
}

impl Qemu {
    /// Where memory devices begin: boot memory above 4 GiB, rounded up to 1 GiB (hw/i386/pc.c; the split of q35).
    pub(crate) fn base(&self) -> u64 {
        let low = if self.boot.get() >= 0xb000_0000 { Bytes::gib(2) } else { self.boot };
        (Bytes::gib(4) + self.boot.saturating_sub(low)).round_up(Bytes::gib(1)).get()
    }

    fn end(&self) -> u64 {
        let region = self.ceiling.saturating_sub(self.boot) + Bytes::gib(1).times(u64::from(self.slots));
        self.base().saturating_add(region.get())
    }

    /// Id, address and size of each memory device; virtio-mem with all it may hold.
    fn devices(&self) -> impl Iterator<Item = (&str, u64, Bytes)> {
        let sticks = self.dimms.iter().map(|d| (d.id.as_str(), d.addr, d.size));
        sticks.chain(self.virtio_mem.iter().map(|v| (v.id.as_str(), v.addr, v.max)))
    }

    pub(crate) fn spare_backends(&self) -> impl Iterator<Item = (&str, Bytes)> {
        self.backends
            .iter()
            .filter(|(id, _)| !self.dimms.iter().any(|d| d.memdev == **id))
            .map(|(id, size)| (id.as_str(), *size))
    }

    pub(crate) fn has_device(&self, id: &str) -> bool {
        self.devices().any(|(d, ..)| d == id) || self.places.iter().any(|p| p.device() == Some(id))
    }

    pub(crate) fn dimm_total(&self) -> Bytes {
        self.dimms.iter().filter(|d| d.kind == DimmKind::Dimm).map(|d| d.size).sum()
    }

    /// The first address, ascending, at which `size` fits (memory_device_get_free_addr, hw/mem/memory-device.c).
    pub(crate) fn first_fit(&self, size: Bytes) -> Option<u64> {
        let mut devices: Vec<_> = self.devices().map(|(_, a, s)| (a, a.saturating_add(s.get()))).collect();
        devices.sort_unstable();
        let mut addr = self.base();
        for (start, end) in devices {
            if addr.saturating_add(size.get()) <= start {
                break;
            }
            addr = addr.max(Bytes::new(end).round_up(self.alignment).get());
        }
        (addr.saturating_add(size.get()) <= self.end()).then_some(addr)
    }
}

impl World {
    pub(crate) fn object_add(&mut self, memdev: &str, size: Bytes, backing: &Backing) -> Result<(), String> {
        if self.qemu.backends.contains_key(memdev) {
            return Err(format!("attempt to add duplicate property '{memdev}' to object (type 'container')"));
        }
        if let Some(page) = backing.page()
            && !size.is_multiple_of(page)
        {
            return Err(format!(
                "backend 'memory-backend-file' memory size must be multiple of {} MiB",
                page.count_of(Bytes::mib(1))
            ));
        }
        self.bears(size)?;
        self.qemu.backends.insert(memdev.to_owned(), size);
        Ok(())
    }

    /// What QEMU holds of the host's memory, all of it touched.
    pub fn host_memory(&self) -> Bytes {
        let devices: Bytes = self.qemu.virtio_mem.iter().map(|device| device.size).sum();
        self.qemu.boot + self.qemu.backends.values().copied().sum() + devices
    }

    /// The same with what virtio-mem devices are asked to hold, where that is more.
    pub fn host_memory_promised(&self) -> Bytes {
        let devices = self.qemu.virtio_mem.iter();
        self.host_memory() + devices.map(|device| device.requested.saturating_sub(device.size)).sum()
    }

    /// So much more memory is made: what may not be locked is refused (mmap(2), EAGAIN).
    pub(crate) fn bears(&mut self, more: Bytes) -> Result<(), String> {
        let held = self.host_memory() + more;
        if self.host.locks && self.host.lock_limit.is_some_and(|most| held > most) {
            return Err("cannot set up guest memory: Resource temporarily unavailable".into());
        }
        self.is_killed_at(held);
        Ok(())
    }

    /// What may not be held ends QEMU (mm/memcontrol.c, 6.1).
    pub(crate) fn is_killed_at(&mut self, held: Bytes) {
        if self.host.memory_limit.is_some_and(|most| held > most) {
            self.vanish("the host's kernel killed it: out of its control group's memory");
        }
    }

    pub(crate) fn object_del(&mut self, memdev: &str) -> Result<(), String> {
        if !self.qemu.backends.contains_key(memdev) {
            return Err(format!("object '{memdev}' not found"));
        }
        if !self.qemu.spare_backends().any(|(id, _)| id == memdev) {
            return Err(format!("object '{memdev}' is in use, can not be deleted"));
        }
        self.qemu.backends.remove(memdev);
        Ok(())
    }

    pub(crate) fn not_migrating(&self, command: &str) -> Result<(), String> {
        if self.qemu.busy.iter().any(|b| b == "migration") {
            return Err(format!("{command} not allowed while migrating"));
        }
        Ok(())
    }

    pub(crate) fn plug_dimm(&mut self, plug: &Plug) -> Result<(), String> {
        self.not_migrating("device_add")?;
        if self.qemu.has_device(plug.id) {
            return Err(format!("Duplicate device ID '{}'", plug.id));
        }
        let size = self.check_plug(plug)?;
        let addr = self.place_dimm(plug.addr, size)?;
        if self.dies_of_vcpu_removal() {
            self.vanish("double free or corruption (out)");
            return Ok(());
        }
        self.qemu.dimms.push(Stick {
            id: plug.id.to_owned(),
            memdev: plug.memdev.to_owned(),
            kind: DimmKind::Dimm,
            slot: plug.slot,
            node: plug.node,
            addr,
            size,
            hotplugged: true,
            ost: None,
            inserting: true,
            removing: false,
        });
        self.qemu.dimms.sort_by_key(|d| d.slot);
        // The guest hears of it, and of a removal that it was not told of before.
        self.clock.after(pace::ACPI, Happening::ScanDimms);
        Ok(())
    }

    /// As libvirt does it: a DIMM with its backend, or nothing (qemuDomainAttachMemory, 9.0).
    pub(crate) fn attach_dimm(&mut self, plug: &Plug, size: Bytes) -> Result<(), String> {
        if self.qemu.manager != Manager::Libvirt {
            return Err("QEMU by itself makes no backend with a DIMM".into());
        }
        let backing = self.qemu.backing.clone();
        self.object_add(plug.memdev, size, &backing)?;
        self.plug_dimm(plug).inspect_err(|_| {
            self.qemu.backends.remove(plug.memdev);
        })
    }

    /// What QEMU checks before it looks for an address; gives the backend's size.
    fn check_plug(&self, plug: &Plug) -> Result<Bytes, String> {
        let qemu = &self.qemu;
        let Some(size) = qemu.backends.get(plug.memdev).copied() else {
            return Err(format!("Device '{}' not found", plug.memdev));
        };
        if !qemu.spare_backends().any(|(id, _)| id == plug.memdev) {
            return Err(format!("can't use already busy memdev: {}", plug.memdev));
        }
        let nodes = qemu.nodes.len();
        if plug.node as usize >= nodes {
            return Err(format!(
                "'DIMM property node has value {}' which exceeds the number of numa nodes: {nodes}",
                plug.node
            ));
        }
        if qemu.slots == 0 {
            return Err("no slots where allocated, please specify the 'slots' option".into());
        }
        if plug.slot >= qemu.slots {
            return Err(format!("invalid slot number {}, valid range is [0-{}]", plug.slot, qemu.slots - 1));
        }
        if qemu.dimms.iter().any(|d| d.slot == plug.slot) {
            return Err(format!("slot {} is busy", plug.slot));
        }
        if let Some(most) = self.host.vhost_regions
            && 1 + qemu.devices().count() as u64 >= u64::from(most)
        {
            return Err("a used vhost backend has no free memory slots left".into());
        }
        Ok(size)
    }

    fn place_dimm(&self, addr: Option<u64>, size: Bytes) -> Result<u64, String> {
        let qemu = &self.qemu;
        let used: Bytes = qemu.devices().map(|(_, _, s)| s).sum();
        let space = qemu.ceiling.saturating_sub(qemu.boot);
        if used + size > space {
            return Err(format!(
                "not enough space, currently {:#x} in use of total space for memory devices {:#x}",
                used.get(),
                space.get()
            ));
        }
        if !size.is_multiple_of(qemu.alignment) {
            return Err(format!("backend memory size must be multiple of {:#x}", qemu.alignment.get()));
        }
        let Some(addr) = addr else {
            return qemu.first_fit(size).ok_or_else(|| {
                "could not find position in guest address space for memory device - memory fragmented due to \
                 alignments"
                    .into()
            });
        };
        if !Bytes::new(addr).is_multiple_of(qemu.alignment) {
            return Err(format!("address must be aligned to {:#x} bytes", qemu.alignment.get()));
        }
        let end = addr.saturating_add(size.get());
        if addr < qemu.base() || end > qemu.end() {
            return Err(format!(
                "can't add memory device [{addr:#x}:{:#x}], usable range for memory devices [{:#x}:{:#x}]",
                size.get(),
                qemu.base(),
                qemu.end() - qemu.base()
            ));
        }
        match qemu.devices().find(|(_, a, s)| addr < a.saturating_add(s.get()) && *a < end) {
            Some((id, ..)) => Err(format!("address range conflicts with memory device id='{id}'")),
            None => Ok(addr),
        }
    }

    /// `device_del` of a DIMM: accepted, as often as it is asked; what becomes of it the guest decides.
    pub(crate) fn unplug_dimm(&mut self, id: &str) -> Result<(), String> {
        self.not_migrating("device_del")?;
        let deaf = self.is(&Mood::NoAcpi) || self.is(&Mood::NeedsProbe);
        let Some(stick) = self.qemu.dimms.iter_mut().find(|d| !id.is_empty() && d.id == id) else {
            return Err(format!("Device '{id}' not found"));
        };
        if stick.kind == DimmKind::Nvdimm {
            return Err("nvdimm device hot unplug is not supported yet.".into());
        }
        stick.removing = true;
        if !deaf {
            self.clock.after(pace::ACPI, Happening::ScanDimms);
        }
        Ok(())
    }

    /// The guest's ACPI driver looks at all slots. In each an insertion comes first and hides a removal until the next
    /// look (build_memory_hotplug_aml, hw/acpi/memory_hotplug.c).
    pub(crate) fn scan_dimms(&mut self) {
        if self.is(&Mood::NeedsProbe) {
            return;
        }
        let ids: Vec<String> = self.qemu.dimms.iter().map(|d| d.id.clone()).collect();
        for id in ids {
            let Some(stick) = self.qemu.dimms.iter_mut().find(|d| d.id == id) else { continue };
            if stick.inserting {
                stick.inserting = false;
                let (addr, size) = (stick.addr, stick.size);
                self.memory_appears(&id, addr, size);
                self.dimm_ost(&id, 1, 0);
            } else if stick.removing {
                stick.removing = false;
                if self.is_letting_go(&id) {
                    // Linux works its requests off one by one: this one finds the device gone, or kept already.
                    continue;
                }
                self.dimm_ost(&id, 3, 0x84);
                let late = self.ejects_late();
                let what = match self.empties(&id) {
                    true => Happening::Eject(id),
                    false => Happening::Keep(id),
                };
                self.clock.after(pace::EJECT + late, what);
            }
        }
    }

    /// True while the guest's answer to an earlier request is under way.
    pub(crate) fn is_letting_go(&self, id: &str) -> bool {
        let eject = Happening::Eject(id.to_owned());
        self.clock.is_decided(&eject) || self.clock.is_decided(&Happening::Keep(id.to_owned()))
    }

    /// The kernel takes all blocks of a DIMM offline, or none (acpi_scan_hot_remove, drivers/acpi/scan.c, 6.1).
    fn empties(&mut self, id: &str) -> bool {
        let before = self.guest.blocks.clone();
        let done = self.guest.blocks_of(id).iter().all(|index| self.offline_block(*index).is_ok());
        if !done {
            self.guest.blocks = before;
        }
        done
    }

    /// The guest's last word on a DIMM's slot.
    pub(crate) fn dimm_ost(&mut self, id: &str, source: u64, status: u64) {
        let Some(stick) = self.qemu.dimms.iter_mut().find(|d| d.id == id) else { return };
        stick.ost = Some(Ost { source, status });
        let slot = stick.slot.to_string();
        let device = Some(id.to_owned());
        self.tell(Event::Ost { slot_type: "DIMM".into(), slot, device, source, status });
    }

    /// A heap that is damaged once a vCPU was removed ends it when a DIMM comes or goes or a vCPU comes.
    pub(crate) fn dies_of_vcpu_removal(&self) -> bool {
        self.qemu.accel == Accel::Tcg
            && DIES_AFTER_A_VCPU_REMOVAL.is_in(self.qemu.version)
            && self.qemu.vcpu_removed
    }

    /// The guest lets a DIMM go. Its last word comes after the device is gone and names only the slot.
    pub(crate) fn dimm_leaves(&mut self, id: &str) {
        if self.dies_of_vcpu_removal() {
            return self.vanish("double free or corruption (out)");
        }
        let Some(index) = self.qemu.dimms.iter().position(|d| d.id == id) else { return };
        let stick = self.qemu.dimms.remove(index);
        if self.qemu.manager == Manager::Libvirt {
            self.qemu.backends.remove(&stick.memdev);
        }
        self.memory_disappears(id);
        self.tell(Event::DeviceDeleted { id: id.to_owned() });
        let slot = stick.slot.to_string();
        self.tell(Event::Ost { slot_type: "DIMM".into(), slot, device: None, source: 3, status: 0 });
    }

    /// QEMU ends.
    pub(crate) fn vanish(&mut self, why: &str) {
        self.note(format!("QEMU: gone: {why}"));
        self.qemu.gone = Some(why.to_owned());
        self.clock.forget(|_| false);
        self.tell(Event::Gone { why: why.to_owned() });
    }
}
