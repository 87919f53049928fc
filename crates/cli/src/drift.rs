//! Where QEMU, the guest and the journal differ, and what would set it right. Pure: from an observation to sentences.

use scale::observed::{
    Dimm, DimmKind, GuestFacts, MemBlock, Observed, PendingDevice, VcpuState, VirtioMem, blocks_of,
};
use scale::plan::{OWN_PREFIX, Sizes};
use serde::Serialize;

use crate::words::{about, ago, as_value, count};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drift {
    /// What it is about: a device's id, `memory` or `vcpus`.
    pub(crate) subject: String,
    /// Of what kind it is.
    pub(crate) kind: Kind,
    /// The difference, for people.
    pub(crate) what: String,
    /// What would set it right; absent where nothing is to be done.
    pub(crate) way_out: Option<String>,
}

/// The kinds of difference. Their names are part of the JSON that users read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// QEMU lists it and the guest does not show it.
    NotShown,
    /// The guest shows it and does not use it.
    Offline,
    /// The guest holds more or less than was requested of it.
    NotAsRequested,
    /// A removal is asked of the guest, which has neither done nor refused it.
    Pending,
    /// The guest refused to give it up.
    Refused,
    /// Memory of the host that no device uses.
    Unused,
}

/// The subject of differences of the memory as a whole.
pub(crate) const MEMORY: &str = "memory";
/// The subject of differences of the vCPUs as a whole.
pub(crate) const VCPUS: &str = "vcpus";

/// How many blocks of a range the guest shows, how many of those are online, and how many there should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) covered: u64,
    pub(crate) shown: u64,
    pub(crate) online: u64,
}

impl Blocks {
    /// The guest's blocks from address `addr` on; nothing where the guest does not tell of blocks.
    pub(crate) fn of_range(seen: &Observed, addr: u64, size: scale::units::Bytes) -> Option<Blocks> {
        let (facts, block) = facts_with_blocks(seen)?;
        let range = blocks_of(addr, size, block);
        Some(Blocks::count(&facts.blocks_in(&range), range.end - range.start))
    }

    /// The guest's blocks that belong to no memory device: those of the boot memory.
    pub(crate) fn of_boot(seen: &Observed) -> Option<Blocks> {
        let (facts, block) = facts_with_blocks(seen)?;
        let memory = &seen.memory;
        let dimms = memory.dimms.iter().map(|d| d.blocks(block));
        let devices: Vec<_> =
            dimms.chain(memory.virtio_mem.iter().map(|v| blocks_of(v.addr, v.max, block))).collect();
        let boot: Vec<MemBlock> =
            facts.blocks.iter().filter(|b| !devices.iter().any(|d| d.contains(&b.index))).copied().collect();
        Some(Blocks::count(&boot, boot.len() as u64))
    }

    fn count(blocks: &[MemBlock], covered: u64) -> Blocks {
        let online = blocks.iter().filter(|b| b.online).count() as u64;
        Blocks { covered, shown: blocks.len() as u64, online }
    }
}

fn facts_with_blocks(seen: &Observed) -> Option<(&GuestFacts, scale::units::Bytes)> {
    let facts = seen.guest.heard()?;
    let block = facts.block.filter(|b| !b.is_zero() && !facts.blocks.is_empty())?;
    Some((facts, block))
}

/// All differences, in the order in which an observation is shown.
pub(crate) fn drift(seen: &Observed) -> Vec<Drift> {
    let mut found = Vec::new();
    found.extend(boot_memory(seen));
    for dimm in seen.memory.dimms.iter().filter(|d| d.kind == DimmKind::Dimm) {
        found.extend(of_dimm(seen, dimm));
    }
    for device in &seen.memory.virtio_mem {
        found.extend(of_virtio_mem(seen, device));
    }
    for backend in seen.memory.unused_backends.iter().filter(|b| b.id.starts_with(OWN_PREFIX)) {
        found.push(Drift {
            subject: backend.id.clone(),
            kind: Kind::Unused,
            what: "no device uses it".to_owned(),
            way_out: Some("the next `supple apply --memory` uses it or gives it back".to_owned()),
        });
    }
    found.extend(of_vcpus(seen));
    found
}

