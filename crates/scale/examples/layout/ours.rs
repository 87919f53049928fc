//! Supple's own planner as a manager: plan, carry out, and plan again around what the guest keeps, as `supple apply`
//! does.

use crate::rivals::Manager;
use scale::limits::Limits;
use scale::observed::{
    Accel, AutoOnline, Dimm, DimmKind, Guest, GuestFacts, Host, Known, Machine, MemBlock, MemInfo, Memory,
    Node, Observed, Vcpus, Version,
};
use scale::plan::{Act, Plan, plan_around};
use scale::time::Moment;
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;

const BLOCK: Bytes = Bytes::mib(128);

/// A machine under Supple.
pub(crate) struct Supple {
    seen: Observed,
}

impl Supple {
    /// Sizes in MiB.
    pub(crate) fn new(boot: u64, ceiling: u64, slots: u64) -> Supple {
        let boot = Bytes::mib(boot);
        let commands = ["guest-set-memory-blocks", "guest-file-open", "guest-file-write", "guest-file-close"];
        let facts = GuestFacts {
            block: Some(BLOCK),
            commands: commands.map(str::to_owned).into(),
            auto_online: Some(AutoOnline::Online),
            ..GuestFacts::default()
        };
        let seen = Observed {
            at: Moment::default(),
            machine: Machine {
                kind: "pc-q35-7.2".into(),
                arch: "x86_64".into(),
                qemu: Version(7, 2, 0),
                accel: Accel::Kvm,
                state: "running".into(),
                ..Machine::default()
            },
            memory: Memory {
                boot,
                ceiling: Bytes::mib(ceiling),
                slots: u32::try_from(slots).expect("few slots"),
                alignment: Bytes::mib(2),
                nodes: vec![Node { id: 0, memory: boot }],
                ..Memory::default()
            },
            vcpus: Vcpus::default(),
            power: Known::default(),
            disks: Known::default(),
            nics: Known::default(),
            guest: Guest::Heard(Box::new(facts)),
            host: Host::default(),
            pending: Vec::new(),
        };
        let mut supple = Supple { seen };
        supple.refresh();
        supple
    }

    /// What the guest shows: all blocks online, and all of its memory available.
    fn refresh(&mut self) {
        let (boot, total) = (self.seen.memory.boot, self.seen.memory.total());
        let mut blocks: Vec<u64> = (0..boot.count_of(BLOCK)).collect();
        blocks.extend(self.seen.memory.dimms.iter().flat_map(|d| d.blocks(BLOCK)));
        blocks.sort_unstable();
        self.seen.memory.nodes[0].memory = total;
        if let Guest::Heard(facts) = &mut self.seen.guest {
            facts.blocks = blocks.into_iter().map(|index| MemBlock { index, online: true }).collect();
            facts.meminfo = Some(MemInfo { total, available: total, free: total });
        }
    }

    /// Carries a plan out, up to the DIMM that the guest keeps, which is the answer.
    fn carry_out(&mut self, plan: &Plan, keeps: &mut dyn FnMut(u64, u64) -> bool) -> Option<String> {
        let mut made = Bytes::ZERO;
        for step in &plan.steps {
            if let Act::CreateBackend { size, .. } = &step.act {
                made = *size;
            } else if let Act::PlugDimm { id, memdev, slot, node, addr, .. } = &step.act {
                let dimm = Dimm {
                    id: id.clone(),
                    memdev: memdev.clone(),
                    kind: DimmKind::Dimm,
                    slot: *slot,
                    node: *node,
                    addr: addr.unwrap_or_else(|| self.first_fit(made)),
                    size: made,
                    hotplugged: true,
                    ost: None,
                };
                let dimms = &mut self.seen.memory.dimms;
                dimms.insert(dimms.partition_point(|d| d.slot < *slot), dimm);
            } else if let Act::OfflineBlocks { device } = &step.act {
                let dimm = self.seen.memory.dimms.iter().find(|d| d.id == *device).expect("a DIMM");
                if keeps(dimm.addr, dimm.size.count_of(Bytes::mib(1))) {
                    return Some(device.clone());
                }
            } else if let Act::UnplugDimm { id, .. } = &step.act {
                self.seen.memory.dimms.retain(|d| d.id != *id);
            }
        }
        None
    }

    /// The address that QEMU gives a DIMM: the lowest that is free, within the region that it reserves.
    fn first_fit(&self, size: Bytes) -> u64 {
        let memory = &self.seen.memory;
        let boot = memory.boot.get();
        let base = (4u64 << 30) + if boot >= 0xb000_0000 { boot - 0x8000_0000 } else { 0 };
        let base = base.next_multiple_of(1 << 30);
        let end = base + (memory.ceiling.get() - boot) + (u64::from(memory.slots) << 30);
        let mut taken: Vec<(u64, u64)> =
            memory.dimms.iter().map(|d| (d.addr, d.addr + d.size.get())).collect();
        taken.sort_unstable();
        let fit =
            |at: u64, (start, stop): &(u64, u64)| if at + size.get() > *start { at.max(*stop) } else { at };
        let addr = taken.iter().fold(base, fit);
        assert!(addr + size.get() <= end, "QEMU would find no place for {size}");
        addr
    }
}

impl Manager for Supple {
    fn name(&self) -> &'static str {
        "Supple"
    }

    fn resize(&mut self, want: u64, keeps: &mut dyn FnMut(u64, u64) -> bool) {
        let mut wanted = Wanted { memory: Some(Change::To(Bytes::mib(want))), ..Wanted::default() };
        // As many plans as `supple apply` makes for one command.
        for _ in 0..64 {
            let Ok(plan) = plan_around(&self.seen, &wanted, &Limits::default()) else { return };
            let kept = self.carry_out(&plan, keeps);
            self.refresh();
            match kept {
                Some(id) => wanted.keep.push(id),
                None => return,
            }
        }
    }

    fn total(&self) -> u64 {
        self.seen.memory.total().count_of(Bytes::mib(1))
    }

    fn plugged(&self) -> u64 {
        self.seen.memory.dimm_total().count_of(Bytes::mib(1))
    }

    fn free_slots(&self) -> u64 {
        self.seen.memory.free_slots().len() as u64
    }
}
