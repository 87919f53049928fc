//! What the driver makes of the guest's side: facts, nonsense, silence, and memory blocks that do as they like.

use std::time::Duration;

use drive::{ApplyError, Hypervisor};
use scale::observed::{AutoOnline, Guest, GuestFacts, Known, MemBlock};
use scale::plan::{Act, Zone};
use scale::setting::Millicpus;
use scale::sight::{GuestView, Look, Sight};
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{Scope, Wanted, Wish};
use serde_json::{Value, json};

use crate::fake::{Answer, Party, Q35, Table, debian, no, open, yes};

const BLOCKS: &str = "guest-get-memory-blocks";
const SET: &str = "guest-set-memory-blocks";
const VCPUS: &str = "guest-get-vcpus";

async fn guest(agent: Table) -> Guest {
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), Party::play(agent));
    open(&qemu, Some(&agent)).await.observe().await.expect("observed").guest
}

async fn facts(agent: Table) -> GuestFacts {
    match guest(agent).await {
        Guest::Heard(facts) => *facts,
        Guest::Unheard(why) => panic!("{why}"),
    }
}

async fn apply(agent: &Party, act: Act) -> Result<(), ApplyError> {
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, Some(agent)).await;
    let until = machine.now() + Span::secs(60);
    machine.apply(&act, until).await
}

fn refused(result: Result<(), ApplyError>) -> String {
    let Err(ApplyError::Refused(why)) = result else { panic!("{result:?}") };
    why
}

fn online(zone: Zone) -> Act {
    Act::OnlineBlocks { device: "supple-dimm-0".into(), zone }
}

fn offline() -> Act {
    Act::OfflineBlocks { device: "supple-dimm-0".into() }
}

/// The recorded DIMM of 256 MiB at 0x144000000 lies, for blocks of 128 MiB, in memory40 to memory42.
const DIMM: [u64; 3] = [40, 41, 42];

fn outcome(index: u64, response: &str, code: Option<i64>) -> Value {
    let mut item = json!({"phys-index": index, "response": response});
    if let Some(code) = code {
        item["error-code"] = json!(code);
    }
    item
}

fn shown(online: bool) -> Value {
    DIMM.iter().map(|index| json!({"phys-index": index, "online": online, "can-offline": true})).collect()
}

#[tokio::test]
async fn all_that_an_agent_tells_is_taken_in_two_exchanges() {
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), Party::play(debian()));
    let mut machine = open(&qemu, Some(&agent)).await;
    let observed = machine.observe().await.expect("observed");
    let facts = observed.guest.heard().expect("heard");
    assert_eq!((facts.agent_version.as_str(), facts.os_id.as_deref()), ("7.2.22", Some("debian")));
    assert!(facts.can("guest-get-vcpus") && !facts.can("guest-exec"));
    assert_eq!((facts.block, facts.kernel.as_deref()), (Some(Bytes::mib(128)), Some("6.1.0")));
    let blocks: Vec<(u64, bool)> = facts.blocks.iter().map(|b| (b.index, b.online)).collect();
    assert_eq!(blocks, [(0, true), (1, true), (2, false), (3, true)]);
    assert_eq!(
        facts.vcpus.iter().map(|v| (v.id, v.online, v.can_offline)).collect::<Vec<_>>(),
        [(0, true, false), (1, false, true)]
    );
    let meminfo = facts.meminfo.expect("figures");
    assert_eq!(meminfo.total, Bytes::new(500_000 << 10));
    assert_eq!((meminfo.free, meminfo.available), (Bytes::new(300_000 << 10), Bytes::new(400_000 << 10)));
    assert_eq!(facts.auto_online, Some(AutoOnline::Offline));
    assert!(!facts.has_probe);
    assert_eq!(agent.heard().len(), 9 + 4);
    // What lasts is not asked again.
    machine.observe().await.expect("observed");
    assert_eq!(agent.heard().len(), 5 + 4);
}

#[tokio::test]
async fn what_an_agent_does_not_offer_is_absent() {
    let windows = Table::agent().with("guest-info", json!({"version": "9", "supported_commands": []}));
    let facts = facts(windows.with(VCPUS, json!([{"logical-id": 0, "online": true}]))).await;
    assert_eq!((facts.block, facts.blocks.len(), facts.meminfo), (None, 0, None));
    assert_eq!((facts.online_vcpus(), facts.auto_online), (1, None));
}

