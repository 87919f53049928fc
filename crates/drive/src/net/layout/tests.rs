//! Rates laid out and read back.

use super::*;

fn rate(average: u64, peak: Option<u64>, burst: Option<u64>) -> Rate {
    Rate { average: BitRate::new(average), peak: peak.map(BitRate::new), burst: burst.map(Bytes::new) }
}

/// What is read back is what was laid out; of a burst it is what the kernel's ticks let through.
fn comes_back(rate: Rate) {
    assert_eq!(unfit(&rate), None, "{rate}");
    let alike = |read: Rate| {
        let asked = NicRate { to_guest: Some(rate), from_guest: None };
        asked.is_shown_by(&NicRate { to_guest: Some(read), from_guest: None })
    };
    let on_nic = read_nic(&nic(Some(rate))).expect("a limit");
    assert!(alike(on_nic), "{rate} is read as {on_nic}");
    let (outer, inner) = address(&rate);
    let of_ip = read_address(&outer, &inner);
    assert!(alike(of_ip), "{rate} is read as {of_ip}");
}

#[test]
fn a_rate_is_read_as_it_was_laid_out() {
    for average in [8_000, 64_000, 20_000_000, 1_000_000_000, 100_000_000_000] {
        comes_back(rate(average, None, None));
        comes_back(rate(average, Some(average), None));
        comes_back(rate(average, Some(average * 2), None));
        // No more than a bucket of 274 s holds.
        comes_back(rate(average, Some(average + 8), Some(average * 30)));
        comes_back(rate(average, None, Some(2)));
    }
    assert_eq!(read_nic(&nic(None)), None);
}

#[test]
fn what_the_kernel_cannot_count_is_refused() {
    for (bad, why) in [
        (rate(0, None, None), "whole number of bytes"),
        (rate(12, None, None), "whole number of bytes"),
        (rate(16, Some(20), None), "whole number of bytes"),
        (rate(FREE * 8, None, None), "whole number of bytes"),
        (rate(16_000, Some(8_000), None), "below its average"),
        (rate(8_000, None, Some(1 << 20)), "274 s"),
    ] {
        let said = unfit(&bad).unwrap_or_default();
        assert!(said.contains(why), "{bad}: {said}");
    }
}

#[test]
fn an_address_borrows_all_it_sends_so_that_both_limits_hold() {
    let (outer, inner) = address(&rate(80_000_000, Some(160_000_000), None));
    assert_eq!((outer.rate, inner.rate, rest().rate), (TRICKLE, TRICKLE, TRICKLE));
    assert_eq!((outer.ceil, inner.ceil), (10_000_000, 20_000_000));
    assert!(inner.cbuffer < outer.cbuffer, "the peak's bucket is the smaller one");
}

#[test]
fn a_filter_is_about_one_address_of_one_end() {
    for ip in ["10.0.2.15", "255.255.255.255", "fd00::1", "2001:db8:ffff:1:2:3:4:5"] {
        let ip: IpAddr = ip.parse().expect("an address");
        for end in [End::Source, End::Destination] {
            let (prio, protocol, keys) = keys(ip, end);
            let filter = Filter {
                parent: QDISC,
                prio,
                protocol,
                handle: 1,
                kind: "u32".to_owned(),
                keys,
                flow: Some(slot(0).1),
                redirect: None,
                verdict: crate::net::tc::Verdict::Decides,
            };
            assert!(is_own_filter(&filter));
            assert_eq!(read_keys(&filter, end), Some(ip));
            let other = if end == End::Source { End::Destination } else { End::Source };
            assert_eq!(read_keys(&filter, other), None);
        }
    }
}

#[test]
fn every_place_has_two_classes_of_its_own() {
    let mut all: Vec<Handle> = (0..MOST_IPS).flat_map(|at| <[Handle; 2]>::from(slot(at))).collect();
    assert!(all.iter().all(|class| is_own_class(*class)));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 * MOST_IPS);
    assert_eq!(place(slot(MOST_IPS - 1).1), Some(MOST_IPS - 1));
    assert_eq!(
        (place(NIC), place(Handle::new(MAJOR, FIRST - 1)), place(Handle::new(1, FIRST))),
        (None, None, None)
    );
    assert!(!is_own_class(Handle::new(MAJOR, FIRST + 2 * 256)));
}
