//! The life of one resize: observe, plan, audit, consent, run, observe again, report.
//!
//! The same for every driver and every journal. It decides nothing that `scale` can decide: the loop below carries
//! facts to the run and acts to the driver. Where the guest refuses to let a DIMM go, what is left is planned again
//! without that DIMM, a bounded number of times.

use crate::hypervisor::{ApplyError, Hypervisor, ObserveError};
use crate::journal::{Journal, JournalError};
use scale::audit::{Finding, audit};
use scale::limits::Limits;
use scale::observed::{Observed, PendingDevice};
use scale::plan::{Act, Asked, Basis, Plan, Refusal, plan_around, settled};
use scale::report::{Account, Report};
use scale::run::{End, Next, Outcome, Place, Record, Reply, Run};
use scale::sight::{Event, Look, Sight};
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;

/// Plans made for one command at most: the first, and one more for each DIMM that the guest keeps.
const ROUNDS: usize = 64;
/// So many events are dropped before an act is sent; no driver queues more.
const EARLIER_EVENTS: usize = 4096;
/// A plan older than this is checked against the machine again before it runs.
const FRESH: Span = Span::secs(1);

/// What happens, as it happens, for a progress display.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A run of this plan begins.
    Began(&'a Plan),
    /// This act is being sent.
    Sending(Place, &'a Act),
    /// Its proof still lacks this.
    Waiting(Place, &'a str),
    /// It ended.
    Concluded(Place, &'a Outcome),
}

/// The user's side of a resize.
pub trait Party {
    /// Whether this plan may run. Asked once, and again only if the machine changes before it runs.
    fn consents(&mut self, plan: &Plan, seen: &Observed) -> bool;

    /// Told of progress.
    fn told(&mut self, progress: Progress<'_>);
}

/// Why nothing was done, or why nothing more is known.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// There is no plan. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The user said no. Nothing was changed.
    #[error("not confirmed; nothing was changed")]
    Declined,
    /// A step from the present size, while an interrupted run had changed it already. Nothing was changed.
    #[error(
        "an earlier run was interrupted on its way to {aimed}, so a step from the present size could add twice; \
         name the size itself: {way_out}"
    )]
    StepAfterInterruption {
        /// Where the interrupted run was going.
        aimed: String,
        /// The options to give.
        way_out: String,
    },
    /// The machine keeps changing under the plan. Nothing was changed.
    #[error(
        "the machine keeps changing while it is planned for; find out what else resizes it, then try again"
    )]
    Unsteady,
    /// The machine cannot be observed. Before a run nothing was changed; within one, `supple why` tells how far it was.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The journal cannot be written. No act was sent after that.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The plan breaks a rule of its own: a fault in Supple. Nothing was changed.
    #[error("this plan breaks a rule and is not run: {}; please report it", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unsound(Vec<Finding>),
}

/// What the machine shows, with what the journal knows of it besides.
pub async fn observe(
    hypervisor: &mut impl Hypervisor,
    journal: &scale::history::History,
) -> Result<Observed, ObserveError> {
    let seen = hypervisor.observe().await?;
    Ok(journal.added_to(seen))
}

/// What the machine shows of all that `wanted` is about, with what the journal knows of it besides.
///
/// # Errors
/// It cannot be observed.
pub async fn observe_for(
    hypervisor: &mut impl Hypervisor,
    journal: &scale::history::History,
    wanted: &Wanted,
) -> Result<Observed, ObserveError> {
    let scope = wanted.scope();
    hypervisor.attend(scope);
    let seen = observe(hypervisor, journal).await?;
    let wider = wanted.wider(scope, &seen);
    if wider == scope {
        return Ok(seen);
    }
    hypervisor.attend(wider);
    observe(hypervisor, journal).await
}

