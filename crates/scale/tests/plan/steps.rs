//! The steps of plans, written out as the user sees them.

use crate::machine::{facts, in_libvirt, machine, with_dimm, with_virtio_mem};
use scale::limits::Limits;
use scale::observed::{Accel, Observed, VcpuState};
use scale::plan::{Plan, Refusal, plan};
use scale::units::{Bytes, Change, parse_change, parse_count};
use scale::wanted::Wanted;

pub(crate) fn memory(size: &str) -> Wanted {
    Wanted { memory: Some(parse_change(size).expect(size)), ..Wanted::default() }
}

pub(crate) fn vcpus(count: &str) -> Wanted {
    Wanted { vcpus: Some(parse_count(count).expect(count)), ..Wanted::default() }
}

pub(crate) fn planned(seen: &Observed, wanted: &Wanted) -> Plan {
    plan(seen, wanted, &Limits::default()).unwrap_or_else(|refusal| panic!("{refusal}"))
}

pub(crate) fn refused(seen: &Observed, wanted: &Wanted) -> Refusal {
    match plan(seen, wanted, &Limits::default()) {
        Ok(plan) => panic!("planned: {:?}", written(&plan)),
        Err(refusal) => refusal,
    }
}

pub(crate) fn written(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| format!("{} {}", step.group, step.act)).collect()
}

#[test]
fn a_machine_that_is_as_asked_gets_no_step() {
    let wanted = Wanted { vcpus: Some(Change::To(1)), ..memory("1G") };
    assert_eq!(written(&planned(&machine(), &wanted)), Vec::<String>::new());
}

#[test]
fn growing_makes_plugs_and_onlines_one_dimm() {
    assert_eq!(
        written(&planned(&machine(), &memory("+1G"))),
        [
            "0 make 1 GiB of host memory supple-mem0",
            "0 plug DIMM supple-dimm0 into slot 0, node 0",
            "0 online the blocks of supple-dimm0, movable",
        ]
    );
}

#[test]
fn shrinking_empties_before_it_unplugs() {
    let seen = with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0);
    assert_eq!(
        written(&planned(&seen, &memory("1G"))),
        [
            "0 take the blocks of supple-dimm0 offline",
            "0 unplug DIMM supple-dimm0",
            "0 give host memory mem-supple-dimm0 back",
        ]
    );
}

#[test]
fn vcpus_go_after_dimms_because_some_qemus_die_otherwise() {
    let mut seen = with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0);
    seen.machine.accel = Accel::Tcg;
    let slot = seen.vcpus.slots.iter_mut().find(|s| s.state == VcpuState::Free).expect("a place");
    slot.state = VcpuState::Device("supple-vcpu0".into());
    let wanted = Wanted { vcpus: Some(Change::Shrink(1)), ..memory("1G") };
    let steps = written(&planned(&seen, &wanted));
    let at =
        |act: &str| steps.iter().position(|s| s.contains(act)).unwrap_or_else(|| panic!("{act}: {steps:?}"));
    assert!(at("unplug DIMM") < at("unplug vCPU"), "{steps:?}");

    seen.vcpus.removed_before = true;
    let said = refused(&seen, &memory("1G")).to_string();
    assert!(said.contains("TCG dies") && said.contains("COLD"), "{said}");
    seen.machine.accel = Accel::Kvm;
    assert!(!planned(&seen, &memory("1G")).steps.is_empty());
}

#[test]
fn virtio_mem_comes_before_dimms() {
    let seen = with_virtio_mem(machine(), "vm0", Bytes::gib(2), 0);
    assert_eq!(
        written(&planned(&seen, &memory("4G"))),
        [
            "0 resize vm0 from 0 B to 1 GiB",
            "0 online the blocks of vm0, movable",
            "1 resize vm0 from 1 GiB to 2 GiB",
            "1 online the blocks of vm0, movable",
            "2 make 1 GiB of host memory supple-mem0",
            "2 plug DIMM supple-dimm0 into slot 0, node 0",
            "2 online the blocks of supple-dimm0, movable",
        ]
    );
}

#[test]
fn each_vcpu_is_plugged_and_onlined_by_itself() {
    assert_eq!(
        written(&planned(&machine(), &vcpus("3"))),
        [
            "0 plug vCPU supple-vcpu0",
            "0 put vCPUs online until 2 are online",
            "1 plug vCPU supple-vcpu1",
            "1 put vCPUs online until 3 are online",
        ]
    );
}

#[test]
fn boot_memory_and_boot_vcpus_stay() {
    let said = refused(&machine(), &memory("512M")).to_string();
    assert!(said.contains("COLD") && said.contains("boot memory"), "{said}");
    let mut seen = machine();
    seen.vcpus.slots[1].state = scale::observed::VcpuState::Boot;
    let said = refused(&seen, &vcpus("1")).to_string();
    assert!(said.contains("COLD") && said.contains("--vcpus 2"), "{said}");
}

#[test]
fn without_an_agent_that_shows_blocks_no_dimm_is_taken_away() {
    let mut seen = with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0);
    facts(&mut seen).blocks.clear();
    let said = refused(&seen, &memory("1G")).to_string();
    assert!(said.contains("NOT NOW") && said.contains("emptied in the guest"), "{said}");
}

#[test]
fn in_libvirt_a_dimm_comes_and_goes_with_its_backend_and_vcpus_have_libvirts_names() {
    let wanted = Wanted { vcpus: Some(Change::Grow(1)), ..memory("2G") };
    assert_eq!(
        written(&planned(&in_libvirt(machine()), &wanted)),
        [
            "0 plug DIMM ua-supple-dimm0 of 1 GiB into slot 0, node 0",
            "0 online the blocks of ua-supple-dimm0, movable",
            "1 plug vCPU vcpu1",
            "1 put vCPUs online until 2 are online",
        ]
    );
    let seen = in_libvirt(with_dimm(machine(), "dimm0", Bytes::gib(1), 0));
    assert_eq!(
        written(&planned(&seen, &memory("1G"))),
        ["0 take the blocks of dimm0 offline", "0 unplug DIMM dimm0"]
    );
}
