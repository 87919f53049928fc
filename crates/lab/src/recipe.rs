//! What a lab guest is made of, as sentences: `Recipe::q35().memory(Bytes::gib(1)).vcpus(1, 4)`.
//!
//! A recipe is plain data and becomes the arguments of one QEMU. It will not start it: see `machine`.

mod command;
mod disk;
mod domain;
mod generation;

pub use disk::Disk;
pub use generation::Generation;

use std::path::Path;

use anyhow::{Result, anyhow};
use scale::units::Bytes;

use crate::accel::{Accel, Threads};
use crate::cache::Cache;
use crate::image::{Image, Variant};
use crate::libvirt::Libvirt;
use crate::machine::Machine;
use crate::qemu::Qemu;
use crate::schema::Schema;
use crate::wire::Tools;

/// The machine type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// PCI Express, the type that current managers choose.
    Q35,
    /// The older PC.
    I440fx,
}

/// Who puts hot-plugged memory online in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onlining {
    /// Nobody: Debian 12's kernel leaves blocks offline and has no udev rule.
    Nobody,
    /// A running udevd, with the rules for memory and for CPUs.
    Udev,
    /// The kernel itself (`memhp_default_state=online`, to the zone of its choice).
    Kernel,
    /// The kernel itself, to ZONE_MOVABLE (`memhp_default_state=online_movable`).
    KernelMovable,
}

/// The QEMU guest agent in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agent {
    /// It is not running; its channel is there and nobody opens it.
    Absent,
    /// It does all that it can.
    Full,
    /// It refuses these calls, as Red Hat's default refuses `guest-exec` and `guest-file-*`.
    Blocking(Vec<String>),
}

/// A virtio-mem device with nothing plugged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VirtioMem {
    max: Bytes,
    node: u8,
}

/// A guest to boot. Everything has a default, chosen so that tests boot quickly and can grow.
#[derive(Debug, Clone)]
pub struct Recipe {
    board: Board,
    /// The lab's, where nothing is said.
    generation: Option<Generation>,
    emulated: Option<Threads>,
    memory: Bytes,
    max_memory: Bytes,
    slots: u16,
    vcpus: u16,
    max_vcpus: u16,
    numa_nodes: u8,
    huge_node: Option<u8>,
    virtio_mem: Option<VirtioMem>,
    balloon: bool,
    onlining: Onlining,
    agent: Agent,
    kernel_params: Vec<String>,
    tap: Option<String>,
    disks: Vec<Disk>,
    /// False for firmware alone.
    system: bool,
}

/// The sockets and files of one running guest, below its directory.
pub(crate) mod place {
    pub(crate) const QMP: &str = "qmp.sock";
    pub(crate) const LAB_QMP: &str = "lab.sock";
    pub(crate) const AGENT: &str = "agent.sock";
    pub(crate) const WITNESS: &str = "witness.sock";
    pub(crate) const CONSOLE: &str = "console.log";
    pub(crate) const QEMU_LOG: &str = "qemu.log";
}

/// The chardev of the guest agent's channel, as `query-chardev` lists it.
pub(crate) const AGENT_CHARDEV: &str = "agent";

impl Recipe {
    /// A guest of type q35: 512 MiB growing to 8 GiB in 16 slots, 1 of 4 vCPUs, one node, a balloon, a full agent,
    /// and nobody who puts memory online.
    #[must_use]
    pub fn q35() -> Self {
        Self {
            board: Board::Q35,
            generation: None,
            emulated: None,
            memory: Bytes::mib(512),
            max_memory: Bytes::gib(8),
            slots: 16,
            vcpus: 1,
            max_vcpus: 4,
            numa_nodes: 1,
            huge_node: None,
            virtio_mem: None,
            balloon: true,
            onlining: Onlining::Nobody,
            agent: Agent::Full,
            kernel_params: Vec::new(),
            tap: None,
            disks: Vec::new(),
            system: true,
        }
    }

    /// The same guest of type i440fx.
    #[must_use]
    pub fn i440fx() -> Self {
        Self { board: Board::I440fx, ..Self::q35() }
    }

    /// Runs on this QEMU, and not on that of [`Generation::asked_for`].
    #[must_use]
    pub fn qemu(self, generation: Generation) -> Self {
        Self { generation: Some(generation), ..self }
    }

    /// Is emulated, wherever it runs; libvirt's domains take no notice.
    #[must_use]
    pub fn emulated(self, threads: Threads) -> Self {
        Self { emulated: Some(threads), ..self }
    }

    /// The memory at boot.
    #[must_use]
    pub fn memory(self, memory: Bytes) -> Self {
        Self { memory, ..self }
    }

    /// How far memory can grow, and in how many DIMM slots. As large as the memory at boot: it cannot.
    #[must_use]
    pub fn max_memory(self, max_memory: Bytes, slots: u16) -> Self {
        Self { max_memory, slots, ..self }
    }

    /// The vCPUs at boot, and how many there can be.
    #[must_use]
    pub fn vcpus(self, vcpus: u16, max_vcpus: u16) -> Self {
        Self { vcpus, max_vcpus, ..self }
    }

