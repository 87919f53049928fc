//! What befalls a controller: somebody else changes the machine while the user thinks about a plan, or something happens
//! in the middle of a run.

use drive::resize::{Party, Progress};
use drive::{ApplyError, Hypervisor, ObserveError};
use scale::observed::{Manager, Observed};
use scale::plan::{Act, Plan};
use scale::sight::{Event, Look, Sight};
use scale::time::{Moment, Span};
use scale::units::Bytes;
use scale::wanted::Scope;

/// A user thinks for longer than a plan is taken for fresh.
const THOUGHT: Span = Span::millis(1500);

/// Seen through this, a machine is changed by somebody else right after it was first looked at.
pub(crate) struct Meddled<H, M> {
    driver: H,
    meddler: Option<M>,
}

impl<H: Hypervisor, M: AsyncFnOnce(&mut H, &Observed)> Meddled<H, M> {
    pub(crate) fn new(driver: H, meddler: M) -> Self {
        Self { driver, meddler: Some(meddler) }
    }

    async fn meddle(&mut self, seen: &Observed) {
        let Some(meddler) = self.meddler.take() else { return };
        meddler(&mut self.driver, seen).await;
        let thought = self.driver.now() + THOUGHT;
        while self.driver.now() < thought {
            self.driver.watch(thought).await;
        }
    }
}

/// Plugs a DIMM as somebody else does who has a driver too.
pub(crate) async fn plug_theirs(driver: &mut impl Hypervisor, seen: &Observed, size: Bytes) {
    let until = driver.now() + Span::secs(30);
    let (id, slot, addr) = ("ua-theirs".to_owned(), 7, None);
    let memdev = format!("mem{id}");
    let brings = (seen.machine.manager == Manager::Libvirt).then_some(size);
    if brings.is_none() {
        let create = Act::CreateBackend {
            memdev: memdev.clone(),
            size,
            backing: seen.memory.backing.clone(),
            placement: Default::default(),
        };
        driver.apply(&create, until).await.unwrap();
    }
    let plug = Act::PlugDimm { id, memdev, brings, slot, node: 0, addr };
    driver.apply(&plug, until).await.unwrap();
}

impl<H: Hypervisor, M: AsyncFnOnce(&mut H, &Observed)> Hypervisor for Meddled<H, M> {
    fn now(&self) -> Moment {
        self.driver.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.driver.attend(scope);
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        let seen = self.driver.observe().await?;
        self.meddle(&seen).await;
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

/// A moment in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// With the nth act written down and not sent.
    Before(usize),
    /// With the nth act accepted, and nothing more known of it.
    After(usize),
}

/// Seen through this, a machine is struck at one moment: a blow that does not end is the controller's death.
pub(crate) struct Struck<H, B> {
    driver: H,
    at: At,
    sent: usize,
    blow: Option<B>,
}

impl<H: Hypervisor, B: AsyncFnOnce()> Struck<H, B> {
    pub(crate) fn new(driver: H, at: At, blow: B) -> Self {
        Self { driver, at, sent: 0, blow: Some(blow) }
    }

    async fn passes(&mut self, now: At) {
        if self.at == now
            && let Some(blow) = self.blow.take()
        {
            blow().await;
        }
    }
}

impl<H: Hypervisor, B: AsyncFnOnce()> Hypervisor for Struck<H, B> {
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
        self.passes(At::Before(self.sent)).await;
        let answer = self.driver.apply(act, until).await;
        self.passes(At::After(self.sent)).await;
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
