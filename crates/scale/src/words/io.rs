//! Disk I/O limits as operators write them: `2000`, `read:500,write:500,burst:4000/10s`, `none`.
//!
//! A lone value is the limit of reads and writes together, in place of whatever was there. `total:`, `read:` and
//! `write:` set that one alone, `none` lifts it. `burst:` goes with the limits named before it that have none yet.

use super::{BadLimit, NONE, parts, size};
use crate::setting::{Burst, Iops, Throttle, Throttles};
use crate::units::{Bytes, parse_size};
use crate::wanted::{ThrottleWish, Wish};

const KEYS: [&str; 4] = ["total", "read", "write", "burst"];
/// A day: longer bursts are limits of their own.
const LONGEST_BURST: u32 = 86_400;

/// Reads limits of operations a second.
///
/// # Errors
/// [`BadLimit`] with what to write.
pub fn parse_iops_wish(text: &str) -> Result<ThrottleWish<Iops>, BadLimit> {
    let read = |part: &str| {
        let number = part.parse().ok().filter(|n| *n > 0 && part.bytes().all(|b| b.is_ascii_digit()));
        number.map(Iops::new).ok_or_else(|| BadLimit::NotUnderstood {
            text: part.to_owned(),
            what: "a number of operations a second",
            write: "2000, read:500,write:500 or none; a burst as burst:4000/10s".to_owned(),
        })
    };
    parse_wish(text, read)
}

/// Reads limits of bytes a second.
///
/// # Errors
/// [`BadLimit`] with what to write.
pub fn parse_bytes_wish(text: &str) -> Result<ThrottleWish<Bytes>, BadLimit> {
    let read = |part: &str| {
        let size = parse_size(part)?;
        if size.is_zero() {
            return Err(BadLimit::NotUnderstood {
                text: part.to_owned(),
                what: "a number of bytes a second",
                write: "200M, read:100M,write:50M or none; a burst as burst:400M/10s".to_owned(),
            });
        }
        Ok(size)
    };
    parse_wish(text, read)
}

fn parse_wish<T: Copy + Ord>(
    text: &str,
    read: impl Fn(&str) -> Result<T, BadLimit>,
) -> Result<ThrottleWish<T>, BadLimit> {
    let contradiction =
        |why: &str| BadLimit::Contradiction { text: text.trim().to_owned(), why: why.to_owned() };
    if text.trim() == NONE {
        return Ok(ThrottleWish { total: Wish::Lift, read: Wish::Lift, write: Wish::Lift });
    }
    let mut wish = ThrottleWish::default();
    let mut without_burst: Vec<&str> = Vec::new();
    for (key, value) in parts(text, &KEYS) {
        if key == Some("burst") {
            let burst = parse_burst(value, &read)?;
            if without_burst.is_empty() {
                return Err(contradiction(
                    "the limit that a burst goes with comes before it: 2000,burst:4000/10s",
                ));
            }
            for key in without_burst.drain(..) {
                let Wish::To(throttle) = of(&mut wish, key) else { continue };
                if burst.to < throttle.steady {
                    return Err(contradiction("a burst is more than the limit that it goes with"));
                }
                throttle.burst = Some(burst);
            }
            continue;
        }
        let name = key.unwrap_or("total");
        if !of(&mut wish, name).is_keep() {
            return Err(contradiction(&format!("{name} is named twice")));
        }
        if key.is_none() {
            // A lone value is the whole of it.
            wish.read = Wish::Lift;
            wish.write = Wish::Lift;
        }
        *of(&mut wish, name) = if key.is_some() && value == NONE {
            Wish::Lift
        } else {
            without_burst.push(name);
            Wish::To(Throttle { steady: read(value)?, burst: None })
        };
    }
    let sets = |wish: &Wish<Throttle<T>>| matches!(wish, Wish::To(_));
    if sets(&wish.total) && (sets(&wish.read) || sets(&wish.write)) {
        return Err(contradiction(
            "QEMU takes a limit in total or limits for reads and writes, not both; leave one out",
        ));
    }
    Ok(wish)
}

fn of<'a, T>(wish: &'a mut ThrottleWish<T>, key: &str) -> &'a mut Wish<Throttle<T>> {
    match key {
        "read" => &mut wish.read,
        "write" => &mut wish.write,
        _total => &mut wish.total,
    }
}

/// `4000/10s`, or `4000` for one second.
fn parse_burst<T>(text: &str, read: impl Fn(&str) -> Result<T, BadLimit>) -> Result<Burst<T>, BadLimit> {
    let Some((to, length)) = text.split_once('/') else {
        return Ok(Burst { to: read(text)?, seconds: 1 });
    };
    let seconds = length.trim().strip_suffix('s').and_then(|number| number.trim().parse().ok());
    let seconds = seconds.filter(|seconds| (1..=LONGEST_BURST).contains(seconds));
    let seconds = seconds.ok_or_else(|| BadLimit::NotUnderstood {
        text: text.to_owned(),
        what: "a burst",
        write: "its height and its seconds, such as burst:4000/10s".to_owned(),
    })?;
    Ok(Burst { to: read(to.trim())?, seconds })
}

