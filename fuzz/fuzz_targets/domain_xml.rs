//! Any text as a machine's description: read, prepared, compared. With the descriptions of the tests to start from:
//! `cargo +nightly fuzz run domain_xml fuzz/corpus/domain_xml crates/drive/tests/domxml/corpus -- -dict=fuzz/domain.dict`
//!
//! The last byte chooses what is asked for, so that edits of all kinds meet texts of all kinds.
#![no_main]

use drive::domxml::{Domain, HostLimits, Prepare, VirtioMem, drift, prepare, with_requested};
use scale::units::Bytes;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((choice, text)) = input.split_last() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let host = HostLimits { address_bits: Some(46), amd: choice & 1 != 0, ..HostLimits::default() };
    let asked = |bit: u8| choice & (1 << bit) != 0;
    let want = Prepare {
        max_memory: asked(1).then(|| Bytes::gib(64)),
        slots: asked(2).then_some(32),
        max_vcpus: asked(3).then_some(48),
        removable_vcpus: asked(4),
        virtio_mem: asked(5).then(VirtioMem::default),
        agent_channel: asked(6),
    };
    let _ = with_requested(text, Bytes::gib(1));
    let Ok(before) = Domain::parse(text) else { return };
    assert!(drift(&before, &before).is_empty(), "a machine differs from itself");
    let Ok(done) = prepare(text, &want, &host) else { return };
    let after = Domain::parse(&done.xml).expect("what was prepared is a description");
    assert_eq!((before.memory.boot, before.vcpus.current), (after.memory.boot, after.vcpus.current));
    let again = prepare(&done.xml, &want, &host).expect("what was prepared can be prepared");
    assert!(again.is_unchanged(), "{}", again.diff);
});
