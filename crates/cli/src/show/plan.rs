//! A plan as a table: steps that stand or fall together are bracketed, under the way in which they change the machine.

use scale::observed::Machine;
use scale::plan::{Act, Plan, Proof, Sizes, Step, Strength};
use scale::setting::Setting;
use scale::time::Span;

use crate::driver::Definition;
use crate::paint::{BOLD, DIM, GOOD, PLAIN, WARN, paint};
use crate::show::{aside, headline, limits, paragraph};
use crate::table::{Cell, Column, Table};

const COLUMNS: [Column; 5] = [
    Column { title: "", wraps: false },
    Column { title: "step", wraps: true },
    Column { title: "proof", wraps: true },
    Column { title: "deadline", wraps: false },
    Column { title: "undo", wraps: true },
];

/// What to know where the guest cannot be asked to online memory.
const UP_TO_THE_GUEST: &str = "the guest has to put the new memory to use by itself; where it does not, \
    `supple guest udev-rule` prints the rule that makes it";

/// True where the guest is waited for and a rule in it would help. A system that is not asked back what was plugged has no
/// such rules, nor any need of them.
fn is_up_to_the_guest(step: &Step, plan: &Plan) -> bool {
    let Act::AwaitOnline { device } = &step.act else { return false };
    let mut plugs = plan.steps.iter().filter(|step| step.undo.is_empty());
    !plugs.any(|plug| matches!(&plug.act, Act::PlugDimm { id, .. } if id == device))
}

/// What a plan is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To look at.
    Look(Definition),
    /// To be carried out, perhaps after a question.
    Apply(Definition),
}

/// The whole plan in `room` columns.
pub(crate) fn plan(plan: &Plan, machine: &Machine, address: &str, purpose: Purpose, room: usize) -> String {
    let mut out = headline(machine, address, room);
    if plan.steps.is_empty() {
        out.push_str(&nothing_to_do(plan));
    } else {
        out.push_str(&paragraph("", &changes(plan), room));
        out.push_str(&format!("\n{}", table(plan).render(room)));
    }
    if !plan.notes.is_empty() || !plan.unmet.is_empty() {
        out.push('\n');
    }
    for unmet in &plan.unmet {
        out.push_str(&paragraph("PARTIAL: ", &unmet.why, room).replacen(
            "PARTIAL",
            &paint(WARN, "PARTIAL"),
            1,
        ));
        out.push_str(&paragraph("by hand: ", &unmet.by_hand, room));
    }
    for note in &plan.notes {
        out.push_str(&paragraph("note: ", note, room));
    }
    if plan.steps.iter().any(|step| is_up_to_the_guest(step, plan)) {
        out.push_str(&paragraph("note: ", UP_TO_THE_GUEST, room));
    }
    if !plan.steps.is_empty() {
        out.push('\n');
        out.push_str(&aside("", &foot(plan, purpose), room));
    }
    out
}

fn nothing_to_do(plan: &Plan) -> String {
    let Sizes { memory, vcpus } = plan.from;
    let sizes = [crate::show::sizes(Some(memory), Some(vcpus))];
    let all: Vec<String> = sizes.into_iter().chain(limits::wish(&plan.asked)).collect();
    format!("nothing to do: {} already\n", all.join(", "))
}

/// All that changes; sizes of memory and vCPUs only where nothing but those, or they too, were asked for.
fn changes(plan: &Plan) -> String {
    let further = limits::changes(plan);
    let sizes = plan.asked.memory.is_some() || plan.asked.vcpus.is_some() || further.is_empty();
    let sizes = sizes.then(|| change(plan.from, plan.to));
    sizes.into_iter().chain(further).collect::<Vec<_>>().join(", ")
}

/// `memory 1 GiB -> 3 GiB, vCPUs 1 -> 3`; a size that stays is said to stay.
pub(crate) fn change(from: Sizes, to: Sizes) -> String {
    let memory = if from.memory == to.memory {
        format!("memory stays {}", from.memory)
    } else {
        format!("memory {} -> {}", from.memory, to.memory)
    };
    let vcpus = if from.vcpus == to.vcpus {
        format!("vCPUs stay {}", from.vcpus)
    } else {
        format!("vCPUs {} -> {}", from.vcpus, to.vcpus)
    };
    format!("{memory}, {vcpus}")
}

