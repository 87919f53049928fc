//! What the planner chooses where there is a choice, and how it says so.

use crate::machine::{facts, machine, with_dimm, with_virtio_mem};
use crate::steps::{memory, planned, vcpus, written};
use scale::observed::{
    AutoOnline, Backend, Balloon, BalloonStats, Dimm, DimmKind, Guest, Node, Observed, VcpuState,
};
use scale::plan::{Act, Plan, Proof, Strength, Zone};
use scale::units::Bytes;
use scale::wanted::{Mechanism, Wanted, ZoneWish};

fn noted(plan: &Plan, words: &str) {
    assert!(plan.notes.iter().any(|note| note.contains(words)), "'{words}' is not in {:?}", plan.notes);
}

fn two_nodes(mut seen: Observed) -> Observed {
    seen.memory.nodes.push(Node { id: 1, memory: Bytes::ZERO });
    seen
}

#[test]
fn leftovers_of_our_own_are_cleared_and_nobody_elses() {
    let mut seen = machine();
    for id in ["supple-mem0", "pc.ram"] {
        seen.memory.unused_backends.push(Backend { id: id.into(), size: Bytes::gib(1) });
    }
    assert_eq!(written(&planned(&seen, &vcpus("1"))), ["0 give host memory supple-mem0 back"]);
    let steps = written(&planned(&seen, &memory("+1G")));
    assert_eq!(
        steps[..2],
        ["0 give host memory supple-mem0 back", "1 make 1 GiB of host memory supple-mem1"]
    );
}

#[test]
fn plugged_is_not_online_so_it_is_brought_online() {
    let mut seen = with_dimm(machine(), "dimm0", Bytes::gib(1), 0);
    facts(&mut seen).blocks.last_mut().expect("blocks").online = false;
    let plan = planned(&seen, &memory("2G"));
    assert_eq!(written(&plan), ["0 online the blocks of dimm0, movable"]);
    noted(&plan, "plugged that it does not use");
    assert_eq!(written(&planned(&seen, &vcpus("1"))), Vec::<String>::new());
}

#[test]
fn vcpus_that_are_plugged_and_unused_are_brought_online() {
    let mut seen = machine();
    seen.vcpus.slots[1].state = VcpuState::Device("supple-vcpu0".into());
    let offline = scale::observed::GuestVcpu { id: 1, online: false, can_offline: true };
    facts(&mut seen).vcpus.push(offline);
    assert_eq!(written(&planned(&seen, &vcpus("2"))), ["0 put vCPUs online until 2 are online"]);
}

#[test]
fn new_memory_goes_where_there_is_least_or_where_it_is_sent() {
    let node = |wanted: &Wanted| -> Vec<u32> {
        let plan = planned(&two_nodes(machine()), wanted);
        plan.steps
            .iter()
            .filter_map(|step| if let Act::PlugDimm { node, .. } = step.act { Some(node) } else { None })
            .collect()
    };
    assert_eq!(node(&memory("+1G")), [1]);
    assert_eq!(node(&Wanted { node: Some(0), ..memory("+1G") }), [0]);
}

#[test]
fn virtio_mem_keeps_nodes_level() {
    let seen = with_virtio_mem(two_nodes(machine()), "vm0", Bytes::gib(4), 0);
    let seen = with_virtio_mem(seen, "vm1", Bytes::gib(4), 1);
    let mut sizes: Vec<(String, Bytes)> = Vec::new();
    for step in planned(&seen, &memory("4G")).steps {
        if let Act::ResizeVirtioMem { id, to, .. } = step.act {
            sizes.retain(|(other, _)| *other != id);
            sizes.push((id, to));
        }
    }
    let sum: Bytes = sizes.iter().map(|(_, size)| *size).sum();
    let on = |id: &str| sizes.iter().find(|(other, _)| other == id).map_or(Bytes::ZERO, |(_, size)| *size);
    assert_eq!(sum, Bytes::gib(3));
    let apart = (Bytes::gib(1) + on("vm0")).abs_diff(on("vm1"));
    assert!(apart <= Bytes::mib(64), "{sizes:?}");
}

