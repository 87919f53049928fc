//! A machine of libvirt's beside other tools: what they do meanwhile is refused with its reason, or planned for, and
//! never ends half done.

use std::fs::{File, OpenOptions};
use std::io;
use std::process::Command;
use std::time::Duration;

use drive::journal::MemoryJournal;
use drive::libvirt::{LibvirtMachine, OpenError, State};
use drive::resize::{ResizeError, resize};
use drive::{Hypervisor, ObserveError};
use lab::{Libvirtd, Yes, eventually};
use scale::limits::Limits;
use scale::report::{Report, Verdict};
use scale::time::Span;
use scale::units::Bytes;
use scale::wanted::Wanted;
use tokio::task::spawn_blocking;

use crate::guest::recipe;
use crate::libvirt::Libvirt;
use crate::play::{Play, to, to_both};
use crate::stage::{Make, SMALL, Size, Stage};
use crate::trouble::{Asked, At, Meddled, Struck};

const SOON: Duration = Duration::from_secs(60);
const GROWN: Bytes = Bytes::mib(768);

/// `supple apply` during which somebody else uses `virsh`, after the machine was looked at and before the user agrees.
/// How often the user was asked comes with it.
async fn meanwhile(
    play: &mut Play<Libvirt>,
    wanted: &Wanted,
    virsh: &[&str],
) -> (Result<Report, ResizeError>, usize) {
    let limits = play.limits.clone();
    let (driver, mut journal) = (play.stage.connect(&limits).await, play.journal());
    let libvirtd = &play.stage.libvirtd;
    let mut meddled = Meddled::new(driver, async |_: &mut _, _: &_| {
        libvirtd.virsh(virsh).await.unwrap();
    });
    let mut asked = Asked::default();
    let outcome = resize(&mut meddled, &mut journal, wanted.clone(), &limits, &mut asked).await;
    (outcome, asked.plans.len())
}

#[tokio::test]
async fn what_virsh_does_meanwhile_is_planned_for_or_refused() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    // One more vCPU is one less to be added.
    let (outcome, asked) =
        meanwhile(&mut play, &to_both(GROWN, 3), &["setvcpu", "web1", "1", "--enable", "--live", "--config"])
            .await;
    let report = outcome.unwrap();
    assert_eq!((report.verdict, report.from.vcpus, asked), (Verdict::Proven, 2, 2), "{report:#?}");
    assert_eq!(play.stage.online().await, Size { memory: GROWN, vcpus: 3 });
    play.stage.is_level().await;

    // A balloon that somebody has filled is nothing to plug DIMMs behind.
    let (outcome, _) = meanwhile(&mut play, &to(Bytes::gib(1)), &["setmem", "web1", "640M", "--live"]).await;
    let refused = outcome.unwrap_err().to_string();
    assert!(refused.contains("balloon"), "{refused}");
    assert_eq!(play.stage.plugged().await.memory, GROWN, "nothing was changed");
    play.stage.libvirtd.virsh(&["setmem", "web1", "768M", "--live"]).await.unwrap();
    eventually("the balloon is given back", SOON, async || {
        Ok((play.stage.guest.ask("query-balloon").await?["actual"] == GROWN.get()).then_some(()))
    })
    .await
    .unwrap();

    // One who stops the guest stops the resize, and is told how it may go on.
    let (outcome, _) = meanwhile(&mut play, &to(Bytes::gib(1)), &["suspend", "web1"]).await;
    let refused = outcome.unwrap_err().to_string();
    assert!(refused.contains("paused") && refused.contains("resume"), "{refused}");
    play.stage.libvirtd.virsh(&["resume", "web1"]).await.unwrap();
    play.proven(&to(Bytes::gib(1))).await;
    play.stage.end().await;
}

#[tokio::test]
async fn a_machine_that_libvirt_is_at_work_on_is_refused_at_once() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("dump");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let file = pipe.display().to_string();
    let before = play.stage.plugged().await;
    let mut early = play.stage.connect(&Limits::default()).await;
    // A dump into a pipe that is open and not read lasts until it is read.
    let held = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let dump = ["dump", "web1", &file, "--memory-only"];
    let (dumped, refused) = tokio::join!(play.stage.libvirtd.virsh(&dump), async {
        let (uri, limits) = (play.stage.libvirtd.connect_uri(), Limits::default());
        let refused = eventually("a job is in the way", SOON, async || {
            match LibvirtMachine::open(&uri, "web1", &limits).await {
                Err(held @ OpenError::Held { .. }) => Ok(Some(held.to_string())),
                Err(other) => Err(other.into()),
                // It has not begun.
                Ok(_) => Ok(None),
            }
        });
        let refused = refused.await;
        let since = early.now();
        let seen = early.observe().await;
        let took = early.now().since(since);
        let read = spawn_blocking(move || {
            let mut dump = File::open(pipe)?;
            drop(held);
            io::copy(&mut dump, &mut io::sink())
        });
        assert!(read.await.unwrap().unwrap() > SMALL.get());
        assert!(
            matches!(&seen, Err(ObserveError::Unreachable(why)) if why.contains("a memory dump")),
            "{seen:?}"
        );
        assert!(took < Span::secs(10), "it is told at once, not after {took}");
        refused.unwrap()
    });
    dumped.unwrap();
    // QEMU stops the guest for as long as it dumps it (`dump_init`, 7.2 and 10.0).
    play.stage.watch_anew();
    assert!(refused.contains("a memory dump") && refused.contains("domjobinfo"), "{refused}");
    assert_eq!(play.stage.plugged().await, before);
    play.proven(&to(GROWN)).await;
    play.stage.end().await;
}

