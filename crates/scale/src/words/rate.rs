//! Traffic limits as operators write them: `500mbit/1gbit`, `in:500mbit,out:200mbit,burst:256K`, `none`.
//!
//! `average/peak`, for both directions alike or for one: `in:` is what the guest receives, `out:` what it sends. What
//! is not named stays. `burst:` goes with the directions named before it that have none yet.

use super::{BadLimit, NONE, parts, size};
use crate::setting::{BitRate, NicRate, Rate};
use crate::units::{Bytes, parse_size};
use crate::wanted::{RateWish, Wish};
use core::net::IpAddr;

const KEYS: [&str; 3] = ["in", "out", "burst"];
const EXAMPLES: &str = "500mbit, 1gbit or 100kbit";

/// Reads a rate in bits a second: `500mbit`, `1.5gbit`, `100kbit`, `9600bit`; k, m, g and t are decimal, as in `tc`.
///
/// # Errors
/// [`BadLimit::Ambiguous`] for what is bits to one reader and bytes to another (`mbps`, `500M`, `Mb`), with both.
pub fn parse_bit_rate(text: &str) -> Result<BitRate, BadLimit> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start().to_ascii_lowercase());
    let bad =
        || BadLimit::NotUnderstood { text: text.to_owned(), what: "a rate", write: EXAMPLES.to_owned() };
    let (prefix, rest) = match unit.chars().next() {
        Some(letter @ ('k' | 'm' | 'g' | 't')) => (Some(letter), &unit[1..]),
        Some(_) | None => (None, unit.as_str()),
    };
    let scale = match prefix {
        None => 1,
        Some('k') => 1_000,
        Some('m') => 1_000_000,
        Some('g') => 1_000_000_000,
        Some(_) => 1_000_000_000_000,
    };
    match rest {
        "bit" | "bit/s" => scaled(number, scale).filter(|rate| *rate > 0).map(BitRate::new).ok_or_else(bad),
        "" | "b" | "bps" | "b/s" | "byte" | "bytes" => {
            let bits = scaled(number, scale).ok_or_else(bad)?;
            let (bits, bytes) = (BitRate::new(bits), BitRate::new(bits.checked_mul(8).ok_or_else(bad)?));
            let readings = format!("{bits} for bits a second, or {bytes} for as many bytes a second");
            Err(BadLimit::Ambiguous { text: text.to_owned(), readings })
        }
        _other => Err(bad()),
    }
}

/// `number` times `scale`, where that is a whole number of 64 bits.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let dotted = number.contains('.');
    if whole.is_empty() || fraction.len() > 12 || dotted && fraction.is_empty() {
        return None;
    }
    let denominator = 10u128.pow(u32::try_from(fraction.len()).expect("at most 12"));
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let whole: u64 = whole.parse().ok()?;
    let scaled = (u128::from(whole) * denominator + fraction) * u128::from(scale);
    if scaled.is_multiple_of(denominator) { u64::try_from(scaled / denominator).ok() } else { None }
}

/// Reads what is asked of a NIC or an address.
///
/// # Errors
/// [`BadLimit`] with what to write.
pub fn parse_rate_wish(text: &str) -> Result<RateWish, BadLimit> {
    let contradiction =
        |why: &str| BadLimit::Contradiction { text: text.trim().to_owned(), why: why.to_owned() };
    if text.trim() == NONE {
        return Ok(RateWish { to_guest: Wish::Lift, from_guest: Wish::Lift });
    }
    let mut wish = RateWish::default();
    // Whether each direction still takes a burst.
    let (mut inward, mut outward) = (false, false);
    for (key, value) in parts(text, &KEYS) {
        if key == Some("burst") {
            let burst = parse_size(value)?;
            if burst.is_zero() || !(inward || outward) {
                return Err(contradiction(
                    "the rate that a burst goes with comes before it: 500mbit,burst:256K",
                ));
            }
            set_burst(&mut wish.to_guest, std::mem::take(&mut inward), burst);
            set_burst(&mut wish.from_guest, std::mem::take(&mut outward), burst);
            continue;
        }
        let rate = if value == NONE && key.is_some() { Wish::Lift } else { Wish::To(parse_rate(value)?) };
        let sets = matches!(rate, Wish::To(_));
        let (is_in, is_out) = (key != Some("out"), key != Some("in"));
        if is_in && !wish.to_guest.is_keep() || is_out && !wish.from_guest.is_keep() {
            return Err(contradiction("a direction is named twice"));
        }
        if is_in {
            (wish.to_guest, inward) = (rate, sets);
        }
        if is_out {
            (wish.from_guest, outward) = (rate, sets);
        }
    }
    Ok(wish)
}