#[test]
fn a_guest_that_onlines_by_itself_gets_virtio_mem_at_once_and_is_waited_for() {
    let mut seen = with_virtio_mem(machine(), "vm0", Bytes::gib(4), 0);
    facts(&mut seen).auto_online = Some(AutoOnline::Movable);
    let plan = planned(&seen, &memory("4G"));
    assert_eq!(
        written(&plan),
        ["0 resize vm0 from 0 B to 3 GiB", "0 wait for the guest to take vm0 in"],
        "the device's size runs ahead of what Linux has put online"
    );
    assert_eq!(plan.steps[1].proof, Proof::BlocksOnline { device: "vm0".into(), whole: false });
    seen.guest = Guest::Unheard("no agent".into());
    assert_eq!(written(&planned(&seen, &memory("4G"))), ["0 resize vm0 from 0 B to 3 GiB"]);
}

#[test]
fn a_virtio_mem_request_under_way_is_taken_up() {
    let mut seen = with_virtio_mem(machine(), "vm0", Bytes::gib(4), 0);
    facts(&mut seen).auto_online = Some(AutoOnline::Online);
    seen.memory.virtio_mem[0].requested = Bytes::gib(2);
    assert_eq!(
        written(&planned(&seen, &memory("3G"))),
        ["0 resize vm0 from 2 GiB to 2 GiB", "0 wait for the guest to take vm0 in"]
    );
    assert_eq!(written(&planned(&seen, &memory("1G"))), ["0 resize vm0 from 2 GiB to 0 B"]);
}

#[test]
fn the_mechanism_that_is_named_is_used() {
    let seen = with_virtio_mem(machine(), "vm0", Bytes::gib(2), 0);
    let dimm = Wanted { mechanism: Some(Mechanism::Dimm), ..memory("2G") };
    assert!(written(&planned(&seen, &dimm))[1].contains("plug DIMM"));
}

#[test]
fn beyond_three_to_one_new_memory_is_the_kernels() {
    let plan = planned(&machine(), &memory("+8G"));
    let zones: Vec<bool> = written(&plan)
        .iter()
        .filter(|step| step.contains("online the blocks"))
        .map(|step| step.ends_with("movable"))
        .collect();
    assert!(zones.contains(&true) && zones.contains(&false), "{zones:?}");
    noted(&plan, "3 parts movable to one part");
}

#[test]
fn a_guest_without_an_agent_is_proven_by_its_balloon_or_told_to_be_unproven() {
    let mut seen = machine();
    seen.guest = Guest::Unheard("no agent".into());
    let plan = planned(&seen, &memory("+1G"));
    assert_eq!(plan.steps.len(), 2);
    assert_eq!(plan.steps[1].strength, Strength::DriverConfirmed);
    noted(&plan, "its ACPI driver's acknowledgement");

    let stats = BalloonStats {
        at: seen.at,
        total: Bytes::mib(960),
        available: Bytes::mib(700),
        free: Bytes::mib(600),
    };
    seen.memory.balloon = Some(Balloon { actual: Bytes::gib(1), stats: Some(stats) });
    let plan = planned(&seen, &memory("+1G"));
    assert_eq!(plan.steps[2].proof, Proof::GuestTotal { at_least: Bytes::mib(960 + 992) });
    noted(&plan, "balloon driver's count");
}

#[test]
fn blocks_that_nobody_can_set_are_awaited() {
    let mut seen = machine();
    facts(&mut seen).commands.retain(|c| c.starts_with("guest-get"));
    let plan = planned(&seen, &memory("+1G"));
    assert_eq!(plan.steps[2].act, Act::AwaitOnline { device: "supple-dimm0".into() });
    assert_eq!(plan.steps[2].strength, Strength::GuestConfirmed);
}

#[test]
fn behind_a_dimm_of_odd_size_the_address_is_named() {
    let mut seen = with_dimm(machine(), "odd", Bytes::mib(66), 0);
    facts(&mut seen).blocks.retain(|b| b.index < 8);
    let plan = planned(&seen, &memory("+1G"));
    let addr = plan
        .steps
        .iter()
        .find_map(|step| if let Act::PlugDimm { addr, .. } = &step.act { *addr } else { None });
    assert_eq!(addr, Some(0x1_0800_0000));
}

#[test]
fn what_is_empty_goes_first_then_the_newest() {
    let seen = with_dimm(machine(), "a", Bytes::gib(1), 0);
    let seen = with_dimm(seen, "b", Bytes::gib(1), 0);
    let mut seen = with_dimm(seen, "c", Bytes::gib(1), 0);
    assert_eq!(written(&planned(&seen, &memory("3G")))[1], "0 unplug DIMM c");
    let a = seen.memory.dimms[0].blocks(Bytes::mib(128));
    facts(&mut seen).blocks.iter_mut().filter(|b| a.contains(&b.index)).for_each(|b| b.online = false);
    let plan = planned(&seen, &memory("3G"));
    assert_eq!(written(&plan)[1], "0 unplug DIMM a");
    assert!(plan.steps[0].undo.is_empty(), "what was offline before is not brought online by an undo");
}