fn boot_memory(seen: &Observed) -> Option<Drift> {
    let blocks = Blocks::of_boot(seen)?;
    let offline = blocks.shown - blocks.online;
    (offline > 0).then(|| Drift {
        subject: MEMORY.to_owned(),
        kind: Kind::Offline,
        what: format!("{} of boot memory not online", count(offline, "block")),
        way_out: Some("the guest took them offline itself; online them there".to_owned()),
    })
}

fn of_dimm(seen: &Observed, dimm: &Dimm) -> Option<Drift> {
    let make = |kind, what, way_out| Some(Drift { subject: dimm.id.clone(), kind, what, way_out });
    if let Some(pending) = pending(seen, &dimm.id) {
        return make(Kind::Pending, pending, None);
    }
    let refused = dimm.ost.and_then(|ost| ost.refusal());
    let Some(blocks) = Blocks::of_range(seen, dimm.addr, dimm.size) else {
        return refused.and_then(|why| make(Kind::Refused, format!("its removal was refused: {why}"), None));
    };
    let again = format!("`supple apply --memory {}` onlines them", as_value(Sizes::of(seen).memory));
    let offline = blocks.covered.saturating_sub(blocks.online);
    if blocks.shown == 0 {
        let way_out = if seen.guest.heard().is_some_and(|facts| facts.has_probe) {
            format!(
                "`supple apply --memory {}` tells the guest's kernel of it",
                as_value(Sizes::of(seen).memory)
            )
        } else {
            "the guest's kernel may lack memory hot-plug, or have no room to describe new memory".to_owned()
        };
        make(Kind::NotShown, "plugged, but the guest does not show it".to_owned(), Some(way_out))
    } else if offline > 0 {
        let what = format!("{offline} of {} not online", count(blocks.covered, "block"));
        make(Kind::Offline, what, Some(again))
    } else {
        refused.and_then(|why| make(Kind::Refused, format!("its removal was refused: {why}"), None))
    }
}

fn of_virtio_mem(seen: &Observed, device: &VirtioMem) -> Option<Drift> {
    let make = |kind, what, way_out| Some(Drift { subject: device.id.clone(), kind, what, way_out });
    let again = format!("`supple apply --memory {}`", as_value(Sizes::of(seen).memory));
    if device.size != device.requested {
        let what = format!("the guest holds {} of {} requested", about(device.size), about(device.requested));
        return make(Kind::NotAsRequested, what, Some(format!("{again} settles it there")));
    }
    let blocks = Blocks::of_range(seen, device.addr, device.max)?;
    let offline = blocks.shown - blocks.online;
    if offline == 0 {
        return None;
    }
    let what = format!("{offline} of {} not online", count(blocks.shown, "block"));
    make(Kind::Offline, what, Some(format!("{again} onlines them")))
}

fn of_vcpus(seen: &Observed) -> Vec<Drift> {
    let make =
        |subject: &str, kind, what, way_out| Drift { subject: subject.to_owned(), kind, what, way_out };
    let mut found = Vec::new();
    for slot in &seen.vcpus.slots {
        let VcpuState::Device(id) = &slot.state else { continue };
        if let Some(pending) = pending(seen, id) {
            found.push(make(id, Kind::Pending, format!("vCPU {id}: {pending}"), None));
        } else if let Some(why) = slot.ost.and_then(|ost| ost.refusal()) {
            found.push(make(id, Kind::Refused, format!("removal of vCPU {id} was refused: {why}"), None));
        }
    }
    let Some(facts) = seen.guest.heard().filter(|facts| !facts.vcpus.is_empty()) else { return found };
    let (plugged, shown) = (u64::from(seen.vcpus.plugged()), facts.vcpus.len() as u64);
    let online = u64::from(facts.online_vcpus());
    // Without hot-plug QEMU lists no places, and there is nothing to compare with.
    if !seen.vcpus.slots.is_empty() && shown < plugged {
        let what = format!("{} plugged, the guest shows {shown}", count(plugged, "vCPU"));
        let way_out = "the guest's kernel may be limited to fewer (nr_cpus, possible_cpus)".to_owned();
        found.push(make(VCPUS, Kind::NotShown, what, Some(way_out)));
    }
    if online < shown {
        let what = format!("{} of {} not online", shown - online, count(shown, "vCPU"));
        let way_out = format!("`supple apply --vcpus {}` onlines them", plugged.max(1));
        found.push(make(VCPUS, Kind::Offline, what, Some(way_out)));
    }
    found
}

