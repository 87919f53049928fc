//! All machines of a libvirt at a glance: what each is doing and its description, in few calls and bounded time. It asks
//! no guest, and needs no more than to read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Connection, Which};
use super::domain::Domain;
use super::kept::Unreachable;
use super::pool::{CallError, Pool};
use super::stats::StatsGroup;
use super::terms::{State, Xml};

/// Descriptions that are asked for at the same time: libvirtd answers 5 requests of one client at once
/// (`max_client_requests`, 9.0 and 11.3).
const AT_ONCE: usize = 4;
/// How long one description may take: a machine that is held up keeps its own row back, and no other.
const EACH: Duration = Duration::from_secs(5);
/// How long all of it may take.
const ALL: Duration = Duration::from_secs(60);

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: String,
    /// What it is doing.
    pub state: State,
    /// Its description: the live one while it runs, else its definition. Or why there is none.
    pub xml: Result<String, CallError>,
}

/// All machines at `uri`, in no order, over a connection for reading alone.
///
/// # Errors
/// libvirt cannot be asked.
pub async fn census(uri: &str) -> Result<Vec<Listed>, Unreachable> {
    let until = Instant::now() + ALL;
    let pool = Pool::new(AT_ONCE);
    let whole = uri.to_owned();
    let lane = pool.lane();
    let listed = lane.call("a list of all machines", ALL, move || {
        Connection::open_read_only(&whole)?.stats(Which::All, &[StatsGroup::State])
    });
    let listed = listed.await.map_err(|source| Unreachable { uri: uri.to_owned(), source })?;
    let left: VecDeque<(Domain, State)> = listed
        .into_iter()
        .map(|(domain, stats)| (domain, State::of_number(stats.number("state.state"))))
        .collect();
    let left = Arc::new(Mutex::new(left));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        workers.spawn(work(pool.clone(), left.clone(), until));
    }
    Ok(workers.join_all().await.into_iter().flatten().collect())
}

/// Takes one machine after the other until there are none left.
async fn work(pool: Pool, left: Arc<Mutex<VecDeque<(Domain, State)>>>, until: Instant) -> Vec<Listed> {
    let mut all = Vec::new();
    loop {
        let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((domain, state)) = next else { return all };
        let limit = until.saturating_duration_since(Instant::now()).min(EACH);
        let (name, uuid) = (domain.name(), domain.uuid());
        let which = if state.is_there() { Xml::Live } else { Xml::Inactive };
        // A lane of its own: a machine that is held up keeps a thread, and no other machine.
        let xml = pool.lane().call("a description", limit, move || domain.xml(which)).await;
        all.push(Listed { name, uuid, state, xml });
    }
}
