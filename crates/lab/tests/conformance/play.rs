//! A stage with a user and a journal: what the user's commands do, and that what they report is so.

use drive::journal::{FileJournal, Journal, JournalError};
use drive::resize::{self, Party, ResizeError};
use lab::Yes;
use scale::limits::Limits;
use scale::observed::Observed;
use scale::report::{Report, Verdict};
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;
use std::thread::sleep;
use std::time::Duration;
use tempfile::TempDir;

use crate::stage::{Make, Size, Stage};

pub(crate) struct Play<S> {
    pub(crate) stage: S,
    state: TempDir,
    /// A user's, but where a story waits for what does not come.
    pub(crate) limits: Limits,
}

impl<S: Stage> Play<S> {
    pub(crate) async fn of(make: Make) -> Self {
        Self::on(S::of(make).await)
    }

    pub(crate) fn on(stage: S) -> Self {
        Self { stage, state: TempDir::new().unwrap(), limits: Limits::default() }
    }

    pub(crate) fn journal(&self) -> FileJournal {
        // A lock is inherited by what another test starts, for the moment until that is a program of its own.
        for _ in 0..200 {
            match FileJournal::open(self.state.path(), "guest") {
                Err(JournalError::Held { .. }) => sleep(Duration::from_millis(10)),
                opened => return opened.unwrap(),
            }
        }
        panic!("the journal is held by another for two seconds")
    }

    /// `supple apply --yes`.
    pub(crate) async fn resize(&mut self, wanted: &Wanted) -> Result<Report, ResizeError> {
        let mut journal = self.journal();
        self.resize_by(wanted, &mut journal, &mut Yes).await
    }

    pub(crate) async fn resize_by(
        &mut self,
        wanted: &Wanted,
        journal: &mut impl Journal,
        party: &mut impl Party,
    ) -> Result<Report, ResizeError> {
        let mut driver = self.stage.connect(&self.limits).await;
        resize::resize(&mut driver, journal, wanted.clone(), &self.limits, party).await
    }

    /// `supple observe`.
    pub(crate) async fn observe(&mut self) -> Observed {
        let journal = self.journal();
        let mut driver = self.stage.connect(&self.limits).await;
        resize::observe(&mut driver, journal.history()).await.unwrap()
    }

    /// Resizes, and sees from all sides that it is so.
    pub(crate) async fn proven(&mut self, wanted: &Wanted) -> Report {
        let report = self.resize(wanted).await.unwrap();
        assert_eq!(report.verdict, Verdict::Proven, "{report:#?}");
        let achieved = report.achieved.unwrap();
        let size = Size { memory: achieved.memory, vcpus: achieved.vcpus };
        assert_eq!(report.asked.memory.unwrap_or(size.memory), size.memory, "{report:#?}");
        assert_eq!(report.asked.vcpus.unwrap_or(size.vcpus), size.vcpus, "{report:#?}");
        assert_eq!(self.stage.plugged().await, size, "QEMU's side: {report:#?}");
        assert_eq!(self.stage.online().await, size, "the guest's side: {report:#?}");
        self.stage.is_level().await;
        report
    }
}

pub(crate) fn to(memory: Bytes) -> Wanted {
    Wanted { memory: Some(Change::To(memory)), ..Wanted::default() }
}

pub(crate) fn to_both(memory: Bytes, vcpus: u32) -> Wanted {
    Wanted { vcpus: Some(Change::To(vcpus)), ..to(memory) }
}
