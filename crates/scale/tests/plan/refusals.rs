//! What is refused, when it could be done, and the way out that is offered.

use crate::machine::{facts, machine, with_dimm, with_virtio_mem};
use crate::steps::{memory, planned, refused, vcpus, written};
use scale::guests::System;
use scale::limits::Limits;
use scale::observed::{
    Accel, AutoOnline, Backing, Balloon, Filled, Guest, MemBlock, MemInfo, Node, Observed, Pending,
    PendingDevice, VcpuState, Version, blocks_of,
};
use scale::plan::{Act, When};
use scale::units::Bytes;
use scale::wanted::{Mechanism, Wanted, ZoneWish};

/// The one obstacle of a refusal: when, and reason and way out in one text.
#[track_caller]
fn obstacle(seen: &Observed, wanted: &Wanted) -> (When, String) {
    let refusal = refused(seen, wanted);
    let [obstacle] = refusal.obstacles.as_slice() else { panic!("{refusal}") };
    (obstacle.when, format!("{}; {}", obstacle.reason, obstacle.way_out))
}

#[track_caller]
fn says(seen: &Observed, wanted: &Wanted, when: When, words: &[&str]) {
    let (then, said) = obstacle(seen, wanted);
    assert_eq!(then, when, "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
}

fn pending_dimm(mut seen: Observed, id: &str) -> Observed {
    let device = PendingDevice::Dimm { id: id.into(), memdev: format!("mem-{id}") };
    seen.pending.push(Pending { device, since: seen.at });
    seen
}

#[test]
fn what_is_between_two_units_is_offered_both() {
    says(&machine(), &memory("1300M"), When::Impossible, &["--memory 1280M", "--memory 1408M"]);
    says(&machine(), &memory("+2M"), When::Impossible, &["--memory 1G", "--memory 1152M"]);
}

#[test]
fn above_the_ceiling_the_needed_start_is_told() {
    says(&machine(), &memory("32G"), When::Cold, &["ceiling of 17 GiB", "maxmem=32G"]);
    let mut seen = machine();
    seen.memory.slots = 0;
    says(&seen, &memory("2G"), When::Cold, &["without DIMM slots", "slots=16"]);
}

/// A guest of so much boot memory that tells nothing.
fn mute(kind: &str, boot: Bytes) -> Observed {
    let mut seen = machine();
    seen.machine.kind = kind.into();
    seen.memory.boot = boot;
    seen.memory.ceiling = Bytes::gib(128);
    seen.memory.nodes[0].memory = boot;
    seen.guest = Guest::Unheard("no agent".into());
    seen
}

#[test]
fn large_guests_that_do_not_tell_have_large_blocks() {
    let seen = mute("pc-q35-7.2", Bytes::gib(64));
    says(&seen, &memory("+1G"), When::Impossible, &["steps of 2 GiB", "--memory 66G"]);
    assert!(!planned(&seen, &memory("+2G")).steps.is_empty());
}

#[test]
fn a_guest_is_large_by_where_its_memory_ends() {
    // q35 has 2 GiB below 4 GiB, i440fx 3 GiB; of another PC it is not known.
    for (kind, large, small) in [("pc-q35-7.2", 62, 61), ("pc-i440fx-7.2", 63, 62), ("microvm", 60, 59)] {
        says(&mute(kind, Bytes::gib(large)), &memory("+1G"), When::Impossible, &["steps of 2 GiB"]);
        assert!(!planned(&mute(kind, Bytes::gib(small)), &memory("+1G")).steps.is_empty(), "{kind}");
    }
    let mut arm = mute("virt-7.2", Bytes::gib(63));
    arm.machine.arch = "aarch64".into();
    assert!(!planned(&arm, &memory("+1G")).steps.is_empty());
}

#[test]
fn several_obstacles_are_all_told() {
    let mut seen = machine();
    seen.machine.state = "paused".into();
    seen.machine.busy = vec!["a migration".into()];
    let refusal = refused(&seen, &Wanted { vcpus: vcpus("9").vcpus, ..memory("32G") });
    assert_eq!(refusal.obstacles.len(), 4, "{refusal}");
}

#[test]
fn no_dimm_is_added_while_one_may_still_go() {
    let seen = pending_dimm(with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0), "supple-dimm0");
    says(&seen, &memory("3G"), When::NotNow, &["supple-dimm0", "raise that request again"]);
}

#[test]
fn a_removal_that_is_still_asked_comes_first_in_the_next_shrink() {
    let seen = with_dimm(machine(), "supple-dimm0", Bytes::gib(1), 0);
    let seen = pending_dimm(with_dimm(seen, "supple-dimm1", Bytes::gib(1), 0), "supple-dimm0");
    let steps = written(&planned(&seen, &memory("2G")));
    assert_eq!(steps[1], "0 unplug DIMM supple-dimm0");
    says(&seen, &memory("2.5G"), When::NotNow, &["still asked", "--memory 2G or less"]);
}

