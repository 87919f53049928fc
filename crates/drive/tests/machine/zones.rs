//! Zones of memory blocks, written and read through a played agent's files.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drive::qmp::QmpMachine;
use drive::{ApplyError, Hypervisor};
use scale::plan::{Act, Proof, Zone};
use scale::sight::{GuestView, Judgement, Look, Sight};
use scale::time::Span;
use serde_json::{Value, json};

use crate::fake::{Party, Q35, Table, debian, no, open, yes};

const BLOCKS: &str = "guest-get-memory-blocks";
const SET: &str = "guest-set-memory-blocks";
const DEVICE: &str = "supple-dimm-0";
/// The recorded DIMM of 256 MiB at 0x144000000 lies, for blocks of 128 MiB, in memory40 to memory42.
const DIMM: [u64; 3] = [40, 41, 42];

fn file(index: u64, mode: &str, name: &str) -> String {
    format!(r#"guest-file-open {{"mode":"{mode}","path":"/sys/devices/system/memory/memory{index}/{name}"}}"#)
}

/// The handle of a block's file; 1000 and more are taken.
fn handle(index: u64, name: &str) -> u64 {
    if name == "state" { index } else { 100 + index }
}

fn closing(index: u64) -> String {
    format!(r#"guest-file-close {{"handle":{}}}"#, handle(index, "state"))
}

/// A guest of a DIMM's blocks, in this state, whose files can be written and which tells these zones.
fn guest(online: bool, zones: [&str; 3]) -> Table {
    let shown: Value = DIMM.iter().map(|index| json!({"phys-index": index, "online": online})).collect();
    let done = |index: &u64| json!({"phys-index": index, "response": "success"});
    let mut table = debian()
        .with(BLOCKS, shown)
        .with(SET, DIMM.iter().map(done).collect())
        .with("guest-file-write", json!({"count": 14, "eof": false}));
    for (index, zone) in DIMM.into_iter().zip(zones) {
        table = table.with(&file(index, "w", "state"), json!(handle(index, "state")));
        table = table.with(&closing(index), json!({}));
        table = table.with(&file(index, "r", "valid_zones"), json!(handle(index, "valid_zones")));
        let content = STANDARD.encode(format!("{zone}\n"));
        table = table.with(
            &format!(r#"guest-file-read {{"count":65,"handle":{}}}"#, handle(index, "valid_zones")),
            json!({"count": zone.len() + 1, "eof": true, "buf-b64": content}),
        );
    }
    table
}

/// The kernel does not take a word that is written to these blocks' state.
fn refusing(table: Table, blocks: &[u64]) -> Table {
    let invalid = || no("failed to close handle: Invalid argument");
    blocks
        .iter()
        .fold(table, |table, index| table.without(&closing(*index)).then(&closing(*index), invalid()))
}

async fn driven(agent: &Party) -> QmpMachine {
    open(&Party::play(Table::recorded(Q35)), Some(agent)).await
}

async fn online(machine: &mut QmpMachine, zone: Zone) -> Result<(), ApplyError> {
    let until = machine.now() + Span::secs(60);
    machine.apply(&Act::OnlineBlocks { device: DEVICE.into(), zone }, until).await
}

/// The words that were written to each block's state, and whether the agent's own command was used.
fn written(agent: &Party) -> (BTreeMap<u64, String>, bool) {
    let heard = agent.heard();
    let words = heard.iter().filter(|(name, _)| name == "guest-file-write").map(|(_, arguments)| {
        let word = STANDARD.decode(arguments["buf-b64"].as_str().expect("text")).expect("base64");
        (arguments["handle"].as_u64().expect("a handle"), String::from_utf8(word).expect("ASCII"))
    });
    (words.collect(), heard.iter().any(|(name, _)| name == SET))
}

fn all(word: &str) -> BTreeMap<u64, String> {
    DIMM.into_iter().map(|index| (index, word.to_owned())).collect()
}

#[tokio::test]
async fn what_goes_where_it_is_to_go_is_not_remarked_on() {
    for zone in [Zone::Movable, Zone::PreferMovable] {
        let agent = Party::play(guest(false, ["Movable"; 3]));
        let mut machine = driven(&agent).await;
        online(&mut machine, zone).await.expect("online");
        assert_eq!(written(&agent), (all("online_movable"), false));
        assert_eq!(machine.remarks(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_does_not_go_movable_goes_as_the_kernel_likes_and_is_remarked_on() {
    let agent = Party::play(refusing(guest(false, ["Movable", "Normal", "Movable"]), &[41]));
    let mut machine = driven(&agent).await;
    online(&mut machine, Zone::PreferMovable).await.expect("online");
    let set = agent.heard().into_iter().find(|(name, _)| name == SET);
    let (_, arguments) = set.expect("the rest is put online as well");
    assert_eq!(arguments["mem-blks"], json!([{"phys-index": 41, "online": true}]));
    let said = machine.remarks();
    assert_eq!(
        said,
        ["1 memory block is online in Normal and not in Movable, which may not come out again: memory41"]
    );
    assert_eq!(machine.remarks(), Vec::<String>::new(), "it is said once");
}

#[tokio::test]
async fn a_block_that_refuses_and_is_movable_is_not_remarked_on() {
    // The guest's own rule was first, and put it where it was to go.
    let agent = Party::play(refusing(guest(true, ["Movable"; 3]), &[41]));
    let mut machine = driven(&agent).await;
    online(&mut machine, Zone::PreferMovable).await.expect("online");
    assert_eq!(machine.remarks(), Vec::<String>::new());
}

#[tokio::test]
async fn an_agent_that_may_not_write_files_leaves_the_zone_to_the_kernel_and_says_so() {
    let mut table = guest(false, ["Normal"; 3]);
    for index in DIMM {
        let path = file(index, "w", "state");
        table = table.without(&path).then(&path, no("Command guest-file-open has been disabled"));
    }
    let agent = Party::play(table.clone());
    let mut machine = driven(&agent).await;
    online(&mut machine, Zone::PreferMovable).await.expect("online");
    assert!(machine.remarks()[0].starts_with("3 memory blocks are online in Normal"));

    let agent = Party::play(table);
    let Err(ApplyError::Refused(why)) = online(&mut driven(&agent).await, Zone::Movable).await else {
        panic!("insisted on")
    };
    assert!(why.starts_with("3 of 3 memory blocks do not go online as movable: memory40: "), "{why}");
    assert!(!written(&agent).1, "nothing else is tried");
}

#[tokio::test]
async fn movable_that_is_insisted_on_is_refused_with_the_block_and_the_reason() {
    let agent = Party::play(refusing(guest(false, ["Movable", "Normal", "Movable"]), &[41]));
    let Err(ApplyError::Refused(why)) = online(&mut driven(&agent).await, Zone::Movable).await else {
        panic!("insisted on")
    };
    assert!(why.starts_with("1 of 3 memory blocks do not go online as movable: memory41: "), "{why}");
    assert!(why.contains("Invalid argument"), "{why}");
    assert!(!written(&agent).1, "it stays offline");
}

#[tokio::test]
async fn blocks_come_back_in_the_zones_that_they_had() {
    let agent = Party::play(guest(true, ["Movable", "Normal", "Movable"]));
    let mut machine = driven(&agent).await;
    let until = machine.now() + Span::secs(60);
    machine.apply(&Act::OfflineBlocks { device: DEVICE.into() }, until).await.expect("offline");
    agent.heard();
    online(&mut machine, Zone::AsBefore).await.expect("online");
    let (words, _) = written(&agent);
    assert_eq!(words[&41], "online_kernel");
    assert_eq!((words[&40].as_str(), words[&42].as_str()), ("online_movable", "online_movable"));
    assert_eq!(machine.remarks(), Vec::<String>::new());
}

#[tokio::test]
async fn a_block_of_unknown_zone_comes_back_movable_and_one_that_refuses_its_zone_is_remarked_on() {
    let agent = Party::play(guest(false, ["Movable"; 3]));
    online(&mut driven(&agent).await, Zone::AsBefore).await.expect("online");
    assert_eq!(written(&agent).0, all("online_movable"));

    let mut table = refusing(guest(true, ["Normal"; 3]), &[40]);
    let zone = r#"guest-file-read {"count":65,"handle":140}"#;
    table = table.then(zone, yes(json!({"count": 8, "eof": true, "buf-b64": STANDARD.encode("Movable\n")})));
    let agent = Party::play(table);
    let mut machine = driven(&agent).await;
    let until = machine.now() + Span::secs(60);
    machine.apply(&Act::OfflineBlocks { device: DEVICE.into() }, until).await.expect("offline");
    online(&mut machine, Zone::AsBefore).await.expect("online");
    assert_eq!(machine.remarks(), ["1 memory block is online in Movable and not in Normal: memory40"]);
}

async fn judged(table: Table) -> Judgement {
    let agent = Party::play(table);
    let sight = driven(&agent).await.look(&Look::Zones(DEVICE.into())).await.expect("looked");
    assert!(matches!(sight, Sight::Zones(Some(GuestView::Shows(_)))), "{sight:?}");
    Proof::BlocksMovable { device: DEVICE.into(), whole: true }.judge(&sight, false)
}

#[tokio::test]
async fn movable_is_proven_by_the_zones_that_the_guest_tells() {
    assert!(matches!(judged(guest(true, ["Movable"; 3])).await, Judgement::Holds(_)));
    assert!(matches!(judged(guest(false, ["Movable"; 3])).await, Judgement::NotYet(_)));
    let said = judged(guest(true, ["Movable", "Normal", "Movable"])).await;
    assert!(
        matches!(&said, Judgement::Never(why) if why.contains("memory41 is online in the zone Normal")),
        "{said:?}"
    );
    let silent = guest(true, ["Movable"; 3]).without(&file(42, "r", "valid_zones"));
    let said = judged(silent).await;
    assert!(
        matches!(&said, Judgement::Never(why) if why.contains("not tell the zone of memory42")),
        "{said:?}"
    );
}
