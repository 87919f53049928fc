//! A real guest's NIC on a real tap: found by its MAC address, limited through the driver seam, and measured.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drive::Hypervisor;
use drive::journal::MemoryJournal;
use drive::qmp::QmpMachine;
use drive::resize::resize;
use lab::{Cache, Generation, Machine, Onlining, Qemu, Recipe, Tools, Yes, apart_with_guests};
use scale::limits::Limits;
use scale::observed::Nic;
use scale::plan::{Act, Proof};
use scale::report::Verdict;
use scale::setting::{BitRate, NicRate, Rate, Setting};
use scale::sight::Judgement;
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{IpWish, RateWish, Wanted, Wish};

const MAC: &str = "52:54:00:5c:a1:e0";
const GUEST: &str = "10.98.0.2";
/// Slow enough for an emulated guest.
const LIMIT: u64 = 8;
/// How long a guest on a busy host may take until traffic passes.
const BEGINS: Duration = Duration::from_secs(30);

fn limit() -> NicRate {
    let average = BitRate::mbit(LIMIT);
    let rate = Some(Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) });
    NicRate { to_guest: rate, from_guest: rate }
}

async fn nic(machine: &mut QmpMachine) -> Result<Nic> {
    let seen = machine.observe().await?;
    let nics = seen.nics.known().context("NICs")?;
    ensure!(nics.len() == 2, "one of the lab's own and one on a tap: {nics:?}");
    let of_lab = nics.iter().find(|nic| nic.name != MAC).context("the lab's own")?;
    ensure!(of_lab.tap.is_none() && of_lab.rate.known().is_none(), "it has no tap: {of_lab:?}");
    nics.iter().find(|nic| nic.name == MAC).cloned().with_context(|| format!("no {MAC} in {nics:?}"))
}

async fn set(machine: &mut QmpMachine, from: Setting, to: Setting) -> Result<()> {
    let until = machine.now() + Span::secs(30);
    machine.apply(&Act::Set { from: Box::new(from), to: Box::new(to.clone()) }, until).await?;
    let proof = Proof::SetAt { setting: Box::new(to) };
    let sight = machine.look(&proof.look(true)).await?;
    let judged = proof.judge(&sight, false);
    ensure!(matches!(judged, Judgement::Holds(_)), "{sight:?}");
    Ok(())
}

/// What passes `tap0` in mbit a second while `traffic` goes on: received from the guest, sent to it.
fn passing(tools: &Tools, seconds: f64) -> Result<(f64, f64)> {
    let count = || -> Result<(Instant, f64, f64)> {
        let told: serde_json::Value = serde_json::from_str(&tools.run("ip -s -j link show dev tap0")?)?;
        let bytes = |way: &str| told[0]["stats64"][way]["bytes"].as_f64().context("a count");
        Ok((Instant::now(), bytes("rx")?, bytes("tx")?))
    };
    let (start, rx, tx) = count()?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (end, rx_end, tx_end) = count()?;
    let time = (end - start).as_secs_f64() * 1e6 / 8.0;
    Ok(((rx_end - rx) / time, (tx_end - tx) / time))
}

/// Has the guest send (or receive) as fast as it can while it is measured: from its first byte on, whenever a busy host
/// lets it come to that.
async fn measure(guest: &Machine, tools: &Tools, to_guest: bool) -> Result<f64> {
    let listener = TcpListener::bind("10.98.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (begin, begun) = mpsc::channel();
    let counted = Arc::new(AtomicBool::new(false));
    let is_counted = counted.clone();
    let far = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 64 << 10];
        let mut pass = || if to_guest { stream.write_all(&buffer) } else { stream.read_exact(&mut buffer) };
        pass()?;
        begin.send(())?;
        while !is_counted.load(Ordering::Relaxed) {
            pass()?;
        }
        // The guest's side ends with this one.
        Ok(())
    });
    let command = match to_guest {
        true => format!("timeout 50 nc 10.98.0.1 {port} < /dev/null > /dev/null"),
        false => format!("timeout 50 nc 10.98.0.1 {port} < /dev/zero > /dev/null"),
    };
    let counting = {
        let tools = tools.clone();
        tokio::task::spawn_blocking(move || {
            begun.recv_timeout(BEGINS).context("the guest sends and receives nothing")?;
            // The burst passes first.
            std::thread::sleep(Duration::from_millis(1500));
            let passed = passing(&tools, 3.0);
            counted.store(true, Ordering::Relaxed);
            passed
        })
    };
    let (_, passed) = tokio::join!(guest.shell(&command), counting);
    let (from, to) = passed??;
    far.join().expect("joined").context("the far side of the traffic")?;
    Ok(if to_guest { to } else { from })
}

