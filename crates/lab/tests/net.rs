//! Traffic limits with real traffic, in network namespaces of each test's own: what iperf3 measures is what was set.
//!
//! A measured rate is held to 10 % of the limit. A busy machine can only make traffic slower, so too little is measured
//! again, a few times; too much never is.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use drive::net::{self, Clash, SetError, TapRates};
use lab::{Stream, Wire, apart};
use scale::setting::{BitRate, NicRate, Rate};
use scale::units::Bytes;

const TAP: &str = "tap0";
/// Measured so often at most.
const TRIES: usize = 3;

fn mbit(average: u64) -> Rate {
    let average = BitRate::mbit(average);
    Rate { average, peak: None, burst: Some(Rate::usual_burst(average)) }
}

fn both(average: u64) -> NicRate {
    NicRate { to_guest: Some(mbit(average)), from_guest: Some(mbit(average)) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn stream(guest: &str, to_guest: bool) -> Stream {
    Stream { guest: ip(guest), to_guest, seconds: 3 }
}

/// The measured rate is within a tenth of `limit` (in mbit).
fn holds(wire: &Wire, stream: &Stream, limit: u64) -> Result<()> {
    holds_all(wire, std::slice::from_ref(stream), |measured| vec![(measured[0], limit)])
}

/// Measures streams together; `judge` pairs what was measured with limits in mbit.
fn holds_all(wire: &Wire, streams: &[Stream], judge: impl Fn(&[f64]) -> Vec<(f64, u64)>) -> Result<()> {
    let mut said = Vec::new();
    for _ in 0..TRIES {
        let measured: Vec<f64> = wire.measure(streams)?.into_iter().map(|rate| rate / 1e6).collect();
        let pairs = judge(&measured);
        said.push(format!("{measured:.1?} mbit"));
        for (rate, limit) in &pairs {
            ensure!(*rate <= *limit as f64 * 1.1, "{streams:?}: {rate:.1} mbit of {limit}");
        }
        if pairs.iter().all(|(rate, limit)| *rate >= *limit as f64 * 0.9) {
            return Ok(());
        }
    }
    anyhow::bail!("{streams:?}: measured {}", said.join(", then "))
}

/// More than so many mbit pass; `before` makes each try ready.
fn passes(wire: &Wire, stream: &Stream, mbit: f64, before: impl Fn() -> Result<()>) -> Result<f64> {
    let mut said = Vec::new();
    for _ in 0..TRIES {
        before()?;
        let measured = wire.measure(std::slice::from_ref(stream))?[0] / 1e6;
        if measured > mbit {
            return Ok(measured);
        }
        said.push(format!("{measured:.1} mbit"));
    }
    anyhow::bail!("{stream:?}: measured {}", said.join(", then "))
}

/// What is read back is what was set.
fn reads(wanted: &TapRates) -> Result<()> {
    let read = net::read(TAP)?;
    let ips = read.ips.len() == wanted.ips.len()
        && wanted.ips.iter().all(|one| one.rate.is_shown_by(&read.ip(one.ip)));
    ensure!(ips && wanted.nic.is_shown_by(&read.nic), "wanted {wanted:?}, read {read:?}");
    Ok(())
}

fn nic(rate: NicRate) -> TapRates {
    TapRates { nic: rate, ips: Vec::new() }
}

#[test]
fn a_nics_limit_is_what_iperf3_measures_both_ways_and_in_both_families() {
    apart("a_nics_limit_is_what_iperf3_measures_both_ways_and_in_both_families", || {
        let wire = Wire::make()?;
        let rate = NicRate { to_guest: Some(mbit(30)), from_guest: Some(mbit(50)) };
        net::set(TAP, &nic(rate))?;
        reads(&nic(rate))?;
        holds(&wire, &stream("10.99.0.2", true), 30)?;
        holds(&wire, &stream("fd99::2", true), 30)?;
        holds(&wire, &stream("10.99.0.2", false), 50)?;
        holds(&wire, &stream("fd99::2", false), 50)
    });
}

#[test]
fn an_address_is_held_to_its_own_limit_within_the_nics() {
    apart("an_address_is_held_to_its_own_limit_within_the_nics", || {
        let wire = Wire::make()?;
        let rates = nic(both(60)).with_ip(ip("10.99.0.3"), both(20)).with_ip(ip("fd99::3"), both(10));
        net::set(TAP, &rates)?;
        reads(&rates)?;
        for to_guest in [true, false] {
            holds(&wire, &stream("fd99::3", to_guest), 10)?;
            // The one limited takes its share, the other what is left of the NIC's.
            let streams = [stream("10.99.0.2", to_guest), stream("10.99.0.3", to_guest)];
            holds_all(&wire, &streams, |got| vec![(got[1], 20), (got[0] + got[1], 60)])?;
        }
        // Together no more than the NIC's, though each by itself could have it.
        let rates = nic(both(30)).with_ip(ip("10.99.0.3"), both(25)).with_ip(ip("fd99::3"), both(25));
        net::set(TAP, &rates)?;
        for to_guest in [true, false] {
            let streams = [stream("10.99.0.3", to_guest), stream("fd99::3", to_guest)];
            holds_all(&wire, &streams, |got| vec![(got[0] + got[1], 30)])?;
        }
        Ok(())
    });
}

#[test]
fn an_address_can_be_limited_where_the_nic_is_not() {
    apart("an_address_can_be_limited_where_the_nic_is_not", || {
        let wire = Wire::make()?;
        net::set_ip(TAP, ip("10.99.0.3"), both(20))?;
        reads(&TapRates::default().with_ip(ip("10.99.0.3"), both(20)))?;
        for to_guest in [true, false] {
            holds(&wire, &stream("10.99.0.3", to_guest), 20)?;
            // The others are not held.
            passes(&wire, &stream("10.99.0.2", to_guest), 40.0, || Ok(()))?;
        }
        Ok(())
    });
}

#[test]
fn a_tap_in_a_bridge_is_limited_alike() {
    apart("a_tap_in_a_bridge_is_limited_alike", || {
        let wire = Wire::make()?;
        for line in [
            "ip link add br0 type bridge",
            "ip addr del 10.99.0.1/24 dev tap0",
            "ip link set tap0 master br0",
            "ip addr add 10.99.0.1/24 dev br0",
            "ip link set br0 up",
        ] {
            wire.tools().run(line)?;
        }
        net::set_nic(TAP, both(40))?;
        for to_guest in [true, false] {
            holds(&wire, &stream("10.99.0.2", to_guest), 40)?;
        }
        Ok(())
    });
}

#[test]
fn a_burst_passes_at_the_peak_and_then_the_average_holds() {
    apart("a_burst_passes_at_the_peak_and_then_the_average_holds", || {
        let wire = Wire::make()?;
        // A burst that lasts: 40 MB at 80 mbit, of which 20 are paid for meanwhile, are 5.3 s.
        let (average, peak) = (BitRate::mbit(20), Some(BitRate::mbit(80)));
        let rate = Rate { average, peak, burst: Some(Bytes::new(40_000_000)) };
        let rate = NicRate { to_guest: Some(rate), from_guest: Some(rate) };
        net::set_nic(TAP, rate)?;
        reads(&nic(rate))?;
        for to_guest in [true, false] {
            let measured = passes(&wire, &stream("10.99.0.2", to_guest), 40.0, || {
                // A burst that is whole, whatever passed before.
                net::set_nic(TAP, NicRate::default())?;
                Ok(net::set_nic(TAP, rate)?)
            })?;
            ensure!(measured < 88.0, "a burst at {measured:.1} mbit");
            // What is left of the burst passes with it, the later the slower it was used up.
            let rest = [Stream { seconds: 4, ..stream("10.99.0.2", to_guest) }];
            for _ in 0..TRIES {
                if wire.measure(&rest)?[0] < 22e6 {
                    break;
                }
            }
            holds(&wire, &stream("10.99.0.2", to_guest), 20)?;
        }
        Ok(())
    });
}

#[test]
fn a_change_under_traffic_leaves_no_moment_without_a_limit() {
    apart("a_change_under_traffic_leaves_no_moment_without_a_limit", || {
        let wire = Wire::make()?;
        let address = ip("10.99.0.2");
        let rates = |mbit: u64| nic(both(mbit + 20)).with_ip(address, both(mbit));
        net::set(TAP, &rates(20))?;
        let (done, changes) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| -> Result<usize> {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let read = net::read(TAP)?;
                    let of_ip = read.ip(address);
                    let sides = [read.nic.to_guest, read.nic.from_guest, of_ip.to_guest, of_ip.from_guest];
                    ensure!(sides.iter().all(Option::is_some), "without a limit: {read:?}");
                    looks += 1;
                }
                Ok(looks)
            });
            let changer = scope.spawn(|| -> Result<usize> {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    net::set(TAP, &rates(if count % 2 == 0 { 30 } else { 20 }))?;
                    changes.store(true, Ordering::Relaxed);
                    count += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(count)
            });
            let measured = [true, false]
                .map(|to_guest| wire.measure(&[stream("10.99.0.2", to_guest)]).map(|rates| rates[0] / 1e6));
            done.store(true, Ordering::Relaxed);
            let (looks, count) = (watcher.join().expect("joined")?, changer.join().expect("joined")?);
            ensure!(count > 50 && looks > 50, "{count} changes and {looks} looks");
            for rate in measured {
                let rate = rate?;
                ensure!(rate <= 33.0 && rate > 10.0, "{rate:.1} mbit between limits of 20 and 30");
            }
            Ok(())
        })
    });
}

