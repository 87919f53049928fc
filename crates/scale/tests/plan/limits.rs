//! Limits: which steps set them, and what is refused.

use crate::furniture::{ETH0, eth0, furnished, vda};
use crate::machine::machine;
use crate::steps::{memory, planned, refused, vcpus};
use scale::observed::{IpRate, Known, Observed, RateGrain};
use scale::plan::{Act, Plan, When};
use scale::setting::{BitRate, CpuPower, DiskIo, Iops, NicRate, Rate, Setting, Throttle, Throttles, Weight};
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, IpWish, Wanted};
use scale::words::{
    parse_bytes_wish, parse_cpu_limit, parse_cpu_weight, parse_iops_wish, parse_ip_name, parse_rate_wish,
};

pub(crate) fn cpu(limit: &str) -> Wanted {
    Wanted { cpu_limit: parse_cpu_limit(limit).expect(limit), ..Wanted::default() }
}

pub(crate) fn iops(disk: &str, limit: &str) -> Wanted {
    let wish = DiskWish { iops: parse_iops_wish(limit).expect(limit), ..DiskWish::default() };
    Wanted { disks: [(disk.to_owned(), wish)].into(), ..Wanted::default() }
}

pub(crate) fn nic(name: &str, rate: &str) -> Wanted {
    Wanted { nics: [(name.to_owned(), parse_rate_wish(rate).expect(rate))].into(), ..Wanted::default() }
}

pub(crate) fn ip(name: &str, rate: &str) -> Wanted {
    let (ip, nic) = parse_ip_name(name).expect(name);
    let wish = IpWish { nic, rate: parse_rate_wish(rate).expect(rate) };
    Wanted { ips: [(ip, wish)].into(), ..Wanted::default() }
}

/// What the one step of a plan sets.
#[track_caller]
fn set(plan: &Plan) -> Setting {
    let [step] = plan.steps.as_slice() else { panic!("{:?}", plan.steps) };
    let Act::Set { from, to } = &step.act else { panic!("{}", step.act) };
    assert_eq!(
        step.undo,
        [Act::Set { from: to.clone(), to: from.clone() }],
        "the way back is the way turned round"
    );
    (**to).clone()
}

