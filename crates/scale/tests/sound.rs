//! The planner and the auditor agree, on machines of every kind: they share no code, so each tests the other.

use proptest::prelude::*;
use scale::audit::audit;
use scale::limits::Limits;
use scale::observed::*;
use scale::plan::{Plan, Sizes, plan};
use scale::time::{Moment, Span};
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted, ZoneWish};

const GIB: u64 = 1 << 30;
const COMMANDS: [&str; 6] = [
    "guest-exec",
    "guest-file-open",
    "guest-file-write",
    "guest-file-close",
    "guest-set-memory-blocks",
    "guest-set-vcpus",
];

/// Where a machine stands: what proptest chooses.
#[derive(Debug, Clone)]
struct Lot {
    boot: u64,
    ceiling: u64,
    slots: u32,
    block: u64,
    nodes: u32,
    dimms: Vec<Stick>,
    virtio: Vec<(u64, u64, u32)>,
    balloon: Option<(u64, bool)>,
    spare: bool,
    vcpus: Vec<u8>,
    removed_before: bool,
    /// The version of a QEMU under TCG.
    tcg: Option<u32>,
    one_thread: bool,
    /// How often each place was filled before, as the journal has it.
    plugs: Vec<u32>,
    heard: Option<(u8, u64, Option<AutoOnline>, bool)>,
    vhost: Option<u32>,
    cgroup: Option<u64>,
    /// Of each node: huge pages or not, and the host's node that it is bound to; what the host has of both, in units of
    /// 512 MiB.
    sources: Vec<(bool, Option<u32>)>,
    pools: Option<[u64; 4]>,
}

#[derive(Debug, Clone)]
struct Stick {
    blocks: u64,
    own: bool,
    nvdimm: bool,
    online: u8,
    node: u32,
    gap: u64,
    pending: bool,
}

fn sticks() -> impl Strategy<Value = Vec<Stick>> {
    let stick = (
        1u64..24,
        any::<bool>(),
        prop::bool::weighted(0.05),
        0u8..3,
        0u32..2,
        0u64..3,
        prop::bool::weighted(0.05),
    );
    let stick = stick.prop_map(|(blocks, own, nvdimm, online, node, gap, pending)| Stick {
        blocks,
        own,
        nvdimm,
        online,
        node,
        gap,
        pending,
    });
    prop::collection::vec(stick, 0..7)
}

prop_compose! {
    fn lots()(
        boot in 1u64..5,
        ceiling in 0u64..48,
        slots in 0u32..14,
        block in prop::sample::select(vec![128u64, 256, 512, 2048]),
        nodes in 1u32..3,
        dimms in sticks(),
        virtio in prop::collection::vec((0u64..40, 0u64..40, 0u32..2), 0..3),
        balloon in prop::option::of((0u64..8, any::<bool>())),
        spare in prop::bool::weighted(0.2),
        mut vcpus in prop::collection::vec(0u8..4, 0..9),
        removed_before in any::<bool>(),
        tcg in prop::option::of(prop::sample::select(vec![7, 10])),
        one_thread in prop::bool::weighted(0.2),
        plugs in prop::collection::vec(0u32..3, 0..9),
        heard in prop::option::weighted(0.8, (any::<u8>(), 0u64..100, prop::option::of(prop::sample::select(vec![
            AutoOnline::Offline, AutoOnline::Online, AutoOnline::Kernel, AutoOnline::Movable,
        ])), any::<bool>())),
        vhost in prop::option::weighted(0.2, 4u32..20),
        cgroup in prop::option::weighted(0.1, 0u64..16),
        sources in prop::collection::vec((any::<bool>(), prop::option::of(0u32..2)), 0..3),
        pools in prop::option::of([0u64..40, 0u64..20, 0u64..40, 0u64..20]),
    ) -> Lot {
        // QEMU starts with one vCPU at least.
        if let Some(first) = vcpus.first_mut() {
            *first = 1;
        }
        Lot {
            boot, ceiling, slots, block, nodes, dimms, virtio, balloon, spare, vcpus, removed_before, tcg,
            one_thread, plugs, heard, vhost, cgroup, sources, pools,
        }
    }
}

