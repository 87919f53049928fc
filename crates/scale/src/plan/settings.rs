//! Limits: what each becomes, and the steps that set it.
//!
//! A wish names parts; a [`Setting`] is the whole: what is not named keeps its present value. Each limit is a group of
//! its own, because it was asked for by name: it stands whatever becomes of the others. Those that give more go before
//! memory and vCPUs come, those that give less after.

use super::make::{Part, Scene, step};
use super::{Act, Obstacle, Proof, Strength, When, named};
use crate::observed::{Known, Nic, Observed};
use crate::setting::{BitRate, CpuPower, DiskIo, Millicpus, NicRate, Rate, Setting, Throttle, Throttles};
use crate::units::Bytes;
use crate::wanted::{DiskWish, RateWish, ThrottleWish, Wanted, Wish};
use core::net::IpAddr;
use std::fmt::Display;

/// The largest number that QEMU takes for a limit or for a burst with its length (`THROTTLE_VALUE_MAX`,
/// include/qemu/throttle.h, 7.2 and 10.0).
const THROTTLE_MAX: u64 = 1_000_000_000_000_000;

/// One limit as it is and as it is asked for.
pub(super) struct Move {
    pub(super) from: Setting,
    pub(super) to: Setting,
}

/// The limits that are asked for, those included that are so already, and why others cannot be.
#[derive(Default)]
pub(super) struct Moves {
    pub(super) moves: Vec<Move>,
    pub(super) notes: Vec<String>,
    pub(super) obstacles: Vec<Obstacle>,
}

/// Works every wish for a limit out.
pub(super) fn resolve(seen: &Observed, wanted: &Wanted) -> Moves {
    let mut found = Moves::default();
    cpu_power(seen, wanted, &mut found);
    for (name, wish) in &wanted.disks {
        if wish.iops.is_keep() && wish.rate.is_keep() {
            continue;
        }
        let moved = named::disk(seen, name).and_then(|disk| match &disk.io {
            Known::Is(now) => disk_io(&disk.name, now, wish),
            Known::Not(why) => Err(closed(&format!("the I/O of disk {}", disk.name), why)),
        });
        found.take(moved);
    }
    for (name, wish) in &wanted.nics {
        match named::nic(seen, name) {
            Ok(nic) => nic_rate(nic, *wish, &mut found),
            Err(obstacle) => found.obstacles.push(obstacle),
        }
    }
    for (ip, wish) in &wanted.ips {
        match named::nic_of(seen, *ip, wish.nic.as_deref()) {
            Ok(nic) => ip_rate(nic, *ip, wish.rate, &mut found),
            Err(obstacle) => found.obstacles.push(obstacle),
        }
    }
    found.agree();
    found
}

/// The steps of the limits that give more, and of those that give less.
pub(super) fn plan(scene: &Scene<'_>, moves: &[Move]) -> (Part, Part) {
    let (mut more, mut less) = (Part::default(), Part::default());
    let mut shared: Vec<&DiskIo> = Vec::new();
    for Move { from, to } in moves.iter().filter(|m| m.from != m.to) {
        // Disks of one throttle group share one limit, which is set once.
        if let Setting::DiskIo { io, .. } = to
            && io.group.is_some()
        {
            if shared.contains(&io) {
                continue;
            }
            shared.push(io);
        }
        let (back, there) = (Box::new(from.clone()), Box::new(to.clone()));
        let steps = vec![step(
            Act::Set { from: back.clone(), to: there.clone() },
            Proof::SetAt { setting: there.clone() },
            Strength::DeviceOnly,
            scene.limits.monitor,
            vec![Act::Set { from: there, to: back }],
        )];
        if gives_more(from, to) { more.groups.push(steps) } else { less.groups.push(steps) }
    }
    (more, less)
}

impl Moves {
    fn take(&mut self, moved: Result<Move, Obstacle>) {
        match moved {
            Ok(moved) => self.moves.push(moved),
            Err(obstacle) => self.obstacles.push(obstacle),
        }
    }

    /// Two names of one thing, or two disks of one throttle group, cannot be asked to differ.
    fn agree(&mut self) {
        let group = |setting: &Setting| match setting {
            Setting::DiskIo { io, .. } => io.group.clone(),
            Setting::CpuPower(_)
            | Setting::NicRate { .. }
            | Setting::IpRate { .. }
            | Setting::Memory { .. }
            | Setting::Locked { .. } => None,
        };
        for (nth, one) in self.moves.iter().enumerate() {
            for other in &self.moves[nth + 1..] {
                let same = one.to.name() == other.to.name()
                    || group(&one.to).is_some() && group(&one.to) == group(&other.to);
                if same && one.to.value() != other.to.value() {
                    self.obstacles.push(Obstacle {
                        when: When::Impossible,
                        reason: format!(
                            "{} and {} are one limit and were asked to differ",
                            one.to.name(),
                            other.to.name()
                        ),
                        way_out: "ask for it once".to_owned(),
                    });
                }
            }
        }
        let mut names = Vec::new();
        self.moves.retain(|one| {
            let first = !names.contains(&one.to.name());
            names.push(one.to.name());
            first
        });
    }
}

