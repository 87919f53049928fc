//! Whole resizes of real guests. Each is seen from four sides: the plan's word, QEMU's, the guest's kernel's by a way
//! that Supple does not use, and memory that is really written and read back. The guest's network service is asked
//! all the while, and loses nothing.

use drive::journal::{FileJournal, Journal, JournalError};
use drive::qmp::QmpMachine;
use drive::resize::{ResizeError, resize};
use lab::{Agent, Cache, Generation, Machine, Onlining, Qemu, Recipe, Service, Yes};
use scale::history::History;
use scale::limits::Limits;
use scale::plan::Strength;
use scale::report::{Report, Verdict};
use scale::run::Record;
use scale::units::{Bytes, Change};
use scale::wanted::{Mechanism, Wanted};
use serde_json::Value;
use tempfile::TempDir;

/// A guest, its watched service, and a place for its journal.
struct Stage {
    guest: Machine,
    service: Service,
    state: TempDir,
    agent: bool,
}

impl Stage {
    async fn with(recipe: Recipe) -> Stage {
        let guest = recipe.boot().await.unwrap();
        let service = guest.watch_service();
        Stage { guest, service, state: TempDir::new().unwrap(), agent: true }
    }

    /// A driver of its own for each resize, as each command has.
    async fn machine(&self) -> QmpMachine {
        let agent = self.guest.agent();
        QmpMachine::open(&self.guest.qmp(), self.agent.then_some(&agent), &Limits::default()).await.unwrap()
    }

    fn journal(&self) -> FileJournal {
        FileJournal::open(self.state.path(), "guest").unwrap()
    }

    async fn resize(&self, wanted: Wanted) -> Result<Report, ResizeError> {
        resize(&mut self.machine().await, &mut self.journal(), wanted, &Limits::default(), &mut Yes).await
    }

    /// Resizes, and looks at it from all sides but the last.
    async fn proven(&self, wanted: Wanted) -> Report {
        let report = self.resize(wanted).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
        let achieved = report.achieved.unwrap();
        assert_eq!(report.asked.memory.unwrap_or(achieved.memory), achieved.memory);
        assert_eq!(self.qemus_memory().await, achieved.memory, "QEMU's side");
        assert_eq!(self.guests_memory().await, achieved.memory, "the guest's side");
        assert_eq!(
            u32::from(self.guest.witness().nproc().await.unwrap()),
            achieved.vcpus,
            "the guest's side"
        );
        report
    }

    async fn guests_memory(&self) -> Bytes {
        let witness = self.guest.witness();
        let blocks = witness.blocks().await.unwrap();
        let online = blocks.iter().filter(|block| block.online).count() as u64;
        witness.block_size().await.unwrap().times(online)
    }

    async fn qemus_memory(&self) -> Bytes {
        let summary = self.guest.execute("query-memory-size-summary", Value::Null).await.unwrap();
        let bytes = |key: &str| Bytes::new(summary[key].as_u64().unwrap());
        bytes("base-memory") + bytes("plugged-memory")
    }

    /// The fourth side: so much memory is written, read back and given back.
    async fn really_has(&self, size: Bytes) {
        let witness = self.guest.witness();
        let touched = witness.touch(size).await.unwrap();
        assert!(witness.intact(&touched).await.unwrap(), "what was written is read back");
        witness.release(touched).await.unwrap();
    }

    async fn end(self) {
        let report = self.service.finish().await;
        assert!(report.answered > 0 && report.lost == 0, "{report:?}");
    }
}

fn to(memory: Bytes) -> Wanted {
    Wanted { memory: Some(Change::To(memory)), ..Wanted::default() }
}

fn to_both(memory: Bytes, vcpus: u32) -> Wanted {
    Wanted { vcpus: Some(Change::To(vcpus)), ..to(memory) }
}

const SMALL: Bytes = Bytes::mib(512);

#[tokio::test]
async fn a_guest_that_onlines_nothing_grows_uses_it_and_shrinks() {
    let stage = Stage::with(Recipe::q35().memory(SMALL).vcpus(1, 4)).await;
    let report = stage.proven(to_both(Bytes::mib(1280), 2)).await;
    assert_eq!(report.strength, Some(Strength::GuestConfirmed));
    stage.really_has(SMALL + Bytes::mib(128)).await;
    stage.proven(to_both(SMALL, 1)).await;
    stage.end().await;
}

#[tokio::test]
async fn udev_and_supple_do_not_get_in_each_others_way_on_two_nodes() {
    let recipe = Recipe::i440fx().memory(SMALL).two_nodes().vcpus(2, 4).onlining(Onlining::Udev);
    let stage = Stage::with(recipe).await;
    stage.proven(to_both(Bytes::mib(1536), 3)).await;
    for node in [0, 1] {
        let figures =
            stage.guest.shell(&format!("cat /sys/devices/system/node/node{node}/meminfo")).await.unwrap();
        let figures = figures.ok().unwrap();
        let total =
            figures.lines().find(|line| line.contains("MemTotal")).and_then(|l| l.split_whitespace().nth(3));
        let total = Bytes::new(total.unwrap().parse::<u64>().unwrap() << 10);
        assert!(total > SMALL, "node {node} got its half: {total}");
    }
    // Where udev's rule came first, the kernel put the blocks in a zone of its own and may have used them since.
    let report = stage.resize(to(SMALL)).await.unwrap();
    let kept = stage.qemus_memory().await;
    assert_eq!(stage.guests_memory().await, kept, "nothing is left half done: {report:#?}");
    let busy = report.held_back.iter().any(|why| why.contains("busy"));
    assert!(report.verdict == Verdict::Proven || busy, "{report:#?}");
    stage.end().await;
}

