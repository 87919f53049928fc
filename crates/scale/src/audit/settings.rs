//! The rules of limits: CPU power, disk I/O and traffic.

use super::{Auditor, Kind};
use crate::setting::{BitRate, CpuPower, DiskIo, Millicpus, NicRate, Rate, Setting, SettingName, Throttles};

/// QEMU's largest throttle value (`THROTTLE_VALUE_MAX`, include/qemu/throttle.h, 7.2 and 10.0).
const MOST: u64 = 1_000_000_000_000_000;

impl Auditor<'_> {
    /// A limit goes from what it is to something else that its host can express.
    pub(super) fn set(&mut self, from: &Setting, to: &Setting) {
        let name = to.name();
        self.require(from.name() == name, Kind::Setting, || format!("{} is turned into {name}", from.name()));
        self.require(from != to, Kind::Setting, || format!("{name} is set to what it is"));
        let Some(now) = self.ledger.setting(&name) else {
            self.find(Kind::Setting, format!("{name} is not known, so it cannot be put back"));
            return;
        };
        self.require(now == *from, Kind::Setting, || {
            format!("{name} is {} and is moved from {}", now.value(), from.value())
        });
        match to {
            Setting::CpuPower(power) => self.cpu_power(*power),
            Setting::DiskIo { io, .. } => self.disk_io(io, &now),
            Setting::NicRate { nic, rate } | Setting::IpRate { nic, rate, .. } => self.nic_rate(nic, rate),
            Setting::Memory { .. } | Setting::Locked { .. } => {}
        }
        self.ledger.note_setting(to.clone());
        self.limits_follow();
    }

    fn cpu_power(&mut self, power: CpuPower) {
        let least = power.limit.unwrap_or(Millicpus::MIN);
        self.require(least >= Millicpus::MIN, Kind::Setting, || {
            format!("a limit of {least} CPUs is below the {} that a kernel grants", Millicpus::MIN)
        });
    }

    /// QEMU refuses a total beside its parts, a burst below the steady limit and one without length
    /// (util/throttle.c, 7.2 and 10.0).
    fn disk_io(&mut self, io: &DiskIo, now: &Setting) {
        let bytes = sound(&io.bytes, |bytes| bytes.get());
        let iops = sound(&io.iops, |iops| iops.get());
        self.require(bytes && iops, Kind::Setting, || format!("QEMU takes no such limits: {io}"));
        let counts = io.iops_size.is_none() || !io.iops.is_free();
        self.require(counts, Kind::Setting, || "a size of operations without a limit of them".into());
        let stays = matches!(now, Setting::DiskIo { io: was, .. } if was.group == io.group);
        self.require(stays, Kind::Setting, || "the disk would change its throttle group".into());
    }

    fn nic_rate(&mut self, nic: &str, rate: &NicRate) {
        let Some(grain) = self.seen.nics().iter().find(|n| n.name == nic).map(|n| n.grain) else { return };
        for side in [rate.to_guest, rate.from_guest].into_iter().flatten() {
            let Rate { average, peak, burst } = side;
            let whole = average.get() > 0
                && average.is_multiple_of(grain.step)
                && peak.is_none_or(|peak| peak.is_multiple_of(grain.step) && peak >= average);
            self.require(whole, Kind::Setting, || {
                format!(
                    "{side} is not in whole steps of {} with its peak at the average or above",
                    grain.step
                )
            });
            self.require(burst.is_some_and(|burst| !burst.is_zero()), Kind::Setting, || {
                format!("{side} leaves its burst to be chosen")
            });
        }
        let peak: Option<BitRate> = rate.from_guest.and_then(|rate| rate.peak);
        self.require(peak.is_none() || grain.peak_from_guest, Kind::Setting, || {
            "a peak for what the guest sends, which is not enforced here".into()
        });
    }
}

fn sound<T: Copy>(throttles: &Throttles<T>, plain: fn(T) -> u64) -> bool {
    let each = throttles.named().all(|(_, throttle)| {
        let steady = plain(throttle.steady);
        let burst = throttle.burst.is_none_or(|burst| {
            let height = plain(burst.to);
            height >= steady && burst.seconds > 0 && height <= MOST / u64::from(burst.seconds)
        });
        steady > 0 && steady <= MOST && burst
    });
    let split = throttles.read.is_some() || throttles.write.is_some();
    each && !(throttles.total.is_some() && split)
}

impl super::Ledger {
    /// What the limit is now; an address without one of its own is free where its NIC's addresses are known.
    pub(super) fn setting(&self, name: &SettingName) -> Option<Setting> {
        if let Some(setting) = self.settings.iter().find(|setting| setting.name() == *name) {
            return Some(setting.clone());
        }
        match name {
            SettingName::IpRate { nic, ip } if self.nics_with_ips.contains(nic) => {
                Some(Setting::IpRate { nic: nic.clone(), ip: *ip, rate: NicRate::default() })
            }
            SettingName::CpuPower
            | SettingName::DiskIo { .. }
            | SettingName::NicRate { .. }
            | SettingName::IpRate { .. }
            | SettingName::Memory
            | SettingName::Locked => None,
        }
    }

    /// Disks of one throttle group share one limit.
    fn note_setting(&mut self, to: Setting) {
        if let Setting::DiskIo { io: shared @ DiskIo { group: Some(group), .. }, .. } = &to {
            for setting in &mut self.settings {
                if let Setting::DiskIo { io, .. } = setting
                    && io.group.as_ref() == Some(group)
                {
                    *io = shared.clone();
                }
            }
        }
        self.settings.retain(|setting| setting.name() != to.name());
        self.settings.push(to);
    }
}
