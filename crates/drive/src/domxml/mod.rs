//! Machine descriptions of libvirt as text: read into facts, edited byte by byte, compared.
//!
//! Nothing here speaks to libvirt or links it, so that a description from a file, from another host or from a
//! version control system is treated the same. It will not decide what a machine should get; callers ask for it.

mod cpuset;
mod device;
mod document;
mod domain;
mod drift;
mod edit;
mod fragment;
mod host;
mod machine;
mod prepare;
mod read;
mod room;
mod tag;
mod trial;
mod units;

pub use cpuset::CpuSet;
pub use device::{BadDevice, BadRequest, DeviceKind, DeviceWish, device_xml, with_requested};
pub use document::BadXml;
pub use domain::{
    AddressBits, AgentChannel, Backends, Backing, Balloon, Cell, Cpu, CpuTune, DiskTarget, Domain, HugePages,
    MaxMemory, Memory, MemoryDevice, MemoryModel, Slot, Topology, Vcpu, Vcpus,
};
pub use drift::{Drift, drift};
pub use machine::{Board, Machine};
pub use prepare::{
    AddressSpace, HostLimits, Obstacle, Prepare, PrepareRefusal, Prepared, VirtioMem, address_space, diff,
    prepare,
};
pub use room::{Room, room};
pub use trial::{LEFT_OUT, trial};
pub use units::{as_attached, as_booted};
