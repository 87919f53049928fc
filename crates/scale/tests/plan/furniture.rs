//! Disks and NICs for planning tests.

use crate::machine::{facts, machine};
use scale::disk::Tool;
use scale::observed::*;
use scale::setting::{CpuPower, DiskIo, NicRate, Weight};
use scale::units::Bytes;

pub(crate) const ETH0: &str = "52:54:00:00:00:01";
pub(crate) const ETH1: &str = "52:54:00:00:00:02";

/// The plain machine with unlimited CPU power, a disk of 20 GiB (GPT, ext4 on its first partition), and two NICs.
pub(crate) fn furnished() -> Observed {
    let mut seen = machine();
    seen.power = Known::Is(CpuPower { limit: None, weight: Weight::USUAL });
    seen.disks = Known::Is(vec![disk("vda", partition(1, vec![filesystem("ext4", "/dev/vda1", "/")]))]);
    seen.nics = Known::Is(vec![nic(ETH0, "eth0", "203.0.113.7"), nic(ETH1, "eth1", "2001:db8::7")]);
    let heard = facts(&mut seen);
    heard.tools = Tool::ALL.into_iter().collect();
    heard.commands.extend(["guest-exec", "guest-exec-status"].map(str::to_owned));
    seen
}

/// A virtio disk of 20 GiB in a file on a filesystem with 100 GiB free.
pub(crate) fn disk(name: &str, layer: Layer) -> Disk {
    let pool = Pool { name: "/var/lib".into(), free: Bytes::gib(100) };
    Disk {
        name: name.into(),
        aliases: vec![format!("virtio-{name}")],
        bus: DiskBus::Virtio,
        format: "qcow2".into(),
        size: Bytes::gib(20),
        read_only: false,
        busy: Vec::new(),
        lies: Lies::File {
            path: format!("/var/lib/{name}.qcow2"),
            taken: Bytes::gib(3),
            filesystem: Some(pool),
        },
        io: Known::Is(DiskIo::default()),
        guest: Known::Is(GuestDisk {
            device: format!("/dev/{name}"),
            size: Bytes::gib(20),
            layers: vec![layer],
        }),
    }
}

/// The first partition, which takes a whole disk of 20 GiB.
pub(crate) fn partition(number: u32, above: Vec<Layer>) -> Layer {
    Layer {
        device: format!("/dev/vda{number}"),
        kind: LayerKind::Partition { number, start: Bytes::mib(1), table: "gpt".into() },
        size: Bytes::gib(20) - Bytes::mib(2),
        above,
    }
}

/// A filesystem of 19.5 GiB.
pub(crate) fn filesystem(kind: &str, device: &str, mount: &str) -> Layer {
    let mount = Some(mount).filter(|mount| !mount.is_empty()).map(str::to_owned);
    Layer {
        device: device.into(),
        kind: LayerKind::Filesystem { kind: kind.into(), mount },
        size: Bytes::mib(19 * 1024 + 512),
        above: Vec::new(),
    }
}

/// A physical volume that takes the first partition, with one logical volume on it.
pub(crate) fn lvm(above: Vec<Layer>) -> Layer {
    let volume = |above: Layer| Layer {
        device: above.device.clone(),
        kind: LayerKind::LogicalVolume {
            group: "vg".into(),
            volume: above.device.trim_start_matches("/dev/vg/").into(),
        },
        size: Bytes::gib(20) - Bytes::mib(8),
        above: vec![above],
    };
    Layer {
        device: "/dev/vda1".into(),
        kind: LayerKind::PhysicalVolume { group: "vg".into(), free: Bytes::ZERO },
        size: Bytes::gib(20) - Bytes::mib(4),
        above: above.into_iter().map(volume).collect(),
    }
}

fn nic(mac: &str, name: &str, address: &str) -> Nic {
    Nic {
        name: mac.into(),
        aliases: vec![name.into(), format!("net-{name}")],
        tap: Some(format!("tap-{name}")),
        addresses: vec![address.parse().expect("an address")],
        rate: Known::Is(NicRate::default()),
        ips: Known::Is(Vec::new()),
        grain: RateGrain::default(),
    }
}

/// The first disk, to be changed.
pub(crate) fn vda(seen: &mut Observed) -> &mut Disk {
    let Known::Is(disks) = &mut seen.disks else { panic!("no disks") };
    &mut disks[0]
}

/// The first NIC, to be changed.
pub(crate) fn eth0(seen: &mut Observed) -> &mut Nic {
    let Known::Is(nics) = &mut seen.nics else { panic!("no NICs") };
    &mut nics[0]
}

/// What lies on the first disk, to be changed.
pub(crate) fn layers(seen: &mut Observed) -> &mut Vec<Layer> {
    let Known::Is(guest) = &mut vda(seen).guest else { panic!("the guest shows nothing") };
    &mut guest.layers
}
