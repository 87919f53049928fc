//! What the next start of a machine should make possible: the options of `prepare`.

use clap::{Args, ValueHint};
use scale::units::Bytes;

use super::Output;
use super::read::read_whole_size;
use crate::address::Address;

/// Which machine, and what its next start should make possible.
#[derive(Debug, Args)]
pub(crate) struct Prepare {
    /// The machine: its name or uuid in libvirt
    #[arg(value_hint = ValueHint::Other)]
    pub(crate) vm: Address,
    /// How much memory it may grow to while it runs
    #[arg(long, value_name = "SIZE", value_parser = read_whole_size)]
    pub(crate) max_memory: Option<Bytes>,
    /// How many DIMMs it may grow by; each takes 1 GiB of the guest's address space. 16 where it had none
    #[arg(long, value_name = "COUNT")]
    pub(crate) slots: Option<u32>,
    /// How many vCPUs it may grow to while it runs; it starts with as many as before
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_vcpus: Option<u32>,
    /// Let those vCPUs be removed too that are there from the start, but for the first
    #[arg(long)]
    pub(crate) removable_vcpus: bool,
    /// A virtio-mem device, by which memory grows and shrinks in small steps; its size is the most that it can give, all
    /// that the ceiling leaves where it is not said
    #[arg(long, value_name = "SIZE", value_parser = read_whole_size, num_args = 0..=1, require_equals = true)]
    pub(crate) virtio_mem: Option<Option<Bytes>>,
    /// The unit in which the virtio-mem device changes; by default the smallest that this host takes
    #[arg(long, value_name = "SIZE", value_parser = read_whole_size, requires = "virtio_mem")]
    pub(crate) block: Option<Bytes>,
    /// The guest's NUMA node of the virtio-mem device
    #[arg(long, value_name = "N", requires = "virtio_mem", default_value = "0")]
    pub(crate) node: u32,
    /// Leave a machine without a channel for the guest agent without one
    #[arg(long)]
    pub(crate) no_agent_channel: bool,
    /// Show what would be changed, try it out, and change nothing
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
    /// Do not start a throw-away machine with the result
    #[arg(long)]
    pub(crate) no_trial: bool,
    /// Take the last preparation back
    #[arg(long, conflicts_with_all = ["max_memory", "slots", "max_vcpus", "removable_vcpus", "virtio_mem", "no_trial",
        "no_agent_channel"])]
    pub(crate) undo: bool,
    /// Change the definition without asking
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}
