//! The program on real guests, as a person and as a script use it.

use lab::{Agent, Libvirtd, Machine, Onlining, Recipe, eventually};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use scale::units::Bytes;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A guest and the user's state directory.
struct Desk {
    guest: Machine,
    state: TempDir,
}

/// What the program said and how it ended.
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        Ended {
            status: output.status.code().expect("it ends by itself"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Desk {
    async fn with(recipe: Recipe) -> Desk {
        Desk { guest: recipe.boot().await.unwrap(), state: TempDir::new().unwrap() }
    }

    /// `supple WORDS`, where VM and AGENT stand for the guest's sockets.
    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supple"));
        command.env("SUPPLE_STATE_DIR", self.state.path().join("state")).env("NO_COLOR", "1");
        command.env("COLUMNS", "100").stdin(Stdio::null());
        for word in words.split_whitespace() {
            match word {
                "VM" => command.arg(format!("qmp:{}", self.guest.qmp().display())),
                "AGENT" => command.arg("--agent").arg(self.guest.agent()),
                other => command.arg(other),
            };
        }
        command
    }

    fn supple(&self, words: &str) -> Ended {
        self.command(words).output().unwrap().into()
    }

    /// The one object that `supple WORDS --json` prints, and the exit status.
    fn json(&self, words: &str) -> (Value, i32) {
        let ended = self.supple(&format!("{words} --json"));
        assert_eq!(ended.err, "", "{words}");
        (serde_json::from_str(&ended.out).expect("one object"), ended.status)
    }

    fn state_dir_exists(&self) -> bool {
        self.state.path().join("state").exists()
    }
}

#[tokio::test]
async fn a_user_looks_plans_grows_and_shrinks() {
    let desk = Desk::with(Recipe::q35().memory(Bytes::gib(1))).await;
    let witness = desk.guest.witness();
    let before = witness.mem_total().await.unwrap();
    let service = desk.guest.watch_service();

    let seen = desk.supple("observe VM AGENT");
    assert_eq!(seen.status, 0, "{}", seen.err);
    assert!(seen.out.contains("1 GiB of at most 8 GiB"), "{}", seen.out);
    assert!(seen.out.ends_with("QEMU and the guest agree.\n"), "{}", seen.out);
    let planned = desk.supple("plan VM AGENT --memory +1G --vcpus 2");
    assert_eq!(planned.status, 0, "{}", planned.err);
    assert!(planned.out.contains("memory 1 GiB -> 2 GiB, vCPUs 1 -> 2"), "{}", planned.out);
    assert!(planned.out.contains("changed: the same words with `apply` do it"), "{}", planned.out);
    assert!(!desk.state_dir_exists(), "looking left something behind");

    let nobody = desk.supple("apply VM AGENT --memory +1G");
    assert_eq!(nobody.status, 2);
    assert!(nobody.err.contains("add --yes"), "{}", nobody.err);
    assert_eq!(witness.mem_total().await.unwrap(), before);

    let grown = desk.supple("apply VM AGENT --memory +1G --vcpus 2 --yes");
    assert_eq!(grown.status, 0, "{}{}", grown.out, grown.err);
    assert!(grown.out.contains("\nproven: memory 1 GiB -> 2 GiB, vCPUs 1 -> 2 in "), "{}", grown.out);
    assert!(grown.out.contains("(guest-confirmed)\nThe guest shows 2 GiB online"), "{}", grown.out);
    assert_eq!(witness.nproc().await.unwrap(), 2);
    assert_eq!(witness.mem_total().await.unwrap().saturating_sub(before), Bytes::gib(1));

    let idle = desk.supple("apply VM AGENT --memory 2G --vcpus 2");
    assert_eq!((idle.status, idle.out.as_str()), (0, "nothing to do: memory 2 GiB, 2 vCPUs already\n"));

    let shrunk = desk.supple("apply VM AGENT --memory 1G --vcpus 1 --yes");
    assert_eq!(shrunk.status, 0, "{}{}", shrunk.out, shrunk.err);
    assert_eq!(witness.nproc().await.unwrap(), 1);
    assert_eq!(witness.mem_total().await.unwrap(), before);
    let why = desk.supple("why VM");
    assert!(
        why.out.contains("last run (") && why.out.contains("proven: memory 2 GiB -> 1 GiB"),
        "{}",
        why.out
    );

    let report = service.finish().await;
    assert_eq!(report.lost, 0, "{report:?}");
}

#[tokio::test]
async fn a_script_reads_json() {
    let desk = Desk::with(Recipe::q35().memory(Bytes::mib(512)).no_balloon()).await;
    let (seen, status) = desk.json("observe VM AGENT");
    assert_eq!(status, 0);
    assert_eq!(seen["observed"]["sizes"]["memory_bytes"], Bytes::mib(512).get());
    assert_eq!(seen["observed"]["guest"]["heard"], true);
    assert_eq!(seen["observed"]["memory"]["balloon"], Value::Null);

    let (refused, status) = desk.json("apply VM AGENT --memory 40G --yes");
    assert_eq!((status, &refused["refusal"]["obstacles"][0]["when"]), (2, &Value::from("cold")));
    let (nobody, status) = desk.json("apply VM AGENT --memory 1G");
    assert_eq!((status, &nobody["error"]["kind"]), (2, &Value::from("nobody-to-ask")));

    let (report, status) = desk.json("apply VM AGENT --memory 1G --yes");
    let report = &report["report"];
    assert_eq!((status, &report["verdict"]), (0, &Value::from("proven")), "{report}");
    assert_eq!(report["achieved"]["memory_bytes"], Bytes::gib(1).get());
    assert_eq!(report["guest"]["online_bytes"], Bytes::gib(1).get());
    let (history, _) = desk.json("why VM");
    assert_eq!(&history["history"]["report"], report);

    let (unheard, status) = desk.json("observe VM");
    assert_eq!((status, &unheard["observed"]["guest"]["heard"]), (0, &Value::Bool(false)));
    assert!(unheard["observed"]["guest"]["why_unheard"].is_string());
}

#[tokio::test]
async fn a_doctor_looks_into_a_real_guest_and_changes_nothing() {
    let desk = Desk::with(Recipe::q35().memory(Bytes::mib(512))).await;
    let (told, status) = desk.json("doctor VM AGENT");
    let told = &told["doctor"];
    assert_eq!(
        (status, &told["ready"], &told["runs"]),
        (0, &Value::from(true), &Value::from(true)),
        "{told:#}"
    );
    let found = |subject: &str| finding(told, subject);
    assert_eq!(found("memory-ceiling")["severity"], "ok");
    assert_eq!(found("acpi")["found"], "on");
    assert_eq!(found("kernel-options")["severity"], "ok", "{told:#}");
    assert_eq!(found("onlines-memory")["found"], "nobody does by itself");
    assert_eq!(found("onlines-memory")["mend"]["kind"], "host-command");
    assert_eq!(told["reach"]["most_memory_bytes"], Bytes::gib(8).get());
    assert_eq!((&told["reach"]["vcpus"], &told["reach"]["most_vcpus"]), (&1.into(), &4.into()));
    assert!(!desk.state_dir_exists(), "looking left something behind");

    let unheard = desk.supple("doctor VM");
    assert_eq!(unheard.status, 1);
    assert!(unheard.out.contains("mend: name its socket: supple doctor"), "{}", unheard.out);
}

#[tokio::test]
async fn a_doctor_reads_who_onlines_what_in_a_real_guest() {
    let desk = Desk::with(Recipe::q35().memory(Bytes::mib(512)).onlining(Onlining::Udev)).await;
    let (told, _) = desk.json("doctor VM AGENT");
    let memory = finding(&told["doctor"], "onlines-memory")["found"].as_str().unwrap().to_owned();
    assert!(memory.starts_with("udev does: online, by /"), "{memory}");
    assert_eq!(finding(&told["doctor"], "memory-zone")["severity"], "note");
    assert!(
        finding(&told["doctor"], "onlines-vcpus")["found"].as_str().unwrap().starts_with("udev does"),
        "{told:#}"
    );
}

#[tokio::test]
async fn a_doctor_names_what_is_missing_with_what_mends_it() {
    let blocked = ["guest-exec", "guest-exec-status", "guest-file-open", "guest-set-memory-blocks"];
    let agent = Agent::Blocking(blocked.map(str::to_owned).to_vec());
    let recipe =
        Recipe::i440fx().memory(Bytes::mib(512)).max_memory(Bytes::mib(512), 0).vcpus(2, 2).no_balloon();
    let desk = Desk::with(recipe.agent(agent)).await;
    let told = desk.supple("doctor VM AGENT");
    assert_eq!(told.status, 1, "{}{}", told.out, told.err);
    let (json, _) = desk.json("doctor VM AGENT");
    let json = &json["doctor"];
    for subject in ["memory-ceiling", "vcpu-ceiling", "agent-memory", "onlines-memory"] {
        let finding = finding(json, subject);
        assert_eq!(finding["severity"], "missing", "{subject}: {}", told.out);
        assert!(finding["mend"]["text"].is_string(), "{subject}: {}", told.out);
    }
    assert!(told.out.contains("switched off: guest-set-memory-blocks"), "{}", told.out);
    assert_eq!(finding(json, "agent-files")["severity"], "note");
}

#[tokio::test]
async fn a_doctor_tells_what_the_next_start_of_a_domain_would_have() {
    let libvirtd = Libvirtd::start().await.unwrap();
    let small = Recipe::q35().max_memory(Bytes::mib(512), 0).vcpus(1, 1);
    libvirtd.define("asleep", &small).await.unwrap();
    let guest = libvirtd.boot("web1", &Recipe::q35()).await.unwrap();
    let state = TempDir::new().unwrap();
    let doctor = |words: &[&str]| -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supple"));
        command.env("SUPPLE_STATE_DIR", state.path()).env("SUPPLE_CONNECT", libvirtd.connect_uri());
        command.env("NO_COLOR", "1").arg("doctor").args(words).output().unwrap().into()
    };
    let json = |words: &[&str]| -> Value {
        let ended = doctor(&[words, &["--json"]].concat());
        assert_eq!(ended.err, "", "{words:?}");
        serde_json::from_str::<Value>(&ended.out).unwrap()["doctor"].take()
    };

    let host = json(&[]);
    let qemu = finding(&host, "qemu");
    if qemu["severity"] == "missing" {
        // This machine has no QEMU but the lab's, of which a doctor knows nothing.
        assert!(qemu["mend"]["text"].is_string(), "{qemu}");
    } else {
        for subject in ["memory-by-dimm", "memory-by-virtio-mem", "vcpu-hot-plug", "free-page-reporting"] {
            let found = finding(&host, subject)["found"].as_str().unwrap();
            assert!(found.contains("with libvirt too"), "{subject}: {found}");
        }
    }

    let asleep = doctor(&["asleep"]);
    assert_eq!(asleep.status, 1, "{}", asleep.err);
    assert!(asleep.out.contains("supple prepare asleep --max-memory 2G --slots 16\n"), "{}", asleep.out);
    assert!(asleep.out.contains("supple prepare asleep --max-vcpus 4\n"), "{}", asleep.out);
    let all = "supple prepare asleep --max-memory 2G --slots 16 --max-vcpus 4\n";
    assert!(asleep.out.ends_with(all), "{}", asleep.out);
    // What is advised is enough.
    let mut advised = Command::new(env!("CARGO_BIN_EXE_supple"));
    advised.env("SUPPLE_STATE_DIR", state.path()).env("SUPPLE_CONNECT", libvirtd.connect_uri());
    let done: Ended = advised.args(all.split_whitespace().skip(1)).arg("--yes").output().unwrap().into();
    assert_eq!(done.status, 0, "{}{}", done.out, done.err);
    let prepared = doctor(&["asleep"]);
    assert_eq!(prepared.status, 0, "{}{}", prepared.out, prepared.err);

    let awake = json(&["web1"]);
    assert_eq!((&awake["ready"], &awake["runs"]), (&Value::from(true), &Value::from(true)), "{awake:#}");
    // What the next start would take away is told of a machine that has it.
    let shrunk = libvirtd.virsh(&["dumpxml", "--inactive", "web1"]).await.unwrap();
    let shrunk = shrunk.lines().filter(|line| !line.contains("<maxMemory")).collect::<Vec<_>>().join("\n");
    let file = state.path().join("web1.xml");
    fs::write(&file, shrunk).unwrap();
    libvirtd.virsh(&["define", file.to_str().unwrap()]).await.unwrap();
    let ceiling = json(&["web1"]);
    let ceiling = finding(&ceiling, "memory-ceiling");
    assert_eq!(ceiling["severity"], "note", "{ceiling:#}");
    assert!(ceiling["reason"].as_str().unwrap().starts_with("its next start loses it"), "{ceiling:#}");
    drop(guest);
}