impl Lot {
    fn block(&self) -> Bytes {
        Bytes::mib(self.block)
    }

    /// DIMMs one behind the other from 4 GiB on, with gaps; as many as there are slots.
    fn dimms(&self) -> Vec<Dimm> {
        let mut addr = Bytes::gib(4);
        let mut dimms = Vec::new();
        for (slot, stick) in (0..self.slots).zip(&self.dimms) {
            let size = self.block().times(stick.blocks);
            addr = addr + self.block().times(stick.gap);
            let prefix = if stick.own { "supple-" } else { "" };
            dimms.push(Dimm {
                id: if !stick.own && stick.gap == 2 { String::new() } else { format!("{prefix}dimm{slot}") },
                memdev: format!("{prefix}mem{slot}"),
                kind: if stick.nvdimm { DimmKind::Nvdimm } else { DimmKind::Dimm },
                slot,
                node: stick.node % self.nodes,
                addr: addr.get(),
                size,
                hotplugged: stick.own,
                ost: None,
            });
            addr = addr + size;
        }
        dimms
    }

    fn sources(&self, virtio_mem: &[VirtioMem]) -> Vec<Source> {
        let source = |of, (huge, bound): &(bool, Option<u32>)| {
            let page = Bytes::mib(2);
            let backing = if *huge { Backing::HugeMemfd { page, share: true } } else { Backing::Ram };
            let bind =
                |node: &u32| Placement { policy: HostPolicy::Bind, host_nodes: vec![*node], prealloc: false };
            Source { of, backing, placement: bound.as_ref().map(bind).unwrap_or_default() }
        };
        let nodes = (0..self.nodes).zip(&self.sources).map(|(node, of)| source(SourceOf::Node(node), of));
        let devices = virtio_mem.iter().zip(self.sources.iter().rev());
        let devices = devices.map(|(device, of)| source(SourceOf::Device(device.id.clone()), of));
        nodes.chain(devices).collect()
    }

    fn pools(&self) -> Vec<MemoryPool> {
        let Some(free) = self.pools else { return Vec::new() };
        let page = Some(Bytes::mib(2));
        let pool = |node, page, units: u64, promised: u64| MemoryPool {
            node,
            page,
            free: Bytes::mib(512).times(units),
            promised: Bytes::mib(512).times(promised),
        };
        vec![
            pool(None, page, free[0] + free[2], free[1] / 4),
            pool(Some(0), page, free[0], 0),
            pool(Some(1), page, free[2], 0),
            pool(Some(0), None, free[1], 0),
            pool(Some(1), None, free[3], 0),
        ]
    }

    fn memory(&self, at: Moment) -> Memory {
        let dimms = self.dimms();
        let boot = Bytes::gib(self.boot);
        let virtio_mem: Vec<VirtioMem> = self
            .virtio
            .iter()
            .zip(0..)
            .map(|((max, size, node), nth)| VirtioMem {
                id: format!("vm{nth}"),
                node: node % self.nodes,
                addr: (256 + 64 * nth) * GIB,
                block: Bytes::mib(2),
                max: Bytes::mib(256).times(*max),
                requested: Bytes::mib(256).times((*size).min(*max)),
                size: Bytes::mib(256).times((*size).min(*max)),
            })
            .collect();
        let other = OtherDevice { kind: "virtio-pmem".into(), addr: 1024 * GIB, size: Bytes::gib(1) };
        let others: Vec<OtherDevice> = self.boot.is_multiple_of(2).then_some(other).into_iter().collect();
        let sizes = dimms.iter().map(|d| d.size).chain(virtio_mem.iter().map(|v| v.max));
        let devices: Bytes = sizes.chain(others.iter().map(|o| o.size)).sum();
        let ram: Bytes = dimms.iter().filter(|d| d.kind == DimmKind::Dimm).map(|d| d.size).sum();
        let node = |id: u32| {
            let base = if id == 0 { boot } else { Bytes::ZERO };
            let on = dimms.iter().filter(|d| d.node == id && d.kind == DimmKind::Dimm).map(|d| d.size);
            Node {
                id,
                memory: base + on.sum() + virtio_mem.iter().filter(|v| v.node == id).map(|v| v.size).sum(),
            }
        };
        Memory {
            boot,
            ceiling: boot + devices + Bytes::mib(512).times(self.ceiling),
            slots: self.slots,
            alignment: Bytes::mib(2),
            backing: Backing::Ram,
            sources: self.sources(&virtio_mem),
            nodes: (0..self.nodes).map(node).collect(),
            balloon: self.balloon.map(|(held, stats)| {
                let total = boot + ram;
                let virtio: Bytes = virtio_mem.iter().map(|v| v.size).sum();
                let (used, all) = (Bytes::mib(700), (total + virtio).saturating_sub(Bytes::mib(64)));
                let told = BalloonStats { at, total: all, available: all - used, free: all.per(4) };
                Balloon { actual: total - Bytes::mib(128 * (held / 4)), stats: stats.then_some(told) }
            }),
            unused_backends: self
                .spare
                .then(|| Backend { id: "supple-mem90".into(), size: self.block() })
                .into_iter()
                .collect(),
            dimms,
            virtio_mem,
            others,
        }
    }

