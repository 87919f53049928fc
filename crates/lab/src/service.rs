//! A client of the guest's network service that asks all the while: does the service stay up during a resize?
//!
//! Requests are started on a beat, each in a connection of its own, whether or not earlier ones were answered. It
//! will not repeat one: a request without a right answer in its time is lost.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// One request each.
const BEAT: Duration = Duration::from_millis(25);

/// An emulated guest can be slow without being down.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stuck guest must not cost the host all its sockets; the beat waits at this many.
const UNANSWERED: usize = 256;

/// What a client of the service saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceReport {
    /// Requests sent.
    pub asked: u64,
    /// Requests that got the right answer in time.
    pub answered: u64,
    /// Requests that did not, with the first reason.
    pub lost: u64,
    /// Why the first of the lost ones was.
    pub first_loss: Option<String>,
    /// The longest time between two answers that follow each other, or between the start or the end and one.
    pub longest_gap: Duration,
}

/// A client at work. Dropped, it stops and tells nothing.
#[derive(Debug)]
pub struct Service {
    stop: oneshot::Sender<()>,
    client: JoinHandle<ServiceReport>,
}

impl Service {
    pub(crate) fn watch(address: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, client: tokio::spawn(client(address, stopped)) }
    }

    /// Sends no more, waits for what is still unanswered, and reports.
    ///
    /// # Panics
    /// If the client's task did.
    pub async fn finish(self) -> ServiceReport {
        // A client that has ended needs no telling.
        let _ = self.stop.send(());
        self.client.await.expect("the client's task does not panic")
    }
}

async fn client(address: SocketAddr, mut stopped: oneshot::Receiver<()>) -> ServiceReport {
    let mut tally = Tally::new(Instant::now());
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = beat.tick(), if open.len() < UNANSWERED => {
                tally.report.asked += 1;
                open.spawn(async move { (ask(address, PATIENCE).await, Instant::now()) });
            }
            Some(done) = open.join_next() => tally.note(done),
        }
    }
    while let Some(done) = open.join_next().await {
        tally.note(done);
    }
    tally.report
}

struct Tally {
    report: ServiceReport,
    last_answer: Instant,
}

impl Tally {
    fn new(start: Instant) -> Self {
        let report =
            ServiceReport { asked: 0, answered: 0, lost: 0, first_loss: None, longest_gap: Duration::ZERO };
        Self { report, last_answer: start }
    }

    fn note(&mut self, done: Result<(Result<()>, Instant), tokio::task::JoinError>) {
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