#[track_caller]
fn says(seen: &Observed, wanted: &Wanted, when: When, words: &[&str]) {
    let refusal = refused(seen, wanted);
    let [obstacle] = refusal.obstacles.as_slice() else { panic!("{refusal}") };
    assert_eq!(obstacle.when, when, "{refusal}");
    let said = format!("{}; {}", obstacle.reason, obstacle.way_out);
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

#[test]
fn a_limit_that_the_vcpus_cannot_reach_is_told_as_such() {
    let seen = furnished();
    let plan = planned(&seen, &cpu("2.5"));
    assert!(plan.notes.iter().any(|note| note.contains("one vCPU takes no more")), "{:?}", plan.notes);
    let plan = planned(&seen, &Wanted { vcpus: vcpus("3").vcpus, ..cpu("2.5") });
    assert!(!plan.notes.iter().any(|note| note.contains("holds nothing back")), "{:?}", plan.notes);
}

#[test]
fn a_limit_keeps_the_weight_and_a_weight_the_limit() {
    let mut seen = furnished();
    let limited = CpuPower { limit: Some(scale::setting::Millicpus::new(2500)), weight: Weight::USUAL };
    assert_eq!(set(&planned(&seen, &cpu("2.5"))), Setting::CpuPower(limited));
    seen.power = Known::Is(limited);
    let weight = Wanted { cpu_weight: Some(parse_cpu_weight("200").expect("a weight")), ..Wanted::default() };
    let both = CpuPower { weight: Weight::new(200).expect("a weight"), ..limited };
    assert_eq!(set(&planned(&seen, &weight)), Setting::CpuPower(both));
    assert!(planned(&seen, &cpu("2.5")).steps.is_empty(), "it is so already");
}

#[test]
fn setting_one_field_of_a_disk_resets_no_other() {
    let mut seen = furnished();
    let throttle = |n| Some(Throttle { steady: Iops::new(n), burst: None });
    let before = DiskIo {
        bytes: Throttles {
            total: Some(Throttle { steady: Bytes::mib(200), burst: None }),
            ..Throttles::default()
        },
        iops: Throttles { write: throttle(300), ..Throttles::default() },
        iops_size: Some(Bytes::new(4096)),
        group: Some("g".into()),
    };
    vda(&mut seen).io = Known::Is(before.clone());
    let after = DiskIo { iops: Throttles { read: throttle(500), ..before.iops }, ..before.clone() };
    let disk = "vda".to_owned();
    assert_eq!(
        set(&planned(&seen, &iops("vda", "read:500"))),
        Setting::DiskIo { disk: disk.clone(), io: after }
    );
    // A lone value is the whole of its kind, and without a limit of operations their size means nothing to QEMU.
    let none = DiskIo { iops: Throttles::default(), iops_size: None, ..before };
    assert_eq!(set(&planned(&seen, &iops("vda", "none"))), Setting::DiskIo { disk, io: none });
}

#[test]
fn a_total_beside_its_parts_is_refused_with_the_way_to_lift_one() {
    let mut seen = furnished();
    let total =
        Throttles { total: Some(Throttle { steady: Iops::new(9), burst: None }), ..Throttles::default() };
    vda(&mut seen).io = Known::Is(DiskIo { iops: total, ..DiskIo::default() });
    says(&seen, &iops("vda", "read:5"), When::Impossible, &["not both", "--disk-iops vda=total:none"]);
    assert_eq!(planned(&seen, &iops("vda", "read:5,total:none")).steps.len(), 1);
}

#[test]
fn a_rate_gets_a_burst_and_holds_both_ways() {
    let rate = |average, peak: Option<u64>| {
        let average = BitRate::mbit(average);
        Some(Rate { average, peak: peak.map(BitRate::mbit), burst: Some(Rate::usual_burst(average)) })
    };
    let seen = furnished();
    let both = NicRate { to_guest: rate(500, Some(1000)), from_guest: rate(500, Some(1000)) };
    assert_eq!(
        set(&planned(&seen, &nic("eth0", "500mbit/1gbit"))),
        Setting::NicRate { nic: ETH0.into(), rate: both }
    );
    let out = NicRate { to_guest: None, from_guest: rate(200, None) };
    assert_eq!(
        set(&planned(&seen, &nic("eth0", "out:200mbit"))),
        Setting::NicRate { nic: ETH0.into(), rate: out }
    );
}

#[test]
fn what_cannot_be_expressed_is_refused_or_told() {
    let mut seen = furnished();
    eth0(&mut seen).grain = RateGrain { step: BitRate::kbit(8), peak_from_guest: false };
    says(&seen, &nic("eth0", "100kbit"), When::Impossible, &["steps of 8kbit", "96kbit or 104kbit"]);
    let plan = planned(&seen, &nic("eth0", "80kbit/160kbit"));
    let Setting::NicRate { rate, .. } = set(&plan) else { panic!("{plan:?}") };
    assert_eq!(rate.from_guest.and_then(|rate| rate.peak), None);
    assert_eq!(rate.to_guest.and_then(|rate| rate.peak), Some(BitRate::kbit(160)));
    assert!(plan.notes.iter().any(|note| note.contains("no peak is enforced")), "{:?}", plan.notes);
}

#[test]
fn things_are_found_by_any_name_and_others_are_listed() {
    let seen = furnished();
    for name in ["eth0", "net-eth0", "tap-eth0", ETH0, "52:54:00:00:00:01"] {
        assert_eq!(planned(&seen, &nic(name, "1mbit")).steps.len(), 1, "{name}");
    }
    for name in ["vda", "virtio-vda", "/dev/vda"] {
        assert_eq!(planned(&seen, &iops(name, "5")).steps.len(), 1, "{name}");
    }
    says(&seen, &nic("eth7", "1mbit"), When::Impossible, &["no NIC eth7", "eth0", "eth1", ETH0]);
    says(&seen, &iops("sda", "5"), When::Impossible, &["no disk sda", "vda (virtio-vda, /dev/vda)"]);
}

#[test]
fn a_limit_asks_the_guest_of_no_disk_unless_it_is_named_as_the_guest_does() {
    let seen = furnished();
    let own = iops("vda", "5");
    assert!(own.scope().disks && !own.scope().disk_guests && !own.names_disks_as_the_guest(&seen));
    for name in ["/dev/vda", "virtio-vda", "nothing"] {
        assert!(iops(name, "5").names_disks_as_the_guest(&seen), "{name}");
    }
    let size = DiskWish { size: Some(Change::Grow(Bytes::gib(1))), ..DiskWish::default() };
    let both = Wanted { disks: [("vda".to_owned(), size)].into(), ..own };
    assert!(both.scope().disk_guests);
}

#[test]
fn a_limit_asks_the_guest_of_no_nic_unless_it_is_named_as_the_guest_does() {
    let seen = furnished();
    let asks = |wanted: &Wanted| wanted.wider(wanted.scope(), &seen).nic_guests;
    let (own, written) = (nic(ETH0, "1mbit"), nic(&ETH0.to_uppercase(), "1mbit"));
    assert!(own.scope().nics && !asks(&own) && !asks(&written));
    assert!(asks(&nic("ens3", "1mbit")), "the guest may call one so");
}

#[test]
fn two_names_of_one_thing_cannot_differ() {
    let mut wanted = nic("eth0", "1mbit");
    wanted.nics.extend(nic(ETH0, "2mbit").nics);
    says(&furnished(), &wanted, When::Impossible, &["one limit", "once"]);
    wanted.nics.extend(nic(ETH0, "1mbit").nics);
    assert_eq!(planned(&furnished(), &wanted).steps.len(), 1);
}

#[test]
fn an_address_is_on_the_nic_that_shows_it() {
    let mut seen = furnished();
    let of = |plan: &Plan| {
        let Setting::IpRate { nic, ip, .. } = set(plan) else { panic!("{plan:?}") };
        (nic, ip.to_string())
    };
    assert_eq!(of(&planned(&seen, &ip("203.0.113.7", "100mbit"))), (ETH0.into(), "203.0.113.7".into()));
    assert_eq!(of(&planned(&seen, &ip("203.0.113.8@eth0", "100mbit"))), (ETH0.into(), "203.0.113.8".into()));
    let told = planned(&seen, &ip("203.0.113.8@eth0", "100mbit"));
    assert!(told.notes.iter().any(|note| note.contains("no 203.0.113.8")), "{:?}", told.notes);
    says(&seen, &ip("203.0.113.8", "100mbit"), When::Impossible, &["which of its NICs", "@NIC", "eth1"]);
    let Known::Is(nics) = &mut seen.nics else { panic!() };
    nics.truncate(1);
    assert_eq!(of(&planned(&seen, &ip("203.0.113.8", "100mbit"))).0, ETH0, "the only one");
}

#[test]
fn lifting_what_is_free_is_nothing_to_do() {
    let mut seen = furnished();
    assert!(planned(&seen, &ip("203.0.113.7", "none")).steps.is_empty());
    let rate = Rate { average: BitRate::mbit(5), peak: None, burst: Some(Bytes::new(65536)) };
    let rate = NicRate { to_guest: Some(rate), from_guest: None };
    eth0(&mut seen).ips = Known::Is(vec![IpRate { ip: "203.0.113.7".parse().expect("an address"), rate }]);
    assert_eq!(planned(&seen, &ip("203.0.113.7", "none")).steps.len(), 1);
}

#[test]
fn what_is_not_known_is_refused_with_its_reason() {
    let plain = machine();
    for wanted in [cpu("2"), iops("vda", "5"), nic("eth0", "1mbit"), ip("203.0.113.7", "1mbit")] {
        says(&plain, &wanted, When::NotNow, &["not looked at"]);
    }
    let mut seen = furnished();
    eth0(&mut seen).ips = Known::Not("the kernel has no police action".into());
    says(&seen, &ip("203.0.113.7", "1mbit"), When::NotNow, &["single addresses", "police action"]);
    assert_eq!(planned(&seen, &nic("eth0", "1mbit")).steps.len(), 1, "the NIC's own limit needs none");
}

#[test]
fn more_comes_before_growth_and_less_after_it_and_disks_last() {
    let mut seen = furnished();
    let rate = Rate { average: BitRate::mbit(100), peak: None, burst: Some(Bytes::new(65536)) };
    eth0(&mut seen).rate = Known::Is(NicRate { to_guest: Some(rate), from_guest: Some(rate) });
    let mut wanted = Wanted { vcpus: vcpus("2").vcpus, ..memory("+1G") };
    wanted.nics = nic("eth0", "200mbit").nics;
    wanted.cpu_limit = cpu("2.5").cpu_limit;
    wanted.disks = iops("vda", "2000").disks;
    wanted.disks.get_mut("vda").expect("a disk").size = Some(Change::Grow(Bytes::gib(20)));
    wanted.disks.get_mut("vda").expect("a disk").rate = parse_bytes_wish("200M").expect("a rate");
    let kinds = [
        ("more traffic", "set traffic of NIC 52:54:00:00:00:01"),
        ("memory", "plug DIMM"),
        ("vCPU", "plug vCPU"),
        ("less CPU", "set CPU power"),
        ("less I/O", "set I/O of disk vda"),
        ("disk", "grow disk vda"),
        ("partition", "grow partition"),
        ("filesystem", "grow ext4"),
    ];
    let plan = planned(&seen, &wanted);
    let kind = |act: String| kinds.iter().find(|(_, words)| act.starts_with(words)).map(|(kind, _)| *kind);
    let order: Vec<&str> = plan.steps.iter().filter_map(|step| kind(step.act.to_string())).collect();
    assert_eq!(order, kinds.map(|(kind, _)| kind));
}
