//! What stands in the way of resizing, on a host or on one machine, and what mends it.
//!
//! [`host()`] and [`vm()`] judge facts that were handed in; they ask nobody, and mend nothing. Each finding has a severity,
//! what was found, why it matters and, where something can be done, the exact command or sentence. A thing that was not
//! tried is said to be so: no finding rests on a version alone where it could be probed.

pub mod host;
pub mod kernel;
pub mod rules;
pub mod vm;

use std::fmt;

use crate::units::Bytes;

pub use host::host;
pub use vm::vm;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works.
    Ok,
    /// It works, with something to know; or something is absent that nothing depends on.
    Note,
    /// Something that resizing needs is not there.
    Missing,
    /// Trying it may end the machine, or take what its guest needs.
    Danger,
}

impl Severity {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Missing => "missing",
            Severity::Danger => "danger",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What part of the whole a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What runs machines on the host.
    Hypervisor,
    /// What can be done with machines on the host.
    Capabilities,
    /// What kind of machine it is.
    Machine,
    /// Its memory.
    Memory,
    /// Its vCPUs.
    Vcpus,
    /// The agent in its guest.
    Agent,
    /// The guest itself.
    Guest,
    /// What the host has and allows.
    Host,
}

impl Section {
    /// One word.
    pub fn word(self) -> &'static str {
        match self {
            Section::Hypervisor => "hypervisor",
            Section::Capabilities => "capabilities",
            Section::Host => "host",
            Section::Machine => "machine",
            Section::Memory => "memory",
            Section::Vcpus => "vcpus",
            Section::Agent => "agent",
            Section::Guest => "guest",
        }
    }
}

/// What sets it right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mend {
    /// A command for a shell on the host.
    OnHost(String),
    /// A command for a root shell in the guest.
    InGuest(String),
    /// Something to do that is no one command.
    ByHand(String),
}

impl Mend {
    /// The command or sentence.
    pub fn text(&self) -> &str {
        match self {
            Mend::OnHost(text) | Mend::InGuest(text) | Mend::ByHand(text) => text,
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What part it is about.
    pub section: Section,
    /// What exactly, in words joined by dashes: `memory-ceiling`. A machine has at most one finding of each.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// Why it matters; empty where all is well.
    pub reason: String,
    /// What sets it right; absent where there is nothing to do, or nothing can be done.
    pub mend: Option<Mend>,
}

impl Finding {
    fn new(
        severity: Severity,
        section: Section,
        subject: &'static str,
        found: String,
        reason: &str,
    ) -> Finding {
        Finding { severity, section, subject, found, reason: reason.to_owned(), mend: None }
    }

    fn ok(section: Section, subject: &'static str, found: impl Into<String>) -> Finding {
        Finding::new(Severity::Ok, section, subject, found.into(), "")
    }

    fn note(section: Section, subject: &'static str, found: impl Into<String>, reason: &str) -> Finding {
        Finding::new(Severity::Note, section, subject, found.into(), reason)
    }

    fn missing(section: Section, subject: &'static str, found: impl Into<String>, reason: &str) -> Finding {
        Finding::new(Severity::Missing, section, subject, found.into(), reason)
    }

    fn danger(section: Section, subject: &'static str, found: impl Into<String>, reason: &str) -> Finding {
        Finding::new(Severity::Danger, section, subject, found.into(), reason)
    }

    fn mend(self, mend: Mend) -> Finding {
        Finding { mend: Some(mend), ..self }
    }

    fn on_host(self, command: impl Into<String>) -> Finding {
        self.mend(Mend::OnHost(command.into()))
    }

    fn by_hand(self, sentence: impl Into<String>) -> Finding {
        self.mend(Mend::ByHand(sentence.into()))
    }

    /// True where it keeps something from being ready.
    pub fn is_in_the_way(&self) -> bool {
        match self.severity {
            Severity::Ok | Severity::Note => false,
            Severity::Missing | Severity::Danger => true,
        }
    }
}

/// True where nothing is missing and nothing is dangerous.
pub fn is_ready(findings: &[Finding]) -> bool {
    !findings.iter().any(Finding::is_in_the_way)
}

/// A size of which the first digits matter: `22 GiB`, `3.5 GiB`, `491 MiB`. Never more than it is.
fn roughly(size: Bytes) -> Bytes {
    let unit = match size.get() >> 30 {
        0 => Bytes::mib(1),
        1..16 => Bytes::mib(256),
        _ => Bytes::gib(1),
    };
    size.round_down(unit)
}

/// `one`, `one and two`, `one, two and three`.
fn listed<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}
