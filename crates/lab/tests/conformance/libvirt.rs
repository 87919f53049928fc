//! A real libvirtd with real guests.

use drive::libvirt::LibvirtMachine;
use lab::{DomainGuest, Generation, Libvirtd, Recipe, Service};
use scale::limits::Limits;
use scale::units::Bytes;

use crate::guest::{self, recipe};
use crate::play::{Play, to, to_both};
use crate::stage::{Make, SMALL, Size, Stage};

pub(crate) struct Libvirt {
    // Dropped in this order: the guest, then its libvirtd.
    guest: DomainGuest,
    service: Service,
    libvirtd: Libvirtd,
}

impl Libvirt {
    async fn with(generation: Generation, recipe: &Recipe) -> Self {
        let libvirtd = Libvirtd::of(generation).await.unwrap();
        let guest = libvirtd.boot("web1", recipe).await.unwrap();
        let service = guest.watch_service();
        Self { guest, service, libvirtd }
    }
}

impl Stage for Libvirt {
    type Driver<'stage> = LibvirtMachine;

    async fn of(make: Make) -> Self {
        Self::with(Generation::System, &recipe(make)).await
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
