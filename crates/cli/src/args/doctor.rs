//! What is to be examined: the options of `doctor`.

use clap::{Args, ValueHint};
use std::path::PathBuf;

use super::Output;
use crate::address::Address;

/// This host, one machine, or what guests can do.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The machine: its name or uuid in libvirt, or qmp:/path/to/qmp.sock; without one, this host is examined
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) vm: Option<Address>,
    /// The guest agent's socket, for a machine on plain QEMU; libvirt knows that of its own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, requires = "vm")]
    pub(crate) agent: Option<PathBuf>,
    /// The QEMU to ask about this host; by default the one for its architecture in PATH
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath, conflicts_with = "vm")]
    pub(crate) qemu: Option<PathBuf>,
    /// Print what each guest system does with memory and vCPUs that come and go, with the sources
    #[arg(long, conflicts_with_all = ["vm", "qemu"])]
    pub(crate) guests: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}
