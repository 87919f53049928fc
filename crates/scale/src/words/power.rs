//! CPU power as operators write it.

use super::{BadLimit, NONE};
use crate::setting::{Millicpus, Weight};
use crate::wanted::Wish;

/// Reads `2.5` (host CPUs) or `none`.
///
/// # Errors
/// [`BadLimit`] for anything else: percentages, more than three decimals, less than a kernel grants.
pub fn parse_cpu_limit(text: &str) -> Result<Wish<Millicpus>, BadLimit> {
    let text = text.trim();
    if text == NONE {
        return Ok(Wish::Lift);
    }
    let bad = |write: &str| BadLimit::NotUnderstood {
        text: text.to_owned(),
        what: "a number of CPUs",
        write: write.to_owned(),
    };
    if let Some(percent) = text.strip_suffix('%').and_then(|number| number.trim().parse::<u32>().ok()) {
        let cpus = Millicpus::new(percent.saturating_mul(10));
        return Err(BadLimit::Ambiguous {
            text: text.to_owned(),
            readings: format!("{cpus} for {cpus} host CPUs, whatever number of vCPUs shares them"),
        });
    }
    let usual = "host CPUs with at most three decimals, such as 2.5, or none";
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let dotted = text.contains('.');
    if whole.is_empty()
        || decimals.len() > 3
        || dotted && decimals.is_empty()
        || !digits(whole)
        || !digits(decimals)
    {
        return Err(bad(usual));
    }
    let thousandths = format!("{whole}{decimals:0<3}").parse().map_err(|_| bad(usual))?;
    let limit = Millicpus::new(thousandths);
    if limit < Millicpus::MIN {
        return Err(bad(&format!("{} or more, or none for no limit", Millicpus::MIN)));
    }
    Ok(Wish::To(limit))
}

/// Reads a weight from 1 to 10000.
///
/// # Errors
/// [`BadLimit::NotUnderstood`] for anything else.
pub fn parse_cpu_weight(text: &str) -> Result<Weight, BadLimit> {
    let weight = text.trim().parse().ok().and_then(Weight::new);
    weight.ok_or_else(|| BadLimit::NotUnderstood {
        text: text.trim().to_owned(),
        what: "a weight",
        write: "a number from 1 to 10000; 100 is what every machine has at first".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_are_host_cpus() {
        assert_eq!(parse_cpu_limit("2.5"), Ok(Wish::To(Millicpus::new(2500))));
        assert_eq!(parse_cpu_limit("4"), Ok(Wish::To(Millicpus::new(4000))));
        assert_eq!(parse_cpu_limit("0.01"), Ok(Wish::To(Millicpus::MIN)));
        assert_eq!(parse_cpu_limit("none"), Ok(Wish::Lift));
        for bad in ["", "0", "0.001", "2.5555", "two", ".5", "2.", "-1", "+1", "2,5", "99999999999", "²"] {
            assert!(parse_cpu_limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_percentage_is_offered_as_cpus() {
        let said = parse_cpu_limit("250%").expect_err("of what?").to_string();
        assert!(said.contains("2.5 host CPUs"), "{said}");
    }

    #[test]
    fn weights_have_bounds() {
        assert_eq!(parse_cpu_weight("200").map(Weight::get), Ok(200));
        for bad in ["0", "10001", "", "many", "1.5"] {
            assert!(parse_cpu_weight(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(n in 10u32..) {
            let limit = Millicpus::new(n);
            prop_assert_eq!(parse_cpu_limit(&limit.to_string()), Ok(Wish::To(limit)));
        }

        #[test]
        fn any_text_gets_an_answer(text in any::<String>()) {
            let _ = parse_cpu_limit(&text);
            let _ = parse_cpu_weight(&text);
        }
    }
}
