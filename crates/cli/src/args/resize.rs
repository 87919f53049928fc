//! The options of `plan` and `apply`: what a machine is to become, by words and by a file.

use clap::{Args, ValueEnum, ValueHint};
use scale::units::{BadCount, BadSize, Bytes, Change, parse_change, parse_count};
use scale::wanted::{Mechanism, Wanted, ZoneWish};
use std::path::PathBuf;

use super::dimensions::Dimensions;
use super::{Machine, Output};
use crate::address::{Address, BadAddress};
use crate::failure::Failure;
use crate::file::File;

/// Which machine, and what it is to become.
#[derive(Debug, Args)]
pub(crate) struct Resize {
    /// The guest's memory: 6G, or a step such as +2G or -512M
    #[arg(long, short, value_name = "SIZE", value_parser = read_size, allow_hyphen_values = true)]
    memory: Option<Change<Bytes>>,
    /// The guest's vCPUs: 4, or a step such as +2 or -1
    #[arg(long, short = 'v', value_name = "COUNT", value_parser = read_count, allow_hyphen_values = true)]
    vcpus: Option<Change<u32>>,
    /// How memory changes; by default virtio-mem where there is a device, else DIMMs, and never the balloon
    #[arg(long, value_enum, requires = "memory")]
    mechanism: Option<MechanismArg>,
    /// The NUMA node that memory is added to or taken from; by default nodes are kept balanced
    #[arg(long, value_name = "N", requires = "memory")]
    node: Option<u32>,
    /// The zone that new memory goes to in a Linux guest: movable memory can be removed again, kernel memory can hold
    /// anything. By default movable where the guest takes it; `movable` by name is had or refused
    #[arg(long, value_enum)]
    zone: Option<ZoneArg>,
    #[command(flatten)]
    dimensions: Dimensions,
    /// A file that says what the machine is to be, as `supple get` writes it: TOML, or JSON where its name ends so; - is
    /// standard input. Options count before it
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// The machine: its name or uuid in libvirt, or qmp:/path/to/qmp.sock; a file may name it too
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "file")]
    pub(super) vm: Option<Address>,
    /// The guest agent's socket, for a machine on plain QEMU; libvirt knows that of its own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    agent: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
    /// The libvirt that --connect names.
    #[arg(skip)]
    pub(super) connect: Option<String>,
}

/// What is asked of which machine, by options and file together.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) machine: Machine,
    pub(crate) wanted: Wanted,
}

impl Resize {
    /// Reads the file, if there is one, and puts the options over it.
    pub(crate) fn read(self) -> Result<Request, Failure> {
        let has_file = self.file.is_some();
        let file = self.file.as_deref().map(File::read).transpose().map_err(Failure::bad_input)?;
        let file = file.unwrap_or_default();
        let mut wanted = file.wanted().map_err(Failure::bad_input)?;
        wanted.memory = self.memory.or(wanted.memory);
        wanted.vcpus = self.vcpus.or(wanted.vcpus);
        wanted.mechanism = self.mechanism.map(MechanismArg::into).or(wanted.mechanism);
        wanted.node = self.node.or(wanted.node);
        wanted.zone = self.zone.map_or(wanted.zone, ZoneArg::into);
        self.dimensions.over(&mut wanted).map_err(Failure::bad_input)?;
        let vm = match (self.vm, file.vm) {
            (Some(vm), _) => vm,
            (None, Some(named)) => {
                let vm: Address =
                    named.parse().map_err(|why: BadAddress| Failure::bad_input(why.to_string()))?;
                match self.connect {
                    Some(uri) => vm.at(&uri).map_err(|why| Failure::bad_input(why.to_string()))?,
                    None => vm,
                }
            }
            (None, None) => {
                let why = "neither the command line nor the file names a machine (vm = \"web1\")";
                return Err(Failure::bad_input(why.to_owned()));
            }
        };
        if !has_file && (Wanted { zone: ZoneWish::default(), ..wanted.clone() }) == Wanted::default() {
            return Err(nothing_asked(&vm));
        }
        let machine = Machine { vm, agent: self.agent.or(file.agent), output: self.output };
        Ok(Request { machine, wanted })
    }
}

/// clap's own words for this list every option that there is.
fn nothing_asked(vm: &Address) -> Failure {
    Failure::Usage(format!(
        "error: nothing is asked of {vm}; say what it is to be, by options (see --help) or by a file (--file)\n\
         for example: supple plan {vm} --memory 4G --vcpus 2\n"
    ))
}

/// How memory changes.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum MechanismArg {
    /// DIMMs, plugged and unplugged
    Dimm,
    /// A virtio-mem device's size
    VirtioMem,
    /// The balloon: takes memory without removing it
    Balloon,
}

impl From<MechanismArg> for Mechanism {
    fn from(arg: MechanismArg) -> Mechanism {
        match arg {
            MechanismArg::Dimm => Mechanism::Dimm,
            MechanismArg::VirtioMem => Mechanism::VirtioMem,
            MechanismArg::Balloon => Mechanism::Balloon,
        }
    }
}

/// The zone of new memory.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ZoneArg {
    /// Movable where that is possible and wise, else as the guest chooses
    Auto,
    /// Movable, or a refusal
    Movable,
    /// As the guest's kernel chooses
    Kernel,
}

impl From<ZoneArg> for ZoneWish {
    fn from(arg: ZoneArg) -> ZoneWish {
        match arg {
            ZoneArg::Auto => ZoneWish::Auto,
            ZoneArg::Movable => ZoneWish::Movable,
            ZoneArg::Kernel => ZoneWish::Kernel,
        }
    }
}

fn read_size(text: &str) -> Result<Change<Bytes>, BadSize> {
    parse_change(text)
}

fn read_count(text: &str) -> Result<Change<u32>, BadCount> {
    parse_count(text)
}