/// The finding about `subject` in what `supple doctor --json` told.
fn finding<'a>(told: &'a Value, subject: &str) -> &'a Value {
    let all = told["findings"].as_array().unwrap();
    all.iter()
        .find(|finding| finding["subject"] == subject)
        .unwrap_or_else(|| panic!("nothing about {subject}: {told:#}"))
}

#[tokio::test]
async fn a_question_is_answered_on_a_terminal_and_ctrl_c_leaves_a_record() {
    let desk = Desk::with(Recipe::q35().memory(Bytes::mib(512))).await;
    let before = desk.guest.witness().mem_total().await.unwrap();

    let (ended, said) = answer(&mut desk.command("apply VM AGENT --memory 1G"), "n\n");
    assert_eq!(ended.status, 2, "{said}");
    let plan_then_question =
        said.find("plug DIMM").zip(said.find("Apply? [y/N]")).is_some_and(|(p, q)| p < q);
    assert!(plan_then_question && said.contains("not confirmed; nothing was changed"), "{said}");
    assert_eq!(desk.guest.witness().mem_total().await.unwrap(), before);

    // Without its driver the balloon never moves: the run waits until its deadline, or until Ctrl-C.
    desk.guest.shell("rmmod virtio_balloon").await.unwrap().ok().unwrap();
    let mut waiting = desk.command("apply VM AGENT --memory 448M --mechanism balloon --yes");
    let child = waiting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let state = desk.state.path().join("state");
    eventually("the balloon's step", Duration::from_secs(60), async || {
        Ok(fs::read_dir(&state).ok().and_then(|files| sent(files).then_some(())))
    })
    .await
    .unwrap();
    let busy = desk.supple("observe VM AGENT");
    assert!(busy.err.contains(&format!("another supple (process {})", child.id())), "{}", busy.err);
    let at_work = desk.supple("why VM");
    assert!(at_work.out.contains("is in progress"), "{}", at_work.out);

    let ended = interrupt(child);
    assert_eq!(ended.status, 130, "{}{}", ended.out, ended.err);
    assert!(
        ended.err.starts_with("stopped after 0 of 1 steps, at: set the balloon's target"),
        "{}",
        ended.err
    );
    let why = desk.supple("why VM");
    assert!(why.out.contains("was interrupted after 0 of 1"), "{}", why.out);
    let seen = desk.supple("observe VM AGENT");
    assert!(seen.out.contains("was interrupted after 0 of 1"), "{}", seen.out);
}

/// True once an act is on record as about to be sent.
fn sent(files: fs::ReadDir) -> bool {
    let texts = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
    texts.into_iter().any(|text| text.contains(r#""record":"sending""#))
}

fn interrupt(child: Child) -> Ended {
    let pid = rustix::process::Pid::from_child(&child);
    // The handler is set when the run begins, a moment before the record is written.
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Runs the program on a terminal and types `words`; how it ended and all that the terminal showed.
fn answer(command: &mut Command, words: &str) -> (Ended, String) {
    let mut screen = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap());
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap();
    let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    let line = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let child = command
        .stdin(line.try_clone().unwrap())
        .stdout(line.try_clone().unwrap())
        .stderr(line)
        .spawn()
        .unwrap();
    // The command keeps its ends of the line; without them the screen would never be seen to end.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    screen.write_all(words.as_bytes()).unwrap();
    let mut said = Vec::new();
    // Ends with an error, EIO, when the last user of the line has gone.
    let _ = screen.read_to_end(&mut said);
    let ended = child.wait_with_output().unwrap().into();
    (ended, String::from_utf8_lossy(&said).replace('\r', ""))
}
