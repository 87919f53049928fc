//! What a machine may have beside memory and vCPUs, said before it is used.

use crate::world::World;
use core::net::IpAddr;
use scale::observed::{Disk, DiskBus, GuestDisk, Known, Layer, LayerKind, Lies, Nic, Pool, RateGrain};
use scale::setting::{CpuPower, DiskIo, NicRate, Weight};
use scale::units::Bytes;

/// What lies on a disk besides its filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Between {
    /// The filesystem is on a logical volume.
    pub lvm: bool,
    /// That, or it, is in a LUKS container.
    pub luks: bool,
}

impl World {
    /// CPU power that can be limited, without a limit.
    #[must_use]
    pub fn power(mut self) -> World {
        self.fittings.power = Some(CpuPower { limit: None, weight: Weight::USUAL });
        self
    }

    /// A virtio disk of 20 GiB with a filesystem of this kind, in a file; all files are on one filesystem of the host
    /// with 100 GiB free.
    #[must_use]
    pub fn disk(mut self, name: &str, filesystem: &str, between: Between) -> World {
        let layers = stack(name, filesystem, between.lvm, between.luks);
        self.fittings.disks.push(disk(name, layers));
        self
    }

    /// The disk that was said last is on this bus.
    #[must_use]
    pub fn on_bus(mut self, bus: DiskBus) -> World {
        self.fittings.disks.last_mut().expect("a disk was said").bus = bus;
        self
    }

    /// All disks share the limits of this throttle group.
    #[must_use]
    pub fn throttle_group(mut self, group: &str) -> World {
        for disk in &mut self.fittings.disks {
            disk.io = Known::Is(DiskIo { group: Some(group.into()), ..DiskIo::default() });
        }
        self
    }

    /// A NIC with one address, without limits.
    #[must_use]
    pub fn nic(mut self, name: &str, address: IpAddr) -> World {
        let number = self.fittings.nics.len() + 1;
        self.fittings.nics.push(Nic {
            name: format!("52:54:00:00:00:{number:02x}"),
            aliases: vec![name.into()],
            tap: Some(format!("tap{number}")),
            addresses: vec![address],
            rate: Known::Is(NicRate::default()),
            ips: Known::Is(Vec::new()),
            grain: RateGrain::default(),
        });
        self
    }
}

/// A disk of 20 GiB in a file of a host's filesystem, with this on it.
fn disk(name: &str, layers: Vec<Layer>) -> Disk {
    let pool = Pool { name: "/var".into(), free: Bytes::gib(100) };
    Disk {
        name: name.into(),
        aliases: vec![format!("virtio-{name}")],
        bus: DiskBus::Virtio,
        format: "qcow2".into(),
        size: Bytes::gib(20),
        read_only: false,
        busy: Vec::new(),
        lies: Lies::File { path: format!("/var/{name}.qcow2"), taken: Bytes::gib(3), filesystem: Some(pool) },
        io: Known::Is(DiskIo::default()),
        guest: Known::Is(GuestDisk { device: format!("/dev/{name}"), size: Bytes::gib(20), layers }),
    }
}

/// What lies on a disk of 20 GiB: a filesystem of `kind`, mounted at `/`, on LVM and LUKS where those are asked for.
fn stack(disk: &str, kind: &str, lvm: bool, luks: bool) -> Vec<Layer> {
    let partition = format!("/dev/{disk}1");
    let mut below = Bytes::gib(20) - Bytes::mib(2);
    let mut device = partition.clone();
    let mut kinds = vec![(
        device.clone(),
        LayerKind::Partition { number: 1, start: Bytes::mib(1), table: "gpt".into() },
        below,
    )];
    if luks {
        (device, below) = (format!("/dev/mapper/{disk}1_crypt"), below - Bytes::mib(16));
        kinds.push((device.clone(), LayerKind::Luks, below));
    }
    if lvm {
        let group = format!("vg-{disk}");
        below = below - Bytes::mib(4);
        let volume = LayerKind::PhysicalVolume { group: group.clone(), free: Bytes::ZERO };
        kinds.push((device, volume, below));
        device = format!("/dev/{group}/root");
        kinds.push((device.clone(), LayerKind::LogicalVolume { group, volume: "root".into() }, below));
    }
    kinds.push((
        device,
        LayerKind::Filesystem { kind: kind.into(), mount: Some(format!("/mnt/{disk}")) },
        below - below.per(32),
    ));
    let mut above = Vec::new();
    for (device, kind, size) in kinds.into_iter().rev() {
        above = vec![Layer { device, kind, size, above }];
    }
    above
}
