//! A picture of a few values over time, in a terminal: filled columns from left to right.
//!
//! Pure: values in, lines out.

/// One curve: its name, its unit, its colour (an ANSI number from 31 to 36) and its samples in order of time.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) colour: u8,
    pub(crate) samples: &'a [(f64, f64)],
}

const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws a curve `width` columns wide and `height` lines high, with its axis at the left and its time below.
pub(crate) fn draw(curve: &Curve<'_>, width: usize, height: usize, colours: bool) -> Vec<String> {
    let end = curve.samples.iter().map(|s| s.0).fold(0.0, f64::max).max(0.001);
    let top = curve.samples.iter().map(|s| s.1).fold(0.0, f64::max).ceil().max(1.0);
    let columns = columns(curve.samples, end, width);
    let paint = |text: String| {
        if colours { format!("\u{1b}[{}m{text}\u{1b}[0m", curve.colour) } else { text }
    };
    let mut lines = vec![format!("{} ({})", curve.name, curve.unit)];
    for line in (0..height).rev() {
        let mark = if line == height - 1 {
            format!("{top:>5.0}")
        } else if line == 0 {
            format!("{:>5}", 0)
        } else {
            " ".repeat(5)
        };
        let cells: String = columns
            .iter()
            .map(|value| {
                let eighths = value / top * height as f64 * 8.0 - line as f64 * 8.0;
                EIGHTHS[(eighths.round().max(0.0) as usize).min(8)]
            })
            .collect();
        lines.push(format!("{mark} ┤{}", paint(cells.trim_end().to_owned())));
    }
    lines.push(format!("      └{}", "─".repeat(width)));
    lines.push(format!("       0 s{:>rest$}", format!("{end:.1} s"), rest = width.saturating_sub(3)));
    lines
}

/// The value that stood at the end of each column's time: the last sample up to there.
fn columns(samples: &[(f64, f64)], end: f64, width: usize) -> Vec<f64> {
    (1..=width)
        .map(|column| {
            let until = end * column as f64 / width as f64;
            let past = samples.iter().take_while(|(at, _)| *at <= until + 1e-9).last();
            past.or(samples.first()).map_or(0.0, |sample| sample.1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_drawn_as_a_step() {
        let samples = [(0.0, 1.0), (5.0, 2.0), (10.0, 2.0)];
        let curve = Curve { name: "memory", unit: "GiB", colour: 36, samples: &samples };
        let lines = draw(&curve, 10, 2, false);
        assert_eq!(lines[1], "    2 ┤    ██████");
        assert_eq!(lines[2], "    0 ┤██████████");
        assert_eq!(lines[4], "       0 s 10.0 s");
    }

    #[test]
    fn nothing_to_draw_is_no_reason_to_fall_over() {
        let curve = Curve { name: "memory", unit: "GiB", colour: 36, samples: &[] };
        assert_eq!(draw(&curve, 4, 1, true).len(), 4);
    }
}
