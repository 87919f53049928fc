//! Differences between a running machine and its next boot.

use crate::corpus::{all, text};
use drive::domxml::{Domain, Drift, HostLimits, MemoryModel, Prepare, drift, prepare};
use scale::units::Bytes;

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn said(live: &str, next: &str) -> Vec<String> {
    drift(&domain(live), &domain(next)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_machine_does_not_differ_from_itself() {
    for description in all() {
        assert_eq!(said(&description.text, &description.text), Vec::<String>::new(), "{}", description.name);
    }
}

#[test]
fn each_way_of_coming_apart_is_named_once() {
    assert_eq!(
        said(&text("live"), &text("inactive")),
        [
            "a dimm of 512 MiB stands as 524287 KiB in the next boot",
            "virtio-mem is asked for 2 GiB now and for 1 GiB at the next boot",
            "the dimm dimm1 of 1 GiB on node 0 is in the running machine only",
            "the dimm of 512 MiB on node 0 is in the next boot only",
            "3 vCPUs now and 2 at the next boot",
        ]
    );
}

#[test]
fn equal_dimms_are_paired_by_their_slots_and_counted() {
    let live = text("live");
    let next = live.replace(" id='7'", "");
    assert!(said(&live, &next).is_empty());
    // The next boot has lost the DIMM in slot 0; the one in slot 1 is not taken for it.
    let start = next.find("<memory model='dimm'>").unwrap();
    let end = start + next[start..].find("</memory>").unwrap() + "</memory>".len();
    let fewer = format!("{}{}", &next[..start], &next[end..]);
    let fewer = fewer.replace("<size unit='KiB'>1048576<", "<size unit='KiB'>524288<");
    let live = live.replace("<size unit='KiB'>1048576<", "<size unit='KiB'>524288<");
    let found = drift(&domain(&live), &domain(&fewer));
    let only: Vec<_> = found
        .iter()
        .filter_map(|d| if let Drift::OnlyLive { device } = d { Some(device) } else { None })
        .collect();
    assert_eq!(only.len(), 1, "{found:?}");
    assert_eq!(only[0].alias.as_deref(), Some("dimm0"));
}

#[test]
fn a_rounded_size_is_one_device_and_not_two() {
    let next = text("dimm-of-guides");
    let live = next.replace("524287", "524288").replace("1572863", "1572864");
    let found = drift(&domain(&live), &domain(&next));
    let rounded = Drift::Rounded {
        model: MemoryModel::Dimm,
        node: Some(0),
        live: Bytes::mib(512),
        next: Bytes::new(524_287 << 10),
    };
    assert_eq!(found, [rounded]);
}

#[test]
fn what_libvirt_rounds_at_the_start_is_no_drift() {
    let next = text("units-mixed").replace("memory='2' unit='G'", "memory='2097151' unit='KiB'");
    let live = next.replace("memory='2097151'", "memory='2097152'");
    let next = next.replace("unit='GiB'>8<", "unit='KiB'>8388607<");
    assert!(said(&live, &next).is_empty(), "{:?}", said(&live, &next));
    let other = live.replace("memory='2097152'", "memory='2098176'");
    let found = said(&other, &next);
    assert!(found[0].starts_with("boot memory is 2049 MiB now"), "{found:?}");
    assert!(found[2].contains("NUMA cells will have other"), "{found:?}");
}

#[test]
fn what_was_prepared_waits_for_a_restart() {
    let live = text("plain-pc");
    let want = Prepare {
        max_memory: Some(Bytes::gib(64)),
        max_vcpus: Some(8),
        agent_channel: true,
        ..Prepare::default()
    };
    let next = prepare(&live, &want, &HostLimits::default()).unwrap().xml;
    let found = drift(&domain(&live), &domain(&next));
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found.iter().all(Drift::awaits_restart), "{found:?}");
    let shape =
        said(&text("topology"), &text("topology").replace("sockets='2' cores='2'", "sockets='4' cores='1'"));
    assert_eq!(shape, ["the CPU topology will be another one at the next boot"]);
}

#[test]
fn a_balloon_is_measured_without_virtio_mem() {
    let next = text("emulated");
    let live = next.replace("<currentMemory unit='KiB'>524288<", "<currentMemory unit='KiB'>262144<");
    assert_eq!(said(&live, &next), ["the balloon takes 768 MiB now and 512 MiB at the next boot"]);
    // 1 GiB of boot memory whole, and 1 GiB of virtio-mem given: nothing is in the balloon.
    let next = text("virtio-mem");
    let given = "<requested unit='KiB'>1048576</requested><current unit='KiB'>1048576</current>";
    let live = next
        .replace("<requested unit='KiB'>1048576</requested>", given)
        .replace("<currentMemory unit='KiB'>1048576<", "<currentMemory unit='KiB'>2097152<");
    assert!(said(&live, &next).is_empty());
}

#[test]
fn a_vcpu_that_can_be_taken_away_now_and_not_later_is_named() {
    let live = text("vcpus-list");
    let next = live.replace("enabled='yes' hotpluggable='yes'", "enabled='yes' hotpluggable='no'");
    assert_eq!(said(&live, &next), ["1 of the vCPUs can be taken away now and 0 at the next boot"]);
}
