//! `cargo xtask guest`: a lab guest for a person to try things on, of plain QEMU or of a libvirt of its own.

use crate::run::{Failed, build};
use crate::setup::setup;

pub(crate) fn guest() -> Result<(), Failed> {
    build("dev")?.lab(&["run"])
}

/// It needs a libvirt, so that all is fetched and installed that the tests need too.
pub(crate) fn of_libvirt() -> Result<(), Failed> {
    setup("dev")?.lab(&["run", "libvirt"])
}
