//! What is gathered for a doctor: of a QEMU's shape and of what a guest shows, with agents that allow all, little, or
//! fall silent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use scale::doctor::kernel::Built;
use scale::doctor::vm::{Channel, Firmware, Inside, Running};
use serde_json::{Value, json};

use crate::fake::{Answer, Party, Q35, Table, debian, no, open, yes};

const CONFIG: &str = "/boot/config-6.1.0";
const RULES: &str = "/usr/lib/udev/rules.d/40-redhat.rules";
/// The longest piece that is asked for of a file at once.
const PIECE: usize = 256 * 1024;

async fn examined(qemu: Table, agent: Table) -> Running {
    let (qemu, agent) = (Party::play(qemu), Party::play(agent));
    open(&qemu, Some(&agent)).await.examined().await.expect("examined")
}

async fn inside(agent: Table) -> Inside {
    examined(Table::recorded(Q35), agent).await.inside
}

/// The commands of an agent, each on or off.
fn commands(on: &[&str], off: &[&str]) -> Value {
    let all = on.iter().map(|name| (*name, true)).chain(off.iter().map(|name| (*name, false)));
    let all: Vec<Value> = all.map(|(name, enabled)| json!({"name": name, "enabled": enabled})).collect();
    json!({"version": "7.2.22", "supported_commands": all})
}

const FILES: [&str; 4] = ["guest-file-open", "guest-file-read", "guest-file-write", "guest-file-close"];

