//! Reaching the machine that the user named: its driver, its journal, and who else is at work on it.

use drive::journal::{FileJournal, state_dir};
use drive::qmp::QmpMachine;
use scale::history::History;
use scale::limits::Limits;
use scale::time::Moment;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::address::Address;
use crate::args::Machine;
use crate::failure::Failure;

/// Runs one command's future: on this thread alone, so that starting costs nothing.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime on this thread needs only a few file descriptors").block_on(future)
}

/// Connects to the machine.
pub(crate) async fn open(machine: &Machine, limits: &Limits) -> Result<QmpMachine, Failure> {
    // Its monitor takes one client: another supple's run would make this wait in vain.
    if let Some(process) = holder(&machine.vm)? {
        return Err(Failure::Busy(process));
    }
    Ok(QmpMachine::open(machine.vm.qmp(), machine.agent.as_deref(), limits).await?)
}

/// The machine's journal, locked for this process.
pub(crate) fn journal(address: &Address) -> Result<FileJournal, Failure> {
    Ok(FileJournal::open(&directory(), &address.key())?)
}

/// What the machine's journal adds up to.
pub(crate) fn history(address: &Address) -> Result<History, Failure> {
    Ok(FileJournal::read(&directory(), &address.key())?)
}

/// The process that is at work on the machine, if one is.
pub(crate) fn holder(address: &Address) -> Result<Option<u32>, Failure> {
    Ok(FileJournal::holder(&directory(), &address.key())?)
}

fn directory() -> PathBuf {
    state_dir(|name| std::env::var(name).ok())
}

/// The present time.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment::from_unix_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
