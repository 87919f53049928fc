//! Each dimension of a machine of libvirt's beside the same done with `virsh`, as a careful administrator scripts it: the
//! change on both descriptions, and then a look that it is so, in the guest where the guest has a part in it. And a
//! vCPU on plain QEMU beside a raw client. There is no bound here: the table says how much a plan, its journal and its
//! proof cost.

use anyhow::{Context, Result, bail, ensure};
use lab::{Disk, Generation, Libvirtd, Recipe};
use scale::units::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::table::{Row, median};
use super::{Bench, doze, time};

/// Rounds of each row: one of ours and one by hand, in turns.
const ROUNDS: u16 = 5;
const NAME: &str = "bench";
/// For what a script waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// A virtio-mem device's step.
const STEP: Bytes = Bytes::mib(512);

/// The rows of this part.
pub(super) async fn rows(supple: &Path) -> Result<Vec<Row>> {
    let root = rustix::process::geteuid().is_root();
    // Only root may make control groups, which a CPU limit needs.
    let libvirtd = match root {
        true => Libvirtd::with_cpu_groups(Generation::asked_for()?).await?,
        false => Libvirtd::start().await?,
    };
    let desk = Desk { supple: supple.to_owned(), state: tempfile::tempdir()?, libvirtd };
    let recipe = Recipe::q35()
        .memory(Bytes::gib(2))
        .max_memory(Bytes::gib(16), 4)
        .virtio_mem(Bytes::gib(8), 0)
        .kernel_param("memhp_default_state=online_movable")
        .disk(Disk::new("data", Bytes::mib(128)).qcow2())
        .vcpus(1, 1 + 2 * ROUNDS);
    let guest = desk.libvirtd.boot(NAME, &recipe).await?;
    guest.shell("mkfs.ext4 -q /dev/vda && mkdir /a && mount /dev/vda /a").await?.ok()?;

    let mut rows = Vec::new();
    if root {
        let ours = |nth| desk.ours(&["--cpu-limit", &format!("{}.5", nth + 1)]);
        rows.push(turns("CPU limit on libvirt", "virsh", ours, async |nth| desk.cpu_limit(nth).await).await?);
    } else {
        println!("Not root: no row of a CPU limit, which takes control groups.");
    }
    let ours = |nth| desk.ours(&["--disk-iops", &format!("vda={}", iops(nth))]);
    rows.push(turns("disk I/O limit on libvirt", "virsh", ours, async |nth| desk.iops(nth).await).await?);
    let ours = |nth| desk.ours(&["--disk", &format!("vda={}M", mib(nth))]);
    rows.push(
        turns("disk +32 MiB on libvirt, to df", "virsh", ours, async |nth| desk.disk(nth).await).await?,
    );
    let ours = |_| desk.ours(&["--memory", "+512M"]);
    let hand = async |nth: u16| desk.virtio_mem(STEP.times(u64::from(nth) + 1)).await;
    rows.push(turns("apply +512 MiB virtio-mem on libvirt", "virsh", ours, hand).await?);
    let ours = |_| desk.ours(&["--vcpus", "+1"]);
    rows.push(
        turns("vCPU +1 on libvirt, to online", "virsh", ours, async |nth| desk.vcpu(nth + 2).await).await?,
    );
    drop(guest);
    rows.push(on_qemu(supple).await?);
    Ok(rows)
}

async fn on_qemu(supple: &Path) -> Result<Row> {
    let guest = Recipe::q35().memory(Bytes::gib(1)).vcpus(1, 1 + 2 * ROUNDS).boot().await?;
    let bench = Bench::new(supple, &guest)?;
    let (qmp, agent) = (bench.qmp.display().to_string(), bench.agent.display().to_string());
    let ours = |_| time(&mut bench.supple("apply", &["--yes", "--vcpus", "+1"]));
    let hand = async |_| time(&mut bench.raw(&["vcpu", &qmp, &agent]));
    turns("vCPU +1 on plain QEMU, to online", "raw client", ours, hand).await
}