fn set_burst(wish: &mut Wish<Rate>, takes: bool, burst: Bytes) {
    if let (Wish::To(rate), true) = (wish, takes) {
        rate.burst = Some(burst);
    }
}

/// `average` or `average/peak`.
fn parse_rate(text: &str) -> Result<Rate, BadLimit> {
    let (average, peak) = match text.split_once('/') {
        Some((average, "s")) => (parse_bit_rate(&format!("{average}/s"))?, None),
        Some((average, peak)) => (parse_bit_rate(average)?, Some(parse_bit_rate(peak)?)),
        None => (parse_bit_rate(text)?, None),
    };
    if peak.is_some_and(|peak| peak < average) {
        let why = format!(
            "the first is the average and the second the peak, which is not below it; write {average}"
        );
        return Err(BadLimit::Contradiction { text: text.to_owned(), why });
    }
    Ok(Rate { average, peak, burst: None })
}

/// Reads an address and the NIC that it is on, where that is said: `203.0.113.7`, `2001:db8::7@eth0`.
///
/// # Errors
/// [`BadLimit::NotUnderstood`] where there is no address.
pub fn parse_ip_name(text: &str) -> Result<(IpAddr, Option<String>), BadLimit> {
    let (address, nic) = match text.split_once('@') {
        Some((address, nic)) => (address, Some(nic.trim())),
        None => (text, None),
    };
    let address = address.trim().trim_start_matches('[').trim_end_matches(']').parse().ok();
    match (address, nic) {
        (Some(address), None) => Ok((address, None)),
        (Some(address), Some(nic)) if !nic.is_empty() => Ok((address, Some(nic.to_owned()))),
        (None | Some(_), _) => Err(BadLimit::NotUnderstood {
            text: text.to_owned(),
            what: "an IP address",
            write: "203.0.113.7 or 2001:db8::7, with its NIC as 203.0.113.7@eth0 where there are several"
                .to_owned(),
        }),
    }
}

/// Limits as [`parse_rate_wish`] reads them.
pub fn nic_rate(rate: &NicRate) -> String {
    if rate.is_free() {
        return NONE.to_owned();
    }
    let mut sides = [("in", rate.to_guest), ("out", rate.from_guest)];
    if rate.to_guest == rate.from_guest {
        return rate.to_guest.map(|both| one(&both)).unwrap_or_default();
    }
    // A burst goes with all before it that have none, so what has one comes first.
    sides.sort_by_key(|(_, side)| side.is_some_and(|rate| rate.burst.is_none()));
    let words = sides.map(|(name, side)| match side {
        Some(rate) => format!("{name}:{}", one(&rate)),
        None => format!("{name}:{NONE}"),
    });
    words.join(",")
}

