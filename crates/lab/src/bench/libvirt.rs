//! Machines of libvirt's: `supple` beside the same done with `virsh` by hand, and many resizes in a row with nothing left
//! apart at the end.

use anyhow::{Context, Result, bail, ensure};
use lab::{DomainGuest, Generation, Libvirtd, Recipe};
use scale::plan::Zone;
use scale::units::Bytes;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::table::{Row, median};
use super::{doze, time};

/// Rounds of resizes on one guest, of 1 GiB for each way.
const ROUNDS: usize = 3;
const GUESTS: usize = 2;
/// Machines that are defined for `supple list`.
const DEFINED: usize = 100;
const LISTS: usize = 9;
const NAME: &str = "bench";

/// The rows of this part.
pub(super) async fn rows(supple: &Path) -> Result<Vec<Row>> {
    let libvirtd = Libvirtd::start().await?;
    let desk = Desk::new(supple, &libvirtd)?;
    let mut times: [Vec<Duration>; 3] = Default::default();
    for _ in 0..GUESTS {
        let recipe = Recipe::q35().memory(Bytes::gib(2)).max_memory(Bytes::gib(32), 32).vcpus(2, 4);
        let guest = libvirtd.boot(NAME, &recipe).await?;
        for _ in 0..ROUNDS {
            let round = times[0].len();
            for turn in 0..times.len() {
                let way = (round + turn) % times.len();
                doze(round);
                times[way].push(match way {
                    0 => time(desk.supple().args(["apply", NAME, "--memory", "+1G", "--yes"]))?,
                    1 => by_virsh(&libvirtd, desk.state.path(), Zone::Movable).await?,
                    _ => by_virsh(&libvirtd, desk.state.path(), Zone::Default).await?,
                });
            }
        }
        drop(guest);
        libvirtd.virsh(&["undefine", NAME]).await?;
    }
    let [ours, movable, default] = times.map(median);
    let what = "apply +1 GiB DIMM on libvirt";
    let mut rows = vec![
        Row::ratio(what, ours, ("virsh, movable as well", movable), 1.0),
        Row::ratio(what, ours, ("virsh, any zone", default), 1.0),
    ];
    rows.push(list(&libvirtd, &desk).await?);
    Ok(rows)
}

/// `supple list` over many machines beside `virsh list`.
async fn list(libvirtd: &Libvirtd, desk: &Desk) -> Result<Row> {
    for nth in 0..DEFINED {
        libvirtd.define(&format!("vm{nth}"), &Recipe::q35()).await?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..LISTS {
        ours.push(time(desk.supple().arg("list"))?);
        let began = Instant::now();
        libvirtd.virsh(&["list", "--all"]).await?;
        theirs.push(began.elapsed());
    }
    let beside = ("virsh list --all", median(theirs));
    Ok(Row::ratio(&format!("list of {DEFINED} machines"), median(ours), beside, 3.0))
}

/// The same growth as a script does it: the device, then its blocks as the guest shows them, then online, then a look.
/// The agent's own command leaves the zone to the guest's kernel, from which the memory may never come out again; movable
/// memory takes a shell in the guest.
async fn by_virsh(libvirtd: &Libvirtd, dir: &Path, zone: Zone) -> Result<Duration> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let file = dir.join("dimm.xml");
    fs::write(
        &file,
        "<memory model='dimm'><target><size unit='GiB'>1</size><node>0</node></target></memory>",
    )?;
    let file = file.display().to_string();
    let agent = async |command: Value| {
        let text = command.to_string();
        let said = libvirtd.virsh(&["qemu-agent-command", NAME, "--timeout", "10", &text]).await?;
        anyhow::Ok(serde_json::from_str::<Value>(&said)?["return"].take())
    };
    let offline = async || {
        let blocks = agent(json!({"execute": "guest-get-memory-blocks"})).await?;
        let blocks = blocks.as_array().context("memory blocks")?;
        let offline = blocks.iter().filter(|block| block["online"] == json!(false));
        anyhow::Ok(
            offline
                .map(|block| json!({"phys-index": block["phys-index"], "online": true}))
                .collect::<Vec<_>>(),
        )
    };
    let block = agent(json!({"execute": "guest-get-memory-block-info"})).await?["size"].as_u64();
    let block = block.context("a block size")?;

    let began = Instant::now();
    libvirtd.virsh(&["attach-device", NAME, &file, "--live", "--config"]).await?;
    let mut found = offline().await?;
    while (found.len() as u64) * block < 1 << 30 {
        ensure!(began.elapsed() < PATIENCE, "the guest shows {} new blocks", found.len());
        found = offline().await?;
    }
    if zone == Zone::Movable {
        let write = "for block; do echo online_movable > /sys/devices/system/memory/memory$block/state || exit 1; done";
        let blocks = found.iter().map(|block| block["phys-index"].to_string());
        let words: Vec<String> = ["-c", write, "sh"].map(str::to_owned).into_iter().chain(blocks).collect();
        let shell = json!({"path": "/bin/sh", "arg": words});
        let pid = agent(json!({"execute": "guest-exec", "arguments": shell})).await?["pid"].take();
        let status = json!({"execute": "guest-exec-status", "arguments": {"pid": pid}});
        let mut ended = agent(status.clone()).await?;
        while ended["exited"] != json!(true) {
            ensure!(began.elapsed() < PATIENCE, "the guest's shell does not end");
            ended = agent(status.clone()).await?;
        }
        ensure!(ended["exitcode"] == json!(0), "the guest's shell failed: {ended}");
    } else {
        agent(json!({"execute": "guest-set-memory-blocks", "arguments": {"mem-blks": found}})).await?;
    }
    ensure!(offline().await?.is_empty(), "blocks stayed offline");
    Ok(began.elapsed())
}

