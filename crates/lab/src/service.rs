//! A client of the guest's network service that asks all the while: does the service stay up during a resize?
//!
//! Requests are started on a beat, each in a connection of its own, a few at a time. It will not repeat one: a
//! request without a right answer in its time is lost.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::witness::lock;

/// One request each.
const BEAT: Duration = Duration::from_millis(100);

/// An emulated guest can be slow without being down, and on a host with more to do than cores it is for seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The beat waits at this many. The guest's httpd (busybox 1.35) queues 9 connections and the guest drops what comes
/// beyond; on a host short of CPU that would lose requests of which no resize is guilty.
const UNANSWERED: usize = 4;

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
    /// The longest time from one answer to the next; the start and the end count as answers.
    pub longest_gap: Duration,
}

/// A client at work, on a thread of its own: a test may block its runtime without making the service look bad.
/// Dropped, it stops.
#[derive(Debug)]
pub struct Service {
    /// Dropped, it tells the client to stop.
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    tally: Arc<Mutex<Tally>>,
}

impl Service {
    pub(crate) fn watch(address: SocketAddr) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let tally = Arc::new(Mutex::new(Tally::new(Instant::now())));
        let counted = tally.clone();
        let client = move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
            runtime.block_on(client(address, stopped, &counted));
            // Nobody waits for a client that was dropped.
            let _ = end.send(());
        };
        thread::Builder::new().name("lab-client".to_owned()).spawn(client).expect("a thread can be started");
        Self { stop, ended, tally }
    }

    /// What it saw until now; what is neither answered nor lost is under way.
    #[must_use]
    pub fn so_far(&self) -> ServiceReport {
        lock(&self.tally).report.clone()
    }

    /// Sends no more, waits for what is under way, and reports.
    ///
    /// # Panics
    /// If the client did.
    pub async fn finish(self) -> ServiceReport {
        drop(self.stop);
        self.ended.await.expect("the client does not panic");
        let tally = lock(&self.tally);
        let longest_gap = tally.report.longest_gap.max(tally.last_answer.elapsed());
        ServiceReport { longest_gap, ..tally.report.clone() }
    }
}

async fn client(address: SocketAddr, mut stopped: oneshot::Receiver<()>, tally: &Mutex<Tally>) {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = beat.tick(), if open.len() < UNANSWERED => {
                lock(tally).report.asked += 1;
                open.spawn(async move { (ask(address, PATIENCE).await, Instant::now()) });
            }
            Some(done) = open.join_next() => lock(tally).note(done),
        }
    }
    while let Some(done) = open.join_next().await {
        lock(tally).note(done);
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
