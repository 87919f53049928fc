//! What QEMU's monitor may send, from bytes to messages. `cargo +nightly fuzz run qmp_frames`
#![no_main]

mod chunked;

use drive::qmp::message::{Message, classify};
use drive::wire::{Ends, Frame};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    for frame in chunked::frames(Ends::Line, input) {
        match frame {
            Ok(Frame::Object { members, .. }) => {
                if let Ok(Message::Reply { outcome: Err(refused), .. }) = classify(members) {
                    assert!(!refused.desc.chars().any(char::is_control));
                }
            }
            Ok(Frame::Sentinel) => panic!("a monitor has no sentinel"),
            Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
        }
    }
});
