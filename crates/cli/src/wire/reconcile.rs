//! What `supple reconcile` prints.

use super::report;
use serde::Serialize;

/// What became of `supple reconcile`.
#[derive(Debug, Serialize)]
pub(crate) struct Reconciled {
    /// What became of the definition; nothing where there is none.
    pub(crate) definition: Option<Definition>,
    /// What became of the guest.
    pub(crate) report: report::Report,
}

/// How a definition was made to follow the running machine.
#[derive(Debug, Serialize)]
pub(crate) struct Definition {
    /// What could be mended.
    pub(crate) mended: Vec<Mended>,
    /// What the next start brings.
    pub(crate) waits: Vec<String>,
    /// What is left to a person, with the reason.
    pub(crate) by_hand: Vec<String>,
}

/// One difference.
#[derive(Debug, Serialize)]
pub(crate) struct Mended {
    /// The difference.
    pub(crate) what: String,
    /// What was done about it.
    pub(crate) mend: String,
    /// Why it was not mended; nothing where it was.
    pub(crate) why_not: Option<String>,
}
