//! One life: a machine of some kind, some commands in some weather, and a good end.

use crate::harness::Stage;
use crate::invariants::{self, Deed, Ended};
use drive::resize::ResizeError;
use scale::observed::DiskBus;
use scale::report::Verdict;
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{DiskWish, IpWish, RateWish, Wanted};
use scale::words::{parse_bytes_wish, parse_cpu_limit, parse_iops_wish, parse_rate_wish};
use sim::{Between, Chance, Faults, Mood, World};
use std::fmt;

/// How commands ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) proven: u64,
    pub(crate) partial: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) killed: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.proven += other.proven;
        self.partial += other.partial;
        self.failed += other.failed;
        self.refused += other.refused;
        self.killed += other.killed;
    }

    fn count(&mut self, ended: &Ended) {
        match ended {
            Ended::Reported(report) => match report.verdict {
                Verdict::Proven => self.proven += 1,
                Verdict::Partial => self.partial += 1,
                Verdict::Failed => self.failed += 1,
            },
            Ended::Refused(_) => self.refused += 1,
            Ended::Killed => self.killed += 1,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { proven, partial, failed, refused, killed } = self;
        let all = proven + partial + failed + refused + killed;
        write!(
            f,
            "{all} commands: {proven} proven, {partial} partial, {failed} failed, {refused} refused, {killed} killed"
        )
    }
}

/// Lives the life of this seed. Panics with its whole story where an invariant is broken.
pub(crate) fn live(seed: u64) -> Tally {
    let mut chance = Chance::new(seed);
    let mut stage = Stage::new(machine(&mut chance).with_faults(seed, Faults::default()));
    let mut tally = Tally::default();
    for _ in 0..1 + chance.below(4) {
        weather(&mut stage, &mut chance, seed);
        let wanted = wish(&mut chance, &stage.world);
        let killed = (chance.below(10) < 3).then(|| 1 + chance.below(60));
        tally.count(&command(&mut stage, &wanted, killed, seed));
        stage.world.pass(Span::secs(chance.below(60)));
    }
    stage.world.heal();
    stage.world.pass(Span::secs(400));
    good_end(&mut stage, &mut chance, seed, &mut tally);
    tally
}

fn machine(chance: &mut Chance) -> World {
    let mut world = World::small();
    let kind = chance.below(5);
    world = match kind {
        0 => world.virtio_mem("vm0", 0, Bytes::gib(3)),
        1 => world.nodes(2).balloon(true),
        2 => world.in_libvirt().slots(6),
        3 => world.slots(4).foreign_dimm("dimm7", 0, Bytes::gib(1)),
        _ => world,
    };
    // After what it holds is known; a machine that locks its memory has no virtio-mem (hw/virtio/virtio-mem.c, 7.2).
    let most = world.host_memory() + Bytes::mib(chance.below(3) * 256);
    world = match chance.below(4) {
        0 => world.memory_limit(most),
        1 if kind > 0 => world.memory_limit(most).lock_limit(most + Bytes::mib(64)),
        _ => world,
    };
    if chance.below(8) > 0 {
        world = world.power();
    }
    for name in ["vda", "vdb", "vdc"].iter().take(1 + usize::try_from(chance.below(3)).expect("few")) {
        let kind = ["ext4", "xfs", "btrfs"][usize::try_from(chance.below(3)).expect("few")];
        let between = Between { lvm: chance.below(3) == 0, luks: chance.below(4) == 0 };
        world = world.disk(name, kind, between);
        if chance.below(6) == 0 {
            world = world.on_bus(DiskBus::Ide);
        }
    }
    if chance.below(4) == 0 {
        world = world.throttle_group("shared");
    }
    world = world.nic("eth0", "203.0.113.7".parse().expect("an address"));
    if chance.below(2) == 0 {
        world = world.nic("eth1", "2001:db8::7".parse().expect("an address"));
    }
    world
}

fn weather(stage: &mut Stage, chance: &mut Chance, seed: u64) {
    let world = &mut stage.world;
    if chance.below(3) == 0 {
        let mood = Mood::any(chance);
        // What a guest lies about is what `stories` is about.
        if !matches!(mood, Mood::Lies(_)) {
            world.put_for(Span::secs(1 + chance.below(200)), mood);
        }
    }
    if chance.below(2) == 0 {
        let mood = Mood::any_of_host(chance);
        world.put_for(Span::secs(1 + chance.below(200)), mood);
    }
    if chance.below(4) == 0 {
        *world = world.clone().with_seed(seed ^ chance.draw());
    }
    if chance.below(6) == 0 {
        world.heal();
    }
}

