//! The support matrix on a terminal: what each system does with memory and vCPUs that come and go.

use scale::guests::{Can, ROWS, numbers, sources};

use crate::paint::{BAD, DIM, GOOD, PLAIN, WARN, paint};
use crate::show::paragraph;
use crate::table::{Cell, Column, Table};

const COLUMNS: [Column; 5] = [
    Column { title: "guest", wraps: true },
    Column { title: "DIMM", wraps: false },
    Column { title: "virtio-mem", wraps: false },
    Column { title: "vCPU", wraps: false },
    Column { title: "onlines", wraps: false },
];

const LEGEND: &str = "DIMM and vCPU: can be added / can be removed. onlines: who puts what is added to use, memory / vCPUs. ?: no \
                      source was found. The first row that is about a guest counts; `supple doctor <VM>` finds it, and \
                      asks the guest.";

/// The whole matrix in `room` columns.
pub(crate) fn guests(room: usize) -> String {
    let sources = sources();
    let mut table = Table::new(&COLUMNS);
    for row in ROWS {
        let (m, v) = (row.memory, row.vcpus);
        let online =
            if m.online == v.online { m.online.to_string() } else { format!("{} / {}", m.online, v.online) };
        table.row([
            Cell::from(row.title()),
            pair(m.add, m.remove),
            Cell::new(short(m.virtio_mem), style(m.virtio_mem)),
            pair(v.add, v.remove),
            Cell::from(online),
        ]);
    }
    let mut out = table.render(room);
    out.push('\n');
    out.push_str(&paragraph("", LEGEND, room));
    out.push_str("\nNotes [and sources]\n");
    for row in ROWS {
        let note = if row.note.is_empty() { String::new() } else { format!(": {}", row.note) };
        out.push_str(&paragraph("  ", &format!("{}{note} [{}]", row.title(), numbers(row, &sources)), room));
    }
    out.push_str("\nSources\n");
    for (at, source) in sources.iter().enumerate() {
        out.push_str(&paragraph(&format!("  {:>2}  ", at + 1), source.title, room));
        // Printed as it is, to be copied.
        out.push_str(&format!("      {}\n", paint(DIM, source.url)));
    }
    out
}

/// What comes and what goes, in the style of what comes.
fn pair(add: Can, remove: Can) -> Cell {
    let text =
        if add == remove { short(add).to_owned() } else { format!("{} / {}", short(add), short(remove)) };
    Cell::new(&text, style(add))
}

fn short(can: Can) -> &'static str {
    match can {
        Can::Yes | Can::Maybe | Can::No => can.word(),
        Can::Unknown => "?",
    }
}

fn style(can: Can) -> anstyle::Style {
    match can {
        Can::Yes => GOOD,
        Can::Maybe => WARN,
        Can::No => BAD,
        Can::Unknown => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::width;

    #[test]
    fn every_guest_and_source_is_told_and_fits_a_terminal() {
        let shown = crate::example::text(&guests(80));
        for row in ROWS {
            assert!(shown.contains(row.name.split(',').next().unwrap()), "{}", row.name);
        }
        for line in shown.lines().filter(|line| !line.contains("https://")) {
            assert!(width(line) <= 80, "{line}");
        }
        for source in sources() {
            assert!(shown.contains(source.url), "{}", source.url);
        }
    }
}