/// Resizes one machine as wanted and proves it.
///
/// # Errors
/// [`ResizeError`]; a run that broke midway is no error but a [`Report`] that says so.
pub async fn resize(
    hypervisor: &mut impl Hypervisor,
    journal: &mut impl Journal,
    mut wanted: Wanted,
    limits: &Limits,
    party: &mut impl Party,
) -> Result<Report, ResizeError> {
    refuse_step_after_interruption(journal, &wanted)?;
    let mut seen = observe_for(hypervisor, journal.history(), &wanted).await?;
    let first = agree(hypervisor, journal, &wanted, limits, party, &mut seen).await?;
    let mut account = Account::open(hypervisor.now(), &seen, first.asked.clone());
    reconcile(hypervisor, journal, &seen, &mut account, limits).await?;
    account.note_unmet(&first.unmet);
    wanted = settled(&wanted, &seen, &first.asked);

    let mut next = Some(first);
    for _ in 0..ROUNDS {
        let Some(plan) = next.take().filter(|plan| !plan.steps.is_empty()) else { break };
        let Ok(run) = Run::start(plan, &seen, hypervisor.now()) else {
            account.note_held_back("the machine changed before the next plan could run".to_owned());
            break;
        };
        let (run, last) = carry_out(hypervisor, journal, &wanted, run, &mut account, party).await?;
        account.add(&run);
        seen = match last {
            Some(last) => journal.history().added_to(last),
            None => match observe(hypervisor, journal.history()).await {
                Ok(now) => now,
                Err(error) => return finish(hypervisor, journal, account, Err(error.to_string())),
            },
        };
        let Some(refused) = refused_dimm(&run) else { break };
        wanted.keep.push(refused);
        match sound_plan(&seen, &wanted, limits) {
            Ok(plan) => next = Some(plan),
            Err(ResizeError::Refused(refusal)) => account.note_held_back(refusal.to_string()),
            Err(other) => return Err(other),
        }
    }
    finish(hypervisor, journal, account, Ok(&seen))
}

fn finish(
    hypervisor: &impl Hypervisor,
    journal: &mut impl Journal,
    account: Account,
    seen: Result<&Observed, String>,
) -> Result<Report, ResizeError> {
    let report = account.close(hypervisor.now(), seen);
    journal.append(&Record::Reported { report: Box::new(report.clone()) })?;
    Ok(report)
}

/// A plan that is audited, consented to and made for the machine as it is now.
async fn agree(
    hypervisor: &mut impl Hypervisor,
    journal: &impl Journal,
    wanted: &Wanted,
    limits: &Limits,
    party: &mut impl Party,
    seen: &mut Observed,
) -> Result<Plan, ResizeError> {
    for _ in 0..3 {
        let plan = sound_plan(seen, wanted, limits)?;
        if plan.steps.is_empty() {
            return Ok(plan);
        }
        if !party.consents(&plan, seen) {
            return Err(ResizeError::Declined);
        }
        if hypervisor.now().since(seen.at) > FRESH {
            *seen = observe(hypervisor, journal.history()).await?;
        }
        if Basis::of(seen) == plan.basis {
            return Ok(plan);
        }
    }
    Err(ResizeError::Unsteady)
}

fn sound_plan(seen: &Observed, wanted: &Wanted, limits: &Limits) -> Result<Plan, ResizeError> {
    let plan = plan_around(seen, wanted, limits)?;
    let findings = audit(&plan, seen, limits);
    if findings.is_empty() { Ok(plan) } else { Err(ResizeError::Unsound(findings)) }
}

