//! Machines that libvirt runs: a thin safe layer over the C library.
//!
//! ```text
//! Connection -> Domain      blocking calls, as the library has them     connection.rs, domain.rs
//! Pool -> Lane              the same calls with a deadline, for tasks   pool.rs
//! Events                    what libvirt tells by itself                events.rs, callbacks.rs
//! ```
//! A blocked C call cannot be cancelled, so nothing here is called from a task except through a [`Lane`]. Strings,
//! lists and records are copied out and given back to the library at once; handles are given back on drop.
//! It will not interpret domain XML and decides nothing.

mod callbacks;
mod connection;
mod domain;
mod error;
mod events;
mod pool;
mod raw;
mod stats;
mod terms;

pub use connection::{Closed, Connection, Versions, Which};
pub use domain::Domain;
pub use error::{Code, Error};
pub use events::{Event, EventKind, Events, Heard, Lifecycle};
pub use pool::{CallError, Lane, Pool};
pub use stats::{MemoryStats, Param, Params, StatsGroup};
pub use terms::{Affect, Info, Job, State, VcpuCount, Xml};
