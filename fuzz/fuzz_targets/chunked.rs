//! Feeds one stream to a framer whole, in pieces and byte by byte, and holds it to its promises: the same frames
//! each time, and never more than the limit in memory.

use drive::wire::{Ends, Frame, FrameError, Framer};

const LIMIT: usize = 256;

/// All frames of `input`, whose first byte says how long the pieces are.
pub fn frames(ends: Ends, input: &[u8]) -> Vec<Result<Frame, FrameError>> {
    let Some((size, stream)) = input.split_first() else { return Vec::new() };
    let whole = framed(ends, [stream]);
    assert_eq!(framed(ends, stream.chunks(usize::from(*size).max(1))), whole);
    assert_eq!(framed(ends, stream.chunks(1)), whole);
    whole
}

fn framed<'a>(ends: Ends, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Frame, FrameError>> {
    let mut framer = Framer::new(ends, LIMIT);
    let mut found = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = framer.next(&mut piece) {
            if let Ok(Frame::Object { bytes, .. }) = &frame {
                assert!(*bytes <= LIMIT);
            }
            found.push(frame);
        }
        assert!(piece.is_empty());
        assert!(framer.held() <= LIMIT);
    }
    found
}