#[tokio::test]
async fn two_controllers_at_once_leave_nothing_half_done() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    let limits = play.limits.clone();
    // Two hosts with a journal each: neither knows of the other.
    let (mut one, mut other) = (play.stage.connect(&limits).await, play.stage.connect(&limits).await);
    let mut journals = [MemoryJournal::default(), MemoryJournal::default()];
    let [first, second] = &mut journals;
    let (mut we, mut they) = (Yes, Yes);
    let (ours, theirs) = tokio::join!(
        resize(&mut one, first, to(GROWN), &limits, &mut we),
        resize(&mut other, second, to(Bytes::gib(1)), &limits, &mut they),
    );
    let proven =
        [&ours, &theirs].iter().filter(|it| it.as_ref().is_ok_and(|r| r.verdict == Verdict::Proven)).count();
    for outcome in [&ours, &theirs] {
        match outcome {
            Ok(report) if report.verdict == Verdict::Proven => {}
            Ok(report) => {
                assert!(!report.held_back.is_empty() && report.left_behind.is_empty(), "{report:#?}")
            }
            Err(error) => {
                assert!(matches!(error, ResizeError::Unsteady | ResizeError::Refused(_)), "{error}")
            }
        }
    }
    assert!(proven >= 1, "{ours:#?}\n{theirs:#?}");
    assert_eq!(play.stage.plugged().await, play.stage.online().await, "{ours:#?}\n{theirs:#?}");
    play.stage.is_level().await;
    play.proven(&to(SMALL)).await;
    play.stage.end().await;
}

/// `supple apply` in the middle of which, with its nth act just accepted, something happens.
async fn struck(
    play: &mut Play<Libvirt>,
    wanted: &Wanted,
    after: usize,
    blow: impl AsyncFnOnce(&Libvirt),
) -> Result<Report, ResizeError> {
    let (limits, mut journal, mut user) = (play.limits.clone(), play.journal(), Yes);
    let driver = play.stage.connect(&limits).await;
    let mut struck = Struck::new(driver, At::After(after), async || blow(&play.stage).await);
    resize(&mut struck, &mut journal, wanted.clone(), &limits, &mut user).await
}

#[tokio::test]
async fn a_daemon_that_is_updated_midway_costs_the_connection_and_nothing_else() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    let grown = to_both(GROWN, 2);
    let cut = async |stage: &Libvirt| stage.libvirtd.restart().await.unwrap();
    let report = struck(&mut play, &grown, 1, cut).await.unwrap();
    assert_ne!(report.verdict, Verdict::Proven, "{report:#?}");
    assert!(report.held_back.iter().any(|why| why.contains("connection")), "{report:#?}");
    play.proven(&grown).await;
    play.stage.end().await;
}

#[tokio::test]
async fn a_machine_that_is_ended_midway_is_reported_lost_and_starts_as_it_was_last_proven() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    play.proven(&to(GROWN)).await;
    let end = async |stage: &Libvirt| {
        stage.libvirtd.virsh(&["destroy", "web1"]).await.unwrap();
    };
    let outcome = struck(&mut play, &to_both(Bytes::gib(1), 2), 2, end).await;
    let told = match &outcome {
        Ok(report) => {
            assert_eq!((report.verdict, report.achieved), (Verdict::Failed, None), "{report:#?}");
            report.held_back.join("\n")
        }
        Err(error) => error.to_string(),
    };
    assert!(told.contains("stopped") || told.contains("not running"), "{told}");
    let limits = Limits::default();
    let off = LibvirtMachine::open(&play.stage.libvirtd.connect_uri(), "web1", &limits).await.unwrap_err();
    assert!(matches!(off, OpenError::NotRunning { state: State::Off, .. }), "{off}");

    play.stage.start_anew().await;
    play.proven(&to_both(Bytes::gib(1), 2)).await;
    play.stage.end().await;
}

#[tokio::test]
async fn a_second_libvirtd_has_its_own_machine_of_the_same_name() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    let second = Libvirtd::start().await.unwrap();
    second.define("web1", &recipe(Make::Plain)).await.unwrap();
    let described = async || second.virsh(&["dumpxml", "web1"]).await.unwrap();
    let before = described().await;
    assert!(second.connect_uri().starts_with("qemu+unix:///") && second.connect_uri().contains("?socket=/"));
    let off = LibvirtMachine::open(&second.connect_uri(), "web1", &Limits::default()).await.unwrap_err();
    assert!(matches!(off, OpenError::NotRunning { state: State::Off, .. }), "{off}");
    play.proven(&to(GROWN)).await;
    assert_eq!(described().await, before);
    play.stage.end().await;
}
