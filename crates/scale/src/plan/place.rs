//! The steps of a DIMM layout: ids, slots, addresses, zones, proofs, deadlines and undo.
//!
//! A DIMM that comes is one group (backend, device, onlining), one that goes is one (offlining, device, backend): each
//! DIMM stands or is taken back by itself, so a guest that refuses one does not cost the others.

use super::layout::{Layout, Move};
use super::make::{Part, Scene, delete_backend, make_known, scaled, step};
use super::zone::{Zones, shown_by};
use super::{Act, OWN_PREFIX, OWN_PREFIX_IN_LIBVIRT, Obstacle, Proof, Step, Strength, When, Zone, system};
use crate::observed::{Dimm, Manager};
use crate::time::Span;
use crate::units::Bytes;
use std::collections::BTreeSet;

/// What a page's structure costs: 64 bytes for each 4 KiB (struct page, Linux x86-64 and arm64).
const METADATA: u64 = 64;

/// Why a layout cannot be carried out.
pub(super) enum NoPlace {
    /// A DIMM is too large for the guest; smaller ones may do.
    TooLarge(Obstacle),
    /// The zone that was asked for cannot be had.
    Zone(Obstacle),
}

/// Slots that hold nothing and that no pending removal names, ascending.
pub(super) fn open_slots(scene: &Scene<'_>) -> Vec<u32> {
    scene.seen.memory.free_slots()
}

/// What the ids of our own DIMMs begin with.
pub(super) fn own_prefix(manager: Manager) -> &'static str {
    match manager {
        Manager::Nobody => OWN_PREFIX,
        Manager::Libvirt => OWN_PREFIX_IN_LIBVIRT,
    }
}

/// The steps of a layout.
pub(super) fn steps(scene: &Scene<'_>, layout: &Layout, hotplugged: Bytes) -> Result<Part, NoPlace> {
    let mut place = Place::new(scene, hotplugged);
    let mut part = Part::default();
    for change in &layout.moves {
        match change {
            Move::Add { size, node, addr } => {
                let zone = place.zones.next(*size).map_err(NoPlace::Zone)?;
                place.pay_metadata(*size, zone).map_err(NoPlace::TooLarge)?;
                part.groups.extend(place.plug(*size, *node, zone, *addr));
                part.adds_memory = true;
            }
            Move::Remove { stick } => {
                let dimm = &scene.seen.memory.dimms[*stick];
                part.idle = part.idle + scene.footing.idle(dimm.addr, dimm.size, dimm.size);
                part.groups.push(place.unplug(dimm));
            }
        }
    }
    part.notes = place.notes(layout);
    Ok(part)
}

struct Place<'a> {
    scene: &'a Scene<'a>,
    slots: BTreeSet<u32>,
    /// What the names of new devices and of their backends are, but for the number.
    stems: [String; 2],
    /// Numbers that are in such names already.
    taken: BTreeSet<u32>,
    next: u32,
    zones: Zones<'a>,
    kernel_free: Bytes,
    plugged: Bytes,
}

