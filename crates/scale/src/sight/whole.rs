//! A narrow question answered from an observation of everything, where that holds the answer. It says the same as the
//! driver's own answer to the question, or nothing.

use super::{BlocksSight, GuestView, Look, Sight};
use crate::observed::{GuestFacts, Observed, blocks_of};

impl Look {
    /// What `seen` says to this, as far as a limit, a disk, or a guest's blocks and vCPUs are asked for and it tells of
    /// them.
    pub fn answered_by(&self, seen: &Observed) -> Option<Sight> {
        match self {
            Look::Blocks(device) => blocks(device, seen, seen.guest.heard()?),
            Look::Vcpus => {
                let vcpus = Some(seen.guest.heard()?.vcpus.clone()).filter(|vcpus| !vcpus.is_empty());
                vcpus.map(|vcpus| Sight::Vcpus(GuestView::Shows(vcpus)))
            }
            Look::Setting(name) => {
                let setting = seen.settings().into_iter().find(|setting| setting.name() == *name);
                setting.map(|setting| Sight::Setting(Some(setting)))
            }
            // One that was seen from outside alone tells why the guest does not show it, be it that it was not asked.
            Look::Disk(name) => {
                let disk =
                    seen.disks().iter().find(|disk| disk.name == *name && disk.guest.known().is_some());
                disk.map(|disk| Sight::Disk(Some(Box::new(disk.clone()))))
            }
            Look::Backend(_)
            | Look::Dimm(_)
            | Look::DimmDevice(_)
            | Look::VirtioMem(_)
            | Look::Zones(_)
            | Look::GuestTotal
            | Look::Balloon
            | Look::Vcpu(_)
            | Look::VcpuDevice(_)
            | Look::DiskDevice(_) => None,
        }
    }
}

fn blocks(device: &str, seen: &Observed, facts: &GuestFacts) -> Option<Sight> {
    let block = facts.block.filter(|_| !facts.blocks.is_empty())?;
    let memory = &seen.memory;
    let dimm = memory.dimms.iter().find(|dimm| dimm.id == device).map(|dimm| {
        let range = dimm.blocks(block);
        let covers = range.end - range.start;
        (range, covers)
    });
    let virtio_mem = || {
        let device = memory.virtio_mem.iter().find(|other| other.id == device)?;
        Some((blocks_of(device.addr, device.max, block), device.size.count_of(block)))
    };
    let (range, covers) = dimm.or_else(virtio_mem)?;
    let blocks = facts.blocks_in(&range);
    Some(Sight::Blocks(Some(GuestView::Shows(BlocksSight { block, covers, blocks }))))
}
