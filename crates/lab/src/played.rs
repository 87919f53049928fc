//! A guest agent that is *played*: it answers, on a socket of its own, as the agent of another system would. No image of
//! such a system can be had here; what is real is QEMU, and the guest in it that carries the play.
//!
//! Which commands there are, which are switched off and what a "no" looks like is written after QEMU's qga/commands-win32.c
//! (5.2 to 10.0). How many vCPUs there are is asked of the carrier's own agent, so that a vCPU that is plugged is shown only when a
//! guest really uses it. It resizes nothing and has no memory of its own: what it is asked, it notes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drive::guest::Agent;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::Machine;

/// The longest question that is listened to.
const LONGEST: u64 = 1 << 20;
/// How long the carrier's agent may take.
const CARRIER: Duration = Duration::from_secs(10);

/// What every agent offers of what is asked here.
const COMMON: [&str; 6] = [
    "guest-get-osinfo",
    "guest-get-vcpus",
    "guest-info",
    "guest-network-get-interfaces",
    "guest-ping",
    "guest-sync-delimited",
];
/// What the agent for Windows offers besides.
const WINDOWS: [&str; 12] = [
    "guest-exec",
    "guest-exec-status",
    "guest-file-close",
    "guest-file-open",
    "guest-file-read",
    "guest-file-write",
    "guest-fsfreeze-status",
    "guest-get-disks",
    "guest-get-fsinfo",
    "guest-get-time",
    "guest-get-users",
    "guest-shutdown",
];
/// What it lists as switched off: up to 9.1 these have no Windows code behind them; later agents do not list them at all.
const SWITCHED_OFF: [&str; 5] = [
    "guest-get-memory-block-info",
    "guest-get-memory-blocks",
    "guest-set-memory-blocks",
    "guest-set-vcpus",
    "guest-suspend-hybrid",
];

/// The part that an agent plays.
#[derive(Debug, Clone)]
pub struct Part {
    osinfo: Value,
    offered: Vec<&'static str>,
    switched_off: &'static [&'static str],
}

impl Part {
    /// A 64-bit Windows by its version and its product's name: `2022` and `Windows Server 2022 Standard`.
    #[must_use]
    pub fn windows(version: &str, name: &str) -> Self {
        let variant = if name.contains("Server") { "server" } else { "client" };
        let osinfo = json!({
            "id": "mswindows", "name": "Microsoft Windows", "pretty-name": name, "version-id": version,
            "version": format!("Microsoft Windows {version}"), "variant": variant, "variant-id": variant,
            "kernel-version": "10.0", "kernel-release": "20348", "machine": "x86_64",
        });
        Self { osinfo, offered: [COMMON.as_slice(), &WINDOWS].concat(), switched_off: &SWITCHED_OFF }
    }

    /// A Unix that is no Linux, such as `freebsd`, whose agent knows no memory blocks and runs nothing.
    #[must_use]
    pub fn other(id: &str, version: &str, name: &str) -> Self {
        let osinfo = json!({"id": id, "version-id": version, "pretty-name": name, "machine": "amd64"});
        Self { osinfo, offered: COMMON.to_vec(), switched_off: &[] }
    }

    /// Plays it over a carrier: as many vCPUs as the guest that is really there uses.
    ///
    /// # Panics
    /// No socket can be made.
    #[must_use]
    pub fn over(self, carrier: &Machine) -> Played {
        Played::with(self, Some(carrier.agent()))
    }

    /// Plays it with nobody behind it: one vCPU, whatever is plugged.
    ///
    /// # Panics
    /// No socket can be made.
    #[must_use]
    pub fn alone(self) -> Played {
        Played::with(self, None)
    }

    fn info(&self) -> Value {
        let of = |enabled: bool| move |name: &&str| json!({"name": name, "enabled": enabled, "success-response": true});
        let all = self.offered.iter().map(of(true)).chain(self.switched_off.iter().map(of(false)));
        json!({"version": "109.0.0 (played)", "supported_commands": all.collect::<Vec<_>>()})
    }

