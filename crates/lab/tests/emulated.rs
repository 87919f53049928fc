//! What ends an emulated QEMU is never asked of it: seen on real ones, which are alive at the end.

use drive::journal::{FileJournal, Journal};
use drive::qmp::QmpMachine;
use drive::resize::{ResizeError, observe, resize};
use drive::{ApplyError, Hypervisor};
use lab::{Cache, Generation, Machine, Qemu, Recipe, Threads, Yes};
use scale::generations::DIES_AFTER_A_VCPU_REMOVAL;
use scale::limits::Limits;
use scale::plan::Act;
use scale::report::{Report, Verdict};
use scale::time::Span;
use scale::units::Change;
use scale::wanted::Wanted;
use tempfile::TempDir;

/// One command after another, each by a controller of its own.
struct Desk {
    state: TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { state: TempDir::new().unwrap() }
    }

    async fn apply(&self, guest: &Machine, vcpus: u32) -> Result<Report, ResizeError> {
        let limits = Limits::default();
        let mut machine = QmpMachine::open(&guest.qmp(), Some(&guest.agent()), &limits).await.unwrap();
        let mut journal = FileJournal::open(self.state.path(), "vm").unwrap();
        let wanted = Wanted { vcpus: Some(Change::To(vcpus)), ..Wanted::default() };
        resize(&mut machine, &mut journal, wanted, &limits, &mut Yes).await
    }

    async fn proven(&self, guest: &Machine, vcpus: u32) {
        let report = self.apply(guest, vcpus).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
    }

    /// It is refused with this word, and the guest is as it was.
    async fn refused(&self, guest: &Machine, vcpus: u32, word: &str) {
        let before = guest.witness().nproc().await.unwrap();
        let refused = self.apply(guest, vcpus).await;
        let Err(ResizeError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        assert!(refusal.to_string().contains(word), "{refusal}");
        assert_eq!(guest.witness().nproc().await.unwrap(), before);
    }

    /// How many vCPUs QEMU has started, by what the journal and the machine tell.
    async fn started(&self, guest: &Machine) -> u32 {
        let mut machine = QmpMachine::open(&guest.qmp(), None, &Limits::default()).await.unwrap();
        let journal = FileJournal::open(self.state.path(), "vm").unwrap();
        observe(&mut machine, journal.history()).await.unwrap().vcpus.started()
    }
}

async fn has_backports() -> bool {
    tokio::task::spawn_blocking(|| Qemu::backports(&Cache::open().unwrap())).await.unwrap().is_ok()
}

#[tokio::test]
async fn no_vcpu_is_plugged_more_often_than_an_emulated_qemu_bears() {
    if !has_backports().await {
        // The one before dies of what comes after the first removal.
        return assert!(Recipe::q35().emulated(Threads::Many).boot().await.is_ok());
    }
    let recipe = Recipe::q35().vcpus(1, 3).emulated(Threads::Many).qemu(Generation::Backports);
    let (desk, guest) = (Desk::new(), recipe.boot().await.unwrap());
    for round in 0..2 {
        assert_eq!(desk.started(&guest).await, 1 + round);
        desk.proven(&guest, 2).await;
        desk.proven(&guest, 1).await;
    }
    desk.refused(&guest, 2, "3 were started").await;
    desk.refused(&guest, 3, "stop and start the machine").await;
    drop(guest);

    // The same machine to Supple, in another QEMU.
    let again = recipe.boot().await.unwrap();
    assert_eq!(desk.started(&again).await, 1);
    desk.proven(&again, 3).await;
    assert_eq!(desk.started(&again).await, 3);
    assert_eq!(again.witness().nproc().await.unwrap(), 3);
}

#[tokio::test]
async fn what_an_old_emulated_qemu_does_not_survive_after_a_removal_is_refused() {
    let (desk, guest) = (Desk::new(), Recipe::q35().emulated(Threads::Many).boot().await.unwrap());
    desk.proven(&guest, 2).await;
    desk.proven(&guest, 1).await;
    let mut machine = QmpMachine::open(&guest.qmp(), None, &Limits::default()).await.unwrap();
    let version = machine.observe().await.unwrap().machine.qemu;
    drop(machine);
    match DIES_AFTER_A_VCPU_REMOVAL.is_in(version) {
        true => desk.refused(&guest, 2, "dies").await,
        false => desk.proven(&guest, 2).await,
    }
}

#[tokio::test]
async fn a_qemu_with_one_thread_for_all_vcpus_keeps_them() {
    let recipe = Recipe::q35().vcpus(1, 3).emulated(Threads::One);
    let (desk, guest) = (Desk::new(), recipe.boot().await.unwrap());
    desk.proven(&guest, 2).await;
    desk.refused(&guest, 1, "one thread").await;
    // As a way back it is not sent either.
    let mut machine = QmpMachine::open(&guest.qmp(), None, &Limits::default()).await.unwrap();
    let until = machine.now() + Span::secs(30);
    let refused = machine.apply(&Act::UnplugVcpu { id: "supple-vcpu0".into() }, until).await;
    assert!(matches!(&refused, Err(ApplyError::Refused(why)) if why.contains("one thread")), "{refused:?}");
    drop(machine);
    desk.proven(&guest, 3).await;
    assert_eq!(guest.witness().nproc().await.unwrap(), 3);
}
