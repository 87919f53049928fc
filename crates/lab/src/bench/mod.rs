//! `lab bench`: what Supple costs, beside the least that could be done, in one run on real guests.
//!
//! These machines are shared and noisy: only ratios within one run mean anything, save for bounds that are far away. So
//! the two sides of a row take turns on the same guest, each goes first as often as the other, and medians count.

mod dimensions;
pub(crate) mod libvirt;
mod planning;
pub(crate) mod raw;
mod table;
pub(crate) mod traffic;

use anyhow::{Context, Result, bail, ensure};
use lab::{Machine, Recipe};
use scale::units::Bytes;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use table::{Row, median};

/// Rounds of `observe`.
const LOOKS: usize = 9;
/// Guests of each kind, booted one after the other; a guest that has grown much answers more slowly.
const GUESTS: usize = 3;
/// Pairs of resizes on one guest, of 1 GiB for each side. As many as the guest takes in its movable zone (three times
/// what it booted with), which is where Supple puts new memory; the raw client leaves the zone to the kernel.
const PAIRS: usize = 3;

/// A part that can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Starting, planning, and memory on plain QEMU.
    Qmp,
    /// Memory and lists of libvirt's machines.
    Libvirt,
    /// Every other dimension.
    Dimensions,
    /// Limits of traffic.
    Traffic,
}

impl Part {
    const ALL: [Part; 4] = [Part::Qmp, Part::Libvirt, Part::Dimensions, Part::Traffic];

    fn name(self) -> &'static str {
        match self {
            Part::Qmp => "qmp",
            Part::Libvirt => "libvirt",
            Part::Dimensions => "dimensions",
            Part::Traffic => "traffic",
        }
    }

    async fn rows(self, supple: &Path) -> Result<Vec<Row>> {
        match self {
            Part::Qmp => {
                let mut rows = vec![startup(supple)?];
                rows.extend(planning::planning());
                rows.extend(on_guests(supple).await?);
                Ok(rows)
            }
            Part::Libvirt => libvirt::rows(supple).await,
            Part::Dimensions => dimensions::rows(supple).await,
            Part::Traffic => traffic::rows(supple).await,
        }
    }
}

/// Measures this build of `supple`: the parts of these names, or all.
pub(crate) async fn bench(supple: &Path, names: &[&str]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| Part::ALL.iter().all(|part| part.name() != **name)) {
        bail!("no part `{unknown}`: there are {}", Part::ALL.map(Part::name).join(", "));
    }
    let mut rows = Vec::new();
    for part in Part::ALL {
        if names.is_empty() || names.contains(&part.name()) {
            rows.extend(part.rows(supple).await?);
        }
    }
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
    let (mut looks, mut dimms, mut virtio) = (Vec::new(), Pairs::default(), Growths::default());
    for nth in 0..GUESTS {
        let guest =
            Recipe::q35().memory(Bytes::gib(2)).max_memory(Bytes::gib(32), 64).vcpus(2, 4).boot().await?;
        let bench = Bench::new(supple, &guest)?;
        if nth == 0 {
            looks.push(bench.observe()?);
        }
        bench.dimm(&mut dimms)?;
    }
    for _ in 0..GUESTS {
        let guest = Recipe::q35()
            .memory(Bytes::gib(2))
            .max_memory(Bytes::gib(16), 4)
            .virtio_mem(Bytes::gib(8), 0)
            .kernel_param("memhp_default_state=online_movable")
            .vcpus(2, 4)
            .boot()
            .await?;
        Bench::new(supple, &guest)?.virtio_mem(&guest, &mut virtio).await?;
    }
    let mut rows = looks;
    rows.push(dimms.row());
    rows.extend(virtio.rows());
    Ok(rows)
}

/// Times of the two sides of one row.
#[derive(Debug, Default)]
struct Pairs {
    ours: Vec<Duration>,
    raws: Vec<Duration>,
}

impl Pairs {
    fn row(self) -> Row {
        let raw = ("raw client", median(self.raws));
        Row::ratio("apply +1 GiB DIMM, to guest-confirmed", median(self.ours), raw, 1.25)
    }
}

/// Times of growing by virtio-mem.
#[derive(Debug, Default)]
struct Growths {
    /// From the start of `apply` to its end.
    ended: Vec<Duration>,
    /// From the start of the same `apply` to when somebody else saw the device's size reached.
    reached: Vec<Duration>,
    /// A raw client that asks the guest nothing, by itself.
    raws: Vec<Duration>,
}

