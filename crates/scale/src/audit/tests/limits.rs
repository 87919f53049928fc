//! The rules of limits and disks.

use super::*;
use crate::disk::Tool;
use crate::setting::{
    BitRate, Burst, CpuPower, DiskIo, Iops, Millicpus, NicRate, Rate, Setting, Throttle, Throttles, Weight,
};

const NIC: &str = "52:54:00:00:00:01";

fn furnished() -> Observed {
    let mut seen = machine();
    let heard = facts(&mut seen);
    heard.tools = Tool::ALL.into();
    heard.commands.insert("guest-exec-status".into());
    seen.power = Known::Is(CpuPower { limit: None, weight: Weight::USUAL });
    seen.nics = Known::Is(vec![Nic {
        name: NIC.into(),
        aliases: Vec::new(),
        tap: Some("tap0".into()),
        addresses: Vec::new(),
        rate: Known::Is(NicRate::default()),
        ips: Known::Is(Vec::new()),
        grain: RateGrain::default(),
    }]);
    seen.disks = Known::Is(["vda", "vdb"].map(disk).into());
    seen
}

fn layer(device: &str, kind: LayerKind, above: Vec<Layer>) -> Layer {
    Layer { device: device.into(), kind, size: Bytes::gib(19), above }
}

fn partition(number: u32, above: Vec<Layer>) -> Layer {
    let start = Bytes::gib(u64::from(number) - 1);
    let kind = LayerKind::Partition { number, start, table: "gpt".into() };
    layer(&format!("/dev/vda{number}"), kind, above)
}

fn ext4() -> Layer {
    let kind = LayerKind::Filesystem { kind: "ext4".into(), mount: Some("/".into()) };
    layer("/dev/vda1", kind, Vec::new())
}

fn disk(name: &str) -> Disk {
    let pool = Pool { name: "/var".into(), free: Bytes::gib(30) };
    let guest = GuestDisk {
        device: "/dev/vda".into(),
        size: Bytes::gib(20),
        layers: vec![partition(1, vec![ext4()])],
    };
    Disk {
        name: name.into(),
        aliases: Vec::new(),
        bus: DiskBus::Virtio,
        format: "qcow2".into(),
        size: Bytes::gib(20),
        read_only: false,
        busy: Vec::new(),
        lies: Lies::File { path: "/var/d".into(), taken: Bytes::gib(1), filesystem: Some(pool) },
        io: Known::Is(DiskIo::default()),
        guest: Known::Is(guest),
    }
}

fn set(group: u32, from: Setting, to: Setting) -> Step {
    let (from, to) = (Box::new(from), Box::new(to));
    step(
        group,
        Act::Set { from: from.clone(), to: to.clone() },
        Proof::SetAt { setting: to.clone() },
        Strength::DeviceOnly,
        vec![Act::Set { from: to, to: from }],
    )
}

fn grow_disk(group: u32, name: &str, to: Bytes) -> Step {
    step(
        group,
        Act::GrowDisk { disk: name.into(), from: Bytes::gib(20), to },
        Proof::DiskAt { disk: name.into(), size: to, in_guest: true },
        Strength::GuestConfirmed,
        Vec::new(),
    )
}

fn grow_layer(group: u32, layer: Layer, tool: Tool) -> Step {
    let layer = Layer { above: Vec::new(), ..layer };
    step(
        group,
        Act::GrowInGuest {
            disk: "vda".into(),
            device: "/dev/vda".into(),
            layer: Box::new(layer.clone()),
            tool,
        },
        Proof::LayerAt { disk: "vda".into(), layer: layer.name(), at_least: Bytes::gib(30) },
        Strength::GuestConfirmed,
        Vec::new(),
    )
}

fn power(limit: Option<u32>) -> Setting {
    Setting::CpuPower(CpuPower { limit: limit.map(Millicpus::new), weight: Weight::USUAL })
}

fn io(total: Option<u64>, read: Option<u64>) -> Setting {
    let throttle = |n: u64| Throttle { steady: Iops::new(n), burst: None };
    let iops = Throttles { total: total.map(throttle), read: read.map(throttle), write: None };
    Setting::DiskIo { disk: "vda".into(), io: DiskIo { iops, ..DiskIo::default() } }
}

fn traffic(mbit: Option<u64>) -> Setting {
    let rate = mbit.map(|mbit| {
        let average = BitRate::mbit(mbit);
        Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) }
    });
    Setting::NicRate { nic: NIC.into(), rate: NicRate { to_guest: rate, from_guest: rate } }
}

