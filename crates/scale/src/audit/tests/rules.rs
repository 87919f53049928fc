//! The rules of plans, proofs and ways back, and of virtio-mem, the balloon and vCPUs.

use super::*;
use crate::guests::System;

#[test]
fn sound_plans_pass() {
    for case in [growth, shrinking, stretching, inflating] {
        let (seen, plan) = case();
        assert_eq!(audit(&plan, &seen, &Limits::default()), []);
    }
    let seen = machine();
    assert_eq!(kinds(&seen, &plan(&seen, Bytes::gib(3), 2, Vec::new())), []);
}

#[test]
fn a_plan_for_another_machine_is_found() {
    found(growth, |_, p| p.basis.dimms[0].2 = Bytes::gib(2), &[Kind::Basis]);
    found(growth, |_, p| p.from.memory = Bytes::mib(2944), &[Kind::Basis]);
}

#[test]
fn a_busy_or_paused_machine_is_found() {
    found(growth, |s, _| s.machine.busy.push("migration".into()), &[Kind::NotReady]);
    found(growth, |s, _| s.machine.state = "paused".into(), &[Kind::NotReady]);
}

#[test]
fn groups_that_descend_are_found() {
    found(growth, |_, p| p.steps[7].group = 2, &[Kind::GroupOrder]);
}

#[test]
fn a_taken_or_foreign_id_is_found() {
    found(
        growth,
        |s, _| s.memory.unused_backends.push(Backend { id: "supple-mem-1".into(), size: Bytes::gib(2) }),
        &[Kind::Id, Kind::Leftover],
    );
    found(growth, |s, _| s.memory.dimms[0].id = "supple-dimm-1".into(), &[Kind::Id]);
    found(
        stretching,
        |_, p| {
            p.steps.extend(dimm_added(3, "1", 1, None, Bytes::gib(1)));
            let id = "dimm1".to_owned();
            p.steps[3].act = Act::PlugDimm {
                id: id.clone(),
                memdev: "supple-mem-1".into(),
                brings: None,
                slot: 1,
                node: 0,
                addr: None,
            };
            p.steps[3].proof = Proof::DimmSeen { id: id.clone() };
            let memdev = "supple-mem-1".to_owned();
            p.steps[3].undo = vec![Act::UnplugDimm { id: id.clone(), memdev, slot: 1 }];
            p.steps[4].act = Act::OnlineBlocks { device: id.clone(), zone: Zone::Default };
            p.steps[4].proof = Proof::BlocksOnline { device: id.clone(), whole: true };
            p.steps[4].undo = vec![Act::OfflineBlocks { device: id }];
            p.to.memory = Bytes::gib(6);
            p.asked.memory = Some(Bytes::gib(6));
        },
        &[Kind::Id],
    );
}

#[test]
fn what_cannot_be_removed_is_found() {
    found(
        shrinking,
        |s, p| {
            s.memory.dimms[0].kind = DimmKind::Nvdimm;
            s.memory.balloon = None;
            p.from.memory = Bytes::gib(2);
        },
        &[Kind::NotRemovable],
    );
    found(
        shrinking,
        |s, p| {
            s.vcpus.slots[1].state = VcpuState::Boot;
            (p.to.vcpus, p.asked.vcpus) = (2, None);
        },
        &[Kind::NotRemovable],
    );
    found(shrinking, |s, _| s.memory.dimms[0].slot = 3, &[Kind::NotRemovable]);
    found(
        shrinking,
        |s, p| {
            s.vcpus.slots[0].state = VcpuState::Free;
            (p.from.vcpus, p.to.vcpus, p.asked.vcpus) = (1, 0, None);
        },
        &[Kind::NotRemovable],
    );
}

#[test]
fn what_the_agent_cannot_do_is_found() {
    let forget = |s: &mut Observed, command: &str| {
        facts(s).commands.remove(command);
    };
    // Movable needs a file or a program in the guest: the agent's own command cannot say it.
    found(growth, |s, _| forget(s, "guest-exec"), &[Kind::GuestCannot]);
    found(
        shrinking,
        |s, _| {
            forget(s, "guest-exec");
            forget(s, "guest-set-memory-blocks");
        },
        &[Kind::GuestCannot],
    );
}

#[test]
fn a_request_that_virtio_mem_refuses_is_found() {
    found(
        stretching,
        |_, p| {
            p.steps.swap(0, 1);
            (p.steps[0].group, p.steps[1].group) = (1, 2);
        },
        &[Kind::VirtioMem, Kind::EndState],
    );
    found(stretching, |s, _| s.memory.virtio_mem[0].block = Bytes::gib(4), &[Kind::VirtioMem]);
    found(stretching, |s, _| s.memory.virtio_mem[0].max = Bytes::gib(1), &[Kind::VirtioMem]);
    found(stretching, |s, _| s.memory.virtio_mem[0].id = "vm1".into(), &[Kind::VirtioMem, Kind::EndState]);
}

