//! Limits that move with the machine's memory.

use crate::machine::{in_libvirt, machine, with_dimm, with_virtio_mem};
use crate::steps::{memory, planned, refused, written};
use scale::observed::Observed;
use scale::plan::{Act, When};
use scale::units::Bytes;

fn held(mut seen: Observed) -> Observed {
    seen.host.memory_limit = Some(Bytes::mib(1536));
    seen
}

#[test]
fn a_limit_is_raised_before_a_dimm_and_set_back_with_it() {
    let plan = planned(&held(machine()), &memory("+1G"));
    assert_eq!(
        written(&plan),
        [
            "0 set QEMU's memory limit from 1.5 GiB to 2.5 GiB",
            "0 make 1 GiB of host memory supple-mem0",
            "0 plug DIMM supple-dimm0 into slot 0, node 0",
            "0 online the blocks of supple-dimm0, movable",
        ]
    );
    let back: Vec<String> = plan.steps[0].undo.iter().map(ToString::to_string).collect();
    assert_eq!(back, ["set QEMU's memory limit from 2.5 GiB to 1.5 GiB"]);
    let attached = written(&planned(&held(in_libvirt(machine())), &memory("+1G")));
    assert_eq!(attached[0], "0 set QEMU's memory limit from 1.5 GiB to 2.5 GiB");
}

#[test]
fn a_limit_is_lowered_after_a_dimm_is_gone() {
    let mut seen = held(with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0));
    seen.host.memory_limit = Some(Bytes::mib(2560));
    let shrunk = written(&planned(&seen, &memory("1G")));
    assert_eq!(
        shrunk[2..],
        ["0 give host memory mem-supple-dimm0 back", "1 set QEMU's memory limit from 2.5 GiB to 1.5 GiB"]
    );
    let detached = written(&planned(&in_libvirt(seen), &memory("1G")));
    assert_eq!(
        detached[1..],
        ["0 unplug DIMM supple-dimm0", "1 set QEMU's memory limit from 2.5 GiB to 1.5 GiB"]
    );
}

#[test]
fn a_limit_below_the_machines_memory_is_not_lowered_below_what_is_left() {
    let shrunk = |most| {
        let mut seen = with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0);
        seen = with_dimm(seen, "supple-dimm1", Bytes::gib(2), 0);
        seen.host.memory_limit = Some(most);
        let plan = written(&planned(&seen, &memory("2G")));
        plan.into_iter().find(|step| step.contains(" set "))
    };
    let lowered = |to| Some(format!("1 set QEMU's memory limit from {to}"));
    assert_eq!(shrunk(Bytes::gib(4)), lowered("4 GiB to 2 GiB"));
    assert_eq!(shrunk(Bytes::mib(3584)), lowered("3.5 GiB to 2 GiB"), "4 GiB were never touched");
    assert_eq!(shrunk(Bytes::mib(1536)), None, "it is below already");
}

#[test]
fn a_limit_that_virtio_mem_needs_stands_whatever_the_guest_takes() {
    let seen = held(with_virtio_mem(machine(), "vmem0", Bytes::gib(2), 0));
    let grown = written(&planned(&seen, &memory("+512M")));
    assert_eq!(
        grown[..2],
        ["0 set QEMU's memory limit from 1.5 GiB to 2 GiB", "1 resize vmem0 from 0 B to 512 MiB"]
    );
}

#[test]
fn what_may_be_locked_moves_where_memory_is_locked() {
    let mut seen = machine();
    seen.host.lock_limit = Some(Bytes::gib(2));
    seen.host.memlock_headroom = Some(Bytes::mib(64));
    let locks = |seen: &Observed| {
        planned(seen, &memory("+1G")).steps.iter().any(|step| matches!(step.act, Act::Set { .. }))
    };
    assert!(!locks(&seen), "nothing is locked");
    seen.host.locks = true;
    assert_eq!(
        written(&planned(&seen, &memory("+1G")))[0],
        "0 set QEMU's limit of locked memory from 2 GiB to 3 GiB"
    );
    seen.host.lock_limit = None;
    let refusal = refused(&seen, &memory("+1G"));
    assert_eq!(refusal.obstacles[0].when, When::NotNow);
    let words = ["QEMU locks all", "may lock 64 MiB more", "by 960M or more", "prlimit --pid PID --memlock="];
    for word in words {
        assert!(refusal.to_string().contains(word), "'{word}' is not in {refusal}");
    }
    assert!(!planned(&in_libvirt(seen), &memory("+1G")).steps.is_empty(), "libvirt raises it itself");
}

#[test]
fn no_limit_is_moved_where_none_is() {
    let plan = planned(&machine(), &memory("+1G"));
    assert!(plan.steps.iter().all(|step| !matches!(step.act, Act::Set { .. })), "{:?}", written(&plan));
}
