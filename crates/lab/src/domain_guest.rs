//! A lab guest that runs as a domain of the lab's libvirtd: the way into it, and what libvirt says of it. It will not
//! resize anything: that is what is tested.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use drive::domxml::{self, Drift, drift};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::eventually::eventually;
use crate::inside::{self, Inside};
use crate::libvirtd::Daemon;
use crate::machine::BOOT;
use crate::tickets::Ticket;

/// How long libvirt may take to learn what there is.
const LEVEL: Duration = Duration::from_secs(30);

/// A guest that runs as a domain, and (by `Deref`) its [`Inside`]. Dropped, the domain is destroyed; its definition stays.
#[derive(Debug)]
pub struct DomainGuest {
    inside: Inside,
    name: String,
    agent: bool,
    daemon: Arc<Daemon>,
    _ticket: Ticket,
}

impl DomainGuest {
    pub(crate) async fn start(daemon: &Arc<Daemon>, name: &str, agent: bool) -> Result<Self> {
        let ticket = Ticket::take(&Cache::open()?).await?;
        let inside = started(daemon, name, agent).await?;
        Ok(Self { inside, name: name.to_owned(), agent, daemon: daemon.clone(), _ticket: ticket })
    }

    /// Ends the domain at once, if it runs, and starts it anew by its definition. Clients of the old guest's service
    /// are to be finished before.
    ///
    /// # Errors
    /// It does not start, or the guest is not up in time; the error ends with its last words.
    pub async fn start_anew(&mut self) -> Result<()> {
        self.daemon.destroy(&self.name);
        self.inside = started(&self.daemon, &self.name, self.agent).await?;
        Ok(())
    }

    /// The domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// libvirt's description of the domain as it runs, and that of its next start.
    ///
    /// # Errors
    /// libvirt does not tell.
    pub async fn described(&self) -> Result<(domxml::Domain, domxml::Domain)> {
        let live = self.daemon.virsh(&["dumpxml", &self.name]).await?;
        let next = self.daemon.virsh(&["dumpxml", &self.name, "--inactive"]).await?;
        Ok((domxml::Domain::parse(&live)?, domxml::Domain::parse(&next)?))
    }

    /// How far both descriptions are apart, in what a resize changes.
    ///
    /// # Errors
    /// libvirt does not tell.
    pub async fn drifted(&self) -> Result<Vec<Drift>> {
        let (live, next) = self.described().await?;
        Ok(drift(&live, &next))
    }

    /// Waits until both descriptions say the same. libvirt learns of the balloon and of virtio-mem from events, of which
    /// QEMU sends one a second; and of an emulated vCPU's end, which QEMU does not announce with its name (7.2 and 10.0
    /// under TCG), only when it looks at the machine anew: then libvirtd is restarted, once.
    ///
    /// # Errors
    /// They do not come together; the error says how far they are apart.
    pub async fn is_level(&self) -> Result<()> {
        let of_vcpus = |drift: &Drift| matches!(drift, Drift::Vcpus { live, next } if live > next);
        let drifted = self.drifted().await?;
        if !drifted.is_empty() && drifted.iter().all(of_vcpus) {
            self.daemon.restart().await?;
        }
        let mut last = Vec::new();
        let level = eventually("both descriptions say the same", LEVEL, async || {
            last = self.drifted().await?;
            Ok(last.is_empty().then_some(()))
        });
        if let Err(error) = level.await {
            bail!("{error}: {last:#?}\n{}", self.daemon.virsh(&["dumpxml", &self.name]).await?);
        }
        Ok(())
    }

    /// What a failed test shows: the ends of what the guest's console and its QEMU said, and what libvirtd warned of.
    #[must_use]
    pub fn last_words(&self) -> String {
        last_words(&self.daemon, &self.name)
    }

    /// What QEMU answers to a question, put through libvirt.
    ///
    /// # Errors
    /// libvirt or QEMU refused it.
    pub async fn ask(&self, question: &str) -> Result<Value> {
        let line = json!({ "execute": question }).to_string();
        let reply = self.daemon.virsh(&["qemu-monitor-command", &self.name, &line]).await?;
        let mut reply: Value = serde_json::from_str(&reply)?;
        ensure!(reply.get("return").is_some(), "{question}: {reply}");
        Ok(reply["return"].take())
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
            eprintln!("{}", self.last_words());
        }
        self.daemon.destroy(&self.name);
    }
}

/// Starts a domain and waits until its guest is up.
async fn started(daemon: &Daemon, name: &str, agent: bool) -> Result<Inside> {
    let dir = daemon.guest_dir(name);
    // libvirt writes on at the end of what an earlier guest of this domain said.
    inside::forget(&dir)?;
    daemon.virsh(&["start", name]).await?;
    match up(daemon, name, agent).await {
        Ok(inside) => Ok(inside),
        Err(error) => {
            let said = last_words(daemon, name);
            daemon.destroy(name);
            Err(anyhow!("{error:#}\n{said}"))
        }
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

fn last_words(daemon: &Daemon, name: &str) -> String {
    let guest = inside::last_words(&daemon.guest_dir(name));
    format!("{guest}\nits QEMU ended with:\n{}\nlibvirtd said:\n{}", daemon.words_of_qemu(name), daemon.log())
}

async fn forwarded(daemon: &Daemon, name: &str) -> Result<SocketAddr> {
    let text = daemon.virsh(&["qemu-monitor-command", name, "--hmp", "info usernet"]).await?;
    inside::forwarded_port(&text).context("QEMU forwards no port")
}