#[test]
fn a_balloon_beside_dimms_or_out_of_bounds_is_found() {
    found(
        inflating,
        |_, p| {
            p.steps[0].group = 0;
            p.steps.extend(dimm_added(1, "1", 1, None, Bytes::gib(1)));
            (p.to.memory, p.asked.memory) = (Bytes::mib(3584), None);
            p.from.memory = Bytes::gib(3);
        },
        &[Kind::Balloon],
    );
    found(
        inflating,
        |_, p| {
            p.steps = vec![balloon(1, Bytes::gib(3), Bytes::gib(4))];
            (p.to.memory, p.asked.memory) = (Bytes::gib(3), None);
        },
        &[Kind::Balloon],
    );
    found(
        inflating,
        |s, p| {
            s.memory.balloon.as_mut().expect("there").actual = Bytes::mib(2816);
            p.from.memory = Bytes::mib(2816);
        },
        &[Kind::Balloon],
    );
}

#[test]
fn the_pair_that_kills_qemu_is_found() {
    let tcg = |s: &mut Observed, _: &mut Plan| {
        s.machine.accel = Accel::Tcg;
        s.vcpus.removed_before = true;
    };
    found(growth, tcg, &[Kind::KnownDanger]);
    found(
        growth,
        |s, p| {
            tcg(s, p);
            s.machine.qemu = Version(10, 0, 0);
        },
        &[],
    );
    found(growth, |s, _| s.vcpus.removed_before = true, &[]);
    found(growing_vcpus, tcg, &[Kind::KnownDanger]);
    // Within one plan too.
    let both = || {
        let seen = machine();
        let mut steps = vec![vcpu_removed(1, "supple-vcpu-1")];
        steps.extend(dimm_added(2, "1", 1, None, Bytes::gib(1)));
        let plan = plan(&seen, Bytes::gib(4), 1, steps);
        (seen, plan)
    };
    found(both, |s, _| s.machine.accel = Accel::Tcg, &[Kind::KnownDanger]);
}

fn growing_vcpus() -> (Observed, Plan) {
    let seen = machine();
    let steps = [vcpu_added(1, 2, 3), vcpu_added(2, 3, 4)].concat();
    let plan = plan(&seen, Bytes::gib(3), 4, steps);
    (seen, plan)
}

#[test]
fn a_vcpu_too_many_in_an_emulated_qemu_s_life_is_found() {
    let plugged_before = |times| {
        move |s: &mut Observed, _: &mut Plan| {
            (s.machine.accel, s.machine.qemu) = (Accel::Tcg, Version(10, 0, 0));
            let (id, props) = ("supple-vcpu-2".to_owned(), s.vcpus.slots[2].props);
            s.vcpus.filled = vec![Filled { id, props, times }];
        }
    };
    found(growing_vcpus, plugged_before(0), &[]);
    found(growing_vcpus, plugged_before(1), &[Kind::KnownDanger]);
    found(
        growing_vcpus,
        |s, p| {
            plugged_before(1)(s, p);
            s.machine.accel = Accel::Kvm;
        },
        &[],
    );
}

#[test]
fn what_may_come_after_a_late_removal_is_found_where_qemu_dies_of_it() {
    let asked = |device: PendingDevice, accel: Accel| {
        move |s: &mut Observed, _: &mut Plan| {
            s.machine.accel = accel;
            s.pending = vec![Pending { device: device.clone(), since: s.at }];
        }
    };
    let vcpu = || PendingDevice::Vcpu { id: "supple-vcpu-1".into() };
    let dimm = || PendingDevice::Dimm { id: "supple-dimm-0".into(), memdev: "supple-mem-0".into() };
    found(growing_vcpus, asked(vcpu(), Accel::Tcg), &[Kind::KnownDanger]);
    found(growing_vcpus, asked(dimm(), Accel::Tcg), &[Kind::KnownDanger]);
    found(growing_vcpus, asked(dimm(), Accel::Kvm), &[]);
    // A plan that asks for the DIMM again goes on to the vCPU with its answer alone.
    found(shrinking, asked(dimm(), Accel::Tcg), &[]);
}

#[test]
fn a_vcpu_taken_from_qemu_s_only_thread_is_found() {
    let one_thread = |s: &mut Observed, _: &mut Plan| {
        (s.machine.accel, s.vcpus.one_thread) = (Accel::Tcg, true);
    };
    found(shrinking, one_thread, &[Kind::KnownDanger]);
    found(shrinking, |s, _| s.vcpus.one_thread = true, &[]);
}

#[test]
fn a_vcpu_in_a_wrong_place_is_found() {
    found(growth, |s, _| s.vcpus.slots[2].driver = "host-x86_64-cpu".into(), &[Kind::Vcpu]);
    found(
        growth,
        |s, p| {
            s.vcpus.slots[2].state = VcpuState::Boot;
            (p.from.vcpus, p.to.vcpus) = (3, 3);
        },
        &[Kind::Vcpu],
    );
    found(growth, |s, _| s.vcpus.slots[2].state = VcpuState::Barred("unknown".into()), &[Kind::Vcpu]);
    found(growth, |_, p| p.steps[7].act = Act::OnlineVcpus { count: 4 }, &[Kind::WrongProof, Kind::Vcpu]);
}

