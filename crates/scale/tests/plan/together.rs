//! What holds of every plan in which all dimensions of a machine meet.

use crate::furniture::{ETH0, furnished};
use crate::limits::{cpu, iops, ip, nic};
use crate::machine::facts;
use crate::model::carry_out;
use crate::properties::machines;
use proptest::prelude::*;
use scale::audit::audit;
use scale::limits::Limits;
use scale::observed::{Guest, Known, Observed};
use scale::plan::{Act, Plan, Sizes, plan};
use scale::setting::{CpuPower, Millicpus, Setting, Weight};
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, Wanted};
use scale::words::parse_bytes_wish;

const CPU: [&str; 4] = ["0.5", "1.5", "4", "none"];
const IOPS: [&str; 4] = ["500", "read:500,write:100", "2000,burst:4000/10s", "none"];
const RATE: [&str; 3] = ["8M", "read:200M", "none"];
const NIC: [&str; 4] = ["100mbit", "500mbit/1gbit", "in:200mbit,out:80mbit", "none"];
const IP: [&str; 3] = ["10mbit", "in:50mbit/80mbit", "none"];

fn one_of<const N: usize>(words: [&'static str; N]) -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(words.to_vec()))
}

prop_compose! {
    /// What is asked of limits and disks.
    fn wishes()(
        limit in one_of(CPU),
        weight in prop::option::of(1u32..=10_000),
        io in one_of(IOPS),
        rate in one_of(RATE),
        traffic in one_of(NIC),
        address in one_of(IP),
        disk in prop::option::weighted(0.6, 18u64..60),
    ) -> Wanted {
        let mut wanted = limit.map(cpu).unwrap_or_default();
        wanted.cpu_weight = weight.and_then(Weight::new);
        let io = io.and_then(|words| iops("vda", words).disks.remove("vda")).unwrap_or_default();
        let wish = DiskWish {
            size: disk.map(|size| Change::To(Bytes::gib(size))),
            rate: rate.map(|words| parse_bytes_wish(words).expect(words)).unwrap_or_default(),
            ..io
        };
        wanted.disks = [("vda".to_owned(), wish)].into_iter().filter(|(_, wish)| *wish != DiskWish::default()).collect();
        wanted.nics = traffic.map(|words| nic(ETH0, words).nics).unwrap_or_default();
        wanted.ips = address.map(|words| ip("203.0.113.7", words).ips).unwrap_or_default();
        wanted
    }
}

/// A machine of any kind with CPU power, a disk and two NICs, limited already or not.
fn furnished_machines() -> impl Strategy<Value = Observed> {
    (machines(), wishes()).prop_map(|(mut seen, first)| {
        let mut furniture = furnished();
        (seen.power, seen.disks, seen.nics) =
            (furniture.power.clone(), furniture.disks.clone(), furniture.nics.clone());
        let (tools, commands) = (facts(&mut furniture).tools.clone(), facts(&mut furniture).commands.clone());
        if let Guest::Heard(heard) = &mut seen.guest {
            heard.tools = tools;
            heard.commands.extend(commands);
        }
        match plan(&seen, &first, &Limits::default()) {
            Ok(plan) if plan.unmet.is_empty() => carry_out(seen, &plan),
            Ok(_) | Err(_) => seen,
        }
    })
}

/// A machine and a wish of which every part may be there or not.
fn asks() -> impl Strategy<Value = (Observed, Wanted)> {
    let sizes = (prop::option::of(0u64..24), prop::option::of(1u32..6));
    (furnished_machines(), wishes(), sizes).prop_map(|(seen, wanted, (memory, vcpus))| {
        let memory = memory.map(|blocks| Change::To(seen.memory.boot + Bytes::mib(128 * blocks)));
        let wanted = Wanted { memory, vcpus: vcpus.map(Change::To), ..wanted };
        (seen, wanted)
    })
}

fn limit(power: &CpuPower) -> u32 {
    power.limit.map_or(u32::MAX, Millicpus::get)
}

/// Which part of a plan an act belongs to: limits that give more, what comes, limits that give less, what goes, disks.
/// Nothing where an act belongs to several.
fn part(act: &Act) -> Option<u8> {
    if let Act::Set { from, to } = act {
        let (Setting::CpuPower(from), Setting::CpuPower(to)) = (&**from, &**to) else { return None };
        return (from.weight == to.weight).then_some(if limit(to) > limit(from) { 0 } else { 2 });
    }
    let comes = matches!(act, Act::PlugVcpu { .. } | Act::CreateBackend { .. } | Act::PlugDimm { .. });
    let goes = matches!(act, Act::UnplugVcpu { .. } | Act::UnplugDimm { .. });
    let of_disks = matches!(act, Act::GrowDisk { .. } | Act::GrowInGuest { .. });
    [(comes, 1), (goes, 3), (of_disks, 4)].into_iter().find_map(|(is_it, part)| is_it.then_some(part))
}

/// The parts of a plan, in its order. vCPUs are left out, for they come and go apart from memory; where DIMMs are exchanged for others,
/// what goes is left out too.
fn parts(plan: &Plan) -> Vec<u8> {
    let of_vcpus = |act: &Act| matches!(act, Act::PlugVcpu { .. } | Act::UnplugVcpu { .. });
    let acts = plan.steps.iter().map(|step| &step.act).filter(|act| !of_vcpus(act));
    let parts: Vec<u8> = acts.filter_map(part).collect();
    let exchanges = parts.contains(&1) && parts.contains(&3);
    parts.into_iter().filter(|part| !(exchanges && [1, 3].contains(part))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn every_dimension_ends_where_it_was_asked((seen, wanted) in asks()) {
        let Ok(planned) = plan(&seen, &wanted, &Limits::default()) else { return Ok(()) };
        prop_assert_eq!(audit(&planned, &seen, &Limits::default()), Vec::new());
        let after = carry_out(seen.clone(), &planned);
        prop_assert_eq!(Sizes::of(&after), planned.to);
        let settings = after.settings();
        for asked in &planned.asked.settings {
            let now = settings.iter().find(|setting| setting.name() == asked.name());
            prop_assert!(now == Some(asked) || now.is_none(), "{} is {:?}", asked, now);
        }
        for (name, size) in &planned.asked.disks {
            let disk = after.disks().iter().find(|disk| disk.name == *name).expect("it stays");
            prop_assert_eq!(disk.size, *size);
        }
        if planned.unmet.is_empty() {
            let again = plan(&after, &wanted, &Limits::default());
            let again = again.map_err(|refusal| TestCaseError::fail(refusal.to_string()))?;
            prop_assert_eq!(again.steps, Vec::new());
        }
    }

    #[test]
    fn what_was_not_asked_for_stays((seen, wanted) in asks()) {
        let Ok(planned) = plan(&seen, &wanted, &Limits::default()) else { return Ok(()) };
        let after = carry_out(seen.clone(), &planned);
        let asked = |setting: &Setting| planned.asked.settings.iter().any(|asked| asked.name() == setting.name());
        let others = |seen: &Observed| seen.settings().into_iter().filter(|s| !asked(s)).collect::<Vec<_>>();
        prop_assert_eq!(others(&after), others(&seen));
        let sizes = |seen: &Observed| match &seen.disks {
            Known::Is(disks) => disks.iter().map(|disk| disk.size).collect::<Vec<_>>(),
            Known::Not(_) => Vec::new(),
        };
        if planned.asked.disks.is_empty() {
            prop_assert_eq!(sizes(&after), sizes(&seen));
        }
        prop_assert!(wanted.memory.is_some() || planned.to.memory == planned.from.memory);
        prop_assert!(wanted.vcpus.is_some() || planned.to.vcpus == planned.from.vcpus);
    }

    #[test]
    fn room_comes_first_and_disks_last((seen, wanted) in asks()) {
        let Ok(planned) = plan(&seen, &wanted, &Limits::default()) else { return Ok(()) };
        let parts = parts(&planned);
        prop_assert!(parts.is_sorted(), "{:?}", planned.steps.iter().map(|s| s.act.to_string()).collect::<Vec<_>>());
        let first = planned.steps.iter().position(|step| part(&step.act) == Some(4));
        let tail = &planned.steps[first.unwrap_or(planned.steps.len())..];
        prop_assert!(tail.iter().all(|step| part(&step.act) == Some(4) && step.undo.is_empty()));
    }

    #[test]
    fn a_limit_goes_back_the_way_it_came((seen, wanted) in asks()) {
        let Ok(planned) = plan(&seen, &wanted, &Limits::default()) else { return Ok(()) };
        for step in &planned.steps {
            if let Act::Set { from, to } = &step.act {
                prop_assert_eq!(&step.undo, &[Act::Set { from: to.clone(), to: from.clone() }]);
                prop_assert_ne!(from, to);
            }
        }
    }
}
