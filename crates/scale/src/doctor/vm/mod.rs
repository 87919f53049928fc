//! One machine: what it can be resized to while it runs, what is missing, and what its next start would make possible.
//!
//! A machine has up to two *shapes*: the running one, and the one of its definition, which the next start takes. The same
//! judgement is made of both, so that what the definition already has is not advised again, and what it lacks is said
//! before it is lost.

mod agent;
mod guest;
mod limits;
mod machine;
mod memory;
mod onlining;
mod shape;
mod vcpus;

use std::collections::BTreeSet;

use super::kernel::{CommandLine, Options};
use super::rules::RuleFile;
use super::{Finding, Mend, Severity};
use crate::guests::{Row, System, lookup};
use crate::limits::Limits;
use crate::observed::{GuestFacts, Observed};
use crate::units::Bytes;

pub use shape::{Board, Channel, Firmware, Region, Shape, Space};

/// What is known of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    /// How commands name it.
    pub called: Called,
    /// The running machine; nothing where it does not run.
    pub running: Option<Running>,
    /// The shape of its next start; nothing where it has no definition (plain QEMU, transient domains).
    pub next: Option<Shape>,
    /// The bounds that resizes keep to.
    pub limits: Limits,
}

/// A machine that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// What was observed of it.
    pub seen: Observed,
    /// Its shape.
    pub shape: Shape,
    /// What its guest showed besides.
    pub inside: Inside,
}

/// How commands name a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// As `supple` is told it: `web1`, `qmp:/run/web1/qmp.sock`. A word of a shell.
    pub vm: String,
    /// The agent's socket, where one was named, as a word of a shell.
    pub agent: Option<String>,
    /// Its libvirt's URI and its name there, as words of a shell; nothing on plain QEMU.
    pub domain: Option<(String, String)>,
}

impl Called {
    /// `supple COMMAND web1 REST`.
    fn supple(&self, command: &str, rest: &str) -> String {
        let agent = self.agent.as_ref().map(|path| format!(" --agent {path}")).unwrap_or_default();
        let rest = if rest.is_empty() { String::new() } else { format!(" {rest}") };
        format!("supple {command} {}{agent}{rest}", self.vm)
    }

    /// How a change of the definition is made to count.
    fn restart(&self) -> Mend {
        match &self.domain {
            Some((uri, name)) => Mend::OnHost(format!(
                "virsh -c {uri} shutdown {name}   # and once it is off: virsh -c {uri} start {name}"
            )),
            None => Mend::ByHand("stop it and start it again; a reboot from within is not enough".to_owned()),
        }
    }

    /// How the next start gets what this one lacks: by `supple prepare`, or by QEMU's own options.
    fn prepare(&self, options: &str, qemu: &str) -> Mend {
        match self.domain {
            Some(_) => Mend::OnHost(self.supple("prepare", options)),
            None => Mend::ByHand(format!("start QEMU with {qemu}; that takes a stop and a start")),
        }
    }
}

/// What a guest showed besides its sizes. What it did not show is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inside {
    /// Who it is.
    pub system: Option<System>,
    /// Agent commands that are there and switched off.
    pub disabled: BTreeSet<String>,
    /// Its kernel's build options, and where they are from, for people.
    pub options: Option<(Options, String)>,
    /// Its kernel's command line.
    pub command_line: Option<CommandLine>,
    /// Its udev rules about memory and CPUs, in the order in which udev reads them; an empty list where there are none.
    pub rules: Option<Vec<RuleFile>>,
    /// Whether udev runs.
    pub udev_runs: Option<bool>,
    /// The kernel's way of choosing zones (`memory_hotplug.online_policy`).
    pub online_policy: Option<String>,
    /// Why files could not be read, where none could.
    pub files_barred: Option<String>,
}

/// What judgements need besides the facts that they judge.
struct Case<'a> {
    facts: &'a VmFacts,
    row: Option<&'static Row>,
}

impl Case<'_> {
    fn called(&self) -> &Called {
        &self.facts.called
    }

    fn running(&self) -> Option<&Running> {
        self.facts.running.as_ref()
    }

    fn guest(&self) -> Option<&GuestFacts> {
        self.running()?.seen.guest.heard()
    }

    /// Who the guest is: by its own word, else by its description's.
    fn system(&self) -> Option<&System> {
        system(self.facts)
    }

    fn is_windows(&self) -> bool {
        self.system().is_some_and(System::is_windows)
    }
}

