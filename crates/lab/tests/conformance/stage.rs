//! What a story needs of the machine that it is played on, and what it looks at besides Supple's own word.

use drive::Hypervisor;
use scale::limits::Limits;
use scale::units::Bytes;

/// The memory at boot of every stage's machine.
pub(crate) const SMALL: Bytes = Bytes::mib(512);

/// Which machine. All boot with [`SMALL`] of at most 8 GiB in 16 slots and 1 of 4 vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    /// DIMMs, a full agent, and nobody in the guest who onlines anything.
    Plain,
    /// A virtio-mem device of 2 GiB, and a kernel that onlines to the movable zone.
    VirtioMem,
    /// No agent; a kernel that onlines, and a balloon.
    WithoutAgent,
}

/// A machine's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) memory: Bytes,
    pub(crate) vcpus: u32,
}

/// A machine that stories are played on.
pub(crate) trait Stage: Sized {
    /// Supple's driver for it.
    type Driver<'stage>: Hypervisor
    where
        Self: 'stage;

    /// A machine of this make, up and serving.
    async fn of(make: Make) -> Self;

    /// A driver of its own for each command, as each command has.
    async fn connect(&mut self, limits: &Limits) -> Self::Driver<'_>;

    /// What is plugged, by QEMU's word.
    async fn plugged(&mut self) -> Size;

    /// What is online, by the word of the guest's kernel.
    async fn online(&mut self) -> Size;

    /// Really uses so much of the guest's memory: it is written, read back and given back.
    async fn uses(&mut self, size: Bytes);

    /// What keeps the machine has one opinion of its size, now and for its next start.
    async fn is_level(&mut self);

    /// From now on the guest cannot empty some of the memory that has been plugged.
    async fn pin(&mut self);

    /// The guest could empty all of it again.
    async fn unpin(&mut self);

    /// From now on the guest leaves requests to give up memory unanswered; or it answers them again, those that it
    /// missed too.
    async fn answers_removals(&mut self, answers: bool);

    /// The guest has served all the while.
    async fn end(self);
}
