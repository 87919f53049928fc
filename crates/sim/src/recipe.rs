//! How a world is made: one small machine, and what can be changed about it before it is used.

use crate::agent::COMMANDS;
use crate::chance::{Chance, Faults};
use crate::guest::{Block, Guest};
use crate::mood::Mood;
use crate::qemu::{Qemu, Stick};
use crate::vcpus::Place;
use crate::virtio::{BalloonDevice, VirtioMemDevice};
use crate::world::World;
use scale::disk::Tool;
use scale::observed::{Accel, Backing, DimmKind, Host, Manager, VcpuState, Version, blocks_of};
use scale::units::Bytes;
use std::collections::BTreeMap;

impl World {
    /// 1 GiB at boot of at most 16 GiB, 16 slots, 1 of 8 vCPUs, one NUMA node, no virtio-mem and no balloon; a Linux
    /// guest with blocks of 128 MiB and a full agent, which uses 300 MiB and brings nothing into use by itself.
    pub fn small() -> World {
        let qemu = Qemu {
            kind: "pc-q35-7.2".into(),
            version: Version(7, 2, 0),
            accel: Accel::Kvm,
            state: "running".into(),
            busy: Vec::new(),
            boot: Bytes::ZERO,
            ceiling: Bytes::gib(16),
            slots: 16,
            alignment: Bytes::mib(2),
            backing: Backing::Ram,
            nodes: vec![Bytes::ZERO],
            dimms: Vec::new(),
            backends: BTreeMap::new(),
            manager: Manager::Nobody,
            virtio_mem: Vec::new(),
            balloon: None,
            places: Vec::new(),
            vcpu_removed: false,
            vcpus_plugged: 0,
            one_thread: false,
            process: 1000,
            size_told: None,
            gone: None,
        };
        let guest = Guest {
            block: Bytes::mib(128),
            blocks: BTreeMap::new(),
            vcpus: BTreeMap::new(),
            demand: Bytes::mib(300),
            image: Bytes::mib(40),
            tables: Bytes::ZERO,
            probe: false,
            commands: COMMANDS.map(String::from).into(),
            tools: Tool::ALL.into(),
            booting_until: None,
        };
        World::of(qemu, guest).boot_memory(Bytes::gib(1)).vcpus(1, 8)
    }

    /// So much memory at boot, spread over the nodes; the first node takes what does not divide.
    #[must_use]
    pub fn boot_memory(mut self, boot: Bytes) -> World {
        self.qemu.boot = boot;
        let nodes = self.qemu.nodes.len() as u64;
        let share = boot.per(nodes).round_down(self.guest.block);
        self.qemu.nodes.fill(share);
        self.qemu.nodes[0] = boot - share.times(nodes - 1);
        self.lay_boot_blocks();
        self
    }

    /// At most so much memory in all.
    #[must_use]
    pub fn ceiling(mut self, ceiling: Bytes) -> World {
        self.qemu.ceiling = ceiling;
        self
    }

    /// Kept by libvirt: DIMMs come and go with their backends, and vCPUs are called `vcpu` and their number.
    #[must_use]
    pub fn in_libvirt(mut self) -> World {
        self.qemu.manager = Manager::Libvirt;
        self
    }

    /// With all vCPUs on one thread (`-accel tcg,thread=single`).
    #[must_use]
    pub fn one_thread(mut self) -> World {
        self.qemu.one_thread = true;
        self
    }

    /// Another QEMU process than that of other worlds: the machine was stopped and started.
    #[must_use]
    pub fn process(mut self, process: u32) -> World {
        self.qemu.process = process;
        self
    }

    /// QEMU may hold so much of the host's memory, in a control group of its own; the host ends it where it is made to
    /// hold more.
    #[must_use]
    pub fn memory_limit(mut self, most: Bytes) -> World {
        self.host.memory_limit = Some(most);
        self
    }

    /// QEMU locks all of the guest's memory, and may lock so much.
    #[must_use]
    pub fn lock_limit(mut self, most: Bytes) -> World {
        (self.host.locks, self.host.lock_limit) = (true, Some(most));
        self
    }

