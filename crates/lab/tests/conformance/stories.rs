//! The stories. Each gets a machine of its own, and leaves out what only one driver could do.

use std::future::pending;
use std::time::Duration;

use drive::journal::Journal;
use drive::resize::{ResizeError, resize};
use lab::{Yes, eventually};
use scale::limits::Limits;
use scale::plan::Strength;
use scale::report::Verdict;
use scale::time::Span;
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted};
use tokio::sync::Notify;

use crate::play::{Play, to, to_both};
use crate::stage::{Make, SMALL, Stage};
use crate::trouble::{Asked, At, Meddled, Struck, plug_theirs};

const SOON: Duration = Duration::from_secs(60);

pub(crate) async fn a_guest_grows_uses_it_and_shrinks<S: Stage>() {
    let mut play = Play::<S>::of(Make::Plain).await;
    let report = play.proven(&to_both(Bytes::mib(1280), 2)).await;
    assert_eq!(report.strength, Some(Strength::GuestConfirmed));
    // More than the guest was born with.
    play.stage.uses(SMALL + Bytes::mib(128)).await;
    let again = play.proven(&to_both(Bytes::mib(1280), 2)).await;
    assert!(again.steps.is_empty(), "what is there already needs no step: {again:#?}");
    // QEMU 7.2 survives no change of DIMMs after a vCPU is gone, so all that shrinks does so at once.
    play.proven(&to_both(SMALL, 1)).await;
    play.stage.end().await;
}

pub(crate) async fn what_cannot_be_is_refused_and_changes_nothing<S: Stage>() {
    let mut play = Play::<S>::of(Make::Plain).await;
    let before = play.stage.plugged().await;
    for (wanted, word) in [
        (to_both(Bytes::gib(9), 1), "ceiling"),
        (to_both(SMALL, 5), "vCPUs"),
        (to(SMALL - Bytes::mib(128)), "boot memory"),
        (to(SMALL + Bytes::mib(100)), "MiB"),
    ] {
        let refused = play.resize(&wanted).await.unwrap_err();
        assert!(matches!(refused, ResizeError::Refused(_)), "{wanted:?}: {refused}");
        assert!(refused.to_string().contains(word), "{wanted:?}: {refused}");
    }
    assert_eq!(play.stage.plugged().await, before);
    assert_eq!(play.stage.online().await, before);
    assert!(play.journal().history().report().is_none(), "nothing was begun");
    play.stage.is_level().await;
    play.stage.end().await;
}

pub(crate) async fn a_machine_that_changed_while_the_user_thought_is_planned_for_again<S: Stage>() {
    let mut play = Play::<S>::of(Make::Plain).await;
    let (theirs, wanted) = (Bytes::mib(256), to(SMALL + Bytes::mib(512)));
    let (mut asked, mut journal, limits) = (Asked::default(), play.journal(), play.limits.clone());
    let report = {
        let driver = play.stage.connect(&limits).await;
        let mut meddled =
            Meddled::new(driver, async |driver: &mut _, seen: &_| plug_theirs(driver, seen, theirs).await);
        resize(&mut meddled, &mut journal, wanted.clone(), &limits, &mut asked).await.unwrap()
    };
    drop(journal);
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    let froms: Vec<Bytes> = asked.plans.iter().map(|plan| plan.from.memory).collect();
    assert_eq!(froms, [SMALL, SMALL + theirs], "the first plan never ran");
    play.proven(&wanted).await;
    play.stage.end().await;
}

pub(crate) async fn a_guest_that_keeps_a_block_gives_up_the_rest_and_says_why<S: Stage>() {
    let mut play = Play::<S>::of(Make::Plain).await;
    let kept = Bytes::mib(256);
    play.proven(&to(SMALL + kept)).await;
    play.stage.pin().await;
    play.proven(&to(SMALL + kept + Bytes::mib(256))).await;

    let report = play.resize(&to(SMALL)).await.unwrap();
    assert_eq!(report.verdict, Verdict::Partial, "{report:#?}");
    assert_eq!(report.achieved.unwrap().memory, SMALL + kept, "{report:#?}");
    assert!(report.held_back.iter().any(|why| why.contains("memory")), "{report:#?}");
    assert_eq!(play.stage.plugged().await.memory, SMALL + kept);
    play.stage.is_level().await;

    play.stage.unpin().await;
    play.proven(&to(SMALL)).await;
    play.stage.end().await;
}

