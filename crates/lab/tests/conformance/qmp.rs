//! Plain QEMU over QMP, with real guests.

use drive::qmp::QmpMachine;
use lab::{Cache, Generation, Machine, Onlining, Qemu, Recipe, Service};
use scale::limits::Limits;
use scale::report::Verdict;
use scale::units::Bytes;
use serde_json::Value;

use crate::guest::{self, recipe};
use crate::play::{Play, to, to_both};
use crate::stage::{Make, SMALL, Size, Stage};

pub(crate) struct Qmp {
    guest: Machine,
    service: Service,
    agent: bool,
}

impl Qmp {
    async fn with(recipe: &Recipe) -> Self {
        let guest = recipe.boot().await.unwrap();
        let service = guest.watch_service();
        Self { guest, service, agent: true }
    }
}

impl Stage for Qmp {
    type Driver<'stage> = QmpMachine;

    async fn of(make: Make) -> Self {
        Self { agent: make != Make::WithoutAgent, ..Self::with(&recipe(make)).await }
    }

    async fn connect(&mut self, limits: &Limits) -> QmpMachine {
        let agent = self.guest.agent();
        QmpMachine::open(&self.guest.qmp(), self.agent.then_some(&agent), limits).await.unwrap()
    }

    async fn plugged(&mut self) -> Size {
        let memory = self.guest.execute("query-memory-size-summary", Value::Null).await.unwrap();
        let vcpus = self.guest.execute("query-cpus-fast", Value::Null).await.unwrap();
        guest::plugged(&memory, &vcpus)
    }

    async fn online(&mut self) -> Size {
        guest::online(&self.guest).await
    }

    async fn uses(&mut self, size: Bytes) {
        guest::uses(&self.guest, size).await;
    }

    async fn is_level(&mut self) {}

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

crate::all_stories_on!(Qmp);

#[tokio::test]
async fn udev_and_supple_do_not_get_in_each_others_way_on_two_nodes() {
    let recipe = Recipe::i440fx().memory(SMALL).two_nodes().vcpus(2, 4).onlining(Onlining::Udev);
    let mut play = Play::on(Qmp::with(&recipe).await);
    play.proven(&to_both(Bytes::mib(1536), 3)).await;
    for node in [0, 1] {
        let file = format!("/sys/devices/system/node/node{node}/meminfo");
        let total = play.stage.guest.shell(&format!("awk '/MemTotal/ {{print $4}}' {file}")).await.unwrap();
        let total = Bytes::new(total.ok().unwrap().parse::<u64>().unwrap() << 10);
        assert!(total > SMALL, "node {node} got its half: {total}");
    }
    // Where udev's rule came first, the kernel put the blocks in a zone of its own and may have used them since.
    let report = play.resize(&to(SMALL)).await.unwrap();
    let kept = play.stage.plugged().await;
    assert_eq!(play.stage.online().await, kept, "nothing is left half done: {report:#?}");
    let busy = report.held_back.iter().any(|why| why.contains("busy"));
    assert!(report.verdict == Verdict::Proven || busy, "{report:#?}");
    play.stage.end().await;
}

#[tokio::test]
async fn on_the_backports_qemu_dimms_may_follow_a_vcpu_removal() {
    let found = tokio::task::spawn_blocking(|| Qemu::backports(&Cache::open().unwrap())).await.unwrap();
    if let Err(absent) = found {
        // Where the archive cannot be reached there is no second QEMU to try.
        return assert!(!absent.to_string().is_empty(), "{absent}");
    }
    let mut play = Play::on(Qmp::with(&recipe(Make::Plain).qemu(Generation::Backports)).await);
    play.proven(&to_both(Bytes::gib(1), 2)).await;
    play.proven(&to_both(SMALL, 1)).await;
    play.proven(&to(Bytes::gib(1))).await;
    play.proven(&to(SMALL)).await;
    play.stage.end().await;
}