    /// Everything but how many vCPUs there are.
    fn answer(&self, command: &str, arguments: &Value) -> Value {
        if self.switched_off.contains(&command) {
            let desc = format!("Command {command} has been disabled: the command is not allowed");
            return json!({"error": {"class": "CommandNotFound", "desc": desc}});
        }
        if !self.offered.contains(&command) {
            let desc = format!("The command {command} has not been found");
            return json!({"error": {"class": "CommandNotFound", "desc": desc}});
        }
        let no = |desc: String| json!({"error": {"class": "GenericError", "desc": desc}});
        match command {
            "guest-info" => json!({ "return": self.info() }),
            "guest-get-osinfo" => json!({ "return": self.osinfo }),
            "guest-ping" => json!({"return": {}}),
            "guest-network-get-interfaces" => json!({"return": [
                {"name": "Ethernet", "hardware-address": "52:54:00:12:34:56",
                 "ip-addresses": [{"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24}]}]}),
            "guest-get-fsinfo" => json!({"return": [
                {"name": "\\\\?\\Volume{0d0f0e00-0000-0000-0000-100000000000}\\", "mountpoint": "C:\\",
                 "type": "NTFS", "disk": []}]}),
            "guest-file-open" => no(format!(
                "failed to open file '{}': The system cannot find the path specified.",
                arguments["path"].as_str().unwrap_or_default()
            )),
            "guest-exec" => no(
                "Guest agent command failed, error was 'Failed to execute helper program (No such file or \
                 directory)'"
                    .to_owned(),
            ),
            other => no(format!("this play has no scene for {other}")),
        }
    }
}

/// An agent that is played until it is dropped.
#[derive(Debug)]
pub struct Played {
    dir: TempDir,
    heard: Arc<Mutex<Vec<(String, Value)>>>,
    stage: JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.stage.abort();
    }
}

impl Played {
    fn with(part: Part, carrier: Option<PathBuf>) -> Self {
        let dir = tempfile::Builder::new().prefix("supple-played-").tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("agent.sock")).expect("a socket");
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let notes = Arc::clone(&heard);
        let stage = tokio::spawn(async move {
            let mut vcpus = Vcpus::of(carrier);
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &part, &mut vcpus, &notes).await;
            }
        });
        Self { dir, heard, stage }
    }

    /// Where it answers.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// What it was asked since the last time, each with its arguments.
    #[must_use]
    pub fn heard(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who knows how many vCPUs there are.
enum Vcpus {
    Nobody,
    Carrier { socket: PathBuf, agent: Option<Box<Agent>> },
}

impl Vcpus {
    fn of(carrier: Option<PathBuf>) -> Self {
        carrier.map_or(Self::Nobody, |socket| Self::Carrier { socket, agent: None })
    }

    /// As a Windows shows them: those that it uses, numbered, none of which goes offline.
    async fn shown(&mut self) -> Value {
        let online = match self {
            Self::Nobody => 1,
            Self::Carrier { socket, agent } => match online(socket, agent).await {
                Ok(online) => online,
                Err(why) => return json!({"error": {"class": "GenericError", "desc": why}}),
            },
        };
        let shown = (0..online).map(|id| json!({"logical-id": id, "online": true, "can-offline": false}));
        json!({ "return": shown.collect::<Vec<_>>() })
    }
}

async fn online(socket: &Path, agent: &mut Option<Box<Agent>>) -> Result<usize, String> {
    let agent = match agent {
        Some(agent) => agent,
        None => agent.insert(Box::new(Agent::connect(socket, CARRIER).await.map_err(|e| e.to_string())?)),
    };
    let shown = agent.call("guest-get-vcpus", Value::Null, CARRIER).await.map_err(|e| e.to_string())?;
    let shown = shown.as_array().ok_or("the carrier's agent lists no vCPUs")?;
    Ok(shown.iter().filter(|vcpu| vcpu["online"] == true).count())
}

/// One connection, until it ends or says what no agent understands.
async fn serve(stream: UnixStream, part: &Part, vcpus: &mut Vcpus, heard: &Mutex<Vec<(String, Value)>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(read) if read > 0 => {}
            Ok(_) | Err(_) => return,
        }
        let text = line.strip_prefix(b"\xff").unwrap_or(&line);
        let Ok(asked) = serde_json::from_slice::<Value>(text) else { continue };
        let command = asked["execute"].as_str().unwrap_or_default().to_owned();
        let arguments = asked["arguments"].clone();
        let mut bytes = Vec::new();
        let answer = match command.as_str() {
            "guest-sync-delimited" => {
                bytes.push(0xff);
                json!({ "return": arguments["id"] })
            }
            "guest-get-vcpus" => vcpus.shown().await,
            other => part.answer(other, &arguments),
        };
        if command != "guest-sync-delimited" {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push((command, arguments));
        }
        bytes.extend(format!("{answer}\n").into_bytes());
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
