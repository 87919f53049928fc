//! What kind of machine it is: machine type, ACPI, firmware, what occupies it.

use super::{Board, Case, Firmware, Running, Shape};
use crate::doctor::{Finding, Section};
use crate::generations::DIES_AFTER_A_VCPU_REMOVAL;
use crate::observed::Accel;

const SECTION: Section = Section::Machine;

pub(super) fn of_shape(shape: &Shape) -> Vec<Finding> {
    let mut found = vec![machine_type(shape), acpi(shape)];
    found.extend(firmware(shape));
    found.extend(confidential(shape));
    found.extend(raw(shape));
    found
}

pub(super) fn running(case: &Case<'_>, running: &Running) -> Vec<Finding> {
    let mut found = vec![state(case, running)];
    found.extend(pending(case, running));
    found.extend(known_dangers(running));
    found
}

fn machine_type(shape: &Shape) -> Finding {
    const SUBJECT: &str = "machine-type";
    let name = if shape.machine.is_empty() { "the architecture's first" } else { &shape.machine };
    let other = "take a machine type with hot-plug: q35 or pc on x86_64, virt on aarch64, pseries on ppc64";
    match shape.board {
        Board::Pluggable => Finding::ok(SECTION, SUBJECT, name),
        Board::Fixed => {
            let reason = "memory and vCPUs of this machine type are what they were at its start";
            Finding::missing(SECTION, SUBJECT, name, reason).by_hand(other)
        }
        Board::TooOld => {
            let reason = "it is older than memory hot-plug, which began with the machine types of QEMU 2.1 (virt: 4.2)";
            Finding::missing(SECTION, SUBJECT, name, reason).by_hand("take a newer one of its kind")
        }
        Board::Unknown => {
            let reason =
                "Supple does not know this machine type; what it can do shows in what QEMU says of it";
            Finding::note(SECTION, SUBJECT, name, reason)
        }
    }
}

fn acpi(shape: &Shape) -> Finding {
    const SUBJECT: &str = "acpi";
    // POWER and Z tell their guests otherwise.
    if matches!(shape.arch.as_str(), "ppc64" | "ppc64le" | "s390x") {
        return Finding::ok(SECTION, SUBJECT, "not needed on this architecture");
    }
    match shape.acpi {
        Some(true) => Finding::ok(SECTION, SUBJECT, "on"),
        Some(false) => {
            let reason = "guests hear of new DIMMs and vCPUs by ACPI, so none can be plugged";
            let mend = if shape.arch == "aarch64" {
                "add <acpi/> to <features> and UEFI firmware (<os firmware='efi'>); on plain QEMU, leave acpi=off out \
                 and give it UEFI"
            } else {
                "add <acpi/> to <features> of its definition; on plain QEMU, leave acpi=off and -no-acpi out"
            };
            Finding::missing(SECTION, SUBJECT, "off", reason).by_hand(mend)
        }
        None => Finding::note(SECTION, SUBJECT, "not known", "guests hear of new DIMMs and vCPUs by it"),
    }
}

fn firmware(shape: &Shape) -> Option<Finding> {
    const SUBJECT: &str = "firmware";
    match shape.firmware {
        Firmware::Unknown => None,
        Firmware::Bios => Some(Finding::ok(SECTION, SUBJECT, "BIOS")),
        Firmware::Uefi => Some(Finding::ok(SECTION, SUBJECT, "UEFI")),
        Firmware::UefiSecure => Some(
            Finding::note(
                SECTION,
                SUBJECT,
                "UEFI with system management mode (secure boot)",
                "this firmware must agree to each new vCPU, and some do not: QEMU then refuses with \"cpu hotplug with \
                 SMI wasn't enabled by firmware\"",
            )
            .by_hand("take machine type 5.2 or later to add vCPUs, 6.0 or later to remove them, and an OVMF of that age"),
        ),
    }
}

fn confidential(shape: &Shape) -> Option<Finding> {
    let kind = shape.confidential.as_ref()?;
    let reason = "the host cannot read or discard such memory: virtio-mem and the balloon give nothing back, and \
                  plugged memory may be refused";
    Some(
        Finding::note(SECTION, "launch-security", kind.clone(), reason)
            .by_hand("resize it by a stop and a start"),
    )
}

