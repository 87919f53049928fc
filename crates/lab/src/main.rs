//! The lab by hand: `lab prepare` fetches and builds what guests are made of, `lab run` boots one to try things on (`lab run
//! libvirt` one of a libvirt), `lab demo` and `lab bench` show and measure a build of `supple`.

mod bench;
mod chart;
mod demo;

use std::process::ExitCode;

use anyhow::{Context, Result};
use lab::{Cache, Disk, Generation, Libvirt, Libvirtd, Machine, Qemu, Recipe};
use scale::units::Bytes;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["prepare"] => lab::prepare().await,
        ["run"] => run().await,
        ["run", "libvirt"] => run_libvirt().await,
        ["demo", supple] => demo::demo(supple.as_ref()).await,
        ["generation", name] => Generation::named(name).and_then(has),
        ["bench", supple, parts @ ..] => bench::bench(supple.as_ref(), parts).await,
        ["drift", supple, times, seed] => match (times.parse(), seed.parse()) {
            (Ok(times), Ok(seed)) => bench::libvirt::drift(supple.as_ref(), times, seed).await,
            (_, _) => Err(anyhow::anyhow!("usage: lab drift SUPPLE TIMES SEED, both of them numbers")),
        },
        ["traffic", supple] => bench::traffic::inside(supple.as_ref()).await,
        ["raw", job @ ..] => bench::raw::run(job),
        _ => Err(anyhow::anyhow!(
            "usage: lab prepare | run [libvirt] | generation NAME | demo SUPPLE | bench SUPPLE [PART...] | \
             drift SUPPLE TIMES SEED"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::from(2)
        }
    }
}

/// Ends well where QEMU and libvirt of a generation can be had.
fn has(generation: Generation) -> Result<()> {
    let cache = Cache::open()?;
    match generation {
        Generation::System => Qemu::system(&cache).and(Libvirt::system(&cache)).map(drop),
        Generation::Backports => {
            Qemu::backports(&cache)?;
            Libvirt::backports(&cache)?;
            Ok(())
        }
    }
}

/// Boots a guest and keeps it until Ctrl-C.
async fn run() -> Result<()> {
    lab::prepare_guest().await?;
    let guest = recipe().boot().await?;
    print!("{}", invitation(&guest));
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")
}

/// What there is to resize: memory, vCPUs, and a disk with nothing on it.
fn recipe() -> Recipe {
    let disk = Disk::new("data", Bytes::gib(1)).qcow2();
    Recipe::q35().memory(Bytes::gib(1)).max_memory(Bytes::gib(16), 16).vcpus(1, 4).disk(disk)
}

/// Starts a libvirt and a domain of it, and keeps both until Ctrl-C.
async fn run_libvirt() -> Result<()> {
    // Only root may make control groups, which CPU power needs.
    let libvirtd = match rustix::process::geteuid().is_root() {
        true => Libvirtd::with_cpu_groups(Generation::System).await?,
        false => Libvirtd::start().await?,
    };
    let guest = libvirtd.boot("web1", &recipe()).await?;
    print!(
        "A libvirt runs beside yours, and web1 on it: 1 GiB of 16 GiB, 1 of 4 vCPUs, a disk of 1 GiB.\n\n  \
         export SUPPLE_CONNECT='{}'\n  supple list\n  supple apply web1 --memory 2G --vcpus 2\n  curl http://{}/\n\n\
         Ctrl-C ends all of it.\n",
        libvirtd.connect_uri(),
        guest.http_addr(),
    );
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")
}

fn invitation(guest: &Machine) -> String {
    let (qmp, agent, http) = (guest.qmp(), guest.agent(), guest.http_addr());
    format!(
        "A guest with 1 GiB of 16 GiB and 1 of 4 vCPUs runs (QEMU is process {}).\n\n  \
         supple observe qmp:{} --agent {}\n  curl http://{http}/\n\nCtrl-C ends it.\n",
        guest.pid(),
        qmp.display(),
        agent.display(),
    )
}