    /// Two NUMA nodes, each with half of the memory and half of the possible vCPUs (a socket each).
    #[must_use]
    pub fn two_nodes(self) -> Self {
        Self { numa_nodes: 2, ..self }
    }

    /// The memory of this one of two nodes in huge pages of 2 MiB of the host's node 0. They must be set aside before
    /// ([`crate::HugePages`]).
    #[must_use]
    pub fn huge_node(self, node: u8) -> Self {
        Self { huge_node: Some(node), ..self }
    }

    /// A virtio-mem device with the id `vmem0` that can grow to `max` on `node`. `max_memory` must have room for it.
    #[must_use]
    pub fn virtio_mem(self, max: Bytes, node: u8) -> Self {
        Self { virtio_mem: Some(VirtioMem { max, node }), ..self }
    }

    /// No balloon device.
    #[must_use]
    pub fn no_balloon(self) -> Self {
        Self { balloon: false, ..self }
    }

    /// Who puts hot-plugged memory online.
    #[must_use]
    pub fn onlining(self, onlining: Onlining) -> Self {
        Self { onlining, ..self }
    }

    /// The guest agent.
    #[must_use]
    pub fn agent(self, agent: Agent) -> Self {
        Self { agent, ..self }
    }

    /// One more disk. A guest with any has the modules and programs of disks, and no udevd.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// One more parameter on the kernel's command line.
    #[must_use]
    pub fn kernel_param(mut self, param: &str) -> Self {
        self.kernel_params.push(param.to_owned());
        self
    }

    /// A second NIC with this MAC address on a tap `tap0` that QEMU, or libvirt, makes. For [`crate::apart`].
    #[must_use]
    pub fn tap(self, mac: &str) -> Self {
        Self { tap: Some(mac.to_owned()), ..self }
    }

    /// Boots the guest; it is up when its service answers and its agent, if it has one, has opened its channel.
    ///
    /// # Errors
    /// No QEMU or no guest can be had, or the guest is not up in time; the error ends with its last words.
    pub async fn boot(&self) -> Result<Machine> {
        let cache = Cache::open()?;
        let parts = self.parts(&cache).await?;
        Machine::start(self, &parts, &cache).await
    }

    /// What it is made of, fetched where it is not there.
    pub(crate) async fn parts(&self, cache: &Cache) -> Result<Parts> {
        let (cache, own) = (cache.clone(), self.generation);
        let found = tokio::task::spawn_blocking(move || {
            Parts::find(&cache, own.map_or_else(Generation::asked_for, Ok)?)
        });
        found.await?
    }

    /// The same with firmware alone.
    pub(crate) fn without_system(&self) -> Self {
        Self { system: false, ..self.clone() }
    }

    fn variant(&self) -> Variant {
        match (self.disks.is_empty(), self.onlining) {
            (true, Onlining::Udev) => Variant::Udev,
            (true, Onlining::Nobody | Onlining::Kernel | Onlining::KernelMovable) => Variant::Plain,
            (false, Onlining::Nobody | Onlining::Kernel | Onlining::KernelMovable) => Variant::Disks,
            (false, Onlining::Udev) => panic!("a lab guest has disks or udevd"),
        }
    }

    /// Makes the images of its disks in `dir`.
    pub(crate) fn make_disks(&self, dir: &Path) -> Result<()> {
        self.disks.iter().try_for_each(|disk| disk.make(dir))
    }

    /// True if the agent will open its channel.
    pub(crate) fn has_agent(&self) -> bool {
        self.agent != Agent::Absent
    }
}

/// Fetches and builds now what one guest of this release's QEMU is made of, so that its boot has not to. Silent when all
/// of it is there.
///
/// # Errors
/// No QEMU or no guest can be had.
pub async fn prepare_guest() -> Result<()> {
    let prepared = tokio::task::spawn_blocking(|| Parts::find(&Cache::open()?, Generation::System).map(drop));
    prepared.await?
}

/// Fetches and builds now what all the tests need, both generations of QEMU and libvirt among it. Silent when all of it
/// is there.
///
/// # Errors
/// No QEMU, no libvirt, no guest or no tool for traffic can be had. That the backports' cannot is only said.
pub async fn prepare() -> Result<()> {
    let prepared = tokio::task::spawn_blocking(|| {
        let cache = Cache::open()?;
        Parts::find(&cache, Generation::System)?;
        Schema::of(&Libvirt::system(&cache)?, &cache)?;
        Tools::find(&cache)?;
        let absent = [Qemu::backports(&cache).err(), Libvirt::backports(&cache).err()];
        for absent in absent.iter().flatten() {
            eprintln!("lab: {absent}");
        }
        Ok(())
    });
    prepared.await?
}

/// What every recipe needs from the cache.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) qemu: Qemu,
    pub(crate) image: Image,
    pub(crate) accel: Accel,
}

impl Parts {
    pub(crate) fn find(cache: &Cache, generation: Generation) -> Result<Self> {
        let qemu = match generation {
            Generation::System => Qemu::system(cache)?,
            Generation::Backports => Qemu::backports(cache).map_err(|absent| anyhow!(absent))?,
        };
        let image = Image::ensure(cache)?;
        let accel = Accel::probe(cache, &qemu, &image)?;
        Ok(Self { qemu, image, accel })
    }
}
