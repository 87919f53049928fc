//! The program as a shell sees it, without any machine: what it refuses, with which status, and what it prints about
//! itself.

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::os::unix::net::UnixListener;
use tempfile::TempDir;

/// The program with a state directory of its own, and the directory.
fn supple() -> (Command, TempDir) {
    let dir = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_supple"));
    command.env("SUPPLE_STATE_DIR", dir.path().join("state")).env_remove("COLUMNS").env("NO_COLOR", "1");
    // No libvirt of the machine that this runs on is asked anything.
    command.env("SUPPLE_CONNECT", "qemu+unix:///system?socket=/nowhere/libvirt-sock");
    (command, dir)
}

struct Ended {
    status: i32,
    out: String,
    err: String,
}

fn run(words: &[&str]) -> Ended {
    let (mut command, dir) = supple();
    let ended = ended(command.args(words));
    assert!(!dir.path().join("state").exists(), "{words:?} left something behind");
    ended
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        status: output.status.code().expect("ended by itself"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn bad_sizes_are_refused_with_what_to_write_instead() {
    let cases = [
        ("6Gb", "write 6GiB (binary) or 6GB (decimal)"),
        ("6144", "write 6144M for MiB"),
        ("six", "write a number with a unit"),
        ("1.0000001K", "the nearest below is"),
        ("-0x10M", "is not a size"),
    ];
    for (size, told) in cases {
        let ended = run(&["apply", "qmp:/nowhere/q.sock", "--memory", size, "--yes"]);
        assert_eq!(ended.status, 2, "{size}: {}", ended.err);
        assert!(ended.err.contains(told), "{size}: {}", ended.err);
    }
    let ended = run(&["plan", "qmp:/nowhere/q.sock", "--vcpus", "0"]);
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("whole number from 1"), "{}", ended.err);
}

#[test]
fn what_names_no_machine_is_told_what_does() {
    for (vm, told) in [
        ("localhost:4444", "qmp:/path/to/qmp.sock"),
        ("", "qmp:/path/to/qmp.sock"),
        ("qemu:///system", "write qemu:///system#web1"),
    ] {
        let ended = run(&["observe", vm]);
        assert_eq!(ended.status, 2, "{vm}");
        assert!(ended.err.contains(told), "{vm}: {}", ended.err);
    }
}

#[test]
fn connect_is_a_uri_and_is_given_once() {
    for (words, told) in [
        (&["plan", "web1", "--memory", "2G", "-c", "4"][..], "vCPUs are --vcpus or -v"),
        (&["observe", "-c", "qemu:///system", "qemu:///session#web1"], "leave --connect out"),
        (&["-c", "qemu:///system", "observe", "qmp:/nowhere/q.sock"], "leave --connect out"),
        (&["observe", "-c", "qemu:///system#web1", "web1"], "--connect 'qemu:///system' web1"),
    ] {
        let ended = run(words);
        assert_eq!(ended.status, 2, "{words:?}");
        assert!(ended.err.contains(told), "{words:?}: {}", ended.err);
    }
    let ended = run(&["observe", "qmp:/nowhere/q.sock", "-c", "qemu:///system", "--json"]);
    let told: Value = serde_json::from_str(&ended.out).expect("one object");
    assert_eq!(told["error"]["kind"], "usage", "{told}");
}

#[test]
fn what_only_libvirts_machines_have_is_refused_for_others() {
    let ended = run(&["apply", "qmp:/nowhere/q.sock", "--memory", "2G", "--live-only", "--yes"]);
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("--live-only is for machines of libvirt's"), "{}", ended.err);
    let ended = run(&["observe", "web1", "--agent", "/nowhere/qga.sock"]);
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("leave --agent out"), "{}", ended.err);
}

