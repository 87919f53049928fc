//! Who puts plugged memory and vCPUs online in a machine's guest: its kernel, udev, the agent at Supple's request, or
//! nobody.

use super::{Case, Running};
use crate::doctor::rules::{Event, RuleFile, upon};
use crate::doctor::{Finding, Section};
use crate::guests::Onlines;
use crate::observed::{AutoOnline, GuestFacts};

const SECTION: Section = Section::Guest;

pub(super) fn judge(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    let Some(facts) = case.guest() else { return Vec::new() };
    if case.is_windows() {
        let itself = |online: Onlines| online == Onlines::Itself;
        let found = match case
            .row
            .map_or((true, true), |row| (itself(row.memory.online), itself(row.vcpus.online)))
        {
            (true, true) => "the system itself, memory and vCPUs",
            (true, false) => "the system itself; it takes no vCPUs while it runs",
            (false, true) => "the system itself, vCPUs; it takes no memory while it runs",
            (false, false) => return Vec::new(),
        };
        return vec![Finding::ok(SECTION, "onlines-memory", found)];
    }
    if !case.system().is_none_or(|system| system.is_linux()) {
        return Vec::new();
    }
    let onliner = memory_by(case, running, facts);
    let mut found = vec![memory(case, facts, &onliner), vcpus(case, running, facts)];
    found.extend(zone(running, &onliner));
    found.extend(online_again(running));
    found
}

/// Who brings a new memory block online.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Onliner {
    Kernel(AutoOnline),
    /// A rule, and what it writes.
    Rule(String, String),
    Nobody,
    /// Not seen; what the support matrix says.
    Unseen(Onlines),
}

fn memory_by(case: &Case<'_>, running: &Running, facts: &GuestFacts) -> Onliner {
    match facts.auto_online {
        Some(AutoOnline::Offline) | None => {}
        Some(goal @ (AutoOnline::Online | AutoOnline::Kernel | AutoOnline::Movable)) => {
            return Onliner::Kernel(goal);
        }
    }
    match rule(running, Event::MemoryCame) {
        Seen::Rule(by, writes) => Onliner::Rule(by, writes),
        Seen::None if facts.auto_online.is_some() => Onliner::Nobody,
        Seen::None | Seen::Unknown => {
            Onliner::Unseen(case.row.map_or(Onlines::Varies, |row| row.memory.online))
        }
    }
}

enum Seen {
    Rule(String, String),
    None,
    Unknown,
}

/// The rule that acts upon an event, as far as rules were seen. Without udev none does.
fn rule(running: &Running, event: Event) -> Seen {
    let inside = &running.inside;
    if inside.udev_runs == Some(false) {
        return Seen::None;
    }
    match &inside.rules {
        None => Seen::Unknown,
        Some(files) => match acts(running, files, event) {
            Some((by, writes)) => Seen::Rule(by, writes),
            None => Seen::None,
        },
    }
}

fn acts(running: &Running, files: &[RuleFile], event: Event) -> Option<(String, String)> {
    let arch = running.inside.system.as_ref().map_or("", |system| system.arch.as_str());
    let arch = if arch.is_empty() { &running.shape.arch } else { arch };
    upon(files, event, arch).map(|verdict| (verdict.by, verdict.writes))
}

fn memory(case: &Case<'_>, facts: &GuestFacts, onliner: &Onliner) -> Finding {
    const SUBJECT: &str = "onlines-memory";
    let by_agent = facts.can("guest-set-memory-blocks");
    match onliner {
        Onliner::Kernel(goal) => {
            let zone = match goal {
                AutoOnline::Movable => ", as movable",
                AutoOnline::Kernel => ", in a kernel zone",
                AutoOnline::Online | AutoOnline::Offline => "",
            };
            Finding::ok(SECTION, SUBJECT, format!("the kernel does{zone} (auto_online_blocks)"))
        }
        Onliner::Rule(by, writes) => Finding::ok(SECTION, SUBJECT, format!("udev does: {writes}, by {by}")),
        Onliner::Nobody if by_agent => {
            let reason =
                "what others plug stays offline; what Supple plugs it brings online through the agent";
            let finding = Finding::note(SECTION, SUBJECT, "nobody does by itself", reason);
            finding.on_host(case.called().supple("guest setup", ""))
        }
        Onliner::Nobody => {
            let reason = "plugged memory stays offline, and the agent may not bring it online either";
            let finding = Finding::missing(SECTION, SUBJECT, "nobody does", reason);
            finding.on_host(case.called().supple("guest setup", ""))
        }
        Onliner::Unseen(by_matrix) => unseen(SUBJECT, *by_matrix, by_agent, "memory"),
    }
}

