//! A run: a plan in progress, as a state machine that is fed with facts and never acts by itself.
//!
//! ```text
//!             written()        replied()            saw(): holds
//!   Intend ------------> Send ------------> Watch/Look ---------------> Conclude --written()--> next step
//!     ^  (journal first)                     ^     |    saw(): not yet      |
//!     |                                      +-----+    heard(), deadline   | step broke: the group's undo,
//!     +---------------------------------------------------------------------+ in reverse, same stages; then End
//! ```
//!
//! [`Run::next`] says what to do; the runner does it and reports back by the method named in the arrow. An act is
//! never handed out before its intention is written. Every stage ends: by its answer or by the step's deadline.
//!
//! A group that breaks is taken back, with one exception: a removal that is asked of the guest has no cancel. One that
//! outlives its deadline is left as it is and stays pending; the journal remembers it ([`crate::history`]).

mod record;

pub use record::{End, Outcome, Place, Record};

use crate::observed::{Observed, Ost, VcpuState};
use crate::plan::{Act, Basis, Plan, Proof, Strength};
use crate::sight::{Event, Judgement, Look, Sight};
use crate::time::{Moment, Span};
use std::collections::BTreeSet;

/// What the runner is to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Write this down durably, then call [`Run::written`].
    Write(Record),
    /// Send this act, then call [`Run::replied`].
    Send {
        /// The act.
        act: Act,
        /// When to give up waiting for the answer.
        until: Moment,
    },
    /// Look, then call [`Run::saw`].
    Look(Look),
    /// Wait for an event, then call [`Run::heard`].
    Watch {
        /// When to stop waiting.
        until: Moment,
    },
    /// Nothing: the run is over.
    End(End),
}

/// The machine has changed since the plan was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the machine has changed since this plan was made; plan again")]
pub struct Stale;

/// A command's answer, as far as a run needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Accepted.
    Accepted,
    /// Refused, in these words.
    Refused(String),
    /// No answer: it may have happened.
    Unknown(String),
}

/// The least wait between two looks. Beyond it, a wait is at most [`LATE`] of the time that has passed since the act was
/// sent, so that no proof is noticed later than that; the number of looks grows with the logarithm of the time alone.
const LOOK_EVERY: Span = Span::millis(5);
const LOOK_EVERY_MAX: Span = Span::millis(250);
const LATE: u64 = 8;
/// The least wait where an event will tell.
const LOOK_BEHIND_EVENT: Span = Span::millis(100);

/// A plan in progress.
#[derive(Debug, Clone)]
pub struct Run {
    plan: Plan,
    outcomes: Vec<Option<Outcome>>,
    undo: Vec<Place>,
    broken: Option<Broken>,
    job: Option<Job>,
    end: Option<End>,
    now: Moment,
    /// Devices of which the guest's last word, when this run began, was that it keeps them.
    refused_before: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Broken {
    step: usize,
    why: String,
    pending: bool,
    left_behind: Vec<String>,
}

/// The act under way.
#[derive(Debug, Clone)]
struct Job {
    place: Place,
    act: Act,
    proof: Proof,
    /// What the plan counts on.
    strength: Strength,
    deadline: Span,
    stage: Stage,
    sent: Moment,
    wait: Span,
    looked: bool,
    acknowledged: bool,
    refused: Option<Outcome>,
    missing: String,
}

impl Job {
    /// What holds where time is up: QEMU's word, for a plugged DIMM of which the plan counts on no more.
    fn settled(&self, sight: &Sight) -> Option<Strength> {
        let Proof::DimmSeen { id } = &self.proof else { return None };
        match (Proof::DimmPlugged { id: id.clone() }).judge(sight, self.acknowledged) {
            Judgement::Holds(strength) if self.strength == Strength::DeviceOnly => Some(strength),
            Judgement::Holds(_) | Judgement::NotYet(_) | Judgement::Never(_) => None,
        }
    }