#[tokio::test]
async fn nonsense_from_a_guest_is_no_fact() {
    let block = |index: Value| json!([{"phys-index": index, "online": true, "can-offline": true}]);
    let many: Value = (0..70_000).map(|index| json!({"phys-index": index, "online": true})).collect();
    for (command, answer) in [
        (BLOCKS, json!({"0": true})),
        (BLOCKS, block(json!(-1))),
        (BLOCKS, block(json!("NaN"))),
        (BLOCKS, block(json!(1.5))),
        (BLOCKS, block(Value::Null)),
        (BLOCKS, json!([{"phys-index": 1, "online": "yes"}])),
        (BLOCKS, json!([{"phys-index": 1, "online": true}, {"phys-index": 1, "online": false}])),
        (BLOCKS, many),
        ("guest-network-get-interfaces", json!([{"hardware-address": "52:54:00:00:00:01"}])),
        ("guest-network-get-interfaces", json!({"eth0": true})),
        ("guest-network-get-interfaces", Value::Array(vec![json!({"name": "eth0"}); 2000])),
        (VCPUS, json!([{"logical-id": -1, "online": true}])),
        (VCPUS, json!([{"logical-id": 1_u64 << 40, "online": true}])),
        (VCPUS, json!("two")),
        ("guest-get-memory-block-info", json!({"size": 1000})),
        ("guest-get-memory-block-info", json!({"size": 0})),
        ("guest-info", json!({"supported_commands": [{"enabled": true}]})),
    ] {
        let guest = guest(debian().with(command, answer)).await;
        assert!(matches!(&guest, Guest::Unheard(why) if why.contains(command)), "{command}: {guest:?}");
    }
}

#[tokio::test]
async fn a_million_blocks_cost_one_error() {
    let many = r#"{"phys-index": 7, "online": true},"#.repeat(1_000_000);
    let answer = Answer::Raw(format!("{{\"return\": [{}]}}\n", many.trim_end_matches(',')).into_bytes());
    let guest = guest(debian().without(BLOCKS).then(BLOCKS, answer)).await;
    assert!(matches!(&guest, Guest::Unheard(why) if why.contains("longer than")), "{guest:?}");
}

#[tokio::test]
async fn a_guest_cannot_steer_a_terminal_or_fill_it() {
    let os = json!({"pretty-name": format!("\u{1b}[2Jevil\u{7}{}", "x".repeat(10_000)), "id": "", "kernel-release": 7});
    let facts = facts(debian().with("guest-get-osinfo", os)).await;
    let name = facts.os.expect("a name");
    assert!(!name.chars().any(char::is_control) && name.len() < 1000, "{name}");
    assert_eq!((facts.os_id, facts.kernel), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_silent_guest_costs_its_limit_once() {
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), tempfile::tempdir().expect("a directory"));
    let path = agent.path().join("agent.sock");
    let _listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let limits = scale::limits::Limits::default();
    let start = tokio::time::Instant::now();
    let mut machine =
        drive::qmp::QmpMachine::open(&qemu.path, Some(&path), &limits).await.expect("connected");
    for _ in 0..3 {
        let observed = machine.observe().await.expect("observed");
        assert!(
            matches!(&observed.guest, Guest::Unheard(why) if why.contains("silent")),
            "{:?}",
            observed.guest
        );
        let sight = machine.look(&Look::Vcpus).await.expect("looked");
        assert!(matches!(sight, Sight::Vcpus(GuestView::Silent(_))), "{sight:?}");
    }
    let limit = std::time::Duration::from_millis(limits.agent.as_millis());
    assert!(start.elapsed() < limit * 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn without_an_agent_the_guest_is_not_asked() {
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, None).await;
    let observed = machine.observe().await.expect("observed");
    assert!(matches!(&observed.guest, Guest::Unheard(why) if why.contains("no guest agent")));
    let sight = machine.look(&Look::Blocks("supple-dimm-0".into())).await.expect("looked");
    assert!(matches!(sight, Sight::Blocks(Some(GuestView::Unasked(_)))), "{sight:?}");
    let sight = machine.look(&Look::Blocks("nothing".into())).await.expect("looked");
    assert_eq!(sight, Sight::Blocks(None));
}

#[tokio::test]
async fn a_wish_for_memory_asks_for_memory_alone_and_once_for_what_does_not_change() {
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), Party::play(debian()));
    let mut machine = open(&qemu, Some(&agent)).await;
    let asked = || [qemu.heard_names(), agent.heard_names()].concat();
    let beside = ["query-block", "guest-network-get-interfaces", "guest-exec", "guest-get-vcpus"];
    let wanted = Wanted { memory: Some(Change::Grow(Bytes::gib(1))), ..Wanted::default() };
    machine.attend(wanted.scope());
    let seen = machine.observe().await.expect("observed");
    assert_eq!(asked().iter().find(|command| beside.contains(&command.as_str())), None);
    assert_eq!((seen.power, seen.disks, seen.nics), (Known::default(), Known::default(), Known::default()));
    assert!(seen.guest.heard().is_some_and(|facts| facts.meminfo.is_some() && facts.auto_online.is_some()));
    let opened = |asked: Vec<String>| asked.iter().filter(|command| *command == "guest-file-open").count();
    let before = opened(asked());
    let again = machine.observe().await.expect("observed");
    assert_eq!(opened(asked()) - before, 1, "only /proc/meminfo changes by itself");
    assert!(again.guest.heard().is_some_and(|facts| facts.auto_online.is_some()));
    machine.attend(Scope::ALL);
    let seen = machine.observe().await.expect("observed");
    assert!(seen.guest.heard().is_some_and(|facts| !facts.vcpus.is_empty() && facts.os_id.is_some()));
    let all = asked();
    let more = ["query-block", "guest-network-get-interfaces", "guest-get-vcpus"];
    assert!(more.iter().all(|command| all.contains(&(*command).into())));
}

