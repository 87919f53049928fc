//! What each operating system does with memory and vCPUs that come and go while it runs: the support matrix, as data.
//!
//! Each row says where it is from. A row tells what the *system* can do; what one guest really does is asked of it
//! (`doctor`), and what it did is proven (`run`). Nothing here is measured, and nothing here decides: a planner that
//! refuses by a row says so.

mod rows;
mod source;
mod system;

use std::fmt;

pub use rows::ROWS;
pub use source::Source;
pub use system::System;

/// Whether a system can do a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Can {
    /// Its maker or a test suite says that it works.
    Yes,
    /// In part, on conditions, or by single reports: the row's note says which. Try it on one that may be lost.
    Maybe,
    /// It does not work, or its maker excludes it.
    No,
    /// No source was found.
    Unknown,
}

impl Can {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Can::Yes => "yes",
            Can::Maybe => "maybe",
            Can::No => "no",
            Can::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Can {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Who puts a plugged thing to use, as the system is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onlines {
    /// The system, with no such step.
    Itself,
    /// The kernel, by its configured default.
    Kernel,
    /// udev, by a rule of the distribution's own.
    Udev,
    /// Nobody: it stays offline until somebody asks.
    Nobody,
    /// One or the other, by release or kernel.
    Varies,
    /// Nothing can be plugged.
    Never,
}

impl Onlines {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Onlines::Itself => "itself",
            Onlines::Kernel => "kernel",
            Onlines::Udev => "udev",
            Onlines::Nobody => "nobody",
            Onlines::Varies => "varies",
            Onlines::Never => "-",
        }
    }
}

impl fmt::Display for Onlines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a system does with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySupport {
    /// Takes a DIMM.
    pub add: Can,
    /// Gives a DIMM back.
    pub remove: Can,
    /// Who puts new memory online.
    pub online: Onlines,
    /// Has a driver for the virtio balloon.
    pub balloon: Can,
    /// Has a driver for virtio-mem.
    pub virtio_mem: Can,
}

/// What a system does with vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuSupport {
    /// Takes a vCPU.
    pub add: Can,
    /// Gives a vCPU back.
    pub remove: Can,
    /// Who puts a new vCPU online.
    pub online: Onlines,
}

/// One row: some versions and editions of one system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The system and its versions, for people.
    pub name: &'static str,
    /// Which editions, for people; empty for all.
    pub editions: &'static str,
    /// Memory.
    pub memory: MemorySupport,
    /// vCPUs.
    pub vcpus: VcpuSupport,
    /// What to know besides; empty where nothing.
    pub note: &'static str,
    /// Where this is from; never empty.
    pub sources: &'static [Source],
    /// Which systems it is about.
    applies: Applies,
}

/// Which systems a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Applies {
    /// Ids as in os-release, or `mswindows`; empty for every Linux.
    ids: &'static [&'static str],
    /// Which versions.
    versions: Versions,
    /// Words of which the system's full name has one; empty for any.
    editions: &'static [&'static str],
    /// Machine types as `uname -m` has them (or the agent, on Windows); empty for any.
    arches: &'static [&'static str],
}

/// Which versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versions {
    All,
    /// These, by name.
    Named(&'static [&'static str]),
    /// From the first on and below the second.
    Within((u32, u32), (u32, u32)),
}

/// What a row says and is cited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Whether it takes a DIMM.
    TakesDimm,
    /// Whether it gives one back.
    GivesDimm,
    /// Whether it takes a vCPU.
    TakesVcpu,
    /// Whether it gives one back.
    GivesVcpu,
    /// Which drivers it has.
    Drivers,
}

impl Row {
    /// The source for one thing that the row says: the first of its own that is about it, else its first.
    pub fn source(&self, of: Claim) -> Option<&'static Source> {
        use source::*;
        let about: &[Source] = match of {
            Claim::TakesDimm => &[MS_HOT_ADD, QE_MEMORY],
            Claim::GivesDimm => &[NEVER_EJECTS, LINUX_HOTREMOVE],
            Claim::TakesVcpu => &[OVIRT_VCPUS, QE_VCPUS, QEMU_ARM],
            Claim::GivesVcpu => &[QE_VCPUS, OVIRT_VCPUS, QEMU_ARM],
            Claim::Drivers => &[VIOMEM, LINUX_VIRTIO_MEM, QE_VIRTIO_MEM],
        };
        let own = about.iter().find_map(|source| self.sources.iter().find(|own| *own == source));
        own.or(self.sources.first())
    }

    /// Name and editions in one.
    pub fn title(&self) -> String {
        if self.editions.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}, {}", self.name, self.editions)
        }
    }

    fn is_about(&self, system: &System) -> bool {
        let Applies { ids, versions, editions, arches } = self.applies;
        let known = if ids.is_empty() { system.is_linux() } else { ids.contains(&system.id.as_str()) };
        let version = match versions {
            Versions::All => true,
            Versions::Named(names) => names.contains(&system.version.as_str()),
            Versions::Within(from, below) => {
                system.numbers().is_some_and(|version| from <= version && version < below)
            }
        };
        let name = system.name.to_lowercase();
        let edition = editions.is_empty() || editions.iter().any(|word| name.contains(word));
        let arch = arches.is_empty() || arches.contains(&system.arch.as_str());
        known && version && edition && arch
    }
}

/// The row about a system: the first that applies; nothing where none does.
pub fn lookup(system: &System) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.is_about(system))
}

/// All sources that rows name, each once, in the order of the rows: a row's numbers count from 1 in here.
pub fn sources() -> Vec<Source> {
    let mut all: Vec<Source> = Vec::new();
    for source in ROWS.iter().flat_map(|row| row.sources) {
        if !all.contains(source) {
            all.push(*source);
        }
    }
    all
}

/// The numbers of a row's sources in [`sources`]: `1, 4`.
pub fn numbers(row: &Row, sources: &[Source]) -> String {
    let number = |source: &Source| sources.iter().position(|s| s == source).map(|at| (at + 1).to_string());
    row.sources.iter().filter_map(number).collect::<Vec<_>>().join(", ")
}

/// The matrix and its sources as a document holds them (Markdown).
pub fn markdown() -> String {
    let sources = sources();
    let mut out = String::from(
        "| guest | DIMM add | DIMM remove | onlines memory | balloon | virtio-mem | vCPU add | vCPU remove | onlines \
         vCPUs | sources |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let Row { memory: m, vcpus: v, .. } = row;
        out.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            row.title(),
            m.add,
            m.remove,
            m.online,
            m.balloon,
            m.virtio_mem,
            v.add,
            v.remove,
            v.online,
            numbers(row, &sources),
        ));
    }
    out.push_str("\nNotes:\n\n");
    for row in ROWS.iter().filter(|row| !row.note.is_empty()) {
        out.push_str(&format!("- **{}**: {}.\n", row.title(), row.note));
    }
    out.push_str("\nSources:\n\n");
    for (at, source) in sources.iter().enumerate() {
        out.push_str(&format!("{}. {}, <{}>\n", at + 1, source.title, source.url));
    }
    out
}

#[cfg(test)]
mod tests;
