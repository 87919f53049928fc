//! A machine that does what it is told, and panics where QEMU or Linux would not.

use scale::observed::*;
use scale::plan::{Act, Plan, Step};
use scale::setting::Setting;
use scale::units::Bytes;

/// Carries a whole plan out.
pub(crate) fn carry_out(mut seen: Observed, plan: &Plan) -> Observed {
    for step in &plan.steps {
        act(&mut seen, &step.act);
    }
    seen
}

/// Carries `steps` out up to the one that breaks, then takes its group back, as a run does.
pub(crate) fn break_at(mut seen: Observed, steps: &[Step], broken: usize) -> Observed {
    for step in &steps[..=broken] {
        act(&mut seen, &step.act);
    }
    let group = steps[broken].group;
    for step in steps[..=broken].iter().rev().take_while(|s| s.group == group) {
        for undo in &step.undo {
            act(&mut seen, undo);
        }
    }
    seen
}

/// Writes a limit down, as its host would show it from then on.
fn set(seen: &mut Observed, from: &Setting, to: &Setting) {
    let now = seen.settings().into_iter().find(|setting| setting.name() == to.name());
    let free = matches!(from, Setting::IpRate { rate, .. } if rate.is_free());
    assert!(now.as_ref() == Some(from) || now.is_none() && free, "{from} was {now:?}");
    match to {
        Setting::CpuPower(power) => seen.power = Known::Is(*power),
        Setting::Memory { most } => seen.host.memory_limit = Some(*most),
        Setting::Locked { most } => seen.host.lock_limit = Some(*most),
        Setting::DiskIo { disk, io } => disk_mut(seen, disk).io = Known::Is(io.clone()),
        Setting::NicRate { nic, rate } => nic_mut(seen, nic).rate = Known::Is(*rate),
        Setting::IpRate { nic, ip, rate } => {
            let Known::Is(ips) = &mut nic_mut(seen, nic).ips else { panic!("{nic} has no such limits") };
            ips.retain(|of| of.ip != *ip);
            if !rate.is_free() {
                ips.push(IpRate { ip: *ip, rate: *rate });
                ips.sort_by_key(|of| of.ip);
            }
        }
    }
}

fn disk_mut<'a>(seen: &'a mut Observed, name: &str) -> &'a mut Disk {
    let Known::Is(disks) = &mut seen.disks else { panic!("no disks are known") };
    disks.iter_mut().find(|disk| disk.name == name).expect("a disk")
}

fn nic_mut<'a>(seen: &'a mut Observed, name: &str) -> &'a mut Nic {
    let Known::Is(nics) = &mut seen.nics else { panic!("no NICs are known") };
    nics.iter_mut().find(|nic| nic.name == name).expect("a NIC")
}

fn layer_mut<'a>(layers: &'a mut [Layer], name: &str) -> Option<&'a mut Layer> {
    layers
        .iter_mut()
        .find_map(|layer| if layer.name() == name { Some(layer) } else { layer_mut(&mut layer.above, name) })
}

fn grow_disk(disk: &mut Disk, from: Bytes, to: Bytes) {
    assert!(disk.size == from && to > from, "{} does not grow", disk.name);
    disk.size = to;
    if let Known::Is(guest) = &mut disk.guest {
        guest.size = to;
    }
}

fn grow_layer(disk: &mut Disk, name: &str) {
    let Known::Is(guest) = &mut disk.guest else { panic!("the guest shows nothing of the disk") };
    layer_mut(&mut guest.layers, name).expect("a layer").size = disk.size;
}

