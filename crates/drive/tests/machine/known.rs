//! Blocks that a guest does not show: they are waited for, and a kernel with `probe` (played here) is told of exactly
//! those.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drive::{ApplyError, Hypervisor};
use scale::plan::{Act, Zone};
use scale::time::Span;
use serde_json::{Value, json};

use crate::fake::{Answer, PROBE, Party, Q35, Table, debian, no, open, yes};

const BLOCKS: &str = "guest-get-memory-blocks";
/// The handle that the played agent gives for `probe`.
const HANDLE: u64 = 1002;

/// A guest that has `probe`, shows these blocks, then those, and so on.
fn guest(shown: &[&[u64]]) -> Table {
    let mut table = debian().without(BLOCKS);
    for blocks in shown {
        let list: Value = blocks.iter().map(|index| json!({"phys-index": index, "online": false})).collect();
        table = table.then(BLOCKS, yes(list));
    }
    let open = r#"guest-file-open {"mode":"w","path":"/sys/devices/system/memory/probe"}"#;
    let table = table.with(PROBE, json!(HANDLE)).with(open, json!(HANDLE));
    table.with("guest-file-write", json!({"count": 11, "eof": false}))
}

/// Tells the guest of the recorded DIMM of 256 MiB at 0x148000000: memory41 and memory42, for blocks of 128 MiB.
async fn tell(agent: &Party, after: Span) -> Result<(), ApplyError> {
    apply(agent, Act::MakeKnown { device: "d".into(), after }).await
}

/// Does this to that DIMM.
async fn apply(agent: &Party, act: Act) -> Result<(), ApplyError> {
    let dimms = json!([{"type": "dimm", "data": {"id": "d", "addr": 0x1_4800_0000_u64, "size": 256 << 20, "slot": 0,
        "node": 0, "memdev": "/objects/m", "hotplugged": true, "hotpluggable": true}}]);
    let qemu = Party::play(Table::recorded(Q35).with("query-memory-devices", dimms));
    let mut machine = open(&qemu, Some(agent)).await;
    let until = machine.now() + Span::secs(60);
    machine.apply(&act, until).await
}

/// What was written to `probe`, in order.
fn written(agent: &Party) -> Vec<String> {
    let writes = agent.heard().into_iter().filter(|(name, _)| name == "guest-file-write");
    writes
        .map(|(_, arguments)| {
            assert_eq!(arguments["handle"], json!(HANDLE));
            let bytes = STANDARD.decode(arguments["buf-b64"].as_str().expect("text")).expect("base64");
            String::from_utf8(bytes).expect("ASCII")
        })
        .collect()
}

#[tokio::test]
async fn a_kernel_with_probe_is_recognised_once_and_its_file_is_closed() {
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), Party::play(guest(&[&[0]])));
    let mut machine = open(&qemu, Some(&agent)).await;
    for asked in [1, 0] {
        let observed = machine.observe().await.expect("observed");
        assert!(observed.guest.heard().expect("heard").has_probe);
        let heard = agent.heard();
        let is_probe = |argument: &Value| argument["path"] == json!("/sys/devices/system/memory/probe");
        assert_eq!(heard.iter().filter(|(_, arguments)| is_probe(arguments)).count(), asked);
        let closed =
            |(name, a): &&(String, Value)| name == "guest-file-close" && a["handle"] == json!(HANDLE);
        assert_eq!(heard.iter().filter(closed).count(), asked);
        assert!(heard.iter().all(|(name, _)| name != "guest-file-write"), "to look is not to write");
    }
}

#[tokio::test]
async fn the_address_of_each_absent_block_is_written_and_of_no_other() {
    let agent = Party::play(guest(&[&[0, 1]]));
    tell(&agent, Span::millis(0)).await.expect("taken");
    assert_eq!(written(&agent), ["0x148000000", "0x150000000"]);
    let agent = Party::play(guest(&[&[0, 41, 43]]));
    tell(&agent, Span::millis(0)).await.expect("taken");
    assert_eq!(written(&agent), ["0x150000000"]);
}

