//! QEMU's side: what it refuses, in which words, and what it accepts and should not be believed for.

use super::*;
use scale::observed::{Accel, Host, VcpuProps, VcpuState, Version};

fn plug_vcpu(id: &str, world: &mut World, core: u32) -> Act {
    let slots = seen(world).vcpus.slots;
    let slot = slots.iter().find(|s| s.props.core_id == Some(core)).expect("a place");
    Act::PlugVcpu { id: id.into(), driver: slot.driver.clone(), props: slot.props }
}

#[test]
fn ids_are_taken_until_the_device_is_gone() {
    let mut world = World::small();
    plugged(&mut world, "d", 0);
    let said = refused(&mut world, &create("mem-d", Bytes::gib(1)));
    assert_eq!(said, "attempt to add duplicate property 'mem-d' to object (type 'container')");
    done(&mut world, &create("other", Bytes::gib(1)));
    assert_eq!(refused(&mut world, &plug("d", "other", 1)), "Duplicate device ID 'd'");
    done(&mut world, &unplug("d"));
    assert_eq!(refused(&mut world, &plug("d", "other", 1)), "Duplicate device ID 'd'");
    world.pass(Span::secs(1));
    done(&mut world, &plug("d", "other", 1));
}

#[test]
fn a_slot_holds_one_dimm() {
    let mut world = World::small().slots(2);
    plugged(&mut world, "d", 0);
    done(&mut world, &create("other", Bytes::gib(1)));
    assert_eq!(refused(&mut world, &plug("e", "other", 0)), "slot 0 is busy");
    assert_eq!(refused(&mut world, &plug("e", "other", 2)), "invalid slot number 2, valid range is [0-1]");
    let mut none = World::small().slots(0).spare_backend("m", Bytes::gib(1));
    assert!(refused(&mut none, &plug("e", "m", 0)).starts_with("no slots where allocated"));
}

#[test]
fn a_backend_in_use_is_neither_shared_nor_deleted() {
    let mut world = World::small();
    plugged(&mut world, "d", 0);
    assert_eq!(refused(&mut world, &plug("e", "mem-d", 1)), "can't use already busy memdev: mem-d");
    let delete = Act::DeleteBackend { memdev: "mem-d".into() };
    assert_eq!(refused(&mut world, &delete), "object 'mem-d' is in use, can not be deleted");
    done(&mut world, &unplug("d"));
    assert_eq!(refused(&mut world, &delete), "object 'mem-d' is in use, can not be deleted");
    world.pass(Span::secs(1));
    assert_eq!(world.spare_backends(), ["mem-d"]);
    done(&mut world, &delete);
    assert_eq!(refused(&mut world, &delete), "object 'mem-d' not found");
    assert_eq!(refused(&mut world, &plug("e", "mem-d", 1)), "Device 'mem-d' not found");
}

#[test]
fn the_ceiling_counts_virtio_mem_with_all_it_may_hold() {
    let mut world = World::small().ceiling(Bytes::gib(4)).virtio_mem("vm0", 0, Bytes::gib(2));
    done(&mut world, &create("m", Bytes::mib(1152)));
    assert_eq!(
        refused(&mut world, &plug("d", "m", 0)),
        "not enough space, currently 0x80000000 in use of total space for memory devices 0xc0000000"
    );
    plugged(&mut world, "e", 0);
    assert_eq!(seen(&mut world).memory.headroom(), Bytes::ZERO);
}

#[test]
fn addresses_are_aligned_in_range_and_not_shared() {
    let mut world = World::small();
    plugged(&mut world, "d", 0);
    done(&mut world, &create("m", Bytes::gib(1)));
    let at = |addr| Act::PlugDimm {
        id: "e".into(),
        memdev: "m".into(),
        brings: None,
        slot: 1,
        node: 0,
        addr: Some(addr),
    };
    assert_eq!(refused(&mut world, &at((5 << 30) + 4096)), "address must be aligned to 0x200000 bytes");
    assert_eq!(refused(&mut world, &at(4 << 30)), "address range conflicts with memory device id='d'");
    assert!(refused(&mut world, &at(1 << 30)).starts_with("can't add memory device [0x40000000:0x40000000]"));
    done(&mut world, &at(7 << 30));
    done(&mut world, &create("n", Bytes::gib(2)));
    done(&mut world, &plug("f", "n", 2));
    let addrs: Vec<u64> = seen(&mut world).memory.dimms.iter().map(|d| d.addr >> 30).collect();
    assert_eq!(addrs, [4, 7, 5], "first fit, ascending");
}

