//! Limits of CPU power, disk I/O and traffic: set, read back, and lost with a tap. QEMU's refusals are in its words
//! (util/throttle.c, 7.2).

use crate::mood::Mood;
use crate::world::World;
use scale::observed::{Disk, IpRate, Known, Nic};
use scale::setting::{CpuPower, DiskIo, NicRate, Setting, SettingName, Throttles};

/// What a machine has beside memory and vCPUs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fittings {
    pub(crate) power: Option<CpuPower>,
    /// As QEMU and the guest have them; the guest's side is always there.
    pub(crate) disks: Vec<Disk>,
    pub(crate) nics: Vec<Nic>,
}

impl World {
    /// Every limit as it acts now.
    pub fn settings(&self) -> Vec<Setting> {
        let fittings = &self.fittings;
        let power = fittings.power.map(Setting::CpuPower);
        let disks = fittings.disks.iter().filter_map(|disk| {
            let io = disk.io.known()?.clone();
            Some(Setting::DiskIo { disk: disk.name.clone(), io })
        });
        let nics = fittings.nics.iter().flat_map(|nic| {
            let name = || nic.name.clone();
            let own = nic.rate.known().map(|rate| Setting::NicRate { nic: name(), rate: *rate });
            let ips = nic.ips.known().into_iter().flatten();
            own.into_iter().chain(ips.map(move |of| Setting::IpRate {
                nic: name(),
                ip: of.ip,
                rate: of.rate,
            }))
        });
        power.into_iter().chain(disks).chain(nics).chain(self.host.moving_limits()).collect()
    }

    /// One limit as it acts now; an address without one of its own is free.
    pub(crate) fn setting(&self, name: &SettingName) -> Option<Setting> {
        if let Some(setting) = self.settings().into_iter().find(|setting| setting.name() == *name) {
            return Some(setting);
        }
        let SettingName::IpRate { nic, ip } = name else { return None };
        let there = self.fittings.nics.iter().any(|n| n.name == *nic && n.ips.known().is_some());
        there.then(|| Setting::IpRate { nic: nic.clone(), ip: *ip, rate: NicRate::default() })
    }

    /// Sets a limit, or a part of it where the host is in the mood for that.
    pub(crate) fn set_limit(&mut self, from: &Setting, to: &Setting) -> Result<(), String> {
        let name = to.name();
        let now = self.setting(&name).ok_or_else(|| format!("there is no {name}"))?;
        if !now.stands_between(from, to) {
            return Err(format!("{name} is {}: something else has changed it", now.value()));
        }
        if self.is(&Mood::NoLimits) {
            return Err("RTNETLINK answers: Operation not permitted".into());
        }
        if let Setting::DiskIo { io, .. } = to {
            takes(io)?;
        }
        if self.is(&Mood::HalfLimits) {
            self.write_limit(&half(&now, to));
            return Err(format!("{name} was set in part: Device or resource busy"));
        }
        self.write_limit(to);
        Ok(())
    }

    fn write_limit(&mut self, to: &Setting) {
        let fittings = &mut self.fittings;
        match to {
            Setting::Memory { most } => {
                self.host.memory_limit = Some(*most);
                self.is_killed_at(self.host_memory());
            }
            Setting::Locked { most } => self.host.lock_limit = Some(*most),
            Setting::CpuPower(power) => fittings.power = Some(*power),
            Setting::DiskIo { disk, io } => {
                for other in &mut fittings.disks {
                    let shared =
                        io.group.is_some() && other.io.known().is_some_and(|of| of.group == io.group);
                    if other.name == *disk || shared {
                        other.io = Known::Is(io.clone());
                    }
                }
            }
            Setting::NicRate { nic, rate } => {
                let nics = fittings.nics.iter_mut().filter(|n| n.name == *nic);
                nics.for_each(|n| n.rate = Known::Is(*rate));
            }
            Setting::IpRate { nic, ip, rate } => {
                for nic in fittings.nics.iter_mut().filter(|n| n.name == *nic) {
                    let Known::Is(ips) = &mut nic.ips else { continue };
                    ips.retain(|of| of.ip != *ip);
                    if !rate.is_free() {
                        ips.push(IpRate { ip: *ip, rate: *rate });
                        ips.sort_by_key(|of| of.ip);
                    }
                }
            }
        }
    }

    /// The taps are made anew, under other names and without any limit.
    pub(crate) fn remake_taps(&mut self) {
        self.note("host: taps are made anew");
        for nic in &mut self.fittings.nics {
            nic.tap = nic.tap.as_ref().map(|tap| format!("{tap}x").chars().take(15).collect());
            if let Known::Is(rate) = &mut nic.rate {
                *rate = NicRate::default();
            }
            if let Known::Is(ips) = &mut nic.ips {
                ips.clear();
            }
        }
    }
}

/// Where an act that sets a limit stops half-way: one part is set, the others are not.
fn half(now: &Setting, to: &Setting) -> Setting {
    match (now, to) {
        (Setting::CpuPower(now), Setting::CpuPower(to)) => {
            Setting::CpuPower(CpuPower { limit: to.limit, weight: now.weight })
        }
        (Setting::DiskIo { io: now, .. }, Setting::DiskIo { disk, io: to }) => {
            let io = DiskIo { bytes: to.bytes, ..now.clone() };
            Setting::DiskIo { disk: disk.clone(), io }
        }
        (Setting::NicRate { rate: now, .. }, Setting::NicRate { nic, rate: to }) => {
            let rate = NicRate { to_guest: to.to_guest, from_guest: now.from_guest };
            Setting::NicRate { nic: nic.clone(), rate }
        }
        (Setting::IpRate { rate: now, .. }, Setting::IpRate { nic, ip, rate: to }) => {
            let rate = NicRate { to_guest: to.to_guest, from_guest: now.from_guest };
            Setting::IpRate { nic: nic.clone(), ip: *ip, rate }
        }
        (now, _) => now.clone(),
    }
}

fn takes(io: &DiskIo) -> Result<(), String> {
    sound(&io.bytes, |bytes| bytes.get())?;
    sound(&io.iops, |iops| iops.get())?;
    if io.iops_size.is_some() && io.iops.is_free() {
        return Err("iops size requires an iops value to be set".into());
    }
    Ok(())
}

fn sound<T: Copy>(throttles: &Throttles<T>, plain: fn(T) -> u64) -> Result<(), String> {
    if throttles.total.is_some() && (throttles.read.is_some() || throttles.write.is_some()) {
        return Err("bps/iops/max total values and read/write values cannot be used at the same time".into());
    }
    for (_, throttle) in throttles.named() {
        let steady = plain(throttle.steady);
        if steady == 0 || steady > 1_000_000_000_000_000 {
            return Err("bps/iops/max values must be within [0, 1000000000000000]".into());
        }
        if let Some(burst) = throttle.burst
            && (plain(burst.to) < steady || burst.seconds == 0)
        {
            return Err("bps_max/iops_max cannot be lower than bps/iops".into());
        }
    }
    Ok(())
}
