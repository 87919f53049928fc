//! What a QEMU can do: it is started without a machine and without running anything, asked, and ended. That takes a
//! fraction of a second and touches nothing; a QEMU that does not answer in time is ended all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use scale::doctor::host::{Qemu, QemuFacts};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::qmp::{Qmp, QmpError};
use crate::wire::shown;

/// How long a QEMU may take for all of it; one takes 0.3 s.
const LIMIT: Duration = Duration::from_secs(20);
/// The most of its last words that are kept, in bytes.
const WORDS: u64 = 4096;

/// The devices whose properties are asked for.
const DEVICES: [&str; 2] = ["virtio-balloon-pci", "virtio-balloon-ccw"];

/// Where QEMU is, besides PATH: Red Hat's place.
const PLACES: [&str; 1] = ["/usr/libexec/qemu-kvm"];

/// Looks for this architecture's QEMU: in the directories of `path` (as in PATH), then where distributions hide it.
///
/// # Errors
/// Where it was looked for.
pub fn find(path: Option<&str>, arch: &str) -> Result<PathBuf, String> {
    let names = [format!("qemu-system-{}", target(arch)), "qemu-kvm".to_owned(), "kvm".to_owned()];
    let dirs: Vec<PathBuf> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
    let in_dirs = names.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    let mut all = in_dirs.chain(PLACES.iter().map(PathBuf::from));
    let wanted = format!("looked for {} in PATH, and for {}", names[0], PLACES[0]);
    all.find(|candidate| is_program(candidate)).ok_or(wanted)
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// QEMU's name of an architecture of `uname -m`.
fn target(arch: &str) -> &str {
    match arch {
        "ppc64le" => "ppc64",
        "i386" | "i486" | "i586" | "i686" => "i386",
        other => other,
    }
}

/// Asks the QEMU at `path` what it can do.
pub(super) async fn ask(path: &Path) -> QemuFacts {
    let name = path.display().to_string();
    match tokio::time::timeout(LIMIT, started(path)).await {
        Ok(Ok(qemu)) => QemuFacts::Asked(Box::new(Qemu { path: name, ..qemu })),
        Ok(Err(why)) => QemuFacts::Mute { path: name, why },
        Err(_) => QemuFacts::Mute { path: name, why: format!("no answer within {LIMIT:?}") },
    }
}

async fn started(path: &Path) -> Result<Qemu, String> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
    // Its monitor is its standard input and output, so that no socket lies around and every age of QEMU has it.
    let theirs: OwnedFd = theirs.into_std().map_err(|error| error.to_string())?.into();
    let output = theirs.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(path);
    command.args(["-machine", "none,accel=kvm:tcg", "-S", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-qmp", "stdio"]);
    command.stdin(theirs).stdout(output).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    // Keeps ends of the connection that would hide QEMU's own end.
    drop(command);
    let asked = async {
        let qmp = Qmp::over(ours, path, LIMIT).await.map_err(|error| error.to_string())?;
        let qemu = questions(&qmp).await.map_err(|error| error.to_string())?;
        // It may close the connection before it answers.
        let _ = qmp.execute("quit", Value::Null, LIMIT).await;
        Ok(qemu)
    };
    let asked = asked.await;
    match asked {
        Ok(qemu) => {
            let _ = child.wait().await;
            Ok(qemu)
        }
        Err(why) => Err(last_words(&mut child).await.unwrap_or(why)),
    }
}

/// What it said on its standard error, where it said anything.
async fn last_words(child: &mut Child) -> Option<String> {
    let _ = child.start_kill();
    let mut words = Vec::new();
    child.stderr.take()?.take(WORDS).read_to_end(&mut words).await.ok()?;
    let text = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
    (!text.is_empty()).then(|| shown(&text))
}

#[derive(Deserialize)]
struct Machine {
    name: String,
    #[serde(default, rename = "hotpluggable-cpus")]
    hotpluggable_cpus: bool,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn questions(qmp: &Qmp) -> Result<Qemu, QmpError> {
    let none = || Value::Null;
    let ask = |command: &'static str, arguments: Value| qmp.execute(command, arguments, LIMIT);
    let version = qmp.version().clone();
    let (schema, commands, types, backends, machines, kvm, target) = tokio::join!(
        ask("query-qmp-schema", none()),
        ask("query-commands", none()),
        ask("qom-list-types", json!({ "implements": "device" })),
        ask("qom-list-types", json!({ "implements": "memory-backend" })),
        ask("query-machines", none()),
        ask("query-kvm", none()),
        ask("query-target", none()),
    );
    let (commands, events) = (names(answer(commands)?), events(&answer(schema)?));
    let types = names(answer(types)?).into_iter().chain(names(answer(backends)?)).collect::<BTreeSet<_>>();
    let machines: Vec<Machine> = read(answer(machines)?);
    let mut properties = BTreeMap::new();
    for device in DEVICES.iter().filter(|device| types.contains(**device)) {
        let list = answer(ask("device-list-properties", json!({ "typename": device })).await)?;
        properties.insert((*device).to_owned(), names(list));
    }
    Ok(Qemu {
        path: String::new(),
        version: (&version).into(),
        package: version.package.trim().trim_start_matches('(').trim_end_matches(')').to_owned(),
        arch: answer(target)?["arch"].as_str().map(shown).unwrap_or_default(),
        kvm: answer(kvm)?["enabled"].as_bool(),
        commands,
        events,
        types,
        properties,
        hotplug_machines: machines.into_iter().filter(|m| m.hotpluggable_cpus).map(|m| m.name).collect(),
    })
}

/// The answer; null where this QEMU does not know the question.
fn answer(outcome: Result<Value, QmpError>) -> Result<Value, QmpError> {
    match outcome {
        Ok(value) => Ok(value),
        Err(QmpError::Refused { .. }) => Ok(Value::Null),
        Err(
            error @ (QmpError::TimedOut { .. }
            | QmpError::Withheld { .. }
            | QmpError::Closed { .. }
            | QmpError::Garbled { .. }),
        ) => Err(error),
    }
}

fn read<T: for<'a> Deserialize<'a>>(value: Value) -> Vec<T> {
    serde_json::from_value(value).unwrap_or_default()
}

fn names(value: Value) -> BTreeSet<String> {
    read::<Named>(value).into_iter().map(|named| named.name).collect()
}

/// The events in an answer to `query-qmp-schema` (QEMU 2.5); they are named, other than types.
fn events(schema: &Value) -> BTreeSet<String> {
    let all = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let events = all.iter().filter(|entry| entry["meta-type"] == "event");
    events.filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_is_found_by_its_architectures_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu-system-ppc64");
        std::fs::write(&path, "").unwrap();
        let dirs = dir.path().display().to_string();
        let absent = find(Some(&dirs), "ppc64le");
        assert!(absent.as_ref().is_ok_and(|found| found != &path) || absent.is_err(), "it is no program yet");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find(Some(&dirs), "ppc64le"), Ok(path));
    }

    #[test]
    fn events_are_told_from_types_in_a_schema() {
        let schema = json!([
            {"meta-type": "event", "name": "ACPI_DEVICE_OST", "arg-type": "1"},
            {"meta-type": "object", "name": "1", "members": []},
        ]);
        assert_eq!(events(&schema), BTreeSet::from(["ACPI_DEVICE_OST".to_owned()]));
        assert!(events(&Value::Null).is_empty());
    }

    #[tokio::test]
    async fn what_is_no_qemu_is_told_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu-system-x86_64");
        std::fs::write(&path, "#!/bin/sh\necho 'invalid accelerator kvm' >&2\nexit 1\n").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let QemuFacts::Mute { why, .. } = ask(&path).await else { panic!("it is no QEMU") };
        assert_eq!(why, "invalid accelerator kvm");
        let QemuFacts::Mute { why, .. } = ask(Path::new("/nowhere/qemu")).await else {
            panic!("it is nowhere")
        };
        assert!(why.contains("No such file"), "{why}");
    }
}
