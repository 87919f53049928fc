//! Limits and disks: what QEMU, the host and a Linux guest do with them.

use crate::{done, look, refused, seen};
use scale::disk::Tool;
use scale::observed::{DiskBus, Known, Layer};
use scale::plan::Act;
use scale::setting::{
    CpuPower, DiskIo, Iops, Millicpus, NicRate, Rate, Setting, SettingName, Throttle, Throttles, Weight,
};
use scale::sight::{Look, Sight};
use scale::time::Span;
use scale::units::Bytes;
use sim::{Between, Mood, World};

fn world() -> World {
    let address = "203.0.113.7".parse().expect("an address");
    World::small().power().disk("vda", "ext4", Between::default()).nic("eth0", address)
}

fn power(limit: Option<u32>, weight: u32) -> Setting {
    let weight = Weight::new(weight).expect("a weight");
    Setting::CpuPower(CpuPower { limit: limit.map(Millicpus::new), weight })
}

fn set(from: &Setting, to: &Setting) -> Act {
    Act::Set { from: Box::new(from.clone()), to: Box::new(to.clone()) }
}

fn read(world: &mut World, name: SettingName) -> Setting {
    let sight = look(world, &Look::Setting(name));
    let Sight::Setting(Some(setting)) = sight else { panic!("{sight:?}") };
    setting
}

fn grow(from: u64, to: u64) -> Act {
    Act::GrowDisk { disk: "vda".into(), from: Bytes::gib(from), to: Bytes::gib(to) }
}

/// The layers of the first disk, from the bottom up.
fn layers(world: &World) -> Vec<Layer> {
    let Known::Is(guest) = &world.disks()[0].guest else { panic!("the guest's side is always there") };
    let mut layers = Vec::new();
    let mut next = guest.layers.as_slice();
    while let [layer] = next {
        layers.push(layer.clone());
        next = &layer.above;
    }
    layers
}

fn grow_layer(world: &World, nth: usize, tool: Tool) -> Act {
    let layer = Box::new(Layer { above: Vec::new(), ..layers(world)[nth].clone() });
    Act::GrowInGuest { disk: "vda".into(), device: "/dev/vda".into(), layer, tool }
}

#[test]
fn a_limit_is_read_back_as_it_was_set() {
    let mut world = world();
    let (from, to) = (power(None, 100), power(Some(2500), 200));
    done(&mut world, &set(&from, &to));
    assert_eq!(read(&mut world, SettingName::CpuPower), to);
    done(&mut world, &set(&from, &to));
    let said = refused(&mut world, &set(&power(Some(9000), 100), &power(None, 1)));
    assert!(said.contains("something else has changed it"), "{said}");
}

#[test]
fn what_stopped_half_way_can_be_taken_back() {
    let mut world = world();
    let (from, to) = (power(None, 100), power(Some(2500), 200));
    world.put(Mood::HalfLimits);
    refused(&mut world, &set(&from, &to));
    assert_eq!(read(&mut world, SettingName::CpuPower), power(Some(2500), 100));
    world.heal();
    done(&mut world, &set(&to, &from));
    assert_eq!(read(&mut world, SettingName::CpuPower), from);
}

#[test]
fn qemu_takes_no_total_beside_its_parts() {
    let mut world = world();
    let throttle = Some(Throttle { steady: Iops::new(5), burst: None });
    let iops = Throttles { total: throttle, read: throttle, write: None };
    let of = |io| Setting::DiskIo { disk: "vda".into(), io };
    let both = of(DiskIo { iops, ..DiskIo::default() });
    let said = refused(&mut world, &set(&of(DiskIo::default()), &both));
    assert!(said.contains("cannot be used at the same time"), "{said}");
}

#[test]
fn disks_of_one_throttle_group_share_their_limits() {
    let mut world = world().disk("vdb", "xfs", Between::default()).throttle_group("g");
    let total = Some(Throttle { steady: Iops::new(5), burst: None });
    let io = |iops| DiskIo { iops, group: Some("g".into()), ..DiskIo::default() };
    let of = |disk: &str, io| Setting::DiskIo { disk: disk.into(), io };
    let limited = io(Throttles { total, ..Throttles::default() });
    done(&mut world, &set(&of("vda", io(Throttles::default())), &of("vda", limited.clone())));
    assert_eq!(read(&mut world, SettingName::DiskIo { disk: "vdb".into() }), of("vdb", limited));
}

