//! What is told at the end: asked, achieved, proven by what, in what time, and what held it back.
//!
//! The achieved sizes come from a fresh observation, never from what the steps claimed.

use crate::history::OpenRun;
use crate::observed::{Guest, LayerKind, Observed, Pending};
use crate::plan::{Act, Asked, Proof, Sizes, Step, Strength, Unmet};
use crate::run::{End, Outcome, Run};
use crate::setting::{Setting, SettingName};
use crate::time::{Moment, Span};
use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// The report of one command, over all its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// When the command began to act.
    pub began: Moment,
    /// How long it took.
    pub took: Span,
    /// The sizes before.
    pub from: Sizes,
    /// What was asked for.
    pub asked: Asked,
    /// The sizes now, as QEMU tells them; absent where the machine could not be observed any more.
    pub achieved: Option<Sizes>,
    /// What the guest shows now.
    pub guest: GuestSizes,
    /// What became of each disk that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskReport>,
    /// What became of each limit that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<SettingReport>,
    /// The whole in one word.
    pub verdict: Verdict,
    /// The weakest proof among the steps that the guest has a part in; absent where nothing was to be done.
    pub strength: Option<Strength>,
    /// Each act that was sent and how it ended, in order.
    pub steps: Vec<StepReport>,
    /// What stood in the way, and what there is to remark, for people.
    pub held_back: Vec<String>,
    /// What broken steps left behind that could not be taken back.
    pub left_behind: Vec<String>,
    /// Removals that the guest may still grant.
    pub pending: Vec<Pending>,
}

/// What the guest shows of itself; absent where it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestSizes {
    /// Memory in online blocks.
    pub online: Option<Bytes>,
    /// MemTotal: what the guest's kernel manages. A little less than `online`: the kernel's own image is not in it.
    pub total: Option<Bytes>,
    /// vCPUs online.
    pub vcpus: Option<u32>,
}

impl GuestSizes {
    /// What the guest itself says in this observation.
    pub fn of(seen: &Observed) -> GuestSizes {
        match &seen.guest {
            Guest::Unheard(_) => GuestSizes::default(),
            Guest::Heard(facts) => GuestSizes {
                online: facts.online_memory(),
                total: facts.meminfo.map(|m| m.total),
                vcpus: (!facts.vcpus.is_empty()).then(|| facts.online_vcpus()),
            },
        }
    }

    /// The same, with the balloon driver's total where the guest says none and the driver told it after `began`: it tells
    /// when it starts and then only while it is asked, and counts in whole seconds.
    fn since(began: Moment, seen: &Observed) -> GuestSizes {
        let second = |moment: Moment| moment.unix_millis() / 1000;
        let stats = seen.memory.balloon.and_then(|balloon| balloon.stats);
        let told = stats.filter(|told| second(told.at) > second(began)).map(|told| told.total);
        let own = GuestSizes::of(seen);
        GuestSizes { total: own.total.or(told), ..own }
    }
}

/// What became of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskReport {
    /// Its name.
    pub disk: String,
    /// Its size before.
    pub from: Bytes,
    /// The size that was asked for.
    pub asked: Bytes,
    /// Its size now, as QEMU tells it; absent where it is not told any more.
    pub achieved: Option<Bytes>,
    /// The filesystem that grew with it and what `df` counts of it in the guest now, where one did.
    pub filesystem: Option<(String, Bytes)>,
}

/// What became of one limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SettingReport {
    /// What it was; absent for the limit of an address that had none.
    pub from: Option<Setting>,
    /// What was asked for.
    pub asked: Setting,
    /// What is read back now; absent where nothing is.
    pub achieved: Option<Setting>,
}

impl SettingReport {
    /// True where it is as asked.
    pub fn is_reached(&self) -> bool {
        // An address that is not limited is not listed.
        let free = matches!(&self.asked, Setting::IpRate { rate, .. } if rate.is_free());
        self.achieved.as_ref().map_or(free, |read| self.asked.is_shown_by(read))
    }

    fn was_reached(&self) -> bool {
        SettingReport { achieved: self.from.clone(), ..self.clone() }.is_reached()
    }
}

/// The whole in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was asked is there and every step is proven.
    Proven,
    /// Some of it is there; or every step was proven, and the machine cannot be observed any more.
    Partial,
    /// None of it is there.
    Failed,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Proven => "proven",
            Verdict::Partial => "partial",
            Verdict::Failed => "failed",
        })
    }
}

/// One act that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepReport {
    /// The act, for people.
    pub act: String,
    /// How it ended.
    pub outcome: Outcome,
}