#[test]
fn a_machine_that_is_not_there_is_an_error_with_a_way_out() {
    for command in [&["observe"][..], &["plan", "--memory", "2G"], &["apply", "--memory", "2G", "--yes"]] {
        let words = [command, &["qmp:/nowhere/q.sock"]].concat();
        let ended = run(&words);
        assert_eq!((ended.status, ended.out.as_str()), (2, ""), "{words:?}");
        let told = ended.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.starts_with("error: there is no socket at /nowhere/q.sock"), "{words:?}: {told}");
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_told_from_one_that_is_missing() {
    let (mut command, dir) = supple();
    let socket = dir.path().join("q.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let ended = ended(command.arg("observe").arg(&socket));
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("nobody listens"), "{}", ended.err);
}

#[test]
fn errors_are_json_on_standard_output_with_json() {
    for words in [
        &["observe", "qmp:/nowhere/q.sock", "--json"][..],
        &["observe", "localhost:4444", "--json"],
        &["observe", "web1", "--json"],
        &["plan", "qmp:/nowhere/q.sock", "--json"],
    ] {
        let ended = run(words);
        assert_eq!((ended.status, ended.err.as_str()), (2, ""), "{words:?}");
        let told: Value = serde_json::from_str(&ended.out).expect("one object");
        assert_eq!(told["error"]["may_have_changed"], false, "{told}");
        assert!(!told["error"]["message"].as_str().unwrap().is_empty(), "{told}");
    }
}

#[test]
fn why_needs_no_machine() {
    let ended = run(&["why", "qmp:/nowhere/q.sock"]);
    assert_eq!((ended.status, ended.out.as_str()), (0, "No run on qmp:/nowhere/q.sock is on record.\n"));
    let ended = run(&["why", "qmp:/nowhere/q.sock", "--json"]);
    let told: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(told["history"]["report"], Value::Null);
}

#[test]
fn a_damaged_record_is_an_error_that_names_the_line() {
    let (mut command, dir) = supple();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("qmp:%2Fnowhere%2Fq.sock.journal"), "not a record\n").unwrap();
    let ended = ended(command.args(["why", "qmp:/nowhere/q.sock"]));
    assert_eq!(ended.status, 2);
    assert!(ended.err.contains("line 1 of the journal"), "{}", ended.err);
}

#[test]
fn a_command_that_asks_for_nothing_is_answered_with_an_example_in_two_lines() {
    for words in [&["plan", "web1"][..], &["apply", "web1", "--yes"], &["plan", "web1", "--zone", "movable"]]
    {
        let ended = run(words);
        assert_eq!((ended.status, ended.err.lines().count()), (2, 2), "{words:?}: {}", ended.err);
        assert!(ended.err.contains("supple plan web1 --memory 4G"), "{}", ended.err);
    }
    let told: Value = serde_json::from_str(&run(&["plan", "web1", "--json"]).out).unwrap();
    assert_eq!(told["error"]["kind"], "usage");
}

#[test]
fn help_tells_of_sizes_and_of_exit_statuses() {
    let help = run(&["--help"]);
    assert_eq!(help.status, 0);
    for word in ["doctor", "observe", "plan", "apply", "why", "guest", "Exit status:", "130"] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
    let help = run(&["apply", "--help"]);
    for word in ["--memory", "--vcpus", "--yes", "--mechanism", "--node", "--zone", "--json", "decimal"] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
}

#[test]
fn a_memory_device_is_described_to_be_piped_and_its_rounding_is_told_beside() {
    let ended = run(&["device-xml", "--size", "512M", "--node", "0"]);
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    assert!(
        ended.out.starts_with("<memory model='dimm'>\n") && ended.out.ends_with("</memory>\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("<size unit='KiB'>524288</size>"), "{}", ended.out);

    let rounded = run(&["device-xml", "--size", "524287K", "--node", "0"]);
    assert_eq!((rounded.status, rounded.out), (0, ended.out));
    assert!(rounded.err.starts_with("note: 524287 KiB is no multiple of 2 MiB"), "{}", rounded.err);

    let device = run(&["device-xml", "--size", "4G", "--virtio-mem", "--requested", "1G", "--node", "1"]);
    for part in ["virtio-mem", "<block unit='KiB'>2048</block>", "<requested unit='KiB'>1048576</requested>"]
    {
        assert!(device.out.contains(part), "{part}: {}", device.out);
    }
    for (words, told) in [
        (&["device-xml", "--size", "1G", "--slot", "256"][..], "slots are numbered from 0 to 255"),
        (&["device-xml", "--size", "1G", "--alias", "mine"], "begin with 'ua-'"),
        (&["device-xml", "--size", "1G", "--virtio-mem", "--requested", "2G"], "ask for 1 GiB"),
        (&["device-xml", "--size", "1G", "--slot", "0", "--base", "4294967296"], "0x100000000"),
        (&["device-xml"], "--size"),
    ] {
        let ended = run(words);
        let said = ended.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!((ended.status, ended.out.as_str()), (2, ""), "{words:?}");
        assert!(said.contains(told), "{words:?}: {said}");
    }
}

#[test]
fn the_udev_rule_is_printed_to_be_piped() {
    let rule = run(&["guest", "udev-rule"]);
    assert!(rule.out.contains("SUBSYSTEM==\"memory\", ACTION==\"add\""), "{}", rule.out);
    let json: Value = serde_json::from_str(&run(&["guest", "udev-rule", "--json"]).out).unwrap();
    assert_eq!(json["udev_rule"]["text"], rule.out.as_str());
}

#[test]
fn a_guest_that_cannot_be_reached_is_set_up_by_hand() {
    for words in [
        &["guest", "setup", "/nowhere/q.sock"][..],
        &["guest", "setup", "/nowhere/q.sock", "--agent", "/nowhere/a.sock"],
    ] {
        let ended = run(words);
        assert_eq!(ended.status, 2, "{words:?}");
        assert!(ended.out.contains("By hand") && ended.out.contains("udevadm control"), "{}", ended.out);
    }
}

#[test]
fn completions_and_man_pages_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&["completions", shell]);
        assert!(ended.out.contains("udev-rule") && ended.out.contains("mechanism"), "{shell}");
    }
    assert!(run(&["man"]).out.contains("\n.SH \"EXIT STATUS\"\n"));

    let (mut command, dir) = supple();
    let pages = dir.path().join("man");
    assert_eq!(ended(command.arg("man").arg(&pages)).status, 0);
    let mut names: Vec<String> =
        fs::read_dir(&pages).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for page in ["supple.1", "supple-apply.1", "supple-guest-setup.1", "supple-why.1"] {
        assert!(names.contains(&page.to_owned()), "{names:?}");
    }
    assert!(fs::read_to_string(pages.join("supple-apply.1")).unwrap().contains("supple\\-apply"));
}

