//! Blocking calls for tasks: on threads of their own, with deadlines.
//!
//! ```text
//! task --turn--> lane --thread--> pool --call--> libvirt        both are given back when the C call returns,
//! task <------------- result ----------------------------       however long after the task gave up
//! ```
//! A blocked C call cannot be cancelled. When its time is up the *waiter* goes on, and the lane stays taken: the next
//! call on it waits for it too and, in the end, says what holds it. Threads are few, so stuck calls cost a bounded
//! number of them; and they are no threads of the runtime, so they never keep it from ending.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::error::Error;

/// The threads that all calls share.
#[derive(Debug, Clone)]
pub struct Pool {
    threads: Arc<Semaphore>,
}

/// One thing that calls must not be made on at the same time: a domain's monitor, a domain's agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Lane {
    pool: Pool,
    turn: Arc<Semaphore>,
    holder: Arc<Mutex<Option<Holder>>>,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    what: &'static str,
    since: Instant,
}

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// libvirt said no.
    #[error(transparent)]
    Libvirt(#[from] Error),
    /// It was not made: an earlier call on the same lane has not returned.
    #[error("{what} was not tried: libvirt has been at work on {holder} for {} s", held.as_secs())]
    Busy {
        /// What was to be done.
        what: &'static str,
        /// What is being done.
        holder: &'static str,
        /// Since when.
        held: Duration,
    },
    /// It was not made: all threads wait for calls that do not return.
    #[error("{what} was not tried: too many calls wait for libvirt already")]
    Crowded {
        /// What was to be done.
        what: &'static str,
    },
    /// It was made and has not returned: it may still take effect.
    #[error("libvirt has not finished {what} within {after:?}; it may still")]
    TimedOut {
        /// What is being done.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
}

impl Pool {
    /// A pool of at most this many threads, which exist only while they have a call to make.
    pub fn new(threads: usize) -> Self {
        assert!(threads > 0, "a pool without threads can make no call");
        Self { threads: Arc::new(Semaphore::new(threads)) }
    }

    /// A new lane.
    pub fn lane(&self) -> Lane {
        Lane { pool: self.clone(), turn: Arc::new(Semaphore::new(1)), holder: Arc::default() }
    }
}

impl Lane {
    /// Makes a call, named `what` in errors, within `limit`, once earlier calls on this lane have returned. Dropping the
    /// future before it is made means it is not made; after, that nobody learns of its result.
    ///
    /// # Errors
    /// [`CallError`]. After `TimedOut`, whether it took effect is not known.
    ///
    /// # Panics
    /// If the call did.
    pub async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, CallError> {
        let until = Instant::now() + limit;
        let Ok(turn) = timeout_at(until, permit(&self.turn)).await else { return Err(self.busy(what)) };
        let Ok(thread) = timeout_at(until, permit(&self.pool.threads)).await else {
            return Err(CallError::Crowded { what });
        };
        *self.holder() = Some(Holder { what, since: Instant::now() });
        let (tell, told) = oneshot::channel();
        let holder = self.holder.clone();
        let run = move || {
            let result = call();
            *lock(&holder) = None;
            drop((turn, thread));
            // An error means only that nobody waits any more.
            let _ = tell.send(result);
        };
        if std::thread::Builder::new().name("libvirt-call".to_owned()).spawn(run).is_err() {
            *self.holder() = None;
            return Err(CallError::Crowded { what });
        }
        match timeout_at(until, told).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => panic!("the libvirt call for {what} panicked"),
            Err(_) => Err(CallError::TimedOut { what, after: limit }),
        }
    }

    fn busy(&self, what: &'static str) -> CallError {
        match *self.holder() {
            Some(Holder { what: holder, since }) => CallError::Busy { what, holder, held: since.elapsed() },
            None => CallError::Crowded { what },
        }
    }

    fn holder(&self) -> std::sync::MutexGuard<'_, Option<Holder>> {
        lock(&self.holder)
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_owned().await.expect("it is never closed")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A call that returns when it is told to.
    fn stuck() -> (mpsc::Sender<()>, impl FnOnce() -> Result<(), Error> + Send) {
        let (release, held) = mpsc::channel();
        (release, move || {
            let _ = held.recv();
            Ok(())
        })
    }

    #[tokio::test]
    async fn a_stuck_call_costs_its_waiter_the_limit_and_holds_its_lane_alone() {
        let pool = Pool::new(2);
        let (lane, other) = (pool.lane(), pool.lane());
        let (release, call) = stuck();
        let limit = Duration::from_millis(5);
        let error = lane.call("an attach", limit, call).await.unwrap_err();
        assert_eq!(error, CallError::TimedOut { what: "an attach", after: limit });

        let error = lane.call("a look", limit, || Ok(())).await.unwrap_err();
        assert!(matches!(error, CallError::Busy { what: "a look", holder: "an attach", .. }), "{error}");
        assert_eq!(other.call("a look", LONG, || Ok(7)).await, Ok(7));

        release.send(()).unwrap();
        assert_eq!(lane.call("a look", LONG, || Ok(8)).await, Ok(8));
    }

    #[tokio::test]
    async fn stuck_calls_take_no_more_threads_than_there_are() {
        let pool = Pool::new(1);
        let (release, call) = stuck();
        let limit = Duration::from_millis(5);
        assert!(pool.lane().call("a save", limit, call).await.is_err());
        let error = pool.lane().call("a look", limit, || Ok(())).await.unwrap_err();
        assert_eq!(error, CallError::Crowded { what: "a look" });
        drop(release);
        assert_eq!(pool.lane().call("a look", LONG, || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_call_whose_waiter_left_before_its_turn_is_not_made() {
        let lane = Pool::new(2).lane();
        let (release, call) = stuck();
        let limit = Duration::from_millis(5);
        assert!(lane.call("a save", limit, call).await.is_err());
        let (tell, told) = mpsc::channel();
        let late = lane.call("a detach", LONG, move || {
            let _ = tell.send(());
            Ok(())
        });
        assert!(tokio::time::timeout(limit, late).await.is_err());
        release.send(()).unwrap();
        assert_eq!(lane.call("a look", LONG, || Ok(())).await, Ok(()));
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_stuck_call_does_not_keep_the_runtime_from_ending() {
        let (release, call) = stuck();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let limit = Duration::from_millis(5);
        assert!(runtime.block_on(Pool::new(1).lane().call("a save", limit, call)).is_err());
        drop(runtime);
        assert!(release.send(()).is_ok(), "the call is still there");
    }
}