#[tokio::test]
async fn virtio_mem_is_preferred_and_shrinks_as_far_as_the_guest_lets_it() {
    let recipe = Recipe::q35().memory(SMALL).virtio_mem(Bytes::gib(2), 0).onlining(Onlining::KernelMovable);
    let stage = Stage::with(recipe).await;
    let report = stage.proven(to(Bytes::mib(1792))).await;
    assert!(report.steps.iter().any(|step| step.act.starts_with("resize vmem0")), "{report:#?}");
    stage.really_has(SMALL).await;
    // What the guest cannot free in time it keeps: a partial shrink is a result, with its reason.
    let report = stage.resize(to(SMALL)).await.unwrap();
    let partial = report.verdict == Verdict::Partial && !report.held_back.is_empty();
    assert!(report.verdict == Verdict::Proven || partial, "{report:#?}");
    assert_eq!(stage.qemus_memory().await, report.achieved.unwrap().memory, "QEMU's side");
    stage.end().await;
}

#[tokio::test]
async fn without_an_agent_the_guests_driver_is_believed_as_far_as_it_tells() {
    let recipe = Recipe::q35().memory(SMALL).onlining(Onlining::Kernel).agent(Agent::Absent);
    let mut stage = Stage::with(recipe).await;
    stage.agent = false;
    let report = stage.proven(to(Bytes::gib(1))).await;
    assert_eq!(report.strength, Some(Strength::DriverConfirmed));

    let refused = stage.resize(to(SMALL)).await.unwrap_err().to_string();
    assert!(refused.contains("agent"), "{refused}");
    assert_eq!(stage.qemus_memory().await, Bytes::gib(1), "nothing was changed");

    let balloon = Wanted { mechanism: Some(Mechanism::Balloon), ..to(Bytes::mib(768)) };
    let report = stage.resize(balloon.clone()).await.unwrap();
    assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    let back = Wanted { memory: Some(Change::To(Bytes::gib(1))), ..balloon };
    assert_eq!(stage.resize(back).await.unwrap().verdict, Verdict::Proven);
    stage.end().await;
}

/// A journal whose controller dies before one of its records is written.
struct Dying {
    journal: FileJournal,
    left: usize,
}

impl Journal for Dying {
    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        if self.left == 0 {
            return Err(JournalError::Held { path: "the controller is dead".into() });
        }
        self.left -= 1;
        self.journal.append(record)
    }

    fn history(&self) -> &History {
        self.journal.history()
    }
}

#[tokio::test]
async fn a_controller_that_dies_anywhere_is_followed_by_one_that_ends_right() {
    let stage = Stage::with(Recipe::q35().memory(SMALL).vcpus(1, 4)).await;
    let sizes = [(Bytes::gib(1), 2), (SMALL, 2)];
    let mut deaths = 0;
    for (round, left) in [1, 3, 5, 7, 2, 4, 6, 8].into_iter().enumerate() {
        // QEMU 7.2 under TCG survives no DIMM change after a vCPU removal, so vCPUs only grow here.
        let (memory, vcpus) = sizes[round % 2];
        let wanted = if round == 0 { to_both(memory, vcpus) } else { to(memory) };
        let mut dying = Dying { journal: stage.journal(), left };
        let mut machine = stage.machine().await;
        let ended = resize(&mut machine, &mut dying, wanted.clone(), &Limits::default(), &mut Yes).await;
        deaths += usize::from(matches!(ended, Err(ResizeError::Journal(_))));
        drop((machine, dying));
        stage.proven(wanted).await;
        let journal = stage.journal();
        assert!(journal.history().open().is_none() && journal.history().pending().is_empty());
    }
    assert!(deaths >= 6, "only {deaths} controllers died");
    stage.end().await;
}

#[tokio::test]
async fn on_the_backports_qemu_dimms_may_follow_a_vcpu_removal() {
    let found = tokio::task::spawn_blocking(|| Qemu::backports(&Cache::open().unwrap())).await.unwrap();
    if let Err(absent) = found {
        // Where the archive cannot be reached there is no second QEMU to try.
        return assert!(!absent.to_string().is_empty(), "{absent}");
    }
    let recipe = Recipe::q35().qemu(Generation::Backports).memory(SMALL).vcpus(1, 4);
    let stage = Stage::with(recipe).await;
    stage.proven(to_both(Bytes::gib(1), 2)).await;
    stage.proven(to_both(SMALL, 1)).await;
    stage.proven(to(Bytes::gib(1))).await;
    stage.proven(to(SMALL)).await;
    stage.end().await;
}