/// Collects a report over the runs of one command.
#[derive(Debug, Clone)]
pub struct Account {
    began: Moment,
    from: Sizes,
    asked: Asked,
    steps: Vec<StepReport>,
    held_back: Vec<String>,
    left_behind: Vec<String>,
    strength: Option<Strength>,
    done: bool,
    /// False where a plan leaves a part of the wish to a person.
    whole: bool,
    disks: Vec<DiskReport>,
    settings: Vec<SettingReport>,
}

impl Account {
    /// Opens the account of a command that starts from `seen` and asks for `asked`.
    pub fn open(now: Moment, seen: &Observed, asked: Asked) -> Account {
        let size_of = |name: &str| seen.disks().iter().find(|disk| disk.name == name).map(|disk| disk.size);
        let disks = asked.disks.iter().map(|(disk, asked)| DiskReport {
            disk: disk.clone(),
            from: size_of(disk).unwrap_or_default(),
            asked: *asked,
            achieved: None,
            filesystem: None,
        });
        let settings = asked.settings.iter().map(|asked| SettingReport {
            from: read(seen, &asked.name()),
            asked: asked.clone(),
            achieved: None,
        });
        Account {
            began: now,
            from: Sizes::of(seen),
            disks: disks.collect(),
            settings: settings.collect(),
            whole: true,
            asked,
            steps: Vec::new(),
            held_back: Vec::new(),
            left_behind: Vec::new(),
            strength: None,
            done: true,
        }
    }

    /// Notes that an earlier run had been interrupted.
    pub fn note_interrupted(&mut self, open: &OpenRun) {
        let done = open.proven;
        let of = open.plan.steps.len();
        self.held_back
            .push(format!("an earlier run was interrupted after {done} of {of} steps; taken up from there"));
    }

    /// Adds something that was done otherwise than one might think.
    pub fn remark(&mut self, remark: String) {
        self.held_back.push(remark);
    }

    /// Adds something that stood in the way.
    pub fn note_held_back(&mut self, why: String) {
        self.done = false;
        self.held_back.push(why);
    }

    /// Adds what a plan leaves to a person.
    pub fn note_unmet(&mut self, unmet: &[Unmet]) {
        self.whole &= unmet.is_empty();
        self.held_back.extend(unmet.iter().map(ToString::to_string));
    }

    /// Adds a run that has ended.
    pub fn add(&mut self, run: &Run) {
        for (step, outcome) in run.plan().steps.iter().zip(run.outcomes()) {
            let Some(outcome) = outcome else { continue };
            if let Outcome::Proven { strength, .. } = outcome
                && involves_guest(step)
            {
                self.strength = Some(self.strength.map_or(*strength, |s| s.min(*strength)));
            }
            if let Act::GrowInGuest { disk, layer, .. } = &step.act
                && let LayerKind::Filesystem { .. } = &layer.kind
            {
                let disks = self.disks.iter_mut().filter(|report| report.disk == *disk);
                disks.for_each(|report| report.filesystem = Some((layer.name(), layer.size)));
            }
            self.steps.push(StepReport { act: step.act.to_string(), outcome: outcome.clone() });
        }
        self.done = matches!(run.end(), Some(End::Done));
        match run.end() {
            Some(End::Broken { step, why, left_behind, .. }) => {
                self.held_back.push(format!("{}: {why}", run.plan().steps[*step].act));
                self.left_behind.extend(left_behind.iter().cloned());
            }
            Some(End::Lost { why, .. }) => self.held_back.push(format!("the machine is gone: {why}")),
            Some(End::Done | End::Interrupted) | None => {}
        }
    }

    /// Closes the account with what the machine shows now, or why it shows nothing any more.
    pub fn close(mut self, now: Moment, seen: Result<&Observed, String>) -> Report {
        let unseen = if self.done && !self.steps.is_empty() { Verdict::Partial } else { Verdict::Failed };
        let (achieved, guest, pending) = match &seen {
            Ok(seen) => (Some(Sizes::of(seen)), GuestSizes::since(self.began, seen), seen.pending.clone()),
            Err(why) => {
                self.note_held_back(format!("the machine cannot be observed any more: {why}"));
                (None, GuestSizes::default(), Vec::new())
            }
        };
        self.look_again(seen.ok());
        let changed =
            if self.done && self.whole { achieved.map(|now| self.changed_since(now)) } else { None };
        for lack in self.lacks(&guest).into_iter().chain(changed.into_iter().flatten()) {
            self.note_held_back(lack);
        }
        let verdict = achieved.map_or(unseen, |sizes| self.judge(sizes));
        Report {
            began: self.began,
            took: now.since(self.began),
            from: self.from,
            asked: self.asked,
            achieved,
            guest,
            disks: self.disks,
            settings: self.settings,
            verdict,
            strength: self.strength,
            steps: self.steps,
            held_back: self.held_back,
            left_behind: self.left_behind,
            pending,
        }
    }

