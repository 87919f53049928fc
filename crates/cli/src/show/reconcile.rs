//! How a running machine and its definition have come apart, and what became of it.

use drive::libvirt::{Apart, Mend};

use crate::paint::{BAD, BOLD, GOOD, paint};
use crate::show::paragraph;
use crate::words::clean;

/// All differences, with what mends each.
pub(crate) fn apart(name: &str, apart: &Apart, room: usize) -> String {
    let Apart { mends, waits, by_hand } = apart;
    if mends.is_empty() && waits.is_empty() && by_hand.is_empty() {
        return paragraph("", &format!("The definition of {name} has what runs."), room);
    }
    let mut out = format!("{}\n", paint(BOLD, &clean(&format!("{name}: what runs and its definition"))));
    for mend in mends {
        out.push_str(&paragraph("  apart: ", &mend.drift.to_string(), room));
        out.push_str(&paragraph("         mend: ", &mend.what(), room));
    }
    for (drift, why) in by_hand {
        out.push_str(&paragraph("  apart: ", &drift.to_string(), room));
        out.push_str(&paragraph("         by hand: ", why, room));
    }
    waits
        .iter()
        .for_each(|drift| out.push_str(&paragraph("  waits for the next start: ", &drift.to_string(), room)));
    out.push('\n');
    out
}

/// What became of one mend.
pub(crate) fn outcome(mend: &Mend, why_not: Option<&str>, room: usize) -> String {
    match why_not {
        None => paragraph("  ok  ", &mend.what(), room).replacen("ok", &paint(GOOD, "ok"), 1),
        Some(why) => paragraph("  failed  ", &format!("{}: {why}", mend.what()), room).replacen(
            "failed",
            &paint(BAD, "failed"),
            1,
        ),
    }
}

/// The differences for `supple observe`, and what to do about them; nothing where there are none.
pub(crate) fn observed(vm: &str, apart: &Apart, room: usize) -> String {
    let Apart { mends, waits, by_hand } = apart;
    let mut out = String::new();
    let mendable = mends.iter().map(|mend| &mend.drift).chain(by_hand.iter().map(|(drift, _)| drift));
    for drift in mendable {
        out.push_str(&paragraph("definition: ", &drift.to_string(), room));
    }
    if !out.is_empty() {
        out.push_str(&paragraph("  ", &format!("`supple reconcile {vm}` makes it follow what runs."), room));
    }
    waits
        .iter()
        .for_each(|drift| out.push_str(&paragraph("from its next start on: ", &drift.to_string(), room)));
    out
}