fn one(rate: &Rate) -> String {
    let peak = rate.peak.map(|peak| format!("/{peak}")).unwrap_or_default();
    let burst = rate.burst.map(|burst| format!(",burst:{}", size(burst))).unwrap_or_default();
    format!("{}{peak}{burst}", rate.average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(average: u64, peak: Option<u64>) -> Rate {
        Rate { average: BitRate::mbit(average), peak: peak.map(BitRate::mbit), burst: None }
    }

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        assert_eq!(parse_bit_rate("500mbit"), Ok(BitRate::mbit(500)));
        assert_eq!(parse_bit_rate("1gbit"), Ok(BitRate::mbit(1000)));
        assert_eq!(parse_bit_rate("1.5Gbit"), Ok(BitRate::mbit(1500)));
        assert_eq!(parse_bit_rate("100kbit"), Ok(BitRate::kbit(100)));
        assert_eq!(parse_bit_rate("9600bit"), Ok(BitRate::new(9600)));
        assert_eq!(parse_bit_rate("500mbit/s"), Ok(BitRate::mbit(500)));
    }

    #[test]
    fn what_may_be_bytes_is_refused_with_both_readings() {
        for text in ["500mbps", "500M", "500Mb", "500MB", "500MB/s", "500m"] {
            let said = parse_bit_rate(text).expect_err(text).to_string();
            assert!(said.contains("500mbit for bits") && said.contains("4gbit for as many bytes"), "{said}");
        }
        assert!(parse_bit_rate("500").expect_err("of what?").to_string().contains("500bit"));
    }

    #[test]
    fn what_is_no_rate_says_how_to_write_one() {
        for text in
            ["", "fast", "mbit", "0mbit", "-5mbit", "5xbit", "5mibit", "0.5bit", "1.mbit", "99999999999gbit"]
        {
            let said = parse_bit_rate(text).expect_err(text).to_string();
            assert!(said.contains("500mbit"), "{said}");
        }
    }

    #[test]
    fn one_rate_holds_both_ways_and_a_named_one_its_own() {
        let both = parse_rate_wish("500mbit/1gbit").expect("a rate");
        assert_eq!(
            both,
            RateWish {
                to_guest: Wish::To(rate(500, Some(1000))),
                from_guest: Wish::To(rate(500, Some(1000)))
            }
        );
        let one = parse_rate_wish("in:500mbit/1gbit,out:200mbit").expect("rates");
        assert_eq!(
            (one.to_guest, one.from_guest),
            (Wish::To(rate(500, Some(1000))), Wish::To(rate(200, None)))
        );
        let out = parse_rate_wish("out:none").expect("rates");
        assert_eq!((out.to_guest, out.from_guest), (Wish::Keep, Wish::Lift));
        let burst = parse_rate_wish("in:1mbit,burst:64K,out:2mbit").expect("rates");
        assert_eq!(burst.to_guest, Wish::To(Rate { burst: Some(Bytes::new(65536)), ..rate(1, None) }));
        assert_eq!(burst.from_guest, Wish::To(rate(2, None)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "1gbit/500mbit",
            "in:1mbit,in:2mbit",
            "1mbit,out:2mbit",
            "burst:64K",
            "in:none,burst:64K",
            "up:1mbit",
            "1mbit,burst:0B",
            "none,out:1mbit",
        ] {
            assert!(parse_rate_wish(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_may_name_its_nic() {
        let four = "203.0.113.7".parse().expect("an address");
        let six = "2001:db8::7".parse().expect("an address");
        assert_eq!(parse_ip_name("203.0.113.7"), Ok((four, None)));
        assert_eq!(parse_ip_name("[2001:db8::7]@eth0"), Ok((six, Some("eth0".to_owned()))));
        for text in ["", "eth0", "203.0.113.7@", "203.0.113.0/24", "203.0.113.256"] {
            assert!(parse_ip_name(text).is_err(), "{text}");
        }
    }

    prop_compose! {
        fn rates()(
            average in 1u64..1 << 40,
            peak in prop::option::of(0u64..1 << 40),
            burst in prop::option::of(1u64..1 << 30),
        ) -> Rate {
            Rate {
                average: BitRate::new(average),
                peak: peak.map(|more| BitRate::new(average + more)),
                burst: burst.map(Bytes::new),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            to_guest in prop::option::of(rates()),
            from_guest in prop::option::of(rates()),
            alike in any::<bool>(),
        ) {
            let whole = NicRate { to_guest, from_guest: if alike { to_guest } else { from_guest } };
            let wish = parse_rate_wish(&nic_rate(&whole)).expect("our own words");
            for before in [None, Some(rate(7, None))] {
                prop_assert_eq!(wish.to_guest.over(before), whole.to_guest);
                prop_assert_eq!(wish.from_guest.over(before), whole.from_guest);
            }
        }

        #[test]
        fn any_text_gets_an_answer(text in any::<String>()) {
            let _ = parse_rate_wish(&text);
            let _ = parse_bit_rate(&text);
            let _ = parse_ip_name(&text);
        }
    }
}
