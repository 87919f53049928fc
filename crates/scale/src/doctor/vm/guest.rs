//! A machine's guest: its system in the support matrix, and what its kernel was built with.

use super::{Case, Running};
use crate::doctor::kernel::{Built, Options};
use crate::doctor::{Finding, Section, Severity};
use crate::guests::{Can, Row};

const SECTION: Section = Section::Guest;

/// What the support matrix says of the guest's system. Also of a machine that does not run.
pub(super) fn matrix(case: &Case<'_>) -> Option<Finding> {
    const SUBJECT: &str = "guest-system";
    let Some(system) = case.system() else {
        let reason = "what its system can take and give back cannot be looked up";
        let finding = Finding::note(SECTION, SUBJECT, "not known", reason);
        return Some(finding.by_hand(
            "have its agent answer, or name its system in the definition (<libosinfo:os id=...>, as virt-install does)",
        ));
    };
    let Some(row) = case.row else {
        let name = if system.name.is_empty() { &system.id } else { &system.name };
        let finding = Finding::note(
            SECTION,
            SUBJECT,
            format!("{name} is not in the support matrix"),
            "what it can take and give back shows when it is tried",
        );
        return Some(finding.on_host("supple doctor --guests"));
    };
    Some(of_row(row))
}

fn of_row(row: &Row) -> Finding {
    const SUBJECT: &str = "guest-system";
    let (m, v) = (row.memory, row.vcpus);
    let found = format!(
        "{}: DIMM add {}, remove {}; virtio-mem {}; vCPU add {}, remove {}",
        row.title(),
        m.add,
        m.remove,
        m.virtio_mem,
        v.add,
        v.remove
    );
    let grows = m.add != Can::No || m.virtio_mem != Can::No;
    let severity = if !grows && v.add == Can::No {
        Severity::Missing
    } else if [m.add, v.add, m.remove, v.remove].iter().all(|can| *can == Can::Yes) {
        Severity::Ok
    } else {
        Severity::Note
    };
    let reason = match (severity, row.note) {
        (Severity::Ok, _) => String::new(),
        (_, "") => "by the support matrix".to_owned(),
        (_, note) => note.to_owned(),
    };
    let finding = Finding { severity, reason, ..Finding::ok(SECTION, SUBJECT, found) };
    match severity {
        Severity::Missing => {
            let mut ways =
                vec!["resize it by a stop and a start", "limit its computing power by --cpu-limit"];
            if m.balloon != Can::No {
                ways.push("take memory, and give it back, by --mechanism balloon");
            }
            finding.by_hand(ways.join("; "))
        }
        Severity::Ok | Severity::Note | Severity::Danger => finding,
    }
}

pub(super) fn running(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(kernel(case, running));
    found.extend(block(case));
    found
}

/// What the kernel was built without.
fn kernel(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    const SUBJECT: &str = "kernel-options";
    if case.guest().is_none() || !case.system().is_some_and(|system| system.is_linux()) {
        return Vec::new();
    }
    let Some((options, source)) = &running.inside.options else {
        let why = running.inside.files_barred.as_deref().unwrap_or("its configuration is nowhere to be read");
        let reason = "whether its kernel takes and gives memory and vCPUs shows when it is tried";
        return vec![Finding::note(SECTION, SUBJECT, format!("not known: {why}"), reason)];
    };
    let mut found: Vec<Finding> = WANTED.iter().filter_map(|wanted| wanted.judge(options, running)).collect();
    if found.is_empty() {
        let seen = ["CONFIG_MEMORY_HOTPLUG", "CONFIG_HOTPLUG_CPU"];
        let known = seen.iter().all(|name| options.get(name).is_some());
        let found_text = if known {
            format!("memory and vCPUs can come and go ({source})")
        } else {
            format!("nothing speaks against it ({source})")
        };
        found.push(Finding::ok(SECTION, SUBJECT, found_text));
    }
    found
}

struct Wanted {
    option: &'static str,
    subject: &'static str,
    without: &'static str,
    severity: Severity,
    /// Whether it matters to this machine.
    matters: fn(&Running) -> bool,
}

const WANTED: &[Wanted] = &[
    Wanted {
        option: "CONFIG_MEMORY_HOTPLUG",
        subject: "kernel-memory-hotplug",
        without: "its kernel takes no new memory at all",
        severity: Severity::Missing,
        matters: |_| true,
    },
    Wanted {
        option: "CONFIG_ACPI_HOTPLUG_MEMORY",
        subject: "kernel-dimms",
        without: "its kernel does not see DIMMs that are plugged",
        severity: Severity::Missing,
        matters: |running| running.seen.memory.virtio_mem.is_empty(),
    },
    Wanted {
        option: "CONFIG_MEMORY_HOTREMOVE",
        subject: "kernel-memory-removal",
        without: "its kernel gives no memory back",
        severity: Severity::Note,
        matters: |_| true,
    },
    Wanted {
        option: "CONFIG_HOTPLUG_CPU",
        subject: "kernel-cpu-hotplug",
        without: "its kernel takes no new vCPUs",
        severity: Severity::Missing,
        matters: |running| running.shape.vcpu_hotplug,
    },
    Wanted {
        option: "CONFIG_ACPI_HOTPLUG_CPU",
        subject: "kernel-acpi-cpus",
        without: "its kernel does not see vCPUs that are plugged",
        severity: Severity::Missing,
        matters: |running| running.shape.vcpu_hotplug && running.shape.arch == "x86_64",
    },
    Wanted {
        option: "CONFIG_VIRTIO_MEM",
        subject: "kernel-virtio-mem",
        without: "its kernel has no driver for the virtio-mem device, which gives it nothing then",
        severity: Severity::Missing,
        matters: |running| !running.seen.memory.virtio_mem.is_empty(),
    },
];

impl Wanted {
    fn judge(&self, options: &Options, running: &Running) -> Option<Finding> {
        let is_out = options.get(self.option) == Some(Built::Out) && (self.matters)(running);
        is_out.then(|| {
            let found = format!("{} is not set", self.option);
            let finding = Finding {
                severity: self.severity,
                ..Finding::note(SECTION, self.subject, found, self.without)
            };
            finding.by_hand("boot it with a kernel of its distribution's that has it, or build one")
        })
    }
}

fn block(case: &Case<'_>) -> Option<Finding> {
    const SUBJECT: &str = "memory-block";
    let block = case.guest()?.block?;
    let limit = case.facts.limits.block_of_large_guests;
    let found = format!("{block}: sizes of DIMMs are multiples of it");
    if block >= limit {
        let reason = "the guest adds memory in blocks as large as that, so it grows in large steps";
        return Some(
            Finding::note(SECTION, SUBJECT, found, reason)
                .by_hand("for smaller steps give it a virtio-mem device"),
        );
    }
    Some(Finding::ok(SECTION, SUBJECT, found))
}
