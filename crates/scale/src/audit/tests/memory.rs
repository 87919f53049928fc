//! The rules of DIMMs, and of how much memory the guest has at each step.

use super::*;
use crate::setting::Setting;

#[test]
fn a_taken_pending_or_missing_slot_is_found() {
    found(growth, |s, _| s.memory.dimms[0].slot = 1, &[Kind::Slot]);
    found(growth, |s, _| s.memory.slots = 2, &[Kind::Slot]);
    let (mut seen, mut plan) = growth();
    seen.memory.dimms[0].slot = 2;
    let device = PendingDevice::Dimm { id: "supple-dimm-0".into(), memdev: "supple-mem-0".into() };
    seen.pending.push(Pending { device, since: seen.at });
    plan.basis = Basis::of(&seen);
    let findings = audit(&plan, &seen, &Limits::default());
    assert_eq!(findings.len(), 1);
    assert!(findings[0].message.contains("still being given up"), "{}", findings[0]);
}

/// Growth by one DIMM of `size`.
fn grown_by(size: Bytes, addr: Option<u64>) -> (Observed, Plan) {
    let seen = machine();
    let plan = plan(&seen, Bytes::gib(3) + size, 2, dimm_added(1, "1", 1, addr, size));
    (seen, plan)
}

#[test]
fn a_dimm_of_a_wrong_size_is_found() {
    found(|| grown_by(Bytes::mib(1025), None), |_, _| {}, &[Kind::DimmSize]);
    found(|| grown_by(Bytes::mib(1088), None), |_, _| {}, &[Kind::DimmSize]);
    found(|| grown_by(Bytes::mib(1152), None), |_, _| {}, &[]);
    found(|| grown_by(Bytes::gib(1), None), |s, _| facts(s).block = Some(Bytes::gib(2)), &[Kind::DimmSize]);
    found(
        || grown_by(Bytes::gib(65), None),
        |s, _| s.memory.ceiling = Bytes::gib(128),
        &[Kind::DimmSize, Kind::Metadata],
    );
}

#[test]
fn a_dimm_that_a_large_mute_guest_would_refuse_is_found() {
    let mute = |boot: u64| {
        move || {
            let mut seen = machine();
            seen.guest = Guest::Unheard("no agent".into());
            (seen.memory.boot, seen.memory.ceiling) = (Bytes::gib(boot), Bytes::gib(128));
            (seen.memory.balloon, seen.machine.arch) = (None, "x86_64".into());
            let mut steps = dimm_added(1, "1", 1, None, Bytes::gib(1));
            steps.truncate(2);
            steps[1].strength = Strength::DriverConfirmed;
            let plan = plan(&seen, Bytes::gib(boot + 2), 2, steps);
            (seen, plan)
        }
    };
    for (boot, kinds) in [(62, [].as_slice()), (63, &[Kind::DimmSize])] {
        let (seen, plan) = mute(boot)();
        assert_eq!(super::kinds(&seen, &plan), kinds, "{boot} GiB");
    }
}

#[test]
fn a_wrong_address_is_found() {
    let cases = [
        (5 * GIB + (64 << 20), "not aligned"),
        (4 * GIB + (512 << 20), "meets 'supple-dimm-0'"),
        (66 * GIB, "meets 'vm0'"),
        (u64::MAX - GIB + 1, "64 bits"),
    ];
    for (addr, said) in cases {
        let (seen, plan) = grown_by(Bytes::gib(1), Some(addr));
        let findings = audit(&plan, &seen, &Limits::default());
        assert!(findings.iter().any(|f| f.kind == Kind::Address && f.message.contains(said)), "{findings:?}");
    }
}

#[test]
fn a_merge_that_exceeds_the_ceiling_for_a_moment_is_found() {
    let merge = || {
        let mut seen = machine();
        seen.memory.ceiling = Bytes::gib(9);
        let mut steps = dimm_added(1, "1", 1, None, Bytes::gib(2));
        steps.extend(dimm_removed(2));
        let plan = plan(&seen, Bytes::gib(4), 2, steps);
        (seen, plan)
    };
    found(merge, |_, _| {}, &[]);
    found(merge, |s, _| s.memory.ceiling = Bytes::gib(8), &[Kind::Ceiling]);
}

