//! What a guest shows of itself besides its sizes, through its agent: who it is, what its kernel was built with, which
//! udev rules it has. Some of it wants files, some programs; what the agent may not do stays unknown, with the reason.
//! The guest may say anything: all of it is bounded, and texts that are printed are made safe.

use std::collections::BTreeSet;
use std::time::Duration;

use scale::doctor::kernel::{Built, CommandLine, Options};
use scale::doctor::rules::RuleFile;
use scale::doctor::vm::Inside;
use scale::guests::System;
use scale::observed::{Guest, GuestFacts};
use serde_json::Value;

use crate::guest::exec::{self, End};
use crate::guest::files::{self, FileError};
use crate::guest::reach::Reach;
use crate::guest::{Agent, AgentError};
use crate::wire::shown;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest file of /proc and /sys that is taken: a kernel's command line has 4 KiB at most.
const SMALL: usize = 16 * 1024;
/// The longest kernel configuration; Debian's has 260 KiB.
const CONFIG: usize = 1024 * 1024;
/// The longest file of rules.
const RULES: usize = 128 * 1024;
/// The most files of rules.
const MOST_RULES: usize = 64;
/// The most commands that an agent may say are switched off.
const MOST_COMMANDS: usize = 1024;
/// The longest text that a guest may say of itself, in characters.
const LONGEST_TEXT: usize = 200;

/// Where udev looks for rules, the first one before the others for files of one name.
const RULE_DIRS: [&str; 4] =
    ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];

/// The names of files that bring memory or CPUs online on the distributions known: where no program may list them all.
const KNOWN_RULES: [&str; 8] = [
    "40-redhat.rules",
    "40-redhat-hotplug.rules",
    "40-redhat-cpu-hotplug.rules",
    "40-generic.rules",
    "40-openEuler.rules",
    "40-vm-hotadd.rules",
    "80-hotplug-cpu-mem.rules",
    "80-supple-hotplug.rules",
];

/// Asks the guest, as far as its agent allows. `guest` is what the agent said already.
pub(super) async fn gather(reach: &mut Reach, guest: &Guest) -> Inside {
    let Guest::Heard(facts) = guest else { return Inside::default() };
    let facts = facts.clone();
    let Ok(agent) = reach.agent().await else { return Inside::default() };
    let mut inside = Inside::default();
    // A guest that falls silent midway leaves what it has said.
    let gone = tokio::time::timeout(LIMIT, ask(agent, &facts, &mut inside)).await;
    let error = match gone {
        Ok(Ok(())) => return inside,
        Ok(Err(error)) => error,
        Err(_) => AgentError::TimedOut { command: "what a doctor asks".to_owned(), after: LIMIT },
    };
    inside.files_barred.get_or_insert_with(|| shown(&error.to_string()));
    // The next question synchronises anew; what it costs was paid here.
    let _ = reach.note(&error);
    inside
}

async fn ask(agent: &mut Agent, facts: &GuestFacts, inside: &mut Inside) -> Result<(), AgentError> {
    let calls = [("guest-get-osinfo", Value::Null), ("guest-info", Value::Null)];
    let mut answers = agent.call_all(&calls, LIMIT).await?.into_iter();
    let mut next = || answers.next().and_then(Result::ok);
    inside.system = next().as_ref().and_then(system);
    inside.disabled = next().as_ref().map(disabled).unwrap_or_default();
    if !inside.system.as_ref().is_some_and(System::is_linux) {
        return Ok(());
    }
    if !["guest-file-open", "guest-file-read", "guest-file-close"].iter().all(|command| facts.can(command)) {
        inside.files_barred = Some("the agent may not read files".to_owned());
        inside.options = signs(facts, inside);
        return Ok(());
    }
    small_files(agent, inside).await?;
    inside.options = match config(agent, facts).await? {
        Some((text, path)) => Some((Options::read(&text), path)),
        None => signs(facts, inside),
    };
    inside.rules = Some(rules(agent, facts).await?);
    Ok(())
}

/// Who the guest is, from `guest-get-osinfo`.
fn system(answer: &Value) -> Option<System> {
    let text = |key: &str| answer.get(key).and_then(Value::as_str).map(clipped).unwrap_or_default();
    let name = Some(text("pretty-name")).filter(|name| !name.is_empty()).unwrap_or_else(|| text("name"));
    let (id, release) = (text("id"), text("kernel-release"));
    if id.is_empty() {
        // Only Linux has systems without an os-release (the agent of any other names itself, qga/commands-*.c).
        let name = if name.is_empty() { format!("a Linux with kernel {release}") } else { name };
        return (!release.is_empty()).then(|| System::of_agent("linux", "", &name, &text("machine")));
    }
    Some(System::of_agent(&id, &text("version-id"), &name, &text("machine")))
}

