//! The framer against a naive one that has the whole stream at hand.

use drive::wire::{Ends, Frame, FrameError, Framer, SENTINEL, shown};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 64;

type Found = Result<Frame, FrameError>;

/// All frames of a stream that comes in these pieces.
fn framed<'a>(ends: Ends, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Found> {
    let mut framer = Framer::new(ends, LIMIT);
    let mut found = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = framer.next(&mut piece) {
            assert!(framer.held() <= LIMIT, "{} bytes held", framer.held());
            found.push(frame);
        }
        assert!(piece.is_empty(), "bytes left over");
        assert!(framer.held() <= LIMIT, "{} bytes held", framer.held());
    }
    found
}

/// What the frames are, by splitting the whole stream.
fn naive(ends: Ends, stream: &[u8]) -> Vec<Found> {
    let is_end = |byte: &u8| *byte == b'\n' || (ends == Ends::LineOrSentinel && *byte == SENTINEL);
    let mut found = Vec::new();
    for line in stream.split_inclusive(is_end) {
        let end = line.last().copied().filter(|byte| is_end(byte));
        let line = if end.is_some() { &line[..line.len() - 1] } else { line };
        if line.len() > LIMIT {
            found.push(Err(FrameError::TooLong { limit: LIMIT }));
        } else if end == Some(b'\n') {
            // A line by itself, through a framer that has seen nothing else.
            found.extend(framed(Ends::Line, [line, b"\n"]));
        }
        if end == Some(SENTINEL) {
            found.push(Ok(Frame::Sentinel));
        }
    }
    found
}

/// Streams in which boundaries, frames, near-frames and over-long lines are all frequent.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => Just(b"{\"return\": {}}\r\n".to_vec()),
        2 => Just(b"{\"event\": \"X\"}\n".to_vec()),
        2 => Just(b"{\"error\": {\"class\": ".to_vec()),
        1 => Just(b"\"\xc3\xa9\"".to_vec()),
        2 => Just(b"\n".to_vec()),
        2 => Just(vec![SENTINEL]),
        1 => Just(vec![0]),
        1 => vec(any::<u8>(), 0..20),
        1 => (LIMIT - 3..LIMIT + 3).prop_map(|length| vec![b' '; length]),
    ];
    vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![Just(Ends::Line), Just(Ends::LineOrSentinel)]
}

proptest! {
    #[test]
    fn the_cut_of_the_stream_makes_no_difference(
        ends in ends(), stream in stream(), sizes in vec(1_usize..40, 1..100),
    ) {
        let mut rest = &stream[..];
        let mut pieces = Vec::new();
        for size in sizes {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let expected = naive(ends, &stream);
        prop_assert_eq!(&framed(ends, [&stream[..]]), &expected);
        prop_assert_eq!(&framed(ends, pieces), &expected);
        prop_assert_eq!(&framed(ends, stream.chunks(1)), &expected);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(ends in ends(), stream in vec(any::<u8>(), 0..4000)) {
        // `framed` checks what is held after each step.
        prop_assert_eq!(framed(ends, stream.chunks(7)), naive(ends, &stream));
    }
}

#[test]
fn a_gibibyte_of_json_is_not_kept() {
    let limit = 1024 * 1024;
    let mut framer = Framer::new(Ends::Line, limit);
    let piece = b"{\"return\": [\"0123456789\", ".repeat(2500);
    let (mut fed, mut most, mut errors) = (0, 0, Vec::new());
    while fed < 1 << 30 {
        let mut bytes = &piece[..];
        while let Some(frame) = framer.next(&mut bytes) {
            errors.push(frame);
        }
        most = most.max(framer.held());
        fed += piece.len();
    }
    assert_eq!(errors, [Err(FrameError::TooLong { limit })]);
    assert!((limit / 2..=limit).contains(&most), "{most} bytes held at most");
    assert_eq!(framer.held(), 0);
    let next = framer.next(&mut &b"\n{}\n"[..]);
    assert!(matches!(next, Some(Ok(Frame::Object { .. }))), "{next:?}");
}

#[test]
fn a_long_frame_leaves_no_large_buffer_behind() {
    let mut framer = Framer::new(Ends::Line, 1024 * 1024);
    let line = format!("{{\"return\": \"{}\"}}\n", "x".repeat(500_000));
    let (mut start, mut end) = line.as_bytes().split_at(300_000);
    assert_eq!(framer.next(&mut start), None);
    assert!(framer.held() >= 300_000);
    assert!(matches!(framer.next(&mut end), Some(Ok(Frame::Object { bytes: 500_014, .. }))));
    assert_eq!(framer.held(), 0);
}

#[test]
fn nesting_does_not_reach_the_stack() {
    let mut framer = Framer::new(Ends::Line, 1024 * 1024);
    let line = format!("{{\"return\": {}\n{{}}\n", "[".repeat(1_000_000));
    let mut bytes = line.as_bytes();
    let Some(Err(FrameError::NotObject { why, .. })) = framer.next(&mut bytes) else { panic!("accepted") };
    assert!(why.contains("recursion limit"), "{why}");
    assert!(matches!(framer.next(&mut bytes), Some(Ok(Frame::Object { .. }))));
}

#[test]
fn what_a_guest_says_cannot_steer_the_terminal() {
    assert_eq!(shown("no \u{1b}[2J such\0"), "no \\u{1b}[2J such\\u{0}");
    assert_eq!(shown(&"é".repeat(3000)).chars().count(), 2001);
}
