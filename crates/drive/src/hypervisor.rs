//! The driver seam: what Supple needs of a hypervisor, and nothing else.
//!
//! `qmp` implements it for plain QEMU and `sim` for a machine in memory. A driver observes, sends one act, looks
//! at what one proof needs, and waits for events. It decides nothing: `scale` does.

use scale::observed::Observed;
use scale::plan::Act;
use scale::sight::{Event, Look, Sight};
use scale::time::Moment;
use scale::wanted::Scope;

/// One machine behind its hypervisor.
///
/// A driver is used by one task at a time. Time is the driver's: real for real machines, simulated in `sim`.
#[allow(async_fn_in_trait, reason = "drivers are used in place, on one thread, never as trait objects")]
pub trait Hypervisor {
    /// The present time by this driver's clock.
    fn now(&self) -> Moment;

    /// From now on, observations need tell no more than this. A driver may tell more; before, it tells everything.
    fn attend(&mut self, _scope: Scope) {}

    /// Everything there is to know, within the scope. `Observed::pending` is left empty: it comes from the journal.
    async fn observe(&mut self) -> Result<Observed, ObserveError>;

    /// The answer to one narrow question. A guest that does not answer is a [`scale::sight::GuestView`], not an error.
    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError>;

    /// Sends one act and returns when it is accepted, not when it has had its effect. Acts that are done within the
    /// guest agent (onlining, offlining) return when the agent has answered for every block or `until` is reached.
    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError>;

    /// What there is to say of acts that were accepted since the last time: done, and otherwise than one might think.
    fn remarks(&mut self) -> Vec<String>;

    /// Makes up for what an earlier controller did not live to see through, now that this device has come to rest. A
    /// driver that keeps a record of the machine besides the machine itself has it follow; others have nothing to do.
    async fn follow(&mut self, _device: &str) {}

    /// The next event, or nothing when `until` is reached. Events since the last call are never lost: where a bounded
    /// queue overflowed, the answer is an `Event::Other`, upon which the caller looks for itself.
    async fn watch(&mut self, until: Moment) -> Option<Event>;
}

/// Why the machine could not be observed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObserveError {
    /// The hypervisor is gone or does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It answered something that makes no sense.
    #[error("{0}")]
    Nonsense(String),
}

/// Why an act was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The hypervisor or the guest's agent said no. Nothing of this act has happened, or, for acts on many memory
    /// blocks, only a part: the message says which.
    #[error("{0}")]
    Refused(String),
    /// No answer in time: the act may or may not have happened.
    #[error("{0}")]
    Unknown(String),
}
