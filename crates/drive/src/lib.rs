//! How Supple reaches a machine: QEMU over QMP, the guest through its agent, the host.
//!
//! [`Hypervisor`] is the seam: `scale` decides above it, drivers act below it.

mod disk;
pub mod doctor;
pub mod domxml;
pub mod guest;
pub mod host;
mod hypervisor;
pub mod journal;
#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod net;
pub mod power;
pub mod qmp;
pub mod resize;
pub mod wire;

pub use hypervisor::{ApplyError, Hypervisor, ObserveError};