/// Some of everything.
fn wish(chance: &mut Chance, world: &World) -> Wanted {
    let mut wanted = Wanted::default();
    if chance.below(2) == 0 {
        wanted.memory = Some(Change::To(Bytes::mib(128).times(8 + chance.below(60))));
    }
    if chance.below(2) == 0 {
        wanted.vcpus = Some(Change::To(1 + u32::try_from(chance.below(7)).expect("few")));
    }
    if chance.below(2) == 0 && has(world, "CPU power") {
        let limit = ["none", "0.5", "2.5", "4"][usize::try_from(chance.below(4)).expect("few")];
        wanted.cpu_limit = parse_cpu_limit(limit).expect("a limit");
    }
    for disk in world.disks() {
        let mut wish = DiskWish::default();
        if chance.below(2) == 0 {
            let by = Bytes::mib(1).times([1, 64, 1024, 4096][usize::try_from(chance.below(4)).expect("few")]);
            wish.size =
                Some(if chance.below(8) == 0 { Change::Shrink(by) } else { Change::To(disk.size + by) });
        }
        let limits = [
            "none",
            "2000",
            "read:500,total:none",
            "write:700,burst:900/5s,total:none",
            "total:5,read:none,write:none",
        ];
        // Disks of one throttle group cannot differ.
        let alone = !has(world, "shared by group") || wanted.disks.values().all(|wish| wish.iops.is_keep());
        if alone && chance.below(2) == 0 {
            wish.iops =
                parse_iops_wish(limits[usize::try_from(chance.below(5)).expect("few")]).expect("a limit");
        }
        if alone && chance.below(3) == 0 {
            wish.rate = parse_bytes_wish(["none", "200M"][usize::try_from(chance.below(2)).expect("few")])
                .expect("a limit");
        }
        if wish != DiskWish::default() {
            wanted.disks.insert(disk.name.clone(), wish);
        }
    }
    for (name, ip) in [("eth0", "203.0.113.7"), ("eth1", "2001:db8::7")] {
        // Seldom one that is not there.
        if name == "eth1" && !has(world, "52:54:00:00:00:02") && chance.below(10) > 0 {
            continue;
        }
        if chance.below(2) == 0 {
            wanted.nics.insert(name.to_owned(), traffic(chance));
        }
        if chance.below(3) == 0 {
            let wish = IpWish { nic: Some(name.to_owned()), rate: traffic(chance) };
            wanted.ips.insert(ip.parse().expect("an address"), wish);
        }
    }
    wanted
}

/// True if the machine has a limit with these words in it.
fn has(world: &World, words: &str) -> bool {
    world.settings().iter().any(|setting| setting.to_string().contains(words))
}

fn traffic(chance: &mut Chance) -> RateWish {
    let words = ["none", "500mbit/1gbit", "in:100mbit", "out:none", "in:1gbit,out:20mbit,burst:64K"];
    parse_rate_wish(words[usize::try_from(chance.below(5)).expect("few")]).expect("a rate")
}

/// One command, and what must hold after it.
fn command(stage: &mut Stage, wanted: &Wanted, killed: Option<u64>, seed: u64) -> Ended {
    let before = stage.world.clone();
    let records = stage.journal.records().len();
    let ended = match killed {
        Some(after) => match stage.apply_until_killed(wanted, after) {
            None => Ended::Killed,
            Some(answer) => ended(answer, seed, stage),
        },
        None => ended(stage.apply(wanted), seed, stage),
    };
    let deed = Deed { before: &before, after: &stage.world, wanted, ended: &ended };
    if let Err(broken) = invariants::check(&deed, &stage.journal.records()[records..]) {
        panic!("seed {seed}: {broken}\n{wanted:#?}\n{}", stage.past());
    }
    if matches!(ended, Ended::Reported(_)) {
        stage.assert_recorded();
    }
    ended
}

fn ended(answer: Result<scale::report::Report, ResizeError>, seed: u64, stage: &Stage) -> Ended {
    match answer {
        Ok(report) => Ended::Reported(Box::new(report)),
        Err(
            error @ (ResizeError::Refused(_)
            | ResizeError::StepAfterInterruption { .. }
            | ResizeError::Unsteady
            | ResizeError::Declined),
        ) => Ended::Refused(error.to_string()),
        Err(error @ (ResizeError::Observe(_) | ResizeError::Journal(_) | ResizeError::Unsound(_))) => {
            panic!("seed {seed}: {error}\n{}", stage.past())
        }
    }
}

/// A willing machine becomes what is asked, restarted where its guest has to learn the size of a disk.
fn good_end(stage: &mut Stage, chance: &mut Chance, seed: u64, tally: &mut Tally) {
    let mut wanted = wish(chance, &stage.world);
    // A size below the present one and limits that exclude each other are no good end.
    for wish in wanted.disks.values_mut() {
        wish.size = wish.size.filter(|size| !matches!(size, Change::Shrink(_)));
        wish.iops = parse_iops_wish("2000").expect("a limit");
        wish.rate = parse_bytes_wish("200M").expect("a limit");
    }
    wanted.disks.retain(|_, wish| wish.size.is_some() || !wish.iops.is_keep());
    let has =
        |world: &World, name: &str| world.settings().iter().any(|setting| setting.to_string().contains(name));
    if !has(&stage.world, "52:54:00:00:00:02") {
        wanted.nics.remove("eth1");
        wanted.ips.retain(|_, wish| wish.nic.as_deref() != Some("eth1"));
    }
    if !has(&stage.world, "CPU power") {
        wanted.cpu_limit = scale::wanted::Wish::Keep;
    }
    // What nobody can remove stays.
    let least = stage.observe().memory.boot;
    wanted.memory = wanted.memory.map(|change| match change {
        Change::To(size) => Change::To(size.max(least)),
        step @ (Change::Grow(_) | Change::Shrink(_)) => step,
    });
    let mut told = Vec::new();
    for _ in 0..8 {
        let ended = command(stage, &wanted, None, seed);
        tally.count(&ended);
        match &ended {
            Ended::Reported(report) if report.verdict == Verdict::Proven && report.pending.is_empty() => {
                return;
            }
            Ended::Reported(report) => told.push(format!("{} {:?}", report.verdict, report.held_back)),
            Ended::Refused(why) => told.push(why.clone()),
            Ended::Killed => {}
        }
        stage.world.put(Mood::Reboots(Span::millis(1)));
        stage.world.pass(Span::secs(150));
        stage.follow_the_way_out();
    }
    panic!("seed {seed}: {wanted:#?} is never proven:\n{}\n{}", told.join("\n"), stage.past());
}
