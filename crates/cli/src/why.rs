//! `supple why`: what is on record of a machine. It needs no connection to it, only its name in libvirt is looked up.

use jiff::tz::TimeZone;

use crate::address::Address;
use crate::args::Output;
use crate::failure::{DONE, Failure};
use crate::show::report::{Reader, history as show};
use crate::target::{history, holder, key, now};
use crate::{screen, wire};

/// Carries the command out; its exit status.
pub(crate) fn run(vm: &Address, output: &Output) -> Result<u8, Failure> {
    let key = key(vm)?;
    let history = history(&key)?;
    let process = holder(&key)?;
    if output.json {
        screen::say(&wire::Document::History(wire::report::History::of(&history, process)).render());
    } else {
        let reader = Reader { now: now(), zone: TimeZone::system(), room: screen::columns() };
        screen::say(&show(&history, &vm.to_string(), process, &reader));
    }
    Ok(DONE)
}
