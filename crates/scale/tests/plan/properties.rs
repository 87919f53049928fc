//! What holds of every plan, on machines of all kinds.

use crate::machine::{facts, in_libvirt, machine, with_dimm, with_virtio_mem};
use crate::model::{break_at, carry_out};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use scale::audit::audit;
use scale::limits::Limits;
use scale::observed::*;
use scale::plan::{Act, Plan, Sizes, plan};
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted, ZoneWish};
use std::collections::BTreeSet;

pub(crate) fn machines() -> impl Strategy<Value = Observed> {
    let memory = (
        prop::collection::vec((1u64..24, 0u32..3, any::<bool>()), 0..8),
        prop::collection::vec((1u64..5, 0u32..3, 0u64..5), 0..3),
        (0u32..12, 0u64..80, 1u32..4, prop::option::weighted(0.3, 1u64..200)),
    );
    let rest =
        (0usize..4, 0usize..12, prop::sample::select(vec![None, Some(4u32), Some(9), Some(64)]), any::<u8>());
    (memory, rest).prop_map(|((dimms, virtio, (slots, more, nodes, odd)), (auto, agent, vhost, flags))| {
        let mut seen = machine();
        seen.memory.nodes = (0..nodes).map(|id| Node { id, memory: Bytes::ZERO }).collect();
        seen.memory.nodes[0].memory = seen.memory.boot;
        seen.memory.slots = slots + u32::try_from(dimms.len()).expect("few");
        facts(&mut seen).auto_online =
            [None, Some(AutoOnline::Offline), Some(AutoOnline::Online), Some(AutoOnline::Movable)][auto];
        for (nth, (blocks, node, own)) in dimms.iter().enumerate() {
            let id = if *own { format!("supple-dimm{nth}") } else { format!("dimm{nth}") };
            // One in some is of a size that leaves the next off the blocks.
            let size = match odd {
                Some(odd) if nth == 1 => Bytes::mib(2 * odd),
                Some(_) | None => Bytes::mib(128 * blocks),
            };
            seen = with_dimm(seen, &id, size, node % nodes);
        }
        for (nth, (max, node, size)) in virtio.iter().enumerate() {
            seen = with_virtio_mem(seen, &format!("vm{nth}"), Bytes::gib(*max), node % nodes);
            let device = &mut seen.memory.virtio_mem[nth];
            device.size = Bytes::gib(*size).min(device.max);
            device.requested = device.size;
            let (node, size) = (device.node, device.size);
            seen.memory.nodes[node as usize].memory = seen.memory.nodes[node as usize].memory + size;
        }
        let dimm_total = seen.memory.dimm_total();
        let virtio: Bytes = seen.memory.virtio_mem.iter().map(|v| v.max).sum();
        seen.memory.ceiling = seen.memory.boot + dimm_total + virtio + Bytes::mib(128 * more);
        seen.host.vhost_regions = vhost;
        furnish(&mut seen, agent, flags);
        if flags & 1 == 1 { in_libvirt(seen) } else { seen }
    })
}

/// Agents of all kinds, a balloon, leftovers.
fn furnish(seen: &mut Observed, agent: usize, flags: u8) {
    let total = seen.memory.total();
    match agent {
        0 => seen.guest = Guest::Unheard("no agent".into()),
        1 => facts(seen).blocks.clear(),
        2 => facts(seen).commands.retain(|c| !c.starts_with("guest-file")),
        3 => facts(seen).meminfo = None,
        4 => facts(seen).commands.retain(|c| !c.starts_with("guest-file") && !c.starts_with("guest-set")),
        _ => {
            let free = Bytes::new(total.get() / 16 * (8 + u64::from(flags % 8)));
            facts(seen).meminfo = Some(MemInfo { total, available: free, free });
        }
    }
    if flags & 8 != 0 {
        let stats = BalloonStats { at: seen.at, total, available: total.per(2), free: total.per(4) };
        let actual = seen.memory.boot + seen.memory.dimm_total();
        seen.memory.balloon = Some(Balloon { actual, stats: Some(stats).filter(|_| flags & 16 != 0) });
    }
    if flags & 32 != 0 {
        seen.memory.unused_backends.push(Backend { id: "supple-mem9".into(), size: Bytes::gib(1) });
    }
    if flags & 0x12 == 0x12
        && let Guest::Heard(facts) = &mut seen.guest
        && facts.can_write_files()
    {
        facts.has_probe = true;
        // Some of the first DIMM is not known to the guest, or none of it.
        let hidden = seen.memory.dimms.first().map(|d| d.blocks(Bytes::mib(128)));
        let keep = |index: u64| flags & 4 != 0 && index.is_multiple_of(2);
        facts.blocks.retain(|b| hidden.as_ref().is_none_or(|h| !h.contains(&b.index) || keep(b.index)));
    }
    if flags & 0x54 == 0x54 {
        seen.machine.state = "paused".into();
    }
    for (nth, slot) in seen.vcpus.slots.iter_mut().enumerate().skip(1).take(usize::from(flags >> 6)) {
        slot.state = VcpuState::Device(format!("supple-vcpu{}", nth - 1));
    }
    let plugged = seen.vcpus.plugged();
    if let Guest::Heard(facts) = &mut seen.guest {
        facts.vcpus = (0..plugged).map(|id| GuestVcpu { id, online: true, can_offline: id > 0 }).collect();
    }
}

