//! The agent in a machine's guest: its channel, whether it answers, and which of its commands are switched off.

use super::{Case, Channel, Inside, Running, Shape};
use crate::doctor::{Finding, Mend, Section, listed};
use crate::guests::{Onlines, System};
use crate::observed::{Guest, GuestFacts};

const SECTION: Section = Section::Agent;

/// Commands that belong together, and what goes without them.
struct Group {
    subject: &'static str,
    what: &'static str,
    commands: &'static [&'static str],
    without: &'static str,
    /// Whether growing or shrinking needs them, or only does better with them.
    needed: bool,
}

const MEMORY: Group = Group {
    subject: "agent-memory",
    what: "shows memory blocks and puts them online",
    commands: &["guest-get-memory-blocks", "guest-get-memory-block-info", "guest-set-memory-blocks"],
    without: "no DIMM can be emptied before it is removed, and new memory stays offline where the guest leaves it so",
    needed: true,
};
const VCPUS: Group = Group {
    subject: "agent-vcpus",
    what: "shows vCPUs and puts them online",
    commands: &["guest-get-vcpus", "guest-set-vcpus"],
    without: "new vCPUs are not proven, and stay offline where the guest leaves them so",
    needed: true,
};
const FILES: Group = Group {
    subject: "agent-files",
    what: "reads and writes files",
    commands: &["guest-file-open", "guest-file-read", "guest-file-write", "guest-file-close"],
    without: "the zone of new memory is the kernel's choice, and what of it comes out again is luck",
    needed: false,
};
const PROGRAMS: Group = Group {
    subject: "agent-programs",
    what: "runs programs",
    commands: &["guest-exec", "guest-exec-status"],
    without: "`supple guest setup` needs files or programs to install its rule",
    needed: false,
};

pub(super) fn of_shape(case: &Case<'_>, shape: &Shape) -> Vec<Finding> {
    const SUBJECT: &str = "agent-channel";
    let reason = "without the guest's agent nothing is put online for it, shrinking by DIMM cannot be, and proofs are weak";
    let finding = match &shape.channel {
        Channel::Unknown => return Vec::new(),
        Channel::Absent => Finding::missing(SECTION, SUBJECT, "none", reason).mend(case.called().prepare(
            "",
            "-chardev socket,id=qga,path=PATH,server=on,wait=off -device virtio-serial -device \
             virtserialport,chardev=qga,name=org.qemu.guest_agent.0",
        )),
        Channel::Of(kind) if case.called().domain.is_some() && kind != "unix" => {
            let found = format!("of type {kind}");
            let reason = "libvirt speaks to agents over type unix only";
            Finding::missing(SECTION, SUBJECT, found, reason)
                .by_hand("make it <channel type='unix'> in its definition, without a <source>")
        }
        Channel::Of(_) => Finding::ok(SECTION, SUBJECT, "there"),
    };
    vec![finding]
}

pub(super) fn judge(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    const SUBJECT: &str = "agent";
    match &running.seen.guest {
        Guest::Heard(facts) => {
            let version = if facts.agent_version.is_empty() { "" } else { " " };
            let answers = format!("agent{version}{} answers", facts.agent_version);
            let mut found = vec![Finding::ok(SECTION, SUBJECT, answers)];
            found.extend(
                [MEMORY, VCPUS, FILES, PROGRAMS].iter().map(|g| group(case, facts, &running.inside, g)),
            );
            found
        }
        // Told already.
        Guest::Unheard(_) if running.shape.channel == Channel::Absent => Vec::new(),
        Guest::Unheard(why) => vec![silent(case, why)],
    }
}

fn silent(case: &Case<'_>, why: &str) -> Finding {
    const SUBJECT: &str = "agent";
    let called = case.called();
    let reason =
        "the guest cannot be asked: what follows about it is not known, and proofs of a resize are weak";
    let finding = Finding::missing(SECTION, SUBJECT, format!("not heard: {why}"), reason);
    if called.agent.is_none() && called.domain.is_none() {
        return finding.by_hand(format!("name its socket: supple doctor {} --agent PATH", called.vm));
    }
    finding.mend(install(case.system()))
}

/// How the agent comes into a guest.
fn install(system: Option<&System>) -> Mend {
    let command =
        |manager: &str| format!("{manager} qemu-guest-agent && systemctl enable --now qemu-guest-agent");
    match system.map(|system| system.id.as_str()) {
        Some("debian" | "ubuntu") => Mend::InGuest(command("apt-get install")),
        Some("rhel" | "centos" | "almalinux" | "rocky" | "ol" | "fedora" | "openEuler" | "openeuler") => {
            Mend::InGuest(command("dnf install"))
        }
        Some("sles" | "sles_sap" | "opensuse-leap" | "opensuse") => Mend::InGuest(command("zypper install")),
        Some("freebsd") => {
            Mend::InGuest("pkg install qemu-guest-agent && service qemu-guest-agent enable && service \
                           qemu-guest-agent start".to_owned())
        }
        Some("mswindows") => Mend::ByHand("install the guest agent from the virtio-win image".to_owned()),
        Some(_) | None => Mend::ByHand(
            "install the package qemu-guest-agent in the guest and start its service; if it is there already, restart \
             it"
            .to_owned(),
        ),
    }
}

