//! How measurements are taken and shown: medians of alternating rounds, as ratios within one run.

use std::time::Duration;

/// One row: what was measured, beside what, and the most that the ratio or the value may be.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) beside: String,
    pub(crate) ratio: Option<f64>,
    pub(crate) bound: String,
    pub(crate) holds: bool,
}

impl Row {
    /// A time that may be at most `most` times another of the same run.
    pub(crate) fn ratio(what: &str, measured: Duration, beside: (&str, Duration), most: f64) -> Row {
        let ratio = measured.as_secs_f64() / beside.1.as_secs_f64();
        Row {
            what: what.to_owned(),
            measured: show(measured),
            beside: format!("{} {}", show(beside.1), beside.0),
            ratio: Some(ratio),
            bound: format!("<= {most:.2} x"),
            holds: ratio <= most,
        }
    }

    /// A time and another of the same run, without a bound.
    pub(crate) fn beside(what: &str, measured: Duration, beside: (&str, Duration)) -> Row {
        Row { bound: String::new(), holds: true, ..Row::ratio(what, measured, beside, f64::INFINITY) }
    }

    /// A time without a bound, for the reader to compare with.
    pub(crate) fn told(what: &str, measured: Duration) -> Row {
        Row {
            what: what.to_owned(),
            measured: show(measured),
            beside: String::new(),
            ratio: None,
            bound: String::new(),
            holds: true,
        }
    }

    /// A time that may be at most `most`.
    pub(crate) fn at_most(what: &str, measured: Duration, most: Duration) -> Row {
        Row {
            what: what.to_owned(),
            measured: show(measured),
            beside: String::new(),
            ratio: None,
            bound: format!("< {}", show(most)),
            holds: measured < most,
        }
    }
}

/// The middle of some times.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A time with a unit that suits it.
pub(crate) fn show(time: Duration) -> String {
    match time.as_nanos() {
        n if n < 1_000_000 => format!("{:.1} us", n as f64 / 1e3),
        n if n < 10_000_000_000 => format!("{:.1} ms", n as f64 / 1e6),
        n => format!("{:.1} s", n as f64 / 1e9),
    }
}

/// Prints the rows as a table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "\n{:<52} {:>11}  {:<30} {:>8}  {:<10}",
        "what", "measured", "beside, in the same run", "ratio", "bound"
    );
    for row in rows {
        let ratio = row.ratio.map_or(String::new(), |r| format!("{r:.2} x"));
        let verdict = match (row.bound.as_str(), row.holds) {
            ("", _) => "",
            (_, true) => "holds",
            (_, false) => "MISSED",
        };
        println!(
            "{:<52} {:>11}  {:<30} {:>8}  {:<10} {verdict}",
            row.what, row.measured, row.beside, ratio, row.bound
        );
    }
}