fn closed(what: &str, why: &str) -> Obstacle {
    Obstacle {
        when: When::NotNow,
        reason: format!("{what} cannot be limited: {why}"),
        way_out: "see to that, or leave the option away".to_owned(),
    }
}

fn cpu_power(seen: &Observed, wanted: &Wanted, found: &mut Moves) {
    if wanted.cpu_limit.is_keep() && wanted.cpu_weight.is_none() {
        return;
    }
    let now = match &seen.power {
        Known::Is(now) => *now,
        Known::Not(why) => return found.obstacles.push(closed("CPU power", why)),
    };
    let limit = wanted.cpu_limit.over(now.limit);
    let to = CpuPower { limit, weight: wanted.cpu_weight.unwrap_or(now.weight) };
    if limit.is_some_and(|limit| limit < Millicpus::MIN) {
        return found.obstacles.push(Obstacle {
            when: When::Impossible,
            reason: format!("a kernel grants no less than {} CPUs", Millicpus::MIN),
            way_out: format!("ask for --cpu-limit {} or more", Millicpus::MIN),
        });
    }
    found.moves.push(Move { from: Setting::CpuPower(now), to: Setting::CpuPower(to) });
}

/// What a limit of CPU power is worth that `vcpus` cannot reach.
pub(super) fn idle(to: &Setting, vcpus: u32) -> Option<String> {
    let Setting::CpuPower(CpuPower { limit: Some(limit), .. }) = to else { return None };
    (u64::from(limit.get()) > u64::from(vcpus) * 1000).then(|| match vcpus {
        1 => format!("a limit of {limit} CPUs holds nothing back: one vCPU takes no more than 1 CPU"),
        _ => format!(
            "a limit of {limit} CPUs holds nothing back: {vcpus} vCPUs take no more than {vcpus} CPUs"
        ),
    })
}

fn disk_io(disk: &str, now: &DiskIo, wish: &DiskWish) -> Result<Move, Obstacle> {
    let iops = whole(disk, "--disk-iops", wish.iops, now.iops, |iops| iops.get())?;
    let bytes = whole(disk, "--disk-rate", wish.rate, now.bytes, Bytes::get)?;
    // QEMU takes a size of operations only beside a limit of them (util/throttle.c, 7.2 and 10.0).
    let iops_size = now.iops_size.filter(|_| !iops.is_free());
    let to = DiskIo { bytes, iops, iops_size, group: now.group.clone() };
    let disk = disk.to_owned();
    Ok(Move {
        from: Setting::DiskIo { disk: disk.clone(), io: now.clone() },
        to: Setting::DiskIo { disk, io: to },
    })
}

/// The whole of one kind of a disk's limits.
fn whole<T: Copy + Display>(
    disk: &str,
    option: &str,
    wish: ThrottleWish<T>,
    now: Throttles<T>,
    plain: fn(T) -> u64,
) -> Result<Throttles<T>, Obstacle> {
    let to = Throttles {
        total: wish.total.over(now.total),
        read: wish.read.over(now.read),
        write: wish.write.over(now.write),
    };
    if to.contradicts_itself() {
        let lift = match wish.total {
            Wish::To(_) => format!("{option} {disk}=total:...,read:none,write:none"),
            Wish::Keep | Wish::Lift => format!("{option} {disk}=total:none,read:...,write:..."),
        };
        return Err(Obstacle {
            when: When::Impossible,
            reason: format!("QEMU limits disk {disk} in total or apart for reads and writes, not both"),
            way_out: format!("lift the one: {lift}"),
        });
    }
    let fits = |throttle: &Throttle<T>| {
        let burst = throttle.burst.map_or(0, |b| plain(b.to).saturating_mul(b.seconds.into()));
        plain(throttle.steady) > 0 && plain(throttle.steady) <= THROTTLE_MAX && burst <= THROTTLE_MAX
    };
    match to.named().find(|(_, throttle)| !fits(throttle)) {
        None => Ok(to),
        Some((name, throttle)) => Err(Obstacle {
            when: When::Impossible,
            reason: format!("QEMU takes no limit such as {name} {throttle} for disk {disk}"),
            way_out: format!(
                "ask for more than 0, and for {THROTTLE_MAX} in a burst at most; `none` lifts a limit"
            ),
        }),
    }
}