#[test]
fn memory_that_the_guest_uses_is_not_taken() {
    let mut seen = with_dimm(machine(), "supple-dimm0", Bytes::gib(2), 0);
    let info = MemInfo { total: Bytes::mib(3008), available: Bytes::mib(1152), free: Bytes::mib(900) };
    facts(&mut seen).meminfo = Some(info);
    // 1856 MiB are used, a tenth of which is the margin.
    says(&seen, &memory("1G"), When::NotNow, &["can spare 966 MiB", "--memory 2176M"]);
    assert!(!planned(&seen, &memory("2176M")).steps.is_empty());
}

#[test]
fn unknown_use_forbids_virtio_mem_and_balloon_to_shrink() {
    let mut seen = with_virtio_mem(machine(), "vm0", Bytes::gib(2), 0);
    (seen.memory.virtio_mem[0].size, seen.memory.virtio_mem[0].requested) = (Bytes::gib(1), Bytes::gib(1));
    seen.memory.nodes[0].memory = Bytes::gib(2);
    seen.memory.balloon = Some(Balloon { actual: Bytes::gib(1), stats: None });
    let device = &seen.memory.virtio_mem[0];
    let shown =
        blocks_of(device.addr, device.size, Bytes::mib(128)).map(|index| MemBlock { index, online: true });
    facts(&mut seen).blocks.extend(shown);
    facts(&mut seen).meminfo = None;
    says(&seen, &memory("1G"), When::NotNow, &["does not tell how much memory it uses"]);
    let balloon = Wanted { mechanism: Some(Mechanism::Balloon), ..memory("1.5G") };
    says(&seen, &balloon, When::NotNow, &["does not tell how much memory it uses"]);
}

#[test]
fn under_an_inflated_balloon_no_dimm_moves() {
    let mut seen = machine();
    seen.memory.balloon = Some(Balloon { actual: Bytes::mib(768), stats: None });
    says(&seen, &memory("2G"), When::NotNow, &["holds 256 MiB", "--mechanism balloon --memory 1G"]);
    let back = Wanted { mechanism: Some(Mechanism::Balloon), ..memory("1G") };
    assert_eq!(written(&planned(&seen, &back)), ["0 set the balloon's target from 768 MiB to 1 GiB"]);
}

#[test]
fn what_the_host_cannot_bear_is_refused() {
    let mut seen = machine();
    seen.host.cgroup_headroom = Some(Bytes::gib(1));
    says(&seen, &memory("+1G"), When::NotNow, &["cgroup", "memory.max"]);
    let mut seen = machine();
    (seen.host.vfio, seen.host.memlock_headroom) = (true, Some(Bytes::mib(512)));
    says(&seen, &memory("+1G"), When::NotNow, &["QEMU would abort", "prlimit"]);
    let mut seen = machine();
    seen.memory.backing =
        Backing::Hugepages { path: "/dev/hugepages".into(), page: Bytes::mib(2), share: false };
    let (free, promised) = (Bytes::mib(512), Bytes::ZERO);
    seen.host.pools =
        vec![scale::observed::MemoryPool { node: None, page: Some(Bytes::mib(2)), free, promised }];
    says(&seen, &memory("+1G"), When::NotNow, &["huge pages", "nr_hugepages"]);
    let mut seen = machine();
    seen.memory.backing = Backing::Unknown("memory-backend-epc".into());
    says(&seen, &memory("+1G"), When::Cold, &["memory-backend-epc"]);
}

#[test]
fn more_than_the_host_has_free_is_only_noted() {
    let mut seen = machine();
    seen.host.available = Some(Bytes::mib(512));
    let plan = planned(&seen, &memory("+1G"));
    assert!(plan.notes.iter().any(|note| note.contains("the host has 512 MiB")), "{:?}", plan.notes);
}

#[test]
fn vhost_takes_only_so_many_dimms() {
    let mut seen = machine();
    // 4 of boot memory and 4 in reserve.
    seen.host.vhost_regions = Some(8);
    says(&seen, &memory("+1G"), When::Cold, &["within vhost's memory regions"]);
    seen.host.vhost_regions = Some(9);
    assert!(!planned(&seen, &memory("+1G")).steps.is_empty());
}

#[test]
fn the_qemu_that_dies_of_a_dimm_after_a_vcpu_is_known() {
    let mut seen = machine();
    (seen.machine.accel, seen.vcpus.removed_before) = (Accel::Tcg, true);
    says(&seen, &memory("+1G"), When::Cold, &["dies", "10.0"]);
    says(&seen, &vcpus("+1"), When::Cold, &["dies", "vCPU added"]);
    seen.machine.qemu = Version(10, 0, 0);
    assert!(!planned(&seen, &memory("+1G")).steps.is_empty());
    assert!(!planned(&seen, &vcpus("+1")).steps.is_empty());
}