fn refuse_step_after_interruption(journal: &impl Journal, wanted: &Wanted) -> Result<(), ResizeError> {
    let Some(open) = journal.history().open() else { return Ok(()) };
    let Asked { memory, vcpus, disks, settings: _ } = &open.plan.asked;
    let is_step = |change: Option<Change<Bytes>>| matches!(change, Some(Change::Grow(_) | Change::Shrink(_)));
    let counts = matches!(wanted.vcpus, Some(Change::Grow(_) | Change::Shrink(_)));
    let grows = wanted.disks.values().any(|disk| is_step(disk.size));
    if !(is_step(wanted.memory) && memory.is_some()
        || counts && vcpus.is_some()
        || grows && !disks.is_empty())
    {
        return Ok(());
    }
    let mut aimed: Vec<String> = memory.iter().map(ToString::to_string).collect();
    aimed.extend(vcpus.map(|v| format!("{v} vCPUs")));
    aimed.extend(disks.iter().map(|(disk, size)| format!("{size} on {disk}")));
    let word = |size: &Bytes| size.to_string().replace(' ', "");
    let mut way_out: Vec<String> = memory.iter().map(|m| format!("--memory {}", word(m))).collect();
    way_out.extend(vcpus.map(|v| format!("--vcpus {v}")));
    way_out.extend(disks.iter().map(|(disk, size)| format!("--disk {disk}={}", word(size))));
    Err(ResizeError::StepAfterInterruption { aimed: aimed.join(" and "), way_out: way_out.join(" ") })
}

/// Closes what earlier controllers left in the journal, by what the machine shows.
async fn reconcile(
    hypervisor: &mut impl Hypervisor,
    journal: &mut impl Journal,
    seen: &Observed,
    account: &mut Account,
    limits: &Limits,
) -> Result<(), ResizeError> {
    journal.history().remarks().iter().for_each(|remark| account.remark(remark.clone()));
    if let Some(open) = journal.history().open().cloned() {
        account.note_interrupted(&open);
        // Of what may have been sent, a removal is pending until it is settled below.
        let sent = open.sending.and_then(|place| place.act(&open.plan));
        if let Some(Act::ResizeVirtioMem { id, .. } | Act::SettleVirtioMem { id }) = sent {
            hypervisor.follow(id).await;
        }
        journal.append(&Record::Ended { at: hypervisor.now(), end: End::Interrupted })?;
    }
    for (device, how) in journal.history().settled(seen) {
        if let PendingDevice::Dimm { memdev, .. } = &device
            && seen.memory.unused_backends.iter().any(|b| b.id == *memdev)
            && !memdev.starts_with(scale::plan::OWN_PREFIX)
        {
            // Not one of Supple's making, so no plan would clean it up: this finishes the removal it belonged to.
            let act = Act::DeleteBackend { memdev: memdev.clone() };
            let until = hypervisor.now() + limits.monitor;
            if let Err(error) = hypervisor.apply(&act, until).await {
                account.note_held_back(format!("{act}: {error}"));
            }
        }
        let id = device.id().to_owned();
        hypervisor.follow(&id).await;
        journal.append(&Record::Settled { at: hypervisor.now(), device: id, how })?;
    }
    Ok(())
}

