//! What must hold after every command, whatever happened. `SPEC.md` lists these by their names.

use scale::observed::{Disk, Known, Layer};
use scale::plan::{Act, Plan};
use scale::report::{Report, Verdict};
use scale::run::Record;
use scale::setting::{Setting, SettingName};
use scale::wanted::Wanted;
use sim::World;

/// A command, and the world around it.
pub(crate) struct Deed<'a> {
    pub(crate) before: &'a World,
    pub(crate) after: &'a World,
    pub(crate) wanted: &'a Wanted,
    pub(crate) ended: &'a Ended,
}

/// How a command ended.
pub(crate) enum Ended {
    Reported(Box<Report>),
    Refused(String),
    Killed,
}

type Rule = (&'static str, fn(&Deed<'_>, &[Record]) -> Result<(), String>);

/// Every invariant, by its name.
pub(crate) const ALL: [Rule; 14] = [
    ("no disk and no layer of one is ever smaller than it was", nothing_shrinks),
    ("no layer of a disk is larger than what it lies on", nothing_overhangs),
    ("a disk that was not asked for keeps its size", unasked_disks_stay),
    ("a limit that was not asked for keeps its value", unasked_limits_stay),
    ("a limit is what it was or what was asked, or is named as left behind", no_limit_is_half),
    ("no limit comes nearer to what QEMU holds of the host's memory", no_limit_comes_nearer),
    ("a limit that follows the memory is where it was above it, or that is told", limits_follow_memory),
    ("a refusal changes nothing", a_refusal_changes_nothing),
    ("what is called proven is so", proven_is_true),
    ("what is called failed reached nothing", failed_is_true),
    ("what is not proven says why", a_lack_has_a_reason),
    ("disks come last in a plan, and nothing takes them back", disks_come_last),
    ("every other change of limits has its way back", limits_have_a_way_back),
    ("no act is sent that is not in the journal first", sent_is_written),
];

