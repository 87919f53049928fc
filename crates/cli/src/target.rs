//! Reaching the machine that the user named: its driver, its journal, and who else is at work on it.

use drive::journal::{FileJournal, JournalError, state_dir};
use drive::qmp::QmpMachine;
use scale::history::History;
use scale::limits::Limits;
use scale::time::Moment;
use scale::wanted::Wanted;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::address::{Address, Domain, socket_key};
use crate::args::Machine;
use crate::driver::Driver;
use crate::failure::Failure;

impl Reached {
    /// The same, whose definition stays as it is.
    fn live_only(self) -> Reached {
        let driver = match self.driver {
            Driver::Qmp(machine) => Driver::Qmp(machine),
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => Driver::Libvirt(Box::new(machine.live_only())),
        };
        Reached { driver, ..self }
    }
}

/// Runs one command's future: on this thread alone, so that starting costs nothing.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime on this thread needs only a few file descriptors").block_on(future)
}

/// A machine that was reached.
#[derive(Debug)]
pub(crate) struct Reached {
    /// What drives it.
    pub(crate) driver: Driver,
    /// What its journal is found by.
    pub(crate) key: String,
    /// Where libvirt keeps it, if it does.
    #[cfg(feature = "libvirt")]
    pub(crate) kept: Option<drive::libvirt::Kept>,
}

/// Connects to the machine to look at it, or to plan for what is `wanted`.
pub(crate) async fn open(
    machine: &Machine,
    wanted: Option<&Wanted>,
    limits: &Limits,
) -> Result<Reached, Failure> {
    reach(machine, wanted, false, limits, &mut refuse_while_held).await
}

/// Connects to the machine to resize it as `wanted`, and takes its journal. With `live_only`, the definition of one that
/// libvirt keeps stays as it is.
pub(crate) async fn take(
    machine: &Machine,
    wanted: &Wanted,
    live_only: bool,
    limits: &Limits,
) -> Result<(Reached, FileJournal), Failure> {
    let mut taken = None;
    let mut claim = |key: &str| {
        taken = Some(journal(key)?);
        Ok(())
    };
    let reached = reach(machine, Some(wanted), live_only, limits, &mut claim).await?;
    let journal = taken.map_or_else(|| journal(&reached.key), Ok)?;
    Ok((reached, journal))
}