/// The most vCPUs of the machine that is resized many times. Under emulation that is what all plugs together may use up,
/// and Supple refuses more (docs/qemu.md): then the machine is started anew, by its definition.
const CEILING: u16 = 240;
/// The most vCPUs that are asked for.
const MOST: u32 = 4;

/// `times` random resizes of one machine of libvirt's, up and down; in the end Supple's record, libvirt's two
/// descriptions, QEMU and the guest must tell the same.
pub(crate) async fn drift(supple: &Path, times: u32, seed: u64) -> Result<()> {
    println!("{times} random resizes with seed {seed}");
    // QEMU 7.2 under emulation dies of DIMMs after a vCPU's removal, and Supple refuses that pair.
    let libvirtd = match Libvirtd::of(Generation::Backports).await {
        Ok(libvirtd) => libvirtd,
        Err(why) => bail!("many resizes of all kinds need a newer QEMU than Debian's stable one: {why:#}"),
    };
    let desk = Desk::new(supple, &libvirtd)?;
    let recipe = Recipe::q35().memory(Bytes::gib(1)).max_memory(Bytes::gib(8), 16).vcpus(1, CEILING);
    let mut guest = libvirtd.boot(NAME, &recipe).await?;
    let mut service = guest.watch_service();
    let (mut dice, mut ended, mut has, mut plugged, mut lost) = (Dice(seed | 1), [0_u32; 3], 1, 1, 0);
    for nth in 0..times {
        if plugged + MOST > u32::from(CEILING) {
            println!("resize {nth}: the machine is started anew");
            lost += service.finish().await.lost;
            guest.start_anew().await?;
            let brought_in =
                desk.supple().args(["reconcile", NAME, "--yes"]).stdout(Stdio::null()).status()?;
            ensure!(brought_in.success(), "what the machine started with is not in use: {brought_in}");
            let apart = differences(&desk, &guest).await?;
            ensure!(apart.is_empty(), "apart after a start:\n{}", apart.join("\n"));
            (service, plugged) = (guest.watch_service(), has);
        }
        let memory = format!("{}M", 1024 + 128 * dice.below(21));
        let wanted = u32::try_from(1 + dice.below(u64::from(MOST)))?;
        let mut command = desk.supple();
        command.args(["apply", NAME, "--yes"]);
        let what = dice.below(3);
        if what < 2 {
            command.args(["--memory", &memory]);
        }
        if what > 0 {
            command.args(["--vcpus", &wanted.to_string()]);
        }
        let output = command.stdin(Stdio::null()).output().context("cannot start supple")?;
        let status = output.status.code().unwrap_or(-1);
        let Some(count) = usize::try_from(status).ok().and_then(|status| ended.get_mut(status)) else {
            bail!("resize {nth}: {command:?} ended with {}", output.status);
        };
        *count += 1;
        if what > 0 {
            plugged += wanted.saturating_sub(has);
        }
        if status == 0 && what > 0 {
            // libvirt never learns of an emulated vCPU's end until it looks at the machine anew, and would not plug it again.
            if wanted < has {
                libvirtd.restart().await?;
            }
            has = wanted;
        }
        if status == 1 {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let ended =
                said.lines().skip_while(|line| !line.starts_with("partial") && !line.starts_with("failed"));
            println!("resize {nth}: {}", ended.collect::<Vec<_>>().join("\n  "));
        }
        if status == 2 {
            println!("resize {nth}: {}", String::from_utf8_lossy(&output.stderr).trim());
            let state = libvirtd.virsh(&["domstate", NAME]).await?;
            ensure!(state == "running", "the machine ended ({state}) before resize {nth}");
        }
    }
    let apart = differences(&desk, &guest).await?;
    lost += service.finish().await.lost;
    let [whole, partial, refused] = ended;
    println!("{whole} whole, {partial} partial, {refused} refused; {lost} requests lost");
    ensure!(apart.is_empty(), "apart at the end:\n{}", apart.join("\n"));
    ensure!(lost == 0, "the guest's service lost {lost} requests");
    println!("Record, libvirt's running machine, its definition, QEMU and the guest tell the same.");
    Ok(())
}

