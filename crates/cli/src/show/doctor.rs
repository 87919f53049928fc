//! Findings of a doctor: by section, each with its severity, what was found, and for what is not well the reason and
//! what mends it. What can be typed stands on a line of its own, unbroken.

use anstyle::Style;
use scale::doctor::vm::{Reach, Span, VmFacts, preparation, reach};
use scale::doctor::{Finding, Mend, Section, Severity, is_ready};

use crate::paint::{BAD, BOLD, DIM, GOOD, WARN, paint};
use crate::show::{guest_line, headline, name_of, paragraph};
use crate::words::{about, clean, count, width};

/// The width of the widest severity's word, and the blanks after it.
const SEVERITY: usize = "missing".len() + 2;
/// No subject is given more room than this.
const WIDEST_SUBJECT: usize = 24;

/// What was found of a host.
pub(crate) fn of_host(name: &str, found: &[Finding], room: usize) -> String {
    let name = if name.is_empty() { "this host" } else { name };
    let mut out = format!("{}\n", paint(BOLD, &clean(name)));
    out.push_str(&sections(found, room));
    out.push('\n');
    out.push_str(&verdict("this host", found, room));
    out
}

/// What was found of a machine.
pub(crate) fn of_machine(facts: &VmFacts, found: &[Finding], room: usize) -> String {
    let called = &facts.called;
    let mut out = match &facts.running {
        Some(running) => {
            let mut head = headline(&running.seen.machine, &called.vm, room);
            head.push_str(&guest_line(&running.seen, room));
            head
        }
        None => {
            let name = paint(BOLD, &clean(&called.vm));
            format!("{name} does not run; this is what its next start has\n")
        }
    };
    if let Some(reach) = reach(facts) {
        out.push_str(&reached(&reach, room));
    }
    out.push_str(&sections(found, room));
    out.push('\n');
    let name = facts.running.as_ref().map(|running| name_of(&running.seen.machine, &called.vm));
    out.push_str(&verdict(name.as_deref().unwrap_or(&called.vm), found, room));
    if let Some(command) = preparation(facts, found) {
        let all = Mend::OnHost(command);
        out.push_str(&paragraph("  ", "What is missing, in one preparation of its next start:", room));
        out.push_str(&mended(&all, "    ", room));
    }
    out
}

fn reached(reach: &Reach, room: usize) -> String {
    let Reach { memory, vcpus } = reach;
    let memory =
        span(about(memory.now), about(memory.least), about(memory.most), memory.least == memory.most);
    let number = |n: u32| n.to_string();
    let Span { now, least, most } = *vcpus;
    let vcpus = span(count(now.into(), "vCPU"), number(least), number(most), least == most);
    paragraph("while it runs: ", &format!("memory {memory}; {vcpus}"), room)
}

fn span(now: String, least: String, most: String, fixed: bool) -> String {
    if fixed { format!("{now}, fixed") } else { format!("{now}, from {least} to {most}") }
}

fn sections(found: &[Finding], room: usize) -> String {
    let subject = found.iter().map(|finding| finding.subject.len()).max().unwrap_or(0).min(WIDEST_SUBJECT);
    let mut out = String::new();
    let mut section: Option<Section> = None;
    for (nth, finding) in found.iter().enumerate() {
        if section != Some(finding.section) {
            out.push_str(&format!("\n{}\n", paint(BOLD, title(finding.section))));
            section = Some(finding.section);
        }
        let earlier = found[..nth].iter().find(|other| other.mend.is_some() && other.mend == finding.mend);
        out.push_str(&one(finding, earlier, subject, room));
    }
    out
}

fn title(section: Section) -> &'static str {
    match section {
        Section::Hypervisor => "hypervisor",
        Section::Capabilities => "what machines can do here",
        Section::Host => "host",
        Section::Machine => "machine",
        Section::Memory => "memory",
        Section::Vcpus => "vCPUs",
        Section::Agent => "guest agent",
        Section::Guest => "guest",
    }
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Ok => GOOD,
        Severity::Note => WARN,
        Severity::Missing | Severity::Danger => BAD,
    }
}

/// One finding; `earlier` is one that the same thing mends.
fn one(finding: &Finding, earlier: Option<&Finding>, subject: usize, room: usize) -> String {
    let word = finding.severity.word();
    let name = finding.subject.replace('-', " ");
    let lead = format!("  {word:<SEVERITY$}{name:<subject$}  ");
    let mut out = paragraph(&lead, &finding.found, room);
    out = out.replacen(word, &paint(style(finding.severity), word), 1);
    let indent = " ".repeat(2 + SEVERITY);
    if !finding.reason.is_empty() {
        out.push_str(&paragraph(&indent, &finding.reason, room));
    }
    match (&finding.mend, earlier) {
        (None, _) => {}
        (Some(_), Some(earlier)) => {
            let same = format!("as for {}", earlier.subject.replace('-', " "));
            out.push_str(&paragraph(&format!("{indent}mend: "), &same, room));
        }
        (Some(mend), None) => out.push_str(&mended(mend, &indent, room)),
    }
    out
}

