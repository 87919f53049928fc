//! A client of the guest's network service that asks all the while: does the service stay up during a resize?
//!
//! Requests are started on a beat, each in a connection of its own, whether or not earlier ones were answered. It
//! will not repeat one: a request without a right answer in its time is lost.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::witness::lock;

/// One request each.
const BEAT: Duration = Duration::from_millis(25);

/// An emulated guest can be slow without being down.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stuck guest must not cost the host all its sockets; the beat waits at this many.
const UNANSWERED: usize = 256;

/// What a client of the service saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceReport {
    /// Requests sent.
    pub asked: u64,
    /// Requests that got the right answer in time.
    pub answered: u64,
    /// Requests that did not.
    pub lost: u64,
    /// Why the first of the lost ones was.
    pub first_loss: Option<String>,
    /// The longest time from one answer to the next. The start counts as an answer, and so does the end if any
    /// request was lost.
    pub longest_gap: Duration,
}

/// A client at work. Dropped, it stops.
#[derive(Debug)]
pub struct Service {
    stop: oneshot::Sender<()>,
    client: JoinHandle<()>,
    tally: Arc<Mutex<Tally>>,
}

impl Service {
    pub(crate) fn watch(address: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        let tally = Arc::new(Mutex::new(Tally::new(Instant::now())));
        Self { stop, client: tokio::spawn(client(address, stopped, tally.clone())), tally }
    }

    /// What it saw until now; what is neither answered nor lost is under way.
    #[must_use]
    pub fn so_far(&self) -> ServiceReport {
        lock(&self.tally).report.clone()
    }

    /// Sends no more, waits for what is under way, and reports.
    ///
    /// # Panics
    /// If the client's task did.
    pub async fn finish(self) -> ServiceReport {
        // A client that has ended needs no telling.
        let _ = self.stop.send(());
        self.client.await.expect("the client's task does not panic");
        let mut tally = lock(&self.tally);
        let gap = tally.last_answer.elapsed();
        // The last answer is at most a request's patience old; only a service that fell silent has a gap to add.
        if tally.report.lost > 0 {
            tally.report.longest_gap = tally.report.longest_gap.max(gap);
        }
        tally.report.clone()
    }
}

async fn client(address: SocketAddr, mut stopped: oneshot::Receiver<()>, tally: Arc<Mutex<Tally>>) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = beat.tick(), if open.len() < UNANSWERED => {
                lock(&tally).report.asked += 1;
                open.spawn(async move { (ask(address, PATIENCE).await, Instant::now()) });
            }
            Some(done) = open.join_next() => lock(&tally).note(done),
        }
    }
    while let Some(done) = open.join_next().await {
        lock(&tally).note(done);
    }
}

#[derive(Debug)]
struct Tally {
    report: ServiceReport,
    last_answer: Instant,
}

impl Tally {
    fn new(start: Instant) -> Self {
        Self { report: ServiceReport::default(), last_answer: start }
    }

    fn note(&mut self, done: Result<(Result<()>, Instant), JoinError>) {
        let report = &mut self.report;
        match done {
            Ok((Ok(()), at)) => {
                report.answered += 1;
                report.longest_gap = report.longest_gap.max(at.saturating_duration_since(self.last_answer));
                self.last_answer = self.last_answer.max(at);
            }
            Ok((Err(error), _)) => {
                report.lost += 1;
                report.first_loss.get_or_insert_with(|| format!("{error:#}"));
            }
            Err(error) => panic!("a request's task panicked: {error}"),
        }
    }
}

/// One request; `Ok` if the service gave the right answer within `limit`.
pub(crate) async fn ask(address: SocketAddr, limit: Duration) -> Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.context("connecting")?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.context("asking")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await.context("reading the answer")?;
        ensure!(
            answer.starts_with("HTTP/1.") && answer.ends_with("\r\n\r\nup\n"),
            "a wrong answer: {answer:?}"
        );
        Ok(())
    };
    timeout(limit, exchange).await.with_context(|| format!("no answer within {limit:?}"))?
}