/// A machine and a wish: most within what it was started for, some beyond.
fn asks() -> impl Strategy<Value = (Observed, Wanted)> {
    let mechanism = prop::sample::select(vec![
        None,
        None,
        None,
        None,
        Some(Mechanism::Dimm),
        Some(Mechanism::VirtioMem),
        Some(Mechanism::Balloon),
    ]);
    let zone = prop::sample::select(vec![
        ZoneWish::Auto,
        ZoneWish::Auto,
        ZoneWish::Auto,
        ZoneWish::Movable,
        ZoneWish::Kernel,
    ]);
    let grain = prop::sample::select(vec![1u64, 2, 64, 128, 128, 128, 128]);
    let memory = prop::option::weighted(0.9, (0u64..=1024, grain));
    let node = prop::option::weighted(0.15, 0u32..4);
    (machines(), memory, prop::option::of(1u32..6), mechanism, node, zone).prop_map(
        |(seen, memory, vcpus, mechanism, node, zone)| {
            let memory = memory.map(|(part, grain)| {
                let room = seen.memory.ceiling.saturating_sub(seen.memory.boot).get() / 1000;
                let size = seen.memory.boot + Bytes::new(room * part);
                Change::To(size.round_down(Bytes::mib(grain)))
            });
            let wanted =
                Wanted { memory, vcpus: vcpus.map(Change::To), mechanism, node, zone, ..Wanted::default() };
            (seen, wanted)
        },
    )
}