    fn guest(&self, memory: &Memory) -> Guest {
        let Some((can, used, auto_online, tells)) = self.heard else {
            return Guest::Unheard("no agent".into());
        };
        let block = self.block();
        let boot = (0..memory.boot.get().div_ceil(block.get())).map(|index| MemBlock { index, online: true });
        let mut blocks: Vec<MemBlock> = boot.collect();
        for (dimm, stick) in memory.dimms.iter().zip(&self.dimms).filter(|(d, _)| d.kind == DimmKind::Dimm) {
            // Some the guest has not found, or in part.
            let found =
                dimm.blocks(block).filter(|index| can % 5 != 0 || index % 4 < u64::from(stick.online));
            blocks.extend(found.map(|index| MemBlock {
                index,
                online: stick.online == 2 || stick.online == 1 && index % 2 == 0,
            }));
        }
        for device in memory.virtio_mem.iter().filter(|v| !v.size.is_zero()) {
            let covered = blocks_of(device.addr, device.size, block);
            blocks.extend(covered.map(|index| MemBlock { index, online: auto_online.is_some() }));
        }
        let online = block.times(blocks.iter().filter(|b| b.online).count() as u64);
        let total = online.saturating_sub(Bytes::mib(64));
        let available = Bytes::new(total.get() / 100 * used);
        let commands = COMMANDS.iter().enumerate().filter(|(nth, _)| can >> nth & 1 == 1 || can > 128);
        let plugged = self.vcpus.iter().filter(|state| matches!(state, 1 | 2)).count() as u32;
        Guest::Heard(Box::new(GuestFacts {
            commands: commands.map(|(_, command)| (*command).to_owned()).collect(),
            block: (can % 8 != 7 || can > 128).then_some(block),
            blocks,
            vcpus: (0..plugged)
                .map(|id| GuestVcpu { id, online: id == 0 || tells, can_offline: id > 0 })
                .collect(),
            meminfo: tells.then_some(MemInfo { total, available, free: available.per(2) }),
            auto_online,
            has_probe: can % 3 == 0,
            ..GuestFacts::default()
        }))
    }