pub(crate) async fn a_removal_that_the_guest_does_not_answer_is_pending_until_it_is_done<S: Stage>() {
    let mut play = Play::<S>::of(Make::Plain).await;
    let grown = SMALL + Bytes::mib(256);
    play.proven(&to(grown)).await;
    play.stage.answers_removals(false).await;
    play.limits.unplug = Span::secs(5);
    let report = play.resize(&to(SMALL)).await.unwrap();
    play.limits = Limits::default();
    assert_eq!((report.verdict, report.pending.len()), (Verdict::Failed, 1), "{report:#?}");
    assert_eq!(play.observe().await.pending.len(), 1, "it is not forgotten");
    assert_eq!(play.stage.plugged().await.memory, grown);
    // To add a DIMM now would fire the stale removal.
    let refused = play.resize(&to(SMALL + Bytes::mib(512))).await.unwrap_err().to_string();
    assert!(refused.contains("removal"), "{refused}");

    play.stage.answers_removals(true).await;
    let done = async || Ok((play.stage.plugged().await.memory == SMALL).then_some(()));
    eventually("the guest lets go of it", SOON, done).await.unwrap();
    assert_eq!(play.observe().await.pending, [], "gone is gone");
    play.proven(&to(SMALL)).await;
    assert!(play.journal().history().pending().is_empty());
    play.proven(&to(grown)).await;
    play.stage.end().await;
}

pub(crate) async fn a_controller_that_dies_anywhere_is_followed_by_one_that_ends_right<S: Stage>() {
    let mut play = Play::<S>::of(Make::Plain).await;
    // QEMU 7.2 under TCG survives no DIMM change after a vCPU removal, so vCPUs only grow here.
    let sizes = [to_both(Bytes::gib(1), 2), to_both(SMALL, 2)];
    let deaths = [
        At::After(1),
        At::After(2),
        At::Before(2),
        At::After(1),
        At::After(2),
        At::Before(2),
        At::Before(1),
        At::Before(1),
    ];
    for (round, death) in deaths.into_iter().enumerate() {
        let wanted = &sizes[round % 2];
        let (mut journal, limits, mut user) = (play.journal(), play.limits.clone(), Yes);
        let dead = Notify::new();
        let mut mortal = Struck::new(play.stage.connect(&limits).await, death, async || {
            dead.notify_one();
            pending().await
        });
        tokio::select! {
            ended = resize(&mut mortal, &mut journal, wanted.clone(), &limits, &mut user) => {
                panic!("round {round} was to end with {death:?}: {ended:#?}")
            }
            () = dead.notified() => {}
        }
        drop((mortal, journal));
        play.proven(wanted).await;
        let journal = play.journal();
        assert!(journal.history().open().is_none() && journal.history().pending().is_empty());
    }
    play.stage.end().await;
}

pub(crate) async fn virtio_mem_is_preferred_and_shrinks_as_far_as_the_guest_lets_it<S: Stage>() {
    let mut play = Play::<S>::of(Make::VirtioMem).await;
    play.limits.per_gib = Span::secs(10);
    let report = play.proven(&to(Bytes::mib(1280))).await;
    assert!(report.steps.iter().any(|step| step.act.starts_with("resize ")), "{report:#?}");
    play.proven(&to(Bytes::mib(768))).await;

    play.stage.pin().await;
    let report = play.resize(&to(SMALL)).await.unwrap();
    assert_eq!(report.verdict, Verdict::Partial, "{report:#?}");
    assert!(!report.held_back.is_empty(), "{report:#?}");
    let achieved = report.achieved.unwrap().memory;
    assert!(achieved > SMALL && achieved < Bytes::mib(768), "{report:#?}");
    assert_eq!(play.stage.plugged().await.memory, achieved);
    play.stage.is_level().await;

    play.stage.unpin().await;
    play.proven(&to(SMALL)).await;
    play.stage.end().await;
}

pub(crate) async fn without_an_agent_the_guests_driver_is_believed_as_far_as_it_tells<S: Stage>() {
    let mut play = Play::<S>::of(Make::WithoutAgent).await;
    let report = play.proven(&to(Bytes::gib(1))).await;
    assert_eq!(report.strength, Some(Strength::DriverConfirmed));

    let refused = play.resize(&to(SMALL)).await.unwrap_err().to_string();
    assert!(refused.contains("agent"), "{refused}");
    assert_eq!(play.stage.plugged().await.memory, Bytes::gib(1), "nothing was changed");

    for size in [Bytes::mib(768), Bytes::gib(1)] {
        let balloon = Wanted {
            memory: Some(Change::To(size)),
            mechanism: Some(Mechanism::Balloon),
            ..Wanted::default()
        };
        let report = play.resize(&balloon).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
        assert_eq!(report.achieved.unwrap().memory, size, "{report:#?}");
        play.stage.is_level().await;
    }
    play.stage.end().await;
}
