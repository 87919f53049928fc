//! Rates of NICs and of single addresses on them, at taps of this host: read from the kernel, and set there.
//!
//! ```text
//! set, read     a tap's rates, by its name                             this file
//! tap           which tap is whose: QEMU's NICs and their taps         tap.rs
//! plan          what hangs there, what is wanted -> changes (pure)     plan.rs
//! layout        rates as classes and filters, and back (pure)          layout.rs, tc.rs
//! beside        what of it libvirt would remove (pure)                 beside.rs
//! kernel        reads what hangs there, carries changes out            kernel.rs
//! codec         values as messages, and back (pure)                    codec.rs, netlink.rs
//! ```
//! What the guest receives is what the tap sends, so it is queued there. What the guest sends is what the tap receives;
//! that cannot be queued, so it is led through a device of ours, an `ifb`, and queued on it: held back and not dropped,
//! as policing would.
//!
//! It speaks to the kernel itself and not through `tc`: iproute2 6.1 prints HTB classes as text where JSON is asked for,
//! and `u32` filters as JSON with repeated members. It keeps nothing: who wants a rate on a tap that was made anew sets
//! it again.

mod beside;
mod codec;
mod kernel;
mod layout;
mod netlink;
mod plan;
pub(crate) mod tap;
mod tc;

use core::net::IpAddr;
use std::time::Duration;

use scale::setting::NicRate;

pub use beside::Hanging;
pub use kernel::{ReadError, SetError};
pub use layout::TapRates;
pub use plan::Clash;

use kernel::Kernel;

/// The rates that act at a tap. Blocks while the kernel is busy.
///
/// # Errors
/// [`ReadError`].
pub fn read(tap: &str) -> Result<TapRates, ReadError> {
    Kernel::open()?.read(tap)
}

/// Sets all rates of a tap: a limit that is there is changed in place, so that no moment is without. What is not
/// Supple's stays. Devices that were left by taps that are gone are removed. Blocks while the kernel is busy.
///
/// # Errors
/// [`SetError`].
pub fn set(tap: &str, rates: &TapRates) -> Result<(), SetError> {
    change(tap, |_| rates.clone())
}

/// Sets the rate of a tap's NIC and leaves those of addresses; blocks as [`set`] does.
///
/// # Errors
/// [`SetError`].
pub fn set_nic(tap: &str, rate: NicRate) -> Result<(), SetError> {
    change(tap, |rates| TapRates { nic: rate, ..rates })
}

/// Sets the rate of one address and leaves the others; blocks as [`set`] does.
///
/// # Errors
/// [`SetError`].
pub fn set_ip(tap: &str, ip: IpAddr, rate: NicRate) -> Result<(), SetError> {
    change(tap, |rates| rates.with_ip(ip, rate))
}

/// What hangs at a tap and is not libvirt's, if anything does: libvirt removes it when it sets a limit. Blocks while the
/// kernel is busy.
///
/// # Errors
/// [`ReadError`].
pub fn beside_libvirt(tap: &str) -> Result<Option<Hanging>, ReadError> {
    Kernel::open()?.beside_libvirt(tap)
}

/// Removes what taps that are gone have left; the names of the devices. Blocks as [`set`] does.
///
/// # Errors
/// [`SetError`].
pub fn sweep() -> Result<Vec<String>, SetError> {
    Kernel::open()?.sweep()
}

fn change(tap: &str, to: impl FnOnce(TapRates) -> TapRates) -> Result<(), SetError> {
    let mut kernel = Kernel::open()?;
    kernel.set(tap, to)?;
    // What is left of other taps is no reason to call this one's rates not set.
    let _ = kernel.sweep();
    Ok(())
}

/// Runs calls of this module where they hold up no task; nothing where they take longer than `limit`, and then they
/// still run to their end.
pub(crate) async fn off_thread<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let called = tokio::time::timeout(limit, tokio::task::spawn_blocking(call)).await.ok()?;
    // It is not cancelled, so it can only have panicked: a fault of ours.
    Some(called.expect("a call that ends"))
}
