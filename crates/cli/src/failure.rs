//! Why a command ends without a result: what is printed, and with which exit status.

use drive::ObserveError;
use drive::journal::JournalError;
#[cfg(feature = "libvirt")]
use drive::libvirt::{self, CallError, FindError};
use drive::qmp::OpenError;
use drive::resize::ResizeError;
use scale::plan::Refusal;
use std::path::PathBuf;

use crate::paint::{BAD, paint};
use crate::show::paragraph;
use crate::show::refusal::refusal;
use crate::wire;

/// Done and proven, or nothing to do.
pub(crate) const DONE: u8 = 0;
/// Partial or failed: the machine may have changed.
pub(crate) const PARTIAL: u8 = 1;
/// Bad input or refused: nothing was changed.
pub(crate) const UNCHANGED: u8 = 2;
/// Stopped by Ctrl-C in the middle of a run, as shells have it: 128 and the signal's number.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command ends without a result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no plan.
    #[error("{0}")]
    Refused(Refusal),
    /// Nobody can be asked.
    #[error("nobody can be asked here (no terminal); add --yes to apply this plan without a question")]
    NobodyToAsk,
    /// The user said no.
    #[error("not confirmed; nothing was changed")]
    Declined,
    /// Another controller is at work on the machine.
    #[error("another supple (process {0}) is at work on this machine; `supple why` tells how far it is")]
    Busy(u32),
    /// The machine could not be observed, or something in the middle of a resize.
    #[error("{message}")]
    Broke {
        /// A word for scripts.
        kind: &'static str,
        /// What went wrong.
        message: String,
        /// True where a run had begun.
        began: bool,
    },
    /// Ctrl-C in the middle of a run.
    #[error("stopped {0}")]
    Interrupted(String),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Failure {
    /// A resize that ended without a report.
    pub(crate) fn of_resize(error: ResizeError, began: bool) -> Failure {
        let kind = match &error {
            ResizeError::Refused(refusal) => return Failure::Refused(refusal.clone()),
            ResizeError::Declined => return Failure::Declined,
            ResizeError::StepAfterInterruption { .. } => "step-after-interruption",
            ResizeError::Unsteady => "unsteady",
            ResizeError::Observe(_) => "unreachable",
            ResizeError::Journal(_) => "journal",
            ResizeError::Unsound(_) => "unsound-plan",
        };
        Failure::Broke { kind, message: error.to_string(), began }
    }

    /// A machine of libvirt's, and no libvirt in this program.
    #[cfg(not(feature = "libvirt"))]
    pub(crate) fn no_libvirt() -> Failure {
        let message = "this supple was built without libvirt, so it reaches a machine by its QMP socket alone: \
                       qmp:/path/to/qmp.sock; build it with its feature `libvirt` (the default) for machines by name";
        Failure::Broke { kind: "no-libvirt", message: message.to_owned(), began: false }
    }

    /// Words that were understood and make no sense together.
    pub(crate) fn bad_input(message: String) -> Failure {
        Failure::Broke { kind: "usage", message, began: false }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match (self, self.may_have_changed()) {
            (Failure::Interrupted(_), _) => INTERRUPTED,
            (_, true) => PARTIAL,
            (_, false) => UNCHANGED,
        }
    }

    fn may_have_changed(&self) -> bool {
        match self {
            Failure::Broke { began, .. } => *began,
            Failure::Interrupted(_) => true,
            Failure::Usage(_)
            | Failure::Refused(_)
            | Failure::NobodyToAsk
            | Failure::Declined
            | Failure::Busy(_)
            | Failure::Write { .. } => false,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Failure::Usage(_) => "usage",
            Failure::Refused(_) => "refused",
            Failure::NobodyToAsk => "nobody-to-ask",
            Failure::Declined => "declined",
            Failure::Busy(_) => "busy",
            Failure::Broke { kind, .. } => kind,
            Failure::Interrupted(_) => "interrupted",
            Failure::Write { .. } => "write",
        }
    }

    /// As text, in `room` columns.
    pub(crate) fn text(&self, room: usize) -> String {
        match self {
            Failure::Refused(why) => refusal(why, room),
            Failure::Usage(text) => text.clone(),
            Failure::Interrupted(_) => paragraph("", &self.to_string(), room),
            Failure::NobodyToAsk
            | Failure::Declined
            | Failure::Busy(_)
            | Failure::Broke { .. }
            | Failure::Write { .. } => {
                let text = paragraph("error: ", &self.to_string(), room);
                text.replacen("error:", &paint(BAD, "error:"), 1)
            }
        }
    }

    /// As `--json` prints it.
    pub(crate) fn document(&self) -> wire::Document {
        match self {
            Failure::Refused(refusal) => wire::Document::Refusal(refusal.into()),
            Failure::Usage(_)
            | Failure::NobodyToAsk
            | Failure::Declined
            | Failure::Busy(_)
            | Failure::Broke { .. }
            | Failure::Interrupted(_)
            | Failure::Write { .. } => wire::Document::Error(wire::Error {
                kind: self.kind(),
                message: self.to_string(),
                may_have_changed: self.may_have_changed(),
            }),
        }
    }
}

impl From<ObserveError> for Failure {
    fn from(error: ObserveError) -> Failure {
        Failure::Broke { kind: "unreachable", message: error.to_string(), began: false }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        Failure::Broke { kind: "unreachable", message: error.to_string(), began: false }
    }
}

#[cfg(feature = "libvirt")]
impl From<FindError> for Failure {
    fn from(error: FindError) -> Failure {
        let kind = match &error {
            FindError::Unreachable(_) => "unreachable",
            FindError::NoMachine { .. } => "no-such-machine",
        };
        Failure::Broke { kind, message: error.to_string(), began: false }
    }
}

#[cfg(feature = "libvirt")]
impl From<libvirt::OpenError> for Failure {
    fn from(error: libvirt::OpenError) -> Failure {
        let kind = match error {
            libvirt::OpenError::Find(error) => return error.into(),
            libvirt::OpenError::NotRunning { .. } => "not-running",
            libvirt::OpenError::Held { .. } | libvirt::OpenError::Stuck { .. } => "busy",
            libvirt::OpenError::Untold { .. }
            | libvirt::OpenError::Description { .. }
            | libvirt::OpenError::Monitor(_) => "unreachable",
        };
        Failure::Broke { kind, message: error.to_string(), began: false }
    }
}

#[cfg(feature = "libvirt")]
impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        Failure::Broke { kind: "unreachable", message: error.to_string(), began: false }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Failure {
        Failure::Broke { kind: "journal", message: error.to_string(), began: false }
    }
}
