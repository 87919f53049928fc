//! A lab guest that runs as a domain of the lab's libvirtd, and the lab's own way into it. It will not resize anything:
//! that is what is tested.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cache::Cache;
use crate::eventually::eventually;
use crate::libvirtd::Daemon;
use crate::machine::{BOOT, UP, forwarded_port, tail};
use crate::recipe::place;
use crate::service::Service;
use crate::tickets::Ticket;
use crate::witness::{Output, Witness};

/// A guest that runs as a domain. Dropped, the domain is destroyed; its definition stays.
#[derive(Debug)]
pub struct DomainGuest {
    witness: Witness,
    http: SocketAddr,
    name: String,
    daemon: Arc<Daemon>,
    _ticket: Ticket,
}

impl DomainGuest {
    pub(crate) async fn start(daemon: &Arc<Daemon>, name: &str, agent: bool) -> Result<Self> {
        let ticket = Ticket::take(&Cache::open()?).await?;
        let dir = daemon.guest_dir(name);
        daemon.virsh(&["start", name]).await?;
        match up(daemon, name, agent).await {
            Ok((witness, http)) => {
                Ok(Self { witness, http, name: name.to_owned(), daemon: daemon.clone(), _ticket: ticket })
            }
            Err(error) => {
                let console = tail(&dir, place::CONSOLE);
                daemon.destroy(name);
                Err(anyhow!("{error:#}\nthe guest's console ended with:\n{console}"))
            }
        }
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's eyes in the guest.
    #[must_use]
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Runs a shell command in the guest for at most a minute, without the guest agent.
    ///
    /// # Errors
    /// The guest did not answer. A command that fails is an [`Output`] with its status.
    pub async fn shell(&self, command: &str) -> Result<Output> {
        self.witness.shell(command, Duration::from_secs(60)).await
    }

    /// Where the guest's network service answers `GET /` with `up`.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Starts a client that asks the guest's service all the while and counts what is lost.
    #[must_use]
    pub fn watch_service(&self) -> Service {
        Service::watch(self.http)
    }

    /// All that the guest has said on its console.
    #[must_use]
    pub fn console_log(&self) -> String {
        let log: PathBuf = self.daemon.guest_dir(&self.name).join(place::CONSOLE);
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }
}

impl Drop for DomainGuest {
    fn drop(&mut self) {
        self.daemon.destroy(&self.name);
    }
}

/// Waits until the guest has started all that it starts.
async fn up(daemon: &Daemon, name: &str, agent: bool) -> Result<(Witness, SocketAddr)> {
    let dir = daemon.guest_dir(name);
    eventually("the guest starts its services", BOOT, async || {
        let said = fs::read(dir.join(place::CONSOLE)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        ensure!(!said.contains("Kernel panic"), "the guest's kernel panicked");
        Ok(said.contains(UP).then_some(()))
    })
    .await?;
    if agent {
        eventually("the guest agent opens its channel", BOOT, async || {
            let xml = daemon.virsh(&["dumpxml", name]).await?;
            Ok(xml.contains("name='org.qemu.guest_agent.0' state='connected'").then_some(()))
        })
        .await?;
    }
    let http = forwarded_port(&daemon.virsh(&["qemu-monitor-command", name, "--hmp", "info usernet"]).await?)
        .context("QEMU forwards no port")?;
    eventually("the guest answers on the network", BOOT, async || {
        Ok(crate::service::ask(http, Duration::from_secs(5)).await.ok())
    })
    .await?;
    let witness = Witness::connect(&dir.join(place::WITNESS)).await?;
    witness.shell("true", Duration::from_secs(30)).await?.ok()?;
    Ok((witness, http))
}