/// One vCPU since boot and one more, of four; the second place was filled `times` before.
fn emulated(times: u32) -> Observed {
    let mut seen = machine();
    (seen.machine.accel, seen.machine.qemu) = (Accel::Tcg, Version(10, 0, 0));
    let id = "supple-vcpu0".to_owned();
    let slot = &mut seen.vcpus.slots[1];
    slot.state = VcpuState::Device(id.clone());
    seen.vcpus.filled = vec![Filled { id, props: slot.props, times }];
    seen
}

#[test]
fn the_qemu_that_ends_itself_for_one_plug_too_many_is_known() {
    // 2 of 4 were started: both that are left may come.
    assert!(!planned(&emulated(1), &vcpus("4")).steps.is_empty());
    assert!(!planned(&emulated(2), &vcpus("3")).steps.is_empty());
    let words = ["more than 4", "3 were started", "--vcpus 3 at most", "KVM"];
    says(&emulated(2), &vcpus("4"), When::Cold, &words);
    says(&emulated(3), &vcpus("3"), When::Cold, &["4 were started", "; stop and start the machine"]);
    let mut kvm = emulated(9);
    kvm.machine.accel = Accel::Kvm;
    assert!(!planned(&kvm, &vcpus("4")).steps.is_empty());
    // What is there already may go, and memory may come.
    assert!(!planned(&emulated(9), &vcpus("1")).steps.is_empty());
    assert!(!planned(&emulated(9), &memory("+1G")).steps.is_empty());
}

#[test]
fn a_removal_that_may_yet_be_granted_counts_where_qemu_dies_of_its_order() {
    let mut old = with_dimm(emulated(1), "supple-dimm0", Bytes::gib(1), 0);
    old.machine.qemu = Version(7, 2, 0);
    let late_dimm = pending_dimm(old.clone(), "supple-dimm0");
    says(&late_dimm, &vcpus("1"), When::NotNow, &["dies", "removal of supple-dimm0"]);
    assert!(!planned(&old, &vcpus("1")).steps.is_empty());
    let both = Wanted { vcpus: vcpus("1").vcpus, ..memory("1G") };
    assert!(!planned(&late_dimm, &both).steps.is_empty(), "the DIMM is asked for first");
    let mut late_vcpu = old;
    let device = PendingDevice::Vcpu { id: "supple-vcpu0".into() };
    late_vcpu.pending.push(Pending { device, since: late_vcpu.at });
    says(&late_vcpu, &memory("1G"), When::NotNow, &["dies", "removal of supple-vcpu0"]);
    late_vcpu.machine.qemu = Version(10, 0, 0);
    assert!(!planned(&late_vcpu, &memory("1G")).steps.is_empty());
}

#[test]
fn the_qemu_that_ends_itself_for_a_removal_is_known() {
    let mut seen = emulated(1);
    seen.vcpus.one_thread = true;
    says(&seen, &vcpus("1"), When::Cold, &["one thread", "thread=multi"]);
    assert!(!planned(&seen, &vcpus("3")).steps.is_empty());
    seen.machine.accel = Accel::Kvm;
    assert!(!planned(&seen, &vcpus("1")).steps.is_empty());
}

#[test]
fn without_the_memory_for_its_page_structures_nothing_is_added() {
    let mut seen = machine();
    let info = MemInfo { total: Bytes::mib(960), available: Bytes::mib(2), free: Bytes::mib(1) };
    facts(&mut seen).meminfo = Some(info);
    says(&seen, &memory("+1G"), When::NotNow, &["1/64", "has 2 MiB free"]);
    let little = MemInfo { available: Bytes::mib(32), ..info };
    facts(&mut seen).meminfo = Some(little);
    // 1 GiB at once at most, and less each time: what is movable gives the kernel nothing back.
    let plan = planned(&seen, &memory("+1.25G"));
    let dimms = written(&plan).iter().filter(|step| step.contains("plug DIMM")).count();
    assert!(dimms > 1, "{:?}", written(&plan));
}

#[test]
fn an_unknown_node_is_answered_with_those_there_are() {
    let mut seen = machine();
    seen.memory.nodes.push(Node { id: 1, memory: Bytes::ZERO });
    says(&seen, &Wanted { node: Some(7), ..memory("+1G") }, When::Impossible, &["no NUMA node 7", "0, 1"]);
}

