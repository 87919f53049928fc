//! What befalls a controller: somebody else changes the machine while the user thinks about a plan, or it dies.

use std::future::pending;
use std::rc::Rc;

use drive::resize::{Party, Progress};
use drive::{ApplyError, Hypervisor, ObserveError};
use scale::observed::{Manager, Observed};
use scale::plan::{Act, Plan};
use scale::sight::{Event, Look, Sight};
use scale::time::{Moment, Span};
use scale::units::Bytes;
use scale::wanted::Scope;
use tokio::sync::Notify;

/// A user thinks for longer than a plan is taken for fresh.
const THOUGHT: Span = Span::millis(1500);

/// Seen through this, a machine gets one more DIMM right after it was first looked at.
pub(crate) struct Meddled<H> {
    driver: H,
    theirs: Option<Bytes>,
}

impl<H: Hypervisor> Meddled<H> {
    pub(crate) fn new(driver: H, theirs: Bytes) -> Self {
        Self { driver, theirs: Some(theirs) }
    }

    async fn meddle(&mut self, seen: &Observed, size: Bytes) {
        let until = self.driver.now() + Span::secs(30);
        let (id, slot, addr) = ("ua-theirs".to_owned(), 7, None);
        let memdev = format!("mem{id}");
        let mut plug = Act::PlugDimm { id, memdev: memdev.clone(), brings: None, slot, node: 0, addr };
        match (&seen.machine.manager, &mut plug) {
            (Manager::Libvirt, Act::PlugDimm { brings, .. }) => *brings = Some(size),
            _plain_qemu => {
                let create = Act::CreateBackend { memdev, size, backing: seen.memory.backing.clone() };
                self.driver.apply(&create, until).await.unwrap();
            }
        }
        self.driver.apply(&plug, until).await.unwrap();
        let thought = self.driver.now() + THOUGHT;
        while self.driver.now() < thought {
            self.driver.watch(thought).await;
        }
    }
}

impl<H: Hypervisor> Hypervisor for Meddled<H> {
    fn now(&self) -> Moment {
        self.driver.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.driver.attend(scope);
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        let seen = self.driver.observe().await?;
        if let Some(size) = self.theirs.take() {
            self.meddle(&seen, size).await;
        }
        Ok(seen)
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        self.driver.look(look).await
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.driver.apply(act, until).await
    }

    fn remarks(&mut self) -> Vec<String> {
        self.driver.remarks()
    }

    async fn follow(&mut self, device: &str) {
        self.driver.follow(device).await;
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        self.driver.watch(until).await
    }
}

/// When a controller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// With its nth act written down and not sent.
    Before(usize),
    /// With its nth act accepted, and nothing more known of it.
    After(usize),
}

/// Seen through this, a machine is lost to its controller for ever at one moment.
pub(crate) struct Mortal<H> {
    driver: H,
    death: Death,
    sent: usize,
    dead: Rc<Notify>,
}

impl<H: Hypervisor> Mortal<H> {
    /// The second is told of the death.
    pub(crate) fn new(driver: H, death: Death) -> (Self, Rc<Notify>) {
        let dead = Rc::new(Notify::new());
        (Self { driver, death, sent: 0, dead: dead.clone() }, dead)
    }

    async fn may_die(&self, now: Death) {
        if self.death == now {
            self.dead.notify_one();
            pending::<()>().await;
        }
    }
}

impl<H: Hypervisor> Hypervisor for Mortal<H> {
    fn now(&self) -> Moment {
        self.driver.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.driver.attend(scope);
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        self.driver.observe().await
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        self.driver.look(look).await
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.sent += 1;
        self.may_die(Death::Before(self.sent)).await;
        let answer = self.driver.apply(act, until).await;
        self.may_die(Death::After(self.sent)).await;
        answer
    }

    fn remarks(&mut self) -> Vec<String> {
        self.driver.remarks()
    }

    async fn follow(&mut self, device: &str) {
        self.driver.follow(device).await;
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        self.driver.watch(until).await
    }
}

/// A user who agrees to everything and remembers it.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) plans: Vec<Plan>,
}

impl Party for Asked {
    fn consents(&mut self, plan: &Plan, _: &Observed) -> bool {
        self.plans.push(plan.clone());
        true
    }

    fn told(&mut self, _: Progress<'_>) {}
}