#[test]
fn sizes_are_multiples_of_the_page() {
    let mut world = World::small();
    done(&mut world, &create("m", Bytes::mib(1025)));
    assert_eq!(refused(&mut world, &plug("d", "m", 0)), "backend memory size must be multiple of 0x200000");
}

#[test]
fn a_node_must_exist() {
    let mut world = World::small().nodes(2).spare_backend("m", Bytes::gib(1));
    let at =
        |node| Act::PlugDimm { id: "d".into(), memdev: "m".into(), brings: None, slot: 0, node, addr: None };
    assert_eq!(
        refused(&mut world, &at(2)),
        "'DIMM property node has value 2' which exceeds the number of numa nodes: 2"
    );
    done(&mut world, &at(1));
    let nodes: Vec<Bytes> = seen(&mut world).memory.nodes.iter().map(|n| n.memory).collect();
    assert_eq!(nodes, [Bytes::mib(512), Bytes::mib(1536)]);
}

#[test]
fn a_vhost_backend_bounds_the_regions() {
    let host = Host { vhost_regions: Some(2), ..Host::default() };
    let mut world = World::small().host(host);
    plugged(&mut world, "d", 0);
    done(&mut world, &create("m", Bytes::gib(1)));
    assert_eq!(refused(&mut world, &plug("e", "m", 1)), "a used vhost backend has no free memory slots left");
}

#[test]
fn nothing_is_plugged_or_unplugged_while_migrating() {
    let mut world =
        World::small().boot_dimm("d", 0, Bytes::gib(1)).spare_backend("m", Bytes::gib(1)).busy("migration");
    assert_eq!(refused(&mut world, &plug("e", "m", 1)), "device_add not allowed while migrating");
    assert_eq!(refused(&mut world, &unplug("d")), "device_del not allowed while migrating");
}

#[test]
fn a_second_device_del_is_accepted() {
    let mut world = World::small().boot_dimm("d", 0, Bytes::gib(1)).with(sim::Mood::NoAcpi);
    done(&mut world, &unplug("d"));
    done(&mut world, &unplug("d"));
    world.pass(Span::secs(60));
    assert_eq!(world.dimms(), ["d"]);
    assert_eq!(refused(&mut world, &unplug("e")), "Device 'e' not found");
}

#[test]
fn an_nvdimm_stays() {
    let mut world = World::small().nvdimm("nv", Bytes::gib(1));
    assert_eq!(refused(&mut world, &unplug("nv")), "nvdimm device hot unplug is not supported yet.");
    assert_eq!(seen(&mut world).memory.total(), Bytes::gib(1));
}

#[test]
fn a_removal_is_reported_with_the_device_then_without() {
    let mut world = World::small().boot_dimm("d", 0, Bytes::gib(1));
    let events = events_after(&mut world, &unplug("d"), Span::secs(2));
    let ost = |device: Option<&str>, status| Event::Ost {
        slot_type: "DIMM".into(),
        slot: "0".into(),
        device: device.map(String::from),
        source: 3,
        status,
    };
    let deleted = Event::DeviceDeleted { id: "d".into() };
    assert_eq!(events, [ost(Some("d"), 0x84), deleted, ost(None, 0)]);
    assert_eq!(world.spare_backends(), ["mem-d"]);
}