fn nic_rate(nic: &Nic, wish: RateWish, found: &mut Moves) {
    let now = match &nic.rate {
        Known::Is(now) => *now,
        Known::Not(why) => {
            return found.obstacles.push(closed(&format!("the traffic of NIC {}", nic.name), why));
        }
    };
    let Some(rate) = rate(nic, wish, now, found) else { return };
    let of = |rate| Setting::NicRate { nic: nic.name.clone(), rate };
    found.moves.push(Move { from: of(now), to: of(rate) });
}

fn ip_rate(nic: &Nic, ip: IpAddr, wish: RateWish, found: &mut Moves) {
    let now = match &nic.ips {
        Known::Is(ips) => ips.iter().find(|of| of.ip == ip).map_or_else(NicRate::default, |of| of.rate),
        Known::Not(why) => {
            let what = format!("the traffic of single addresses on NIC {}", nic.name);
            return found.obstacles.push(closed(&what, why));
        }
    };
    let Some(rate) = rate(nic, wish, now, found) else { return };
    if !nic.addresses.is_empty() && !nic.addresses.contains(&ip) && !rate.is_free() {
        found.notes.push(format!("the guest shows no {ip} on NIC {} now; the limit waits for it", nic.name));
    }
    let of = |rate| Setting::IpRate { nic: nic.name.clone(), ip, rate };
    found.moves.push(Move { from: of(now), to: of(rate) });
}

/// The whole rate, with its bursts, where its NIC can express it.
fn rate(nic: &Nic, wish: RateWish, now: NicRate, found: &mut Moves) -> Option<NicRate> {
    let mut refused = false;
    let mut side = |wish: Wish<Rate>, now: Option<Rate>, peaks: bool| {
        let Wish::To(asked) = wish else { return wish.over(now) };
        let Rate { average, peak, burst } = asked;
        for figure in [Some(average), peak].into_iter().flatten() {
            if !figure.is_multiple_of(nic.grain.step) || figure.get() == 0 {
                refused = true;
                found.obstacles.push(uneven(nic, figure));
            }
        }
        if peak.is_some() && !peaks {
            found.notes.push(format!(
                "what the guest sends on NIC {} is held to its average of {average}: no peak is enforced there",
                nic.name
            ));
        }
        let burst = Some(burst.unwrap_or_else(|| Rate::usual_burst(average)));
        Some(Rate { average, peak: peak.filter(|_| peaks), burst })
    };
    let to_guest = side(wish.to_guest, now.to_guest, true);
    let from_guest = side(wish.from_guest, now.from_guest, nic.grain.peak_from_guest);
    (!refused).then_some(NicRate { to_guest, from_guest })
}

fn uneven(nic: &Nic, asked: BitRate) -> Obstacle {
    let step = nic.grain.step.get().max(1);
    let below = BitRate::new(asked.get() / step * step);
    let above = BitRate::new(below.get().saturating_add(step));
    Obstacle {
        when: When::Impossible,
        reason: format!("rates of NIC {} go in steps of {}, and {asked} is none", nic.name, nic.grain.step),
        way_out: match below.get() {
            0 => format!("ask for {above}"),
            _ => format!("ask for {below} or {above}"),
        },
    }
}

/// True where nothing is limited more than before.
fn gives_more(from: &Setting, to: &Setting) -> bool {
    match (from, to) {
        (Setting::CpuPower(from), Setting::CpuPower(to)) => {
            at_least(from.limit, to.limit) && to.weight >= from.weight
        }
        (Setting::DiskIo { io: from, .. }, Setting::DiskIo { io: to, .. }) => {
            wider(&from.iops, &to.iops) && wider(&from.bytes, &to.bytes)
        }
        (Setting::NicRate { rate: from, .. }, Setting::NicRate { rate: to, .. })
        | (Setting::IpRate { rate: from, .. }, Setting::IpRate { rate: to, .. }) => {
            let average = |rate: Option<Rate>| rate.map(|rate| rate.average);
            at_least(average(from.to_guest), average(to.to_guest))
                && at_least(average(from.from_guest), average(to.from_guest))
        }
        (_, _) => false,
    }
}

/// True where the second limit allows what the first does; none allows everything.
fn at_least<T: Ord>(from: Option<T>, to: Option<T>) -> bool {
    match (from, to) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(from), Some(to)) => to >= from,
    }
}

fn wider<T: Copy + Ord>(from: &Throttles<T>, to: &Throttles<T>) -> bool {
    let steady = |throttle: Option<Throttle<T>>| throttle.map(|throttle| throttle.steady);
    at_least(steady(from.total), steady(to.total))
        && at_least(steady(from.read), steady(to.read))
        && at_least(steady(from.write), steady(to.write))
}
