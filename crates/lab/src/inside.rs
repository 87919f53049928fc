//! The lab's own way into a guest, whoever runs it: its shell, its network service, what its console said.
//!
//! [`Machine`](crate::Machine) and [`DomainGuest`](crate::DomainGuest) are one of these each, with a way to QEMU of their
//! own. It will not resize anything: that is what is tested.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::recipe::place;
use crate::service::{self, Service};
use crate::witness::{Output, Witness};

/// What the guest's init says on the console when all is started.
pub(crate) const UP: &str = "lab: up";

/// How many lines of a log are shown after a failure: a kernel's report of its own fault has fewer.
const LAST_WORDS: usize = 60;

/// The inside of a guest that runs.
#[derive(Debug)]
pub struct Inside {
    witness: Witness,
    http: SocketAddr,
    /// Where its sockets and logs are.
    dir: PathBuf,
}

impl Inside {
    /// Goes into a guest that has said that it is up.
    pub(crate) async fn enter(dir: &Path, http: SocketAddr) -> Result<Self> {
        let witness = Witness::connect(&dir.join(place::WITNESS)).await?;
        witness.shell("true", Duration::from_secs(30)).await?.ok()?;
        Ok(Self { witness, http, dir: dir.to_owned() })
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
        read(&self.dir.join(place::CONSOLE))
    }
}

/// True once the guest below `dir` has started all that it starts. A kernel that panicked is an error.
pub(crate) fn is_up(dir: &Path) -> Result<bool> {
    let said = read(&dir.join(place::CONSOLE));
    ensure!(!said.contains("Kernel panic"), "the guest's kernel panicked");
    Ok(said.contains(UP))
}

/// Forgets what an earlier guest below `dir` has said.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    match fs::remove_file(dir.join(place::CONSOLE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// True if the guest's service answers at `http`.
pub(crate) async fn serves(http: SocketAddr) -> bool {
    service::ask(http, Duration::from_secs(5)).await.is_ok()
}

/// The port on the host that QEMU forwards to the guest's service, of what `info usernet` prints.
pub(crate) fn forwarded_port(text: &str) -> Option<SocketAddr> {
    //   TCP[HOST_FORWARD]  12   127.0.0.1 40287   10.0.2.15    80     0     0
    let line = text.lines().find(|line| line.contains("HOST_FORWARD"))?;
    let port = line.split_whitespace().nth(3)?.parse::<u16>().ok()?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// What a failed test shows of the guest below `dir`: a kernel that has stumbled says so there alone.
pub(crate) fn last_words(dir: &Path) -> String {
    format!("the guest's console ended with:\n{}", tail(&dir.join(place::CONSOLE)))
}

/// The end of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = read(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
}

/// A whole log; one that is not there is empty.
pub(crate) fn read(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}