#[test]
fn what_others_laid_out_stays_or_is_named() {
    apart("what_others_laid_out_stays_or_is_named", || {
        let wire = Wire::make()?;
        let tc = |line: &str| wire.tools().run(line);
        tc("ip link add seen type veth peer name other")?;
        tc("ip link set other up")?;
        tc("ip link set seen up")?;
        tc("tc qdisc add dev tap0 handle ffff: ingress")?;
        let mirror = "tc filter add dev tap0 parent ffff: prio 100 protocol ip u32 match u32 0 0 action mirred egress mirror \
                      dev seen";
        tc(&format!("{mirror} continue"))?;
        net::set(TAP, &nic(both(30)))?;
        holds(&wire, &stream("10.99.0.2", false), 30)?;
        let filters = tc("tc filter show dev tap0 ingress")?;
        ensure!(filters.contains("pref 100 ") && filters.contains("device seen"), "{filters}");
        let counted: serde_json::Value = serde_json::from_str(&tc("ip -s -j link show dev seen")?)?;
        let packets = counted[0]["stats64"]["tx"]["packets"].as_u64();
        ensure!(packets.is_some_and(|count| count > 100), "it sees packets still: {counted}");
        net::set(TAP, &TapRates::default())?;
        let filters = tc("tc filter show dev tap0 ingress")?;
        ensure!(filters.contains("pref 100 ") && !filters.contains("pref 65535"), "{filters}");

        // One that ends the asking would lead packets past the limit.
        tc("tc filter del dev tap0 parent ffff: prio 100")?;
        tc(mirror)?;
        let refused = net::set(TAP, &nic(both(30)));
        ensure!(
            matches!(&refused, Err(SetError::Clash(Clash::Ingress { prio: 100, .. }))),
            "it was not named: {refused:?}"
        );
        ensure!(tc("tc qdisc show dev tap0")?.matches("qdisc").count() == 2, "nothing was changed");

        tc("tc qdisc add dev tap0 root handle 9: tbf rate 5mbit burst 10k latency 50ms")?;
        let refused = net::set(TAP, &nic(NicRate { to_guest: Some(mbit(30)), from_guest: None }));
        ensure!(
            matches!(&refused, Err(SetError::Clash(Clash::Root { kind, .. })) if kind == "tbf"),
            "it was not named: {refused:?}"
        );
        ensure!(net::read(TAP).is_err(), "its limit cannot be told");
        ensure!(tc("tc qdisc show dev tap0")?.contains("tbf 9: root"), "nothing was changed");
        Ok(())
    });
}

