//! `lab demo`: the main job on a real guest, with a picture of it.
//!
//! A Linux guest boots, grows in memory and vCPUs, really uses the new memory, shrinks again, and its network service
//! answers all the while. What is drawn at the end was read in the guest, by a way that Supple does not use.

use crate::chart::{Curve, draw};
use anyhow::{Context, Result, bail, ensure};
use lab::{Machine, Recipe};
use scale::units::Bytes;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the guest shows at one time: seconds since the start, GiB of MemTotal, vCPUs online.
type Sample = (f64, f64, f64);

/// Runs the demo with this build of `supple`.
pub(crate) async fn demo(supple: &Path) -> Result<()> {
    lab::prepare_guest().await?;
    say("Booting a Linux guest with 512 MiB and 1 vCPU ...");
    let booting = Instant::now();
    let guest = Arc::new(
        Recipe::q35().memory(Bytes::mib(512)).max_memory(Bytes::gib(8), 16).vcpus(1, 4).boot().await?,
    );
    println!(
        "Up in {:.1} s. Its console, its network service and its shell are real.",
        booting.elapsed().as_secs_f64()
    );

    let state = tempfile::tempdir()?;
    let service = guest.watch_service();
    let samples = Arc::new(Mutex::new(Vec::new()));
    let sampler = tokio::task::spawn(sample(guest.clone(), samples.clone(), Instant::now()));

    run(supple, &guest, state.path(), &["observe"], &[]).await?;
    run(supple, &guest, state.path(), &["apply"], &["--memory", "2G", "--yes"]).await?;
    fill(&guest, Bytes::mib(640)).await?;
    run(supple, &guest, state.path(), &["apply"], &["--vcpus", "3", "--yes"]).await?;
    run(supple, &guest, state.path(), &["apply"], &["--memory", "512M", "--vcpus", "1", "--yes"]).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    sampler.abort();
    let served = service.finish().await;
    let samples: Vec<Sample> = samples.lock().expect("the sampler is gone").clone();
    picture(&samples);
    println!(
        "\nThe guest's network service answered {} of {} requests meanwhile; lost: {}; longest wait {} ms.",
        served.answered,
        served.asked,
        served.lost,
        served.longest_gap.as_millis()
    );
    ensure!(served.lost == 0, "lost requests, the first because: {}", served.first_loss.unwrap_or_default());
    println!(
        "\nNext: `cargo xtask test` runs every promise; README.md shows how to use it on your own machines."
    );
    Ok(())
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

/// Runs the program as a user would, its output on this terminal.
async fn run(supple: &Path, guest: &Machine, state: &Path, verb: &[&str], rest: &[&str]) -> Result<()> {
    let vm = format!("qmp:{}", guest.qmp().display());
    let mut shown = vec!["supple"];
    shown.extend(verb);
    shown.push("<vm>");
    shown.extend(rest);
    say(&format!("\n$ {}", shown.join(" ")));
    let status = tokio::process::Command::new(supple)
        .args(verb)
        .arg(&vm)
        .arg("--agent")
        .arg(guest.agent())
        .args(rest)
        .env("SUPPLE_STATE_DIR", state)
        .status()
        .await
        .context("cannot start supple")?;
    if !status.success() {
        bail!("supple ended with {status}; the guest's console ends with:\n{}", tail(&guest.console_log()));
    }
    Ok(())
}

/// Uses the new memory for real: writes `size` in the guest and reads it back by its checksum.
async fn fill(guest: &Machine, size: Bytes) -> Result<()> {
    say(&format!("\nWriting {size} in the guest and reading it back: more than it was born with ..."));
    let touched = guest.witness().touch(size).await?;
    ensure!(guest.witness().intact(&touched).await?, "the guest reads back something else than it wrote");
    guest.witness().release(touched).await?;
    println!("Every byte is there.");
    Ok(())
}

/// MemTotal in KiB and the vCPUs online.
const FIGURES: &str = "awk '/MemTotal/{print $2}' /proc/meminfo; nproc";

/// Reads the guest's own figures a few times a second.
async fn sample(guest: Arc<Machine>, samples: Arc<Mutex<Vec<Sample>>>, began: Instant) {
    loop {
        if let Ok(output) = guest.shell(FIGURES).await {
            let numbers: Vec<f64> =
                output.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect();
            if let [kib, vcpus] = numbers[..] {
                let at = began.elapsed().as_secs_f64();
                samples.lock().expect("one writer").push((at, kib / f64::from(1 << 20), vcpus));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn picture(samples: &[Sample]) {
    let colours =
        std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let memory: Vec<(f64, f64)> = samples.iter().map(|s| (s.0, s.1)).collect();
    let vcpus: Vec<(f64, f64)> = samples.iter().map(|s| (s.0, s.2)).collect();
    println!("\nWhat the guest itself showed, read in the guest:\n");
    for (curve, height) in [
        (Curve { name: "memory, MemTotal", unit: "GiB", colour: 36, samples: &memory }, 6),
        (Curve { name: "vCPUs online", unit: "count", colour: 33, samples: &vcpus }, 3),
    ] {
        for line in draw(&curve, 72, height, colours) {
            println!("{line}");
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
