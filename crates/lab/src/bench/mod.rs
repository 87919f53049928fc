//! `lab bench`: what Supple costs, beside the least that could be done, in one run on one real guest.
//!
//! These machines are shared and noisy: only ratios within one run mean anything, save for bounds that are far away.

mod planning;
pub(crate) mod raw;
mod table;

use anyhow::{Result, ensure};
use lab::{Machine, Recipe};
use scale::units::Bytes;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use table::{Row, median};

/// Rounds of each pair; the median counts.
const ROUNDS: usize = 7;

/// Measures this build of `supple`.
pub(crate) async fn bench(supple: &Path) -> Result<()> {
    let mut rows = vec![startup(supple)?, planning::planning()];
    rows.extend(on_guests(supple).await?);
    table::print(&rows);
    let missed = rows.iter().filter(|row| !row.holds).count();
    ensure!(missed == 0, "{missed} bounds missed");
    Ok(())
}

fn startup(supple: &Path) -> Result<Row> {
    let mut times = Vec::new();
    for _ in 0..30 {
        times.push(time(Command::new(supple).arg("--version"))?);
    }
    Ok(Row::at_most("start-up: supple --version", median(times), Duration::from_millis(10)))
}

async fn on_guests(supple: &Path) -> Result<Vec<Row>> {
    println!("Booting guests for the bench ...");
    let dimm = Recipe::q35().memory(Bytes::gib(2)).max_memory(Bytes::gib(32), 64).vcpus(2, 4).boot().await?;
    let bench = Bench::new(supple, &dimm)?;
    let mut rows = vec![bench.observe()?, bench.dimm()?];
    drop(dimm);
    let virtio = Recipe::q35()
        .memory(Bytes::gib(1))
        .max_memory(Bytes::gib(8), 4)
        .virtio_mem(Bytes::gib(4), 0)
        .kernel_param("memhp_default_state=online_movable")
        .vcpus(2, 4)
        .boot()
        .await?;
    rows.push(Bench::new(supple, &virtio)?.virtio_mem()?);
    Ok(rows)
}

/// One guest to measure on.
struct Bench<'a> {
    supple: &'a Path,
    raw: PathBuf,
    vm: String,
    qmp: PathBuf,
    agent: PathBuf,
    state: tempfile::TempDir,
}

impl Bench<'_> {
    fn new<'a>(supple: &'a Path, guest: &Machine) -> Result<Bench<'a>> {
        Ok(Bench {
            supple,
            raw: std::env::current_exe()?,
            vm: format!("qmp:{}", guest.qmp().display()),
            qmp: guest.qmp(),
            agent: guest.agent(),
            state: tempfile::tempdir()?,
        })
    }

    fn supple(&self, verb: &str, rest: &[&str]) -> Command {
        let mut command = Command::new(self.supple);
        command.arg(verb).arg(&self.vm).arg("--agent").arg(&self.agent).args(rest);
        command.env("SUPPLE_STATE_DIR", self.state.path());
        command
    }

    fn raw(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.raw);
        command.arg("raw").args(words);
        command
    }

    fn apply(&self, memory: &str) -> Result<Duration> {
        time(&mut self.supple("apply", &["--yes", "--memory", memory]))
    }

    /// `observe` may cost at most 30 ms more than the guest takes to answer the same questions.
    fn observe(&self) -> Result<Row> {
        let agent = self.agent.to_string_lossy().into_owned();
        let (mut ours, mut guests) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            guests.push(time(&mut self.raw(&["guest-facts", &agent]))?);
            ours.push(time(&mut self.supple("observe", &[]))?);
        }
        let (ours, guests) = (median(ours), median(guests));
        let mut row = Row::at_most(
            "observe, beyond the guest's own answer",
            ours.saturating_sub(guests),
            Duration::from_millis(30),
        );
        row.beside = format!("{} against {}", table::show(ours), table::show(guests));
        Ok(row)
    }

    fn dimm(&self) -> Result<Row> {
        let (qmp, agent) = (self.qmp.to_string_lossy(), self.agent.to_string_lossy());
        let (mut ours, mut raws) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            // Nothing is taken away in between: what the raw client onlines, the kernel may use for itself and keep.
            raws.push(time(&mut self.raw(&["dimm", &qmp, &agent, &format!("raw{round}"), "1024"]))?);
            ours.push(self.apply("+1G")?);
        }
        Ok(Row::ratio(
            "apply +1 GiB DIMM, to guest-confirmed",
            median(ours),
            ("raw client", median(raws)),
            1.25,
        ))
    }

    fn virtio_mem(&self) -> Result<Row> {
        let qmp = self.qmp.to_string_lossy();
        let id = "vmem0";
        let (mut ours, mut raws) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            raws.push(time(&mut self.raw(&["virtio-mem", &qmp, id, &(1u64 << 30).to_string()]))?);
            self.apply("1G")?;
            ours.push(self.apply("2G")?);
            self.apply("1G")?;
        }
        Ok(Row::ratio(
            "apply +1 GiB virtio-mem, to proven",
            median(ours),
            ("size reached", median(raws)),
            1.5,
        ))
    }
}

/// The wall-clock time of a whole process, which must succeed.
fn time(command: &mut Command) -> Result<Duration> {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = began.elapsed();
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}
