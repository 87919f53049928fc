//! Machines that libvirt keeps: a driver, and below it a thin safe layer over the C library.
//!
//! ```text
//! LibvirtMachine            the driver seam                             machine.rs, act.rs, definition.rs, nics.rs
//! Kept                      a machine found, running or not             kept.rs
//! census                    all machines at a glance                    census.rs
//! Passthrough, AgentLine    QEMU and the guest agent through libvirt    passthrough.rs, agent.rs
//! Pool -> Lane              blocking calls with a deadline, for tasks   pool.rs
//! Events                    what libvirt tells by itself                events.rs, callbacks.rs
//! Connection -> Domain      blocking calls, as the library has them     connection.rs, domain.rs, bandwidth.rs
//! Library                   the C library, opened when first needed     library.rs
//! ```
//! A blocked C call cannot be cancelled, so nothing here is called from a task except through a [`Lane`]. Strings,
//! lists and records are copied out and given back to the library at once; handles are given back on drop.
//! It reads and writes descriptions of domains by `domxml`, and decides nothing.

mod act;
mod agent;
mod bandwidth;
mod callbacks;
mod census;
mod connection;
mod definition;
mod disks;
mod domain;
mod error;
mod events;
mod kept;
mod library;
mod machine;
mod memory_limit;
mod nics;
mod passthrough;
mod pool;
mod power;
mod raw;
mod reconcile;
mod stats;
mod terms;
mod tuning;

pub use agent::AgentLine;
pub use bandwidth::Bandwidth;
pub use census::{Listed, census};
pub use connection::{Closed, Connection, Versions, Which};
pub use domain::Domain;
pub use error::{Code, Error};
pub use events::{Event, EventKind, Events, Heard, Lifecycle};
pub use kept::{FindError, Kept, Unreachable};
pub(crate) use library::missing;
pub use machine::{LibvirtMachine, OpenError};
pub use passthrough::Passthrough;
pub use pool::{CallError, Lane, Pool};
pub use reconcile::{Apart, ApartError, Mend, apart};
pub use stats::{MemoryStats, Param, Params, StatsGroup};
pub use terms::{Affect, Info, Job, State, VcpuCount, Xml};
pub use tuning::CpuTime;
