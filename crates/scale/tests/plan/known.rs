//! Kernels that need `probe` to be told of plugged memory.

use crate::machine::{facts, machine, with_dimm};
use crate::steps::{memory, planned, written};
use scale::observed::{Observed, Ost, Pending, PendingDevice};
use scale::plan::{Act, Proof};
use scale::units::Bytes;

fn hidden(mut seen: Observed, id: &str) -> Observed {
    let range = seen.memory.dimms.iter().find(|d| d.id == id).expect("a DIMM").blocks(Bytes::mib(128));
    facts(&mut seen).blocks.retain(|b| !range.contains(&b.index));
    seen
}

#[test]
fn a_guest_with_probe_is_told_of_what_it_does_not_find() {
    let mut seen = machine();
    facts(&mut seen).has_probe = true;
    let plan = planned(&seen, &memory("+1G"));
    assert_eq!(
        written(&plan),
        [
            "0 make 1 GiB of host memory supple-mem0",
            "0 plug DIMM supple-dimm0 into slot 0, node 0",
            "0 tell the guest of the blocks of supple-dimm0 that it has not found in 2 s",
            "0 online the blocks of supple-dimm0, movable",
        ]
    );
    assert_eq!(plan.steps[1].proof, Proof::DimmPlugged { id: "supple-dimm0".into() });
    assert_eq!(plan.steps[2].proof, Proof::DimmSeen { id: "supple-dimm0".into() });
    assert_eq!(plan.steps[2].undo, [Act::OfflineBlocks { device: "supple-dimm0".into() }]);
    assert!(plan.notes.iter().any(|note| note.contains("has a file `probe`")), "{:?}", plan.notes);
    // Who may not write files cannot tell it.
    facts(&mut seen).commands.remove("guest-file-write");
    assert_eq!(written(&planned(&seen, &memory("+1G"))).len(), 3);
}

#[test]
fn a_dimm_that_the_guest_never_found_is_made_known_and_stays_in_its_slot() {
    let mut seen = hidden(with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0), "supple-dimm0");
    // The guest's ACPI driver has taken it in, and its kernel has not.
    seen.memory.dimms[0].ost = Some(Ost { source: 1, status: 0 });
    assert_eq!(written(&planned(&seen, &memory("2G")))[0], "0 unplug DIMM supple-dimm0");
    facts(&mut seen).has_probe = true;
    let plan = planned(&seen, &memory("2G"));
    assert_eq!(
        written(&plan),
        [
            "0 tell the guest of the blocks of supple-dimm0 that it has not found in 2 s",
            "0 online the blocks of supple-dimm0, movable",
        ]
    );
    assert!(plan.steps.iter().all(|step| step.undo.is_empty()), "what was in use before stays in use");
    // Nobody is told of a DIMM that is asked back.
    let device = PendingDevice::Dimm { id: "supple-dimm0".into(), memdev: "mem-supple-dimm0".into() };
    seen.pending.push(Pending { device, since: seen.at });
    assert!(planned(&seen, &memory("2G")).steps.is_empty());
}

#[test]
fn what_is_plugged_and_not_used_takes_nothing_of_the_kernels_memory() {
    // 6 GiB of which the guest uses nothing: it has room for the page structures of each all the same.
    let mut seen = machine();
    let figures = facts(&mut seen).meminfo;
    for id in ["supple-dimm0", "supple-dimm1", "supple-dimm2"] {
        seen = hidden(with_dimm(seen, id, Bytes::gib(2), 0), id);
    }
    seen.memory.dimms.iter_mut().for_each(|dimm| dimm.ost = Some(Ost { source: 1, status: 0 }));
    facts(&mut seen).meminfo = figures;
    let plan = planned(&seen, &memory("7G"));
    let plugged_again = plan.steps.iter().filter(|step| matches!(step.act, Act::PlugDimm { .. })).count();
    assert_eq!(plugged_again, 3, "{:#?}", written(&plan));
}

#[test]
fn what_nothing_here_mends_comes_last() {
    let mut seen = hidden(with_dimm(machine(), "a", Bytes::gib(1), 0), "a");
    seen = with_dimm(seen, "b", Bytes::gib(1), 0);
    facts(&mut seen).blocks.last_mut().expect("blocks").online = false;
    assert_eq!(
        written(&planned(&seen, &memory("3G"))),
        ["0 online the blocks of b, movable", "1 online the blocks of a, movable"]
    );
}
