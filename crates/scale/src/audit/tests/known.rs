//! The rules of telling a guest of memory that it does not find by itself.

use super::*;

fn told(group: u32, device: &str, undo: Vec<Act>) -> Step {
    step(
        group,
        Act::MakeKnown { device: device.into(), after: Span::secs(2) },
        Proof::DimmSeen { id: device.into() },
        Strength::GuestConfirmed,
        undo,
    )
}

fn with_probe(seen: &mut Observed) {
    let facts = facts(seen);
    facts.has_probe = true;
    facts.commands.extend(["guest-file-open", "guest-file-write", "guest-file-close"].map(String::from));
}

/// One DIMM plugged on QEMU's word alone; then the guest is told of it.
fn grown() -> (Observed, Plan) {
    let mut seen = machine();
    with_probe(&mut seen);
    let mut steps = dimm_added(1, "1", 1, Some(5 * GIB), Bytes::gib(1));
    let id = "supple-dimm-1".to_owned();
    (steps[1].proof, steps[1].strength) = (Proof::DimmPlugged { id: id.clone() }, Strength::DeviceOnly);
    steps.insert(2, told(1, &id, vec![Act::OfflineBlocks { device: id.clone() }]));
    let plan = plan(&seen, Bytes::gib(4), 2, steps);
    (seen, plan)
}

/// A DIMM that was plugged earlier, of which the guest shows a part.
fn mended() -> (Observed, Plan) {
    let mut seen = machine();
    with_probe(&mut seen);
    facts(&mut seen).blocks.retain(|b| b.index < 36);
    let online = dimm_added(1, "1", 1, None, Bytes::gib(1)).remove(2);
    let id = "supple-dimm-0".to_owned();
    let online = Step {
        act: Act::OnlineBlocks { device: id.clone(), zone: Zone::PreferMovable },
        proof: Proof::BlocksOnline { device: id.clone(), whole: true },
        undo: vec![],
        ..online
    };
    let plan = plan(&seen, Bytes::gib(3), 2, vec![told(1, &id, vec![]), online]);
    (seen, plan)
}

#[test]
fn a_guest_that_is_told_of_what_it_does_not_show_passes() {
    found(grown, |_, _| {}, &[]);
    found(mended, |_, _| {}, &[]);
}

#[test]
fn a_guest_without_probe_or_without_files_cannot_be_told() {
    found(grown, |s, _| facts(s).has_probe = false, &[Kind::GuestCannot]);
    let no_files = |s: &mut Observed, _: &mut Plan| {
        facts(s).commands.remove("guest-file-write");
    };
    found(mended, no_files, &[Kind::GuestCannot]);
}

#[test]
fn what_the_guest_shows_already_or_is_no_dimm_is_not_told() {
    let shown = |s: &mut Observed, _: &mut Plan| {
        facts(s).blocks.extend((36..40).map(|index| MemBlock { index, online: false }));
    };
    found(mended, shown, &[Kind::Probe]);
    found(mended, |s, _| s.memory.dimms[0].addr += 64 << 20, &[Kind::Probe]);
    let nvdimm = || {
        let (mut seen, told) = mended();
        seen.memory.dimms[0].kind = DimmKind::Nvdimm;
        seen.memory.balloon = None;
        let plan = plan(&seen, Bytes::gib(2), 2, told.steps[..1].to_vec());
        (seen, plan)
    };
    found(nvdimm, |_, _| {}, &[Kind::Probe]);
    let virtio_mem = |_: &mut Observed, p: &mut Plan| p.steps[0] = told(1, "vm0", vec![]);
    found(mended, virtio_mem, &[Kind::Probe]);
    let leaving = |s: &mut Observed, _: &mut Plan| {
        let device = PendingDevice::Dimm { id: "supple-dimm-0".into(), memdev: "supple-mem-0".into() };
        s.pending.push(Pending { device, since: s.at });
    };
    found(mended, leaving, &[Kind::Probe]);
}

#[test]
fn a_dimm_on_qemus_word_alone_is_found() {
    let silent = |_: &mut Observed, p: &mut Plan| {
        p.steps.remove(2);
    };
    found(grown, silent, &[Kind::WrongProof]);
    found(grown, |_, p| p.steps[1].strength = Strength::GuestConfirmed, &[Kind::Overclaimed]);
}

#[test]
fn what_was_in_use_is_not_taken_offline_by_an_undo() {
    let id = || vec![Act::OfflineBlocks { device: "supple-dimm-0".into() }];
    found(mended, |_, p| p.steps[0].undo = id(), &[Kind::WrongUndo]);
    found(grown, |_, p| p.steps[2].undo = vec![], &[Kind::WrongUndo]);
}