fn limits() -> (Observed, Plan) {
    let seen = furnished();
    let steps = vec![
        set(1, power(None), power(Some(2500))),
        set(2, io(None, None), io(Some(2000), None)),
        set(3, traffic(None), traffic(Some(5))),
    ];
    let mut plan = plan(&seen, Bytes::gib(3), 2, steps);
    plan.asked.settings = vec![power(Some(2500)), io(Some(2000), None), traffic(Some(5))];
    (seen, plan)
}

fn growing() -> (Observed, Plan) {
    let seen = furnished();
    let steps = vec![
        grow_disk(1, "vda", Bytes::gib(40)),
        grow_layer(2, partition(1, Vec::new()), Tool::Growpart),
        grow_layer(3, ext4(), Tool::Resize2fs),
        grow_disk(4, "vdb", Bytes::gib(30)),
    ];
    let mut plan = plan(&seen, Bytes::gib(3), 2, steps);
    plan.asked.disks = vec![("vda".into(), Bytes::gib(40)), ("vdb".into(), Bytes::gib(30))];
    (seen, plan)
}

/// Puts another target into a step that sets a limit, all else following it.
fn aim(plan: &mut Plan, nth: usize, target: Setting) {
    let Act::Set { from, .. } = &plan.steps[nth].act else { panic!("{}", plan.steps[nth].act) };
    plan.steps[nth] = set(plan.steps[nth].group, (**from).clone(), target.clone());
    plan.asked.settings[nth] = target;
}

fn first(seen: &mut Observed) -> &mut Disk {
    let Known::Is(disks) = &mut seen.disks else { panic!("no disks") };
    &mut disks[0]
}

#[test]
fn sound_limits_and_disks_pass() {
    for case in [limits, growing] {
        let (seen, plan) = case();
        assert_eq!(audit(&plan, &seen, &Limits::default()), []);
    }
}

#[test]
fn a_limit_that_is_not_there_or_elsewhere_is_found() {
    found(limits, |s, _| s.power = Known::Not("no control group".into()), &[Kind::Setting, Kind::NotAsAsked]);
    found(limits, |_, p| p.steps[0] = set(1, power(Some(1000)), power(Some(2500))), &[Kind::Setting]);
    found(
        limits,
        |_, p| p.steps[0] = set(1, power(None), traffic(Some(5))),
        &[Kind::Setting, Kind::NotAsAsked],
    );
    found(limits, |_, p| drop(p.steps.remove(1)), &[Kind::NotAsAsked]);
}

#[test]
fn what_cannot_be_expressed_is_found() {
    found(limits, |_, p| aim(p, 0, power(Some(5))), &[Kind::Setting]);
    found(limits, |_, p| aim(p, 1, io(Some(5), Some(5))), &[Kind::Setting]);
    found(limits, |_, p| aim(p, 1, io(Some(0), None)), &[Kind::Setting]);
    found(limits, |_, p| aim(p, 1, io(Some(u64::MAX), None)), &[Kind::Setting]);
    let low = Throttle { steady: Iops::new(9), burst: Some(Burst { to: Iops::new(5), seconds: 1 }) };
    let iops = Throttles { total: Some(low), ..Throttles::default() };
    let low = Setting::DiskIo { disk: "vda".into(), io: DiskIo { iops, ..DiskIo::default() } };
    found(limits, |_, p| aim(p, 1, low), &[Kind::Setting]);
    let idle = DiskIo { iops_size: Some(Bytes::new(4096)), ..DiskIo::default() };
    found(limits, |_, p| aim(p, 1, Setting::DiskIo { disk: "vda".into(), io: idle }), &[Kind::Setting]);
    let regrouped = DiskIo { group: Some("g".into()), ..DiskIo::default() };
    found(limits, |_, p| aim(p, 1, Setting::DiskIo { disk: "vda".into(), io: regrouped }), &[Kind::Setting]);
}