/// libvirt's own make-believe driver: a connection with one running machine, `test`, and no QEMU.
#[cfg(feature = "libvirt")]
mod libvirt {
    use super::*;

    fn told(words: &[&str]) -> Ended {
        let ended = run(words);
        Ended { err: ended.err.split_whitespace().collect::<Vec<_>>().join(" "), ..ended }
    }

    #[test]
    fn a_libvirt_that_does_not_answer_is_named_with_a_way_out() {
        for words in [
            &["observe", "web1"][..],
            &["plan", "web1", "--memory", "2G"],
            &["apply", "web1", "--memory", "2G", "--yes"],
            &["guest", "setup", "web1"],
            &["why", "web1"],
        ] {
            let ended = told(words);
            assert_eq!((ended.status, ended.out.as_str()), (2, ""), "{words:?}");
            assert!(
                ended.err.starts_with("error: cannot reach libvirt at qemu+unix:"),
                "{words:?}: {}",
                ended.err
            );
            assert!(
                ended.err.contains("/nowhere/libvirt-sock") && ended.err.contains("virsh -c"),
                "{}",
                ended.err
            );
        }
        let ended = told(&["observe", "web1", "--json"]);
        let said: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(said["error"]["kind"], "unreachable");
    }

    #[test]
    fn a_name_that_libvirt_does_not_know_is_answered_with_those_like_it() {
        let ended = told(&["observe", "tset", "--connect", "test:///default"]);
        assert_eq!(ended.status, 2);
        let expected = "error: libvirt knows no machine 'tset' at test:///default; did you mean test?";
        assert_eq!(ended.err, expected);
        let ended = told(&["observe", "test:///default#oracle"]);
        assert!(ended.err.ends_with("`supple list` shows the one that is there"), "{}", ended.err);
        let ended = told(&["-c", "test:///default", "why", "oracle", "--json"]);
        let said: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(said["error"]["kind"], "no-such-machine");
    }

