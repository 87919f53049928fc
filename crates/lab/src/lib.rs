//! Boots real QEMU guests for tests, the demo and benchmarks. Never shipped.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use lab::{Onlining, Recipe};
//! use scale::units::Bytes;
//!
//! let guest = Recipe::q35().memory(Bytes::gib(1)).vcpus(1, 4).onlining(Onlining::Udev).boot().await?;
//! let service = guest.watch_service();
//! let nproc = guest.shell("nproc").await?.ok()?;
//! assert_eq!((nproc.as_str(), service.finish().await.lost), ("1", 0));
//! # Ok(())
//! # }
//! ```
//!
//! QEMU and the guest come from Debian packages that are fetched once into a cache ([`Cache`]) and used from there:
//! nothing is installed and no root is needed. It will not skip: where a guest cannot be had, that is an error with a
//! way out.

mod accel;
mod apt;
mod cache;
mod cpio;
mod domain_guest;
mod elf;
mod eventually;
mod facts;
mod huge_pages;
mod idle;
mod image;
mod inside;
mod kernel;
mod libvirt;
mod libvirtd;
mod machine;
mod modules;
mod party;
mod played;
mod qemu;
mod recipe;
mod schema;
mod service;
mod sources;
mod spawn;
mod tickets;
mod wire;
mod witness;

pub use accel::{Accel, Threads};
pub use cache::{Cache, Lock};
pub use domain_guest::DomainGuest;
pub use eventually::eventually;
pub use facts::{Block, Touched};
pub use huge_pages::HugePages;
pub use idle::Idle;
pub use image::{Image, Variant};
pub use inside::Inside;
pub use libvirt::Libvirt;
pub use libvirtd::Libvirtd;
pub use machine::Machine;
pub use party::Yes;
pub use played::{Part, Played};
pub use qemu::{Absent, Qemu};
pub use recipe::{Agent, Board, Disk, Generation, Onlining, Recipe, prepare, prepare_guest};
pub use schema::Schema;
pub use service::{Service, ServiceReport};
pub use wire::{Stream, Tools, Wire, apart, apart_with_guests, in_own_network};
pub use witness::{Output, Witness};