/// Carries a run through to its end. Where its last proof was found in an observation of everything, that comes along:
/// nothing was done since.
async fn carry_out(
    hypervisor: &mut impl Hypervisor,
    journal: &mut impl Journal,
    wanted: &Wanted,
    mut run: Run,
    account: &mut Account,
    party: &mut impl Party,
) -> Result<(Run, Option<Observed>), ResizeError> {
    let mut last = None;
    let plan = Box::new(run.plan().clone());
    journal.append(&Record::Began { at: hypervisor.now(), wanted: wanted.clone(), plan: plan.clone() })?;
    party.told(Progress::Began(&plan));
    loop {
        let now = hypervisor.now();
        match run.next(now) {
            Next::Write(record) => {
                journal.append(&record)?;
                tell(party, &plan, &record);
                run.written(hypervisor.now());
            }
            Next::Send { act, .. } if act.is_announced() && gone_before(hypervisor, &mut run).await => {}
            Next::Send { act, until } => {
                let reply = match hypervisor.apply(&act, until).await {
                    Ok(()) => Reply::Accepted,
                    Err(ApplyError::Refused(why)) => Reply::Refused(why),
                    Err(ApplyError::Unknown(why)) => Reply::Unknown(why),
                };
                for remark in hypervisor.remarks() {
                    journal.append(&Record::Remarked { at: hypervisor.now(), remark: remark.clone() })?;
                    account.remark(remark);
                }
                run.replied(hypervisor.now(), reply);
            }
            Next::Look(look) => {
                let sight = match run.is_closing() {
                    true => look_at_all(hypervisor, &look, &mut last).await,
                    false => {
                        last = None;
                        hypervisor.look(&look).await
                    }
                };
                let sight = sight.map_err(|error| error.to_string());
                run.saw(hypervisor.now(), sight.as_ref().map_err(String::as_str));
                if let Some((place, missing)) = run.waiting_on() {
                    party.told(Progress::Waiting(place, missing));
                }
            }
            Next::Watch { until } => {
                let event = hypervisor.watch(until).await;
                run.heard(hypervisor.now(), event.as_ref());
            }
            Next::End(end) => {
                let last = last.filter(|_| end == End::Done);
                journal.append(&Record::Ended { at: hypervisor.now(), end })?;
                return Ok((run, last));
            }
        }
    }
}

/// Looks at everything in place of what is asked, which saves the observation after it.
async fn look_at_all(
    hypervisor: &mut impl Hypervisor,
    look: &Look,
    last: &mut Option<Observed>,
) -> Result<Sight, ObserveError> {
    let seen = hypervisor.observe().await?;
    match look.answered_by(&seen) {
        Some(sight) => {
            *last = Some(seen);
            Ok(sight)
        }
        None => hypervisor.look(look).await,
    }
}

/// Drops what was told before an act is sent, which is never the answer to it: a guest's refusal of an earlier removal
/// would end the next one. True where that was the end of the machine.
async fn gone_before(hypervisor: &mut impl Hypervisor, run: &mut Run) -> bool {
    for _ in 0..EARLIER_EVENTS {
        match hypervisor.watch(hypervisor.now()).await {
            None => return false,
            Some(event @ Event::Gone { .. }) => {
                run.heard(hypervisor.now(), Some(&event));
                return true;
            }
            Some(_) => {}
        }
    }
    false
}

fn tell(party: &mut impl Party, plan: &Plan, record: &Record) {
    match record {
        Record::Sending { place, .. } => {
            let act = place.act(plan).expect("a run's places are in its plan");
            party.told(Progress::Sending(*place, act));
        }
        Record::Concluded { place, outcome, .. } => party.told(Progress::Concluded(*place, outcome)),
        Record::Began { .. }
        | Record::Ended { .. }
        | Record::Settled { .. }
        | Record::Filled { .. }
        | Record::Remarked { .. }
        | Record::Reported { .. } => {}
    }
}

/// The DIMM whose removal broke the run, if the guest refused it and another may be tried in its place. A removal
/// that is still pending is not replaced: both might come true.
fn refused_dimm(run: &Run) -> Option<String> {
    let Some(End::Broken { step, pending: false, .. }) = run.end() else { return None };
    match &run.plan().steps[*step].act {
        Act::OfflineBlocks { device } => Some(device.clone()),
        Act::UnplugDimm { id, .. } => Some(id.clone()),
        Act::CreateBackend { .. }
        | Act::DeleteBackend { .. }
        | Act::PlugDimm { .. }
        | Act::MakeKnown { .. }
        | Act::OnlineBlocks { .. }
        | Act::ResizeVirtioMem { .. }
        | Act::SettleVirtioMem { .. }
        | Act::SetBalloon { .. }
        | Act::PlugVcpu { .. }
        | Act::UnplugVcpu { .. }
        | Act::AwaitOnline { .. }
        | Act::OnlineVcpus { .. }
        | Act::Set { .. }
        | Act::GrowDisk { .. }
        | Act::GrowInGuest { .. } => None,
    }
}