    /// So many DIMM slots.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> World {
        self.qemu.slots = slots;
        self
    }

    /// So many NUMA nodes.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> World {
        self.qemu.nodes = vec![Bytes::ZERO; nodes];
        let boot = self.qemu.boot;
        self.boot_memory(boot)
    }

    /// `boot` vCPUs that were there at boot, of `most`.
    #[must_use]
    pub fn vcpus(mut self, boot: u32, most: u32) -> World {
        let state = |core| if core < boot { VcpuState::Boot } else { VcpuState::Free };
        self.qemu.places = (0..most).map(|core| Place::new(core, state(core))).collect();
        self.guest.vcpus = (0..boot).map(|number| (number, true)).collect();
        self
    }

    /// A virtio-mem device, empty, at the next free address.
    #[must_use]
    pub fn virtio_mem(mut self, id: &str, node: u32, max: Bytes) -> World {
        let block = Bytes::mib(2);
        let addr = self.qemu.first_fit(max).expect("the recipe fits its own ceiling");
        // Linux wants the region at a block bound to use all of it; so does a careful start-up.
        let addr = Bytes::new(addr).round_up(self.guest.block).get();
        self.qemu.virtio_mem.push(VirtioMemDevice {
            id: id.into(),
            node,
            addr,
            block,
            max,
            requested: Bytes::ZERO,
            size: Bytes::ZERO,
            stuck_at: Bytes::ZERO,
        });
        self
    }

    /// A balloon, with or without a guest driver that reports figures.
    #[must_use]
    pub fn balloon(mut self, stats: bool) -> World {
        self.qemu.balloon = Some(BalloonDevice { wanted: Bytes::ZERO, held: Bytes::ZERO, stats });
        self
    }

    /// A DIMM that the machine was started with, online.
    #[must_use]
    pub fn boot_dimm(self, id: &str, node: u32, size: Bytes) -> World {
        self.stick(id, node, size, DimmKind::Dimm, false)
    }

    /// A DIMM that somebody else plugged while the machine ran, online.
    #[must_use]
    pub fn foreign_dimm(self, id: &str, node: u32, size: Bytes) -> World {
        self.stick(id, node, size, DimmKind::Dimm, true)
    }

    /// An NVDIMM that the machine was started with.
    #[must_use]
    pub fn nvdimm(self, id: &str, size: Bytes) -> World {
        self.stick(id, 0, size, DimmKind::Nvdimm, false)
    }

    /// A memory backend that no device uses.
    #[must_use]
    pub fn spare_backend(mut self, id: &str, size: Bytes) -> World {
        self.qemu.backends.insert(id.into(), size);
        self
    }

    /// The size of the guest's memory blocks. To be said before DIMMs are added.
    #[must_use]
    pub fn block(mut self, block: Bytes) -> World {
        self.guest.block = block;
        let boot = self.qemu.boot;
        self.boot_memory(boot)
    }

    /// A kernel with the file `probe`, which finds plugged memory by itself all the same.
    #[must_use]
    pub fn with_probe(mut self) -> World {
        self.guest.probe = true;
        self
    }

    /// What the guest's programs use.
    #[must_use]
    pub fn demand(mut self, demand: Bytes) -> World {
        self.guest.demand = demand;
        self
    }

    /// The QEMU, and what runs its vCPUs.
    #[must_use]
    pub fn qemu(mut self, version: Version, accel: Accel) -> World {
        self.qemu.version = version;
        self.qemu.accel = accel;
        self
    }

    /// What occupies the machine, such as `migration`.
    #[must_use]
    pub fn busy(mut self, what: &str) -> World {
        self.qemu.busy.push(what.into());
        self
    }

    /// The host around it.
    #[must_use]
    pub fn host(mut self, host: Host) -> World {
        self.host = host;
        self
    }

    /// A guest in this mood from the start.
    #[must_use]
    pub fn with(mut self, mood: Mood) -> World {
        self.put(mood);
        self
    }

    /// A bad connection by chance, always the same for one seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> World {
        self.chance = Chance::new(seed);
        self.faults = Faults::OFTEN;
        self
    }

    /// These faults on the way to the machine.
    #[must_use]
    pub fn with_faults(mut self, seed: u64, faults: Faults) -> World {
        self.chance = Chance::new(seed);
        self.faults = faults;
        self
    }

    fn stick(mut self, id: &str, node: u32, size: Bytes, kind: DimmKind, hotplugged: bool) -> World {
        let addr = self.qemu.first_fit(size).expect("the recipe fits its own ceiling");
        let slot = (0..).find(|s| !self.qemu.dimms.iter().any(|d| d.slot == *s)).expect("slots are few");
        let memdev = format!("mem-{id}");
        self.qemu.backends.insert(memdev.clone(), size);
        self.qemu.dimms.push(Stick {
            id: id.into(),
            memdev,
            kind,
            slot,
            node,
            addr,
            size,
            hotplugged,
            ost: None,
            inserting: false,
            removing: false,
        });
        self.qemu.dimms.sort_by_key(|d| d.slot);
        if kind == DimmKind::Dimm && self.memory_appears(id, addr, size) {
            let mut blocks = self.guest.blocks.values_mut();
            blocks.by_ref().filter(|b| b.owner == id).for_each(|b| (b.online, b.movable) = (true, true));
        }
        self
    }

    fn lay_boot_blocks(&mut self) {
        let (boot, block) = (self.qemu.boot, self.guest.block);
        let low = if boot.get() >= 0xb000_0000 { Bytes::gib(2) } else { boot };
        let ranges = [blocks_of(0, low, block), blocks_of(4 << 30, boot - low, block)];
        self.guest.blocks.retain(|_, b| !b.owner.is_empty());
        for index in ranges.into_iter().flatten() {
            let there = Block { owner: String::new(), size: block, online: true, movable: false };
            self.guest.blocks.insert(index, there);
        }
    }
}