pub(crate) fn check(deed: &Deed<'_>, records: &[Record]) -> Result<(), String> {
    for (name, rule) in ALL {
        rule(deed, records).map_err(|how| format!("broken: {name}: {how}"))?;
    }
    Ok(())
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn layers(disk: &Disk) -> &[Layer] {
    match &disk.guest {
        Known::Is(guest) => &guest.layers,
        Known::Not(_) => &[],
    }
}

fn nothing_shrinks(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    for (was, is) in deed.before.disks().iter().zip(deed.after.disks()) {
        require(is.size >= was.size, || format!("{} went from {} to {}", is.name, was.size, is.size))?;
        larger(layers(was), layers(is))?;
    }
    Ok(())
}

fn larger(was: &[Layer], is: &[Layer]) -> Result<(), String> {
    for (was, is) in was.iter().zip(is) {
        require(is.name() == was.name() && is.size >= was.size, || {
            format!("{} {} became {} {}", was.name(), was.size, is.name(), is.size)
        })?;
        larger(&was.above, &is.above)?;
    }
    Ok(())
}

fn nothing_overhangs(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    fn within(below: scale::units::Bytes, layers: &[Layer]) -> Result<(), String> {
        for layer in layers {
            require(layer.size <= below, || format!("{} has {} on {below}", layer.name(), layer.size))?;
            within(layer.size, &layer.above)?;
        }
        Ok(())
    }
    deed.after.disks().iter().try_for_each(|disk| within(disk.size, layers(disk)))
}

fn unasked_disks_stay(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    for (was, is) in deed.before.disks().iter().zip(deed.after.disks()) {
        let asked = deed.wanted.disks.get(&is.name).is_some_and(|wish| wish.size.is_some());
        require(asked || is.size == was.size, || format!("{} was not asked for", is.name))?;
    }
    Ok(())
}

/// The taps were made anew, and all limits on them are gone.
fn taps_were_remade(deed: &Deed<'_>) -> bool {
    let last = |world: &World| world.log().filter(|line| line.contains("taps are made anew")).count();
    last(deed.after) > last(deed.before)
}

fn is_traffic(name: &SettingName) -> bool {
    match name {
        SettingName::NicRate { .. } | SettingName::IpRate { .. } => true,
        SettingName::CpuPower | SettingName::DiskIo { .. } | SettingName::Memory | SettingName::Locked => {
            false
        }
    }
}

/// True where the wish names this limit, or one that is shared with it.
fn is_asked(deed: &Deed<'_>, setting: &Setting) -> bool {
    let wanted = deed.wanted;
    match setting {
        Setting::CpuPower(_) => !wanted.cpu_limit.is_keep() || wanted.cpu_weight.is_some(),
        Setting::DiskIo { disk, io } => wanted.disks.iter().any(|(name, wish)| {
            (!wish.iops.is_keep() || !wish.rate.is_keep()) && (name == disk || io.group.is_some())
        }),
        Setting::NicRate { nic, .. } => wanted.nics.keys().any(|name| number(name) == number(nic)),
        Setting::IpRate { ip, .. } => wanted.ips.contains_key(ip),
        // They move with what QEMU holds, also where that was left over; `limits_follow_memory`.
        Setting::Memory { .. } | Setting::Locked { .. } => true,
    }
}

/// `eth0` is `...:01`.
fn number(name: &str) -> Option<u32> {
    match name.strip_prefix("eth") {
        Some(number) => number.parse::<u32>().ok().map(|number| number + 1),
        None => name.rsplit(':').next().and_then(|last| last.parse().ok()),
    }
}

fn unasked_limits_stay(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let after = deed.after.settings();
    for was in deed.before.settings().iter().filter(|was| !is_asked(deed, was)) {
        if is_traffic(&was.name()) && taps_were_remade(deed) {
            continue;
        }
        let is = after.iter().find(|is| is.name() == was.name());
        require(is == Some(was), || format!("{was} became {is:?}"))?;
    }
    Ok(())
}

fn no_limit_is_half(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let Ended::Reported(report) = deed.ended else { return Ok(()) };
    for of in &report.settings {
        let name = of.asked.name();
        if is_traffic(&name) && taps_were_remade(deed) {
            continue;
        }
        let now = deed.after.settings().into_iter().find(|is| is.name() == name);
        let told = report.left_behind.iter().any(|left| left.contains(&name.to_string()));
        let whole = now == of.from || now.as_ref() == Some(&of.asked) || of.is_reached();
        require(whole || told, || format!("{name} is {now:?}, was {:?}", of.from))?;
    }
    Ok(())
}

/// The limits that follow the machine's memory, each with what lies between it and all that QEMU is to hold.
fn distances(world: &World) -> Vec<(SettingName, i128)> {
    let held = i128::from(world.host_memory_promised().get());
    let settings = world.settings().into_iter();
    settings.filter_map(|of| Some((of.name(), i128::from(of.bytes()?.get()) - held))).collect()
}

fn no_limit_comes_nearer(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let (was, is) = (distances(deed.before), distances(deed.after));
    require(was.len() == is.len(), || format!("{was:?} became {is:?}"))?;
    for ((name, was), (_, is)) in was.iter().zip(&is) {
        require(is >= was, || format!("{name} was {was} bytes above, and is {is}"))?;
    }
    let killed = deed.after.log().find(|line| line.contains("out of its control group's memory"));
    require(killed.is_none(), || killed.unwrap_or_default().to_owned())
}

fn limits_follow_memory(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let Ended::Reported(report) = deed.ended else { return Ok(()) };
    // What a guest gives up, or takes, after a command gave up on it moves no limit: it is left high.
    let unsettled = |world: &World| {
        !world.removals_under_way().is_empty() || world.host_memory_promised() != world.host_memory()
    };
    let finished = |world: &World| world.log().filter(|line| finishes(line)).count();
    let settles = unsettled(deed.before)
        || unsettled(deed.after)
        || !report.pending.is_empty()
        || finished(deed.after) > finished(deed.before);
    for ((name, was), (_, is)) in distances(deed.before).iter().zip(&distances(deed.after)) {
        let words = || report.held_back.iter().chain(&report.left_behind);
        let in_part = report.steps.iter().any(|step| step.act.starts_with("resize "));
        let told = !report.left_behind.is_empty()
            || words().any(|words| words.contains("set QEMU's") || words.contains("was interrupted"))
            || report.verdict != Verdict::Proven && in_part;
        require(is == was || settles || told, || format!("{name} was {was} bytes above, and is {is}"))?;
    }
    Ok(())
}

fn a_refusal_changes_nothing(deed: &Deed<'_>, records: &[Record]) -> Result<(), String> {
    let Ended::Refused(_) = deed.ended else { return Ok(()) };
    let sent = records.iter().any(|record| matches!(record, Record::Sending { .. }));
    require(!sent, || "an act was sent".to_owned())
}

fn proven_is_true(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let Ended::Reported(report) = deed.ended else { return Ok(()) };
    if report.verdict != Verdict::Proven {
        return Ok(());
    }
    for (name, size) in &report.asked.disks {
        let disk = deed.after.disks().iter().find(|disk| disk.name == *name);
        require(disk.is_some_and(|disk| disk.size == *size), || format!("{name} is not at {size}"))?;
        let grown = report.disks.iter().any(|of| of.disk == *name && of.from < of.asked);
        let guest = disk.and_then(|disk| disk.guest.known());
        let seen = guest.is_none_or(|guest| guest.size == *size);
        require(!grown || seen, || format!("the guest has not noticed the size of {name}"))?;
    }
    for asked in &report.asked.settings {
        let now = deed.after.settings().into_iter().find(|is| is.name() == asked.name());
        let free = matches!(asked, Setting::IpRate { rate, .. } if rate.is_free());
        require(now.as_ref() == Some(asked) || free && now.is_none(), || format!("{asked} is {now:?}"))?;
    }
    Ok(())
}

fn failed_is_true(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let Ended::Reported(report) = deed.ended else { return Ok(()) };
    if report.verdict != Verdict::Failed || report.achieved.is_none() {
        return Ok(());
    }
    for (was, is) in deed.before.disks().iter().zip(deed.after.disks()) {
        require(is.size == was.size, || format!("{} has grown", is.name))?;
    }
    Ok(())
}

fn a_lack_has_a_reason(deed: &Deed<'_>, _: &[Record]) -> Result<(), String> {
    let Ended::Reported(report) = deed.ended else { return Ok(()) };
    require(report.verdict == Verdict::Proven || !report.held_back.is_empty(), || {
        format!("{} for no reason", report.verdict)
    })
}

fn plans(records: &[Record]) -> impl Iterator<Item = &Plan> {
    records.iter().filter_map(|record| match record {
        Record::Began { plan, .. } => Some(&**plan),
        Record::Sending { .. }
        | Record::Concluded { .. }
        | Record::Ended { .. }
        | Record::Filled { .. }
        | Record::Remarked { .. }
        | Record::Settled { .. }
        | Record::Reported { .. } => None,
    })
}

fn is_of_disks(act: &Act) -> bool {
    matches!(act, Act::GrowDisk { .. } | Act::GrowInGuest { .. })
}

fn disks_come_last(_: &Deed<'_>, records: &[Record]) -> Result<(), String> {
    for plan in plans(records) {
        let mut rest = plan.steps.iter().skip_while(|step| !is_of_disks(&step.act));
        require(rest.all(|step| is_of_disks(&step.act) && step.undo.is_empty()), || {
            format!("{:#?}", plan.steps)
        })?;
    }
    Ok(())
}

fn limits_have_a_way_back(_: &Deed<'_>, records: &[Record]) -> Result<(), String> {
    for step in plans(records).flat_map(|plan| &plan.steps) {
        let Act::Set { from, to } = &step.act else { continue };
        let back = [Act::Set { from: to.clone(), to: from.clone() }];
        require(step.undo == back, || format!("{} has {:?}", step.act, step.undo))?;
    }
    Ok(())
}

/// A removal that is in the journal is finished with the backend that somebody else had made for it.
fn finishes(line: &str) -> bool {
    line.contains("give host memory mem-dimm7 back")
}

/// The world notes each act that reaches it; the journal has at least as many intentions.
fn sent_is_written(deed: &Deed<'_>, records: &[Record]) -> Result<(), String> {
    let written = records.iter().filter(|record| matches!(record, Record::Sending { .. })).count();
    let fates = ["Goes: ", "Refused: ", "Lost: ", "Unanswered: "];
    let is_act = |line: &&str| fates.iter().any(|fate| line.contains(fate)) && !finishes(line);
    let sent = |world: &World| world.log().filter(is_act).count();
    // A world forgets the oldest of its past.
    let (was, is) = (sent(deed.before), sent(deed.after));
    require(is.saturating_sub(was) <= written, || format!("{} sent, {written} written", is - was))
}
