//! A report and a machine's history on the wire.

use scale::history::{History as CoreHistory, OpenRun};
use scale::observed::{Pending as CorePending, PendingDevice};
use scale::report::{Report as CoreReport, StepReport};
use scale::run::Outcome;
use scale::units::Bytes;
use serde::Serialize;

use super::limits::{DiskReport, LimitReport};
use super::{Asked, Sizes};
use crate::words::rfc3339;

/// How one command ended.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// When it began to act.
    pub(crate) began: String,
    /// How long it took.
    pub(crate) took_ms: u64,
    /// The sizes before.
    pub(crate) from: Sizes,
    /// What was asked for.
    pub(crate) asked: Asked,
    /// The sizes after, as QEMU tells them; null where the machine could not be observed any more.
    pub(crate) achieved: Option<Sizes>,
    /// What the guest showed after.
    pub(crate) guest: GuestSizes,
    /// What became of each disk that was asked for.
    pub(crate) disks: Vec<DiskReport>,
    /// What became of each limit that was asked for.
    pub(crate) limits: Vec<LimitReport>,
    /// `proven`, `partial` or `failed`.
    pub(crate) verdict: String,
    /// The weakest proof among the steps that the guest has a part in: `guest-confirmed`, `driver-confirmed` or
    /// `device-only`; null where there was no such step.
    pub(crate) strength: Option<String>,
    /// Each act that was sent, in order.
    pub(crate) steps: Vec<Step>,
    /// What stood in the way.
    pub(crate) held_back: Vec<String>,
    /// What could not be taken back.
    pub(crate) left_behind: Vec<String>,
    /// Removals that the guest may still grant.
    pub(crate) pending: Vec<Pending>,
    /// Changes that the machine's definition in libvirt did not follow, from `apply` alone; null where it has none, and
    /// from records.
    pub(crate) not_followed: Option<Vec<String>>,
}

/// What the guest shows of itself; null where it does not say.
#[derive(Debug, Serialize)]
pub(crate) struct GuestSizes {
    /// Memory in online blocks.
    pub(crate) online_bytes: Option<u64>,
    /// MemTotal.
    pub(crate) mem_total_bytes: Option<u64>,
    /// vCPUs online.
    pub(crate) vcpus_online: Option<u32>,
}

impl From<scale::report::GuestSizes> for GuestSizes {
    fn from(sizes: scale::report::GuestSizes) -> GuestSizes {
        GuestSizes {
            online_bytes: sizes.online.map(Bytes::get),
            mem_total_bytes: sizes.total.map(Bytes::get),
            vcpus_online: sizes.vcpus,
        }
    }
}

/// One act that was sent.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// The act, as text.
    pub(crate) what: String,
    /// `proven`, `refused`, `overdue` or `lost`.
    pub(crate) outcome: &'static str,
    /// How strong the proof is; null unless proven.
    pub(crate) strength: Option<String>,
    /// From sending to proof; null unless proven.
    pub(crate) took_ms: Option<u64>,
    /// Why it is not proven; null where it is.
    pub(crate) why: Option<String>,
}

/// A removal that was asked of the guest and is neither done nor refused.
#[derive(Debug, Serialize)]
pub(crate) struct Pending {
    /// `dimm` or `vcpu`.
    pub(crate) kind: &'static str,
    /// The device.
    pub(crate) device: String,
    /// When the removal was asked.
    pub(crate) since: String,
}

/// What is on record of one machine.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    /// The run that has begun and not ended; null where there is none.
    pub(crate) open: Option<Open>,
    /// The last report; null where there is none.
    pub(crate) report: Option<Report>,
    /// Removals that the guest had neither done nor refused when last observed.
    pub(crate) pending: Vec<Pending>,
}

/// A run that has begun and not ended.
#[derive(Debug, Serialize)]
pub(crate) struct Open {
    /// When it began.
    pub(crate) began: String,
    /// What was asked for.
    pub(crate) asked: Asked,
    /// How many steps its plan has.
    pub(crate) steps: usize,
    /// How many of them are proven.
    pub(crate) proven: usize,
    /// The act that was sent, or about to be, and has not concluded; null between two acts.
    pub(crate) at: Option<String>,
    /// The process that carries it out now; null where it was interrupted.
    pub(crate) process: Option<u32>,
}

impl Open {
    /// An open run, and the process that is at it.
    pub(crate) fn of(open: &OpenRun, process: Option<u32>) -> Open {
        Open {
            began: rfc3339(open.began),
            asked: (&open.plan.asked).into(),
            steps: open.plan.steps.len(),
            proven: open.proven,
            at: open.sending.and_then(|place| place.act(&open.plan)).map(ToString::to_string),
            process,
        }
    }
}

impl History {
    /// A history, and the process that is at work on the machine.
    pub(crate) fn of(history: &CoreHistory, process: Option<u32>) -> History {
        History {
            open: history.open().map(|open| Open::of(open, process)),
            report: history.report().map(Report::from),
            pending: history.pending().iter().map(Pending::from).collect(),
        }
    }
}

impl From<&CoreReport> for Report {
    fn from(report: &CoreReport) -> Report {
        Report {
            began: rfc3339(report.began),
            took_ms: report.took.as_millis(),
            from: report.from.into(),
            asked: (&report.asked).into(),
            achieved: report.achieved.map(Sizes::from),
            guest: report.guest.into(),
            disks: report.disks.iter().map(DiskReport::from).collect(),
            limits: report.settings.iter().map(LimitReport::from).collect(),
            verdict: report.verdict.to_string(),
            strength: report.strength.map(|s| s.to_string()),
            steps: report.steps.iter().map(Step::from).collect(),
            held_back: report.held_back.clone(),
            left_behind: report.left_behind.clone(),
            pending: report.pending.iter().map(Pending::from).collect(),
            not_followed: None,
        }
    }
}

impl From<&StepReport> for Step {
    fn from(step: &StepReport) -> Step {
        let what = step.act.clone();
        let not = |outcome, why: &String| Step {
            what: step.act.clone(),
            outcome,
            strength: None,
            took_ms: None,
            why: Some(why.clone()),
        };
        match &step.outcome {
            Outcome::Proven { strength, took } => Step {
                what,
                outcome: "proven",
                strength: Some(strength.to_string()),
                took_ms: Some(took.as_millis()),
                why: None,
            },
            Outcome::Refused { why, .. } => not("refused", why),
            Outcome::Overdue { missing } => not("overdue", missing),
            Outcome::Lost { why } => not("lost", why),
        }
    }
}

impl From<&CorePending> for Pending {
    fn from(pending: &CorePending) -> Pending {
        let kind = match &pending.device {
            PendingDevice::Dimm { .. } => "dimm",
            PendingDevice::Vcpu { .. } => "vcpu",
        };
        Pending { kind, device: pending.device.id().to_owned(), since: rfc3339(pending.since) }
    }
}
