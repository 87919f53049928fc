//! All machines of a libvirt on the wire.

use drive::domxml::Room;
use serde::Serialize;

use crate::list::Entry;

/// The machines at one URI.
#[derive(Debug, Serialize)]
pub(crate) struct Machines {
    /// The libvirt that was asked.
    uri: String,
    /// Those that run first, then by name.
    machines: Vec<Machine>,
}

/// One machine.
#[derive(Debug, Serialize)]
struct Machine {
    name: String,
    uuid: String,
    /// libvirt's word: `running`, `shut off`, `paused`, ...
    state: String,
    /// Whether it can be resized now.
    runs: bool,
    /// Its sizes, of its definition where it does not run; null where they are not known.
    sizes: Option<super::Sizes>,
    /// How far they can change while it runs; null where that is not known.
    room: Option<Reach>,
    /// Why sizes are not known; null where they are.
    why_unknown: Option<String>,
}

/// How far the sizes of a machine can change while it runs.
#[derive(Debug, Serialize)]
struct Reach {
    least_memory_bytes: u64,
    most_memory_bytes: u64,
    free_slots: u32,
    virtio_mem: bool,
    balloon: bool,
    least_vcpus: u32,
    most_vcpus: u32,
}

impl Machines {
    pub(crate) fn of(uri: &str, entries: &[Entry]) -> Machines {
        Machines { uri: uri.to_owned(), machines: entries.iter().map(Machine::from).collect() }
    }
}

impl From<&Entry> for Machine {
    fn from(entry: &Entry) -> Machine {
        let room = entry.room.as_ref().ok();
        Machine {
            name: entry.name.clone(),
            uuid: entry.uuid.clone(),
            state: entry.state.clone(),
            runs: entry.runs,
            sizes: room.map(|room| super::Sizes { memory_bytes: room.memory.get(), vcpus: room.vcpus }),
            room: room.map(Reach::from),
            why_unknown: entry.room.as_ref().err().cloned(),
        }
    }
}

impl From<&Room> for Reach {
    fn from(room: &Room) -> Reach {
        Reach {
            least_memory_bytes: room.least_memory.get(),
            most_memory_bytes: room.most_memory.get(),
            free_slots: room.free_slots,
            virtio_mem: room.virtio_mem,
            balloon: room.balloon,
            least_vcpus: room.least_vcpus,
            most_vcpus: room.most_vcpus,
        }
    }
}
