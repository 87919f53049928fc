//! Chooses how guests run: KVM where a guest really boots with it, else emulation (TCG).
//!
//! A `/dev/kvm` that opens proves nothing: nested and filtered hosts have one in which a stock kernel hangs. So
//! the guest is booted once, and the answer is kept for this boot of the host, this QEMU and this guest. It will not
//! measure anything.

use std::env;
use std::fs::{self, File};
use std::process::Stdio;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, key};
use crate::image::{Image, Variant};
use crate::inside::UP;
use crate::machine::end;
use crate::qemu::Qemu;
use crate::spawn::spawn;

/// KVM boots the guest in about a second; where it hangs, it does so in the first milliseconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// How the guest's CPUs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// On the host's CPUs.
    Kvm,
    /// Emulated.
    Tcg,
}

/// On how many threads QEMU runs the vCPUs that it emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Each on its own, which is QEMU's choice on most hosts.
    Many,
    /// All on one.
    One,
}

impl Threads {
    /// As `-accel` takes it.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Threads::Many => "tcg,thread=multi",
            Threads::One => "tcg,thread=single",
        }
    }
}

impl Accel {
    /// The best that works here, or what `SUPPLE_LAB_ACCEL` (`kvm` or `tcg`) asks for.
    ///
    /// # Errors
    /// The variable says something else, or the probe cannot be carried out.
    pub fn probe(cache: &Cache, qemu: &Qemu, image: &Image) -> Result<Self> {
        match env::var("SUPPLE_LAB_ACCEL").as_deref() {
            Ok("kvm") => return Ok(Accel::Kvm),
            Ok("tcg") => return Ok(Accel::Tcg),
            Ok(other) => bail!("SUPPLE_LAB_ACCEL={other}: it takes `kvm` or `tcg`"),
            Err(_) => {}
        }
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Accel::Tcg);
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let name = format!("accel/{}", key(&(boot, qemu.id(), image.id())));
        let said = cache.ensure(&name, |dir| {
            eprintln!("lab: trying whether a guest boots with KVM, for {} s at most", PATIENCE.as_secs());
            let works = boots(qemu, image, dir)?;
            if !works {
                eprintln!("lab: it does not; guests are emulated");
            }
            Ok(fs::write(dir.join("kvm"), if works { "works" } else { "does not boot a guest" })?)
        })?;
        let works = fs::read_to_string(said.join("kvm")).context("the probe's answer is unreadable")?;
        Ok(if works == "works" { Accel::Kvm } else { Accel::Tcg })
    }

    /// The name that QEMU and `SUPPLE_LAB_ACCEL` know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// The CPU model with all that the accelerator can do.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Accel::Kvm => "host",
            Accel::Tcg => "max",
        }
    }
}

/// What Linux must be told where its CPUs and its timers are emulated on a host that is short of time.
///
/// - A hot-plugged vCPU's clock starts elsewhere than the others' and Linux would stop to trust the TSC; with it
///   declared reliable, a new vCPU is online in a fraction of a second (seen with QEMU 7.2 and Linux 6.1).
/// - `check_timer` counts timer interrupts in a busy loop, sees too few, and panics ("IO-APIC + timer doesn't work!").
///   Linux leaves it out by itself under KVM (arch/x86/kernel/kvm.c sets `no_timer_check`).
/// - The TSC is measured against timers at boot, and comes out wrong by up to some hundred percent; then a guest's minute
///   is a third of one. QEMU hands the host's TSC through (`cpu_get_host_ticks`), so the host can tell its pace.
pub(crate) fn emulated_clocks() -> String {
    let told = "tsc=reliable clocksource=tsc no_timer_check";
    match tsc_khz() {
        Some(khz) => format!("{told} tsc_early_khz={khz}"),
        None => told.to_owned(),
    }
}

/// The pace of the host's TSC: the middle of a few short measurements, since any of them may be interrupted.
fn tsc_khz() -> Option<u64> {
    static PACE: OnceLock<Option<u64>> = OnceLock::new();
    *PACE.get_or_init(|| {
        let mut paces = [(); 5].map(|()| {
            let (since, from) = (Instant::now(), ticks()?);
            thread::sleep(Duration::from_millis(10));
            let (took, ticks) = (since.elapsed(), ticks()?.checked_sub(from)?);
            u64::try_from(u128::from(ticks) * 1_000_000 / took.as_nanos().max(1)).ok()
        });
        paces.sort_unstable();
        paces[2].filter(|khz| *khz > 0)
    })
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the instruction has no safe form")]
fn ticks() -> Option<u64> {
    // SAFETY: every x86-64 CPU has the instruction, and Linux lets programs use it.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> Option<u64> {
    None
}

fn boots(qemu: &Qemu, image: &Image, dir: &std::path::Path) -> Result<bool> {
    let console = dir.join("console.log");
    let mut command = qemu.command();
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "256"]);
    command.args(["-machine", "q35", "-accel", "kvm", "-cpu", "host"]);
    command.arg("-kernel").arg(image.kernel()).arg("-initrd").arg(image.initrd(Variant::Plain));
    command.args(["-append", "console=ttyS0 lab_agent=0"]);
    command.arg("-chardev").arg(format!("file,id=console,path={}", console.display()));
    command.args(["-serial", "chardev:console"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawn(command).context("cannot start QEMU")?;
    let since = Instant::now();
    let mut up = false;
    while !up && since.elapsed() < PATIENCE && child.try_wait()?.is_none() {
        thread::sleep(Duration::from_millis(20));
        up = fs::read_to_string(&console).is_ok_and(|text| text.contains(UP));
    }
    end(&mut child);
    Ok(up)
}