/// One act, done at once and in full.
fn act(seen: &mut Observed, act: &Act) {
    match act {
        Act::CreateBackend { memdev, size, .. } => {
            let used = seen.memory.dimms.iter().any(|d| d.memdev == *memdev);
            assert!(!used && seen.memory.unused_backends.iter().all(|b| b.id != *memdev), "two {memdev}");
            seen.memory.unused_backends.push(Backend { id: memdev.clone(), size: *size });
        }
        Act::DeleteBackend { memdev } => {
            let at = seen.memory.unused_backends.iter().position(|b| b.id == *memdev);
            seen.memory.unused_backends.remove(at.unwrap_or_else(|| panic!("{memdev} is in use or gone")));
        }
        Act::PlugDimm { id, memdev, brings, slot, node, addr } => {
            assert_eq!(brings.is_some(), seen.machine.manager == Manager::Libvirt, "who makes {memdev}?");
            if let Some(size) = brings {
                seen.memory.unused_backends.push(Backend { id: memdev.clone(), size: *size });
            }
            plug(seen, id, memdev, *slot, *node, *addr);
        }
        Act::UnplugDimm { id, memdev, slot } => unplug(seen, id, memdev, *slot),
        Act::MakeKnown { device, .. } => make_known(seen, device),
        Act::OnlineBlocks { device, .. } => set_blocks(seen, device, true),
        Act::OfflineBlocks { device } => set_blocks(seen, device, false),
        Act::ResizeVirtioMem { id, from, to } => {
            let device = seen.memory.virtio_mem.iter_mut().find(|v| v.id == *id).expect("a device");
            assert_eq!(device.requested, *from, "{id} was asked for something else");
            assert!(to.is_multiple_of(device.block) && *to <= device.max, "{id} cannot hold {to}");
            let (node, before) = (device.node, device.size);
            (device.requested, device.size) = (*to, *to);
            on_node(seen, node, before, *to);
        }
        Act::SettleVirtioMem { .. } | Act::AwaitOnline { .. } => {}
        Act::Set { from, to } => set(seen, from, to),
        Act::GrowDisk { disk, from, to } => grow_disk(disk_mut(seen, disk), *from, *to),
        Act::GrowInGuest { disk, layer, .. } => grow_layer(disk_mut(seen, disk), &layer.name()),
        Act::SetBalloon { from, to } => {
            let full = seen.memory.boot + seen.memory.dimm_total();
            let balloon = seen.memory.balloon.as_mut().expect("a balloon");
            assert_eq!(balloon.actual, *from, "the balloon is elsewhere");
            assert!(*to <= full && !to.is_zero(), "the balloon cannot be at {to} of {full}");
            balloon.actual = *to;
        }
        Act::PlugVcpu { id, props, .. } => {
            let taken = VcpuState::Device(id.clone());
            assert!(seen.vcpus.slots.iter().all(|s| s.state != taken), "two {id}");
            let slot = seen.vcpus.slots.iter_mut().find(|s| s.props == *props).expect("a place");
            assert_eq!(slot.state, VcpuState::Free, "the place is taken");
            assert!(slot.name.as_ref().is_none_or(|name| name == id), "{id} will have another name");
            slot.state = taken;
            see_vcpus(seen);
        }
        Act::UnplugVcpu { id } => {
            let there = VcpuState::Device(id.clone());
            let slot = seen.vcpus.slots.iter_mut().find(|s| s.state == there).expect("a vCPU");
            slot.state = VcpuState::Free;
            seen.vcpus.removed_before = true;
            see_vcpus(seen);
        }
        Act::OnlineVcpus { count } => {
            let Guest::Heard(facts) = &mut seen.guest else { panic!("nobody to ask") };
            assert!(facts.vcpus.len() as u64 >= u64::from(*count), "the guest has fewer vCPUs");
            facts.vcpus.iter_mut().take(*count as usize).for_each(|v| v.online = true);
        }
    }
}

fn plug(seen: &mut Observed, id: &str, memdev: &str, slot: u32, node: u32, addr: Option<u64>) {
    let memory = &mut seen.memory;
    assert!(memory.dimms.iter().all(|d| d.id != id), "two {id}");
    assert!(slot < memory.slots && memory.dimms.iter().all(|d| d.slot != slot), "slot {slot} is taken");
    let at = memory.unused_backends.iter().position(|b| b.id == memdev).expect("a backend");
    let backend = memory.unused_backends.remove(at);
    assert!(backend.size <= memory.headroom(), "{} do not fit under the ceiling", backend.size);
    assert!(backend.size.is_multiple_of(memory.alignment) && !backend.size.is_zero());
    let mut taken: Vec<(u64, u64)> = memory.dimms.iter().map(|d| (d.addr, d.addr + d.size.get())).collect();
    taken.extend(memory.virtio_mem.iter().map(|v| (v.addr, v.addr + v.max.get())));
    taken.sort_unstable();
    let first_fit = taken.iter().fold(0x1_0000_0000_u64, |at, (start, end)| {
        if at + backend.size.get() > *start {
            at.max(end.next_multiple_of(memory.alignment.get()))
        } else {
            at
        }
    });
    let addr = addr.unwrap_or(first_fit);
    let clear = taken.iter().all(|(start, end)| addr + backend.size.get() <= *start || addr >= *end);
    assert!(clear, "{addr:#x} is taken");
    let dimm = Dimm {
        id: id.into(),
        memdev: memdev.into(),
        kind: DimmKind::Dimm,
        slot,
        node,
        addr,
        size: backend.size,
        hotplugged: true,
        ost: None,
    };
    if let Guest::Heard(facts) = &mut seen.guest
        && let Some(block) = facts.block.filter(|_| !facts.blocks.is_empty())
    {
        assert!(dimm.fits_blocks(block), "the guest refuses {dimm:?}");
        // A guest with `probe` finds nothing by itself here.
        if !facts.has_probe {
            show(facts, dimm.blocks(block));
        }
    }
    if let Some(balloon) = &mut memory.balloon {
        balloon.actual = balloon.actual + dimm.size;
    }
    let size = dimm.size;
    let at = memory.dimms.partition_point(|d| d.slot < slot);
    memory.dimms.insert(at, dimm);
    on_node(seen, node, Bytes::ZERO, size);
}

