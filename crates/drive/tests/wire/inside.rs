//! Files and programs inside a guest, against a scripted agent.

use std::cell::RefCell;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use drive::guest::exec::{self, End, ExecError, Output};
use drive::guest::files::{self, FileError};
use drive::guest::{Agent, AgentError};
use serde_json::{Value, json};

use crate::agent::{LIMIT, pair};

const HANDLE: i64 = 1000;

/// Runs `act` against a guest that answers each command as `answer` says. What was asked, by name.
async fn against<T>(
    act: impl AsyncFnOnce(&mut Agent) -> T,
    mut answer: impl FnMut(&str, &Value) -> Value,
) -> (T, Vec<String>) {
    let (mut agent, mut peer) = pair().await;
    let asked = RefCell::new(Vec::new());
    let guest = async {
        while let Some(command) = peer.hears().await {
            let name = command["execute"].as_str().expect("a name");
            asked.borrow_mut().push(name.to_owned());
            let answer = answer(name, &command["arguments"]);
            if !answer.is_null() {
                peer.says(answer).await;
            }
        }
        unreachable!("the client does not close");
    };
    let done = tokio::select! { done = act(&mut agent) => done, () = guest => unreachable!() };
    (done, asked.into_inner())
}

/// A guest with one file, whose `guest-file-read` may be spoiled.
fn a_file(content: &[u8], spoil: impl Fn(&mut Value)) -> impl FnMut(&str, &Value) -> Value {
    let mut at = 0;
    move |name, arguments| match name {
        "guest-file-open" => json!({"return": HANDLE}),
        "guest-file-close" => json!({"return": {}}),
        "guest-file-read" => {
            assert_eq!(arguments["handle"], HANDLE);
            let count = usize::try_from(arguments["count"].as_u64().expect("a count")).expect("small");
            let piece = &content[at..content.len().min(at + count)];
            at += piece.len();
            let mut answer =
                json!({"count": piece.len(), "buf-b64": STANDARD.encode(piece), "eof": piece.len() < count});
            spoil(&mut answer);
            json!({"return": answer})
        }
        _ => panic!("{name}"),
    }
}

