//! What a driver finds when it looks at the whole machine.

use crate::mood::Mood;
use crate::qemu::Qemu;
use crate::vcpus::VCPU_DRIVER;
use crate::world::World;
use scale::guests::System;
use scale::observed::{
    AutoOnline, Backend, Balloon, BalloonStats, Dimm, DimmKind, Guest, GuestFacts, Known, Life, Machine,
    Manager, MemInfo, Memory, Node, Observed, VcpuSlot, Vcpus, VirtioMem, blocks_of,
};
use scale::sight::GuestView;
use scale::units::Bytes;
use std::collections::BTreeSet;
use std::ops::Range;

impl Qemu {
    /// The guest's blocks that a memory device covers; a virtio-mem device with all that it may hold.
    pub(crate) fn blocks_of(&self, device: &str, block: Bytes) -> Option<Range<u64>> {
        let dimm = self.dimms.iter().find(|d| d.id == device).map(|d| (d.addr, d.size));
        let virtio = || self.virtio_mem.iter().find(|v| v.id == device).map(|v| (v.addr, v.max));
        dimm.or_else(virtio).map(|(addr, size)| blocks_of(addr, size, block))
    }

    /// How many blocks of a memory device the guest is to show.
    pub(crate) fn blocks_at_least(&self, device: &str, block: Bytes) -> u64 {
        match self.virtio_mem.iter().find(|v| v.id == device) {
            Some(virtio) => virtio.size.count_of(block),
            None => self.blocks_of(device, block).map_or(0, |range| range.end - range.start),
        }
    }

    pub(crate) fn balloon_actual(&self) -> Option<Bytes> {
        self.balloon.map(|b| (self.boot + self.dimm_total()).saturating_sub(b.held))
    }

    pub(crate) fn said_virtio_mem(&self) -> Vec<VirtioMem> {
        let devices = self.virtio_mem.iter();
        devices
            .map(|v| VirtioMem {
                id: v.id.clone(),
                node: v.node,
                addr: v.addr,
                block: v.block,
                max: v.max,
                requested: v.requested,
                size: v.size,
            })
            .collect()
    }

    pub(crate) fn said_dimms(&self) -> Vec<Dimm> {
        let sticks = self.dimms.iter();
        sticks
            .map(|d| Dimm {
                id: d.id.clone(),
                memdev: d.memdev.clone(),
                kind: d.kind,
                slot: d.slot,
                node: d.node,
                addr: d.addr,
                size: d.size,
                hotplugged: d.hotplugged,
                ost: d.ost,
            })
            .collect()
    }

    fn said_nodes(&self) -> Vec<Node> {
        (0..)
            .zip(&self.nodes)
            .map(|(id, boot)| {
                let dimms = self.dimms.iter().filter(|d| d.node == id && d.kind == DimmKind::Dimm);
                let virtio = self.virtio_mem.iter().filter(|v| v.node == id);
                let devices: Bytes = dimms.map(|d| d.size).chain(virtio.map(|v| v.size)).sum();
                Node { id, memory: *boot + devices }
            })
            .collect()
    }
}

impl World {
    pub(crate) fn observed(&mut self) -> Observed {
        let guest = self.said_guest();
        let disks = self.said_disks(match &guest {
            Guest::Heard(_) => Ok(()),
            Guest::Unheard(why) => Err(why),
        });
        let qemu = &self.qemu;
        let slots = qemu
            .places
            .iter()
            .zip(0..)
            .map(|(p, number)| VcpuSlot {
                driver: VCPU_DRIVER.into(),
                count: 1,
                props: p.props,
                state: p.state.clone(),
                name: (qemu.manager == Manager::Libvirt).then(|| format!("vcpu{number}")),
                ost: p.ost,
            })
            .collect();
        Observed {
            at: self.clock.now,
            machine: Machine {
                name: Some("sim".into()),
                uuid: None,
                kind: qemu.kind.clone(),
                arch: "x86_64".into(),
                qemu: qemu.version,
                accel: qemu.accel,
                state: qemu.state.clone(),
                busy: qemu.busy.clone(),
                manager: qemu.manager,
                life: Some(Life { thread: qemu.process, started: Some(u64::from(qemu.process)) }),
            },
            memory: Memory {
                boot: qemu.boot,
                ceiling: qemu.ceiling,
                slots: qemu.slots,
                alignment: qemu.alignment,
                backing: qemu.backing.clone(),
                sources: Vec::new(),
                dimms: qemu.said_dimms(),
                virtio_mem: qemu.said_virtio_mem(),
                others: Vec::new(),
                balloon: qemu.balloon_actual().map(|actual| Balloon { actual, stats: self.balloon_stats() }),
                unused_backends: qemu
                    .spare_backends()
                    .map(|(id, size)| Backend { id: id.to_owned(), size })
                    .collect(),
                nodes: qemu.said_nodes(),
            },
            vcpus: Vcpus {
                slots,
                removed_before: qemu.vcpu_removed,
                one_thread: qemu.one_thread && qemu.taken_places().count() > 1,
                filled: Vec::new(),
            },
            power: self.fittings.power.map_or_else(Known::default, Known::Is),
            disks: Known::Is(disks),
            nics: Known::Is(self.fittings.nics.clone()),
            guest,
            host: self.host.clone(),
            pending: Vec::new(),
        }
    }

    /// The figures of the guest's balloon driver, where it tells any.
    pub(crate) fn balloon_stats(&self) -> Option<BalloonStats> {
        let tells = self.qemu.balloon.is_some_and(|b| b.stats) && self.guest.booting_until.is_none();
        tells.then(|| {
            let info = self.meminfo();
            BalloonStats { at: self.clock.now, total: info.total, available: info.available, free: info.free }
        })
    }

    /// Half of what is available is page cache.
    fn meminfo(&self) -> MemInfo {
        let available = self.guest_available();
        MemInfo { total: self.guest_total(), available, free: available.per(2) }
    }

    fn said_guest(&mut self) -> Guest {
        match self.ask("guest-get-osinfo", World::facts) {
            GuestView::Unasked(why) | GuestView::Silent(why) => Guest::Unheard(why),
            GuestView::Shows(facts) => Guest::Heard(Box::new(facts)),
        }
    }

    fn facts(&self) -> GuestFacts {
        let commands = self.agent_commands();
        let can = |command: &str| commands.contains(command);
        let reads_files = can("guest-exec") || can("guest-file-read");
        let auto_online = match self.is(&Mood::OnlinesItself(scale::time::Span::millis(0))) {
            true => AutoOnline::Online,
            false => AutoOnline::Offline,
        };
        GuestFacts {
            agent_version: "7.2.0".into(),
            os: Some("Debian GNU/Linux 12 (bookworm)".into()),
            os_id: Some("debian".into()),
            system: Some(System::of_agent("debian", "12", "Debian GNU/Linux 12 (bookworm)", "x86_64")),
            kernel: Some("6.1.0".into()),
            block: can("guest-get-memory-block-info").then_some(self.guest.block),
            blocks: if can("guest-get-memory-blocks") { self.said_all_blocks() } else { Vec::new() },
            vcpus: if can("guest-get-vcpus") { self.said_vcpus() } else { Vec::new() },
            meminfo: reads_files.then(|| self.meminfo()),
            auto_online: reads_files.then_some(auto_online),
            has_probe: self.has_probe() && can("guest-file-open") && can("guest-file-write"),
            tools: if can("guest-exec") { self.guest.tools.clone() } else { BTreeSet::new() },
            interfaces: Vec::new(),
            commands,
        }
    }
}