    fn observed(&self) -> Observed {
        let at = Moment::from_unix_millis(1_000_000);
        let memory = self.memory(at);
        let state = |nth: usize, state: u8| match state {
            1 => VcpuState::Boot,
            2 => VcpuState::Device(format!("vcpu{nth}")),
            3 => VcpuState::Barred("unknown".into()),
            _others => VcpuState::Free,
        };
        let slot = |(nth, s): (usize, &u8)| VcpuSlot {
            driver: "qemu64-x86_64-cpu".into(),
            count: 1,
            props: VcpuProps { core_id: u32::try_from(nth).ok(), ..VcpuProps::default() },
            state: state(nth, *s),
            ost: None,
            name: None,
        };
        let pending = memory.dimms.iter().zip(&self.dimms).filter(|(d, s)| {
            // QEMU refuses to begin with an NVDIMM.
            s.pending && !d.id.is_empty() && d.kind == DimmKind::Dimm
        });
        Observed {
            at,
            machine: Machine {
                state: "running".into(),
                qemu: Version(self.tcg.unwrap_or(7), 2, 0),
                accel: if self.tcg.is_some() { Accel::Tcg } else { Accel::Kvm },
                ..Machine::default()
            },
            vcpus: Vcpus {
                slots: self.vcpus.iter().enumerate().map(slot).collect(),
                removed_before: self.removed_before,
                one_thread: self.one_thread,
                filled: (0..)
                    .zip(&self.plugs)
                    .map(|(nth, times)| Filled {
                        id: format!("vcpu{nth}"),
                        props: VcpuProps { core_id: Some(nth), ..VcpuProps::default() },
                        times: *times,
                    })
                    .collect(),
            },
            power: Known::default(),
            disks: Known::default(),
            nics: Known::default(),
            guest: self.guest(&memory),
            host: Host {
                vhost_regions: self.vhost,
                cgroup_headroom: self.cgroup.map(Bytes::gib),
                pools: self.pools(),
                memory_limit: self.pools.map(|free| Bytes::mib(100 + free[0])),
                ..Host::default()
            },
            pending: pending
                .map(|(d, _)| Pending {
                    device: PendingDevice::Dimm { id: d.id.clone(), memdev: d.memdev.clone() },
                    since: at - Span::secs(60),
                })
                .collect(),
            memory,
        }
    }
}

prop_compose! {
    /// A wish for a size within reach, by any mechanism.
    fn wishes()(
        memory in prop::option::weighted(0.8, (0u64..64, prop::sample::select(vec![128u64, 256, 2048, 1]))),
        vcpus in prop::option::of(0u32..10),
        mechanism in prop::option::weighted(0.4, prop::sample::select(vec![
            Mechanism::VirtioMem, Mechanism::Dimm, Mechanism::Balloon,
        ])),
        node in prop::option::weighted(0.2, 0u32..3),
        zone in prop::sample::select(vec![ZoneWish::Auto, ZoneWish::Movable, ZoneWish::Kernel]),
        relative in 0u8..3,
    ) -> Wanted {
        let change = |size: Bytes| match relative {
            0 => Change::Grow(size),
            1 => Change::Shrink(size),
            _ => Change::To(Bytes::gib(1) + size),
        };
        Wanted {
            memory: memory.map(|(n, unit)| change(Bytes::mib(unit).times(n))),
            vcpus: vcpus.map(Change::To),
            mechanism,
            node,
            zone,
            ..Wanted::default()
        }
    }
}

fn settings() -> ProptestConfig {
    ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(settings())]

    #[test]
    fn a_plan_always_passes_its_audit(lot in lots(), wanted in wishes()) {
        let (seen, limits) = (lot.observed(), Limits::default());
        if let Ok(plan) = plan(&seen, &wanted, &limits) {
            let findings = audit(&plan, &seen, &limits);
            let told = findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            prop_assert!(findings.is_empty(), "{told}\nasked {wanted:?}\nplanned {}", shown(&plan));
        }
    }

    #[test]
    fn a_refusal_names_a_way_out(lot in lots(), wanted in wishes()) {
        if let Err(refusal) = plan(&lot.observed(), &wanted, &Limits::default()) {
            prop_assert!(!refusal.obstacles.is_empty());
            for obstacle in refusal.obstacles {
                prop_assert!(!obstacle.reason.is_empty() && !obstacle.way_out.is_empty(), "{obstacle}");
            }
        }
    }

    #[test]
    fn asking_for_what_is_there_moves_nothing(lot in lots()) {
        let seen = lot.observed();
        let here = Sizes::of(&seen);
        let wanted = Wanted { memory: Some(Change::To(here.memory)), ..Wanted::default() };
        if let Ok(plan) = plan(&seen, &wanted, &Limits::default()) {
            prop_assert_eq!(plan.from, plan.to);
        }
    }
}

fn shown(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(|s| format!("{}: {:?} | {:?} | {:?}", s.group, s.act, s.proof, s.undo));
    format!("{:?} -> {:?}\n{}", plan.from, plan.to, steps.collect::<Vec<_>>().join("\n"))
}