    #[test]
    fn all_machines_are_listed_with_their_sizes() {
        let ended = run(&["list", "-c", "test:///default"]);
        assert_eq!((ended.status, ended.err.as_str()), (0, ""));
        let row: Vec<&str> = ended.out.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..8], ["test", "running", "2", "GiB", "8", "GiB", "2", "2"], "{}", ended.out);
        assert!(ended.out.contains("nothing but the balloon"), "{}", ended.out);
        assert!(ended.out.contains("1 machine at test:///default, 1 running."), "{}", ended.out);

        let ended = run(&["list", "--json", "-c", "test:///default"]);
        let said: Value = serde_json::from_str(&ended.out).unwrap();
        let machine = &said["machines"]["machines"][0];
        assert_eq!((&machine["name"], &machine["runs"]), (&"test".into(), &true.into()), "{said}");
        assert_eq!(machine["why_unknown"], Value::Null, "{said}");

        let ended = told(&["list"]);
        assert_eq!(ended.status, 2);
        assert!(ended.err.starts_with("error: cannot reach libvirt at qemu+unix:"), "{}", ended.err);
    }

    #[test]
    fn only_a_machine_of_qemus_is_prepared_and_only_as_it_can_be() {
        let ended = told(&[
            "prepare",
            "qmp:/nowhere/q.sock",
            "--max-memory",
            "64G",
            "--slots",
            "32",
            "--max-vcpus",
            "4",
        ]);
        assert_eq!(ended.status, 2);
        assert!(ended.err.contains("-m SIZE,slots=32,maxmem=64G and -smp N,maxcpus=4"), "{}", ended.err);

        let ended = told(&["prepare", "test:///default#test", "--max-memory", "64G", "--yes"]);
        assert_eq!((ended.status, ended.out.as_str()), (2, ""), "{}", ended.err);
        assert!(ended.err.starts_with("refused; nothing was changed"), "{}", ended.err);
        assert!(ended.err.contains("a machine of type 'test' is not run by QEMU"), "{}", ended.err);
        let ended = told(&["prepare", "test:///default#test", "--max-memory", "64G", "--json"]);
        let said: Value = serde_json::from_str(&ended.out).unwrap();
        assert_eq!(said["refusal"]["obstacles"][0]["when"], "impossible", "{said}");

        let ended = told(&["prepare", "test:///default#test", "--undo"]);
        assert_eq!(ended.status, 2);
        assert!(ended.err.contains("no preparation of test is on record"), "{}", ended.err);
        for words in [
            &["prepare", "web1", "--undo", "--max-memory", "64G"][..],
            &["prepare", "web1", "--block", "2M"],
            &["prepare", "web1", "--max-memory", "+64G"],
            &["prepare", "web1", "--max-vcpus", "0"],
        ] {
            let ended = told(words);
            assert_eq!(ended.status, 2, "{words:?}");
            assert!(!ended.err.contains("cannot reach libvirt"), "{words:?}: {}", ended.err);
        }
    }

    #[test]
    fn a_machine_that_is_not_qemus_is_refused() {
        let ended = told(&["observe", "test:///default#test"]);
        assert_eq!(ended.status, 2);
        assert!(ended.err.contains("QEMU"), "{}", ended.err);
    }

    #[test]
    fn a_record_is_found_by_name_and_by_uuid_and_the_uuid_needs_no_libvirt() {
        let ended = told(&["why", "test:///default#test"]);
        assert_eq!((ended.status, ended.out.as_str()), (0, "No run on test:///default#test is on record.\n"));
        let uuid = "6F3C1A52-0B1E-4C57-9B4D-1DE1F0A1B2C3";
        let ended = told(&["why", uuid]);
        assert_eq!((ended.status, ended.out), (0, format!("No run on {uuid} is on record.\n")));
    }
}

#[cfg(not(feature = "libvirt"))]
#[test]
fn without_libvirt_a_name_is_refused_and_says_why() {
    for words in [
        &["observe", "web1"][..],
        &["apply", "web1", "--memory", "2G", "--yes"],
        &["why", "web1"],
        &["list"],
        &["prepare", "web1", "--undo"],
    ] {
        let ended = run(words);
        assert_eq!(ended.status, 2, "{words:?}");
        assert!(ended.err.contains("built without libvirt"), "{words:?}: {}", ended.err);
    }
}

#[test]
fn a_doctor_of_a_host_without_qemu_says_what_to_install() {
    let (mut command, dir) = supple();
    let told = ended(
        command.args(["doctor", "--connect", "qemu+unix:///system?socket=/nowhere"]).env("PATH", dir.path()),
    );
    // Red Hat's QEMU is in no PATH.
    if !std::path::Path::new("/usr/libexec/qemu-kvm").exists() {
        assert_eq!(told.status, 1, "{}{}", told.out, told.err);
        assert!(told.out.contains("missing  qemu") && told.out.ends_with("missing: qemu\n"), "{}", told.out);
    }
    assert!(told.out.contains("/dev/kvm"), "{}", told.out);
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_doctor_asks_the_qemu_that_is_named() {
    let words =
        ["doctor", "--qemu", "/nowhere/qemu", "--json", "--connect", "qemu+unix:///system?socket=/nowhere"];
    let told = run(&words);
    assert_eq!((told.status, told.err.as_str()), (1, ""));
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let qemu = &told["doctor"]["findings"][0];
    assert_eq!((&qemu["subject"], &qemu["severity"]), (&"qemu".into(), &"missing".into()));
    assert!(qemu["found"].as_str().unwrap().contains("/nowhere/qemu"), "{qemu}");
}

#[test]
fn what_guests_can_do_is_printed_with_its_sources() {
    let told = run(&["doctor", "--guests"]);
    assert_eq!(told.status, 0);
    for word in ["Windows Server 2025", "RHEL, CentOS 6", "openEuler", "FreeBSD", "https://"] {
        assert!(told.out.contains(word), "{word}: {}", told.out);
    }
    let json: Value = serde_json::from_str(&run(&["doctor", "--guests", "--json"]).out).unwrap();
    assert!(json["guests"]["rows"].as_array().unwrap().len() > 30);
    let told = run(&["doctor", "web1", "--guests"]);
    assert_eq!(told.status, 2, "{}", told.err);
}

#[test]
fn a_doctor_of_a_machine_that_is_not_there_is_an_error() {
    let told = run(&["doctor", "qmp:/nowhere/q.sock"]);
    assert_eq!((told.status, told.out.as_str()), (2, ""));
    assert!(told.err.contains("there is no socket"), "{}", told.err);
}
