//! Sizes, steps and counts as QEMU and libvirt users write them.
//!
//! Own code because no library fits both worlds: a bare `G` is binary here (as in QEMU and libvirt), `GB` is
//! decimal, and a text that people read in two ways is refused with both readings offered.

use super::{Bytes, Change};

/// Why a text is not a size. The message offers what would be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSize {
    /// Nothing that looks like a number with a unit.
    #[error("'{text}' is not a size; write a number with a unit, such as 6G, 512M, +2G or 1.5GiB")]
    NotASize {
        /// What was given.
        text: String,
    },
    /// A bare number: bytes to one reader, MiB to another.
    #[error(
        "'{text}' has no unit and can be read in several ways; write {text}M for MiB, {text}G for GiB, or {text}B for bytes"
    )]
    NoUnit {
        /// What was given.
        text: String,
    },
    /// A unit that people read in two ways, such as `Gb`.
    #[error("'{text}' can be read in two ways; write {binary} (binary) or {decimal} (decimal)")]
    Ambiguous {
        /// What was given.
        text: String,
        /// The binary reading.
        binary: String,
        /// The decimal reading.
        decimal: String,
    },
    /// A fraction that is not a whole number of bytes.
    #[error("'{text}' is not a whole number of bytes; {}the nearest below is {below}", whole_mib_around(*.below))]
    Fraction {
        /// What was given.
        text: String,
        /// The nearest size below.
        below: Bytes,
    },
    /// More than 64 bits of bytes.
    #[error("'{text}' is larger than any machine (16 EiB)")]
    TooLarge {
        /// What was given.
        text: String,
    },
    /// A step where only an absolute size fits.
    #[error("'{text}' is a step from the present size; an absolute size is needed here, such as 6G")]
    NotAbsolute {
        /// What was given.
        text: String,
    },
}

/// Reads a size or a step: `6G`, `6GiB`, `1.5G`, `6GB` (decimal), `+2G`, `-512M`.
///
/// K, M, G, T and P are binary, alone or with `iB`, in either case of letters; `KB`, `MB`, `GB`, `TB`, `PB` are
/// decimal; `B` is bytes. A number without a unit and mixed forms such as `Gb` are refused with the readings offered.
pub fn parse_change(text: &str) -> Result<Change<Bytes>, BadSize> {
    let trimmed = text.trim();
    if let Some(rest) = trimmed.strip_prefix('+') {
        return parse_size(rest).map(Change::Grow);
    }
    if let Some(rest) = trimmed.strip_prefix('-').or_else(|| trimmed.strip_prefix('\u{2212}')) {
        return parse_size(rest).map(Change::Shrink);
    }
    parse_size(trimmed).map(Change::To)
}

/// Reads an absolute size; the units are those of [`parse_change`].
pub fn parse_size(text: &str) -> Result<Bytes, BadSize> {
    let trimmed = text.trim();
    if trimmed.starts_with(['+', '-']) {
        return Err(BadSize::NotAbsolute { text: trimmed.to_owned() });
    }
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..end], trimmed[end..].trim_start());
    let scale = unit_scale(trimmed, number, unit)?;
    let not_a_size = || BadSize::NotASize { text: trimmed.to_owned() };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let dotted = number.contains('.');
    if whole.is_empty() || whole.len() > 20 || fraction.len() > 15 || (dotted && fraction.is_empty()) {
        return Err(not_a_size());
    }
    let whole: u128 = whole.parse().map_err(|_| not_a_size())?;
    let denominator = 10u128.pow(u32::try_from(fraction.len()).expect("at most 15"));
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| not_a_size())? };
    let scaled = (whole * denominator + fraction) * u128::from(scale);
    let bytes = u64::try_from(scaled / denominator)
        .map(Bytes)
        .map_err(|_| BadSize::TooLarge { text: trimmed.to_owned() })?;
    if !scaled.is_multiple_of(denominator) {
        return Err(BadSize::Fraction { text: trimmed.to_owned(), below: bytes });
    }
    Ok(bytes)
}

/// What to write instead of a size that lies between whole MiB.
fn whole_mib_around(below: Bytes) -> String {
    match below.count_of(Bytes::mib(1)) {
        0 => String::new(),
        mib => format!("write {mib}M or {}M; ", mib + 1),
    }
}

/// Bytes in one `unit`, or why the unit is not one.
fn unit_scale(text: &str, number: &str, unit: &str) -> Result<u64, BadSize> {
    let not_a_size = || BadSize::NotASize { text: text.to_owned() };
    if number.is_empty() {
        return Err(not_a_size());
    }
    let Some(letter) = unit.chars().next() else {
        return Err(BadSize::NoUnit { text: number.to_owned() });
    };
    if unit == "B" {
        return Ok(1);
    }
    let power = match letter.to_ascii_uppercase() {
        'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        'P' => 5,
        _ => return Err(not_a_size()),
    };
    match &unit[1..] {
        "" => Ok(1 << (10 * power)),
        rest if rest.eq_ignore_ascii_case("ib") => Ok(1 << (10 * power)),
        "B" if letter.is_ascii_uppercase() || letter == 'k' => Ok(1000u64.pow(power)),
        rest if rest.eq_ignore_ascii_case("b") => {
            let upper = letter.to_ascii_uppercase();
            Err(BadSize::Ambiguous {
                text: text.to_owned(),
                binary: format!("{number}{upper}iB"),
                decimal: format!("{number}{upper}B"),
            })
        }
        _ => Err(not_a_size()),
    }
}

