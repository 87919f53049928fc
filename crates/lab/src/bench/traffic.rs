//! Limits of traffic on a real guest's tap beside the same laid out with `tc` and `ip`, as an administrator scripts it:
//! from no limit to one, both ways, and a look that it stands. It runs in a network of its own (see [`inside`]).

use anyhow::{Context, Result, bail, ensure};
use lab::{Cache, Machine, Recipe, Tools, in_own_network};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::table::{Row, median};
use super::{Bench, doze, time};

/// Rounds that count, after one that does not: a kernel may load what it needs at the first.
const ROUNDS: usize = 9;
const MAC: &str = "52:54:00:5c:a1:e0";
const GUEST: &str = "10.98.0.2";
/// The name of the script's device for what the guest sends.
const IFB: &str = "ifb-tap0";

/// The rows of this part: a process in a network of its own measures them.
pub(super) async fn rows(supple: &Path) -> Result<Vec<Row>> {
    // From there nothing can be fetched.
    lab::prepare().await?;
    let mut child = in_own_network();
    child
        .arg(std::env::current_exe()?)
        .arg("traffic")
        .arg(supple)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let done = child.output().context("cannot run unshare (util-linux)")?;
    ensure!(done.status.success(), "in a network of its own: {}", done.status);
    let told: Value = serde_json::from_slice(&done.stdout).context("what was measured")?;
    let rows = told.as_array().context("rows")?.iter().map(|row| {
        let time = |key: &str| row[key].as_u64().map(Duration::from_nanos).context("a time");
        let what = row["what"].as_str().context("a name")?;
        Ok(Row::beside(what, time("ours")?, ("tc and ip", time("hand")?)))
    });
    rows.collect()
}

/// Measures, and prints what was measured as JSON.
pub(crate) async fn inside(supple: &Path) -> Result<()> {
    let tools = Tools::find(&Cache::open()?)?;
    tools.run("ip link set lo up")?;
    let guest = Recipe::q35().tap(MAC).boot().await?;
    tools.run("ip link set tap0 up")?;
    guest.shell(&format!("ip link set eth1 up && ip addr add {GUEST}/24 dev eth1")).await?.ok()?;
    let desk = Desk { bench: Bench::new(supple, &guest)?, tools, _guest: &guest };
    let rows = [
        desk.turns(
            "NIC limit both ways, plain QEMU",
            ["--nic", &format!("{MAC}=20mbit"), &format!("{MAC}=none")],
            nic,
        )?,
        desk.turns(
            "limit of one address, plain QEMU",
            ["--ip", &format!("{GUEST}=10mbit"), &format!("{GUEST}=none")],
            ip,
        )?,
    ];
    println!("{}", json!(rows));
    Ok(())
}

struct Desk<'a> {
    bench: Bench<'a>,
    tools: Tools,
    _guest: &'a Machine,
}

impl Desk<'_> {
    /// Both sides in turns, each from a tap with nothing on it.
    fn turns(
        &self,
        what: &str,
        [option, limit, none]: [&str; 3],
        script: fn(&str, &str) -> Vec<String>,
    ) -> Result<Value> {
        let (mut ours, mut hand) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            for we in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
                doze(round);
                let (took, times) = match we {
                    true => (self.ours(option, limit)?, &mut ours),
                    false => (self.by_hand(script)?, &mut hand),
                };
                if round > 0 {
                    times.push(took);
                }
                if we {
                    self.ours(option, none)?;
                }
                self.sweep()?;
            }
        }
        let nanos = |times| u64::try_from(median(times).as_nanos()).unwrap_or(u64::MAX);
        Ok(json!({"what": what, "ours": nanos(ours), "hand": nanos(hand)}))
    }

    fn ours(&self, option: &str, value: &str) -> Result<Duration> {
        time(&mut self.bench.supple("apply", &["--yes", option, value]))
    }

    /// Each line is a process, as in a script.
    fn by_hand(&self, script: fn(&str, &str) -> Vec<String>) -> Result<Duration> {
        let began = Instant::now();
        for line in [format!("ip link add {IFB} type ifb"), format!("ip link set {IFB} up")] {
            self.tools.run(&line)?;
        }
        for (device, way) in [("tap0", "dst"), (IFB, "src")] {
            for line in script(device, way) {
                self.tools.run(&line)?;
            }
        }
        self.tools.run("tc qdisc add dev tap0 handle ffff: ingress")?;
        self.tools.run(&format!(
            "tc filter add dev tap0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev {IFB}"
        ))?;
        for device in ["tap0", IFB] {
            let told = self.tools.run(&format!("tc class show dev {device}"))?;
            ensure!(told.contains("ceil 20Mbit") || told.contains("ceil 10Mbit"), "{device}: {told}");
        }
        let told = self.tools.run("tc filter show dev tap0 parent ffff:")?;
        ensure!(told.contains(IFB), "no redirect: {told}");
        Ok(began.elapsed())
    }

    /// Takes away what either left.
    fn sweep(&self) -> Result<()> {
        // What is not there cannot be taken away.
        for line in [
            "tc qdisc del dev tap0 root".to_owned(),
            "tc qdisc del dev tap0 ingress".to_owned(),
            "tc qdisc del dev tap0 clsact".to_owned(),
            format!("ip link del {IFB}"),
        ] {
            let _ = self.tools.run(&line);
        }
        let left = self.tools.run("tc qdisc show dev tap0")?;
        if left.contains("htb") || left.contains("ffff:") {
            bail!("tap0 is not bare: {left}");
        }
        Ok(())
    }
}

/// All that a device sends is held.
fn nic(device: &str, _: &str) -> Vec<String> {
    vec![
        format!("tc qdisc add dev {device} root handle 1: htb default 10"),
        format!("tc class add dev {device} parent 1: classid 1:10 htb rate 20mbit burst 125k"),
    ]
}

/// Only what goes to the address, or comes from it.
fn ip(device: &str, way: &str) -> Vec<String> {
    vec![
        format!("tc qdisc add dev {device} root handle 1: htb"),
        format!("tc class add dev {device} parent 1: classid 1:20 htb rate 10mbit burst 64k"),
        format!(
            "tc filter add dev {device} parent 1: protocol ip prio 1 u32 match ip {way} {GUEST}/32 flowid 1:20"
        ),
    ]
}