/// A command on one line, however long, so that it can be copied; a sentence as any other.
fn mended(mend: &Mend, indent: &str, room: usize) -> String {
    let (lead, command) = match mend {
        Mend::OnHost(command) => ("on the host: ", command),
        Mend::InGuest(command) => ("in the guest: ", command),
        Mend::ByHand(sentence) => return paragraph(&format!("{indent}mend: "), sentence, room),
    };
    let command = clean(command);
    if width(indent) + width(lead) + width(&command) <= room {
        return format!("{indent}{}{command}\n", paint(DIM, lead));
    }
    format!("{indent}{}\n{indent}  {command}\n", paint(DIM, lead.trim_end()))
}

fn verdict(of: &str, found: &[Finding], room: usize) -> String {
    let subjects = |severity: Severity| -> Vec<String> {
        let of_it = found.iter().filter(|finding| finding.severity == severity);
        of_it.map(|finding| finding.subject.replace('-', " ")).collect()
    };
    let notes = subjects(Severity::Note).len() as u64;
    let noted = if notes == 0 { String::new() } else { format!(", {} to read", count(notes, "note")) };
    if is_ready(found) {
        return format!("{} is {}{noted}.\n", clean(of), paint(GOOD, "ready"));
    }
    let (missing, danger) = (subjects(Severity::Missing), subjects(Severity::Danger));
    let mut out = format!("{} is {}{noted}.\n", clean(of), paint(BAD, "not ready"));
    if !missing.is_empty() {
        out.push_str(&paragraph("  missing: ", &missing.join(", "), room));
    }
    if !danger.is_empty() {
        out.push_str(&paragraph("  danger: ", &danger.join(", "), room));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;
    use scale::doctor::host::{HostFacts, HostSystem, KvmDevice, LibvirtFacts, LimitFacts, QemuFacts, host};
    use scale::doctor::vm;

    fn machine() -> (VmFacts, Vec<Finding>) {
        let facts = example::examined();
        let found = vm::vm(&facts);
        (facts, found)
    }

    fn shown(room: usize) -> String {
        let (facts, found) = machine();
        example::text(&of_machine(&facts, &found, room))
    }

    #[test]
    fn sections_findings_and_what_mends_them_stand_below_each_other() {
        let shown = shown(80);
        let start = "\
web1 (pc-q35-7.2, QEMU 7.2.22, TCG, running)
guest Debian GNU/Linux 12 (bookworm), kernel 6.1.0-44-amd64, agent 7.2.22
while it runs: memory 3 GiB, from 1 GiB to 8 GiB; 3 vCPUs, from 1 to 4

machine
  ok       machine type    pc-q35-7.2
";
        assert!(shown.starts_with(start), "{shown}");
        let missing = "
memory
  missing  memory ceiling  1 GiB, and no room for more
           memory cannot be plugged into a machine that was started without room
           for it; choose how far it may ever grow (four times as far is taken
           here)
           on the host: supple prepare web1 --max-memory 4G --slots 16
";
        assert!(shown.contains(missing), "{shown}");
        let end = "
web1 is not ready, 5 notes to read.
  missing: memory ceiling, vcpu ceiling
  What is missing, in one preparation of its next start:
    on the host: supple prepare web1 --max-memory 4G --slots 16 --max-vcpus 12
";
        assert!(shown.ends_with(end), "{shown}");
    }

    #[test]
    fn a_host_without_qemu_is_told_what_to_install() {
        let debian =
            HostSystem { id: "debian".to_owned(), arch: "x86_64".to_owned(), ..HostSystem::default() };
        let facts = HostFacts {
            system: debian,
            qemu: QemuFacts::Absent("looked for it in PATH".to_owned()),
            kvm: KvmDevice::Absent,
            libvirt: LibvirtFacts::NotBuilt,
            limits: LimitFacts::default(),
        };
        let shown = example::text(&of_host("", &host(&facts), 80));
        let start = "\
this host

hypervisor
  missing  qemu           none was found (looked for it in PATH)
           QEMU runs the machines
           on the host: apt-get install qemu-system-x86
";
        assert!(shown.starts_with(start), "{shown}");
        assert!(shown.ends_with("this host is not ready, 2 notes to read.\n  missing: qemu\n"), "{shown}");
    }

    #[test]
    fn only_commands_are_wider_than_the_room_and_they_stay_whole() {
        let (_, found) = machine();
        for room in [40, 60, 80, 140] {
            let shown = shown(room);
            for line in shown.lines().filter(|line| width(line) > room) {
                let whole =
                    found.iter().filter_map(|finding| finding.mend.as_ref()).any(|m| line.trim() == m.text());
                assert!(whole || line.trim().starts_with("supple "), "{room}: {line}");
            }
        }
    }

    #[test]
    fn a_command_that_mends_twice_is_printed_once() {
        let shown = shown(100);
        let command = "supple guest setup web1";
        assert_eq!(shown.matches(command).count(), 1, "{shown}");
        assert!(shown.contains("mend: as for onlines memory"), "{shown}");
    }

    #[test]
    fn what_a_guest_calls_itself_is_only_shown() {
        let (mut facts, _) = machine();
        let running = facts.running.as_mut().unwrap();
        running.inside.system.as_mut().unwrap().id = "x".to_owned();
        running.inside.system.as_mut().unwrap().name = "evil\u{1b}[2J\u{202e}\n  ok  all is well".to_owned();
        let shown = example::text(&of_machine(&facts, &vm::vm(&facts), 100));
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown}");
        assert!(shown.lines().all(|line| !line.starts_with("  ok  all")), "{shown}");
    }
}
