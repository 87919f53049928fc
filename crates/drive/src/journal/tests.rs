//! What a journal keeps, whoever dies, and who may open it.

use super::*;
use scale::run::End;
use scale::time::Moment;

fn settled(device: &str) -> Record {
    Record::Settled { at: Moment::default(), device: device.to_owned(), how: "gone".to_owned() }
}

fn reported() -> Record {
    let sizes = scale::plan::Sizes { memory: scale::units::Bytes::gib(1), vcpus: 1 };
    let report = scale::report::Report {
        began: Moment::default(),
        took: scale::time::Span::millis(1),
        from: sizes,
        asked: scale::plan::Asked::default(),
        achieved: Some(sizes),
        guest: scale::report::GuestSizes::default(),
        disks: Vec::new(),
        settings: Vec::new(),
        verdict: scale::report::Verdict::Proven,
        strength: None,
        steps: Vec::new(),
        held_back: Vec::new(),
        left_behind: Vec::new(),
        pending: Vec::new(),
    };
    Record::Reported { report: Box::new(report) }
}

#[test]
fn a_torn_last_line_is_dropped_and_damage_elsewhere_is_not() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut journal = FileJournal::open(dir.path(), "vm").unwrap();
        journal.append(&settled("a")).unwrap();
    }
    let path = journal_path(dir.path(), "vm");
    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(br#"{"record":"settl"#);
    fs::write(&path, &torn).unwrap();
    {
        let mut journal = FileJournal::open(dir.path(), "vm").unwrap();
        journal.append(&settled("b")).unwrap();
    }
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");

    fs::write(&path, lines.replace("settled", "s\u{0}ttled")).unwrap();
    let error = FileJournal::open(dir.path(), "vm").unwrap_err();
    assert!(matches!(error, JournalError::Damaged { line: 1, .. }), "{error}");
}

#[test]
fn one_controller_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = FileJournal::open(dir.path(), "vm").unwrap();
    assert!(matches!(FileJournal::open(dir.path(), "vm"), Err(JournalError::Held { .. })));
    assert!(FileJournal::open(dir.path(), "another").is_ok());
    assert_eq!(FileJournal::holder(dir.path(), "vm").unwrap(), Some(std::process::id()));
    drop(first);
    assert_eq!(FileJournal::holder(dir.path(), "vm").unwrap(), None);
    assert_eq!(FileJournal::holder(dir.path(), "unknown").unwrap(), None);
    assert!(FileJournal::open(dir.path(), "vm").is_ok());
}

#[test]
fn a_long_journal_is_shortened_to_what_still_matters_and_stays_locked() {
    let dir = tempfile::tempdir().unwrap();
    let life = scale::observed::Life { thread: 7, started: Some(1) };
    let props = scale::observed::VcpuProps::default();
    let filled = vec![scale::observed::Filled { id: "supple-vcpu0".to_owned(), props, times: 3 }];
    {
        let mut journal = FileJournal::open(dir.path(), "vm").unwrap();
        journal.append(&Record::Filled { life, filled: filled.clone() }).unwrap();
        journal.append(&reported()).unwrap();
        let long = settled(&"x".repeat(1 << 20));
        journal.append(&long).unwrap();
    }
    let path = journal_path(dir.path(), "vm");
    let mut journal = FileJournal::open(dir.path(), "vm").unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    assert!(matches!(FileJournal::open(dir.path(), "vm"), Err(JournalError::Held { .. })));
    journal.append(&settled("later")).unwrap();
    drop(journal);
    let history = FileJournal::read(dir.path(), "vm").unwrap();
    assert_eq!(history.filled(Some(life)), filled);
    assert!(history.report().is_some());
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn only_an_exclusive_lock_on_this_file_has_a_holder() {
    assert_eq!(locker("1: FLOCK  ADVISORY  WRITE 4242 fe:01:131073 0 EOF", 131_073), Some(4242));
    for other in [
        "1: FLOCK  ADVISORY  WRITE 4242 fe:01:31073 0 EOF",
        "1: FLOCK  ADVISORY  READ 4242 fe:01:131073 0 EOF",
        "1: -> FLOCK  ADVISORY  WRITE 4242 fe:01:131073 0 EOF",
        "2: POSIX  ADVISORY  WRITE 4242 fe:01:131073 0 EOF",
        "",
    ] {
        assert_eq!(locker(other, 131_073), None, "{other}");
    }
}

#[test]
fn reading_a_machine_without_a_journal_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(FileJournal::read(dir.path(), "vm").unwrap().report().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn no_two_machines_share_a_file() {
    let dir = Path::new("/state");
    let long = "x".repeat(300);
    let keys = ["a/b", "a%2Fb", "a-b", "a%b", &format!("{long}/1"), &format!("{long}/2")];
    let mut paths: Vec<PathBuf> = keys.iter().map(|key| journal_path(dir, key)).collect();
    assert!(paths.iter().all(|p| p.parent() == Some(dir) && p.as_os_str().len() < 250));
    paths.sort();
    paths.dedup();
    assert_eq!(paths.len(), keys.len());
}

#[test]
fn the_state_directory_follows_the_environment() {
    let with = |pairs: &'static [(&str, &str)]| {
        state_dir(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    };
    assert_eq!(with(&[("HOME", "/root")]), Path::new("/root/.local/state/supple"));
    assert_eq!(with(&[("HOME", "/root"), ("XDG_STATE_HOME", "/x")]), Path::new("/x/supple"));
    assert_eq!(with(&[("XDG_STATE_HOME", "relative"), ("HOME", "/h")]), Path::new("/h/.local/state/supple"));
    assert_eq!(with(&[("SUPPLE_STATE_DIR", "/s"), ("HOME", "/root")]), Path::new("/s"));
}

#[test]
fn intentions_are_durable_and_conclusions_need_not_be() {
    assert!(must_be_durable(&settled("a")));
    assert!(!must_be_durable(&Record::Ended { at: Moment::default(), end: End::Done }));
}