#[tokio::test]
async fn a_limit_asks_the_guest_nothing_and_a_vcpu_nothing_of_its_memory() {
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), Party::play(debian()));
    let mut machine = open(&qemu, Some(&agent)).await;
    let limit = Wanted { cpu_limit: Wish::To(Millicpus::new(500)), ..Wanted::default() };
    machine.attend(limit.scope());
    let seen = machine.observe().await.expect("observed");
    assert!(matches!(&seen.guest, Guest::Unheard(why) if why.contains("not asked")), "{:?}", seen.guest);
    assert_eq!(agent.heard_names(), [""; 0]);

    let more = Wanted { vcpus: Some(Change::Grow(1)), ..Wanted::default() };
    machine.attend(more.scope());
    let seen = machine.observe().await.expect("observed");
    let facts = seen.guest.heard().expect("a guest");
    assert!(!facts.vcpus.is_empty() && !facts.commands.is_empty() && facts.os_id.is_some());
    let of_memory = |command: &String| command.contains("memory") || command.contains("file");
    assert!(!agent.heard_names().iter().any(of_memory), "{:?}", agent.heard_names());

    machine.attend(Scope { vcpus: false, memory: true, ..more.scope() });
    let seen = machine.observe().await.expect("observed");
    let facts = seen.guest.heard().expect("a guest");
    assert!(facts.block.is_some() && facts.auto_online.is_some(), "what was left out is asked for after all");
}

#[tokio::test]
async fn a_look_shows_only_the_device_s_own_blocks() {
    let mut all = shown(false);
    all.as_array_mut().expect("a list").push(json!({"phys-index": 7, "online": true}));
    let (qemu, agent) = (Party::play(Table::recorded(Q35)), Party::play(debian().with(BLOCKS, all)));
    let mut machine = open(&qemu, Some(&agent)).await;
    let sight = machine.look(&Look::Dimm("supple-dimm-0".into())).await.expect("looked");
    let Sight::Dimm(Some(dimm)) = sight else { panic!("{sight:?}") };
    let GuestView::Shows(seen) = dimm.guest else { panic!("{:?}", dimm.guest) };
    assert_eq!((seen.block, seen.covers), (Bytes::mib(128), 3));
    assert_eq!(seen.blocks, DIMM.map(|index| MemBlock { index, online: false }));
}

#[tokio::test]
async fn blocks_go_online_in_one_call_and_failures_are_named() {
    let done = |middle| json!([outcome(42, "success", None), middle, outcome(40, "success", None)]);
    let agent = Party::play(debian().with(SET, done(outcome(41, "success", None))));
    apply(&agent, online(Zone::Default)).await.expect("online");
    let blocks: Vec<Value> = DIMM.iter().map(|index| json!({"phys-index": index, "online": true})).collect();
    assert_eq!(agent.heard().pop(), Some((SET.into(), json!({ "mem-blks": blocks }))));

    let agent = Party::play(debian().with(SET, done(outcome(41, "operation-failed", Some(12)))));
    let why = refused(apply(&agent, online(Zone::Default)).await);
    assert_eq!(why, "1 of 3 memory blocks did not go online: memory41: Cannot allocate memory");
    let agent = Party::play(debian().with(SET, json!([])));
    assert!(refused(apply(&agent, online(Zone::Default)).await).contains("3 of 3"));
}