#[test]
fn an_absent_node_is_found() {
    found(growth, |s, _| s.memory.nodes[0].id = 1, &[Kind::Node]);
}

#[test]
fn a_missing_used_or_strange_backend_is_found() {
    found(
        || grown_by(Bytes::gib(1), None),
        |_, p| {
            p.steps.remove(0);
        },
        &[Kind::Backend, Kind::GuestCannot, Kind::EndState],
    );
    found(growth, |s, _| s.memory.backing = Backing::SharedMemfd, &[Kind::Backend]);
    found(shrinking, |_, p| p.steps.swap(1, 2), &[Kind::Backend, Kind::Leftover]);
    let foreign = step(
        9,
        Act::DeleteBackend { memdev: "ram0".into() },
        Proof::BackendGone { memdev: "ram0".into() },
        Strength::DeviceOnly,
        vec![],
    );
    found(
        growth,
        |s, p| {
            s.memory.unused_backends.push(Backend { id: "ram0".into(), size: BLOCK });
            p.steps.push(foreign);
        },
        &[Kind::Backend],
    );
}

#[test]
fn a_backend_that_is_left_over_is_found() {
    found(
        shrinking,
        |_, p| {
            p.steps.remove(2);
        },
        &[Kind::Leftover],
    );
}

#[test]
fn an_unplug_of_what_the_guest_uses_is_found() {
    let without_offline = |_: &mut Observed, p: &mut Plan| {
        p.steps.remove(0);
    };
    found(shrinking, without_offline, &[Kind::NotOffline]);
    // Blocks that are offline already need not be taken offline.
    found(
        shrinking,
        |s, p| {
            facts(s).blocks.iter_mut().filter(|b| b.index >= 32).for_each(|b| b.online = false);
            without_offline(s, p);
        },
        &[],
    );
    // A guest that nobody can ask is not asked.
    found(
        shrinking,
        |s, p| {
            s.guest = Guest::Unheard("no agent".into());
            without_offline(s, p);
        },
        &[],
    );
}

#[test]
fn a_dimm_that_nobody_onlines_is_found() {
    found(
        growth,
        |_, p| {
            p.steps.remove(2);
        },
        &[Kind::NotOnlined],
    );
    found(growth, |_, p| p.steps[0..2].iter_mut().for_each(|s| s.group = 0), &[Kind::NotOnlined]);
}

#[test]
fn a_shrink_below_what_the_guest_uses_is_found() {
    let hungry = |s: &mut Observed, _: &mut Plan| {
        facts(s).meminfo.as_mut().expect("there").available = Bytes::mib(1100);
    };
    found(shrinking, hungry, &[Kind::BelowUsed]);
    let starved = |s: &mut Observed, _: &mut Plan| {
        facts(s).meminfo.as_mut().expect("there").available = Bytes::mib(600);
    };
    found(inflating, starved, &[Kind::BelowUsed]);
    found(growth, starved, &[]);
}

#[test]
fn old_balloon_figures_are_not_believed() {
    let stats = |age: Span| {
        move |s: &mut Observed, _: &mut Plan| {
            let told = BalloonStats {
                at: s.at - age,
                total: Bytes::mib(2900),
                available: Bytes::mib(600),
                free: Bytes::ZERO,
            };
            facts(s).meminfo = None;
            s.memory.balloon.as_mut().expect("there").stats = Some(told);
        }
    };
    found(shrinking, stats(Span::secs(1)), &[Kind::BelowUsed]);
    found(shrinking, stats(Span::secs(600)), &[]);
}

#[test]
fn a_dip_below_both_ends_is_found() {
    // The order of a merge matters: the new DIMM first, then the old one away.
    let backwards = || {
        let seen = machine();
        let mut steps = dimm_removed(1);
        steps.extend(dimm_added(2, "1", 1, None, Bytes::gib(2)));
        let plan = plan(&seen, Bytes::gib(4), 2, steps);
        (seen, plan)
    };
    found(backwards, |s, _| facts(s).meminfo = None, &[Kind::Dip]);
    // A guest that tells that it can bear it, and does not.
    found(backwards, |_, _| {}, &[]);
    let uses_more = |s: &mut Observed| facts(s).meminfo.as_mut().expect("there").available = Bytes::mib(1100);
    found(backwards, |s, _| uses_more(s), &[Kind::BelowUsed]);
}

