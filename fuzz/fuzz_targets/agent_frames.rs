//! What a guest may send as its agent, from bytes to answers. `cargo +nightly fuzz run agent_frames`
#![no_main]

mod chunked;

use drive::guest::message::classify;
use drive::wire::{Ends, Frame};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    for frame in chunked::frames(Ends::LineOrSentinel, input) {
        match frame {
            Ok(Frame::Object { members, .. }) => {
                if let Ok(Err(refused)) = classify(members) {
                    refused.kind();
                    assert!(!refused.desc.chars().any(char::is_control));
                }
            }
            Ok(Frame::Sentinel) => {}
            Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
        }
    }
});