#[tokio::test]
async fn blocks_go_offline_one_by_one_and_the_first_that_stays_is_named() {
    let table = debian().with(BLOCKS, shown(true)).then(SET, yes(json!([outcome(42, "success", None)])));
    let agent = Party::play(table.then(SET, yes(json!([outcome(41, "operation-failed", Some(22))]))));
    let why = refused(apply(&agent, offline()).await);
    assert_eq!(why, "memory41: Invalid argument (1 of 3 memory blocks are offline)");
    assert_eq!(agent.heard_names().iter().filter(|name| *name == SET).count(), 2, "it stops there");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_busy_for_a_moment_is_asked_for_again() {
    let busy = |code| yes(json!([outcome(42, "operation-failed", Some(code))]));
    let mut table =
        debian().with(BLOCKS, shown(true)).then(SET, busy(16)).then(SET, busy(11)).then(SET, busy(4));
    for index in [42, 41, 40] {
        table = table.then(SET, yes(json!([outcome(index, "success", None)])));
    }
    let agent = Party::play(table);
    apply(&agent, offline()).await.expect("offline");
    let asked: Vec<Value> = agent
        .heard()
        .into_iter()
        .filter(|(name, _)| name == SET)
        .map(|(_, a)| a["mem-blks"][0].clone())
        .collect();
    let indices: Vec<u64> = asked.iter().filter_map(|block| block["phys-index"].as_u64()).collect();
    assert_eq!(indices, [42, 42, 42, 42, 41, 40]);
}

#[tokio::test(start_paused = true)]
async fn a_block_that_stays_busy_is_given_up_in_its_time() {
    let agent = Party::play(
        debian().with(BLOCKS, shown(true)).with(SET, json!([outcome(42, "operation-failed", Some(16))])),
    );
    let start = tokio::time::Instant::now();
    let why = refused(apply(&agent, offline()).await);
    assert_eq!(why, "memory42: Device or resource busy, asked 8 times (0 of 3 memory blocks are offline)");
    assert_eq!(agent.heard_names().iter().filter(|name| *name == SET).count(), 8);
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn blocks_that_are_offline_already_are_left_alone() {
    let agent = Party::play(debian().with(BLOCKS, shown(false)));
    apply(&agent, offline()).await.expect("offline");
    assert!(!agent.heard_names().contains(&SET.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_block_that_gives_no_answer_is_named_and_the_agent_is_used_again() {
    let table = debian().with(BLOCKS, shown(true)).then(SET, Answer::Never);
    let agent = Party::play(table.then(SET, yes(json!([outcome(42, "success", None)]))));
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, Some(&agent)).await;
    let until = machine.now() + Span::secs(60);
    let result = machine.apply(&offline(), until).await;
    let Err(ApplyError::Unknown(why)) = &result else { panic!("{result:?}") };
    assert!(why.starts_with("memory42: ") && why.contains("0 of 3"), "{why}");
    let sight = machine.look(&Look::Vcpus).await.expect("looked");
    assert!(matches!(sight, Sight::Vcpus(GuestView::Shows(_))), "{sight:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_silence_and_the_next_counts() {
    let table = debian().without(VCPUS).then(VCPUS, Answer::Raw(b"\xf0\x28 hello\n".to_vec()));
    let agent = Party::play(table.then(VCPUS, yes(json!([{"logical-id": 0, "online": true}]))));
    let qemu = Party::play(Table::recorded(Q35));
    let mut machine = open(&qemu, Some(&agent)).await;
    let sight = machine.look(&Look::Vcpus).await.expect("looked");
    assert!(matches!(sight, Sight::Vcpus(GuestView::Silent(_))), "{sight:?}");
    let sight = machine.look(&Look::Vcpus).await.expect("looked");
    assert!(matches!(sight, Sight::Vcpus(GuestView::Shows(_))), "{sight:?}");
}

#[tokio::test]
async fn vcpus_go_online_lowest_first_and_a_failure_is_told() {
    let four: Value = (0..4).map(|id| json!({"logical-id": id, "online": id == 1})).collect();
    let table = debian().with(VCPUS, four).then("guest-set-vcpus", yes(json!(1)));
    let agent =
        Party::play(table.then("guest-set-vcpus", no("write(/sys/.../cpu2/online): Input/output error")));
    let why = refused(apply(&agent, Act::OnlineVcpus { count: 3 }).await);
    assert!(why.contains("cpu2"), "{why}");
    let asked: Vec<Value> =
        agent.heard().into_iter().filter(|(name, _)| name == "guest-set-vcpus").map(|(_, a)| a).collect();
    let ask = |id: u64| json!({"logical-id": id, "online": true});
    assert_eq!(asked, [json!({"vcpus": [ask(0), ask(2)]}), json!({"vcpus": [ask(2)]})]);

    let agent = Party::play(debian());
    let why = refused(apply(&agent, Act::OnlineVcpus { count: 3 }).await);
    assert!(why.contains("shows only 2"), "{why}");
}

#[tokio::test]
async fn an_impossible_count_of_vcpus_done_is_not_believed() {
    for answer in [json!(0), json!(9), json!(-1), json!("1")] {
        let agent = Party::play(debian().with("guest-set-vcpus", answer));
        let result = apply(&agent, Act::OnlineVcpus { count: 2 }).await;
        assert!(
            matches!(&result, Err(ApplyError::Unknown(why)) if why.contains("makes no sense")),
            "{result:?}"
        );
    }
}
