//! A lab guest that runs as a domain of the lab's libvirtd, and the lab's own way into it. It will not resize anything:
//! that is what is tested.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::cache::Cache;
use crate::eventually::eventually;
use crate::inside::{self, Inside};
use crate::libvirtd::Daemon;
use crate::machine::BOOT;
use crate::tickets::Ticket;

/// A guest that runs as a domain, and (by `Deref`) its [`Inside`]. Dropped, the domain is destroyed; its definition stays.
#[derive(Debug)]
pub struct DomainGuest {
    inside: Inside,
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
            Ok(inside) => Ok(Self { inside, name: name.to_owned(), daemon: daemon.clone(), _ticket: ticket }),
            Err(error) => {
                let said = inside::last_words(&dir);
                daemon.destroy(name);
                Err(anyhow!("{error:#}\n{said}"))
            }
        }
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Deref for DomainGuest {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.inside
    }
}

impl Drop for DomainGuest {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", inside::last_words(&self.daemon.guest_dir(&self.name)));
        }
        self.daemon.destroy(&self.name);
    }
}

/// Waits until the guest has started all that it starts.
async fn up(daemon: &Daemon, name: &str, agent: bool) -> Result<Inside> {
    let dir = daemon.guest_dir(name);
    let started = async || Ok(inside::is_up(&dir)?.then_some(()));
    eventually("the guest starts its services", BOOT, started).await?;
    if agent {
        eventually("the guest agent opens its channel", BOOT, async || {
            let xml = daemon.virsh(&["dumpxml", name]).await?;
            Ok(xml.contains("name='org.qemu.guest_agent.0' state='connected'").then_some(()))
        })
        .await?;
    }
    let http = forwarded(daemon, name).await?;
    let serves = async || Ok(inside::serves(http).await.then_some(()));
    eventually("the guest answers on the network", BOOT, serves).await?;
    Inside::enter(&dir, http).await
}

async fn forwarded(daemon: &Daemon, name: &str) -> Result<SocketAddr> {
    let text = daemon.virsh(&["qemu-monitor-command", name, "--hmp", "info usernet"]).await?;
    inside::forwarded_port(&text).context("QEMU forwards no port")
}