#[test]
fn a_growth_without_room_for_its_page_tables_is_found() {
    let poor = |s: &mut Observed, _: &mut Plan| {
        facts(s).meminfo.as_mut().expect("there").available = Bytes::mib(32);
    };
    found(growth, poor, &[Kind::Metadata]);
    // virtio-mem adds block by block and stops by itself.
    found(stretching, poor, &[]);
}

#[test]
fn too_many_memory_regions_are_found() {
    // Boot memory, two DIMMs and the virtio-mem device, and the reserve of four; then one more DIMM.
    found(growth, |s, _| s.host.vhost_regions = Some(8), &[Kind::VhostRegions]);
    found(growth, |s, _| s.host.vhost_regions = Some(9), &[]);
}

#[test]
fn what_the_host_cannot_hold_is_found() {
    found(growth, |s, _| s.host.cgroup_headroom = Some(Bytes::gib(2)), &[Kind::Host]);
    found(growth, |s, _| (s.host.vfio, s.host.memlock_headroom) = (true, Some(Bytes::gib(1))), &[Kind::Host]);
}

/// Memory of node 0 in huge pages of the host's node 1, of which the host has so many MiB there and in all.
fn in_pages(seen: &mut Observed, plan: &mut Plan, there: u64, whole: u64) {
    let backing = Backing::HugeMemfd { page: Bytes::mib(2), share: false };
    let placement = Placement { policy: HostPolicy::Bind, host_nodes: vec![1], prealloc: false };
    for step in &mut plan.steps {
        if let Act::CreateBackend { backing: of, placement: at, .. } = &mut step.act {
            (*of, *at) = (backing.clone(), placement.clone());
        }
    }
    seen.memory.sources = vec![Source { of: SourceOf::Node(0), backing, placement }];
    let pool = |node, mib| {
        let (page, free, promised) = (Some(Bytes::mib(2)), Bytes::mib(mib), Bytes::ZERO);
        MemoryPool { node, page, free, promised }
    };
    seen.host.pools = vec![pool(None, whole), pool(Some(1), there)];
}

#[test]
fn pages_that_the_hosts_node_does_not_have_are_found() {
    let one = || grown_by(Bytes::gib(1), None);
    found(one, |s, p| in_pages(s, p, 1024, 1024), &[]);
    found(one, |s, p| in_pages(s, p, 1022, 4096), &[Kind::Host]);
    found(one, |s, p| in_pages(s, p, 4096, 1022), &[Kind::Host]);
    let attached_in_pages = |s: &mut Observed, p: &mut Plan| in_pages(s, p, 1022, 4096);
    found(attached, attached_in_pages, &[Kind::Host]);
}

#[test]
fn a_backend_that_is_not_made_as_its_nodes_memory_is_found() {
    let elsewhere = |s: &mut Observed, p: &mut Plan| {
        in_pages(s, p, 4096, 4096);
        let at = Placement { policy: HostPolicy::Bind, host_nodes: vec![0], prealloc: false };
        let Act::CreateBackend { placement, .. } = &mut p.steps[0].act else { panic!("{:?}", p.steps[0]) };
        *placement = at.clone();
        // Right for some node, but not for the one that the DIMM goes to.
        s.memory.nodes.push(Node { id: 1, memory: Bytes::ZERO });
        let backing = s.memory.sources[0].backing.clone();
        s.memory.sources.push(Source { of: SourceOf::Node(1), backing, placement: at });
    };
    found(|| grown_by(Bytes::gib(1), None), elsewhere, &[Kind::Backend]);
}