fn group(case: &Case<'_>, facts: &GuestFacts, inside: &Inside, group: &Group) -> Finding {
    let missing: Vec<&str> = group.commands.iter().copied().filter(|command| !facts.can(command)).collect();
    if missing.is_empty() {
        return Finding::ok(SECTION, group.subject, group.what);
    }
    if group.subject == PROGRAMS.subject && facts.can_write_files() {
        return Finding::ok(SECTION, group.subject, "it runs none, and none are needed: it may write files");
    }
    if let Some(finding) = absent_there(case, facts, group, &missing) {
        return finding;
    }
    let off: Vec<&str> =
        missing.iter().copied().filter(|command| inside.disabled.contains(*command)).collect();
    if !off.is_empty() {
        let found = format!("switched off: {}", listed(&off));
        let finding = graded(group, found, group.without);
        return finding.mend(unfilter(case.system()));
    }
    let finding = graded(group, format!("it has no {}", listed(&missing)), group.without);
    finding.by_hand(
        "install a newer qemu-guest-agent in the guest (memory blocks: 2.3, vCPUs: 1.5, programs: 2.5), if its system \
         has one",
    )
}

/// What is said of commands that no agent has on the guest's system, whether it lists them as switched off (up to QEMU 9.1) or
/// not at all: there is nothing to switch on, and where the system puts new things to use by itself, nothing is lost but proof.
fn absent_there(case: &Case<'_>, facts: &GuestFacts, group: &Group, missing: &[&str]) -> Option<Finding> {
    let row = case.row.filter(|_| case.system().is_some_and(|system| !system.is_linux()))?;
    let online = match group.subject {
        "agent-memory" => row.memory.online,
        "agent-vcpus" => row.vcpus.online,
        _other => return None,
    };
    let reason = match (online, group.subject) {
        (Onlines::Never, _) => {
            "no agent has them on this system, which takes nothing of the kind while it runs"
        }
        (Onlines::Itself, "agent-vcpus") if facts.can("guest-get-vcpus") => {
            let found = "shows vCPUs, which its system puts online by itself";
            return Some(Finding::ok(SECTION, group.subject, found));
        }
        (Onlines::Itself, "agent-vcpus") => {
            "no agent has them on this system, which puts vCPUs online by itself; the proof is its ACPI driver's word"
        }
        (Onlines::Itself, _) => {
            "no agent has them on this system, which puts new memory to use by itself; the proof is its balloon \
             driver's count, or QEMU's word alone"
        }
        (Onlines::Kernel | Onlines::Udev | Onlines::Nobody | Onlines::Varies, _) => return None,
    };
    Some(Finding::note(SECTION, group.subject, format!("without {}", listed(missing)), reason))
}

fn graded(group: &Group, found: String, reason: &str) -> Finding {
    if group.needed {
        Finding::missing(SECTION, group.subject, found, reason)
    } else {
        Finding::note(SECTION, group.subject, found, reason)
    }
}

/// How commands are switched on again: the distribution's file, or the agent's own.
fn unfilter(system: Option<&System>) -> Mend {
    let restart = "systemctl restart qemu-guest-agent";
    let red_hat = format!(
        "sed -i -E 's/^(FILTER_RPC_ARGS|BLOCK_RPCS|BLACKLIST_RPC)=/#&/' /etc/sysconfig/qemu-ga && {restart}"
    );
    let own =
        format!("sed -i -E 's/^(block-rpcs|allow-rpcs|blacklist)/#&/' /etc/qemu/qemu-ga.conf && {restart}");
    match system.map(|system| system.id.as_str()) {
        Some("rhel" | "centos" | "almalinux" | "rocky" | "ol" | "fedora" | "openEuler" | "openeuler") => {
            Mend::InGuest(red_hat)
        }
        Some("debian" | "ubuntu" | "sles" | "sles_sap" | "opensuse-leap" | "opensuse") => Mend::InGuest(own),
        Some(_) | None => Mend::ByHand(
            "take them out of the agent's filter in the guest (FILTER_RPC_ARGS, BLOCK_RPCS or BLACKLIST_RPC in \
             /etc/sysconfig/qemu-ga, block-rpcs or allow-rpcs in /etc/qemu/qemu-ga.conf) and restart it"
                .to_owned(),
        ),
    }
}
