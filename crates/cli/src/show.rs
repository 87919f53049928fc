//! How values read on a terminal: from the core's types to text, and nothing else. No command prints by itself.

pub(crate) mod doctor;
pub(crate) mod guests;
pub(crate) mod limits;
#[cfg(feature = "libvirt")]
pub(crate) mod list;
pub(crate) mod observed;
pub(crate) mod plan;
#[cfg(feature = "libvirt")]
pub(crate) mod prepare;
#[cfg(feature = "libvirt")]
pub(crate) mod reconcile;
pub(crate) mod refusal;
pub(crate) mod report;

use scale::history::OpenRun;
use scale::observed::{Accel, Guest, Machine, Observed};
use scale::plan::Asked;
use scale::units::Bytes;
use scale::wanted::{Wanted, ZoneWish};

use crate::paint::{BOLD, DIM, paint};
use crate::words::{as_value, clean, wrap};

/// What a machine is called: QEMU's name for it, else how the user named it.
pub(crate) fn name_of(machine: &Machine, address: &str) -> String {
    clean(machine.name.as_deref().unwrap_or(address))
}

/// `web1 (pc-q35-7.2, QEMU 7.2.22, TCG, running)`.
pub(crate) fn headline(machine: &Machine, address: &str, room: usize) -> String {
    let accel = match machine.accel {
        Accel::Kvm => "KVM, ",
        Accel::Tcg => "TCG, ",
        Accel::Unknown => "",
    };
    let name = name_of(machine, address);
    let busy: String = machine.busy.iter().map(|what| format!(", {what}")).collect();
    let rest = format!("({}, QEMU {}, {accel}{}{busy})", machine.kind, machine.qemu, machine.state);
    let line = paragraph("", &format!("{name} {rest}"), room);
    line.replacen(&name, &paint(BOLD, &name), 1)
}

/// The guest: its system, kernel and agent, or why nothing is known.
pub(crate) fn guest_line(seen: &Observed, room: usize) -> String {
    match &seen.guest {
        Guest::Unheard(why) => paragraph("guest not heard: ", why, room),
        Guest::Heard(facts) => {
            let kernel = facts.kernel.as_deref().map(|k| format!("kernel {k}"));
            let agent =
                Some(format!("agent {}", facts.agent_version)).filter(|_| !facts.agent_version.is_empty());
            let parts = [facts.os.clone(), kernel, agent];
            paragraph("guest ", &parts.into_iter().flatten().collect::<Vec<_>>().join(", "), room)
        }
    }
}

/// `--memory 3GiB --vcpus 3`, and how it was wanted: `--mechanism balloon`.
pub(crate) fn as_options(asked: &Asked, wanted: &Wanted) -> String {
    let memory = asked.memory.map(|m| format!("--memory {}", as_value(m)));
    let vcpus = asked.vcpus.map(|v| format!("--vcpus {v}"));
    let mechanism = wanted.mechanism.map(|m| format!("--mechanism {m}"));
    let node = wanted.node.map(|n| format!("--node {n}"));
    let zone = match wanted.zone {
        ZoneWish::Auto => None,
        ZoneWish::Movable => Some("--zone movable".to_owned()),
        ZoneWish::Kernel => Some("--zone kernel".to_owned()),
    };
    let further = limits::as_options(asked, wanted);
    [memory, vcpus, mechanism, node, zone].into_iter().flatten().chain(further).collect::<Vec<_>>().join(" ")
}

/// All that is asked for: `memory 3 GiB, 3 vCPUs, disk vda 40 GiB`.
pub(crate) fn wish(asked: &Asked) -> String {
    let sizes = Some(sizes(asked.memory, asked.vcpus)).filter(|sizes| !sizes.is_empty());
    sizes.into_iter().chain(limits::wish(asked)).collect::<Vec<_>>().join(", ")
}

/// `memory 3 GiB, 3 vCPUs`.
pub(crate) fn sizes(memory: Option<Bytes>, vcpus: Option<u32>) -> String {
    let memory = memory.map(|m| format!("memory {m}"));
    let vcpus = vcpus.map(|v| crate::words::count(v.into(), "vCPU"));
    [memory, vcpus].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How far an unfinished run came: `after 2 of 7 steps, at: plug DIMM ...`.
pub(crate) fn how_far(open: &OpenRun) -> String {
    let of = open.plan.steps.len();
    let at = open.sending.and_then(|place| place.act(&open.plan)).map(|act| format!(", at: {act}"));
    clean(&format!("after {} of {of} steps{}", open.proven, at.unwrap_or_default()))
}

/// A paragraph of `room` columns whose further lines are indented as its first line's text.
pub(crate) fn paragraph(lead: &str, text: &str, room: usize) -> String {
    let indent = crate::words::width(lead);
    let mut out = String::new();
    for (nth, line) in wrap(&clean(text), room.saturating_sub(indent)).iter().enumerate() {
        if nth == 0 {
            out.push_str(lead);
        } else {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// The same in the style of what may be skipped.
pub(crate) fn aside(lead: &str, text: &str, room: usize) -> String {
    paragraph(lead, text, room).lines().map(|line| format!("{}\n", paint(DIM, line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scale::wanted::Mechanism;

    #[test]
    fn options_ask_for_the_same_again() {
        let asked = Asked { memory: Some(Bytes::mib(1536)), vcpus: Some(2), ..Asked::default() };
        assert_eq!(as_options(&asked, &Wanted::default()), "--memory 1.5GiB --vcpus 2");
        let wanted = Wanted {
            mechanism: Some(Mechanism::Balloon),
            node: Some(1),
            zone: ZoneWish::Movable,
            ..Wanted::default()
        };
        let memory = Asked { vcpus: None, ..asked };
        assert_eq!(
            as_options(&memory, &wanted),
            "--memory 1.5GiB --mechanism balloon --node 1 --zone movable"
        );
    }

    #[test]
    fn a_name_that_a_terminal_would_obey_is_only_shown() {
        let machine =
            Machine { name: Some("web\u{1b}]0;x\u{7}1".to_owned()), ..crate::example::observed().machine };
        let shown = crate::example::text(&headline(&machine, "qmp:/q", 100));
        assert_eq!(shown, "web ]0;x 1 (pc-q35-7.2, QEMU 7.2.22, TCG, running)\n");
        let nameless = Machine { name: None, ..machine };
        assert!(crate::example::text(&headline(&nameless, "qmp:/q", 100)).starts_with("qmp:/q (pc-q35-7.2"));
    }
}