async fn read(
    content: &[u8],
    most: usize,
    spoil: impl Fn(&mut Value),
) -> (Result<Vec<u8>, FileError>, Vec<String>) {
    let act = async |agent: &mut Agent| files::read(agent, "/etc/x", most, LIMIT).await;
    against(act, a_file(content, spoil)).await
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_whole_and_closed() {
    for length in [0, 1, 256 * 1024, 600_000] {
        let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let (found, asked) = read(&content, 600_000, |_| ()).await;
        assert_eq!(found.expect("read"), content);
        assert_eq!(asked.last().map(String::as_str), Some("guest-file-close"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_too_long_is_refused_and_closed() {
    let (found, asked) = read(&[7; 101], 100, |_| ()).await;
    assert!(matches!(found, Err(FileError::TooLong { most: 100, .. })), "{found:?}");
    assert_eq!(asked, ["guest-file-open", "guest-file-read", "guest-file-close"]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_makes_no_sense_is_an_error() {
    let spoils: [fn(&mut Value); 6] = [
        |answer| answer["buf-b64"] = json!("***"),
        |answer| answer["buf-b64"] = json!(7),
        |answer| answer["eof"] = json!("yes"),
        |answer| *answer = json!([]),
        |answer| *answer = json!({"buf-b64": "", "eof": false}),
        |answer| answer["buf-b64"] = json!(STANDARD.encode([0; 5000])),
    ];
    for spoil in spoils {
        let (found, asked) = read(b"content", 100, spoil).await;
        assert!(matches!(found, Err(FileError::Agent(AgentError::Garbled { .. }))), "{found:?}");
        assert_eq!(asked.last().map(String::as_str), Some("guest-file-close"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_cannot_be_opened_gives_the_reason() {
    let act = async |agent: &mut Agent| files::read(agent, "/etc/x", 100, LIMIT).await;
    let (found, asked) =
        against(act, |_, _| json!({"error": {"class": "GenericError", "desc": "No such file"}})).await;
    let Err(FileError::Agent(AgentError::Refused { desc, .. })) = found else { panic!("{found:?}") };
    assert_eq!((desc.as_str(), asked.len()), ("No such file", 1));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_written_in_whatever_pieces_the_guest_takes() {
    let content = b"ACTION==\"add\", SUBSYSTEM==\"memory\"";
    let mut written = Vec::new();
    let act = async |agent: &mut Agent| files::write(agent, "/etc/x", content, LIMIT).await;
    let (done, asked) = against(act, |name, arguments| match name {
        "guest-file-open" => json!({"return": HANDLE}),
        "guest-file-write" => {
            let piece = STANDARD.decode(arguments["buf-b64"].as_str().expect("text")).expect("base64");
            let taken = piece.len().min(10);
            written.extend_from_slice(&piece[..taken]);
            json!({"return": {"count": taken, "eof": false}})
        }
        _ => json!({"return": {}}),
    })
    .await;
    done.expect("written");
    assert_eq!(written, content);
    assert_eq!(asked[asked.len() - 2..], ["guest-file-flush", "guest-file-close"]);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_takes_more_than_it_was_given_lies() {
    let act = async |agent: &mut Agent| files::write(agent, "/etc/x", b"content", LIMIT).await;
    for count in [json!(0), json!(8), json!(-1), json!(u64::MAX), json!("7")] {
        let (done, _) = against(act, |name, _| match name {
            "guest-file-write" => json!({"return": {"count": count}}),
            _ => json!({"return": HANDLE}),
        })
        .await;
        assert!(matches!(done, Err(FileError::Agent(AgentError::Garbled { .. }))), "{done:?}");
    }
}

/// Runs a program whose status is first "not yet" this many times, then `status`.
async fn run(turns: usize, status: Value) -> (Result<Output, ExecError>, Vec<String>) {
    let act = async |agent: &mut Agent| exec::run(agent, "/bin/x", &["a", "b"], 8, LIMIT).await;
    let mut asked = 0;
    against(act, |name, arguments| match name {
        "guest-exec" => {
            let expected = json!({"path": "/bin/x", "arg": ["a", "b"], "capture-output": true});
            assert_eq!(arguments, &expected);
            json!({"return": {"pid": 42}})
        }
        _ => {
            assert_eq!((name, &arguments["pid"]), ("guest-exec-status", &json!(42)));
            asked += 1;
            json!({"return": if asked > turns { status.clone() } else { json!({"exited": false}) }})
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_program_is_awaited_and_its_output_taken() {
    let (out, err) = (STANDARD.encode("out"), STANDARD.encode("err"));
    let (output, asked) =
        run(3, json!({"exited": true, "exitcode": 0, "out-data": out, "err-data": err})).await;
    let expected = Output { end: End::Exit(0), stdout: b"out".into(), stderr: b"err".into(), is_cut: false };
    assert_eq!(output.expect("ran"), expected);
    assert_eq!(asked.len(), 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn a_program_may_end_in_other_ways() {
    let (output, _) = run(0, json!({"exited": true, "signal": 9})).await;
    assert_eq!(output.expect("ran").end, End::Signal(9));
    let (output, _) = run(0, json!({"exited": true, "exitcode": 3})).await;
    assert_eq!(output.expect("ran").end, End::Exit(3));
    let (output, _) = run(0, json!({"exited": true})).await;
    assert_eq!(output.expect("ran").end, End::Unknown);
}

#[tokio::test(start_paused = true)]
async fn output_beyond_the_bound_is_cut_and_says_so() {
    let (output, _) =
        run(0, json!({"exited": true, "exitcode": 0, "out-data": STANDARD.encode("123456789")})).await;
    let output = output.expect("ran");
    assert_eq!((output.stdout.as_slice(), output.is_cut), (&b"12345678"[..], true));
    let (output, _) = run(0, json!({"exited": true, "exitcode": 0, "err-truncated": true})).await;
    assert!(output.expect("ran").is_cut);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_runs_too_long_is_named() {
    let (output, asked) = run(usize::MAX, Value::Null).await;
    let Err(ExecError::StillRuns { pid: 42, after: LIMIT, .. }) = output else { panic!("{output:?}") };
    // Asked soon at first, then every 50 ms.
    assert!((80..120).contains(&asked.len()), "{}", asked.len());
}

#[tokio::test(start_paused = true)]
async fn a_status_of_the_wrong_shape_is_an_error() {
    for status in [json!({"exited": 1}), json!([]), json!({"exited": true, "out-data": "*"})] {
        let (output, _) = run(0, status).await;
        assert!(matches!(output, Err(ExecError::Agent(AgentError::Garbled { .. }))), "{output:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_answering_ends_the_read_in_time() {
    let before = tokio::time::Instant::now();
    let act = async |agent: &mut Agent| files::read(agent, "/etc/x", 100, LIMIT).await;
    let (found, _) = against(act, |name, _| match name {
        "guest-file-open" => json!({"return": HANDLE}),
        _ => Value::Null,
    })
    .await;
    assert!(matches!(found, Err(FileError::Agent(AgentError::TimedOut { .. }))), "{found:?}");
    assert!(before.elapsed() < LIMIT + Duration::from_secs(1));
}

/// A directory of small files in a guest: `/sys/a` and `/sys/b` are there, `/sys/long` is too long, nothing else is.
fn a_directory(written: &RefCell<Vec<(i64, Vec<u8>)>>) -> impl FnMut(&str, &Value) -> Value {
    let no = |desc: &str| json!({"error": {"class": "GenericError", "desc": desc}});
    move |name, arguments| {
        let handle = arguments["handle"].as_i64().unwrap_or_default();
        match (name, arguments["path"].as_str(), handle) {
            ("guest-file-open", Some("/sys/a"), _) => json!({"return": 1}),
            ("guest-file-open", Some("/sys/b"), _) => json!({"return": 2}),
            ("guest-file-open", Some("/sys/long"), _) => json!({"return": 3}),
            ("guest-file-open", _, _) => no("No such file"),
            ("guest-file-read", _, 3) => json!({"return": {"buf-b64": STANDARD.encode([0; 11])}}),
            ("guest-file-read", _, _) => {
                json!({"return": {"buf-b64": STANDARD.encode(format!("file {handle}"))}})
            }
            ("guest-file-write", _, _) => {
                let data = STANDARD.decode(arguments["buf-b64"].as_str().expect("text")).expect("base64");
                written.borrow_mut().push((handle, data));
                json!({"return": {"count": 1}})
            }
            // The kernel's no to a write shows when the file is closed.
            ("guest-file-close", _, 2) => no("Invalid argument"),
            _ => json!({"return": {}}),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn files_read_together_each_have_their_own_end() {
    let act = async |agent: &mut Agent| {
        files::read_each(agent, &["/sys/a", "/sys/none", "/sys/long", "/sys/b"], 10, LIMIT).await
    };
    let (found, asked) = against(act, a_directory(&RefCell::default())).await;
    let found = found.expect("asked");
    assert_eq!(found[0].as_deref().expect("read"), b"file 1");
    assert!(matches!(found[1], Err(FileError::Agent(AgentError::Refused { .. }))), "{:?}", found[1]);
    assert!(matches!(found[2], Err(FileError::TooLong { most: 10, .. })), "{:?}", found[2]);
    assert_eq!(found[3].as_deref().expect("read"), b"file 2");
    assert_eq!(asked.iter().filter(|name| *name == "guest-file-close").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn files_written_together_each_have_their_own_end() {
    let written = RefCell::default();
    let act = async |agent: &mut Agent| {
        files::write_each(agent, &["/sys/a", "/sys/none", "/sys/b"], b"online", LIMIT).await
    };
    let (done, _) = against(act, a_directory(&written)).await;
    let done = done.expect("asked");
    assert!(done[0].is_ok(), "{:?}", done[0]);
    assert!(matches!(done[1], Err(AgentError::Refused { .. })), "{:?}", done[1]);
    let Err(AgentError::Refused { desc, .. }) = &done[2] else { panic!("{:?}", done[2]) };
    assert_eq!(desc, "Invalid argument");
    assert_eq!(written.into_inner(), [(1, b"online".to_vec()), (2, b"online".to_vec())]);
}
