//! The user's side of an `apply`: shows the plan, asks, and tells of progress. It decides nothing but what the user
//! decided.

use drive::resize::{Party, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use scale::observed::Observed;
use scale::plan::{Act, Plan};
use scale::report::StepReport;
use scale::run::{Outcome, Place};
use std::cell::Cell;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use crate::driver::Definition;
use crate::screen;
use crate::show::paragraph;
use crate::show::plan::{Purpose, plan};
use crate::show::report::step;
use crate::words::clean;

/// How much an `apply` says while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// Nothing.
    Silent,
    /// A line for each thing that happens.
    Lines,
    /// Such lines, and a bar below them.
    Bar,
}

/// How the user agrees to a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// By `--yes`.
    Given,
    /// By answering a question.
    Ask,
    /// Not at all: nobody is there to ask.
    Nobody,
}

impl Consent {
    /// What is had with or without `--yes`.
    pub(crate) fn of(yes: bool, json: bool) -> Consent {
        match (yes, screen::can_ask() && !json) {
            (true, _) => Consent::Given,
            (false, true) => Consent::Ask,
            (false, false) => Consent::Nobody,
        }
    }
}

/// What has happened so far, for those who must know when the resize ends without an answer.
#[derive(Debug, Default)]
pub(crate) struct Sofar {
    /// A run has begun: the machine may have changed.
    pub(crate) began: Cell<bool>,
    /// Wakes who waits for the beginning of a run.
    pub(crate) beginning: Notify,
}

/// Without a bar, a wait that lasts is told of after this time, and then after twice as long each time.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the bar's clock moves.
const TICK: Duration = Duration::from_millis(100);

/// The user's side of one `apply`.
#[derive(Debug)]
pub(crate) struct Talk<'a> {
    address: String,
    voice: Voice,
    consent: Consent,
    definition: Definition,
    sofar: &'a Sofar,
    shown: bool,
    plan: Option<Plan>,
    bar: ProgressBar,
    told: Instant,
    patience: Duration,
}

impl<'a> Talk<'a> {
    /// A talk about the machine at `address`.
    pub(crate) fn new(
        address: String,
        voice: Voice,
        consent: Consent,
        definition: Definition,
        sofar: &'a Sofar,
    ) -> Talk<'a> {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Talk {
            address,
            voice,
            consent,
            definition,
            sofar,
            shown: false,
            plan: None,
            bar,
            told: Instant::now(),
            patience: PATIENCE,
        }
    }

    /// Clears the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&mut self, to_run: &Plan, seen: &Observed) {
        let mut text = String::new();
        if self.shown {
            text.push_str("\nThe machine has changed meanwhile. The plan is now:\n\n");
        }
        self.shown = true;
        text.push_str(&plan(
            to_run,
            &seen.machine,
            &self.address,
            Purpose::Apply(self.definition),
            screen::columns(),
        ));
        text.push('\n');
        // Who is asked must see what about, wherever the output goes.
        if self.consent == Consent::Ask && !screen::is_terminal() {
            screen::warn(&text)
        } else {
            screen::say(&text)
        }
    }

    fn begin(&mut self, to_run: &Plan) {
        self.sofar.began.set(true);
        self.sofar.beginning.notify_one();
        if self.plan.is_some() {
            self.line("\nThe guest keeps that DIMM. Planned again without it:\n");
        }
        self.plan = Some(to_run.clone());
        if self.voice == Voice::Bar {
            self.bar.finish_and_clear();
            self.bar = ProgressBar::new(to_run.steps.len() as u64).with_style(style());
            self.bar.enable_steady_tick(TICK);
        }
        self.told = Instant::now();
    }

    fn sending(&mut self, place: Place, act: &Act) {
        (self.told, self.patience) = (Instant::now(), PATIENCE);
        self.bar.set_message(clean(&named(place, act)));
    }

    fn waiting(&mut self, place: Place, missing: &str) {
        let Some(act) = self.plan.as_ref().and_then(|plan| place.act(plan)) else { return };
        if missing.is_empty() {
            return;
        }
        if self.voice == Voice::Lines && self.told.elapsed() >= self.patience {
            (self.told, self.patience) = (Instant::now(), self.patience * 2);
            let text = format!("{}: {missing}", named(place, act));
            screen::say(&paragraph("  waiting          ", &text, screen::columns()));
        }
        // The bar has one line: what is missing tells more than the step's name, which stands in the plan above.
        self.bar.set_message(clean(missing));
    }

    fn concluded(&mut self, place: Place, outcome: &Outcome) {
        let Some(act) = self.plan.as_ref().and_then(|plan| place.act(plan)) else { return };
        let ended = StepReport { act: named(place, act), outcome: outcome.clone() };
        let line = step(&ended, screen::columns());
        if place.undo.is_none() {
            self.bar.inc(1);
        }
        self.line(&line);
    }

    fn line(&self, text: &str) {
        match self.voice {
            Voice::Silent => {}
            Voice::Lines => screen::say(text),
            Voice::Bar => self.bar.suspend(|| screen::say(text)),
        }
    }
}

impl Party for Talk<'_> {
    fn consents(&mut self, plan: &Plan, seen: &Observed) -> bool {
        if self.voice != Voice::Silent {
            self.show(plan, seen);
        }
        match self.consent {
            Consent::Given => true,
            Consent::Ask => screen::ask("Apply? [y/N] "),
            Consent::Nobody => false,
        }
    }

    fn told(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Began(plan) => self.begin(plan),
            Progress::Sending(place, act) => self.sending(place, act),
            Progress::Waiting(place, missing) => self.waiting(place, missing),
            Progress::Concluded(place, outcome) => self.concluded(place, outcome),
        }
    }
}

fn named(place: Place, act: &Act) -> String {
    if place.undo.is_some() { format!("taking back: {act}") } else { act.to_string() }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {pos}/{len} [{bar:20}] {elapsed} {wide_msg}")
        .expect("the template is a constant")
        .progress_chars("=> ")
        .tick_chars("|/-\\ ")
}
