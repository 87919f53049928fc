//! A doctor's findings and the support matrix as `--json` prints them.

use scale::doctor::vm::{self, VmFacts, preparation, reach};
use scale::doctor::{Finding as CoreFinding, Mend as CoreMend, is_ready};
use scale::guests::{ROWS, Row};
use serde::Serialize;

use crate::words::clean;

/// `supple doctor`, of a host or of a machine.
#[derive(Debug, Serialize)]
pub(crate) struct Doctor {
    /// `host` or `machine`.
    of: &'static str,
    /// How the machine was named; null of a host.
    vm: Option<String>,
    /// Whether the machine runs; null of a host.
    runs: Option<bool>,
    /// Nothing is missing and nothing is dangerous.
    ready: bool,
    /// How far it can go while it runs; null of a host, and of a machine that does not run.
    reach: Option<Reach>,
    /// The support matrix's row of its guest; null where there is none, and of a host.
    guest: Option<Guest>,
    /// What was found.
    findings: Vec<Finding>,
    /// The one command that prepares all that is missing, where several are advised; else null.
    prepare: Option<String>,
}

/// How far a machine can go while it runs.
#[derive(Debug, Serialize)]
struct Reach {
    memory_bytes: u64,
    least_memory_bytes: u64,
    most_memory_bytes: u64,
    vcpus: u32,
    least_vcpus: u32,
    most_vcpus: u32,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    /// `ok`, `note`, `missing` or `danger`.
    severity: &'static str,
    section: &'static str,
    subject: &'static str,
    found: String,
    reason: Option<String>,
    mend: Option<Mend>,
}

/// What sets it right.
#[derive(Debug, Serialize)]
struct Mend {
    /// `host-command`, `guest-command` or `advice`.
    kind: &'static str,
    text: String,
}

/// `supple doctor --guests`.
#[derive(Debug, Serialize)]
pub(crate) struct Guests {
    rows: Vec<Guest>,
}

/// One row of the support matrix.
#[derive(Debug, Serialize)]
struct Guest {
    name: &'static str,
    editions: &'static str,
    dimm_add: &'static str,
    dimm_remove: &'static str,
    memory_online: &'static str,
    balloon: &'static str,
    virtio_mem: &'static str,
    vcpu_add: &'static str,
    vcpu_remove: &'static str,
    vcpu_online: &'static str,
    note: Option<&'static str>,
    sources: Vec<Source>,
}

/// Where a row is from.
#[derive(Debug, Serialize)]
struct Source {
    title: &'static str,
    url: &'static str,
}

impl Doctor {
    /// Of a host.
    pub(crate) fn of_host(found: &[CoreFinding]) -> Doctor {
        Doctor {
            of: "host",
            vm: None,
            runs: None,
            ready: is_ready(found),
            reach: None,
            guest: None,
            findings: found.iter().map(Finding::from).collect(),
            prepare: None,
        }
    }

    /// Of a machine.
    pub(crate) fn of_machine(facts: &VmFacts, found: &[CoreFinding]) -> Doctor {
        Doctor {
            of: "machine",
            vm: Some(clean(&facts.called.vm)),
            runs: Some(facts.running.is_some()),
            ready: is_ready(found),
            reach: reach(facts).map(Reach::from),
            guest: vm::row(facts).map(Guest::from),
            findings: found.iter().map(Finding::from).collect(),
            prepare: preparation(facts, found).map(|command| clean(&command)),
        }
    }
}

impl From<vm::Reach> for Reach {
    fn from(reach: vm::Reach) -> Reach {
        let vm::Reach { memory, vcpus } = reach;
        Reach {
            memory_bytes: memory.now.get(),
            least_memory_bytes: memory.least.get(),
            most_memory_bytes: memory.most.get(),
            vcpus: vcpus.now,
            least_vcpus: vcpus.least,
            most_vcpus: vcpus.most,
        }
    }
}

impl From<&CoreFinding> for Finding {
    fn from(finding: &CoreFinding) -> Finding {
        let CoreFinding { severity, section, subject, found, reason, mend } = finding;
        Finding {
            severity: severity.word(),
            section: section.word(),
            subject,
            found: clean(found),
            reason: Some(clean(reason)).filter(|reason| !reason.is_empty()),
            mend: mend.as_ref().map(Mend::from),
        }
    }
}

impl From<&CoreMend> for Mend {
    fn from(mend: &CoreMend) -> Mend {
        let kind = match mend {
            CoreMend::OnHost(_) => "host-command",
            CoreMend::InGuest(_) => "guest-command",
            CoreMend::ByHand(_) => "advice",
        };
        Mend { kind, text: clean(mend.text()) }
    }
}

impl Guests {
    /// The whole matrix.
    pub(crate) fn all() -> Guests {
        Guests { rows: ROWS.iter().map(Guest::from).collect() }
    }
}

impl From<&Row> for Guest {
    fn from(row: &Row) -> Guest {
        let (m, v) = (row.memory, row.vcpus);
        Guest {
            name: row.name,
            editions: row.editions,
            dimm_add: m.add.word(),
            dimm_remove: m.remove.word(),
            memory_online: m.online.word(),
            balloon: m.balloon.word(),
            virtio_mem: m.virtio_mem.word(),
            vcpu_add: v.add.word(),
            vcpu_remove: v.remove.word(),
            vcpu_online: v.online.word(),
            note: Some(row.note).filter(|note| !note.is_empty()),
            sources: row.sources.iter().map(|s| Source { title: s.title, url: s.url }).collect(),
        }
    }
}