impl Growths {
    fn rows(self) -> [Row; 2] {
        let reached = median(self.reached);
        let ended = median(self.ended);
        [
            Row::ratio("apply +1 GiB virtio-mem, to proven", ended, ("its size was reached", reached), 1.5),
            Row::told("raw client +1 GiB virtio-mem, asks the guest nothing", median(self.raws)),
        ]
    }
}

/// Waits until the guest has done its housekeeping and its agent dozes.
///
/// Without a client qemu-ga looks for one every 100 ms only (qga/main.c, `channel_event_cb`, 7.2 to 10.0), so its first
/// answer takes up to that much, as luck has it: 100 ms right after another client, 50 ms in the mean. Here each side
/// meets it at the same, evenly spread moments.
fn doze(round: usize) {
    let spread = u64::try_from(round).unwrap_or_default() * 61 % 100;
    sleep(Duration::from_millis(300 + spread));
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

    fn apply(&self, memory: &str) -> Command {
        self.supple("apply", &["--yes", "--memory", memory])
    }

    /// `observe` may cost at most 30 ms more than the guest takes to answer the same questions.
    fn observe(&self) -> Result<Row> {
        let agent = self.agent.to_string_lossy().into_owned();
        let (mut ours, mut guests) = (Vec::new(), Vec::new());
        for round in 0..LOOKS {
            doze(round);
            guests.push(time(&mut self.raw(&["guest-facts", &agent]))?);
            doze(round);
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

    /// Nothing is taken away in between: what the raw client onlines, the kernel may use for itself and keep.
    fn dimm(&self, pairs: &mut Pairs) -> Result<()> {
        let (qmp, agent) = (self.qmp.to_string_lossy(), self.agent.to_string_lossy());
        for _ in 0..PAIRS {
            let round = pairs.ours.len();
            for ours in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
                doze(round);
                if ours {
                    pairs.ours.push(time(&mut self.apply("+1G"))?);
                } else {
                    let id = format!("raw{round}");
                    pairs.raws.push(time(&mut self.raw(&["dimm", &qmp, &agent, &id, "1024"]))?);
                }
            }
        }
        Ok(())
    }

    async fn virtio_mem(&self, guest: &Machine, growths: &mut Growths) -> Result<()> {
        let (qmp, id) = (self.qmp.to_string_lossy(), "vmem0");
        let mut size = Bytes::ZERO;
        for _ in 0..PAIRS {
            let round = growths.ended.len();
            for ours in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
                doze(round);
                size = size + Bytes::gib(1);
                if ours {
                    let (reached, ended) = watched(guest, id, size, &mut self.apply("+1G")).await?;
                    growths.reached.push(reached);
                    growths.ended.push(ended);
                } else {
                    let bytes = size.get().to_string();
                    growths.raws.push(time(&mut self.raw(&["virtio-mem", &qmp, id, &bytes]))?);
                }
            }
        }
        Ok(())
    }
}

/// The wall-clock time of a whole process, which must succeed.
fn time(command: &mut Command) -> Result<Duration> {
    let (began, child) = start(command)?;
    finish(began, child, command)
}

/// When a virtio-mem device reached `size`, seen through the lab's own monitor, and when the process ended; both from
/// its start.
async fn watched(
    guest: &Machine,
    id: &str,
    size: Bytes,
    command: &mut Command,
) -> Result<(Duration, Duration)> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let question = json!({ "path": format!("/machine/peripheral/{id}"), "property": "size" });
    let (began, mut child) = start(command)?;
    let mut last = false;
    while guest.execute("qom-get", question.clone()).await? != json!(size.get()) {
        ensure!(!last && began.elapsed() < PATIENCE, "{command:?} ended and {id} did not reach {size}");
        last = child.try_wait()?.is_some();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let reached = began.elapsed();
    Ok((reached, finish(began, child, command)?))
}

fn start(command: &mut Command) -> Result<(Instant, Child)> {
    let began = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    Ok((began, child.with_context(|| format!("cannot start {command:?}"))?))
}

fn finish(began: Instant, child: Child, command: &Command) -> Result<Duration> {
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let took = began.elapsed();
    ensure!(
        status.success(),
        "{command:?} ended with {status}:\n{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    Ok(took)
}