fn pending(seen: &Observed, id: &str) -> Option<String> {
    let pending = seen.pending.iter().find(|p| p.device.id() == id)?;
    let since = ago(pending.since, seen.at);
    Some(match &pending.device {
        PendingDevice::Dimm { .. } | PendingDevice::Vcpu { .. } => {
            format!("removal asked {since}; the guest has not answered and may still grant it")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use scale::observed::{Backend, Guest, Ost};

    fn with_facts(change: impl Fn(&mut GuestFacts)) -> Observed {
        let mut seen = example::in_agreement();
        if let Guest::Heard(facts) = &mut seen.guest {
            change(facts);
        }
        seen
    }

    fn kinds(seen: &Observed) -> Vec<(String, Kind)> {
        drift(seen).into_iter().map(|d| (d.subject, d.kind)).collect()
    }

    #[test]
    fn a_machine_in_agreement_has_no_difference() {
        assert_eq!(drift(&example::in_agreement()), []);
    }

    #[test]
    fn plugged_is_not_online() {
        let found = drift(&example::observed());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].kind, found[0].what.as_str()), (Kind::Offline, "8 of 16 blocks not online"));
        assert_eq!(found[0].way_out.as_deref(), Some("`supple apply --memory 3GiB` onlines them"));
    }

    #[test]
    fn a_dimm_that_the_guest_does_not_show_is_not_called_offline() {
        let seen = with_facts(|facts| facts.blocks.retain(|b| b.index < 32));
        assert_eq!(kinds(&seen), [("supple-dimm0".to_owned(), Kind::NotShown)]);
        let told = with_facts(|facts| {
            facts.blocks.retain(|b| b.index < 32);
            facts.has_probe = true;
        });
        let way_out = drift(&told).remove(0).way_out.expect("a way out");
        assert_eq!(way_out, "`supple apply --memory 3GiB` tells the guest's kernel of it");
    }

    #[test]
    fn a_guest_without_blocks_is_not_said_to_lack_any() {
        let seen = with_facts(|facts| facts.blocks.clear());
        assert_eq!(kinds(&seen), []);
    }

    #[test]
    fn boot_memory_can_be_offline_too() {
        let seen = with_facts(|facts| facts.blocks[7].online = false);
        assert_eq!(kinds(&seen), [(MEMORY.to_owned(), Kind::Offline)]);
    }

    #[test]
    fn vcpus_differ_in_number_and_in_use() {
        let seen = with_facts(|facts| facts.vcpus[2].online = false);
        assert_eq!(kinds(&seen), [(VCPUS.to_owned(), Kind::Offline)]);
        let seen = with_facts(|facts| facts.vcpus.truncate(2));
        assert_eq!(kinds(&seen), [(VCPUS.to_owned(), Kind::NotShown)]);
    }

    #[test]
    fn the_guests_last_no_is_told() {
        let mut seen = example::in_agreement();
        seen.memory.dimms[0].ost = Some(Ost { source: 0x103, status: 0x82 });
        seen.vcpus.slots[1].ost = Some(Ost { source: 0x103, status: 0x80 });
        let refused = |id: &str| (id.to_owned(), Kind::Refused);
        assert_eq!(kinds(&seen), [refused("supple-dimm0"), refused("supple-cpu1")]);
    }

    #[test]
    fn only_host_memory_of_our_own_making_is_called_unused() {
        let mut seen = example::in_agreement();
        let backend = |id: &str| Backend { id: id.to_owned(), size: scale::units::Bytes::gib(1) };
        seen.memory.unused_backends = vec![backend("ram-node0"), backend("supple-mem7")];
        assert_eq!(kinds(&seen), [("supple-mem7".to_owned(), Kind::Unused)]);
    }

    #[test]
    fn a_virtio_mem_device_short_of_its_request_is_told() {
        let mut seen = example::in_agreement();
        let gib = scale::units::Bytes::gib;
        seen.memory.virtio_mem = vec![VirtioMem {
            id: "vmem0".to_owned(),
            node: 0,
            addr: 0x2_0000_0000,
            block: scale::units::Bytes::mib(2),
            max: gib(4),
            requested: gib(2),
            size: gib(1),
        }];
        assert_eq!(kinds(&seen), [("vmem0".to_owned(), Kind::NotAsRequested)]);
        seen.memory.virtio_mem[0].requested = gib(1);
        assert_eq!(kinds(&seen), []);
    }
}
