//! What is written down of a run: its entries in the journal, and how acts and runs end.

use crate::plan::{Act, Plan, Strength};
use crate::time::{Moment, Span};
use crate::wanted::Wanted;
use serde::{Deserialize, Serialize};

/// One entry of a machine's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A run begins.
    Began {
        /// When.
        at: Moment,
        /// What was asked for.
        wanted: Wanted,
        /// What will be done.
        plan: Box<Plan>,
    },
    /// An act is about to be sent.
    Sending {
        /// When.
        at: Moment,
        /// Which act.
        place: Place,
        /// True for a removal whose device the guest has refused before: QEMU keeps that word until the next one, and it
        /// is no answer to this request.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refused_before: bool,
    },
    /// An act came to its end.
    Concluded {
        /// When.
        at: Moment,
        /// Which act.
        place: Place,
        /// How.
        outcome: Outcome,
    },
    /// An act was done otherwise than one might think.
    Remarked {
        /// When.
        at: Moment,
        /// How, for people.
        remark: String,
    },
    /// The run ended.
    Ended {
        /// When.
        at: Moment,
        /// How.
        end: End,
    },
    /// A pending removal came to its end after its run.
    Settled {
        /// When that was noticed.
        at: Moment,
        /// The device.
        device: String,
        /// How it ended.
        how: String,
    },
    /// How often places for vCPUs were filled by runs that the journal no longer holds.
    Filled {
        /// In which QEMU's life.
        life: crate::observed::Life,
        /// Which places, and how often.
        filled: Vec<crate::observed::Filled>,
    },
    /// What was reported to the user at the end of a command.
    Reported {
        /// The report.
        report: Box<crate::report::Report>,
    },
}

/// Which act of a plan: a step's own, or one of its undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    /// Index of the step.
    pub step: usize,
    /// Index in the step's undo; absent for the step's own act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<usize>,
}

impl Place {
    /// The act at this place, if the plan has it.
    pub fn act(self, plan: &Plan) -> Option<&Act> {
        let step = plan.steps.get(self.step)?;
        match self.undo {
            None => Some(&step.act),
            Some(nth) => step.undo.get(nth),
        }
    }
}

/// How an act ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The proof holds.
    Proven {
        /// How strong it is.
        strength: Strength,
        /// From sending to proof.
        took: Span,
    },
    /// QEMU or the guest said no.
    Refused {
        /// In whose words.
        why: String,
        /// True where the guest itself has answered, not QEMU's monitor.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_guest: bool,
    },
    /// The deadline passed without a proof.
    Overdue {
        /// What is missing.
        missing: String,
    },
    /// The machine is gone.
    Lost {
        /// How that showed.
        why: String,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    /// Every step is proven.
    Done,
    /// A step broke. Whole groups before it stand; its own group was taken back, but for what is left behind.
    Broken {
        /// Which step.
        step: usize,
        /// Why, for people.
        why: String,
        /// True where the removal is still asked of the guest, which may yet grant it.
        pending: bool,
        /// What could not be taken back.
        left_behind: Vec<String>,
    },
    /// The program that ran it went away in the middle; what it left was taken up by a later plan.
    Interrupted,
    /// The machine went away in the middle.
    Lost {
        /// Which step.
        step: usize,
        /// How that showed.
        why: String,
    },
}