fn foot(plan: &Plan, purpose: Purpose) -> String {
    let longest: u64 = plan.steps.iter().map(|s| s.deadline.as_millis()).sum();
    let together = plan.steps.windows(2).any(|pair| pair[0].group == pair[1].group);
    let mut foot = format!("It ends within {}, undo not counted.", Span::millis(longest));
    if together {
        foot.push_str(" Bracketed steps stand or are taken back together.");
    }
    match purpose {
        Purpose::Look(definition) => {
            foot.push_str(next_start(definition));
            foot.push_str(" Nothing was changed: the same words with `apply` do it.");
        }
        Purpose::Apply(definition) => foot.push_str(next_start(definition)),
    }
    foot
}

fn next_start(definition: Definition) -> &'static str {
    match definition {
        Definition::Unknown => "",
        Definition::Follows => " Its definition in libvirt follows, so its next start has the same.",
        Definition::Stays => {
            " Its definition in libvirt stays as it is, so all of this is gone at its next start."
        }
        Definition::Transient => " The machine is transient: it has no next start.",
    }
}

fn table(plan: &Plan) -> Table {
    let mut table = Table::new(&COLUMNS);
    let mut last = None;
    let digits = plan.steps.len().to_string().len();
    for (index, step) in plan.steps.iter().enumerate() {
        let starts = index.checked_sub(1).is_none_or(|before| plan.steps[before].group != step.group);
        let ends = plan.steps.get(index + 1).is_none_or(|after| after.group != step.group);
        if starts && last != Some(way(&step.act)) {
            if last.is_some() {
                table.blank();
            }
            last = Some(way(&step.act));
            table.heading(format!("{}  {}", paint(GOOD, "LIVE"), paint(BOLD, way(&step.act))));
        }
        let bracket = match (starts, ends) {
            (true, true) => ' ',
            (true, false) => '\u{250c}',
            (false, false) => '\u{2502}',
            (false, true) => '\u{2514}',
        };
        table.row([
            Cell::new(&format!("{:>digits$} {bracket}", index + 1), PLAIN).indent(),
            step.act.to_string().into(),
            proof(step).into(),
            step.deadline.to_string().into(),
            undo(step),
        ]);
    }
    table
}

/// The proof, and its strength where a guest that can be asked would give a stronger one.
fn proof(step: &Step) -> String {
    if let Proof::DimmSeen { .. } = step.proof {
        match step.strength {
            Strength::GuestConfirmed => {}
            strength @ Strength::DriverConfirmed => {
                return format!("the guest's driver acknowledges it ({strength})");
            }
            strength @ Strength::DeviceOnly => {
                return format!("QEMU lists it; better: the guest's driver acknowledges it ({strength})");
            }
        }
    }
    let asks_qemu = matches!(step.proof, Proof::DimmPlugged { .. });
    let weak = step.strength != Strength::GuestConfirmed && is_for_the_guest_to_show(&step.act) && !asks_qemu;
    if weak { format!("{} ({})", step.proof, step.strength) } else { step.proof.to_string() }
}

fn is_for_the_guest_to_show(act: &Act) -> bool {
    match act {
        Act::PlugDimm { .. }
        | Act::MakeKnown { .. }
        | Act::OnlineBlocks { .. }
        | Act::OfflineBlocks { .. }
        | Act::PlugVcpu { .. }
        | Act::AwaitOnline { .. }
        | Act::OnlineVcpus { .. }
        | Act::GrowDisk { .. }
        | Act::GrowInGuest { .. } => true,
        Act::CreateBackend { .. }
        | Act::DeleteBackend { .. }
        | Act::UnplugDimm { .. }
        | Act::ResizeVirtioMem { .. }
        | Act::SettleVirtioMem { .. }
        | Act::SetBalloon { .. }
        | Act::UnplugVcpu { .. }
        | Act::Set { .. } => false,
    }
}

fn undo(step: &Step) -> Cell {
    if step.undo.is_empty() {
        let forever = matches!(step.act, Act::GrowDisk { .. } | Act::GrowInGuest { .. });
        let stays = matches!(step.act, Act::PlugDimm { .. } | Act::PlugVcpu { .. });
        let none = match (step.act.has_no_cancel(), forever) {
            (true, _) => "cannot be withdrawn",
            (false, true) => "no way back",
            (false, false) if stays => "none: it stays",
            (false, false) => "none needed",
        };
        return Cell::new(none, DIM);
    }
    let acts: Vec<String> = step.undo.iter().map(|act| undo_of(act, &step.act)).collect();
    Cell::new(&acts.join("; "), DIM)
}

