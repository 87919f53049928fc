//! A machine in memory behind the driver seam, with faults, moods and a clock.
//!
//! [`World`] is a QEMU process, its guest and their clock as plain data: cheap to clone, the same for the same calls,
//! and never in a hurry. [`World::connect`] gives a [`Link`], which is a `drive::Hypervisor`; dropping the link is the
//! death of a controller, and the world goes on without it. A [`Mood`] makes the guest difficult, [`World::with_seed`]
//! makes the connection and the guest difficult by chance that a seed repeats.
//!
//! What it will not do: emulate. It keeps the rules that a resizer meets (QEMU's refusals in QEMU's words, the order of
//! its events, Linux's blocks and zones; limits as they are set and read back, disks as they grow) and moves no data. Rules and texts are those of QEMU
//! 7.2 and Linux 6.1; real guests are the `lab`'s.

mod agent;
mod chance;
mod clock;
mod disks;
mod furnish;
mod guest;
mod happen;
mod limits;
mod link;
mod mood;
mod observe;
mod probe;
mod qemu;
mod recipe;
mod vcpus;
mod virtio;
mod world;

pub use chance::{Chance, Faults};
pub use furnish::Between;
pub use link::{Link, finish};
pub use mood::{Lie, Mood, Pinned};
pub use world::World;