#[tokio::test(start_paused = true)]
async fn blocks_that_come_by_themselves_in_time_are_not_written() {
    let agent = Party::play(guest(&[&[0], &[0, 41], &[0, 41, 42]]));
    tell(&agent, Span::secs(2)).await.expect("found");
    assert_eq!(written(&agent), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn blocks_that_are_yet_to_come_are_put_online_when_they_are_there() {
    const SET: &str = "guest-set-memory-blocks";
    let answers = |response: &str| {
        let answer = |index: u64| json!({"phys-index": index, "response": response});
        yes(json!([answer(41), answer(42)]))
    };
    let online = || Act::OnlineBlocks { device: "d".into(), zone: Zone::Default };
    let late = guest(&[&[0], &[0, 41], &[0, 41, 42]]).then(SET, answers("not-found"));
    let agent = Party::play(late.then(SET, answers("success")));
    apply(&agent, online()).await.expect("they came");
    assert_eq!(agent.heard_names().iter().filter(|name| *name == SET).count(), 2);

    let never = Party::play(guest(&[&[0]]).then(SET, answers("not-found")));
    let Err(ApplyError::Refused(why)) = apply(&never, online()).await else { panic!("they never came") };
    assert!(why.contains("no such memory block"), "{why}");
    let there = Party::play(guest(&[&[0, 41, 42]]).then(SET, answers("operation-failed")));
    let start = tokio::time::Instant::now();
    assert!(apply(&there, online()).await.is_err());
    assert!(start.elapsed() < Duration::from_secs(1), "what is there is not waited for");
}

#[tokio::test(start_paused = true)]
async fn it_is_told_only_when_its_time_to_find_them_is_over() {
    let agent = Party::play(guest(&[&[0]]));
    let start = tokio::time::Instant::now();
    tell(&agent, Span::secs(2)).await.expect("taken");
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(written(&agent).len(), 2);
}

#[tokio::test]
async fn a_block_that_is_refused_and_there_is_known() {
    // The guest's kernel finds memory41 between the look and the write.
    let close = r#"guest-file-close {"handle":1002}"#;
    let table = guest(&[&[0], &[0, 41, 42]]).then(close, no("failed to close handle: File exists"));
    let agent = Party::play(table);
    tell(&agent, Span::millis(0)).await.expect("there");
    assert_eq!(written(&agent).len(), 2);
}

#[tokio::test]
async fn the_first_block_that_the_kernel_does_not_take_is_named_and_no_more_is_written() {
    let close = r#"guest-file-close {"handle":1002}"#;
    let table = guest(&[&[0]]).then(close, yes(json!({})));
    let agent = Party::play(table.then(close, no("failed to close handle: Cannot allocate memory")));
    let Err(ApplyError::Refused(why)) = tell(&agent, Span::millis(0)).await else { panic!("taken") };
    assert!(why.starts_with("memory42 at 0x150000000: ") && why.contains("Cannot allocate"), "{why}");
    assert!(why.ends_with("(1 of 2 memory blocks were made known)"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_may_have_happened() {
    let table = guest(&[&[0]]).without("guest-file-write").then("guest-file-write", Answer::Never);
    let result = tell(&Party::play(table), Span::millis(0)).await;
    assert!(matches!(&result, Err(ApplyError::Unknown(why)) if why.contains("memory41")), "{result:?}");
}

#[tokio::test]
async fn a_guest_is_not_told_of_what_is_no_whole_dimm_of_this_machine() {
    let agent = Party::play(guest(&[&[0]]));
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, Some(&agent)).await;
    let mut said = BTreeSet::new();
    // A virtio-mem device, a DIMM that begins within a block, and nothing at all.
    for device in ["vm0", "supple-dimm-0", "nothing"] {
        let act = Act::MakeKnown { device: device.into(), after: Span::millis(0) };
        let until = machine.now() + Span::secs(60);
        let Err(ApplyError::Refused(why)) = machine.apply(&act, until).await else { panic!("{device}") };
        said.insert(why);
    }
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(written(&agent), Vec::<String>::new());
}
