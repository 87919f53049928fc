//! A QEMU and a guest agent that answer from a table, each on a real Unix socket. What is not in the table is refused as
//! they refuse unknown commands. The tables in `replies/` were recorded from QEMUs of that version; long lists of
//! properties are cut to those that matter.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use drive::qmp::QmpMachine;
use scale::limits::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// How one command is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Is(Value),
    Raw(Vec<u8>),
    Never,
}

/// Commands and their answers. A key is a command's name, or the name and its arguments. Of several answers each is
/// given once and the last for ever.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    greeting: Value,
    answers: HashMap<String, VecDeque<Answer>>,
}

impl Table {
    /// An agent's: it has no greeting.
    pub(crate) fn agent() -> Table {
        Table { greeting: Value::Null, answers: HashMap::new() }
    }

    /// A recording of QEMU.
    pub(crate) fn recorded(text: &str) -> Table {
        let recording: Value = serde_json::from_str(text).expect("a recording");
        let replies = recording["replies"].as_object().expect("replies");
        let answers = replies.iter().map(|(key, reply)| (key.clone(), [Answer::Is(reply.clone())].into()));
        Table { greeting: recording["greeting"].clone(), answers: answers.collect() }
    }

    pub(crate) fn version(mut self, major: u64, minor: u64) -> Table {
        self.greeting["QMP"]["version"]["qemu"] = json!({"major": major, "minor": minor, "micro": 0});
        self
    }

    /// With this as the answer, or the next answer.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Table {
        self.answers.insert(key.to_owned(), [Answer::Is(json!({ "return": value }))].into());
        self
    }

    pub(crate) fn then(mut self, key: &str, answer: Answer) -> Table {
        self.answers.entry(key.to_owned()).or_default().push_back(answer);
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Table {
        self.answers.remove(key).expect("it was there");
        self
    }

    fn answer(&mut self, command: &str, key: &str) -> Answer {
        let known = if self.answers.contains_key(key) { key } else { command };
        let Some(answers) = self.answers.get_mut(known) else {
            let desc = format!("The command {command} has not been found");
            return Answer::Is(json!({"error": {"class": "CommandNotFound", "desc": desc}}));
        };
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.expect("at least one")
    }
}

/// Says no in the agent's and QEMU's form.
pub(crate) fn no(desc: &str) -> Answer {
    Answer::Is(json!({"error": {"class": "GenericError", "desc": desc}}))
}

pub(crate) fn yes(value: Value) -> Answer {
    Answer::Is(json!({ "return": value }))
}

/// One played party.
pub(crate) struct Party {
    pub(crate) path: PathBuf,
    heard: Arc<Mutex<Vec<Value>>>,
    _dir: tempfile::TempDir,
}

impl Party {
    pub(crate) fn play(table: Table) -> Party {
        let dir = tempfile::tempdir().expect("a directory for the socket");
        let path = dir.path().join("peer.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let heard = Arc::<Mutex<Vec<Value>>>::default();
        let notes = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut table = table;
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &mut table, &notes).await;
            }
        });
        Party { path, heard, _dir: dir }
    }

    /// The commands that were heard since the last time, without what every connection begins with: their names and
    /// arguments.
    pub(crate) fn heard(&self) -> Vec<(String, Value)> {
        let heard = std::mem::take(&mut *self.heard.lock().expect("not poisoned"));
        let name = |command: &Value| command["execute"].as_str().unwrap_or_default().to_owned();
        heard.iter().map(|command| (name(command), command["arguments"].clone())).collect()
    }

    /// The names alone.
    pub(crate) fn heard_names(&self) -> Vec<String> {
        self.heard().into_iter().map(|(name, _)| name).collect()
    }
}

