//! What `supple guest` prints.

use serde::Serialize;

/// The udev rule.
#[derive(Debug, Serialize)]
pub(crate) struct UdevRule {
    /// Where it belongs in the guest.
    pub(crate) path: &'static str,
    /// Its text.
    pub(crate) text: String,
}

/// What became of `supple guest setup`.
#[derive(Debug, Serialize)]
pub(crate) struct Setup {
    /// True where the rule is installed in the guest now.
    pub(crate) installed: bool,
    /// Where it belongs in the guest.
    pub(crate) path: &'static str,
    /// What was done, or why not.
    pub(crate) what: String,
    /// What to do by hand, line by line; empty where nothing is left to do.
    pub(crate) by_hand: Vec<String>,
}