/// A guest's text, safe to print and of bounded length.
fn clipped(text: &str) -> String {
    shown(&text.chars().take(LONGEST_TEXT).collect::<String>())
}

/// The commands that are there and switched off, from `guest-info`.
fn disabled(answer: &Value) -> BTreeSet<String> {
    let list = answer["supported_commands"].as_array().map(Vec::as_slice).unwrap_or_default();
    let off = list.iter().take(MOST_COMMANDS).filter(|item| item["enabled"] == Value::Bool(false));
    off.filter_map(|item| item["name"].as_str().map(clipped)).collect()
}

const POLICY: &str = "/sys/module/memory_hotplug/parameters/online_policy";
const COMMAND_LINE: &str = "/proc/cmdline";
const CONTROL: &str = "/run/udev/control";

async fn small_files(agent: &mut Agent, inside: &mut Inside) -> Result<(), AgentError> {
    let mut read = files::read_each(agent, &[COMMAND_LINE, POLICY], SMALL, LIMIT).await?.into_iter();
    let mut text = || {
        let content = read.next()?.ok()?;
        Some(String::from_utf8_lossy(&content).into_owned())
    };
    inside.command_line = text().map(|text| CommandLine::read(&text));
    inside.online_policy = text().map(|text| clipped(text.trim()));
    // A socket cannot be opened as a file, and its error tells it from one that is not there. Older udevs have none.
    inside.udev_runs = match files::read(agent, CONTROL, SMALL, LIMIT).await {
        Ok(_) | Err(FileError::TooLong { .. }) => None,
        Err(FileError::Agent(AgentError::Refused { desc, .. })) => udev_runs(&desc),
        Err(FileError::Agent(error)) => return Err(error),
    };
    Ok(())
}

/// Whether udev runs, by the error of opening its socket: ENXIO is a socket's, and ENOENT means that none is there.
fn udev_runs(error: &str) -> Option<bool> {
    if error.contains("No such device or address") {
        Some(true)
    } else if error.contains("No such file or directory") {
        Some(false)
    } else {
        None
    }
}

/// The kernel's configuration and where it is from.
async fn config(agent: &mut Agent, facts: &GuestFacts) -> Result<Option<(String, String)>, AgentError> {
    // It becomes a part of a path.
    let plain =
        |release: &&String| release.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-~".contains(&b));
    if let Some(release) = facts.kernel.as_ref().filter(plain) {
        for path in [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")] {
            if let Some(text) = read(agent, &path, CONFIG).await? {
                return Ok(Some((text, path)));
            }
        }
    }
    // Packed: only a program in the guest unpacks it.
    let packed = "/proc/config.gz";
    let text = run(agent, facts, "/bin/sh", &["-c", "zcat /proc/config.gz"], CONFIG).await?;
    Ok(text.filter(|text| !text.is_empty()).map(|text| (text, packed.to_owned())))
}

/// What the kernel at work shows of its options.
fn signs(facts: &GuestFacts, inside: &Inside) -> Option<(Options, String)> {
    let mut seen = Vec::new();
    // The folder of memory blocks is there only with it (drivers/base/memory.c).
    if facts.block.is_some() || facts.auto_online.is_some() || inside.online_policy.is_some() {
        seen.push(("CONFIG_MEMORY_HOTPLUG", Built::In));
    }
    if facts.vcpus.iter().any(|vcpu| vcpu.can_offline) {
        seen.push(("CONFIG_HOTPLUG_CPU", Built::In));
    }
    (!seen.is_empty()).then(|| (Options::seen(&seen), "by what the kernel shows at work".to_owned()))
}

/// The rules about memory and CPUs, in the order in which udev reads them: by name, and of one name the first place's,
/// which may be empty to switch the others off.
async fn rules(agent: &mut Agent, facts: &GuestFacts) -> Result<Vec<RuleFile>, AgentError> {
    let script = format!(
        "grep -lsE 'SUBSYSTEM.*(memory|cpu)' {} 2> /dev/null; true",
        RULE_DIRS.map(|dir| format!("{dir}/*.rules")).join(" ")
    );
    let listed = run(agent, facts, "/bin/sh", &["-c", &script], RULES).await?;
    let names = match &listed {
        Some(text) => names(text),
        None => KNOWN_RULES.into(),
    };
    let mut files = Vec::new();
    for name in names {
        for dir in RULE_DIRS {
            let path = format!("{dir}/{name}");
            if let Some(text) = read(agent, &path, RULES).await? {
                files.push(RuleFile { path: clipped(&path), text });
                break;
            }
        }
    }
    Ok(files)
}

