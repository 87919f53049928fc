//! The user's side of a resize, as tests and measurements need it. It will not ask anybody.

use drive::resize::{Party, Progress};
use scale::observed::Observed;
use scale::plan::Plan;

/// One who agrees to everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Yes;

impl Party for Yes {
    fn consents(&mut self, _: &Plan, _: &Observed) -> bool {
        true
    }

    fn told(&mut self, _: Progress<'_>) {}
}
