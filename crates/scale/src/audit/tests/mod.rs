//! Sound plans pass; break one thing, and the auditor names that thing. Here are the sound plans; what breaks them is
//! in the files beside this one.

mod known;
mod limits;
mod memory;
mod rules;

use super::*;
use crate::observed::*;
use crate::plan::{Asked, OWN_PREFIX, Proof, Strength, Zone};
use crate::time::{Moment, Span};

const GIB: u64 = 1 << 30;
const BLOCK: Bytes = Bytes::mib(128);

/// 2 GiB at boot and one DIMM of 1 GiB, all online; an empty virtio-mem device of 4 GiB; a balloon; 2 of 4 vCPUs.
fn machine() -> Observed {
    let blocks = (0..16).chain(32..40).map(|index| MemBlock { index, online: true }).collect();
    let commands = ["guest-set-memory-blocks", "guest-set-vcpus", "guest-exec"];
    let facts = GuestFacts {
        commands: commands.map(String::from).into(),
        block: Some(BLOCK),
        blocks,
        vcpus: (0..2).map(|id| GuestVcpu { id, online: true, can_offline: id > 0 }).collect(),
        meminfo: Some(MemInfo {
            total: Bytes::mib(2900),
            available: Bytes::mib(1900),
            free: Bytes::mib(900),
        }),
        ..GuestFacts::default()
    };
    Observed {
        at: Moment::from_unix_millis(1_000_000),
        machine: Machine { state: "running".into(), qemu: Version(7, 2, 0), ..Machine::default() },
        memory: memory(),
        vcpus: Vcpus { slots: (0..4).map(place).collect(), ..Vcpus::default() },
        power: Known::default(),
        disks: Known::default(),
        nics: Known::default(),
        guest: Guest::Heard(Box::new(facts)),
        host: Host::default(),
        pending: Vec::new(),
    }
}

fn memory() -> Memory {
    Memory {
        boot: Bytes::gib(2),
        ceiling: Bytes::gib(16),
        slots: 8,
        alignment: Bytes::mib(2),
        dimms: vec![Dimm {
            id: "supple-dimm-0".into(),
            memdev: "supple-mem-0".into(),
            kind: DimmKind::Dimm,
            slot: 0,
            node: 0,
            addr: 4 * GIB,
            size: Bytes::gib(1),
            hotplugged: true,
            ost: None,
        }],
        virtio_mem: vec![VirtioMem {
            id: "vm0".into(),
            node: 0,
            addr: 64 * GIB,
            block: Bytes::mib(2),
            max: Bytes::gib(4),
            requested: Bytes::ZERO,
            size: Bytes::ZERO,
        }],
        balloon: Some(Balloon { actual: Bytes::gib(3), stats: None }),
        nodes: vec![Node { id: 0, memory: Bytes::gib(3) }],
        ..Memory::default()
    }
}

fn place(core: u32) -> VcpuSlot {
    VcpuSlot {
        driver: "qemu64-x86_64-cpu".into(),
        count: 1,
        props: VcpuProps { core_id: Some(core), ..VcpuProps::default() },
        state: match core {
            0 => VcpuState::Boot,
            1 => VcpuState::Device("supple-vcpu-1".into()),
            _ => VcpuState::Free,
        },
        ost: None,
        name: None,
    }
}

fn step(group: u32, act: Act, proof: Proof, strength: Strength, undo: Vec<Act>) -> Step {
    Step { group, act, proof, strength, deadline: Span::secs(30), undo }
}

fn plan(seen: &Observed, memory: Bytes, vcpus: u32, steps: Vec<Step>) -> Plan {
    let to = Sizes { memory, vcpus };
    Plan {
        basis: Basis::of(seen),
        from: Sizes::of(seen),
        asked: Asked { memory: Some(memory), vcpus: Some(vcpus), ..Asked::default() },
        to,
        steps,
        notes: Vec::new(),
        unmet: Vec::new(),
    }
}

/// One DIMM added: made, plugged, online.
fn dimm_added(group: u32, name: &str, slot: u32, addr: Option<u64>, size: Bytes) -> Vec<Step> {
    let (id, memdev) = (format!("{OWN_PREFIX}dimm-{name}"), format!("{OWN_PREFIX}mem-{name}"));
    vec![
        step(
            group,
            Act::CreateBackend {
                memdev: memdev.clone(),
                size,
                backing: Backing::Ram,
                placement: Default::default(),
            },
            Proof::BackendExists { memdev: memdev.clone() },
            Strength::DeviceOnly,
            vec![Act::DeleteBackend { memdev: memdev.clone() }],
        ),
        step(
            group,
            Act::PlugDimm { id: id.clone(), memdev: memdev.clone(), brings: None, slot, node: 0, addr },
            Proof::DimmSeen { id: id.clone() },
            Strength::GuestConfirmed,
            vec![Act::UnplugDimm { id: id.clone(), memdev, slot }],
        ),
        step(
            group,
            Act::OnlineBlocks { device: id.clone(), zone: Zone::PreferMovable },
            Proof::BlocksOnline { device: id.clone(), whole: true },
            Strength::GuestConfirmed,
            vec![Act::OfflineBlocks { device: id }],
        ),
    ]
}