/// An undo beside the step that it takes back, of which the reader knows already what it is about.
fn undo_of(undo: &Act, step: &Act) -> String {
    let short = match (undo, step) {
        (Act::DeleteBackend { memdev }, Act::CreateBackend { memdev: made, .. }) if memdev == made => {
            "give it back"
        }
        (Act::UnplugDimm { id, .. }, Act::PlugDimm { id: plugged, .. }) if id == plugged => "unplug it",
        (Act::UnplugVcpu { id }, Act::PlugVcpu { id: plugged, .. }) if id == plugged => "unplug it",
        (
            Act::OfflineBlocks { device },
            Act::OnlineBlocks { device: of, .. } | Act::MakeKnown { device: of, .. },
        ) if device == of => "take them offline",
        (Act::OnlineBlocks { device, .. }, Act::OfflineBlocks { device: emptied }) if device == emptied => {
            "online them"
        }
        (Act::SettleVirtioMem { id }, Act::ResizeVirtioMem { id: resized, .. }) if id == resized => {
            "settle it at what the guest holds"
        }
        (Act::SetBalloon { to, .. }, Act::SetBalloon { .. }) => return format!("set it back to {to}"),
        (Act::Set { to, .. }, Act::Set { from, .. }) if to == from => {
            return format!("set it back to {}", to.value());
        }
        (undo, _) => return undo.to_string(),
    };
    short.to_owned()
}