#[test]
fn a_request_to_virtio_mem_is_checked_and_sent_from_where_it_stood() {
    let mut world = World::small().virtio_mem("vm0", 0, Bytes::gib(4));
    let to = |from, to| Act::ResizeVirtioMem { id: "vm0".into(), from, to };
    let (none, one) = (Bytes::ZERO, Bytes::gib(1));
    assert!(refused(&mut world, &to(none, Bytes::mib(1))).contains("has to be multiple of"));
    assert!(refused(&mut world, &to(none, Bytes::gib(5))).contains("cannot exceed the memory backend size"));
    done(&mut world, &to(none, one));
    done(&mut world, &to(none, one));
    assert!(refused(&mut world, &to(none, Bytes::gib(2))).contains("somebody else has changed it"));
}

#[test]
fn size_events_come_at_most_once_a_second() {
    let mut world =
        World::small().virtio_mem("vm0", 0, Bytes::gib(4)).with(sim::Mood::OnlinesItself(Span::millis(0)));
    let act = Act::ResizeVirtioMem { id: "vm0".into(), from: Bytes::ZERO, to: Bytes::gib(1) };
    let (told, reached) = finish(async {
        let mut link = world.connect();
        let start = link.now();
        link.apply(&act, start).await.expect("accepted");
        let (mut told, mut reached) = (Vec::new(), None);
        while link.now() < start + Span::secs(3) {
            if let Some(event) = link.watch(link.now() + Span::millis(5)).await {
                assert_eq!(event, Event::SizeChanged);
                told.push(link.now().since(start).as_millis());
            }
            let Ok(Sight::VirtioMem(Some(device))) = link.look(&Look::VirtioMem("vm0".into())).await else {
                panic!("no device")
            };
            if device.size == device.requested {
                reached.get_or_insert(link.now().since(start).as_millis());
            }
        }
        (told, reached)
    })
    .expect("links do not wait");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1] - told[0] >= 1000, "{told:?}");
    assert!(reached.expect("reached") < 200, "the property shows it long before the event: {reached:?}");
}

#[test]
fn the_balloon_counts_when_it_is_told() {
    let mut world = World::small().balloon(true).boot_dimm("d", 0, Bytes::gib(1));
    let to = |from, to| Act::SetBalloon { from: Bytes::mib(from), to: Bytes::mib(to) };
    done(&mut world, &to(2048, 1536));
    world.pass(Span::secs(5));
    assert_eq!(look(&mut world, &Look::Balloon), Sight::Balloon(Some(Bytes::mib(1536))));
    // Another DIMM raises it by itself; the old target would now hold a GiB more.
    plugged(&mut world, "e", 1);
    assert_eq!(look(&mut world, &Look::Balloon), Sight::Balloon(Some(Bytes::mib(2560))));
    let before = world.guest_total();
    done(&mut world, &to(2560, 1536));
    world.pass(Span::secs(5));
    assert_eq!(world.guest_total(), before - Bytes::gib(1));
    let mut bare = World::small();
    assert_eq!(refused(&mut bare, &to(1024, 512)), "No balloon device has been activated");
}

#[test]
fn boot_vcpus_have_no_id_to_remove_them_by() {
    let mut world = World::small().vcpus(2, 4);
    let boot = Act::UnplugVcpu { id: String::new() };
    assert_eq!(refused(&mut world, &boot), "Device '' not found");
    let states: Vec<bool> = seen(&mut world).vcpus.slots.iter().map(|s| s.state == VcpuState::Boot).collect();
    assert_eq!(states, [true, true, false, false]);
}

#[test]
fn a_vcpu_place_takes_one_vcpu_with_all_its_properties() {
    let mut world = World::small();
    let act = plug_vcpu("c1", &mut world, 1);
    done(&mut world, &act);
    world.pass(Span::secs(1));
    let again = plug_vcpu("c2", &mut world, 1);
    assert_eq!(refused(&mut world, &again), "CPU[1] with APIC ID 1 exists");
    let bare =
        Act::PlugVcpu { id: "c3".into(), driver: "qemu64-x86_64-cpu".into(), props: VcpuProps::default() };
    assert_eq!(refused(&mut world, &bare), "CPU core-id is not set");
    assert_eq!(refused(&mut world, &act), "Duplicate device ID 'c1'");
}

