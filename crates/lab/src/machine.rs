//! A running lab guest: its sockets for the program under test, and the lab's own way in.
//!
//! QEMU has two monitors, so that the lab never competes with the program under test, and ends with this value
//! or with this process, whichever ends first. It will not resize anything: that is what is tested.

use std::fs::File;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use drive::qmp::Qmp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::cache::Cache;
use crate::inside::{self, Inside};
use crate::recipe::{AGENT_CHARDEV, Parts, Recipe, place};
use crate::spawn::spawn;
use crate::tickets::Ticket;

/// An emulated guest boots in 5 to 9 s on an idle core.
pub(crate) const BOOT: Duration = Duration::from_secs(120);

/// How long the lab's own monitor commands may take on a busy host.
const QMP: Duration = Duration::from_secs(60);

/// How often the lab looks for what nothing announces.
const LOOK: Duration = Duration::from_millis(20);

/// A guest that runs, and (by `Deref`) its [`Inside`]. Dropped, it is killed.
#[derive(Debug)]
pub struct Machine {
    // Fields are dropped in this order: the guest ends before its directory and its ticket go.
    process: Process,
    inside: Inside,
    monitor: Qmp,
    dir: TempDir,
    _ticket: Ticket,
}

impl Machine {
    pub(crate) async fn start(recipe: &Recipe, parts: &Parts, cache: &Cache) -> Result<Self> {
        let ticket = Ticket::take(cache).await?;
        let dir = tempfile::Builder::new().prefix("supple-lab-").tempdir()?;
        let log = File::create(dir.path().join(place::QEMU_LOG))?;
        recipe.make_disks(dir.path())?;
        let mut command = recipe.command(parts, dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let repeat = format!("{command:?}");
        let process = Process(spawn(command).context("cannot start QEMU")?);
        let deadline = Instant::now() + BOOT;
        let mut boot = Boot { process, dir: dir.path(), deadline };
        match boot.wait(recipe.has_agent()).await {
            Ok((inside, monitor)) => {
                Ok(Self { process: boot.process, inside, monitor, dir, _ticket: ticket })
            }
            Err(error) => Err(anyhow!("{error:#}\n{repeat}\n{}", last_words(dir.path()))),
        }
    }

    /// The monitor for the program under test.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.dir.path().join(place::QMP)
    }

    /// The guest agent's socket for the program under test. It is there without an agent too.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.dir.path().join(place::AGENT)
    }

    /// The lab's own monitor.
    #[must_use]
    pub fn monitor(&self) -> &Qmp {
        &self.monitor
    }

    /// One command on the lab's own monitor.
    ///
    /// # Errors
    /// QEMU refused it or did not answer.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        Ok(self.monitor.execute(command, arguments, QMP).await?)
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What QEMU itself has said.
    #[must_use]
    pub fn qemu_log(&self) -> String {
        inside::read(&self.dir.path().join(place::QEMU_LOG))
    }

    /// Kills QEMU as a crash would, and waits until it is gone. The sockets stay, and nobody answers.
    pub fn kill(&mut self) {
        end(&mut self.process.0);
    }
}

impl Deref for Machine {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.inside
    }
}

/// A test that fails shows what its guest said: a kernel that has stumbled says so there alone.
impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", last_words(self.dir.path()));
        }
    }
}

/// A child that is killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Kills a child and reaps it. One that has ended already is only reaped.
pub(crate) fn end(child: &mut Child) {
    // Either fails only where there is nothing left to end.
    let _ = child.kill();
    let _ = child.wait();
}

/// A guest on its way up.
struct Boot<'a> {
    process: Process,
    dir: &'a Path,
    deadline: Instant,
}

impl Boot<'_> {
    async fn wait(&mut self, agent: bool) -> Result<(Inside, Qmp)> {
        let lab = self.dir.join(place::LAB_QMP);
        while !lab.exists() {
            self.pause("to open its monitor").await?;
        }
        let monitor = Qmp::connect(&lab, QMP).await?;
        while !inside::is_up(self.dir)? {
            self.pause("to start its services").await?;
        }
        while agent && !channel_open(&monitor).await? {
            self.pause("to open the guest agent's channel").await?;
        }
        let http = forwarded(&monitor).await?;
        while !inside::serves(http).await {
            self.pause("to answer on the network").await?;
        }
        Ok((Inside::enter(self.dir, http).await?, monitor))
    }

    async fn pause(&mut self, goal: &str) -> Result<()> {
        if let Some(status) = self.process.ended()? {
            bail!("QEMU ended with {status} before the guest was able {goal}");
        }
        ensure!(Instant::now() < self.deadline, "the guest had {} s {goal} and did not", BOOT.as_secs());
        sleep(LOOK).await;
        Ok(())
    }
}

/// True once a program in the guest has the agent's channel open.
async fn channel_open(monitor: &Qmp) -> Result<bool> {
    let devices = monitor.execute("query-chardev", Value::Null, QMP).await?;
    let devices = devices.as_array().context("query-chardev: not a list")?;
    let agent = devices.iter().find(|device| device["label"] == AGENT_CHARDEV);
    Ok(agent.is_some_and(|agent| agent["frontend-open"] == true))
}

/// The port on the host that QEMU forwards to the guest's service: only the text monitor tells it.
async fn forwarded(monitor: &Qmp) -> Result<SocketAddr> {
    let text = monitor.execute("human-monitor-command", json!({"command-line": "info usernet"}), QMP).await?;
    inside::forwarded_port(text.as_str().unwrap_or_default()).context("QEMU forwards no port")
}

fn last_words(dir: &Path) -> String {
    format!("QEMU said: {}\n{}", inside::tail(&dir.join(place::QEMU_LOG)), inside::last_words(dir))
}