/// New blocks come as the guest's kernel likes them.
fn show(facts: &mut GuestFacts, blocks: std::ops::Range<u64>) {
    let online = !matches!(facts.auto_online, Some(AutoOnline::Offline) | None);
    facts.blocks.extend(blocks.map(|index| MemBlock { index, online }));
    facts.blocks.sort_by_key(|b| b.index);
}

fn make_known(seen: &mut Observed, device: &str) {
    let dimm = seen.memory.dimms.iter().find(|d| d.id == device).expect("a DIMM");
    let Guest::Heard(facts) = &mut seen.guest else { panic!("nobody to tell") };
    assert!(facts.has_probe && facts.can_write_files(), "the guest cannot be told");
    let block = facts.block.expect("a block size");
    assert!(dimm.fits_blocks(block), "half a block of {device} is memory of nobody");
    let shown = facts.blocks_in(&dimm.blocks(block));
    let absent: Vec<u64> = dimm.blocks(block).filter(|i| shown.iter().all(|b| b.index != *i)).collect();
    assert!(!absent.is_empty(), "the guest shows all of {device}");
    for index in absent {
        show(facts, index..index + 1);
    }
}

fn unplug(seen: &mut Observed, id: &str, memdev: &str, slot: u32) {
    let at = seen.memory.dimms.iter().position(|d| d.id == id).expect("a DIMM");
    let dimm = seen.memory.dimms.remove(at);
    assert_eq!((dimm.memdev.as_str(), dimm.slot), (memdev, slot));
    if let Guest::Heard(facts) = &mut seen.guest
        && let Some(block) = facts.block
    {
        let range = dimm.blocks(block);
        let online = facts.blocks_in(&range).iter().any(|b| b.online);
        // Where nobody can be asked to empty it, the guest's kernel does so as it ejects.
        let asked = facts.can_write_files() || facts.can("guest-set-memory-blocks");
        assert!(!online || !asked, "{id} goes while its blocks are online");
        facts.blocks.retain(|b| !range.contains(&b.index));
    }
    if let Some(balloon) = &mut seen.memory.balloon {
        balloon.actual = balloon.actual - dimm.size;
    }
    if seen.machine.manager == Manager::Nobody {
        seen.memory.unused_backends.push(Backend { id: dimm.memdev.clone(), size: dimm.size });
    }
    on_node(seen, dimm.node, dimm.size, Bytes::ZERO);
}

fn on_node(seen: &mut Observed, node: u32, before: Bytes, after: Bytes) {
    let node = seen.memory.nodes.iter_mut().find(|n| n.id == node).expect("a node");
    node.memory = node.memory + after - before;
}

fn set_blocks(seen: &mut Observed, device: &str, online: bool) {
    let Guest::Heard(facts) = &mut seen.guest else { panic!("nobody to ask") };
    let block = facts.block.expect("a block size");
    let range = match seen.memory.dimms.iter().find(|d| d.id == device) {
        Some(dimm) => dimm.blocks(block),
        None => {
            let device = seen.memory.virtio_mem.iter().find(|v| v.id == device).expect("a device");
            blocks_of(device.addr, device.max, block)
        }
    };
    facts.blocks.iter_mut().filter(|b| range.contains(&b.index)).for_each(|b| b.online = online);
}

fn see_vcpus(seen: &mut Observed) {
    let count = seen.vcpus.plugged();
    if let Guest::Heard(facts) = &mut seen.guest
        && !facts.vcpus.is_empty()
    {
        facts.vcpus.truncate(count as usize);
        let shown = u32::try_from(facts.vcpus.len()).expect("few");
        facts.vcpus.extend((shown..count).map(|id| GuestVcpu { id, online: false, can_offline: true }));
    }
}
