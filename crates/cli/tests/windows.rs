//! What a user meets whose guest is a Windows, or another system that is no Linux. The agents in here are *played*: they
//! answer as those systems' agents do, since no image of them can run here. QEMU is real, and where something must take
//! in what is plugged, a real Linux guest carries the play.

use lab::{Idle, Machine, Onlining, Part, Played, Recipe, eventually};
use scale::units::Bytes;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A machine with a played agent, and the user's state directory.
struct Desk {
    qmp: PathBuf,
    played: Played,
    state: TempDir,
}

/// What the program said and how it ended.
#[derive(Debug)]
struct Ended {
    status: i32,
    said: String,
}

impl Desk {
    fn with(qmp: &Path, played: Played) -> Desk {
        Desk { qmp: qmp.to_owned(), played, state: TempDir::new().unwrap() }
    }

    /// `supple WORDS`, where VM stands for the machine and its agent.
    async fn supple(&self, words: &str) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supple"));
        command.env("SUPPLE_STATE_DIR", self.state.path().join("state")).env("NO_COLOR", "1");
        command.env("COLUMNS", "100").stdin(Stdio::null());
        for word in words.split_whitespace() {
            match word {
                "VM" => {
                    command.arg(format!("qmp:{}", self.qmp.display())).arg("--agent").arg(self.played.agent())
                }
                other => command.arg(other),
            };
        }
        // The played agent answers meanwhile.
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended {
            status: output.status.code().expect("it ends by itself"),
            said: text(output.stdout) + &text(output.stderr),
        }
    }

    /// What the agent was asked that an agent for Windows cannot do, or that only a Linux has.
    fn asked_in_vain(&self) -> Vec<(String, Value)> {
        let set = |command: &str| command.starts_with("guest-set-") || command.starts_with("guest-exec");
        self.played.heard().into_iter().filter(|(command, _)| set(command)).collect()
    }
}

#[track_caller]
fn says(ended: &Ended, status: i32, words: &[&str]) {
    assert_eq!(ended.status, status, "{}", ended.said);
    let said = ended.said.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in:\n{}", ended.said);
    }
}

fn server() -> Part {
    Part::windows("2022", "Windows Server 2022 Standard")
}

