//! How long a plan and its audit take on the largest machine there is: 256 slots, half of them full, and 8 NUMA nodes.

use super::table::{Row, median};
use scale::audit::audit;
use scale::limits::Limits;
use scale::observed::{
    Accel, AutoOnline, Dimm, DimmKind, Guest, GuestFacts, Host, Known, MemBlock, MemInfo, Memory, Node,
    Observed, Vcpus, Version,
};
use scale::plan::plan;
use scale::time::Moment;
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The time of one plan that adds memory and the time of its audit, the medians of many.
pub(crate) fn planning() -> [Row; 2] {
    let (seen, limits) = (large(), Limits::default());
    let wanted = Wanted { memory: Some(Change::Grow(Bytes::gib(24))), ..Wanted::default() };
    let (mut plans, mut audits) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        let began = Instant::now();
        let made = plan(black_box(&seen), &wanted, &limits);
        plans.push(began.elapsed());
        let made = made.expect("the large machine can grow");
        let began = Instant::now();
        let findings = audit(black_box(&made), &seen, &limits);
        audits.push(began.elapsed());
        assert!(findings.is_empty() && !made.steps.is_empty(), "{findings:?}");
    }
    let most = Duration::from_micros(100);
    [
        Row::at_most("plan +24 GiB with 256 slots and 8 nodes", median(plans), most),
        Row::at_most("audit of that plan", median(audits), most),
    ]
}

fn large() -> Observed {
    let (boot, dimm, block) = (Bytes::gib(32), Bytes::gib(4), Bytes::mib(128));
    let first = 0x10_0000_0000;
    let dimms: Vec<Dimm> = (0..128)
        .map(|slot| Dimm {
            id: format!("supple-dimm{slot}"),
            memdev: format!("supple-mem{slot}"),
            kind: DimmKind::Dimm,
            slot,
            node: slot % 8,
            addr: first + u64::from(slot) * dimm.get(),
            size: dimm,
            hotplugged: true,
            ost: None,
        })
        .collect();
    let last = (first + 128 * dimm.get()) / block.get();
    let blocks = (0..last).map(|index| MemBlock { index, online: true }).collect();
    let total = boot + dimm.times(128);
    let facts = GuestFacts {
        block: Some(block),
        blocks,
        commands: ["guest-set-memory-blocks", "guest-file-open", "guest-file-write", "guest-file-close"]
            .map(str::to_owned)
            .into(),
        meminfo: Some(MemInfo { total, available: total.per(2), free: total.per(2) }),
        auto_online: Some(AutoOnline::Online),
        ..GuestFacts::default()
    };
    Observed {
        at: Moment::default(),
        machine: scale::observed::Machine {
            state: "running".into(),
            kind: "pc-q35-7.2".into(),
            arch: "x86_64".into(),
            qemu: Version(7, 2, 0),
            accel: Accel::Kvm,
            ..scale::observed::Machine::default()
        },
        memory: Memory {
            boot,
            ceiling: Bytes::gib(2048),
            slots: 256,
            alignment: Bytes::mib(2),
            dimms,
            nodes: (0..8).map(|id| Node { id, memory: total.per(8) }).collect(),
            ..Memory::default()
        },
        vcpus: Vcpus::default(),
        power: Known::default(),
        disks: Known::default(),
        nics: Known::default(),
        guest: Guest::Heard(Box::new(facts)),
        host: Host::default(),
        pending: Vec::new(),
    }
}
