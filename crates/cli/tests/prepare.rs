//! `supple prepare` on a real libvirt: what it edits, what it leaves alone, and that the next start has it.
#![cfg(feature = "libvirt")]

use lab::{Libvirtd, Recipe};
use scale::units::Bytes;
use serde_json::Value;
use std::process::{Command, Stdio};
use tempfile::TempDir;

struct Desk {
    libvirtd: Libvirtd,
    state: TempDir,
}

impl Desk {
    /// `supple --connect THE-LAB'S WORDS`: status, standard output, standard error.
    fn supple(&self, words: &str) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supple"));
        command.env("SUPPLE_STATE_DIR", self.state.path()).env("NO_COLOR", "1").env("COLUMNS", "100");
        command.env("SUPPLE_CONNECT", self.libvirtd.connect_uri()).stdin(Stdio::null());
        let output = command.args(words.split_whitespace()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
    }

    async fn definition(&self) -> String {
        self.libvirtd.virsh(&["dumpxml", "--inactive", "--security-info", "web1"]).await.unwrap()
    }
}

/// A machine that was made for one size.
fn small() -> Recipe {
    Recipe::q35().max_memory(Bytes::mib(512), 0).vcpus(1, 1)
}

#[tokio::test]
async fn a_machine_without_room_is_prepared_started_and_grown_and_all_of_it_is_taken_back() {
    let desk = Desk { libvirtd: Libvirtd::start().await.unwrap(), state: TempDir::new().unwrap() };
    desk.libvirtd.define("web1", &small()).await.unwrap();
    let before = desk.definition().await;
    assert!(!before.contains("<maxMemory"), "{before}");
    let wish = "prepare web1 --max-memory 8G --slots 8 --max-vcpus 3";
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (status, _, err) = desk.supple("plan web1 --memory 8G --vcpus 3");
    let err = words(err);
    assert!(status == 2 && err.contains("COLD web1 does not run (shut off)"), "{err}");
    assert!(err.contains("its next start has 512 MiB of memory and 1 vCPU"), "{err}");
    assert!(err.contains("`supple prepare web1 --max-memory 8GiB --max-vcpus 3`"), "{err}");

    let (status, out, err) = desk.supple(&format!("{wish} --dry-run"));
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains("\n+  <maxMemory slots='8' unit='KiB'>8388608</maxMemory>\n"), "{out}");
    assert!(out.contains("tried out: a throw-away machine"), "{out}");
    assert!(out.ends_with("Nothing was changed: the same words without --dry-run do it.\n"), "{out}");
    let (status, _, err) = desk.supple(wish);
    assert_eq!(status, 2);
    assert!(err.contains("--yes"), "{err}");
    assert_eq!(desk.definition().await, before, "shown and declined, and yet changed");
    assert_eq!(desk.libvirtd.virsh(&["list", "--all", "--name"]).await.unwrap(), "web1", "a trial stayed");

    let (status, out, err) = desk.supple(&format!("{wish} --yes --json"));
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["prepared"]["outcome"], &told["prepared"]["tried"]), (&"defined".into(), &true.into()));
    let after = desk.definition().await;
    let (status, out, _) = desk.supple(&format!("{wish} --yes"));
    assert_eq!((status, out.lines().next()), (0, Some("nothing to do: web1 is prepared for that already")));
    assert_eq!(desk.definition().await, after);

    let guest = desk.libvirtd.start_defined("web1", &small()).await.unwrap();
    let (status, out, err) = desk.supple("list");
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("memory 512 MiB to 8 GiB (8 slots free), vCPUs 1 to 3"), "{out}");
    let (status, out, err) = desk.supple("apply web1 --memory 1G --vcpus 2 --live-only --yes");
    assert_eq!(status, 0, "{out}{err}");
    assert_eq!(guest.witness().nproc().await.unwrap(), 2);
    assert_eq!(desk.definition().await, after, "--live-only changed the definition");

    let (status, out, err) = desk.supple("prepare web1 --undo --yes");
    assert_eq!(status, 0, "{out}{err}");
    assert!(
        out.contains("taken back: the definition of web1 is what it was before, from its next start on"),
        "{out}"
    );
    // libvirt puts the controllers of a definition that it reads anew in an order of its own (9.0), so lines are compared.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&desk.definition().await), sorted(&before), "not what it was");
    let (status, _, err) = desk.supple("prepare web1 --undo --yes");
    assert!(status == 2 && err.contains("no preparation of web1 is on record"), "{err}");
}

#[tokio::test]
async fn what_would_not_start_or_was_changed_since_is_refused_and_left_alone() {
    let desk = Desk { libvirtd: Libvirtd::start().await.unwrap(), state: TempDir::new().unwrap() };
    desk.libvirtd.define("web1", &small()).await.unwrap();
    let before = desk.definition().await;
    for (words, said) in [
        ("--max-memory 256M", "leaves no room above the 512 MiB"),
        ("--max-memory 8G --slots 300", "300 memory slots are too many"),
        ("--max-memory 2000T", "address"),
    ] {
        let (status, out, err) = desk.supple(&format!("prepare web1 {words} --yes"));
        let err = err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(status == 2 && err.contains(said), "{words}: {out}{err}");
    }
    assert_eq!(desk.definition().await, before);

    assert_eq!(desk.supple("prepare web1 --max-vcpus 2 --yes").0, 0);
    desk.libvirtd.virsh(&["desc", "web1", "--config", "another hand"]).await.unwrap();
    let changed = desk.definition().await;
    let (status, _, err) = desk.supple("prepare web1 --undo --yes");
    let err = err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status == 2 && err.contains("was changed since it was prepared"), "{err}");
    assert!(err.contains("-before.xml` puts it back all the same"), "{err}");
    assert_eq!(desk.definition().await, changed);
}