fn vcpus(case: &Case<'_>, running: &Running, facts: &GuestFacts) -> Finding {
    const SUBJECT: &str = "onlines-vcpus";
    let by_agent = facts.can("guest-set-vcpus");
    match rule(running, Event::CpuCame) {
        Seen::Rule(by, _) => Finding::ok(SECTION, SUBJECT, format!("udev does, by {by}")),
        Seen::None if by_agent => {
            let reason =
                "what others plug stays offline; what Supple plugs it brings online through the agent";
            let finding = Finding::note(SECTION, SUBJECT, "nobody does by itself", reason);
            finding.on_host(case.called().supple("guest setup", ""))
        }
        Seen::None => {
            let reason = "Linux brings no plugged vCPU online by itself, and the agent may not either";
            let finding = Finding::missing(SECTION, SUBJECT, "nobody does", reason);
            finding.on_host(case.called().supple("guest setup", ""))
        }
        Seen::Unknown => {
            unseen(SUBJECT, case.row.map_or(Onlines::Varies, |row| row.vcpus.online), by_agent, "vCPUs")
        }
    }
}

fn unseen(subject: &'static str, by_matrix: Onlines, by_agent: bool, what: &str) -> Finding {
    let found = match by_matrix {
        Onlines::Udev => "udev, by the support matrix; its rules could not be read here".to_owned(),
        Onlines::Kernel => "the kernel, by the support matrix; that could not be read here".to_owned(),
        Onlines::Nobody => "nobody, by the support matrix; that could not be read here".to_owned(),
        Onlines::Itself | Onlines::Varies | Onlines::Never => {
            "not known: neither rules nor kernel could be asked".to_owned()
        }
    };
    if by_agent {
        let reason = format!(
            "Supple looks after each plug, and brings {what} online through the agent where nobody does"
        );
        return Finding::note(SECTION, subject, found, &reason);
    }
    let reason = format!("Supple looks after each plug, and cannot bring {what} online: the agent may not");
    match by_matrix {
        Onlines::Udev | Onlines::Kernel | Onlines::Itself => Finding::note(SECTION, subject, found, &reason),
        Onlines::Nobody | Onlines::Varies | Onlines::Never => Finding::missing(SECTION, subject, found, &reason)
            .by_hand("let the agent read files and set memory blocks and vCPUs (see above), or install Supple's udev rule: \
                      supple guest udev-rule"),
    }
}

/// Where new memory goes, and so whether it comes out again.
fn zone(running: &Running, onliner: &Onliner) -> Option<Finding> {
    const SUBJECT: &str = "memory-zone";
    let inside = &running.inside;
    if inside.online_policy.as_deref() == Some("auto-movable") {
        return Some(Finding::ok(
            SECTION,
            SUBJECT,
            "movable as far as is wise (memory_hotplug.online_policy=auto-movable)",
        ));
    }
    let all_movable = match onliner {
        Onliner::Kernel(goal) => *goal == AutoOnline::Movable,
        Onliner::Rule(_, writes) => writes == "online_movable",
        Onliner::Nobody | Onliner::Unseen(_) => return None,
    };
    let boot_node = inside.command_line.as_ref().is_some_and(|line| line.has("movable_node"));
    if all_movable || boot_node {
        let reason = "movable memory comes out again, and holds nothing of the kernel's own: more than three parts of it \
                      to one of the boot memory, and the kernel runs out of memory with much of it free";
        return Some(Finding::note(SECTION, SUBJECT, "all new memory is movable", reason));
    }
    let reason = "the guest puts new memory where its kernel may use it for itself, so that it comes out again by luck \
                  alone; Supple shrinks what it can and tells the rest";
    Some(
        Finding::note(SECTION, SUBJECT, "the kernel's own zone", reason).by_hand(
            "to shrink well, boot it with memhp_default_state=online memory_hotplug.online_policy=auto-movable (Linux 5.15) \
             or memhp_default_state=online_movable (5.7), or grow by virtio-mem",
        ),
    )
}

/// A rule that brings online what was taken offline on purpose.
fn online_again(running: &Running) -> Option<Finding> {
    let Seen::Rule(by, writes) = rule(running, Event::MemoryOffline) else { return None };
    let found = format!("{by} writes {writes} to a block that was taken offline");
    let reason = "a block that Supple empties is put back at once, so no DIMM comes out; and a removal that finds it so may \
                  keep the guest's kernel busy for ever";
    Some(Finding::danger(SECTION, "onlines-again", found, reason).by_hand(format!(
        "in the guest, update systemd, or put its conditions SUBSYSTEM!=\"memory\" and ACTION!=\"add\" on lines of their \
         own, each with its GOTO, in a copy of {by} below /etc/udev/rules.d; then udevadm control --reload"
    )))
}
