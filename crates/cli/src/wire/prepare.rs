//! What `supple prepare --json` prints.

use serde::Serialize;

use crate::prepare::{Outcome, Told};

/// A preparation.
#[derive(Debug, Serialize)]
pub(crate) struct Prepared {
    name: String,
    /// `already`, `shown`, `defined`, `otherwise`, `taken-back`.
    outcome: &'static str,
    runs: bool,
    diff: String,
    changes: Vec<String>,
    notes: Vec<String>,
    tried: Option<bool>,
}

impl From<&Told> for Prepared {
    fn from(told: &Told) -> Prepared {
        Prepared {
            name: told.name.clone(),
            outcome: match told.outcome {
                Outcome::Already => "already",
                Outcome::Shown => "shown",
                Outcome::Defined => "defined",
                Outcome::Otherwise => "otherwise",
                Outcome::TakenBack => "taken-back",
            },
            runs: told.runs,
            diff: told.diff.clone(),
            changes: told.changes.clone(),
            notes: told.notes.clone(),
            tried: told.tried,
        }
    }
}
