//! The one driver that a command uses, whoever keeps the machine. It adds nothing to what they do.

#[cfg(feature = "libvirt")]
use drive::libvirt::LibvirtMachine;
use drive::qmp::QmpMachine;
use drive::{ApplyError, Hypervisor, ObserveError};
use scale::observed::Observed;
use scale::plan::Act;
use scale::sight::{Event, Look, Sight};
use scale::time::Moment;
use scale::wanted::Scope;

/// A machine that can be driven.
#[derive(Debug)]
pub(crate) enum Driver {
    /// On plain QEMU.
    Qmp(Box<QmpMachine>),
    /// Kept by libvirt.
    #[cfg(feature = "libvirt")]
    Libvirt(Box<LibvirtMachine>),
}

/// What becomes of the machine's definition for its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "libvirt"), allow(dead_code, reason = "plain QEMU keeps no definition"))]
pub(crate) enum Definition {
    /// There is none that is known: plain QEMU.
    Unknown,
    /// It follows each change.
    Follows,
    /// It stays as it is: `--live-only`.
    Stays,
    /// There is none: the machine vanishes at its end.
    Transient,
}

impl Driver {
    /// What becomes of the machine's definition.
    pub(crate) fn definition(&self) -> Definition {
        match self {
            Driver::Qmp(_) => Definition::Unknown,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => match (machine.is_persistent(), machine.keeps_definition()) {
                (false, _) => Definition::Transient,
                (true, true) => Definition::Follows,
                (true, false) => Definition::Stays,
            },
        }
    }

    /// Changes that the machine's definition did not follow; nothing where it has none: on plain QEMU.
    pub(crate) fn not_followed(&self) -> Option<&[String]> {
        match self {
            Driver::Qmp(_) => None,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => Some(machine.not_followed()),
        }
    }
}

impl Hypervisor for Driver {
    fn now(&self) -> Moment {
        match self {
            Driver::Qmp(machine) => machine.now(),
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.now(),
        }
    }

    fn attend(&mut self, scope: Scope) {
        match self {
            Driver::Qmp(machine) => machine.attend(scope),
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.attend(scope),
        }
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        match self {
            Driver::Qmp(machine) => machine.observe().await,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.observe().await,
        }
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        match self {
            Driver::Qmp(machine) => machine.look(look).await,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.look(look).await,
        }
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        match self {
            Driver::Qmp(machine) => machine.apply(act, until).await,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.apply(act, until).await,
        }
    }

    fn remarks(&mut self) -> Vec<String> {
        match self {
            Driver::Qmp(machine) => machine.remarks(),
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.remarks(),
        }
    }

    async fn follow(&mut self, device: &str) {
        match self {
            Driver::Qmp(machine) => machine.follow(device).await,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.follow(device).await,
        }
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        match self {
            Driver::Qmp(machine) => machine.watch(until).await,
            #[cfg(feature = "libvirt")]
            Driver::Libvirt(machine) => machine.watch(until).await,
        }
    }
}