    /// What disks and limits are now.
    fn look_again(&mut self, seen: Option<&Observed>) {
        let Some(seen) = seen else { return };
        for report in &mut self.disks {
            let disk = seen.disks().iter().find(|disk| disk.name == report.disk);
            report.achieved = disk.map(|disk| disk.size);
            let guest = disk.and_then(|disk| disk.guest.known());
            if let Some((name, size)) = &mut report.filesystem
                && let Some(layer) = guest.and_then(|guest| guest.layers.iter().find_map(|l| l.find(name)))
            {
                *size = layer.size;
            }
        }
        for report in &mut self.settings {
            report.achieved = read(seen, &report.asked.name());
        }
    }

    /// Where the guest itself shows less than was asked for, whatever QEMU has plugged.
    fn lacks(&self, guest: &GuestSizes) -> Vec<String> {
        let Asked { memory, vcpus, .. } = self.asked;
        let memory = memory.zip(guest.online).filter(|(asked, online)| online < asked);
        let vcpus = vcpus.zip(guest.vcpus).filter(|(asked, online)| online < asked);
        let memory = memory.map(|(asked, online)| format!("the guest has {online} of {asked} in use"));
        memory
            .into_iter()
            .chain(vcpus.map(|(asked, online)| format!("the guest uses {online} of {asked} vCPUs")))
            .collect()
    }

    /// What every step had reached and is so no more.
    fn changed_since(&self, now: Sizes) -> Vec<String> {
        let Asked { memory, vcpus, .. } = self.asked;
        let memory = memory.filter(|asked| *asked != now.memory).map(|_| format!("memory is {}", now.memory));
        let vcpus =
            vcpus.filter(|asked| *asked != now.vcpus).map(|_| format!("there are {} vCPUs", now.vcpus));
        let disks = self.disks.iter().filter_map(|report| {
            let now = report.achieved.filter(|now| *now != report.asked)?;
            Some(format!("disk {} is at {now}", report.disk))
        });
        let settings = self.settings.iter().filter(|setting| !setting.is_reached()).map(|setting| {
            let now = setting.achieved.as_ref().map_or("not known".to_owned(), Setting::value);
            format!("{} is {now}", setting.asked.name())
        });
        let all = memory.into_iter().chain(vcpus).chain(disks).chain(settings);
        all.map(|what| format!("{what} now: something else has changed it meanwhile")).collect()
    }

    fn judge(&self, achieved: Sizes) -> Verdict {
        let Asked { memory, vcpus, .. } = self.asked;
        let reached = memory.is_none_or(|m| m == achieved.memory)
            && vcpus.is_none_or(|v| v == achieved.vcpus)
            && self.disks.iter().all(|disk| disk.achieved == Some(disk.asked))
            && self.settings.iter().all(SettingReport::is_reached);
        let grown = |disk: &DiskReport| disk.achieved.is_some_and(|now| now > disk.from);
        let closer = memory.is_some_and(|m| closer(m.get(), self.from.memory.get(), achieved.memory.get()))
            || vcpus.is_some_and(|v| closer(v.into(), self.from.vcpus.into(), achieved.vcpus.into()))
            || self.disks.iter().any(grown)
            || self.settings.iter().any(|setting| setting.is_reached() && !setting.was_reached());
        match (self.done && self.whole && reached, closer || reached && !self.whole) {
            (true, _) => Verdict::Proven,
            (false, true) => Verdict::Partial,
            (false, false) => Verdict::Failed,
        }
    }
}

/// A limit as it was observed.
fn read(seen: &Observed, name: &SettingName) -> Option<Setting> {
    seen.settings().into_iter().find(|setting| setting.name() == *name)
}

fn closer(asked: u64, from: u64, now: u64) -> bool {
    asked.abs_diff(now) < asked.abs_diff(from)
}

/// False where only QEMU is asked, by nature or because a later step of the group asks the guest.
fn involves_guest(step: &Step) -> bool {
    let by_nature =
        matches!(step.act, Act::CreateBackend { .. } | Act::DeleteBackend { .. } | Act::Set { .. });
    !by_nature && !matches!(step.proof, Proof::DimmPlugged { .. })
}