#[test]
fn a_tap_made_anew_gets_its_limits_again_and_nothing_of_the_old_one_stays() {
    apart("a_tap_made_anew_gets_its_limits_again_and_nothing_of_the_old_one_stays", || {
        let wire = Wire::make()?;
        let rates = nic(both(40)).with_ip(ip("10.99.0.3"), both(20));
        let ours = || -> Result<usize> {
            Ok(wire.tools().run("ip -o link show type ifb")?.matches(": supple-").count())
        };
        net::set(TAP, &rates)?;
        ensure!(ours()? == 1, "a device for what the guest sends");
        wire.disconnect()?;
        ensure!(ours()? == 1, "it outlives the tap");
        wire.connect()?;
        ensure!(net::read(TAP)?.is_free(), "a new tap has no limit");
        net::set(TAP, &rates)?;
        reads(&rates)?;
        ensure!(ours()? == 1, "only the new tap's is there");
        holds(&wire, &stream("10.99.0.3", false), 20)?;
        wire.disconnect()?;
        ensure!(net::sweep()?.len() == 1 && ours()? == 0, "nothing is left behind");
        Ok(())
    });
}

#[test]
fn neighbours_are_found_while_the_limit_is_used_up() {
    apart("neighbours_are_found_while_the_limit_is_used_up", || {
        let wire = Wire::make()?;
        let slow = Rate { average: BitRate::kbit(64), peak: None, burst: Some(Bytes::new(2048)) };
        net::set_nic(TAP, NicRate { to_guest: Some(slow), from_guest: Some(slow) })?;
        let flood = |address: &str, bind: &str| {
            let mut command = wire.tools().command("iperf3");
            command.args(["-u", "-b", "20M", "-t", "20", "-c", address, "-B", bind]);
            command
        };
        // Whatever waits in the queues of both ways, the neighbours answer at once.
        let mut server = wire.inside("iperf3");
        let mut server = server.args(["-s", "-1"]).stdout(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(500));
        let mut client = flood("10.99.0.2", "10.99.0.1").stdout(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_secs(1));
        let mut found = Vec::new();
        for (family, address) in [("-4", "10.99.0.3"), ("-6", "fd99::3")] {
            wire.tools().run(&format!("ip {family} neigh flush dev tap0"))?;
            let socket = std::net::UdpSocket::bind((if family == "-4" { "0.0.0.0" } else { "::" }, 0))?;
            socket.send_to(b"hello", (ip(address), 9))?;
            let since = Instant::now();
            let is_found = || -> Result<bool> {
                let told = wire.tools().run(&format!("ip {family} neigh show {address} dev tap0"))?;
                Ok(told.contains("lladdr"))
            };
            while !is_found()? && since.elapsed() < Duration::from_secs(3) {
                std::thread::sleep(Duration::from_millis(10));
            }
            found.push((address, is_found()?));
        }
        client.kill()?;
        client.wait()?;
        server.kill()?;
        server.wait()?;
        let classes = wire.tools().run("tc -s class show dev tap0")?;
        ensure!(found.iter().all(|(_, is_found)| *is_found), "{found:?}\n{classes}");
        let own = classes.split("class htb 5ca1:3 ").nth(1).unwrap_or_default();
        ensure!(!own.contains("Sent 0 bytes"), "they have a class of their own:\n{classes}");
        Ok(())
    });
}