#[test]
fn a_tap_that_is_made_anew_has_no_limit() {
    let mut world = world();
    let nic = seen(&mut world).nics()[0].clone();
    let average = scale::setting::BitRate::mbit(5);
    let rate = Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) };
    let rate = NicRate { to_guest: Some(rate), from_guest: None };
    let of = |rate| Setting::NicRate { nic: nic.name.clone(), rate };
    done(&mut world, &set(&of(NicRate::default()), &of(rate)));
    world.put(Mood::TapsRemade(Span::millis(10)));
    world.pass(Span::secs(1));
    assert_eq!(read(&mut world, SettingName::NicRate { nic: nic.name.clone() }), of(NicRate::default()));
    assert_ne!(seen(&mut world).nics()[0].tap, nic.tap, "it has another name");
}

#[test]
fn a_disk_grows_to_its_filesystem_layer_by_layer() {
    let between = Between { lvm: true, luks: true };
    let mut world = World::small().disk("vda", "xfs", between);
    done(&mut world, &grow(20, 40));
    let tools = [Tool::Growpart, Tool::Cryptsetup, Tool::Pvresize, Tool::Lvextend, Tool::XfsGrowfs];
    assert!(layers(&world).iter().all(|layer| layer.size < Bytes::gib(20)), "nothing follows by itself");
    for (nth, tool) in tools.into_iter().enumerate() {
        let act = grow_layer(&world, nth, tool);
        done(&mut world, &act);
        let sizes: Vec<bool> = layers(&world).iter().map(|layer| layer.size > Bytes::gib(38)).collect();
        assert_eq!(sizes, (0..5).map(|layer| layer <= nth).collect::<Vec<_>>(), "{tool}");
    }
}

#[test]
fn a_full_host_and_a_busy_monitor_grow_nothing() {
    let mut world = world();
    let said = refused(&mut world, &grow(20, 200));
    assert!(said.contains("No space left"), "{said}");
    let said = refused(&mut world, &grow(30, 40));
    assert!(said.contains("somebody else"), "{said}");
    assert_eq!(world.disks()[0].size, Bytes::gib(20));
}

#[test]
fn an_ide_disk_shows_its_size_after_a_restart() {
    let mut world = World::small().disk("vda", "ext4", Between::default()).on_bus(DiskBus::Ide);
    done(&mut world, &grow(20, 40));
    let shown = |world: &mut World| {
        let sight = look(world, &Look::Disk("vda".into()));
        let Sight::Disk(Some(disk)) = sight else { panic!("{sight:?}") };
        disk.guest.known().expect("the agent runs programs").size
    };
    assert_eq!(shown(&mut world), Bytes::gib(20));
    world.put(Mood::Reboots(Span::millis(1)));
    world.pass(Span::secs(30));
    assert_eq!(shown(&mut world), Bytes::gib(40));
}

#[test]
fn without_programs_in_the_guest_nothing_is_seen_or_grown() {
    let mut world = world();
    let act = grow_layer(&world, 0, Tool::Growpart);
    world.put(Mood::FilteredAgent(vec!["guest-exec".into()]));
    let said = refused(&mut world, &act);
    assert!(said.contains("guest-exec"), "{said}");
    assert!(seen(&mut world).disks()[0].guest.known().is_none());
    world.heal();
    world.put(Mood::ToolsFail);
    let said = refused(&mut world, &act);
    assert!(said.contains("exit status 1"), "{said}");
}

#[test]
fn a_limit_and_a_disk_of_a_whole_observation_are_as_a_look_at_them_alone() {
    let mut world = world();
    let mut seen = seen(&mut world);
    let limits = seen.settings().into_iter().map(|setting| Look::Setting(setting.name()));
    let disks = seen.disks().iter().map(|disk| Look::Disk(disk.name.clone()));
    let looks: Vec<Look> = limits.chain(disks).collect();
    assert!(looks.len() > 3, "{looks:?}");
    for narrow in looks {
        assert_eq!(narrow.answered_by(&seen), Some(look(&mut world, &narrow)), "{narrow:?}");
    }
    seen.power = Known::default();
    assert_eq!(Look::Setting(SettingName::CpuPower).answered_by(&seen), None, "only the driver knows why");
}