#[test]
fn nvdimms_and_nameless_dimms_stay() {
    let mut seen = with_dimm(with_dimm(machine(), "", Bytes::gib(1), 0), "b", Bytes::gib(1), 0);
    seen.memory.dimms.push(Dimm {
        id: "pmem".into(),
        kind: DimmKind::Nvdimm,
        slot: 2,
        addr: 0x2_0000_0000,
        ..seen.memory.dimms[1].clone()
    });
    assert_eq!(written(&planned(&seen, &memory("2G")))[1], "0 unplug DIMM b");
}

#[test]
fn an_inexact_shrink_adds_before_it_removes() {
    let seen = with_dimm(machine(), "a", Bytes::gib(4), 0);
    let plan = planned(&seen, &memory("4G"));
    let acts: Vec<String> = written(&plan)
        .into_iter()
        .filter(|step| step.contains(" of host ") || step.contains("unplug"))
        .collect();
    assert_eq!(
        acts,
        [
            "0 make 2 GiB of host memory supple-mem0",
            "1 make 1 GiB of host memory supple-mem1",
            "2 unplug DIMM a",
        ]
    );
    noted(&plan, "merged");
}

#[test]
fn vcpus_are_spread_over_nodes_and_taken_back_so() {
    let mut seen = machine();
    for (nth, slot) in (0..).zip(&mut seen.vcpus.slots) {
        slot.props.node_id = Some(nth / 2);
    }
    let nodes: Vec<Option<u32>> = planned(&seen, &vcpus("3"))
        .steps
        .iter()
        .filter_map(
            |step| if let Act::PlugVcpu { props, .. } = &step.act { Some(props.node_id) } else { None },
        )
        .collect();
    assert_eq!(nodes, [Some(1), Some(0)]);
}

#[test]
fn taking_the_last_slot_is_told() {
    let mut seen = machine();
    seen.memory.slots = 1;
    let plan = planned(&seen, &memory("+1G"));
    noted(&plan, "no slot is left to reach the ceiling of 17 GiB by adding");
    assert!(planned(&seen, &memory("17G")).notes.iter().all(|note| !note.contains("no slot is left")));
}

#[test]
fn movable_by_name_is_to_be_shown_by_each_block() {
    let movable = Wanted { zone: ZoneWish::Movable, ..memory("2G") };
    let plan = planned(&machine(), &movable);
    assert_eq!(written(&plan)[2], "0 online the blocks of supple-dimm0, movable only");
    assert_eq!(plan.steps[2].proof, Proof::BlocksMovable { device: "supple-dimm0".into(), whole: true });
    // What Supple chooses need not be.
    let chosen = planned(&machine(), &memory("2G"));
    assert_eq!(
        chosen.steps[2].act,
        Act::OnlineBlocks { device: "supple-dimm0".into(), zone: Zone::PreferMovable }
    );

    // Of a DIMM that is used in part already, in whatever zone, only the rest is insisted on.
    let mut seen = with_dimm(machine(), "dimm0", Bytes::gib(1), 0);
    facts(&mut seen).blocks.last_mut().expect("blocks").online = false;
    let plan = planned(&seen, &movable);
    assert_eq!(written(&plan), ["0 online the blocks of dimm0, movable only"]);
    assert_eq!(plan.steps[0].proof, Proof::BlocksOnline { device: "dimm0".into(), whole: true });
}

#[test]
fn what_a_guest_keeps_comes_back_as_it_was() {
    let seen = with_dimm(machine(), "a", Bytes::gib(1), 0);
    let back = |seen: &Observed| planned(seen, &memory("1G")).steps[0].undo.clone();
    assert_eq!(back(&seen), [Act::OnlineBlocks { device: "a".into(), zone: Zone::AsBefore }]);
    let mut seen = seen;
    facts(&mut seen).commands.retain(|c| !c.starts_with("guest-file"));
    assert_eq!(back(&seen), [Act::OnlineBlocks { device: "a".into(), zone: Zone::Default }]);
}
