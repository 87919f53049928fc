//! How single things read: sizes that need not be exact, points in time, texts of strangers, lines that wrap.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use scale::time::Moment;
use scale::units::Bytes;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A size as a person wants it: exact where that is short, else three digits (`1.92 GiB`).
pub(crate) fn about(size: Bytes) -> String {
    let exact = size.to_string();
    if exact.len() <= "1.25 GiB".len() {
        return exact;
    }
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| size.get() >= *unit).unwrap_or((1, "B"));
    let hundredths = u128::from(size.get()) * 100 / u128::from(unit);
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    match whole {
        0..10 => format!("{whole}.{rest:02} {name}"),
        10..100 => format!("{whole}.{} {name}", rest / 10),
        _ => format!("{whole} {name}"),
    }
}

/// A size as an option's value: without a blank, and read back exactly.
pub(crate) fn as_value(size: Bytes) -> String {
    size.to_string().replace(' ', "")
}

/// `1 block`, `2 blocks`.
pub(crate) fn count(n: u64, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

/// How much earlier `then` is than `now`: `3 min ago`.
pub(crate) fn ago(then: Moment, now: Moment) -> String {
    let span = now.since(then).as_millis() / 1000;
    match span {
        0 => "just now".to_owned(),
        1..120 => format!("{span} s ago"),
        120..7200 => format!("{} min ago", span / 60),
        7200..172_800 => format!("{} h ago", span / 3600),
        _ => format!("{} days ago", span / 86_400),
    }
}

/// A point in time in `zone`: `2026-11-23 17:10:02`.
pub(crate) fn when(at: Moment, zone: &TimeZone) -> String {
    match timestamp(at) {
        Some(at) => at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => "at an unknown time".to_owned(),
    }
}

/// A point in time as machines read it: RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(at: Moment) -> String {
    timestamp(at).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn timestamp(at: Moment) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(at.unix_millis()).ok()?).ok()
}

/// A text of unknown origin on one line, with nothing in it that a terminal obeys: control characters, and those that
/// turn the direction of writing.
pub(crate) fn clean(text: &str) -> String {
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let replaced: String = text.chars().map(|c| if obeyed(c) { ' ' } else { c }).collect();
    replaced.trim_end().to_owned()
}

/// How many columns `text` takes.
pub(crate) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// `text` in lines of at most `room` columns, broken between words, or within one that is too long. Blanks that the
/// text begins with are kept on every line.
pub(crate) fn wrap(text: &str, room: usize) -> Vec<String> {
    let (indent, words) = text.split_at(text.len() - text.trim_start_matches(' ').len());
    let room = room.saturating_sub(indent.len()).max(1);
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if width(line) + 1 + width(word) <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
        while let Some(rest) = split_off_excess(lines.last_mut().expect("there is always a line"), room) {
            lines.push(rest);
        }
    }
    lines.into_iter().map(|line| format!("{indent}{line}")).collect()
}

/// Cuts `line` at `room` columns and gives the rest, where it is longer.
fn split_off_excess(line: &mut String, room: usize) -> Option<String> {
    let mut columns = 0;
    let at = line.char_indices().find_map(|(at, c)| {
        columns += UnicodeWidthChar::width(c).unwrap_or(0);
        (columns > room && at > 0).then_some(at)
    })?;
    Some(line.split_off(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scale::time::Span;

    #[test]
    fn sizes_are_exact_where_that_is_short() {
        assert_eq!(about(Bytes::gib(3)), "3 GiB");
        assert_eq!(about(Bytes::mib(1280)), "1.25 GiB");
        assert_eq!(about(Bytes::new(2_013_412 << 10)), "1.92 GiB");
        assert_eq!(about(Bytes::new(503_412 << 10)), "491 MiB");
        assert_eq!(about(Bytes::new((33 << 30) + 4096)), "33.0 GiB");
        assert_eq!(about(Bytes::ZERO), "0 B");
        assert_eq!(about(Bytes::new(u64::MAX)), "16777215 TiB");
    }

    #[test]
    fn a_size_as_a_value_is_read_back() {
        for size in [Bytes::gib(3), Bytes::mib(1280), Bytes::new(4097)] {
            assert_eq!(scale::units::parse_size(&as_value(size)), Ok(size));
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_taken_out() {
        assert_eq!(clean("a\u{1b}[31mred\r\nb\u{9b}c\u{7}"), "a [31mred  b c");
        assert_eq!(clean("evil\u{202e}txt\u{2066}x"), "evil txt x");
        assert_eq!(clean("Debian GNU/Linux 12 (b\u{fc}cherwurm)"), "Debian GNU/Linux 12 (b\u{fc}cherwurm)");
    }

    #[test]
    fn lines_break_between_words_and_within_long_ones() {
        assert_eq!(
            wrap("plug DIMM supple-dimm0 into slot 0", 12),
            ["plug DIMM", "supple-dimm0", "into slot 0"]
        );
        assert_eq!(wrap("0123456789abc de", 5), ["01234", "56789", "abc", "de"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("  one two", 6), ["  one", "  two"]);
        assert_eq!(wrap("\u{4e2d}\u{6587}\u{5b57}", 5), ["\u{4e2d}\u{6587}", "\u{5b57}"]);
        assert!(wrap("abc", 0).iter().all(|line| line.len() == 1));
    }

    #[test]
    fn times_read_from_near_to_far() {
        let now = Moment::from_unix_millis(1_795_453_802_123);
        let before = |secs| ago(now - Span::secs(secs), now);
        assert_eq!([before(0), before(5), before(200)], ["just now", "5 s ago", "3 min ago"]);
        assert_eq!([before(8000), before(200_000)], ["2 h ago", "2 days ago"]);
        assert_eq!(when(now, &TimeZone::UTC), "2026-11-23 17:10:02");
        assert_eq!(rfc3339(now), "2026-11-23T17:10:02.123Z");
        assert_eq!(when(Moment::from_unix_millis(u64::MAX), &TimeZone::UTC), "at an unknown time");
    }
}
