//! What is planned for a guest whose agent says that it is a Windows: what is never asked of it, and what counts as proof
//! there. The facts are played.

use crate::machine::{facts, machine, with_dimm};
use crate::steps::{memory, planned, refused, vcpus, written};
use scale::audit::audit;
use scale::guests::System;
use scale::limits::Limits;
use scale::observed::{Balloon, BalloonStats, GuestVcpu, Observed, VcpuState};
use scale::plan::{Act, Plan, Proof, Strength};
use scale::units::Bytes;
use scale::wanted::{Mechanism, Wanted};

/// The plain machine with a Windows in it: its agent shows vCPUs, and neither blocks nor memory.
fn windows(version: &str, name: &str) -> Observed {
    let mut seen = machine();
    let facts = facts(&mut seen);
    facts.system = Some(System::of_agent("mswindows", version, name, "x86_64"));
    facts.os_id = Some("mswindows".into());
    (facts.block, facts.meminfo, facts.auto_online) = (None, None, None);
    facts.blocks.clear();
    facts.commands.retain(|command| !command.contains("memory-block") && command != "guest-set-vcpus");
    facts.vcpus = vec![GuestVcpu { id: 0, online: true, can_offline: false }];
    seen
}

fn server() -> Observed {
    windows("2022", "Windows Server 2022 Standard")
}

/// The same with virtio-win's balloon driver, which tells its count.
fn with_balloon(mut seen: Observed) -> Observed {
    let stats = BalloonStats {
        at: seen.at,
        total: Bytes::mib(1000),
        available: Bytes::mib(800),
        free: Bytes::mib(800),
    };
    seen.memory.balloon = Some(Balloon { actual: seen.memory.boot, stats: Some(stats) });
    seen
}

fn sound(seen: &Observed, wanted: &Wanted) -> Plan {
    let plan = planned(seen, wanted);
    let findings = audit(&plan, seen, &Limits::default());
    assert!(findings.is_empty(), "{findings:?}");
    plan
}

#[test]
fn a_dimm_is_plugged_and_never_asked_back() {
    for seen in [server(), with_balloon(server()), windows("2031", "Windows Server 2031 Standard")] {
        let plan = sound(&seen, &memory("3G"));
        let plugs = plan.steps.iter().filter(|step| matches!(step.act, Act::PlugDimm { .. }));
        assert!(plugs.clone().count() >= 1);
        for plug in plugs {
            assert_eq!(plug.undo, [], "a Windows that is asked for a DIMM never answers");
        }
        assert!(plan.notes.iter().any(|note| note.contains("what is plugged stays")), "{:?}", plan.notes);
    }
}

#[test]
fn without_any_count_of_memory_qemus_word_is_all_that_is_promised() {
    let plan = sound(&server(), &memory("2G"));
    assert_eq!(
        written(&plan),
        ["0 make 1 GiB of host memory supple-mem0", "0 plug DIMM supple-dimm0 into slot 0, node 0"]
    );
    let plug = &plan.steps[1];
    assert_eq!(
        (&plug.proof, plug.strength),
        (&Proof::DimmSeen { id: "supple-dimm0".into() }, Strength::DeviceOnly)
    );
    assert_eq!(plug.deadline, Limits::default().acknowledge);
}

#[test]
fn the_balloon_drivers_count_shows_that_a_dimm_was_taken_in() {
    let plan = sound(&with_balloon(server()), &memory("2G"));
    assert_eq!(
        written(&plan),
        [
            "0 make 1 GiB of host memory supple-mem0",
            "0 plug DIMM supple-dimm0 into slot 0, node 0",
            "1 wait for the guest to take supple-dimm0 in",
        ],
        "what is waited for is no part of the plug: nothing is taken back beneath the DIMM"
    );
    let (Proof::GuestTotal { at_least }, strength) = (&plan.steps[2].proof, plan.steps[2].strength) else {
        panic!("{:?}", plan.steps[2]);
    };
    assert_eq!((*at_least, strength), (Bytes::mib(1000 + 1024 - 32), Strength::DriverConfirmed));
}