/// In which way a group that begins with `act` changes the machine.
pub(crate) fn way(act: &Act) -> &'static str {
    match act {
        Act::CreateBackend { .. }
        | Act::PlugDimm { .. }
        | Act::UnplugDimm { .. }
        | Act::OfflineBlocks { .. } => "memory by DIMM",
        Act::MakeKnown { .. } | Act::OnlineBlocks { .. } | Act::AwaitOnline { .. } => "memory put to use",
        Act::DeleteBackend { .. } => "host memory left over",
        Act::ResizeVirtioMem { .. } | Act::SettleVirtioMem { .. } => "memory by virtio-mem",
        Act::SetBalloon { .. } => "memory by balloon",
        Act::PlugVcpu { .. } | Act::UnplugVcpu { .. } | Act::OnlineVcpus { .. } => "vCPUs",
        Act::Set { to, .. } => match &**to {
            Setting::CpuPower(_) => "CPU power",
            Setting::DiskIo { .. } => "disk I/O limits",
            Setting::NicRate { .. } | Setting::IpRate { .. } => "traffic limits",
            Setting::Memory { .. } | Setting::Locked { .. } => "memory and its limit",
        },
        Act::GrowDisk { .. } | Act::GrowInGuest { .. } => "disks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example;

    fn shown(what: &Plan, purpose: Purpose, room: usize) -> String {
        example::text(&plan(what, &example::observed().machine, "qmp:/q", purpose, room))
    }

    #[test]
    fn what_becomes_of_the_definition_is_said() {
        let shown = |purpose| {
            let seen = example::observed();
            example::text(&plan(&example::plan(), &seen.machine, "web1", purpose, 400))
        };
        assert!(!shown(Purpose::Apply(Definition::Unknown)).contains("definition"));
        assert!(shown(Purpose::Apply(Definition::Follows)).contains("its next start has the same"));
        assert!(shown(Purpose::Apply(Definition::Stays)).contains("is gone at its next start"));
        assert!(
            shown(Purpose::Look(Definition::Transient)).contains("it has no next start. Nothing was changed")
        );
    }

    #[test]
    fn groups_are_bracketed_under_their_mechanism() {
        let expected = "\
web1 (pc-q35-7.2, QEMU 7.2.22, TCG, running)
memory 1 GiB -> 3 GiB, vCPUs 1 -> 2

       step                             proof                            deadline  undo
LIVE  memory by DIMM
  1 \u{250c}  make 2 GiB of host memory        QEMU lists it                    30 s      give it back
       supple-mem0
  2 \u{2502}  plug DIMM supple-dimm0 into      the guest shows its blocks       30 s      unplug it
       slot 0, node 0
  3 \u{2514}  online the blocks of             the guest shows its blocks       30 s      take them offline
       supple-dimm0, movable            online

LIVE  vCPUs
  4    plug vCPU supple-cpu1            the guest shows 2 vCPUs          30 s      unplug it
                                        (driver-confirmed)

note: boot memory and boot vCPUs stay

It ends within 2 min, undo not counted. Bracketed steps stand or are taken back together. Nothing
was changed: the same words with `apply` do it.
";
        assert_eq!(shown(&example::plan(), Purpose::Look(Definition::Unknown), 100), expected);
    }

    #[test]
    fn what_is_about_to_be_applied_is_not_said_to_change_nothing() {
        assert!(!shown(&example::plan(), Purpose::Apply(Definition::Unknown), 100).contains("Nothing"));
    }

    #[test]
    fn a_guest_that_must_be_told_of_its_memory_is_no_weaker_proof() {
        let mut plan = example::plan();
        let device = "supple-dimm0".to_owned();
        plan.steps[1].proof = Proof::DimmPlugged { id: device.clone() };
        plan.steps[1].strength = Strength::DeviceOnly;
        plan.steps[2].act = Act::MakeKnown { device, after: Span::secs(2) };
        let shown = shown(&plan, Purpose::Apply(Definition::Unknown), 250);
        assert!(shown.contains("tell the guest of the blocks of supple-dimm0 that it has not found in 2 s"));
        assert!(shown.contains("take them offline") && !shown.contains("(device-only)"), "{shown}");
    }

    #[test]
    fn a_plan_without_steps_says_that_there_is_nothing_to_do() {
        let mut plan = example::plan();
        (plan.steps, plan.to, plan.notes) = (Vec::new(), plan.from, Vec::new());
        let shown = shown(&plan, Purpose::Look(Definition::Unknown), 100);
        assert!(shown.ends_with("\nnothing to do: memory 1 GiB, 1 vCPU already\n"), "{shown}");
    }

    #[test]
    fn a_removal_that_cannot_be_withdrawn_says_so() {
        let mut plan = example::plan();
        plan.steps.truncate(1);
        plan.steps[0].act = Act::UnplugVcpu { id: "supple-cpu1".to_owned() };
        plan.steps[0].undo.clear();
        assert!(shown(&plan, Purpose::Look(Definition::Unknown), 120).contains("cannot be withdrawn"));
    }

    #[test]
    fn numbers_stand_below_each_other() {
        let mut plan = example::plan();
        plan.steps = plan.steps.iter().cycle().take(12).cloned().collect();
        let shown = shown(&plan, Purpose::Look(Definition::Unknown), 120);
        assert!(shown.contains("\n   9") && shown.contains("\n  10"), "{shown}");
    }

    #[test]
    fn what_is_up_to_the_guest_is_said_to_be() {
        let mut plan = example::plan();
        plan.steps[2].act = Act::AwaitOnline { device: "supple-dimm0".to_owned() };
        assert!(
            shown(&plan, Purpose::Apply(Definition::Unknown), 200)
                .contains("`supple guest udev-rule` prints the rule")
        );
        assert!(!shown(&example::plan(), Purpose::Apply(Definition::Unknown), 200).contains("udev-rule"));
    }

    #[test]
    fn an_undo_of_something_else_is_named_in_full() {
        let step = Act::PlugVcpu { id: "a".to_owned(), driver: String::new(), props: Default::default() };
        assert_eq!(undo_of(&Act::UnplugVcpu { id: "a".to_owned() }, &step), "unplug it");
        assert_eq!(undo_of(&Act::UnplugVcpu { id: "b".to_owned() }, &step), "unplug vCPU b");
    }

    #[test]
    fn a_change_tells_what_stays() {
        let sizes = |gib, vcpus| Sizes { memory: scale::units::Bytes::gib(gib), vcpus };
        assert_eq!(change(sizes(1, 1), sizes(1, 2)), "memory stays 1 GiB, vCPUs 1 -> 2");
        assert_eq!(change(sizes(1, 1), sizes(2, 1)), "memory 1 GiB -> 2 GiB, vCPUs stay 1");
    }
}
