//! Gathers what [`scale::doctor`] judges: of this host, and of one machine. It starts a QEMU without a machine to ask it
//! what it is, asks libvirt to translate descriptions without starting any, and reads files; it changes nothing and
//! judges nothing.

mod described;
mod emulator;
mod host;
mod inside;
mod machine;
#[cfg(feature = "libvirt")]
mod tried;

pub use described::{called_by_libosinfo, shape_of};
pub use emulator::find as find_qemu;
pub use host::{gather as gather_host, limits as host_limits};
#[cfg(feature = "libvirt")]
pub use tried::ask_libvirt;