/// Who a machine's guest is: by its own word, else by its description's.
pub fn system(facts: &VmFacts) -> Option<&System> {
    let running = facts.running.as_ref();
    let own = running.and_then(|running| running.inside.system.as_ref());
    let now = running.and_then(|running| running.shape.system.as_ref());
    own.or(now).or(facts.next.as_ref().and_then(|next| next.system.as_ref()))
}

/// The row of the support matrix about a machine's guest.
pub fn row(facts: &VmFacts) -> Option<&'static Row> {
    lookup(system(facts)?)
}

/// How far one size can go while the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<T> {
    /// What it is.
    pub now: T,
    /// The least.
    pub least: T,
    /// The most.
    pub most: T,
}

/// How far a running machine can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Memory, the balloon left alone.
    pub memory: Span<Bytes>,
    /// vCPUs.
    pub vcpus: Span<u32>,
}

/// How far a machine can go while it runs, by its shape and its guest's system; nothing where it does not run.
pub fn reach(facts: &VmFacts) -> Option<Reach> {
    let running = facts.running.as_ref()?;
    let row = row(facts);
    Some(Reach { memory: memory::span(running, row), vcpus: vcpus::span(running, row) })
}

/// The one command with which the next start gets all that is missing, where several preparations are advised.
pub fn preparation(facts: &VmFacts, found: &[Finding]) -> Option<String> {
    let command = facts.called.supple("prepare", "");
    let options: Vec<&str> = found
        .iter()
        .filter(|finding| finding.is_in_the_way())
        .filter_map(|finding| match &finding.mend {
            Some(Mend::OnHost(text)) => text.strip_prefix(&command),
            Some(Mend::InGuest(_) | Mend::ByHand(_)) | None => None,
        })
        .collect();
    (options.len() > 1).then(|| format!("{command}{}", options.concat()))
}

/// Judges a machine.
pub fn vm(facts: &VmFacts) -> Vec<Finding> {
    let case = Case { facts, row: row(facts) };
    let mut found: Vec<Finding> = Vec::new();
    let now = facts.running.as_ref().map(|running| of_shape(&case, &running.shape));
    let next = facts.next.as_ref().map(|shape| of_shape(&case, shape));
    found.extend(match (now, next) {
        (Some(now), Some(next)) => now.into_iter().map(|finding| with_next(&case, finding, &next)).collect(),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => Vec::new(),
    });
    found.extend(guest::matrix(&case));
    if let Some(running) = case.running() {
        found.extend(machine::running(&case, running));
        found.extend(memory::running(&case, running));
        found.extend(vcpus::running(&case, running));
        found.extend(limits::running(&case, running));
        found.extend(agent::judge(&case, running));
        found.extend(guest::running(&case, running));
        found.extend(onlining::judge(&case, running));
    }
    // Told with how many are free.
    let told = found.iter().any(|finding| finding.subject == memory::FREE_SLOTS);
    found.retain(|finding| !(told && finding.subject == memory::SLOTS && !finding.is_in_the_way()));
    found.sort_by_key(|finding| finding.section);
    found
}

/// Everything that follows from a shape alone.
fn of_shape(case: &Case<'_>, shape: &Shape) -> Vec<Finding> {
    let mut found = machine::of_shape(shape);
    found.extend(memory::of_shape(case, shape));
    found.extend(vcpus::of_shape(case, shape));
    found.extend(limits::of_shape(case, shape));
    found.extend(agent::of_shape(case, shape));
    found
}

/// The finding of the running machine, in the light of the one of its next start.
fn with_next(case: &Case<'_>, now: Finding, next: &[Finding]) -> Finding {
    let Some(then) = next.iter().find(|finding| finding.subject == now.subject) else { return now };
    if now.is_in_the_way() && !then.is_in_the_way() {
        let reason = format!("{}; its next start has it: {}", now.reason, then.found);
        return Finding { reason, mend: Some(case.called().restart()), ..now };
    }
    if !now.is_in_the_way() && then.is_in_the_way() {
        let reason = format!("its next start loses it: {}; {}", then.found, then.reason);
        return Finding { severity: Severity::Note, reason, mend: then.mend.clone(), ..now };
    }
    now
}

#[cfg(test)]
mod tests;
