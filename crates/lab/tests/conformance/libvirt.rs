//! A real libvirtd with real guests.

use std::mem;
use std::time::Duration;

use drive::domxml::Drift;
use drive::journal::MemoryJournal;
use drive::libvirt::LibvirtMachine;
use drive::resize::resize;
use lab::{DomainGuest, Generation, Libvirtd, Onlining, Recipe, Service, Yes, eventually};
use scale::limits::Limits;
use scale::report::Verdict;
use scale::time::Span;
use scale::units::Bytes;

use crate::guest::{self, recipe};
use crate::play::{Play, to, to_both};
use crate::stage::{Make, SMALL, Size, Stage};
use crate::trouble::{At, Struck};

const SOON: Duration = Duration::from_secs(60);

pub(crate) struct Libvirt {
    // Dropped in this order: the guest, then its libvirtd.
    pub(crate) guest: DomainGuest,
    service: Service,
    pub(crate) libvirtd: Libvirtd,
}

impl Libvirt {
    pub(crate) async fn with(generation: Generation, recipe: &Recipe) -> Self {
        let libvirtd = Libvirtd::of(generation).await.unwrap();
        let guest = libvirtd.boot("web1", recipe).await.unwrap();
        let service = guest.watch_service();
        Self { guest, service, libvirtd }
    }

    /// Watches the guest's service from now on, after something that has the guest stand still.
    pub(crate) fn watch_anew(&mut self) {
        self.service = self.guest.watch_service();
    }

    /// The guest has served until now; from now on it is watched anew.
    pub(crate) async fn has_served(&mut self) {
        guest::served(mem::replace(&mut self.service, self.guest.watch_service())).await;
    }

    /// Ends the domain and starts it by its definition.
    pub(crate) async fn start_anew(&mut self) {
        self.guest.start_anew().await.unwrap();
        self.service = self.guest.watch_service();
    }
}

impl Stage for Libvirt {
    type Driver<'stage> = LibvirtMachine;

    async fn of(make: Make) -> Self {
        Self::with(Generation::asked_for().unwrap(), &recipe(make)).await
    }

    async fn connect(&mut self, limits: &Limits) -> LibvirtMachine {
        LibvirtMachine::open(&self.libvirtd.connect_uri(), "web1", limits).await.unwrap()
    }

    async fn plugged(&mut self) -> Size {
        let (memory, vcpus) = ("query-memory-size-summary", "query-cpus-fast");
        guest::plugged(&self.guest.ask(memory).await.unwrap(), &self.guest.ask(vcpus).await.unwrap())
    }

    async fn online(&mut self) -> Size {
        guest::online(&self.guest).await
    }

    async fn uses(&mut self, size: Bytes) {
        guest::uses(&self.guest, size).await;
    }

    async fn is_level(&mut self) {
        if let Err(error) = self.guest.is_level().await {
            panic!("{error}\n{}", self.libvirtd.log());
        }
    }

    async fn pin(&mut self) {
        guest::pin(&self.guest).await;
    }

    async fn unpin(&mut self) {
        guest::unpin(&self.guest).await;
    }

    async fn answers_removals(&mut self, answers: bool) {
        guest::hears_of_memory(&self.guest, answers).await;
    }

    async fn end(self) {
        guest::served(self.service).await;
    }
}

crate::all_stories_on!(Libvirt);

#[tokio::test]
async fn newer_generations_do_the_same_or_say_why_not() {
    let found = tokio::task::spawn_blocking(|| lab::Libvirt::backports(&lab::Cache::open().unwrap()));
    if let Err(absent) = found.await.unwrap() {
        assert!(absent.to_string().contains("no libvirt from the backports here: "));
        return eprintln!("{absent}");
    }
    let mut play = Play::on(Libvirt::with(Generation::Backports, &recipe(Make::Plain)).await);
    play.proven(&to_both(Bytes::mib(1024), 2)).await;
    play.proven(&to(SMALL)).await;
    play.stage.end().await;
}

#[tokio::test]
async fn a_resize_survives_the_next_start() {
    let recipe = recipe(Make::Plain).onlining(Onlining::KernelMovable);
    let mut play = Play::on(Libvirt::with(Generation::asked_for().unwrap(), &recipe).await);
    let grown = to_both(Bytes::mib(1280), 3);
    play.proven(&grown).await;
    let before = play.stage.guest.witness().mem_total().await.unwrap();
    play.stage.start_anew().await;
    assert_eq!(play.stage.plugged().await, Size { memory: Bytes::mib(1280), vcpus: 3 });
    assert_eq!(play.stage.online().await, Size { memory: Bytes::mib(1280), vcpus: 3 });
    let after = play.stage.guest.witness().mem_total().await.unwrap();
    assert!(after.max(before).saturating_sub(after.min(before)) < Bytes::mib(64), "{before}, then {after}");
    play.stage.is_level().await;
    // What came with the start can go as what was plugged: nothing of it is the machine's own.
    let report = play.proven(&grown).await;
    assert!(report.steps.is_empty(), "{report:#?}");
    play.proven(&to_both(SMALL, 1)).await;
    play.stage.end().await;
}

#[tokio::test]
async fn what_the_guest_gives_up_by_an_earlier_request_leaves_the_definition_too() {
    let mut play = Play::<Libvirt>::of(Make::Plain).await;
    play.proven(&to(Bytes::mib(768))).await;
    play.stage.answers_removals(false).await;
    let patience = mem::replace(&mut play.limits.unplug, Span::millis(200));
    let report = play.resize(&to(SMALL)).await.unwrap();
    assert_eq!((report.verdict, report.pending.len()), (Verdict::Failed, 1), "{report:#?}");
    play.limits.unplug = patience;

    let (limits, mut journal) = (play.limits.clone(), play.journal());
    let driver = play.stage.connect(&limits).await;
    let guest = &play.stage.guest;
    // The DIMM was seen, and is gone by the time that its removal is asked for again, which libvirt or QEMU refuses then.
    let mut late = Struck::new(driver, At::Before(2), async || {
        guest::hears_of_memory(guest, true).await;
        let gone =
            async || Ok((guest.ask("query-memory-devices").await?.as_array() == Some(&vec![])).then_some(()));
        eventually("the guest lets go of it", SOON, gone).await.unwrap();
    });
    let report = resize(&mut late, &mut journal, to(SMALL), &limits, &mut Yes).await.unwrap();
    assert_eq!((report.verdict, report.steps.len()), (Verdict::Proven, 2), "{report:#?}");
    play.stage.is_level().await;
    play.stage.end().await;
}

#[tokio::test]
async fn live_only_leaves_the_next_start_as_it_was() {
    let recipe = Recipe::i440fx().memory(SMALL);
    let mut stage = Libvirt::with(Generation::asked_for().unwrap(), &recipe).await;
    let limits = Limits::default();
    let mut machine = stage.connect(&limits).await.live_only();
    let mut journal = MemoryJournal::default();
    let wanted = to_both(Bytes::mib(768), 2);
    let report = resize(&mut machine, &mut journal, wanted, &limits, &mut Yes).await.unwrap();
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    drop(machine);
    let drifted = stage.guest.drifted().await.unwrap();
    assert!(drifted.iter().any(|drift| matches!(drift, Drift::OnlyLive { .. })), "{drifted:?}");
    assert!(drifted.iter().any(|drift| matches!(drift, Drift::Vcpus { live: 2, next: 1 })), "{drifted:?}");
    stage.start_anew().await;
    assert_eq!(stage.plugged().await, Size { memory: SMALL, vcpus: 1 });
    stage.is_level().await;
}