async fn serve(stream: UnixStream, table: &mut Table, heard: &Mutex<Vec<Value>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    if !table.greeting.is_null() {
        // An error means that the client has gone; so below.
        let _ = writer.write_all(format!("{}\r\n", table.greeting).as_bytes()).await;
    }
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        let text = line.strip_prefix(b"\xff").unwrap_or(&line);
        let command: Value = serde_json::from_slice(text).expect("a line of JSON");
        line.clear();
        let name = command["execute"].as_str().expect("a command").to_owned();
        let answer = match name.as_str() {
            "qmp_capabilities" => yes(json!({})),
            "guest-sync-delimited" => {
                let _ = writer.write_all(b"\xff").await;
                yes(command["arguments"]["id"].clone())
            }
            _ => {
                heard.lock().expect("not poisoned").push(command.clone());
                let key = format!("{name} {}", command["arguments"]);
                table.answer(&name, &key)
            }
        };
        let bytes = match answer {
            Answer::Is(mut reply) => {
                if let Some(id) = command.get("id") {
                    reply["id"] = id.clone();
                }
                format!("{reply}\n").into_bytes()
            }
            Answer::Raw(bytes) => bytes,
            Answer::Never => continue,
        };
        let _ = writer.write_all(&bytes).await;
    }
}

/// A driver between a played QEMU and, where there is one, a played agent.
pub(crate) async fn open(qemu: &Party, agent: Option<&Party>) -> QmpMachine {
    let agent = agent.map(|agent| agent.path.as_path());
    QmpMachine::open(&qemu.path, agent, &Limits::default()).await.expect("connected")
}

pub(crate) const Q35: &str = include_str!("replies/qemu-7.2-q35.json");
pub(crate) const I440FX: &str = include_str!("replies/qemu-7.2-i440fx.json");
pub(crate) const TEN: &str = include_str!("replies/qemu-10.0-q35.json");

/// The kernel's file for blocks that it does not find by itself.
pub(crate) const PROBE: &str = r#"guest-file-open {"mode":"a","path":"/sys/devices/system/memory/probe"}"#;

/// An agent like that of Debian 12, on a guest of four blocks and two vCPUs. Debian's kernels have no `probe`
/// (CONFIG_ARCH_MEMORY_PROBE is not set), so no lab guest has it either: here stands the only one.
pub(crate) fn debian() -> Table {
    let command =
        |name: &str, enabled: bool| json!({"name": name, "enabled": enabled, "success-response": true});
    let info = json!({"version": "7.2.22", "supported_commands": [
        command("guest-exec", false), command("guest-file-open", true), command("guest-get-vcpus", true)]});
    let block =
        |index: u64, online: bool| json!({"phys-index": index, "online": online, "can-offline": true});
    Table::agent()
        .with("guest-info", info)
        .with("guest-get-osinfo", json!({"id": "debian", "pretty-name": "Debian 12", "kernel-release": "6.1.0"}))
        .with("guest-get-memory-block-info", json!({"size": 134_217_728}))
        .with("guest-get-memory-blocks", json!([block(3, true), block(0, true), block(2, false), block(1, true)]))
        .with(
            "guest-get-vcpus",
            json!([
                {"logical-id": 1, "online": false, "can-offline": true},
                {"logical-id": 0, "online": true, "can-offline": false}]),
        )
        .with(r#"guest-file-open {"mode":"r","path":"/proc/meminfo"}"#, json!(1000))
        .with(r#"guest-file-open {"mode":"r","path":"/sys/devices/system/memory/auto_online_blocks"}"#, json!(1001))
        .with(
            r#"guest-file-read {"count":16385,"handle":1000}"#,
            // MemTotal: 500000 kB, MemFree: 300000 kB, MemAvailable: 400000 kB
            json!({"count": 87, "eof": true, "buf-b64":
                "TWVtVG90YWw6ICAgICAgICAgNTAwMDAwIGtCCk1lbUZyZWU6ICAgICAgICAgIDMwMDAwMCBrQgpNZW1BdmFpbGFibGU6ICAgICA0MDAwMDAga0IK"}),
        )
        .with(
            r#"guest-file-read {"count":16385,"handle":1001}"#,
            json!({"count": 8, "eof": true, "buf-b64": "b2ZmbGluZQo="}),
        )
        .then(
            PROBE,
            no("failed to open file '/sys/devices/system/memory/probe' (mode: 'a'): Permission denied"),
        )
        .with("guest-file-close", json!({}))
}