/// Reads a number of vCPUs or a step: `4`, `+2`, `-1`.
pub fn parse_count(text: &str) -> Result<Change<u32>, BadCount> {
    let trimmed = text.trim();
    let bad = || BadCount { text: trimmed.to_owned() };
    let (make, digits): (fn(u32) -> Change<u32>, &str) = match trimmed.as_bytes().first() {
        Some(b'+') => (Change::Grow, &trimmed[1..]),
        Some(b'-') => (Change::Shrink, &trimmed[1..]),
        _ => (Change::To, trimmed),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let change = make(digits.parse().map_err(|_| bad())?);
    if change == Change::To(0) { Err(bad()) } else { Ok(change) }
}

/// Why a text is not a number of vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a number of vCPUs; write a whole number from 1, or a step such as +2 or -1")]
pub struct BadCount {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> u64 {
        parse_size(text).unwrap_or_else(|e| panic!("{e}")).get()
    }

    #[test]
    fn a_bare_letter_is_binary_and_gb_is_decimal() {
        assert_eq!(size("6G"), 6 << 30);
        assert_eq!(size("6g"), 6 << 30);
        assert_eq!(size("6GiB"), 6 << 30);
        assert_eq!(size("6 GiB"), 6 << 30);
        assert_eq!(size("6GB"), 6_000_000_000);
        assert_eq!(size("512M"), 512 << 20);
        assert_eq!(size("524287K"), 524_287 << 10);
        assert_eq!(size("1kB"), 1000);
        assert_eq!(size("7B"), 7);
        assert_eq!(size("1.5G"), 3 << 29);
    }

    #[test]
    fn steps_carry_their_sign() {
        assert_eq!(parse_change("+2G"), Ok(Change::Grow(Bytes::gib(2))));
        assert_eq!(parse_change("-512M"), Ok(Change::Shrink(Bytes::mib(512))));
        assert_eq!(parse_change("6G"), Ok(Change::To(Bytes::gib(6))));
        assert!(matches!(parse_size("+2G"), Err(BadSize::NotAbsolute { .. })));
    }

    #[test]
    fn what_reads_in_two_ways_is_refused_with_both_readings() {
        let said = parse_size("6Gb").unwrap_err().to_string();
        assert!(said.contains("6GiB") && said.contains("6GB"), "{said}");
        let said = parse_size("6144").unwrap_err().to_string();
        assert!(said.contains("6144M for MiB"), "{said}");
        assert!(matches!(parse_size("6mb"), Err(BadSize::Ambiguous { .. })));
    }

    #[test]
    fn what_is_not_a_size_says_how_to_write_one() {
        for text in ["", "G", "six", "1,5G", "6X", "6GiBs", "1.2.3G", ".5G", "1.G", "0x10M", "6GI", "é", "6é"]
        {
            let said = parse_size(text).expect_err(text).to_string();
            assert!(said.contains("6G") || said.contains("MiB"), "{text}: {said}");
        }
        assert!(matches!(parse_size("99999999999999999999P"), Err(BadSize::TooLarge { .. })));
        assert!(matches!(parse_size("1.0000001K"), Err(BadSize::Fraction { .. })));
    }

    #[test]
    fn a_fraction_of_a_byte_is_refused_with_the_whole_mib_around_it() {
        let said = |text: &str| parse_size(text).expect_err(text).to_string();
        let around =
            "'1.2G' is not a whole number of bytes; write 1228M or 1229M; the nearest below is 1288490188 B";
        assert_eq!(said("1.2G"), around);
        for text in ["1228M", "1229M", "1288490188B"] {
            assert!(parse_size(text).is_ok(), "{text}");
        }
        assert!(!said("1.0000001K").contains("0M"), "{}", said("1.0000001K"));
    }

    #[test]
    fn counts_are_whole_and_not_zero() {
        assert_eq!(parse_count("4"), Ok(Change::To(4)));
        assert_eq!(parse_count("+2"), Ok(Change::Grow(2)));
        assert_eq!(parse_count("-1"), Ok(Change::Shrink(1)));
        for bad in ["", "0", "4.0", "four", "--1", "99999999999"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(n in any::<u64>()) {
            prop_assert_eq!(parse_size(&Bytes::new(n).to_string()), Ok(Bytes::new(n)));
        }

        #[test]
        fn any_text_gets_an_answer(text in any::<String>()) {
            let _ = parse_change(&text);
            let _ = parse_count(&text);
        }
    }
}