#[test]
fn a_proof_that_shows_something_else_is_found() {
    let cases: [(usize, Proof); 4] = [
        (0, Proof::BackendExists { memdev: "supple-mem-2".into() }),
        (1, Proof::DimmSeen { id: "supple-dimm-2".into() }),
        (2, Proof::BlocksOnline { device: "supple-dimm-1".into(), whole: false }),
        (6, Proof::VcpuSeen { id: "supple-vcpu-2".into(), present: 4 }),
    ];
    for (index, proof) in cases {
        found(growth, |_, p| p.steps[index].proof = proof, &[Kind::WrongProof]);
    }
}

#[test]
fn a_zone_that_nothing_shows_is_found() {
    let (device, whole) = ("supple-dimm-1".to_owned(), true);
    let insisted = |p: &mut Plan| {
        p.steps[2].act = Act::OnlineBlocks { device: "supple-dimm-1".into(), zone: Zone::Movable }
    };
    found(growth, |_, p| insisted(p), &[Kind::WrongProof]);
    let proof = Proof::BlocksMovable { device, whole };
    let shown = proof.clone();
    found(
        growth,
        |_, p| {
            insisted(p);
            p.steps[2].proof = shown;
        },
        &[],
    );
    found(growth, |_, p| p.steps[2].proof = proof, &[Kind::WrongProof]);
}

#[test]
fn a_way_back_into_another_zone_is_found() {
    let movable = Act::OnlineBlocks { device: "supple-dimm-0".into(), zone: Zone::PreferMovable };
    found(shrinking, |_, p| p.steps[0].undo = vec![movable], &[Kind::WrongUndo]);
}

#[test]
fn a_proof_that_promises_too_much_is_found() {
    found(growth, |_, p| p.steps[0].strength = Strength::GuestConfirmed, &[Kind::Overclaimed]);
    found(stretching, |_, p| p.steps[0].strength = Strength::GuestConfirmed, &[Kind::Overclaimed]);
}

#[test]
fn a_proof_without_time_is_found() {
    found(growth, |_, p| p.steps[4].deadline = Span::millis(0), &[Kind::NoDeadline]);
}

#[test]
fn a_missing_or_wrong_way_back_is_found() {
    for index in [0, 1, 2, 6] {
        found(growth, |_, p| p.steps[index].undo.clear(), &[Kind::WrongUndo]);
    }
    found(growth, |_, p| p.steps[1].undo = p.steps[4].undo.clone(), &[Kind::WrongUndo]);
    found(shrinking, |_, p| p.steps[1].undo = p.steps[0].undo.clone(), &[Kind::WrongUndo]);
    found(stretching, |_, p| p.steps[0].undo.clear(), &[Kind::WrongUndo]);
}

#[test]
fn an_end_that_is_not_reached_or_not_asked_is_found() {
    found(growth, |_, p| p.to.memory = p.to.memory + BLOCK, &[Kind::EndState, Kind::NotAsAsked]);
    found(growth, |_, p| p.asked.memory = Some(Bytes::gib(6)), &[Kind::NotAsAsked]);
    found(growth, |_, p| p.asked.vcpus = Some(4), &[Kind::NotAsAsked]);
}

/// The same machine with a Windows in it, which shows vCPUs alone; one DIMM and one vCPU come.
fn windows() -> (Observed, Plan) {
    let mut seen = machine();
    let facts = facts(&mut seen);
    facts.system =
        Some(System::of_agent("mswindows", "2022", "Windows Server 2022 Standard (played)", "x86_64"));
    (facts.block, facts.meminfo) = (None, None);
    facts.blocks.clear();
    facts.commands.clear();
    let mut steps = dimm_added(1, "1", 1, None, Bytes::gib(1));
    steps.truncate(2);
    (steps[1].strength, steps[1].undo) = (Strength::DeviceOnly, vec![]);
    let mut vcpu = vcpu_added(2, 2, 3);
    vcpu.truncate(1);
    vcpu[0].undo.clear();
    steps.extend(vcpu);
    let plan = plan(&seen, Bytes::gib(4), 3, steps);
    (seen, plan)
}

#[test]
fn a_way_back_that_the_guest_never_goes_is_found() {
    found(windows, |_, _| {}, &[]);
    let unplug = Act::UnplugDimm { id: "supple-dimm-1".into(), memdev: "supple-mem-1".into(), slot: 1 };
    found(windows, |_, p| p.steps[1].undo = vec![unplug], &[Kind::WrongUndo]);
    let unplug = Act::UnplugVcpu { id: "supple-vcpu-2".into() };
    found(windows, |_, p| p.steps[2].undo = vec![unplug], &[Kind::WrongUndo]);
    // A Linux is asked to give back what it did not take.
    let linux = |s: &mut Observed, _: &mut Plan| {
        facts(s).system = Some(System::of_agent("debian", "12", "Debian 12", "x86_64"));
    };
    found(windows, linux, &[Kind::WrongUndo]);
}