#[test]
fn qemu_7_2_under_tcg_dies_of_a_dimm_change_after_a_vcpu_removal() {
    let after_removal = |version, accel, change: fn(&mut World)| {
        let mut world = World::small().qemu(version, accel).spare_backend("m", Bytes::gib(1));
        world = world.spare_backend("n", Bytes::gib(1));
        done(&mut world, &plug("old", "n", 1));
        let act = plug_vcpu("c1", &mut world, 1);
        done(&mut world, &act);
        world.pass(Span::secs(1));
        done(&mut world, &Act::UnplugVcpu { id: "c1".into() });
        world.pass(Span::secs(1));
        assert!(seen(&mut world).vcpus.removed_before);
        change(&mut world);
        world.pass(Span::secs(1));
        world.gone().is_some()
    };
    let added = |world: &mut World| done(world, &plug("d", "m", 0));
    let removed = |world: &mut World| {
        done(world, &Act::UnplugDimm { id: "old".into(), memdev: "n".into(), slot: 1 });
    };
    for change in [added as fn(&mut World), removed] {
        assert!(after_removal(Version(7, 2, 0), Accel::Tcg, change));
        assert!(!after_removal(Version(7, 2, 0), Accel::Kvm, change));
        assert!(!after_removal(Version(10, 0, 0), Accel::Tcg, change));
    }
}

/// Whether QEMU ends when a second vCPU is plugged and removed so often.
fn ends_after(world: World, plugs: u32) -> bool {
    let mut world = world;
    for _ in 0..plugs {
        let act = plug_vcpu("c1", &mut world, 1);
        done(&mut world, &act);
        world.pass(Span::secs(1));
        if world.gone().is_some() {
            return true;
        }
        done(&mut world, &Act::UnplugVcpu { id: "c1".into() });
        world.pass(Span::secs(1));
        if world.gone().is_some() {
            return true;
        }
    }
    false
}

#[test]
fn an_emulated_qemu_ends_itself_for_one_plug_more_than_it_has_places() {
    let world = |accel| World::small().vcpus(1, 4).qemu(Version(10, 0, 0), accel);
    assert!(!ends_after(world(Accel::Tcg), 3));
    assert!(ends_after(world(Accel::Tcg), 4));
    assert!(!ends_after(world(Accel::Kvm), 9));
    // 7.2 does not survive what comes after the first removal.
    assert!(ends_after(world(Accel::Tcg).qemu(Version(7, 2, 0), Accel::Tcg), 2));
}

#[test]
fn an_emulated_qemu_with_one_thread_ends_itself_for_a_removal() {
    let world = |accel| World::small().one_thread().qemu(Version(10, 0, 0), accel);
    assert!(ends_after(world(Accel::Tcg), 1));
    assert!(!ends_after(world(Accel::Kvm), 1));
    let mut grown = world(Accel::Tcg);
    assert!(!seen(&mut grown).vcpus.one_thread, "a lone one does not tell");
    let act = plug_vcpu("c1", &mut grown, 1);
    done(&mut grown, &act);
    assert!(seen(&mut grown).vcpus.one_thread);
}

#[test]
fn libvirt_makes_a_backend_with_its_dimm_and_frees_it_when_the_guest_lets_go() {
    let attach = |slot| Act::PlugDimm {
        id: "ua-supple-dimm0".into(),
        memdev: "memua-supple-dimm0".into(),
        brings: Some(Bytes::gib(1)),
        slot,
        node: 0,
        addr: None,
    };
    assert!(refused(&mut World::small(), &attach(0)).contains("makes no backend"));
    let mut world = World::small().in_libvirt();
    assert_eq!(refused(&mut world, &attach(99)), "invalid slot number 99, valid range is [0-15]");
    assert!(world.spare_backends().is_empty(), "a failed attach leaves nothing");
    done(&mut world, &attach(0));
    events_after(&mut world, &Act::AwaitOnline { device: "d".into() }, Span::secs(5));
    done(&mut world, &unplug("ua-supple-dimm0"));
    events_after(&mut world, &Act::AwaitOnline { device: "d".into() }, Span::secs(60));
    let seen = seen(&mut world);
    assert!(seen.memory.dimms.is_empty() && world.spare_backends().is_empty());
}
