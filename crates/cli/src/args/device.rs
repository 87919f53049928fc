//! A memory device to be described: the options of `device-xml`.

use clap::Args;
use scale::units::Bytes;

use super::Output;
use super::read::{read_address, read_node, read_whole_size};

/// A memory device to be described.
#[derive(Debug, Args)]
pub(crate) struct Device {
    /// Its size; the most that it can give, for virtio-mem. Rounded up, and told so, where libvirt and QEMU would
    #[arg(long, short, value_parser = read_whole_size)]
    pub(crate) size: Bytes,
    /// The guest's NUMA node; `none` for machines without NUMA cells (ppc64, s390x)
    #[arg(long, default_value = "0", value_parser = read_node)]
    pub(crate) node: Node,
    /// The slot of a DIMM; by default libvirt takes the lowest free one
    #[arg(long, conflicts_with = "virtio_mem")]
    pub(crate) slot: Option<u32>,
    /// The address of a DIMM in the guest, such as 0x100000000; by default QEMU takes the lowest free one
    #[arg(long, value_name = "ADDRESS", value_parser = read_address, requires = "slot")]
    pub(crate) base: Option<u64>,
    /// libvirt's name for the device; it keeps only names that begin with ua-
    #[arg(long)]
    pub(crate) alias: Option<String>,
    /// The size of the host's huge pages that the device is made of
    #[arg(long, value_name = "SIZE", value_parser = read_whole_size)]
    pub(crate) page_size: Option<Bytes>,
    /// A virtio-mem device instead of a DIMM
    #[arg(long)]
    pub(crate) virtio_mem: bool,
    /// The unit in which a virtio-mem device changes
    #[arg(long, value_name = "SIZE", value_parser = read_whole_size, default_value = "2M", requires = "virtio_mem")]
    pub(crate) block: Bytes,
    /// How much of a virtio-mem device is asked for at first
    #[arg(long, value_name = "SIZE", value_parser = read_whole_size, default_value = "0", requires = "virtio_mem")]
    pub(crate) requested: Bytes,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// A node of the guest, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node(pub(crate) Option<u32>);