#[test]
fn a_rate_off_its_grain_or_without_a_bucket_is_found() {
    let rate = |average, peak, burst| {
        let rate = NicRate { to_guest: None, from_guest: Some(Rate { average, peak, burst }) };
        Setting::NicRate { nic: NIC.into(), rate }
    };
    let bucket = Some(Bytes::mib(1));
    let average = BitRate::kbit(104);
    found(limits, |_, p| aim(p, 2, rate(average, None, None)), &[Kind::Setting]);
    found(limits, |_, p| aim(p, 2, rate(average, Some(BitRate::kbit(8)), bucket)), &[Kind::Setting]);
    found(
        limits,
        |s, p| {
            let Known::Is(nics) = &mut s.nics else { panic!() };
            nics[0].grain = RateGrain { step: BitRate::kbit(16), peak_from_guest: true };
            aim(p, 2, rate(average, None, bucket));
        },
        &[Kind::Setting],
    );
    found(
        limits,
        |s, p| {
            let Known::Is(nics) = &mut s.nics else { panic!() };
            nics[0].grain.peak_from_guest = false;
            aim(p, 2, rate(average, Some(average), bucket));
        },
        &[Kind::Setting],
    );
}

#[test]
fn a_wrong_way_back_or_proof_of_a_limit_is_found() {
    found(limits, |_, p| p.steps[0].undo.clear(), &[Kind::WrongUndo]);
    found(
        limits,
        |_, p| p.steps[0].proof = Proof::SetAt { setting: Box::new(power(None)) },
        &[Kind::WrongProof],
    );
    found(limits, |_, p| p.steps[0].strength = Strength::GuestConfirmed, &[Kind::Overclaimed]);
}

#[test]
fn a_cut_a_busy_disk_and_a_wrong_start_are_found() {
    found(growing, |_, p| p.steps[3] = grow_disk(4, "vdb", Bytes::gib(10)), &[Kind::Disk, Kind::NotAsAsked]);
    found(growing, |s, _| first(s).busy.push("backup".into()), &[Kind::Disk]);
    found(growing, |s, _| first(s).read_only = true, &[Kind::Disk]);
    found(growing, |s, _| first(s).size = Bytes::gib(25), &[Kind::Disk]);
    found(
        growing,
        |_, p| p.steps[3] = grow_disk(4, "vdc", Bytes::gib(30)),
        &[Kind::Overclaimed, Kind::Disk, Kind::NotAsAsked],
    );
}

#[test]
fn a_pool_is_drawn_on_by_all_its_disks() {
    let drain = |free| {
        move |s: &mut Observed, _: &mut Plan| {
            let Known::Is(disks) = &mut s.disks else { panic!() };
            for disk in disks {
                let pool = Pool { name: "/var".into(), free };
                disk.lies = Lies::File { path: "/var/d".into(), taken: Bytes::ZERO, filesystem: Some(pool) };
            }
        }
    };
    found(growing, drain(Bytes::gib(30)), &[]);
    found(growing, drain(Bytes::gib(29)), &[Kind::Host]);
    let raw = Lies::Block { path: "/dev/vg/d".into(), size: Bytes::gib(30), thin: None };
    found(growing, |s, _| (first(s).lies, first(s).format) = (raw, "raw".into()), &[Kind::Host]);
}

#[test]
fn layers_in_the_wrong_order_are_found() {
    found(growing, |_, p| p.steps.swap(1, 2), &[Kind::GroupOrder, Kind::Disk]);
    found(growing, |s, _| guest(s).layers.push(partition(2, Vec::new())), &[Kind::Disk]);
    found(growing, |s, _| guest(s).layers.clear(), &[Kind::Disk]);
    found(
        growing,
        |s, _| first(s).guest = Known::Not("no agent".into()),
        &[Kind::Overclaimed, Kind::GuestCannot, Kind::Overclaimed, Kind::GuestCannot],
    );
}

fn guest(seen: &mut Observed) -> &mut GuestDisk {
    let Known::Is(guest) = &mut first(seen).guest else { panic!("the guest shows nothing") };
    guest
}

#[test]
fn a_guest_without_the_program_is_found() {
    found(growing, |s, _| facts(s).tools.retain(|tool| *tool != Tool::Growpart), &[Kind::GuestCannot]);
    found(growing, |s, _| facts(s).commands.retain(|name| name != "guest-exec"), &[Kind::GuestCannot]);
    found(growing, |_, p| p.steps[2] = grow_layer(3, ext4(), Tool::XfsGrowfs), &[Kind::GuestCannot]);
}

#[test]
fn what_comes_after_a_disk_is_found() {
    found(
        growing,
        |_, p| {
            p.steps.push(set(5, power(None), power(Some(2500))));
            p.asked.settings.push(power(Some(2500)));
        },
        &[Kind::Disk],
    );
}