    /// True where the act was refused and yet there is something of the name that it was to make: somebody else made it.
    /// A vCPU is as good from anybody, and so is a DIMM of the same size that libvirt has made with its memory.
    fn is_anothers(&self, sight: &Sight) -> bool {
        let serves = match (&self.act, sight) {
            (Act::PlugDimm { brings: Some(size), .. }, Sight::Dimm(Some(dimm))) => dimm.device.size == *size,
            (Act::PlugDimm { .. } | Act::CreateBackend { .. }, _) => false,
            _whatever_made_it_so => true,
        };
        !serves && matches!(self.refused, Some(Outcome::Refused { by_guest: false, .. }))
    }
}

#[derive(Debug, Clone)]
enum Stage {
    Intend,
    Send,
    Look,
    Watch,
    Conclude(Outcome),
}

impl Run {
    /// Starts a run of `plan` on the machine as it was seen last.
    ///
    /// # Errors
    /// [`Stale`] where the machine is no longer as the plan saw it.
    pub fn start(plan: Plan, seen: &Observed, now: Moment) -> Result<Run, Stale> {
        if Basis::of(seen) != plan.basis {
            return Err(Stale);
        }
        let outcomes = vec![None; plan.steps.len()];
        let refused_before = refused_before(seen);
        let mut run =
            Run { plan, outcomes, undo: Vec::new(), broken: None, job: None, end: None, now, refused_before };
        run.take_up(0);
        Ok(run)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How each step ended, as far as it has.
    pub fn outcomes(&self) -> &[Option<Outcome>] {
        &self.outcomes
    }

    /// How the run ended, if it has.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// The act under way and what its proof still lacks.
    pub fn waiting_on(&self) -> Option<(Place, &str)> {
        self.job.as_ref().map(|job| (job.place, job.missing.as_str()))
    }

    /// True where the last act of the plan has just been sent, and was done before it was answered or is done by the guest
    /// itself: the look that is due will most likely be the last. A runner that is to report on the whole machine then may
    /// look at all of it at once.
    pub fn is_closing(&self) -> bool {
        let Some(Job { place, act, proof, stage: Stage::Look, looked: false, refused: None, .. }) = &self.job
        else {
            return false;
        };
        let last = place.undo.is_none() && place.step + 1 == self.plan.steps.len();
        let is_done = matches!(
            (act, proof.look(true)),
            (Act::OnlineBlocks { .. } | Act::AwaitOnline { .. }, Look::Blocks(_))
                | (Act::OnlineVcpus { .. }, Look::Vcpus)
                | (Act::Set { .. }, Look::Setting(_))
                | (Act::GrowDisk { .. } | Act::GrowInGuest { .. }, Look::Disk(_))
        );
        last && is_done
    }

    /// What to do now. Asking twice without an answer in between gives the same.
    pub fn next(&self, now: Moment) -> Next {
        let Some(job) = &self.job else {
            let end = self.end.clone().expect("a run without a job has ended");
            return Next::End(end);
        };
        let due = job.sent + job.deadline;
        match &job.stage {
            Stage::Intend => {
                let refused_before = job.act.removed().is_some_and(|id| self.refused_before.contains(id));
                Next::Write(Record::Sending { at: now, place: job.place, refused_before })
            }
            Stage::Send => Next::Send { act: job.act.clone(), until: now + job.deadline },
            Stage::Look => Next::Look(job.proof.look(job.strength == Strength::GuestConfirmed)),
            Stage::Watch => Next::Watch { until: due.min(now + job.wait) },
            Stage::Conclude(outcome) => {
                Next::Write(Record::Concluded { at: now, place: job.place, outcome: outcome.clone() })
            }
        }
    }

    /// The record from [`Next::Write`] is durable.
    pub fn written(&mut self, now: Moment) {
        self.now = now;
        let Some(job) = &mut self.job else { return };
        match &job.stage {
            Stage::Intend => {
                job.stage = Stage::Send;
                job.sent = now;
            }
            Stage::Conclude(outcome) => {
                let outcome = outcome.clone();
                self.conclude(outcome);
            }
            Stage::Send | Stage::Look | Stage::Watch => {}
        }
    }

    /// The act from [`Next::Send`] was answered.
    pub fn replied(&mut self, now: Moment, reply: Reply) {
        self.now = now;
        let Some(job) = &mut self.job else { return };
        // A refusal is looked into as well: what was to be done may be so already.
        job.stage = Stage::Look;
        match reply {
            Reply::Accepted if job.act.is_announced() => {
                job.stage = Stage::Watch;
                job.wait = LOOK_BEHIND_EVENT;
            }
            Reply::Accepted => {}
            Reply::Refused(why) => job.refused = Some(Outcome::Refused { why, by_guest: false }),
            Reply::Unknown(why) => job.missing = why,
        }
    }

    /// What the look from [`Next::Look`] showed, or why it failed.
    pub fn saw(&mut self, now: Moment, sight: Result<&Sight, &str>) {
        self.now = now;
        let Some(job) = &mut self.job else { return };
        job.looked = true;
        match sight.map(|sight| job.proof.judge(sight, job.acknowledged)) {
            Ok(Judgement::Holds(strength)) if !sight.is_ok_and(|sight| job.is_anothers(sight)) => {
                let took = now.since(job.sent);
                job.stage = Stage::Conclude(Outcome::Proven { strength, took });
                return;
            }
            Ok(Judgement::Never(why)) => {
                let refused = Outcome::Refused { why, by_guest: true };
                job.stage = Stage::Conclude(job.refused.take().unwrap_or(refused));
                return;
            }
            // Refused, and there all the same: the refusal stands.
            Ok(Judgement::Holds(_)) => {}
            Ok(Judgement::NotYet(missing)) => job.missing = missing,
            Err(why) => job.missing = why.to_owned(),
        }
        if let Some(refused) = job.refused.take() {
            job.stage = Stage::Conclude(refused);
        } else if now >= job.sent + job.deadline {
            let took = now.since(job.sent);
            job.stage = Stage::Conclude(match sight.ok().and_then(|sight| job.settled(sight)) {
                Some(strength) => Outcome::Proven { strength, took },
                None => Outcome::Overdue { missing: job.missing.clone() },
            });
        } else {
            job.stage = Stage::Watch;
        }
    }

    /// The event that ended the wait from [`Next::Watch`], or nothing where the time ran out.
    pub fn heard(&mut self, now: Moment, event: Option<&Event>) {
        self.now = now;
        let Some(job) = &mut self.job else { return };
        match event {
            Some(Event::Gone { why }) => {
                job.stage = Stage::Conclude(Outcome::Lost { why: why.clone() });
                return;
            }
            Some(event) => {
                if let Some(why) = event.refuses(&job.act) {
                    job.refused = Some(Outcome::Refused { why, by_guest: true });
                }
                if let Act::PlugDimm { id, .. } | Act::PlugVcpu { id, .. } = &job.act {
                    job.acknowledged |= event.acknowledges(id);
                }
            }
            None => job.wait = LOOK_EVERY_MAX.min(job.wait.max(now.since(job.sent).per(LATE))),
        }
        job.stage = Stage::Look;
    }

    /// An act has ended and that is written down: what comes next.
    fn conclude(&mut self, outcome: Outcome) {
        let job = self.job.take().expect("only a job concludes");
        let step = job.place.step;
        if job.place.undo.is_none() {
            self.outcomes[step] = Some(outcome.clone());
        }
        let pending = job.act.has_no_cancel() && matches!(outcome, Outcome::Overdue { .. });
        let never_was = job.act.makes() && matches!(outcome, Outcome::Refused { by_guest: false, .. });
        let why = match outcome {
            Outcome::Lost { why } => {
                self.end = Some(End::Lost { step, why });
                return;
            }
            Outcome::Proven { .. } if job.place.undo.is_some() => return self.take_up_undo(),
            Outcome::Proven { .. } => return self.take_up(step + 1),
            Outcome::Refused { why, .. } => why,
            Outcome::Overdue { missing } => format!("{missing} after {}", job.deadline),
        };
        match &mut self.broken {
            // The undo itself broke: what it leaves is named, and nothing more is tried on this group.
            Some(broken) => {
                broken.left_behind.push(format!("{}: {why}", job.act));
                broken.pending |= pending;
                self.undo.clear();
            }
            None => {
                self.broken = Some(Broken { step, why, pending, left_behind: Vec::new() });
                if !pending {
                    self.undo = self.undo_of_group(step, never_was);
                }
            }
        }
        self.take_up_undo();
    }

    /// The undo of the group that `step` broke: its own first, unless what it was to make never was, then that of the
    /// group's earlier steps, newest first. Kept in reverse, so that the next one is at the end.
    fn undo_of_group(&self, step: usize, never_was: bool) -> Vec<Place> {
        let group = self.plan.steps[step].group;
        let mut places = Vec::new();
        let last = if never_was { step } else { step + 1 };
        for index in (0..last).rev().take_while(|i| self.plan.steps[*i].group == group) {
            places.extend(
                (0..self.plan.steps[index].undo.len()).map(|nth| Place { step: index, undo: Some(nth) }),
            );
        }
        places.reverse();
        places
    }

    fn take_up(&mut self, step: usize) {
        if step < self.plan.steps.len() {
            let step_ref = &self.plan.steps[step];
            let (act, proof) = (step_ref.act.clone(), step_ref.proof.clone());
            self.job = Some(self.job_for(Place { step, undo: None }, act, proof));
        } else {
            self.end = Some(End::Done);
        }
    }

    fn take_up_undo(&mut self) {
        while let Some(place) = self.undo.pop() {
            let act = place.act(&self.plan).expect("undo places come from the plan").clone();
            let Some(proof) = act.own_proof() else { continue };
            self.job = Some(self.job_for(place, act, proof));
            return;
        }
        let broken = self.broken.take().expect("undo follows a break");
        self.end = Some(End::Broken {
            step: broken.step,
            why: broken.why,
            pending: broken.pending,
            left_behind: broken.left_behind,
        });
    }

    fn job_for(&self, place: Place, act: Act, proof: Proof) -> Job {
        let step = &self.plan.steps[place.step];
        Job {
            place,
            act,
            proof,
            strength: step.strength,
            deadline: step.deadline,
            stage: Stage::Intend,
            sent: self.now,
            wait: LOOK_EVERY,
            looked: false,
            acknowledged: false,
            refused: None,
            missing: String::new(),
        }
    }
}

fn refused_before(seen: &Observed) -> BTreeSet<String> {
    let refused = |ost: Option<Ost>| ost.is_some_and(|ost| ost.refusal().is_some());
    let dimms = seen.memory.dimms.iter().filter(|d| refused(d.ost)).map(|d| d.id.clone());
    let vcpus = seen.vcpus.slots.iter().filter(|s| refused(s.ost)).filter_map(|s| match &s.state {
        VcpuState::Device(id) => Some(id.clone()),
        VcpuState::Free | VcpuState::Boot | VcpuState::Barred(_) => None,
    });
    dimms.chain(vcpus).collect()
}
