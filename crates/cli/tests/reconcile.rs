//! `supple reconcile` on a real libvirt: what others left half done is brought in line with what runs.
#![cfg(feature = "libvirt")]

use lab::{Libvirtd, Onlining, Recipe};
use scale::units::Bytes;
use serde_json::Value;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const DIMM: &str =
    "<memory model='dimm'><target><size unit='KiB'>524287</size><node>0</node></target></memory>";

/// `supple --connect THE-LAB'S WORDS`: status, standard output, standard error.
fn supple(libvirtd: &Libvirtd, state: &TempDir, words: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_supple"));
    command.env("SUPPLE_STATE_DIR", state.path()).env("NO_COLOR", "1").env("COLUMNS", "140");
    command.env("SUPPLE_CONNECT", libvirtd.connect_uri()).stdin(Stdio::null());
    let output = command.args(words.split_whitespace()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn what_another_hand_did_live_only_is_in_the_guest_and_in_the_definition_afterwards() {
    let (libvirtd, state) = (Libvirtd::start().await.unwrap(), TempDir::new().unwrap());
    let recipe = Recipe::q35().vcpus(1, 3).onlining(Onlining::Nobody);
    let guest = libvirtd.boot("web1", &recipe).await.unwrap();
    let witness = guest.witness();
    let before = witness.mem_total().await.unwrap();
    let file = state.path().join("dimm.xml");
    std::fs::write(&file, DIMM).unwrap();
    let file = file.display().to_string();
    libvirtd.virsh(&["attach-device", "web1", &file, "--live"]).await.unwrap();
    libvirtd.virsh(&["setvcpus", "web1", "2", "--live"]).await.unwrap();
    let definition = async || libvirtd.virsh(&["dumpxml", "--inactive", "web1"]).await.unwrap();
    let first = definition().await;

    let (status, out, err) = supple(&libvirtd, &state, "observe web1");
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("`supple reconcile web1` makes it follow what runs"), "{out}");
    let (_, out, _) = supple(&libvirtd, &state, "observe web1 --json");
    let seen: Value = serde_json::from_str(&out).unwrap();
    let apart = seen["observed"]["definition"]["apart"].as_array().unwrap();
    assert!(apart.len() == 2 && apart.iter().all(|one| one["mend"].is_string()), "{apart:?}");
    let (status, _, err) = supple(&libvirtd, &state, "reconcile web1");
    assert!(status == 2 && err.contains("--yes"), "{err}");
    assert_eq!(definition().await, first, "changed without consent");

    let (status, out, err) = supple(&libvirtd, &state, "reconcile web1 --yes");
    assert_eq!(status, 0, "{out}{err}");
    let grown = witness.mem_total().await.unwrap().saturating_sub(before);
    assert_eq!((grown, witness.nproc().await.unwrap()), (Bytes::mib(512), 2), "{out}");
    let mended = definition().await;
    assert!(mended.contains("<size unit='KiB'>524288</size>"), "{mended}");
    assert!(!mended.contains("524287") && mended.contains("<vcpu id='1' enabled='yes'"), "{mended}");

    let (status, out, err) = supple(&libvirtd, &state, "reconcile web1 --json");
    assert_eq!(status, 0, "{out}{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["reconciled"]["definition"]["mended"], serde_json::json!([]), "{out}");

    // One that only the next start would have goes again: what runs is what counts.
    libvirtd.virsh(&["attach-device", "web1", &file, "--config"]).await.unwrap();
    let (status, out, err) = supple(&libvirtd, &state, "reconcile web1 --yes");
    assert_eq!(status, 0, "{out}{err}");
    assert_eq!(definition().await, mended);
}

#[tokio::test]
async fn a_vcpu_that_has_left_is_missed_by_neither_side() {
    let (libvirtd, state) = (Libvirtd::start().await.unwrap(), TempDir::new().unwrap());
    let _guest = libvirtd.boot("web1", &Recipe::q35().vcpus(1, 3)).await.unwrap();
    for vcpus in [2, 1] {
        let (status, out, err) = supple(&libvirtd, &state, &format!("apply web1 --vcpus {vcpus} --yes"));
        assert_eq!(status, 0, "{out}{err}");
    }
    // An emulated one that leaves is still counted by libvirt itself.
    let (_, out, _) = supple(&libvirtd, &state, "observe web1");
    assert!(out.contains("QEMU and the guest agree") && !out.contains("definition:"), "{out}");
    let (status, out, err) = supple(&libvirtd, &state, "reconcile web1");
    assert_eq!(status, 0, "nothing is apart, so nobody need agree: {out}{err}");
    let next = libvirtd.virsh(&["vcpucount", "web1", "--current", "--config"]).await.unwrap();
    assert_eq!(next, "1");
    // It comes back, or it is said what must be started anew before: QEMU 7.2 would die, a newer one's libvirt refuses.
    let (status, out, err) = supple(&libvirtd, &state, "apply web1 --vcpus 2 --yes");
    let told = ["stop and start the machine", "restart libvirt's daemon"];
    assert!(status == 0 || told.iter().any(|way| format!("{out}{err}").contains(way)), "{out}{err}");
}