/// Within a tenth of the limit. A busy machine can only make it slower, so too little is measured again.
async fn passes_at_its_limit(guest: &Machine, tools: &Tools, to_guest: bool) -> Result<()> {
    let mut said = Vec::new();
    for _ in 0..3 {
        let measured = measure(guest, tools, to_guest).await?;
        ensure!(measured < LIMIT as f64 * 1.1, "to the guest {to_guest}: {measured:.2} of {LIMIT} mbit");
        if measured > LIMIT as f64 * 0.9 {
            return Ok(());
        }
        said.push(measured);
    }
    anyhow::bail!("to the guest {to_guest}: {said:.2?} of {LIMIT} mbit")
}

#[test]
fn a_guests_nic_is_found_by_its_mac_and_held_to_its_limit() {
    let name = "a_guests_nic_is_found_by_its_mac_and_held_to_its_limit";
    apart_with_guests(name, async || is_held(Generation::System).await);
}

#[test]
fn a_newer_qemus_nic_is_found_by_its_mac_and_held_to_its_limit() {
    let name = "a_newer_qemus_nic_is_found_by_its_mac_and_held_to_its_limit";
    if let Err(absent) = Qemu::backports(&Cache::open().expect("a cache")) {
        assert!(absent.to_string().contains("no QEMU from the backports here: "));
        return eprintln!("{absent}");
    }
    apart_with_guests(name, async || is_held(Generation::Backports).await);
}

async fn is_held(generation: Generation) -> Result<()> {
    let tools = Tools::find(&Cache::open()?)?;
    let guest = Recipe::q35().qemu(generation).onlining(Onlining::Udev).tap(MAC).boot().await?;
    tools.run("ip addr add 10.98.0.1/24 dev tap0")?;
    tools.run("ip link set tap0 up")?;
    guest.shell(&format!("ip link set eth1 up && ip addr add {GUEST}/24 dev eth1")).await?.ok()?;
    let mut machine = QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &Limits::default()).await?;

    let seen = nic(&mut machine).await?;
    ensure!(seen.tap.as_deref() == Some("tap0"), "{seen:?}");
    ensure!(seen.aliases.contains(&"eth1".to_owned()), "the guest's name: {seen:?}");
    ensure!(seen.addresses.contains(&GUEST.parse()?), "the guest's address: {seen:?}");
    ensure!(seen.rate.known().is_some_and(NicRate::is_free), "no limit yet: {seen:?}");

    let of = |rate| Setting::NicRate { nic: MAC.to_owned(), rate };
    set(&mut machine, of(NicRate::default()), of(limit())).await?;
    let seen = nic(&mut machine).await?;
    ensure!(seen.rate.known().is_some_and(|read| limit().is_shown_by(read)), "{seen:?}");
    for to_guest in [true, false] {
        passes_at_its_limit(&guest, &tools, to_guest).await?;
    }

    let ip = GUEST.parse()?;
    let of_ip = |rate| Setting::IpRate { nic: MAC.to_owned(), ip, rate };
    set(&mut machine, of_ip(NicRate::default()), of_ip(limit())).await?;
    ensure!(nic(&mut machine).await?.ips.known().is_some_and(|ips| ips.len() == 1), "one address is limited");
    // One plan with memory, by the names that an operator has.
    let wish = |mbit| Wish::To(Rate { average: BitRate::mbit(mbit), peak: None, burst: None });
    let both = |mbit| RateWish { to_guest: wish(mbit), from_guest: wish(mbit) };
    let wanted = Wanted {
        memory: Some(Change::To(Bytes::mib(768))),
        nics: [("eth1".to_owned(), both(LIMIT * 2))].into(),
        ips: [(ip, IpWish { nic: None, rate: both(LIMIT / 2) })].into(),
        ..Wanted::default()
    };
    let report =
        resize(&mut machine, &mut MemoryJournal::default(), wanted, &Limits::default(), &mut Yes).await?;
    ensure!(report.verdict == Verdict::Proven && report.settings.len() == 2, "{report:#?}");
    let seen = nic(&mut machine).await?;
    let average = |rate: &NicRate| rate.to_guest.map(|rate| rate.average);
    ensure!(seen.rate.known().and_then(average) == Some(BitRate::mbit(LIMIT * 2)), "{seen:?}");
    ensure!(
        seen.ips.known().and_then(|ips| average(&ips[0].rate)) == Some(BitRate::mbit(LIMIT / 2)),
        "{seen:?}"
    );
    let (now, now_ip) = (*seen.rate.known().context("known")?, seen.ips.known().context("known")?[0].rate);
    // What is not as it is said to be is not changed.
    let until = machine.now() + Span::secs(30);
    let stale = Act::Set {
        from: Box::new(of(NicRate::default())),
        to: Box::new(of(NicRate { to_guest: None, ..limit() })),
    };
    ensure!(machine.apply(&stale, until).await.is_err(), "something else has changed it");

    set(&mut machine, of_ip(now_ip), of_ip(NicRate::default())).await?;
    set(&mut machine, of(now), of(NicRate::default())).await?;
    let left = tools.run("tc qdisc show dev tap0")? + &tools.run("ip -o link show type ifb")?;
    ensure!(!left.contains("5ca1") && !left.contains("supple-"), "nothing of ours is left: {left}");
    Ok(())
}
