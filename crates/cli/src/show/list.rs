//! Machines at a glance: one row for each.

use drive::domxml::Room;

use crate::list::Entry;
use crate::paint::{BOLD, DIM, GOOD, PLAIN, WARN};
use crate::show::{aside, paragraph};
use crate::table::{Cell, Column, Table};
use crate::words::{about, clean, count};

const COLUMNS: [Column; 7] = [
    Column { title: "name", wraps: true },
    Column { title: "state", wraps: false },
    Column { title: "memory", wraps: false },
    Column { title: "ceiling", wraps: false },
    Column { title: "vCPUs", wraps: false },
    Column { title: "max", wraps: false },
    Column { title: "can change now", wraps: true },
];

/// All machines at `uri` in `room` columns.
pub(crate) fn list(uri: &str, entries: &[Entry], room: usize) -> String {
    if entries.is_empty() {
        let text = format!(
            "There is no machine at {uri}. Others may be at another URI: --connect qemu:///system shows the host's, \
             --connect qemu:///session your own."
        );
        return paragraph("", &text, room);
    }
    let mut table = Table::new(&COLUMNS);
    for entry in entries {
        table.row(row(entry));
    }
    let running = entries.iter().filter(|entry| entry.runs).count();
    let mut out = table.render(room);
    out.push('\n');
    out.push_str(&aside(
        "",
        &format!("{} at {uri}, {running} running.", count(entries.len() as u64, "machine")),
        room,
    ));
    if entries.iter().any(|entry| entry.runs && entry.room.as_ref().is_ok_and(is_fixed)) {
        let text = "`supple prepare` gives a machine room from its next start on.";
        out.push_str(&aside("", text, room));
    }
    out
}

fn row(entry: &Entry) -> [Cell; 7] {
    let style = match (entry.runs, entry.state.as_str()) {
        (true, "running") => GOOD,
        (true, _) | (false, "crashed") => WARN,
        (false, _) => DIM,
    };
    let name = Cell::new(&entry.name, if entry.runs { BOLD } else { PLAIN });
    let state = Cell::new(&entry.state, style);
    match &entry.room {
        Ok(room) => [
            name,
            state,
            about(room.memory).into(),
            about(room.most_memory).into(),
            room.vcpus.to_string().into(),
            room.most_vcpus.to_string().into(),
            if entry.runs { Cell::new(&changes(room), PLAIN) } else { Cell::new("only its definition", DIM) },
        ],
        Err(why) => {
            let empty = || Cell::from("");
            [name, state, empty(), empty(), empty(), empty(), Cell::new(&clean(why), WARN)]
        }
    }
}

fn is_fixed(room: &Room) -> bool {
    !room.memory_moves() && !room.vcpus_move()
}

/// `memory 512 MiB to 8 GiB (16 slots free), vCPUs 1 to 4`.
fn changes(room: &Room) -> String {
    let memory = room.memory_moves().then(|| {
        let by = match (room.virtio_mem, room.free_slots) {
            (true, 0) => "virtio-mem".to_owned(),
            (true, free) => format!("virtio-mem, {} free", count(free.into(), "slot")),
            (false, free) => format!("{} free", count(free.into(), "slot")),
        };
        format!("memory {} to {} ({by})", about(room.least_memory), about(room.most_memory))
    });
    let vcpus = room.vcpus_move().then(|| format!("vCPUs {} to {}", room.least_vcpus, room.most_vcpus));
    let all: Vec<String> = [memory, vcpus].into_iter().flatten().collect();
    match (all.is_empty(), room.balloon) {
        (false, _) => all.join(", "),
        (true, true) => "nothing but the balloon".to_owned(),
        (true, false) => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use scale::units::Bytes;

    fn entry(name: &str, runs: bool, room: Result<Room, String>) -> Entry {
        let state = if runs { "running" } else { "shut off" };
        Entry { name: name.to_owned(), uuid: String::new(), state: state.to_owned(), runs, room }
    }

    fn prepared() -> Room {
        Room {
            memory: Bytes::gib(1),
            least_memory: Bytes::gib(1),
            most_memory: Bytes::gib(8),
            free_slots: 16,
            virtio_mem: false,
            balloon: true,
            vcpus: 2,
            least_vcpus: 1,
            most_vcpus: 4,
        }
    }

    fn fixed() -> Room {
        Room { most_memory: Bytes::gib(1), most_vcpus: 2, least_vcpus: 2, free_slots: 0, ..prepared() }
    }

    #[test]
    fn a_row_tells_what_is_and_what_could_be() {
        let entries = [
            entry("web1", true, Ok(prepared())),
            entry("old", true, Ok(fixed())),
            entry("db", true, Err("libvirt has not finished a description within 5s".to_owned())),
            entry("spare", false, Ok(prepared())),
        ];
        let expected = "\
name   state     memory  ceiling  vCPUs  max  can change now
web1   running   1 GiB   8 GiB    2      4    memory 1 GiB to 8 GiB (16 slots free), vCPUs 1 to 4
old    running   1 GiB   1 GiB    2      2    nothing but the balloon
db     running                                libvirt has not finished a description within 5s
spare  shut off  1 GiB   8 GiB    2      4    only its definition

4 machines at qemu:///system, 3 running.
`supple prepare` gives a machine room from its next start on.
";
        assert_eq!(example::text(&list("qemu:///system", &entries, 110)), expected);
    }

    #[test]
    fn where_there_is_none_another_place_is_named() {
        let shown = list("qemu:///session", &[], 200);
        assert!(
            shown.starts_with("There is no machine at qemu:///session.") && shown.contains("qemu:///system")
        );
    }

    #[test]
    fn a_virtio_mem_device_is_named() {
        let room = Room { virtio_mem: true, free_slots: 0, ..prepared() };
        assert_eq!(changes(&room), "memory 1 GiB to 8 GiB (virtio-mem), vCPUs 1 to 4");
        assert_eq!(changes(&Room { balloon: false, ..fixed() }), "nothing");
    }
}