#[test]
fn a_vcpu_is_plugged_shown_by_the_agent_and_never_asked_back() {
    let plan = sound(&server(), &vcpus("3"));
    assert_eq!(written(&plan), ["0 plug vCPU supple-vcpu0", "1 plug vCPU supple-vcpu1"]);
    for step in &plan.steps {
        assert_eq!((step.strength, step.undo.as_slice()), (Strength::GuestConfirmed, [].as_slice()));
    }
    assert!(plan.notes.iter().any(|note| note.contains("gives no vCPU back")), "{:?}", plan.notes);
}

#[test]
fn shrinking_is_cold_and_says_what_can_be_had_now() {
    let mut seen = with_balloon(server());
    seen.vcpus.slots[1].state = VcpuState::Device("supple-vcpu0".into());
    let said = refused(&seen, &vcpus("1")).to_string();
    assert!(said.contains("COLD") && said.contains("--cpu-limit 1"), "{said}");
    let said = refused(&seen, &memory("512M")).to_string();
    assert!(said.contains("COLD") && said.contains("--mechanism balloon --memory 512M"), "{said}");
    let by_balloon = Wanted { mechanism: Some(Mechanism::Balloon), ..memory("768M") };
    assert_eq!(written(&sound(&seen, &by_balloon)), ["0 set the balloon's target from 1 GiB to 768 MiB"]);
}

#[test]
fn a_guest_that_cannot_tell_what_it_uses_gives_by_balloon_after_a_word_of_warning() {
    let mut seen = server();
    seen.memory.balloon = Some(Balloon { actual: Bytes::gib(1), stats: None });
    let by_balloon = Wanted { mechanism: Some(Mechanism::Balloon), ..memory("512M") };
    let plan = sound(&seen, &by_balloon);
    assert!(plan.notes.iter().any(|note| note.contains("might be needed") && note.contains("--memory 1G")));
    // A Linux could tell, so it is to.
    facts(&mut seen).system = Some(System::of_agent("debian", "12", "Debian 12", "x86_64"));
    assert!(refused(&seen, &by_balloon).to_string().contains("does not tell how much memory it uses"));
}

#[test]
fn an_edition_without_hot_add_is_asked_for_nothing() {
    let seen = with_balloon(windows("2008r2", "Windows Server 2008 R2 Standard"));
    for wanted in [memory("2G"), vcpus("2")] {
        let said = refused(&seen, &wanted).to_string();
        assert!(said.contains("COLD") && said.contains("2008 R2, Standard"), "{said}");
    }
    let datacenter = windows("2008r2", "Windows Server 2008 R2 Datacenter");
    assert!(!sound(&datacenter, &memory("2G")).steps.is_empty());
}

#[test]
fn a_client_windows_is_tried_where_nobody_says_no() {
    for (version, name) in [("10", "Windows 10 Pro"), ("11", "Windows 11 Home")] {
        let wanted = Wanted { vcpus: vcpus("2").vcpus, ..memory("2G") };
        assert!(!sound(&windows(version, name), &wanted).steps.is_empty());
    }
}

#[test]
fn a_system_that_nobody_knows_is_tried_like_a_linux() {
    let mut seen = server();
    facts(&mut seen).system = Some(System::of_agent("haiku", "r1", "Haiku R1", "x86_64"));
    let plan = sound(&seen, &memory("2G"));
    let plug = &plan.steps[1];
    assert_eq!(plug.strength, Strength::DriverConfirmed, "it must say that it has it");
    assert!(matches!(plug.undo.as_slice(), [Act::UnplugDimm { .. }]), "or the DIMM is taken back");
}

#[test]
fn a_balloon_that_adds_memory_of_its_own_is_left_alone() {
    let mut seen = with_dimm(with_balloon(server()), "supple-dimm0", Bytes::gib(1), 0);
    seen.memory.balloon = Some(Balloon { actual: Bytes::gib(3), stats: None });
    let wanted = Wanted { mechanism: Some(Mechanism::Balloon), ..memory("1G") };
    let said = refused(&seen, &wanted).to_string();
    assert!(said.contains("1 GiB more than boot memory and DIMMs"), "{said}");
}