/// An agent that may read files, on a guest with these.
fn with_files(files: &[(&str, &str, usize)]) -> Table {
    let mut table = debian()
        .with("guest-info", commands(&FILES, &["guest-exec", "guest-exec-status"]))
        .with(
            "guest-get-osinfo",
            json!({"id": "debian", "version-id": "12", "kernel-release": "6.1.0", "machine": "x86_64"}),
        )
        .then("guest-file-open", no("failed to open file: No such file or directory"));
    for (nth, (path, text, most)) in files.iter().enumerate() {
        let handle = 2000 + nth;
        let content = STANDARD.encode(text);
        let count = (most + 1).min(PIECE);
        table =
            table.with(&format!(r#"guest-file-open {{"mode":"r","path":"{path}"}}"#), json!(handle)).with(
                &format!(r#"guest-file-read {{"count":{count},"handle":{handle}}}"#),
                json!({"count": text.len(), "eof": true, "buf-b64": content}),
            );
    }
    table
}

const SMALL: usize = 16 * 1024;

#[tokio::test]
async fn files_tell_of_the_kernel_and_of_rules_where_no_program_may_run() {
    let rule = "SUBSYSTEM==\"memory\", ACTION==\"add\", ATTR{state}==\"offline\", ATTR{state}=\"online\"\n";
    let inside = inside(with_files(&[
        ("/proc/cmdline", "quiet nr_cpus=2\n", SMALL),
        (CONFIG, "CONFIG_MEMORY_HOTPLUG=y\n# CONFIG_HOTPLUG_CPU is not set\n", PIECE),
        (RULES, rule, 128 * 1024),
    ]))
    .await;
    assert_eq!(inside.system.map(|system| system.version).as_deref(), Some("12"));
    assert_eq!(inside.command_line.and_then(|line| line.vcpu_limit()), Some(2));
    let (options, from) = inside.options.expect("read");
    assert_eq!((options.get("CONFIG_HOTPLUG_CPU"), from.as_str()), (Some(Built::Out), CONFIG));
    let rules = inside.rules.expect("read");
    assert_eq!(rules.len(), 1);
    assert_eq!((rules[0].path.as_str(), rules[0].text.as_str()), (RULES, rule));
    assert_eq!(inside.udev_runs, Some(false), "its socket is not there");
    assert!(inside.disabled.contains("guest-exec") && inside.files_barred.is_none());
}

#[tokio::test]
async fn an_empty_file_of_rules_switches_the_distributions_off() {
    let (own, size) = ("/etc/udev/rules.d/40-redhat.rules", 128 * 1024);
    let rules = inside(with_files(&[(own, "", size), (RULES, "ATTR{state}=\"online\"\n", size)])).await.rules;
    let rules = rules.expect("read");
    assert_eq!((rules.len(), rules[0].path.as_str(), rules[0].text.as_str()), (1, own, ""));
}

#[tokio::test]
async fn an_agent_that_may_read_no_files_says_so_and_its_kernel_shows_signs() {
    let table = debian()
        .with("guest-info", commands(&["guest-get-vcpus"], &FILES))
        .with("guest-get-osinfo", json!({"id": "rhel", "version-id": "9.4", "machine": "x86_64"}));
    let inside = inside(table).await;
    assert_eq!(inside.files_barred.as_deref(), Some("the agent may not read files"));
    assert_eq!((inside.rules, inside.command_line, inside.udev_runs), (None, None, None));
    let (options, from) = inside.options.expect("signs");
    assert_eq!(options.get("CONFIG_MEMORY_HOTPLUG"), Some(Built::In), "{from}");
}

#[tokio::test]
async fn nothing_of_linux_is_asked_of_windows() {
    let osinfo =
        json!({"id": "mswindows", "version-id": "2022", "pretty-name": "Windows Server 2022 Datacenter"});
    let (qemu, agent) = (
        Party::play(Table::recorded(Q35)),
        Party::play(debian().with("guest-info", commands(&FILES, &[])).with("guest-get-osinfo", osinfo)),
    );
    let mut machine = open(&qemu, Some(&agent)).await;
    let running = machine.examined().await.expect("examined");
    assert!(running.inside.system.is_some_and(|system| system.is_windows()));
    let paths: Vec<Value> =
        agent.heard().into_iter().map(|(_, arguments)| arguments["path"].clone()).collect();
    assert!(!paths.contains(&json!("/proc/cmdline")), "{paths:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_falls_silent_keeps_what_it_said() {
    let table = with_files(&[("/proc/cmdline", "quiet\n", SMALL)])
        .then(&format!(r#"guest-file-open {{"mode":"r","path":"{CONFIG}"}}"#), Answer::Never);
    let inside = inside(table).await;
    assert!(inside.command_line.is_some_and(|line| line.has("quiet")));
    assert_eq!(inside.options, None);
    let why = inside.files_barred.expect("a reason");
    assert!(why.contains("no answer"), "{why}");
}

#[tokio::test]
async fn nonsense_of_a_guest_is_no_fact() {
    let osinfo = json!({"id": ["debian"], "version-id": 12, "machine": {"a": 1}, "kernel-release": 7});
    let table = debian().with("guest-get-osinfo", osinfo);
    assert_eq!(inside(table).await.system, None);
    let junk = "\u{0}\u{1}GOTO=\"\nSUBSYSTEM==\"[\"";
    let inside = inside(with_files(&[(CONFIG, junk, PIECE), (RULES, junk, 128 * 1024)])).await;
    assert!(inside.options.is_some_and(|(options, _)| options.is_empty()));
    assert_eq!(inside.rules.map(|rules| rules.len()), Some(1));
}

#[tokio::test]
async fn a_shape_is_read_from_what_qemu_answers() {
    let running = examined(Table::recorded(Q35), debian()).await;
    let shape = running.shape;
    assert_eq!((shape.acpi, shape.firmware), (Some(true), Firmware::Bios));
    assert!(shape.vcpu_hotplug && shape.balloon && shape.ceiling.is_some_and(|ceiling| ceiling > shape.boot));
    assert_eq!(shape.channel, Channel::Of("unix".to_owned()), "an agent that answers has one");

    let secure = Table::recorded(Q35)
        .with(r#"qom-get {"path":"/machine","property":"pflash0"}"#, json!("drive0"))
        .with(r#"qom-get {"path":"/machine/system.flash0","property":"secure"}"#, json!(true))
        .with(
            r#"qom-get {"path":"/machine","property":"confidential-guest-support"}"#,
            json!("/objects/sev0"),
        )
        .with(r#"qom-get {"path":"/objects/sev0","property":"type"}"#, json!("sev-guest"))
        .without("query-acpi-ospm-status");
    let network = "net0: index=0,type=vhost-user\nnet1: index=0,type=tap\n";
    let secure = secure.then(r#"human-monitor-command {"command-line":"info network"}"#, yes(json!(network)));
    let shape = examined(secure, debian()).await.shape;
    assert_eq!((shape.acpi, shape.firmware), (Some(false), Firmware::UefiSecure));
    assert_eq!((shape.vhost_user, shape.confidential.as_deref()), (1, Some("sev-guest")));
}

#[tokio::test]
async fn without_an_agent_the_channel_is_looked_for() {
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, None).await;
    assert_eq!(machine.examined().await.expect("examined").shape.channel, Channel::Absent);
}