fn try_plan(seen: &Observed, wanted: &Wanted) -> Result<Plan, String> {
    plan(seen, wanted, &Limits::default()).map_err(|refusal| {
        assert!(!refusal.obstacles.is_empty(), "a refusal without an obstacle");
        for obstacle in &refusal.obstacles {
            assert!(!obstacle.reason.is_empty() && !obstacle.way_out.is_empty(), "{obstacle:?}");
        }
        refusal.to_string()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn a_plan_ends_where_it_says((seen, wanted) in asks()) {
        let Ok(plan) = try_plan(&seen, &wanted) else { return Ok(()) };
        let after = carry_out(seen.clone(), &plan);
        prop_assert_eq!(Sizes::of(&after), plan.to, "{:?}", plan);
        prop_assert_eq!(plan.from, Sizes::of(&seen));
        prop_assert_eq!(plan.to.memory, plan.asked.memory.unwrap_or(plan.from.memory));
        prop_assert_eq!(plan.to.vcpus, plan.asked.vcpus.unwrap_or(plan.from.vcpus));
        if let Some(Change::To(asked)) = wanted.memory {
            prop_assert_eq!(plan.asked.memory, Some(asked));
        }
        // Nothing is left behind, and nothing is left to do.
        prop_assert!(after.memory.unused_backends.is_empty() || !after.machine.is_running());
        let again = try_plan(&after, &wanted).map_err(TestCaseError::fail)?;
        prop_assert_eq!(again.steps, Vec::new());
    }

    #[test]
    fn the_auditor_finds_nothing_wrong((seen, wanted) in asks()) {
        let Ok(plan) = try_plan(&seen, &wanted) else { return Ok(()) };
        prop_assert_eq!(audit(&plan, &seen, &Limits::default()), Vec::new());
    }

    #[test]
    fn a_plan_is_the_same_each_time((seen, wanted) in asks()) {
        prop_assert_eq!(try_plan(&seen, &wanted), try_plan(&seen, &wanted));
    }

    #[test]
    fn a_broken_group_leaves_what_was_before_it((seen, wanted) in asks(), at in any::<prop::sample::Index>()) {
        let Ok(plan) = try_plan(&seen, &wanted) else { return Ok(()) };
        if plan.steps.is_empty() {
            return Ok(());
        }
        let at = at.index(plan.steps.len());
        let first = plan.steps.iter().position(|s| s.group == plan.steps[at].group).expect("its own");
        let gone = plan.steps[first..=at].iter().any(|s| matches!(
            s.act,
            Act::UnplugDimm { .. } | Act::UnplugVcpu { .. } | Act::DeleteBackend { .. } | Act::ResizeVirtioMem { .. }
        ));
        if gone {
            return Ok(());
        }
        let before = plan.steps[..first].to_vec();
        let before = carry_out(seen.clone(), &Plan { steps: before, ..plan.clone() });
        let after = break_at(seen, &plan.steps, at);
        prop_assert_eq!(Sizes::of(&after), Sizes::of(&before));
        let ids = |seen: &Observed| seen.memory.dimms.iter().map(|d| d.id.clone()).collect::<BTreeSet<_>>();
        prop_assert_eq!(ids(&after), ids(&before));
        prop_assert_eq!(&after.memory.unused_backends, &before.memory.unused_backends);
    }

    #[test]
    fn growing_and_shrinking_comes_back(seen in machines(), by in 1u64..40) {
        let by = Bytes::mib(128 * by);
        let grow = Wanted { memory: Some(Change::Grow(by)), ..Wanted::default() };
        let Ok(up) = try_plan(&seen, &grow) else { return Ok(()) };
        let mut large = carry_out(seen.clone(), &up);
        if let Guest::Heard(facts) = &mut large.guest {
            // The new memory is free.
            facts.meminfo = facts.meminfo.map(|m| MemInfo {
                total: m.total + by,
                available: m.available + by,
                free: m.free + by,
            });
        }
        let back = Wanted { memory: Some(Change::To(up.from.memory)), ..Wanted::default() };
        match try_plan(&large, &back) {
            Ok(down) => {
                let small = carry_out(large, &down);
                prop_assert_eq!(Sizes::of(&small), Sizes::of(&seen));
            }
            Err(why) => prop_assert!(
                why.contains("emptied in the guest") || why.contains("can spare") || why.contains("tell")
                    || why.contains("for a while"),
                "{}", why
            ),
        }
    }

    #[test]
    fn groups_ascend_and_slots_and_ids_are_taken_once((seen, wanted) in asks()) {
        let Ok(plan) = try_plan(&seen, &wanted) else { return Ok(()) };
        let groups: Vec<u32> = plan.steps.iter().map(|s| s.group).collect();
        prop_assert!(groups.windows(2).all(|w| w[1] == w[0] || w[1] == w[0] + 1), "{:?}", groups);
        let mut ids = BTreeSet::new();
        let mut slots = BTreeSet::new();
        for step in &plan.steps {
            prop_assert!(step.deadline.as_millis() > 0);
            if let Act::PlugDimm { id, memdev, slot, .. } = &step.act {
                prop_assert!(ids.insert(id.clone()) && ids.insert(memdev.clone()));
                prop_assert!(slots.insert(*slot));
            } else if let Act::UnplugDimm { slot, .. } = &step.act {
                slots.remove(slot);
            } else if let Act::PlugVcpu { id, .. } = &step.act {
                prop_assert!(ids.insert(id.clone()));
            }
        }
    }
}

#[test]
fn the_asks_tried_here_are_not_all_refused() {
    let mut runner = TestRunner::deterministic();
    let (mut planned, mut merged) = (0, 0);
    for _ in 0..600 {
        let (seen, wanted) = asks().new_tree(&mut runner).expect("a case").current();
        let Ok(plan) = try_plan(&seen, &wanted) else { continue };
        planned += u32::from(!plan.steps.is_empty());
        let has = |wanted: fn(&Act) -> bool| plan.steps.iter().any(|step| wanted(&step.act));
        let adds = has(|act| matches!(act, Act::PlugDimm { .. }));
        merged += u32::from(adds && has(|act| matches!(act, Act::UnplugDimm { .. })));
    }
    assert!(planned > 100 && merged > 10, "{planned} planned, {merged} with DIMMs both added and removed");
}
