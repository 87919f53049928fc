//! A QEMU with firmware and no system in it: whatever is plugged, nobody takes it in and nobody says a word. It starts in
//! no time. It will not be a guest: see `machine`.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use drive::qmp::Qmp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::cache::Cache;
use crate::inside;
use crate::machine::Process;
use crate::recipe::{Parts, Recipe, place};
use crate::spawn::spawn;
use crate::tickets::Ticket;

/// QEMU opens its monitor within a second on an idle core.
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// Such a QEMU. Dropped, it is killed.
#[derive(Debug)]
pub struct Idle {
    // Dropped in this order.
    _process: Process,
    monitor: Qmp,
    dir: TempDir,
    _ticket: Ticket,
}

impl Recipe {
    /// Starts the machine with firmware and no system in it.
    ///
    /// # Errors
    /// No QEMU can be had, or it does not start.
    pub async fn idle(&self) -> Result<Idle> {
        let cache = Cache::open()?;
        let parts = self.parts(&cache).await?;
        Idle::start(&self.without_system(), &parts, &cache).await
    }
}

impl Idle {
    async fn start(recipe: &Recipe, parts: &Parts, cache: &Cache) -> Result<Self> {
        let ticket = Ticket::take(cache).await?;
        let dir = tempfile::Builder::new().prefix("supple-lab-").tempdir()?;
        let log = File::create(dir.path().join(place::QEMU_LOG))?;
        recipe.make_disks(dir.path())?;
        let mut command = recipe.command(parts, dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process::new(spawn(command).context("cannot start QEMU")?);
        let deadline = Instant::now() + START;
        while !dir.path().join(place::LAB_QMP).exists() {
            if let Some(status) = process.ended()? {
                bail!("QEMU ended with {status}: {}", inside::tail(&dir.path().join(place::QEMU_LOG)));
            }
            if Instant::now() > deadline {
                bail!("QEMU has opened no monitor in {} s", START.as_secs());
            }
            sleep(LOOK).await;
        }
        let monitor = Qmp::connect(&dir.path().join(place::LAB_QMP), START).await?;
        Ok(Self { _process: process, monitor, dir, _ticket: ticket })
    }

    /// One command on the lab's own monitor.
    ///
    /// # Errors
    /// QEMU refused it or did not answer.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        Ok(self.monitor.execute(command, arguments, START).await?)
    }

    /// The monitor for the program under test.
    #[must_use]
    pub fn qmp(&self) -> PathBuf {
        self.dir.path().join(place::QMP)
    }
}