#[test]
fn movable_or_nothing_is_refused_where_nobody_can_say_so() {
    let movable = Wanted { zone: ZoneWish::Movable, ..memory("+1G") };
    let mut seen = machine();
    facts(&mut seen).commands.remove("guest-file-write");
    says(&seen, &movable, When::NotNow, &["lets files be written"]);
    let mut seen = machine();
    facts(&mut seen).auto_online = Some(AutoOnline::Online);
    says(&seen, &movable, When::NotNow, &["onlines new memory by itself"]);
    let far = Wanted { zone: ZoneWish::Movable, ..memory("+8G") };
    says(&machine(), &far, When::NotNow, &["more than 3 parts of movable memory"]);
}

#[test]
fn windows_and_boot_vcpus_are_known_to_stay() {
    let mut seen = machine();
    seen.vcpus.slots[1].state = VcpuState::Device("supple-vcpu0".into());
    facts(&mut seen).system = Some(windows("2022"));
    says(&seen, &vcpus("1"), When::Cold, &["Windows", "no vCPU back", "--cpu-limit 1"]);
    says(&machine(), &vcpus("5"), When::Cold, &["4 vCPUs at most", "maxcpus=5"]);
    let mut seen = machine();
    seen.vcpus.slots.clear();
    says(&seen, &vcpus("2"), When::Cold, &["no vCPU hot-plug"]);
}

fn windows(version: &str) -> System {
    System::of_agent("mswindows", version, &format!("Windows Server {version} Datacenter"), "x86_64")
}

#[test]
fn a_system_is_never_asked_for_what_it_cannot_do() {
    let mut seen = with_dimm(machine(), "a", Bytes::gib(1), 0);
    facts(&mut seen).system = Some(windows("2022"));
    says(&seen, &memory("1G"), When::Cold, &["Windows", "no DIMM back", "start the machine with 1G"]);
    seen.memory.balloon = Some(Balloon { actual: Bytes::gib(2), stats: None });
    says(&seen, &memory("1G"), When::Cold, &["--mechanism balloon --memory 1G"]);
    assert!(!planned(&seen, &memory("4G")).steps.is_empty(), "it takes DIMMs");
    facts(&mut seen).system = Some(System::of_agent("freebsd", "14.2", "FreeBSD 14.2", "amd64"));
    says(&seen, &memory("4G"), When::Cold, &["FreeBSD", "takes no DIMM", "start the machine"]);
    says(&seen, &vcpus("2"), When::Cold, &["FreeBSD", "takes no vCPU"]);
}

#[test]
fn a_guest_without_a_driver_for_virtio_mem_gets_dimms() {
    let mut seen = with_virtio_mem(machine(), "vm0", Bytes::gib(4), 0);
    facts(&mut seen).system = Some(windows("2012"));
    let plan = planned(&seen, &memory("2G"));
    assert!(plan.notes.iter().any(|note| note.contains("no driver for virtio-mem")), "{:?}", plan.notes);
    assert!(plan.steps.iter().any(|step| matches!(step.act, Act::PlugDimm { .. })));
    says(
        &seen,
        &Wanted { mechanism: Some(Mechanism::VirtioMem), ..memory("2G") },
        When::Impossible,
        &["driver"],
    );
    // What it has used before it has a driver for.
    seen.memory.virtio_mem[0].size = Bytes::mib(2);
    seen.memory.virtio_mem[0].requested = Bytes::mib(2);
    assert!(
        !planned(&seen, &memory("+1G")).steps.iter().any(|step| matches!(step.act, Act::PlugDimm { .. }))
    );
}

#[test]
fn impossible_steps_say_where_the_machine_stands() {
    says(&machine(), &memory("-8G"), When::Impossible, &["8 GiB less", "1 GiB"]);
    says(&machine(), &vcpus("-1"), When::Impossible, &["1 less"]);
}

#[test]
fn dimms_that_the_guest_keeps_bound_what_can_go() {
    let seen = with_dimm(with_dimm(machine(), "a", Bytes::gib(1), 0), "b", Bytes::gib(2), 0);
    let wanted = Wanted { keep: vec!["b".into()], ..memory("1G") };
    says(&seen, &wanted, When::NotNow, &["keeps b", "--memory 3G"]);
    let around = scale::plan::plan_around(&seen, &wanted, &Limits::default()).expect("a part of it");
    assert_eq!(around.to.memory, Bytes::gib(3));
    assert_eq!(written(&around)[1], "0 unplug DIMM a");
}

#[test]
fn full_slots_are_merged_only_with_an_agent() {
    let mut seen = with_dimm(machine(), "a", Bytes::gib(1), 0);
    seen.memory.slots = 1;
    let wanted = memory("+1G");
    assert_eq!(written(&planned(&seen, &wanted))[1], "0 unplug DIMM a");
    facts(&mut seen).blocks.clear();
    says(&seen, &wanted, When::NotNow, &["0 of its 1 slots", "merged", "--agent"]);
}