/// `claim` is called before a machine is asked anything that takes many clients; a monitor of QEMU's takes one.
async fn reach(
    machine: &Machine,
    wanted: Option<&Wanted>,
    live_only: bool,
    limits: &Limits,
    claim: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<Reached, Failure> {
    match &machine.vm {
        Address::Qmp(_) if live_only => Err(Failure::bad_input(
            "--live-only is for machines of libvirt's: one on plain QEMU has no definition that a change could \
             be kept in"
                .to_owned(),
        )),
        Address::Qmp(socket) => {
            let key = socket_key(socket);
            let driver = tokio::select! {
                driver = QmpMachine::open(socket, machine.agent.as_deref(), limits) => driver?,
                busy = held_meanwhile(&key) => return Err(busy),
            };
            Ok(Reached {
                driver: Driver::Qmp(Box::new(driver)),
                key,
                #[cfg(feature = "libvirt")]
                kept: None,
            })
        }
        Address::Libvirt(domain) => {
            without_agent(machine.agent.as_deref())?;
            let reached = of_libvirt(domain, machine, wanted, limits, claim).await?;
            Ok(if live_only { reached.live_only() } else { reached })
        }
    }
}

/// Refuses `--agent` for a machine of libvirt's.
pub(crate) fn without_agent(agent: Option<&Path>) -> Result<(), Failure> {
    match agent {
        None => Ok(()),
        Some(_) => Err(Failure::bad_input(
            "libvirt holds the guest agent's socket of its machines, and Supple asks the agent through it; leave \
             --agent out"
                .to_owned(),
        )),
    }
}

#[cfg(feature = "libvirt")]
async fn of_libvirt(
    domain: &Domain,
    machine: &Machine,
    wanted: Option<&Wanted>,
    limits: &Limits,
    claim: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<Reached, Failure> {
    let kept = crate::kept::find(domain, limits).await?;
    let key = crate::address::uuid_key(&kept.uuid());
    claim(&key)?;
    let driver = crate::kept::drive(&kept, &machine.vm, wanted, limits).await?;
    Ok(Reached { driver: Driver::Libvirt(Box::new(driver)), key, kept: Some(kept) })
}

#[cfg(not(feature = "libvirt"))]
async fn of_libvirt(
    _: &Domain,
    _: &Machine,
    _: Option<&Wanted>,
    _: &Limits,
    _: &mut dyn FnMut(&str) -> Result<(), Failure>,
) -> Result<Reached, Failure> {
    Err(Failure::no_libvirt())
}

/// What the machine's journal is found by. A machine of libvirt's is looked up there for its uuid, unless that is given.
pub(crate) fn key(address: &Address) -> Result<String, Failure> {
    match address {
        Address::Qmp(socket) => Ok(socket_key(socket)),
        Address::Libvirt(domain) => key_of_libvirt(domain),
    }
}

#[cfg(feature = "libvirt")]
fn key_of_libvirt(domain: &Domain) -> Result<String, Failure> {
    if let Some(uuid) = as_uuid(&domain.name) {
        return Ok(crate::address::uuid_key(&uuid));
    }
    let kept = block_on(crate::kept::find(domain, &Limits::default()))?;
    Ok(crate::address::uuid_key(&kept.uuid()))
}

#[cfg(not(feature = "libvirt"))]
fn key_of_libvirt(_: &Domain) -> Result<String, Failure> {
    Err(Failure::no_libvirt())
}

/// A uuid as libvirt writes it.
#[cfg(feature = "libvirt")]
fn as_uuid(name: &str) -> Option<String> {
    let digits: String = name.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_uuid.then(|| [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]).join("-"))
}

/// Ends where another supple is at work on the machine: its monitor takes one client, so this one waits in vain.
///
/// Who holds a journal is asked only once a monitor does not greet at once: the kernel takes 10 ms to list its locks.
async fn held_meanwhile(key: &str) -> Failure {
    const PATIENCE: Duration = Duration::from_millis(100);
    tokio::time::sleep(PATIENCE).await;
    match refuse_while_held(key) {
        Ok(()) => std::future::pending().await,
        Err(failure) => failure,
    }
}

/// Refuses where another supple is at work on the machine.
pub(crate) fn refuse_while_held(key: &str) -> Result<(), Failure> {
    match holder(key)? {
        Some(process) => Err(Failure::Busy(process)),
        None => Ok(()),
    }
}

/// The machine's journal, locked for this process.
pub(crate) fn journal(key: &str) -> Result<FileJournal, Failure> {
    let error = match FileJournal::open(&directory(), key) {
        Ok(journal) => return Ok(journal),
        Err(error) => error,
    };
    // Who holds it, is asked only now: the kernel may take 10 ms to list its locks.
    let holder = if matches!(error, JournalError::Held { .. }) { holder(key)? } else { None };
    Err(holder.map_or_else(|| error.into(), Failure::Busy))
}

/// What the machine's journal adds up to.
pub(crate) fn history(key: &str) -> Result<History, Failure> {
    Ok(FileJournal::read(&directory(), key)?)
}

/// The process that is at work on the machine, if one is.
pub(crate) fn holder(key: &str) -> Result<Option<u32>, Failure> {
    Ok(FileJournal::holder(&directory(), key)?)
}

/// Where Supple keeps what it must not forget.
pub(crate) fn directory() -> PathBuf {
    state_dir(|name| std::env::var(name).ok())
}

/// The present time.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(all(test, feature = "libvirt"))]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_known_however_it_is_written() {
        let uuid = "6f3c1a52-0b1e-4c57-9b4d-1de1f0a1b2c3";
        assert_eq!(as_uuid(&uuid.to_uppercase()).as_deref(), Some(uuid));
        assert_eq!(as_uuid(&uuid.replace('-', "")).as_deref(), Some(uuid));
        assert_eq!(as_uuid("web1"), None);
        assert_eq!(as_uuid(&uuid.replace('6', "x")), None);
    }
}