#[tokio::test]
async fn a_windows_server_grows_by_its_drivers_word_and_shrinks_by_what_is_offered_instead() {
    let recipe = Recipe::q35().memory(Bytes::mib(512)).vcpus(1, 4).onlining(Onlining::Udev);
    let guest: Machine = recipe.boot().await.unwrap();
    let desk = Desk::with(&guest.qmp(), server().over(&guest));

    let planned = desk.supple("plan VM --memory 1G --vcpus 2").await;
    says(&planned, 0, &["Windows Server 2022 gives no DIMM back while it runs: what is plugged stays"]);
    let grown = desk.supple("apply VM --memory 1G --vcpus 2 --yes").await;
    says(
        &grown,
        0,
        &[
            "wait for the guest to take supple-dimm0 in (driver-confirmed)",
            "plug vCPU supple-vcpu0 (guest-confirmed)",
            "proven: memory 512 MiB -> 1 GiB, vCPUs 1 -> 2",
        ],
    );
    assert_eq!(guest.witness().nproc().await.unwrap(), 2);

    says(&desk.supple("plan VM --vcpus 1").await, 2, &["COLD", "gives no vCPU back", "--cpu-limit 1"]);
    let refused = desk.supple("plan VM --memory 768M").await;
    says(&refused, 2, &["COLD", "gives no DIMM back", "--mechanism balloon --memory 768M"]);
    let total = guest.witness().mem_total().await.unwrap();
    let taken = desk.supple("apply VM --mechanism balloon --memory 768M --yes").await;
    says(&taken, 0, &["driver-confirmed"]);
    eventually("the guest has less", Duration::from_secs(30), async || {
        let now = guest.witness().mem_total().await?;
        Ok((now + Bytes::mib(250) < total).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(desk.asked_in_vain(), []);
}

/// Firmware alone under a played agent.
async fn idle(recipe: Recipe, part: Part) -> (Idle, Desk) {
    let machine = recipe.idle().await.unwrap();
    let desk = Desk::with(&machine.qmp(), part.alone());
    (machine, desk)
}

#[tokio::test]
async fn where_nothing_in_the_guest_says_a_word_qemus_is_called_what_it_is() {
    let (_machine, desk) = idle(Recipe::q35().no_balloon(), server()).await;
    let planned = desk.supple("plan VM --memory 1G").await;
    says(&planned, 0, &["(device-only)"]);
    let grown = desk.supple("apply VM --memory 1G --yes").await;
    says(&grown, 0, &["plug DIMM supple-dimm0 into slot 0, node 0 (device-only)", "(device-only)"]);
    says(&desk.supple("plan VM --memory 512M").await, 2, &["COLD", "gives no DIMM back"]);
    assert_eq!(desk.asked_in_vain(), []);
}

#[tokio::test]
async fn a_doctor_tells_what_a_windows_can_do() {
    let (_machine, desk) = idle(Recipe::q35(), server()).await;
    let told = desk.supple("doctor VM").await;
    says(&told, 0, &["Windows Server 2022: DIMM add yes, remove no", "lab is ready", "blnsvr.exe -i"]);
    assert!(!told.said.contains("qemu-ga"), "there is no filter to take anything out of: {}", told.said);
    assert_eq!(desk.asked_in_vain(), []);
}

#[tokio::test]
async fn no_rule_of_linuxs_is_written_into_a_windows() {
    let (_machine, desk) = idle(Recipe::q35(), Part::windows("11", "Windows 10 Pro")).await;
    let set_up = desk.supple("guest setup VM").await;
    says(&set_up, 2, &["not done: Windows 10 Pro has no udev, and no need of a rule"]);
    let files = |(command, _): &(String, Value)| command.starts_with("guest-file");
    assert!(!desk.played.heard().iter().any(files));
    let planned = desk.supple("plan VM --memory 1G --vcpus 2").await;
    says(&planned, 0, &["Windows 10, 11, 64-bit, Pro, Enterprise, Education gives no DIMM back"]);
    assert!(!planned.said.contains("udev"), "{}", planned.said);
}

#[tokio::test]
async fn an_edition_without_hot_add_is_refused_and_examined_as_such() {
    let part = Part::windows("2008r2", "Windows Server 2008 R2 Standard");
    let (_machine, desk) = idle(Recipe::q35(), part).await;
    for wish in ["--memory 1G", "--vcpus 2"] {
        let refused = desk.supple(&format!("plan VM {wish}")).await;
        says(&refused, 2, &["COLD", "Windows Server 2008, 2008 R2, Standard"]);
    }
    says(&desk.supple("doctor VM").await, 1, &["2008 R2", "--cpu-limit", "missing: guest system"]);
}

#[tokio::test]
async fn a_freebsd_has_the_balloon_alone_and_a_system_that_nobody_knows_is_tried() {
    let (_machine, desk) = idle(Recipe::q35(), Part::other("freebsd", "14.2", "FreeBSD 14.2")).await;
    says(&desk.supple("plan VM --memory 1G").await, 2, &["COLD", "FreeBSD takes no DIMM"]);
    says(&desk.supple("plan VM --vcpus 2").await, 2, &["COLD", "FreeBSD takes no vCPU"]);
    let planned = desk.supple("plan VM --mechanism balloon --memory 256M").await;
    says(&planned, 0, &["memory 512 MiB -> 256 MiB", "what is taken might be needed"]);
    says(&desk.supple("doctor VM").await, 1, &["FreeBSD", "missing: guest system"]);

    let (_machine, desk) = idle(Recipe::q35(), Part::other("haiku", "r1", "Haiku R1")).await;
    says(&desk.supple("plan VM --memory 1G --vcpus 2").await, 0, &["plug DIMM", "plug vCPU"]);
    says(&desk.supple("doctor VM").await, 1, &["Haiku R1 is not in the support matrix"]);
}
