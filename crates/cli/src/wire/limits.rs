//! Disks and limits on the wire.

use scale::observed::{
    Disk as CoreDisk, Known, Layer as CoreLayer, LayerKind, Lies, Nic as CoreNic, Observed,
};
use scale::report::{DiskReport as CoreDiskReport, SettingReport};
use scale::setting::{
    DiskIo as CoreDiskIo, NicRate, Rate as CoreRate, Setting, Throttle as CoreThrottle, Throttles,
};
use scale::units::Bytes;
use serde::Serialize;

/// One limit with its whole value.
#[derive(Debug, Serialize)]
pub(crate) struct Limit {
    /// `cpu-power`, `disk-io`, `nic-rate` or `ip-rate`.
    pub(crate) kind: &'static str,
    /// Whose it is: a disk or a NIC by its name; null for CPU power.
    pub(crate) of: Option<String>,
    /// The address, of an `ip-rate`.
    pub(crate) ip: Option<String>,
    /// The value of a `cpu-power`.
    pub(crate) cpu: Option<CpuPower>,
    /// The value of a `disk-io`.
    pub(crate) io: Option<DiskIo>,
    /// The value of a `nic-rate` or `ip-rate`.
    pub(crate) rate: Option<Rates>,
    /// The value of a `memory-limit` or `locked-limit`.
    pub(crate) bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CpuPower {
    /// Thousandths of a host CPU that all vCPUs together may take; null for no limit.
    pub(crate) limit_millicpus: Option<u32>,
    /// From 1 to 10000; 100 is usual.
    pub(crate) weight: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct DiskIo {
    /// Operations a second.
    pub(crate) iops: ThrottleSet,
    /// Bytes a second.
    pub(crate) bytes: ThrottleSet,
    /// Bytes of a request that count as one operation; null where a request is one.
    pub(crate) iops_size_bytes: Option<u64>,
    /// The throttle group that shares these limits.
    pub(crate) group: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ThrottleSet {
    pub(crate) total: Option<Throttle>,
    pub(crate) read: Option<Throttle>,
    pub(crate) write: Option<Throttle>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Throttle {
    pub(crate) steady: u64,
    pub(crate) burst: Option<u64>,
    pub(crate) burst_seconds: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Rates {
    /// What the guest receives; null for no limit.
    pub(crate) to_guest: Option<Rate>,
    /// What the guest sends; null for no limit.
    pub(crate) from_guest: Option<Rate>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) average_bits: u64,
    pub(crate) peak_bits: Option<u64>,
    pub(crate) burst_bytes: Option<u64>,
}

impl From<&Setting> for Limit {
    fn from(setting: &Setting) -> Limit {
        let none =
            Limit { kind: "cpu-power", of: None, ip: None, cpu: None, io: None, rate: None, bytes: None };
        match setting {
            Setting::CpuPower(power) => {
                let limit_millicpus = power.limit.map(|limit| limit.get());
                Limit { cpu: Some(CpuPower { limit_millicpus, weight: power.weight.get() }), ..none }
            }
            Setting::DiskIo { disk, io } => {
                Limit { kind: "disk-io", of: Some(disk.clone()), io: Some(io.into()), ..none }
            }
            Setting::NicRate { nic, rate } => {
                Limit { kind: "nic-rate", of: Some(nic.clone()), rate: Some(rate.into()), ..none }
            }
            Setting::Memory { most } => Limit { kind: "memory-limit", bytes: Some(most.get()), ..none },
            Setting::Locked { most } => Limit { kind: "locked-limit", bytes: Some(most.get()), ..none },
            Setting::IpRate { nic, ip, rate } => Limit {
                kind: "ip-rate",
                of: Some(nic.clone()),
                ip: Some(ip.to_string()),
                rate: Some(rate.into()),
                ..none
            },
        }
    }
}

impl From<&CoreDiskIo> for DiskIo {
    fn from(io: &CoreDiskIo) -> DiskIo {
        DiskIo {
            iops: throttles(&io.iops, |iops| iops.get()),
            bytes: throttles(&io.bytes, Bytes::get),
            iops_size_bytes: io.iops_size.map(Bytes::get),
            group: io.group.clone(),
        }
    }
}

fn throttles<T: Copy>(all: &Throttles<T>, plain: fn(T) -> u64) -> ThrottleSet {
    let one = |throttle: Option<CoreThrottle<T>>| {
        throttle.map(|throttle| Throttle {
            steady: plain(throttle.steady),
            burst: throttle.burst.map(|burst| plain(burst.to)),
            burst_seconds: throttle.burst.map(|burst| burst.seconds),
        })
    };
    ThrottleSet { total: one(all.total), read: one(all.read), write: one(all.write) }
}

impl From<&NicRate> for Rates {
    fn from(rate: &NicRate) -> Rates {
        let side = |rate: CoreRate| Rate {
            average_bits: rate.average.get(),
            peak_bits: rate.peak.map(|peak| peak.get()),
            burst_bytes: rate.burst.map(Bytes::get),
        };
        Rates { to_guest: rate.to_guest.map(side), from_guest: rate.from_guest.map(side) }
    }
}

/// A disk and a size.
#[derive(Debug, Serialize)]
pub(crate) struct DiskSize {
    pub(crate) disk: String,
    pub(crate) size_bytes: u64,
}

/// What became of a disk.
#[derive(Debug, Serialize)]
pub(crate) struct DiskReport {
    pub(crate) disk: String,
    pub(crate) from_bytes: u64,
    pub(crate) asked_bytes: u64,
    pub(crate) achieved_bytes: Option<u64>,
    /// The filesystem that grew with it.
    pub(crate) filesystem: Option<String>,
    /// What `df` counts of it in the guest.
    pub(crate) filesystem_bytes: Option<u64>,
}

impl From<&CoreDiskReport> for DiskReport {
    fn from(report: &CoreDiskReport) -> DiskReport {
        DiskReport {
            disk: report.disk.clone(),
            from_bytes: report.from.get(),
            asked_bytes: report.asked.get(),
            achieved_bytes: report.achieved.map(Bytes::get),
            filesystem: report.filesystem.as_ref().map(|(name, _)| name.clone()),
            filesystem_bytes: report.filesystem.as_ref().map(|(_, size)| size.get()),
        }
    }
}

/// What became of a limit.
#[derive(Debug, Serialize)]
pub(crate) struct LimitReport {
    /// What it was; null for the limit of an address that had none.
    pub(crate) from: Option<Limit>,
    pub(crate) asked: Limit,
    /// What is read back; null where nothing is.
    pub(crate) achieved: Option<Limit>,
}

impl From<&SettingReport> for LimitReport {
    fn from(report: &SettingReport) -> LimitReport {
        LimitReport {
            from: report.from.as_ref().map(Limit::from),
            asked: (&report.asked).into(),
            achieved: report.achieved.as_ref().map(Limit::from),
        }
    }
}

/// A disk as it was observed.
#[derive(Debug, Serialize)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    /// `virtio`, `virtio-scsi`, `scsi`, `ide`, `nvme`, `usb` or `other`.
    pub(crate) bus: String,
    pub(crate) format: String,
    pub(crate) size_bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) busy: Vec<String>,
    /// Where its bytes lie: a path, or a protocol's name.
    pub(crate) lies: Option<String>,
    /// What is free there; null where that is not known.
    pub(crate) free_bytes: Option<u64>,
    /// Why its I/O cannot be limited; null where it can.
    pub(crate) why_no_limits: Option<String>,
    /// The guest's device; null where the guest does not show it.
    pub(crate) device: Option<String>,
    pub(crate) device_bytes: Option<u64>,
    /// What lies on it in the guest, from the bottom up.
    pub(crate) layers: Vec<Layer>,
}

/// What lies on a disk.
#[derive(Debug, Serialize)]
pub(crate) struct Layer {
    /// Such as `ext4 /dev/vda1`.
    pub(crate) name: String,
    pub(crate) size_bytes: u64,
    pub(crate) mount: Option<String>,
    pub(crate) layers: Vec<Layer>,
}

impl From<&CoreLayer> for Layer {
    fn from(layer: &CoreLayer) -> Layer {
        let mount = match &layer.kind {
            LayerKind::Filesystem { mount, .. } => mount.clone(),
            LayerKind::Partition { .. }
            | LayerKind::Luks
            | LayerKind::PhysicalVolume { .. }
            | LayerKind::LogicalVolume { .. }
            | LayerKind::Swap
            | LayerKind::Other(_) => None,
        };
        Layer {
            name: layer.name(),
            size_bytes: layer.size.get(),
            mount,
            layers: layer.above.iter().map(Layer::from).collect(),
        }
    }
}

impl From<&CoreDisk> for Disk {
    fn from(disk: &CoreDisk) -> Disk {
        let (lies, free) = match &disk.lies {
            Lies::File { path, filesystem: pool, .. } | Lies::Block { path, thin: pool, .. } => {
                (Some(path.clone()), pool.as_ref().map(|pool| pool.free.get()))
            }
            Lies::Network(kind) => (Some(kind.clone()), None),
            Lies::Unknown(_) => (None, None),
        };
        let guest = disk.guest.known();
        Disk {
            name: disk.name.clone(),
            aliases: disk.aliases.clone(),
            bus: disk.bus.to_string(),
            format: disk.format.clone(),
            size_bytes: disk.size.get(),
            read_only: disk.read_only,
            busy: disk.busy.clone(),
            lies,
            free_bytes: free,
            why_no_limits: why_not(&disk.io),
            device: guest.map(|guest| guest.device.clone()),
            device_bytes: guest.map(|guest| guest.size.get()),
            layers: guest.map_or(Vec::new(), |guest| guest.layers.iter().map(Layer::from).collect()),
        }
    }
}

fn why_not<T>(known: &Known<T>) -> Option<String> {
    match known {
        Known::Is(_) => None,
        Known::Not(why) => Some(why.clone()),
    }
}

/// A NIC as it was observed.
#[derive(Debug, Serialize)]
pub(crate) struct Nic {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) tap: Option<String>,
    pub(crate) addresses: Vec<String>,
    /// Why its traffic cannot be limited; null where it can.
    pub(crate) why_no_limits: Option<String>,
    /// Why single addresses cannot be limited on it; null where they can.
    pub(crate) why_no_ip_limits: Option<String>,
}

impl From<&CoreNic> for Nic {
    fn from(nic: &CoreNic) -> Nic {
        Nic {
            name: nic.name.clone(),
            aliases: nic.aliases.clone(),
            tap: nic.tap.clone(),
            addresses: nic.addresses.iter().map(ToString::to_string).collect(),
            why_no_limits: why_not(&nic.rate),
            why_no_ip_limits: why_not(&nic.ips),
        }
    }
}

/// Disks, NICs and limits of a machine.
#[derive(Debug, Serialize)]
pub(crate) struct Dimensions {
    /// Null where they are not known, and then `why_no_disks` tells why.
    pub(crate) disks: Option<Vec<Disk>>,
    pub(crate) why_no_disks: Option<String>,
    /// Null where they are not known, and then `why_no_nics` tells why.
    pub(crate) nics: Option<Vec<Nic>>,
    pub(crate) why_no_nics: Option<String>,
    /// Why CPU power cannot be limited; null where it can.
    pub(crate) why_no_cpu_limits: Option<String>,
    /// Every limit that is known, free ones included; of addresses, those that have one.
    pub(crate) limits: Vec<Limit>,
}

impl From<&Observed> for Dimensions {
    fn from(seen: &Observed) -> Dimensions {
        Dimensions {
            disks: seen.disks.known().map(|disks| disks.iter().map(Disk::from).collect()),
            why_no_disks: why_not(&seen.disks),
            nics: seen.nics.known().map(|nics| nics.iter().map(Nic::from).collect()),
            why_no_nics: why_not(&seen.nics),
            why_no_cpu_limits: why_not(&seen.power),
            limits: seen.settings().iter().map(Limit::from).collect(),
        }
    }
}
