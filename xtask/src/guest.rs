//! `cargo xtask guest`: a lab guest for a person to try things on.

use crate::run::{Failed, build};

pub(crate) fn guest() -> Result<(), Failed> {
    build("dev")?.lab(&["run"])
}