impl<'a> Place<'a> {
    fn new(scene: &'a Scene<'a>, hotplugged: Bytes) -> Place<'a> {
        let memory = &scene.seen.memory;
        let devices = memory.dimms.iter().flat_map(|d| [d.id.as_str(), d.memdev.as_str()]);
        let backends = memory.unused_backends.iter().map(|b| b.id.as_str());
        let pending = scene.seen.pending.iter().map(|p| p.device.id());
        let device = format!("{}dimm", own_prefix(scene.seen.machine.manager));
        let backend = match scene.seen.machine.manager {
            Manager::Nobody => format!("{OWN_PREFIX}mem"),
            Manager::Libvirt => format!("mem{device}"),
        };
        let stems = [device, backend];
        let number =
            |name: &str| stems.iter().find_map(|stem| name.strip_prefix(stem.as_str())?.parse().ok());
        Place {
            scene,
            slots: open_slots(scene).into_iter().collect(),
            taken: devices.chain(backends).chain(pending).filter_map(number).collect(),
            stems,
            next: 0,
            zones: Zones::new(scene, hotplugged),
            kernel_free: scene.footing.kernel_free.unwrap_or(memory.boot.per(8)),
            plugged: Bytes::ZERO,
        }
    }

    /// The guest's kernel must find the metadata of each DIMM in its own memory before it can use the DIMM. What goes
    /// online for the kernel adds to that memory, what is movable does not.
    fn pay_metadata(&mut self, size: Bytes, zone: Zone) -> Result<(), Obstacle> {
        let most = self.kernel_free.times(self.scene.limits.metadata_ratio);
        if size > most {
            let held = if self.scene.footing.kernel_free.is_some() { "has" } else { "is taken to have" };
            return Err(Obstacle {
                when: When::NotNow,
                reason: format!(
                    "the guest needs 1/{METADATA} of new memory from its kernel's own, and {held} {} free there, which \
                     carries {most} more at once, {} of what is asked having been added",
                    self.kernel_free, self.plugged,
                ),
                way_out: "free memory in the guest, or ask for less".to_owned(),
            });
        }
        self.kernel_free = self.kernel_free.saturating_sub(size.per(METADATA));
        if self.zones.adds_to_kernel(zone) {
            self.kernel_free = self.kernel_free + size;
        }
        self.plugged = self.plugged + size;
        Ok(())
    }

    /// One group; where the DIMM cannot be taken back, what the guest makes of it is one of its own, so that nothing is
    /// taken back beneath it.
    fn plug(&mut self, size: Bytes, node: u32, zone: Zone, addr: Option<u64>) -> Vec<Vec<Step>> {
        let (scene, limits) = (self.scene, self.scene.limits);
        let (id, memdev) = self.fresh_ids();
        let slot = self.slots.pop_first().expect("a layout takes no more slots than are open");
        let (backing, placement) = scene.seen.memory.source_of_node(node);
        let prealloc = placement.prealloc || backing.page().is_some();
        let making = if prealloc { scaled(limits.monitor, limits.per_gib, size) } else { limits.monitor };
        let (create, brings, appear) = match scene.seen.machine.manager {
            Manager::Nobody => {
                let create = step(
                    Act::CreateBackend { memdev: memdev.clone(), size, backing, placement },
                    Proof::BackendExists { memdev: memdev.clone() },
                    Strength::DeviceOnly,
                    making,
                    vec![Act::DeleteBackend { memdev: memdev.clone() }],
                );
                (Some(create), None, limits.appear)
            }
            Manager::Libvirt => (None, Some(size), making + limits.appear),
        };
        let footing = &scene.footing;
        let undo = self.unplug_again(&id, &memdev, slot);
        let (proof, seen, appear) = self.shown(&id, appear);
        let plug = step(
            Act::PlugDimm { id: id.clone(), memdev, brings, slot, node, addr },
            proof,
            seen,
            appear,
            undo,
        );
        let mut group: Vec<Step> = create.into_iter().chain([plug]).collect();
        if footing.probes {
            let back = vec![Act::OfflineBlocks { device: id.clone() }];
            group.push(make_known(&id, size, back, limits));
        }
        let online = self.online(id, size, zone);
        match system::keeps_dimms_for_good(scene) {
            Some(_) => [group, online.into_iter().collect()].into_iter().filter(|g| !g.is_empty()).collect(),
            None => {
                group.extend(online);
                vec![group]
            }
        }
    }

    /// What shows that a DIMM is there, how strongly, and in what time.
    fn shown(&self, id: &str, appear: Span) -> (Proof, Strength, Span) {
        let (scene, footing) = (self.scene, &self.scene.footing);
        let (plugged, seen) = (Proof::DimmPlugged { id: id.into() }, Proof::DimmSeen { id: id.into() });
        if footing.shows_blocks && !footing.probes {
            (seen, Strength::GuestConfirmed, appear)
        } else if footing.probes || (!system::acknowledges(scene) && footing.stats.is_some()) {
            // A later step shows what the guest makes of it.
            (plugged, Strength::DeviceOnly, appear)
        } else if system::acknowledges(scene) {
            (seen, Strength::DriverConfirmed, appear)
        } else {
            (seen, Strength::DeviceOnly, scene.limits.acknowledge)
        }
    }

    /// The way back from a plug; none where the system is known never to give a DIMM back.
    fn unplug_again(&self, id: &str, memdev: &str, slot: u32) -> Vec<Act> {
        let footing = &self.scene.footing;
        if system::keeps_dimms_for_good(self.scene).is_some() {
            return Vec::new();
        }
        let unplug = Act::UnplugDimm { id: id.to_owned(), memdev: memdev.to_owned(), slot };
        // A guest that onlines by itself may have done so with part of it when the plug is given up.
        match footing.sets_blocks && footing.onlines_itself() {
            true => vec![Act::OfflineBlocks { device: id.to_owned() }, unplug],
            false => vec![unplug],
        }
    }

    /// Bringing a DIMM into use, or waiting until the guest has done so by itself.
    fn online(&self, id: String, size: Bytes, zone: Zone) -> Option<Step> {
        let (footing, limits) = (&self.scene.footing, self.scene.limits);
        let deadline = scaled(limits.online, limits.online, size);
        let blocks_online = Proof::BlocksOnline { device: id.clone(), whole: true };
        if footing.sets_blocks {
            let back = vec![Act::OfflineBlocks { device: id.clone() }];
            let proof = shown_by(zone, &id, true, true);
            let act = Act::OnlineBlocks { device: id, zone };
            return Some(step(act, proof, Strength::GuestConfirmed, deadline, back));
        }
        let await_online = Act::AwaitOnline { device: id };
        if footing.shows_blocks {
            return Some(step(await_online, blocks_online, Strength::GuestConfirmed, deadline, Vec::new()));
        }
        // Not all of a DIMM need arrive in MemTotal: its page structures may lie in itself (memmap_on_memory).
        let grown = self.plugged - self.plugged.per(METADATA / 2);
        let total = Proof::GuestTotal { at_least: footing.stats?.total + grown };
        Some(step(await_online, total, Strength::DriverConfirmed, deadline, Vec::new()))
    }

    fn unplug(&mut self, dimm: &Dimm) -> Vec<Step> {
        let (scene, limits) = (self.scene, self.scene.limits);
        let footing = &scene.footing;
        let blocks = footing.blocks_in(&dimm.blocks(footing.block));
        let online = blocks.iter().filter(|b| b.online).count() as u64;
        let zone = if footing.chooses_zone { Zone::AsBefore } else { Zone::Default };
        let back = Act::OnlineBlocks { device: dimm.id.clone(), zone };
        let (id, memdev) = (dimm.id.clone(), dimm.memdev.clone());
        let mut group = vec![
            step(
                Act::OfflineBlocks { device: id.clone() },
                Proof::BlocksOffline { device: id.clone() },
                Strength::GuestConfirmed,
                limits.offline_block.times(online.max(1)),
                if online > 0 { vec![back] } else { Vec::new() },
            ),
            step(
                Act::UnplugDimm { id: id.clone(), memdev: memdev.clone(), slot: dimm.slot },
                Proof::DimmGone { id },
                Strength::DriverConfirmed,
                limits.unplug,
                Vec::new(),
            ),
        ];
        if !memdev.is_empty() && scene.seen.machine.manager == Manager::Nobody {
            group.push(delete_backend(&memdev, limits));
        }
        self.slots.insert(dimm.slot);
        self.zones.gone(dimm.size);
        group
    }

    /// The lowest number that no device, backend or pending removal has.
    fn fresh_ids(&mut self) -> (String, String) {
        let number = (self.next..).find(|number| !self.taken.contains(number)).expect("endless");
        self.next = number + 1;
        let [device, backend] = &self.stems;
        (format!("{device}{number}"), format!("{backend}{number}"))
    }

    fn notes(&self, layout: &Layout) -> Vec<String> {
        let footing = &self.scene.footing;
        let mut notes = Vec::new();
        let adds = layout.moves.iter().any(|m| !m.added().is_zero());
        let removes = layout.moves.iter().any(|m| m.added().is_zero());
        if adds && removes {
            notes.push(
                "DIMMs are merged: one is added before the ones that it takes the place of are removed"
                    .into(),
            );
        }
        if removes && footing.usage.is_none() {
            notes.push(
                "the guest does not tell how much memory it uses; its blocks are emptied one by one".into(),
            );
        }
        if !adds {
            return notes;
        }
        if !footing.block_is_told {
            notes.push(format!("the guest does not tell its memory block; {} are assumed", footing.block));
        }
        if footing.kernel_free.is_none() {
            notes.push(format!(
                "the guest does not tell its free memory; {} are taken as free for the metadata of new memory",
                self.scene.seen.memory.boot.per(8)
            ));
        }
        if footing.probes {
            notes.push(format!(
                "the guest's kernel has a file `probe`: memory that it does not find by itself within {} is made known \
                 to it there, block by block",
                self.scene.limits.probe_after
            ));
        }
        if !footing.shows_blocks {
            let proof = match (footing.stats, system::acknowledges(self.scene)) {
                (Some(_), _) => "its balloon driver's count",
                (None, true) => "its ACPI driver's acknowledgement",
                (None, false) => "QEMU's word, and its ACPI driver's should that acknowledge it",
            };
            notes.push(format!("no agent shows the guest's memory blocks; the proof is {proof}"));
        }
        if let Some(system) = system::keeps_dimms_for_good(self.scene) {
            notes.push(format!("{system} gives no DIMM back while it runs: what is plugged stays"));
        }
        notes.extend(self.zones.note());
        notes
    }
}