/// Both sides in turns, each first as often as the other but once. `nth` counts all that is done, of either side.
async fn turns(
    what: &str,
    name: &str,
    ours: impl Fn(u16) -> Result<Duration>,
    hand: impl AsyncFn(u16) -> Result<Duration>,
) -> Result<Row> {
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let first = round.is_multiple_of(2);
        for (nth, we) in [(2 * round, first), (2 * round + 1, !first)] {
            doze(round.into());
            match we {
                true => mine.push(ours(nth).with_context(|| what.to_owned())?),
                false => theirs.push(hand(nth).await.with_context(|| format!("{what}, by hand"))?),
            }
        }
    }
    Ok(Row::beside(what, median(mine), (name, median(theirs))))
}

fn iops(nth: u16) -> u32 {
    1000 + 10 * u32::from(nth)
}

/// The size of the disk after each turn.
fn mib(nth: u16) -> u64 {
    128 + 32 * (u64::from(nth) + 1)
}

/// `supple` and a script for one libvirtd.
struct Desk {
    supple: PathBuf,
    state: TempDir,
    libvirtd: Libvirtd,
}

impl Desk {
    /// `supple apply ... --yes`, the whole process.
    fn ours(&self, words: &[&str]) -> Result<Duration> {
        let mut command = Command::new(&self.supple);
        command.args(["apply", NAME, "--yes"]).args(words);
        command.env("SUPPLE_CONNECT", self.libvirtd.connect_uri());
        time(command.env("SUPPLE_STATE_DIR", self.state.path()))
    }

    async fn virsh(&self, words: &[&str]) -> Result<String> {
        self.libvirtd.virsh(words).await
    }

    async fn agent(&self, command: Value) -> Result<Value> {
        let text = command.to_string();
        let said = self.virsh(&["qemu-agent-command", NAME, "--timeout", "10", &text]).await?;
        Ok(serde_json::from_str::<Value>(&said)?["return"].take())
    }

    /// What `virsh` tells on both sides has this line, blanks apart.
    async fn both_tell(&self, words: &[&str], line: &str) -> Result<()> {
        for side in ["--live", "--config"] {
            let told = self.virsh(&[words, &[side]].concat()).await?;
            let is_it = |one: &str| one.split_whitespace().eq(line.split_whitespace());
            ensure!(told.lines().any(is_it), "{words:?} {side}: no `{line}` in {told}");
        }
        Ok(())
    }

    async fn cpu_limit(&self, nth: u16) -> Result<Duration> {
        let quota = (u32::from(nth) + 1) * 100_000 + 50_000;
        let began = Instant::now();
        let set = format!("global_quota={quota}");
        for side in ["--live", "--config"] {
            self.virsh(&["schedinfo", NAME, "--set", &set, side]).await?;
        }
        self.both_tell(&["schedinfo", NAME], &format!("global_quota : {quota}")).await?;
        Ok(began.elapsed())
    }

    async fn iops(&self, nth: u16) -> Result<Duration> {
        let most = iops(nth).to_string();
        let began = Instant::now();
        self.virsh(&["blkdeviotune", NAME, "vda", "--total-iops-sec", &most, "--live", "--config"]).await?;
        self.both_tell(&["blkdeviotune", NAME, "vda"], &format!("total_iops_sec : {most}")).await?;
        Ok(began.elapsed())
    }

    async fn disk(&self, nth: u16) -> Result<Duration> {
        let size = Bytes::mib(mib(nth));
        let began = Instant::now();
        self.virsh(&["blockresize", NAME, "vda", &format!("{}B", size.get())]).await?;
        self.exec("resize2fs", &["/dev/vda"]).await?;
        let df = self.exec("df", &["-kP", "/a"]).await?;
        let kib: u64 =
            df.split_whitespace().rev().nth(4).and_then(|n| n.parse().ok()).context("df's blocks")?;
        ensure!(kib > size.get() / 1024 / 10 * 8, "df shows {kib} KiB of {size}");
        Ok(began.elapsed())
    }