/// Limits of operations as [`parse_iops_wish`] reads them.
pub fn iops(throttles: &Throttles<Iops>) -> String {
    written(throttles, |iops| iops.to_string())
}

/// Limits of bytes as [`parse_bytes_wish`] reads them.
pub fn throttled_bytes(throttles: &Throttles<Bytes>) -> String {
    written(throttles, size)
}

fn written<T: Copy>(throttles: &Throttles<T>, word: impl Fn(T) -> String) -> String {
    if throttles.is_free() {
        return NONE.to_owned();
    }
    let lone = throttles.total.is_some();
    let mut named: Vec<_> = throttles.named().collect();
    // A burst goes with all before it that have none, so what has one comes first.
    named.sort_by_key(|(_, throttle)| throttle.burst.is_none());
    let each = named.into_iter().map(|(name, throttle)| {
        let key = if lone { String::new() } else { format!("{name}:") };
        let burst = throttle.burst.map(|burst| format!(",burst:{}/{}s", word(burst.to), burst.seconds));
        format!("{key}{}{}", word(throttle.steady), burst.unwrap_or_default())
    });
    let mut words: Vec<String> = each.collect();
    // What is not there is said too: these words are the whole.
    if !lone {
        let missing = [("read", throttles.read.is_none()), ("write", throttles.write.is_none())];
        words.insert(0, "total:none".to_owned());
        words.extend(missing.iter().filter(|(_, missing)| *missing).map(|(name, _)| format!("{name}:none")));
    }
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(steady: u64, burst: Option<(u64, u32)>) -> Wish<Throttle<Iops>> {
        let burst = burst.map(|(to, seconds)| Burst { to: Iops::new(to), seconds });
        Wish::To(Throttle { steady: Iops::new(steady), burst })
    }

    #[test]
    fn a_lone_value_is_the_whole_limit() {
        let wish = parse_iops_wish("2000").expect("a limit");
        assert_eq!((wish.total, wish.read, wish.write), (to(2000, None), Wish::Lift, Wish::Lift));
        let none = parse_iops_wish("none").expect("no limit");
        assert_eq!((none.total, none.read, none.write), (Wish::Lift, Wish::Lift, Wish::Lift));
    }

    #[test]
    fn a_burst_goes_with_what_is_named_before_it() {
        let wish = parse_iops_wish("read:500,write:500,burst:4000/10s").expect("limits");
        assert_eq!(
            (wish.total, wish.read, wish.write),
            (Wish::Keep, to(500, Some((4000, 10))), to(500, Some((4000, 10))))
        );
        let apart = parse_iops_wish("read:500,burst:600,write:400").expect("limits");
        assert_eq!((apart.read, apart.write), (to(500, Some((600, 1))), to(400, None)));
    }

    #[test]
    fn what_is_not_named_stays() {
        let wish = parse_bytes_wish("read:200M,total:none").expect("limits");
        assert_eq!((wish.total, wish.write), (Wish::Lift, Wish::Keep));
        assert_eq!(wish.read, Wish::To(Throttle { steady: Bytes::mib(200), burst: None }));
    }

    #[test]
    fn a_total_excludes_its_parts() {
        for text in ["2000,read:500", "total:5,write:1", "read:1,total:5"] {
            let said = parse_iops_wish(text).expect_err(text).to_string();
            assert!(said.contains("in total") || said.contains("twice"), "{said}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let bad = [
            "",
            "0",
            "-5",
            "2k",
            "burst:5",
            "500,burst:400",
            "500,burst:600/0s",
            "500,burst:600/10",
            "read:",
            "speed:5",
            "5,5",
            "read:5,read:6",
            "99999999999999999999",
            "none,read:5",
        ];
        for text in bad {
            assert!(parse_iops_wish(text).is_err(), "{text}");
        }
        assert!(parse_bytes_wish("200").is_err(), "no unit");
        assert!(parse_bytes_wish("0B").is_err());
    }

    prop_compose! {
        fn throttle()(
            steady in 1u64..1 << 40,
            burst in prop::option::of((0u64..1 << 40, 1u32..=LONGEST_BURST)),
        ) -> Throttle<Iops> {
            let burst = burst.map(|(more, seconds)| Burst { to: Iops::new(steady + more), seconds });
            Throttle { steady: Iops::new(steady), burst }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            total in prop::option::of(throttle()),
            read in prop::option::of(throttle()),
            write in prop::option::of(throttle()),
        ) {
            let split = total.is_none();
            let whole = Throttles { total, read: read.filter(|_| split), write: write.filter(|_| split) };
            let wish = parse_iops_wish(&iops(&whole)).expect("our own words");
            for before in [None, Some(Throttle { steady: Iops::new(7), burst: None })] {
                prop_assert_eq!(wish.total.over(before), whole.total);
                prop_assert_eq!(wish.read.over(before), whole.read);
                prop_assert_eq!(wish.write.over(before), whole.write);
            }
        }

        #[test]
        fn any_text_gets_an_answer(text in any::<String>()) {
            let _ = parse_iops_wish(&text);
            let _ = parse_bytes_wish(&text);
        }
    }
}