/// The machine's DIMM removed: emptied, unplugged, its backend deleted.
fn dimm_removed(group: u32) -> Vec<Step> {
    let (id, memdev) = ("supple-dimm-0".to_owned(), "supple-mem-0".to_owned());
    vec![
        step(
            group,
            Act::OfflineBlocks { device: id.clone() },
            Proof::BlocksOffline { device: id.clone() },
            Strength::GuestConfirmed,
            vec![Act::OnlineBlocks { device: id.clone(), zone: Zone::AsBefore }],
        ),
        step(
            group,
            Act::UnplugDimm { id: id.clone(), memdev: memdev.clone(), slot: 0 },
            Proof::DimmGone { id },
            Strength::DriverConfirmed,
            vec![],
        ),
        step(
            group,
            Act::DeleteBackend { memdev: memdev.clone() },
            Proof::BackendGone { memdev },
            Strength::DeviceOnly,
            vec![],
        ),
    ]
}

fn virtio_mem(group: u32, from: Bytes, to: Bytes) -> Step {
    step(
        group,
        Act::ResizeVirtioMem { id: "vm0".into(), from, to },
        Proof::VirtioMemSize { id: "vm0".into(), size: to },
        Strength::DriverConfirmed,
        vec![Act::SettleVirtioMem { id: "vm0".into() }],
    )
}

fn balloon(group: u32, from: Bytes, to: Bytes) -> Step {
    step(
        group,
        Act::SetBalloon { from, to },
        Proof::BalloonAt { actual: to },
        Strength::DriverConfirmed,
        vec![Act::SetBalloon { from: to, to: from }],
    )
}

fn vcpu_added(group: u32, core: u32, present: u32) -> Vec<Step> {
    let id = format!("{OWN_PREFIX}vcpu-{core}");
    vec![
        step(
            group,
            Act::PlugVcpu { id: id.clone(), driver: "qemu64-x86_64-cpu".into(), props: place(core).props },
            Proof::VcpuSeen { id: id.clone(), present },
            Strength::GuestConfirmed,
            vec![Act::UnplugVcpu { id }],
        ),
        step(
            group,
            Act::OnlineVcpus { count: present },
            Proof::VcpusOnline { count: present },
            Strength::GuestConfirmed,
            vec![],
        ),
    ]
}

fn vcpu_removed(group: u32, id: &str) -> Step {
    step(
        group,
        Act::UnplugVcpu { id: id.into() },
        Proof::VcpuGone { id: id.into() },
        Strength::DriverConfirmed,
        vec![],
    )
}

fn growth() -> (Observed, Plan) {
    let seen = machine();
    let mut steps = dimm_added(1, "1", 1, Some(5 * GIB), Bytes::gib(2));
    steps.extend(dimm_added(2, "2", 2, Some(7 * GIB), Bytes::mib(512)));
    steps.extend(vcpu_added(3, 2, 3));
    let plan = plan(&seen, Bytes::mib(5632), 3, steps);
    (seen, plan)
}

fn shrinking() -> (Observed, Plan) {
    let seen = machine();
    let mut steps = dimm_removed(1);
    steps.push(vcpu_removed(2, "supple-vcpu-1"));
    let plan = plan(&seen, Bytes::gib(2), 1, steps);
    (seen, plan)
}

fn stretching() -> (Observed, Plan) {
    let seen = machine();
    let (one, two) = (Bytes::gib(1), Bytes::gib(2));
    let steps = vec![virtio_mem(1, Bytes::ZERO, one), virtio_mem(2, one, two)];
    let plan = plan(&seen, Bytes::gib(5), 2, steps);
    (seen, plan)
}

fn inflating() -> (Observed, Plan) {
    let seen = machine();
    let plan = plan(&seen, Bytes::mib(2560), 2, vec![balloon(1, Bytes::gib(3), Bytes::mib(2560))]);
    (seen, plan)
}

fn kinds(seen: &Observed, plan: &Plan) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = audit(plan, seen, &Limits::default()).iter().map(|f| f.kind).collect();
    kinds.dedup();
    kinds
}

/// What is found after a sound case was broken in one place. The basis is kept true, so that it hides nothing.
#[track_caller]
fn found(case: fn() -> (Observed, Plan), break_it: impl FnOnce(&mut Observed, &mut Plan), expected: &[Kind]) {
    let (mut seen, mut plan) = case();
    let before = Basis::of(&seen);
    break_it(&mut seen, &mut plan);
    if plan.basis == before {
        plan.basis = Basis::of(&seen);
    }
    let findings = audit(&plan, &seen, &Limits::default());
    assert_eq!(kinds(&seen, &plan), expected, "{findings:#?}");
}

fn facts(seen: &mut Observed) -> &mut GuestFacts {
    match &mut seen.guest {
        Guest::Heard(facts) => facts,
        Guest::Unheard(why) => panic!("{why}"),
    }
}