    /// Runs a program in the guest to its end, and tells what it printed.
    async fn exec(&self, path: &str, words: &[&str]) -> Result<String> {
        let arguments = json!({"path": path, "arg": words, "capture-output": true});
        let pid = self.agent(json!({"execute": "guest-exec", "arguments": arguments})).await?["pid"].take();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let arguments = json!({"pid": pid});
            let status = self.agent(json!({"execute": "guest-exec-status", "arguments": arguments})).await?;
            if status["exited"] == json!(true) {
                ensure!(status["exitcode"] == json!(0), "{path}: {status}");
                return Ok(plain(status["out-data"].as_str().unwrap_or_default()));
            }
        }
        bail!("{path} did not end")
    }

    /// libvirt changes no virtio-mem device in a definition, so that is edited.
    async fn virtio_mem(&self, size: Bytes) -> Result<Duration> {
        let kib = (size.get() / 1024).to_string();
        let began = Instant::now();
        self.virsh(&[
            "update-memory-device",
            NAME,
            "--alias",
            "ua-vmem0",
            "--requested-size",
            &kib,
            "--live",
        ])
        .await?;
        let file = self.state.path().join("domain.xml");
        let xml = self.virsh(&["dumpxml", NAME, "--inactive"]).await?;
        let (before, rest) = xml.split_once("<requested unit='KiB'>").context("a virtio-mem device")?;
        let (_, after) = rest.split_once('<').context("an end tag")?;
        fs::write(&file, format!("{before}<requested unit='KiB'>{kib}<{after}"))?;
        self.virsh(&["define", &file.display().to_string()]).await?;
        let question = json!({
            "execute": "qom-get",
            "arguments": {"path": "/machine/peripheral/ua-vmem0", "property": "size"},
        });
        let question = question.to_string();
        loop {
            let told = self.virsh(&["qemu-monitor-command", NAME, &question]).await?;
            if serde_json::from_str::<Value>(&told)?["return"] == json!(size.get()) {
                break;
            }
            ensure!(began.elapsed() < PATIENCE, "the device does not reach {size}: {told}");
        }
        // The kernel onlines them; the last one may come later.
        loop {
            let blocks = self.agent(json!({"execute": "guest-get-memory-blocks"})).await?;
            let online =
                blocks.as_array().context("blocks")?.iter().filter(|block| block["online"] == json!(true));
            if online.count() as u64 * (128 << 20) >= size.get() + (2 << 30) {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "the guest does not show {size}: {blocks}");
        }
    }

    async fn vcpu(&self, count: u16) -> Result<Duration> {
        let began = Instant::now();
        self.virsh(&["setvcpus", NAME, &count.to_string(), "--live", "--config"]).await?;
        loop {
            let vcpus = self.agent(json!({"execute": "guest-get-vcpus"})).await?;
            let vcpus = vcpus.as_array().context("vCPUs")?;
            let offline: Vec<Value> = vcpus
                .iter()
                .filter(|vcpu| vcpu["online"] == json!(false))
                .map(|vcpu| json!({"logical-id": vcpu["logical-id"], "online": true}))
                .collect();
            if offline.is_empty() && vcpus.len() == usize::from(count) {
                return Ok(began.elapsed());
            }
            if !offline.is_empty() {
                self.agent(json!({"execute": "guest-set-vcpus", "arguments": {"vcpus": offline}})).await?;
            }
            ensure!(began.elapsed() < PATIENCE, "the guest has {vcpus:?}");
        }
    }
}

/// Text of base64, in which the agent gives what programs print.
fn plain(base64: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for letter in base64.bytes() {
        let Some(value) = LETTERS.iter().position(|known| *known == letter) else { continue };
        bits = bits << 6 | u32::try_from(value).expect("below 64");
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_prints_is_read() {
        assert_eq!(plain("MTAwICAxMiUgL2EK"), "100  12% /a\n");
        assert_eq!(plain("YQ=="), "a");
    }
}