/// The names of the files in a list of paths, in udev's order, each once.
fn names(list: &str) -> BTreeSet<&str> {
    let of_udev = |path: &&str| path.rsplit_once('/').is_some_and(|(dir, _)| RULE_DIRS.contains(&dir));
    let paths = list.lines().filter(of_udev).filter_map(|path| path.rsplit('/').next());
    paths.filter(|name| name.ends_with(".rules")).take(MOST_RULES).collect()
}

/// A file's text; nothing where the guest has none, or none of that length.
async fn read(agent: &mut Agent, path: &str, most: usize) -> Result<Option<String>, AgentError> {
    match files::read(agent, path, most, LIMIT).await {
        Ok(content) => Ok(Some(String::from_utf8_lossy(&content).into_owned())),
        Err(FileError::TooLong { .. } | FileError::Agent(AgentError::Refused { .. })) => Ok(None),
        Err(FileError::Agent(error)) => Err(error),
    }
}

/// What a program prints; nothing where the agent may run none, or it fails.
async fn run(
    agent: &mut Agent,
    facts: &GuestFacts,
    program: &str,
    arguments: &[&str],
    most: usize,
) -> Result<Option<String>, AgentError> {
    if !(facts.can("guest-exec") && facts.can("guest-exec-status")) {
        return Ok(None);
    }
    match exec::run(agent, program, arguments, most, LIMIT).await {
        Ok(output) if output.end == End::Exit(0) && !output.is_cut => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Ok(_) | Err(exec::ExecError::StillRuns { .. }) => Ok(None),
        Err(exec::ExecError::Agent(AgentError::Refused { .. })) => Ok(None),
        Err(exec::ExecError::Agent(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_named_in_udevs_order_and_once_each() {
        let list = "/usr/lib/udev/rules.d/80-hotplug-cpu-mem.rules\n/lib/udev/rules.d/40-redhat.rules\n/usr/lib/udev/rules.d/\
                    40-redhat.rules\n/tmp/evil.rules\nnonsense\n/etc/udev/rules.d/../../passwd\n";
        assert_eq!(
            names(list).into_iter().collect::<Vec<_>>(),
            ["40-redhat.rules", "80-hotplug-cpu-mem.rules"]
        );
        let many: String = (0..1000).map(|n| format!("/etc/udev/rules.d/{n}.rules\n")).collect();
        assert_eq!(names(&many).len(), MOST_RULES);
    }

    #[test]
    fn a_guest_says_who_it_is_and_no_more_than_fits() {
        let told = system(
            &json!({"id": "debian", "version-id": "12", "pretty-name": "Debian\u{1b}[2J", "machine": "x86_64"}),
        );
        let told = told.unwrap();
        assert_eq!((told.id.as_str(), told.version.as_str(), told.arch.as_str()), ("debian", "12", "x86_64"));
        assert!(!told.name.contains('\u{1b}'));
        let long = system(&json!({"id": "x".repeat(100_000)})).unwrap();
        assert_eq!(long.id.len(), LONGEST_TEXT);
        assert_eq!(system(&json!({"id": 7})), None);
        let nameless = system(&json!({"kernel-release": "6.1.0", "machine": "x86_64"})).unwrap();
        assert!(nameless.is_linux() && nameless.name.contains("6.1.0"), "{nameless:?}");
        assert_eq!(system(&Value::Null), None);
    }

    #[test]
    fn commands_that_are_switched_off_are_told_from_those_that_are_not_there() {
        let info = json!({"supported_commands": [
            {"name": "guest-exec", "enabled": false},
            {"name": "guest-ping", "enabled": true},
            {"name": "guest-old"},
            {"enabled": false},
        ]});
        assert_eq!(disabled(&info), BTreeSet::from(["guest-exec".to_owned()]));
        assert!(disabled(&json!([1, 2])).is_empty());
    }

    #[test]
    fn a_socket_that_cannot_be_read_is_one_that_is_there() {
        let error =
            |why: &str| udev_runs(&format!("failed to open file '/run/udev/control' (mode: 'r'): {why}"));
        assert_eq!(error("No such device or address"), Some(true));
        assert_eq!(error("No such file or directory"), Some(false));
        assert_eq!(error("Permission denied"), None);
    }

    #[test]
    fn a_kernel_at_work_shows_what_it_can() {
        let facts = GuestFacts { block: Some(scale::units::Bytes::mib(128)), ..GuestFacts::default() };
        let (options, _) = signs(&facts, &Inside::default()).unwrap();
        assert_eq!(options.get("CONFIG_MEMORY_HOTPLUG"), Some(Built::In));
        assert_eq!(options.get("CONFIG_VIRTIO_MEM"), None);
        assert_eq!(signs(&GuestFacts::default(), &Inside::default()), None);
    }
}
