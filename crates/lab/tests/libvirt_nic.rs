//! A NIC of a machine of libvirt's: its limit is libvirt's, and those of single addresses are laid out at its tap.

use anyhow::{Context, Result, ensure};
use drive::libvirt::{Affect, Bandwidth, Kept, LibvirtMachine};
use drive::{ApplyError, Hypervisor};
use lab::{Cache, Generation, Libvirt, Libvirtd, Recipe, Tools, apart_with_guests};
use scale::limits::Limits;
use scale::observed::Nic;
use scale::plan::Act;
use scale::setting::{BitRate, NicRate, Rate, Setting, SettingName};
use scale::sight::{Look, Sight};
use scale::time::Span;

const MAC: &str = "52:54:00:5c:a1:e1";

fn limit() -> NicRate {
    let average = BitRate::mbit(40);
    let rate = Some(Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) });
    NicRate { to_guest: rate, from_guest: rate }
}

fn of_nic(rate: NicRate) -> Setting {
    Setting::NicRate { nic: MAC.to_owned(), rate }
}

fn of_ip(rate: NicRate) -> Setting {
    Setting::IpRate { nic: MAC.to_owned(), ip: "10.98.0.2".parse().expect("an address"), rate }
}

async fn set(machine: &mut LibvirtMachine, from: Setting, to: Setting) -> Result<(), ApplyError> {
    let until = machine.now() + Span::secs(30);
    machine.apply(&Act::Set { from: Box::new(from), to: Box::new(to) }, until).await
}

async fn nic(machine: &mut LibvirtMachine) -> Result<Nic> {
    let seen = machine.observe().await?;
    let nics = seen.nics.known().context("NICs")?;
    nics.iter().find(|nic| nic.name == MAC).cloned().with_context(|| format!("no {MAC} in {nics:?}"))
}

#[test]
fn libvirt_keeps_the_limit_of_a_nic_and_nothing_beside_it_is_wiped() {
    let name = "libvirt_keeps_the_limit_of_a_nic_and_nothing_beside_it_is_wiped";
    on(name, Generation::System);
}

#[test]
fn a_newer_libvirt_keeps_the_limit_of_a_nic_and_nothing_beside_it_is_wiped() {
    let name = "a_newer_libvirt_keeps_the_limit_of_a_nic_and_nothing_beside_it_is_wiped";
    if let Err(absent) = Libvirt::backports(&Cache::open().expect("a cache")) {
        assert!(absent.to_string().contains("no libvirt from the backports here: "));
        return eprintln!("{absent}");
    }
    on(name, Generation::Backports);
}

/// Only root's libvirt makes taps. That a user's does not is all that can be seen as one.
fn on(name: &str, generation: Generation) {
    if rustix::process::geteuid().is_root() {
        return apart_with_guests(name, async || keeps(generation).await);
    }
    eprintln!("libvirt limits a NIC as root alone: run as root, this test sees it");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(makes_no_tap(generation)).unwrap_or_else(|error| panic!("{error:?}"));
}

async fn makes_no_tap(generation: Generation) -> Result<()> {
    let libvirtd = Libvirtd::of(generation).await?;
    let refused = libvirtd.boot("web1", &Recipe::q35().tap(MAC)).await.err().context("it made a tap")?;
    let why = refused.to_string();
    ensure!(why.contains("/dev/net/tun") || why.contains("tap device"), "{why}");
    Ok(())
}

async fn keeps(generation: Generation) -> Result<()> {
    let libvirtd = Libvirtd::of(generation).await?;
    let guest = libvirtd.boot("web1", &Recipe::q35().tap(MAC)).await?;
    keeps_on(&libvirtd).await.with_context(|| guest.last_words())
}

async fn keeps_on(libvirtd: &Libvirtd) -> Result<()> {
    let tools = Tools::find(&Cache::open()?)?;
    let kept = Kept::find(&libvirtd.connect_uri(), "web1", &Limits::default()).await?;
    let mut machine = LibvirtMachine::of(&kept, &Limits::default()).await?;

    let seen = nic(&mut machine).await?;
    ensure!(seen.tap.as_deref() == Some("tap0") && seen.aliases.contains(&"net0".to_owned()), "{seen:?}");
    ensure!(seen.rate.known().is_some_and(NicRate::is_free), "{seen:?}");
    ensure!(seen.ips.known().is_some_and(Vec::is_empty) && !seen.grain.peak_from_guest, "{seen:?}");

    // What stands at the tap would be removed by libvirt without a word.
    set(&mut machine, of_ip(NicRate::default()), of_ip(limit())).await?;
    ensure!(nic(&mut machine).await?.ips.known().is_some_and(|ips| ips.len() == 1), "at the tap");
    let refused = set(&mut machine, of_nic(NicRate::default()), of_nic(limit())).await;
    let named = matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("single addresses"));
    ensure!(named, "{refused:?}");
    let stands = tools.run("tc qdisc show dev tap0")?;
    ensure!(stands.contains("htb 5ca1: root"), "it stands: {stands}");
    set(&mut machine, of_ip(limit()), of_ip(NicRate::default())).await?;

    // libvirt lays its limit out with `sfq` and `police`; a kernel without them is said to be one.
    let has_parts = tools.run("tc qdisc add dev lo root sfq").is_ok();
    let done = set(&mut machine, of_nic(NicRate::default()), of_nic(limit())).await;
    let read = machine.look(&Look::Setting(SettingName::NicRate { nic: MAC.to_owned() })).await?;
    let shown = |rate| matches!(&read, Sight::Setting(Some(read)) if of_nic(rate).is_shown_by(read));
    match done {
        Ok(()) => ensure!(has_parts && shown(limit()), "{read:?}"),
        Err(ApplyError::Refused(why)) => {
            ensure!(!has_parts && why.contains("tc "), "{why}");
            ensure!(shown(NicRate::default()), "nothing was changed: {read:?}");
            let left = tools.run("tc qdisc show dev tap0")?;
            ensure!(!left.contains("htb"), "nothing is left: {left}");
        }
        Err(error @ ApplyError::Unknown(_)) => return Err(error.into()),
    }

    // In the definition it is kept either way, and what is not asked for is not reset.
    let wanted = Bandwidth { rate: limit(), floor: 0 };
    let done = kept.call("a limit", move |domain| domain.set_bandwidth(MAC, &wanted, Affect::Config)).await;
    done.context("the definition")?;
    let read = kept.call("a limit", |domain| domain.bandwidth(MAC, Affect::Config)).await?;
    ensure!(read == wanted, "{read:?}");
    let told = libvirtd.virsh(&["domiftune", "web1", MAC, "--config"]).await?;
    ensure!(told.contains("inbound.average: 5000") && told.contains("outbound.burst : 245"), "{told}");
    Ok(())
}
