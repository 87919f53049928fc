//! The layer over libvirt, against libvirt's own make-believe driver: no daemon, no QEMU. What needs a real one is
//! tested in the lab.
#![cfg(feature = "libvirt")]

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use drive::libvirt::{
    Affect, Code, Connection, Event, EventKind, Events, Heard, Lifecycle, Pool, State, StatsGroup, VcpuCount,
    Which, Xml,
};
use scale::units::Bytes;
use tokio::time::Instant;

/// Each connection to this driver has domains of its own: one, named `test`, which runs.
const URI: &str = "test:///default";

fn open() -> Connection {
    Connection::open(URI).unwrap()
}

#[test]
fn a_domain_is_found_by_its_name_and_by_its_uuid() {
    let connection = open();
    let all = connection.domains(Which::Active).unwrap();
    let names: Vec<String> = all.iter().map(|domain| domain.name()).collect();
    assert_eq!(names, ["test"]);
    let uuid = all[0].uuid();
    assert_eq!(connection.domain("test").unwrap().uuid(), uuid);
    assert_eq!(connection.domain(&uuid).unwrap().name(), "test");
    assert_eq!(connection.domains(Which::Inactive).unwrap().len(), 0);
}

#[test]
fn what_is_not_there_is_named_in_the_error() {
    let connection = open();
    let error = connection.domain("web1").unwrap_err();
    assert_eq!(error.code, Code::NoDomain);
    assert!(error.message.contains("web1"), "{error}");
    let error = connection.domain("00000000-0000-0000-0000-000000000000").unwrap_err();
    assert_eq!(error.code, Code::NoDomain);
    let error = connection.domain("web\0").unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
}

#[test]
fn a_uri_where_nobody_answers_is_an_error_and_not_a_wait() {
    let error = Connection::open("qemu+unix:///system?socket=/nonexistent/libvirt-sock").unwrap_err();
    assert_eq!(error.code, Code::System);
    assert!(error.message.contains("/nonexistent/libvirt-sock"), "{error}");
}

/// Something that answers libvirt's client with nothing: it hears what is asked and goes away.
#[test]
fn a_daemon_that_goes_away_in_the_middle_of_a_call_has_given_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 28]).unwrap();
    });
    let error = Connection::open(&format!("qemu+unix:///system?socket={}", path.display())).unwrap_err();
    daemon.join().unwrap();
    assert!(error.is_no_answer(), "{error:?}");
    assert!(matches!(error.code, Code::System | Code::Internal | Code::Rpc), "{error:?}");
    // The test driver's "no" is one.
    assert!(!open().domain("web1").unwrap_err().is_no_answer());
}

#[test]
fn sizes_are_told_and_set_in_both_places() {
    let domain = open().domain("test").unwrap();
    let info = domain.info().unwrap();
    assert_eq!((info.state, info.max_memory, info.vcpus), (State::Running, Bytes::gib(8), 2));
    assert_eq!(domain.state(), Ok(State::Running));
    assert_eq!(domain.is_persistent(), Ok(true));

    // This driver takes them one at a time.
    domain.set_memory(Bytes::gib(1), Affect::Live).unwrap();
    domain.set_memory(Bytes::gib(1), Affect::Config).unwrap();
    assert_eq!(domain.info().unwrap().memory, Bytes::gib(1));
    assert!(domain.xml(Xml::Inactive).unwrap().contains("<currentMemory unit='KiB'>1048576</currentMemory>"));
    let error = domain.set_memory(Bytes::new(1025), Affect::Live).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);

    domain.set_vcpus(1, VcpuCount::Present, Affect::Config).unwrap();
    assert_eq!(domain.vcpus(VcpuCount::Present, Affect::Config), Ok(1));
    assert_eq!(domain.vcpus(VcpuCount::Present, Affect::Live), Ok(2));
}

#[test]
fn a_reader_is_denied_what_changes() {
    let connection = Connection::open_read_only(URI).unwrap();
    let domain = connection.domain("test").unwrap();
    assert!(domain.xml(Xml::Live).unwrap().starts_with("<domain"));
    assert_eq!(domain.set_memory(Bytes::gib(1), Affect::Live).unwrap_err().code, Code::Denied);
    assert_eq!(domain.xml(Xml::InactiveSecure).unwrap_err().code, Code::Denied);
}

#[test]
fn figures_are_told_for_all_domains_at_once() {
    let connection = open();
    let stats = connection.stats(Which::All, &[StatsGroup::State, StatsGroup::Balloon]).unwrap();
    assert_eq!(stats.len(), 1);
    let (domain, params) = &stats[0];
    assert_eq!(domain.name(), "test");
    assert_eq!(params.number("state.state"), Some(1));
    assert!(params.iter().all(|(name, _)| name.starts_with("state.")), "{params:?}");
}

#[test]
fn versions_are_those_of_the_library() {
    let connection = open();
    let versions = connection.versions().unwrap();
    assert!(versions.library >= scale::observed::Version(6, 0, 0), "{versions:?}");
    assert_eq!(versions.daemon, versions.library);
    assert_eq!(connection.uri().unwrap(), URI);
    assert!(connection.is_alive());
}

#[test]
fn where_qemus_own_events_cannot_be_had_libvirts_are() {
    let connection = open();
    let domain = connection.domain("test").unwrap();
    let all = Events::subscribe(&domain).unwrap().missing().to_vec();
    let connection = open();
    let domain = connection.domain("test").unwrap();
    let events = Events::of_changes(&domain).unwrap();
    assert!(events.missing().iter().any(|(kind, _)| *kind == EventKind::Qemu));
    assert_eq!(events.missing().len(), all.len(), "all that this libvirt can tell is told");
}

#[tokio::test]
async fn a_change_of_the_definition_is_heard() {
    let connection = open();
    let domain = connection.domain("test").unwrap();
    let mut events = Events::subscribe(&domain).unwrap();
    assert!(events.missing().iter().any(|(kind, _)| *kind == EventKind::Qemu), "no QEMU, no such events");
    assert!(events.missing().iter().all(|(kind, _)| *kind != EventKind::Lifecycle));

    let xml = domain.xml(Xml::InactiveSecure).unwrap();
    let lane = Pool::new(1).lane();
    let define = move || connection.define(&xml).map(|domain| domain.name());
    assert_eq!(lane.call("a definition", Duration::from_secs(60), define).await.unwrap(), "test");
    let heard = events.next(Instant::now() + Duration::from_secs(60)).await;
    assert!(matches!(heard, Heard::Event(Event::Lifecycle(Lifecycle::Defined, _))), "{heard:?}");
    assert_eq!(events.next(Instant::now()).await, Heard::Quiet);
}