fn raw(shape: &Shape) -> Option<Finding> {
    (!shape.raw.is_empty()).then(|| {
        let found = format!("QEMU gets arguments past libvirt: {}", shape.raw.join(" "));
        let reason = "neither libvirt nor Supple sees what they do to memory and vCPUs";
        Finding::note(SECTION, "raw-arguments", found, reason)
    })
}

fn state(case: &Case<'_>, running: &Running) -> Finding {
    const SUBJECT: &str = "state";
    let machine = &running.seen.machine;
    if !machine.busy.is_empty() {
        let found = format!("{}, with {}", machine.state, machine.busy.join(", "));
        let reason = "QEMU refuses to plug and unplug meanwhile";
        return Finding::note(SECTION, SUBJECT, found, reason).by_hand("wait for its end, then resize");
    }
    if !machine.is_running() {
        let reason = "a guest that does not run takes nothing and gives nothing back";
        let finding = Finding::missing(SECTION, SUBJECT, machine.state.clone(), reason);
        return match &case.called().domain {
            Some((uri, name)) => finding.on_host(format!("virsh -c {uri} resume {name}")),
            None => finding.by_hand("let it run on: `cont` on its monitor"),
        };
    }
    Finding::ok(SECTION, SUBJECT, machine.state.clone())
}

fn pending(case: &Case<'_>, running: &Running) -> Option<Finding> {
    let pending = &running.seen.pending;
    let ids: Vec<&str> = pending.iter().map(|pending| pending.device.id()).collect();
    (!ids.is_empty()).then(|| {
        let found = format!("{} asked to go and not gone", ids.join(", "));
        let reason =
            "a removal has no cancel: the guest may still grant it, at the next memory event for one";
        Finding::note(SECTION, "pending-removals", found, reason).on_host(case.called().supple("observe", ""))
    })
}

/// What ends an emulated QEMU (docs/qemu.md).
fn known_dangers(running: &Running) -> Vec<Finding> {
    match running.seen.machine.accel {
        Accel::Tcg => {
            let found = [after_removal(running), too_many_vcpus(running), one_thread(running)];
            found.into_iter().flatten().collect()
        }
        Accel::Kvm | Accel::Unknown => Vec::new(),
    }
}

fn after_removal(running: &Running) -> Option<Finding> {
    let machine = &running.seen.machine;
    (DIES_AFTER_A_VCPU_REMOVAL.concerns(machine) && running.seen.vcpus.removed_before).then(|| {
        let found = format!("a vCPU was removed, and this is QEMU {} without KVM", machine.qemu);
        let reason = "this QEMU ends (\"double free\") when a DIMM comes or goes, or a vCPU comes, after a vCPU was \
                      removed; Supple refuses such a change";
        Finding::danger(SECTION, "emulated-vcpu-removal", found, reason)
            .by_hand("stop it and start it again before it is resized, or run it with KVM or QEMU 10.0")
    })
}

/// Some places cannot be filled any more: QEMU has used up what it has for them.
fn too_many_vcpus(running: &Running) -> Option<Finding> {
    let vcpus = &running.seen.vcpus;
    let (started, ceiling) = (vcpus.started(), vcpus.ceiling());
    (started > vcpus.plugged()).then(|| {
        let found = format!(
            "{started} vCPUs were started in this QEMU's life, so {} more can be",
            ceiling.saturating_sub(started)
        );
        let reason = format!(
            "QEMU ends itself without KVM when it has started more than {ceiling}, those that are gone counted in; \
             Supple refuses that"
        );
        Finding::note(SECTION, "emulated-vcpus", found, &reason).by_hand("stop it and start it again, or use KVM")
    })
}

fn one_thread(running: &Running) -> Option<Finding> {
    running.seen.vcpus.one_thread.then(|| {
        let reason = "this QEMU ends when a vCPU is removed; Supple refuses that";
        Finding::note(SECTION, "emulated-on-one-thread", "QEMU runs all vCPUs on one thread", reason)
            .by_hand("start it with -accel tcg,thread=multi, or use KVM")
    })
}