/// Everything that one party says otherwise than another.
async fn differences(desk: &Desk, guest: &DomainGuest) -> Result<Vec<String>> {
    guest.is_level().await?;
    let output = desk.supple().args(["observe", NAME, "--json"]).output()?;
    let seen: Value = serde_json::from_slice(&output.stdout)?;
    let seen = &seen["observed"];
    let mut apart: Vec<String> = Vec::new();
    let told = seen["differences"].as_array().context("differences")?;
    apart.extend(told.iter().map(|difference| difference["what"].to_string()));
    ensure!(seen["open"].is_null(), "a run is open in the record");
    let (live, _) = guest.described().await?;
    let (qemu, libvirt) = (seen["sizes"]["memory_bytes"].as_u64(), live.total_memory().get());
    if qemu != Some(libvirt) {
        apart.push(format!("QEMU has {qemu:?} bytes and libvirt {libvirt}"));
    }
    let (vcpus, shown) = (seen["sizes"]["vcpus"].as_u64(), u64::from(guest.witness().nproc().await?));
    if vcpus != Some(shown) || shown != u64::from(live.vcpus.current) {
        apart.push(format!("QEMU has {vcpus:?} vCPUs, the guest {shown}, libvirt {}", live.vcpus.current));
    }
    let online = seen["guest"]["online_bytes"].as_u64();
    if online != qemu {
        apart.push(format!("QEMU has {qemu:?} bytes and the guest {online:?} online"));
    }
    Ok(apart)
}

/// `supple` for one libvirtd, with records of its own.
struct Desk {
    supple: PathBuf,
    uri: String,
    state: TempDir,
}

impl Desk {
    fn new(supple: &Path, libvirtd: &Libvirtd) -> Result<Desk> {
        Ok(Desk { supple: supple.to_owned(), uri: libvirtd.connect_uri(), state: tempfile::tempdir()? })
    }

    fn supple(&self) -> Command {
        let mut command = Command::new(&self.supple);
        command.env("SUPPLE_CONNECT", &self.uri).env("SUPPLE_STATE_DIR", self.state.path().join("state"));
        command
    }
}

/// xorshift64: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}
