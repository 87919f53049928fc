//! libvirt's "no", as a value. It will not say what to do about it: the caller knows what was tried.

use crate::wire::shown;

/// Why a call failed, in libvirt's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What kind of failure it is (`virErrorNumber`).
    pub code: Code,
    /// Which part of libvirt failed (`virErrorDomain`), such as 10 for the QEMU driver.
    pub domain: i32,
    /// libvirt's reason, safe to print.
    pub message: String,
}

impl Error {
    pub(super) fn new(code: i32, domain: i32, message: &str) -> Self {
        Self { code: Code::from(code), domain, message: shown(message) }
    }

    /// True where this is no answer of libvirt's: the connection broke while a call was under way, or the answer could
    /// not be read, and what was asked may have been done.
    ///
    /// The part that failed tells. All that src/rpc says of a connection is of `VIR_FROM_RPC`, also with the code of a
    /// system or internal error (virnetsocket.c, virnetclient.c, 9.0); what the daemon answers has the part that failed
    /// there, `VIR_FROM_NONE` for what the kernel refused it (virprocess.c).
    pub fn is_no_answer(&self) -> bool {
        let unsent = self.message == "client socket is closed";
        let is_local =
            matches!(self.domain, RPC | SSH | LIBSSH) || self.domain == REMOTE && self.code == Code::System;
        self.code == Code::Rpc || is_local && !unsent
    }

    /// True where another call held the domain for too long (libvirt 9.0 and 11.3, `virDomainObjBeginJobInternal`).
    pub fn is_held(&self) -> bool {
        self.code == Code::OperationTimeout && self.message.contains("cannot acquire state change lock")
    }

    /// What there is to know where that is so.
    pub(super) fn held(&self) -> String {
        format!("{self}; another program is at work on the machine, so try again when that is done")
    }

    /// A failure on our side of the call.
    pub(super) fn own(code: Code, message: &str) -> Self {
        Self { code, domain: 0, message: shown(message) }
    }
}

/// Parts of libvirt that fail on this side of a connection; numbers from libvirt's `virterror.h`.
const RPC: i32 = 7;
const REMOTE: i32 = 13;
const SSH: i32 = 50;
const LIBSSH: i32 = 66;

/// The kinds of failure that callers tell apart; numbers from libvirt's `virterror.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The C library is not on this host, or is too old.
    NoLibrary,
    /// `VIR_ERR_INTERNAL_ERROR`: also what QEMU refused, and before 11.2 what the guest agent refused.
    Internal,
    /// `VIR_ERR_NO_SUPPORT`: this driver or this daemon is too old for the call.
    NoSupport,
    /// `VIR_ERR_NO_CONNECT`: nothing answers at this URI.
    NoConnect,
    /// `VIR_ERR_INVALID_ARG`.
    InvalidArgument,
    /// `VIR_ERR_OPERATION_FAILED`: QEMU or the guest said no.
    OperationFailed,
    /// `VIR_ERR_XML_ERROR`, `VIR_ERR_XML_DETAIL`: the XML makes no sense to libvirt.
    Xml,
    /// `VIR_ERR_OPERATION_DENIED`, `VIR_ERR_ACCESS_DENIED`: a read-only connection, or a policy.
    Denied,
    /// `VIR_ERR_SYSTEM_ERROR`: what the kernel refused, libvirt or us; also a socket that is not there or that broke
    /// ([`Error::is_no_answer`]).
    System,
    /// `VIR_ERR_RPC`: the connection to the daemon broke.
    Rpc,
    /// `VIR_ERR_NO_DOMAIN`: there is no such domain (any more).
    NoDomain,
    /// `VIR_ERR_AUTH_FAILED`, `VIR_ERR_AUTH_CANCELLED`, `VIR_ERR_AUTH_UNAVAILABLE`.
    Auth,
    /// `VIR_ERR_OPERATION_INVALID`: not in the domain's present state.
    OperationInvalid,
    /// `VIR_ERR_CONFIG_UNSUPPORTED`: the domain is not set up for this.
    ConfigUnsupported,
    /// `VIR_ERR_OPERATION_TIMEOUT`: another job holds the domain, or an unplug was not answered.
    OperationTimeout,
    /// `VIR_ERR_OPERATION_UNSUPPORTED`, `VIR_ERR_ARGUMENT_UNSUPPORTED`.
    Unsupported,
    /// `VIR_ERR_AGENT_UNRESPONSIVE`, `VIR_ERR_AGENT_UNSYNCED`: there is no guest agent, or it does not answer.
    AgentUnresponsive,
    /// `VIR_ERR_RESOURCE_BUSY`.
    Busy,
    /// `VIR_ERR_DEVICE_MISSING`: there is no such device.
    DeviceMissing,
    /// `VIR_ERR_AGENT_COMMAND_TIMEOUT` (11.2).
    AgentTimeout,
    /// `VIR_ERR_AGENT_COMMAND_FAILED` (11.2).
    AgentFailed,
    /// Any other number.
    Other(i32),
}

impl From<i32> for Code {
    fn from(number: i32) -> Self {
        match number {
            1 => Self::Internal,
            3 => Self::NoSupport,
            5 => Self::NoConnect,
            8 => Self::InvalidArgument,
            9 => Self::OperationFailed,
            27 | 35 => Self::Xml,
            29 | 88 => Self::Denied,
            38 => Self::System,
            39 => Self::Rpc,
            42 => Self::NoDomain,
            45 | 79 | 94 => Self::Auth,
            55 => Self::OperationInvalid,
            67 => Self::ConfigUnsupported,
            68 => Self::OperationTimeout,
            74 | 84 => Self::Unsupported,
            86 | 97 => Self::AgentUnresponsive,
            87 => Self::Busy,
            99 => Self::DeviceMissing,
            112 => Self::AgentTimeout,
            113 => Self::AgentFailed,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refused_libvirt_is_an_answer_and_a_broken_connection_is_none() {
        let no_answer = |code, domain, message: &str| Error::new(code, domain, message).is_no_answer();
        let locked = "cannot limit locked memory of process 7 to 2147483648: Operation not permitted";
        assert!(
            !no_answer(38, 0, locked) && !no_answer(38, 10, "Unable to write to 'memory.limit_in_bytes'")
        );
        assert!(!no_answer(1, 10, "unable to execute QEMU command 'device_add'"));
        for (code, message) in [
            (38, "End of file while reading data: Input/output error"),
            (38, "Cannot write data: Broken pipe"),
            (1, "received hangup event on socket"),
            (1, "connection closed due to keepalive timeout"),
            (39, "packet 4194304 bytes received from server too large"),
        ] {
            assert!(no_answer(code, 7, message), "{message}");
        }
        assert!(no_answer(85, 50, "lost") && no_answer(98, 66, "lost") && no_answer(38, 13, "lost"));
        assert!(!no_answer(1, 7, "client socket is closed"), "nothing was sent");
    }

    #[test]
    fn a_domain_that_another_call_holds_is_told_from_a_guest_that_is_slow() {
        let told = |message: &str| Error::new(68, 10, message).is_held();
        assert!(told("Timed out during operation: cannot acquire state change lock (held by monitor=x)"));
        assert!(!told("Timed out during operation: vcpu unplug request timed out"));
        assert!(!Error::new(1, 10, "cannot acquire state change lock").is_held());
    }
}