#[test]
fn a_limit_that_does_not_go_before_memory_or_is_left_high_is_found() {
    let limit = |mib| Box::new(Setting::Memory { most: Bytes::mib(mib) });
    let limited = |s: &mut Observed| s.host.memory_limit = Some(Bytes::mib(4096));
    let set = |from, to| {
        let (from, to) = (limit(from), limit(to));
        let back = Act::Set { from: to.clone(), to: from.clone() };
        let proof = Proof::SetAt { setting: to.clone() };
        step(1, Act::Set { from, to }, proof, Strength::DeviceOnly, vec![back])
    };
    let one = || grown_by(Bytes::gib(1), None);
    let with = |found_at: usize, set_to: u64, kinds: &[Kind]| {
        let changed = |s: &mut Observed, p: &mut Plan| {
            limited(s);
            let mut raise = set(4096, set_to);
            raise.group = p.steps[0].group;
            p.steps.insert(found_at, raise);
        };
        found(one, changed, kinds);
    };
    with(0, 5120, &[]);
    with(1, 5120, &[Kind::Host]);
    with(0, 5119, &[Kind::Host, Kind::Leftover]);
    with(0, 5121, &[Kind::Leftover]);
    found(one, |s, _| limited(s), &[Kind::Host, Kind::Leftover]);
}

#[test]
fn a_limit_that_is_lowered_below_what_is_left_is_found() {
    // 3 GiB with a limit of 2.5 GiB; one DIMM of 1 GiB goes.
    let with = |to: Option<u64>, kinds: &[Kind]| {
        let changed = |s: &mut Observed, p: &mut Plan| {
            s.host.memory_limit = Some(Bytes::mib(2560));
            let Some(to) = to else { return };
            let limit = |mib| Box::new(Setting::Memory { most: Bytes::mib(mib) });
            let back = Act::Set { from: limit(to), to: limit(2560) };
            let proof = Proof::SetAt { setting: limit(to) };
            let act = Act::Set { from: limit(2560), to: limit(to) };
            let mut lower = step(1, act, proof, Strength::DeviceOnly, vec![back]);
            lower.group = p.steps.last().unwrap().group + 1;
            p.steps.push(lower);
        };
        found(shrinking, changed, kinds);
    };
    with(Some(2048), &[]);
    with(Some(1536), &[Kind::Leftover]);
    with(None, &[Kind::Leftover]);
}

/// Growth by one DIMM on a machine that libvirt keeps.
fn attached() -> (Observed, Plan) {
    let mut seen = machine();
    seen.machine.manager = Manager::Libvirt;
    let mut steps = dimm_added(1, "1", 1, None, Bytes::gib(1));
    steps.remove(0);
    let (id, memdev) = ("ua-supple-dimm-1".to_owned(), "memua-supple-dimm-1".to_owned());
    steps[0].act = Act::PlugDimm {
        id: id.clone(),
        memdev: memdev.clone(),
        brings: Some(Bytes::gib(1)),
        slot: 1,
        node: 0,
        addr: None,
    };
    steps[0].proof = Proof::DimmSeen { id: id.clone() };
    steps[0].undo = vec![Act::UnplugDimm { id: id.clone(), memdev, slot: 1 }];
    steps[1].act = Act::OnlineBlocks { device: id.clone(), zone: Zone::PreferMovable };
    steps[1].proof = Proof::BlocksOnline { device: id.clone(), whole: true };
    steps[1].undo = vec![Act::OfflineBlocks { device: id }];
    let plan = plan(&seen, Bytes::gib(4), 2, steps);
    (seen, plan)
}

#[test]
fn who_makes_a_backend_depends_on_who_keeps_the_machine() {
    found(attached, |_, _| {}, &[]);
    found(attached, |s, _| s.machine.manager = Manager::Nobody, &[Kind::Id, Kind::Backend]);
    found(
        || grown_by(Bytes::gib(1), None),
        |s, _| s.machine.manager = Manager::Libvirt,
        &[Kind::Backend, Kind::Id, Kind::Backend],
    );
    let renamed = |_: &mut Observed, p: &mut Plan| {
        if let Act::PlugDimm { memdev, .. } = &mut p.steps[0].act {
            *memdev = "mem1".to_owned();
        }
        p.steps[0].undo =
            vec![Act::UnplugDimm { id: "ua-supple-dimm-1".into(), memdev: "mem1".into(), slot: 1 }];
    };
    found(attached, renamed, &[Kind::Id]);
}
