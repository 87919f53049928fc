//! The command line: commands, options and their help. It reads words into values and decides nothing.

mod device;
mod dimensions;
pub(crate) mod doctor;
mod prepare;
mod read;
mod resize;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use std::path::PathBuf;

use crate::address::{Address, BadAddress};
use crate::file::Format;
pub(crate) use device::Device;
use dimensions::LIMITS;
use doctor::Doctor;
pub(crate) use prepare::Prepare;
use read::read_connection;
pub(crate) use resize::{Request, Resize};

const HELP_STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default().dimmed());

const EXIT_STATUS: &str = "\
Exit status:
  0    done and proven, or nothing to do
  1    partial or failed: what was left behind is printed
  2    bad input or refused: nothing was changed
  130  stopped by Ctrl-C during apply: the run is on record, `supple why` tells how far it came";

const DOCTOR_STATUS: &str = "\
Exit status:
  0    ready
  1    something is missing, or dangerous
  2    bad input, or it cannot be asked";

const SIZES: &str = "\
Sizes:
  6G, 6GiB, 1.5G, 512M   binary, as QEMU and libvirt read them
  6GB, 512MB             decimal
  +2G, -512M             a step from the present size
  A number without a unit, or `6Gb`, is refused with its readings offered.";

const EXAMPLES: &str = "\
Examples:
  supple apply web1 --memory 6G --vcpus 4
  supple apply qemu+ssh://root@host/system#web1 --memory -512M --yes
  supple apply qmp:/run/web1/qmp.sock --agent /run/web1/qga.sock --memory 6G
  supple apply web1 --memory 8G --vcpus 4 --cpu-limit 2.5 --disk vda=40G --nic eth0=500mbit/1gbit
  supple get web1 > web1.toml; $EDITOR web1.toml; supple apply -f web1.toml";

const MACHINES: &str = "\
Machines:
  web1, or its uuid            a machine of libvirt's: of --connect, else of $SUPPLE_CONNECT, else of
                               $LIBVIRT_DEFAULT_URI, else the host's (qemu:///system), or your own
                               (qemu:///session) where the host's does not let you in
  qemu+ssh://host/system#web1  the same with its libvirt's URI, in one word
  qmp:/run/web1/qmp.sock       a machine on plain QEMU, by its QMP socket";

const PREPARE_EXAMPLES: &str = "\
Examples:
  supple prepare web1 --max-memory 64G --slots 32 --max-vcpus 16
  supple prepare web1 --max-memory 64G --virtio-mem --dry-run
  supple prepare web1 --undo

Exit status:
  0    prepared, or nothing to do
  1    libvirt took the new definition in another sense
  2    bad input or refused: nothing was changed";

const PLAN_USAGE: &str = "supple plan <VM> [--memory <SIZE>] [--vcpus <COUNT>] [OPTIONS]\n       \
                          supple plan [VM] --file <FILE> [OPTIONS]";
const APPLY_USAGE: &str = "supple apply <VM> [--memory <SIZE>] [--vcpus <COUNT>] [OPTIONS]\n       \
                           supple apply [VM] --file <FILE> [OPTIONS]";

/// Resizes running virtual machines and proves it in the guest.
///
/// A machine is named as libvirt names it, or by its QMP socket: qmp:/run/web1/qmp.sock. Supple asks the guest itself
/// through its agent, over libvirt or over the socket of --agent; without an agent, proofs are weaker and say so.
#[derive(Debug, Parser)]
#[command(name = "supple", version, styles = HELP_STYLES, after_help = format!("{MACHINES}\n\n{EXIT_STATUS}"), max_term_width = 100)]
pub(crate) struct Cli {
    /// The libvirt whose machines are meant, as with virsh: qemu:///system, qemu:///session, qemu+ssh://host/system
    #[arg(long, short, global = true, value_name = "URI", value_parser = read_connection)]
    pub(crate) connect: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show all machines of a libvirt: their sizes, their ceilings, and what can change now
    ///
    /// Those of --connect, else of $SUPPLE_CONNECT, else of $LIBVIRT_DEFAULT_URI, else the host's. Asks no guest; for a
    /// machine that does not run it shows what its next start has.
    #[command(visible_alias = "ls")]
    List(Output),
    /// Examine this host, or one machine: what works, what is missing, and what mends it
    ///
    /// Without a machine: which QEMU and libvirt there are and what they can do, KVM, huge pages, limits. With one: what it
    /// can be resized to, what its guest and its agent allow, and what its next start would make possible. Changes nothing.
    #[command(after_help = format!("{DOCTOR_STATUS}\n\n{MACHINES}"))]
    Doctor(Doctor),
    /// Show what QEMU says, what the guest says, and where they differ
    ///
    /// Also shows removals that the guest has not answered yet, and a run that was interrupted. Changes nothing.
    #[command(after_help = format!("{MACHINES}\n\n{EXIT_STATUS}"))]
    Observe(Machine),
    /// Print what a machine is, as a file that `plan -f` and `apply -f` read
    ///
    /// As it stands, the file asks for nothing. Change a value in it, or take out what is to stay however it is.
    #[command(after_help = MACHINES)]
    Get {
        #[command(flatten)]
        machine: Machine,
        /// How it is written; --json is the same as `--output json`
        #[arg(
            long = "output",
            short = 'o',
            value_name = "FORMAT",
            value_enum,
            default_value = "toml",
            default_value_if("json", "true", "json")
        )]
        format: Format,
    },
    /// Show what a resize would do, step by step, and change nothing
    #[command(after_help = format!("{MACHINES}\n\n{SIZES}\n\n{LIMITS}"), override_usage = PLAN_USAGE)]
    Plan(Resize),
    /// Resize a machine: show the plan, ask, do it, and prove it in the guest
    ///
    /// Every step is written down before it is sent, so Ctrl-C, kill -9 or a crash lose nothing: run the same command
    /// again and it goes on from where the machine stands.
    #[command(after_help = format!("{EXAMPLES}\n\n{MACHINES}\n\n{SIZES}\n\n{LIMITS}\n\n{EXIT_STATUS}"), override_usage = APPLY_USAGE)]
    Apply {
        #[command(flatten)]
        resize: Resize,
        /// Apply the plan without asking
        #[arg(short, long)]
        yes: bool,
        /// Change the running machine only, and leave its definition in libvirt as it is: the change is gone at its next
        /// start. Without it, the definition follows each change, so that the next start has the same
        #[arg(long)]
        live_only: bool,
    },
    /// Bring the guest and the definition in line with the machine that runs, and change no size
    ///
    /// Memory and vCPUs that the machine has and its guest does not use are brought into use; the definition in libvirt
    /// becomes what runs, so that the next start has the same. Shows what it will do, and asks.
    #[command(after_help = format!("{MACHINES}\n\n{EXIT_STATUS}"))]
    Reconcile {
        #[command(flatten)]
        machine: Machine,
        /// Do it without asking
        #[arg(short, long)]
        yes: bool,
    },
    /// Tell of the last run: what was asked, what was achieved, what held it back
    ///
    /// Reads Supple's records only; the machine need not be running. A name of libvirt's is looked up there for its
    /// uuid; a uuid itself is not.
    #[command(after_help = MACHINES)]
    Why {
        /// The machine: its name or uuid in libvirt, or qmp:/path/to/qmp.sock
        #[arg(value_hint = ValueHint::FilePath)]
        vm: Address,
        #[command(flatten)]
        output: Output,
    },
    /// Prepare a guest so that it puts new memory and vCPUs to use by itself
    #[command(subcommand)]
    Guest(Guest),
    /// Give a machine of libvirt's room to grow, from its next start on
    ///
    /// Edits its definition, and nothing else in it: a ceiling of memory with slots, a NUMA cell where it has none, a
    /// ceiling of vCPUs, a channel for the guest agent, a virtio-mem device. Shows the difference first, tries the result
    /// out with a throw-away machine that has none of its disks and networks, and asks. A machine that runs is not
    /// touched: it takes effect when it is next shut down and started. --undo takes it back.
    #[command(after_help = PREPARE_EXAMPLES)]
    Prepare(Prepare),
    /// Print the description of a memory device, for `virsh attach-device`
    ///
    /// The description is all that is on standard output: `supple device-xml --size 512M > dimm.xml`, then `virsh
    /// attach-device web1 dimm.xml --live --config`, then bring its blocks online in the guest. `supple apply` does all
    /// of that, and proves it.
    #[command(after_help = SIZES)]
    DeviceXml(Device),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page, or write all man pages into a directory
    Man {
        /// Where to write supple.1, supple-apply.1 and so on
        #[arg(value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

impl Command {
    /// Takes in `--connect`, for commands about one machine.
    pub(crate) fn connect(&mut self, uri: Option<&str>) -> Result<(), BadAddress> {
        let Some(uri) = uri else { return Ok(()) };
        if let Command::Plan(resize) | Command::Apply { resize, .. } = self {
            resize.connect = Some(uri.to_owned());
        }
        let Some(vm) = self.vm() else { return Ok(()) };
        *vm = vm.clone().at(uri)?;
        Ok(())
    }

    fn vm(&mut self) -> Option<&mut Address> {
        match self {
            Command::Reconcile { machine, .. }
            | Command::Observe(machine)
            | Command::Get { machine, .. }
            | Command::Guest(Guest::Setup(machine)) => Some(&mut machine.vm),
            Command::Plan(resize) | Command::Apply { resize, .. } => resize.vm.as_mut(),
            Command::Why { vm, .. } => Some(vm),
            Command::Doctor(asked) => asked.vm.as_mut(),
            Command::Prepare(prepare) => Some(&mut prepare.vm),
            Command::List(_)
            | Command::Guest(Guest::UdevRule(_))
            | Command::DeviceXml(_)
            | Command::Completions { .. }
            | Command::Man { .. } => None,
        }
    }
}

/// What to do in a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum Guest {
    /// Print the udev rule that onlines new memory and vCPUs
    UdevRule(Output),
    /// Install the udev rule through the guest agent, or say what to do by hand
    #[command(after_help = MACHINES)]
    Setup(Machine),
}

/// Which machine, and how to print.
#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// The machine: its name or uuid in libvirt, or qmp:/path/to/qmp.sock
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) vm: Address,
    /// The guest agent's socket, for a machine on plain QEMU; libvirt knows that of its own
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) agent: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How to print.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Print one JSON object, errors included, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use scale::units::Bytes;
    use scale::units::Change;
    use scale::wanted::{Mechanism, Wanted, ZoneWish};

    fn wanted(words: &str) -> Wanted {
        let words = format!("supple plan /run/q.sock {words}");
        match Cli::try_parse_from(words.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Plan(resize)) => resize.read().expect("options alone").wanted,
            other => panic!("{words}: {other:?}"),
        }
    }

    fn refused(words: &str) -> String {
        Cli::try_parse_from(words.split_whitespace()).expect_err(words).to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_steps_are_read() {
        assert_eq!(wanted("--memory 6G").memory, Some(Change::To(Bytes::gib(6))));
        assert_eq!(wanted("--memory -512M").memory, Some(Change::Shrink(Bytes::mib(512))));
        assert_eq!(wanted("--memory=+2G --vcpus -1").vcpus, Some(Change::Shrink(1)));
        assert_eq!(wanted("-m +2G -v 4").vcpus, Some(Change::To(4)));
        let all = wanted("--memory 6G --mechanism virtio-mem --node 1 --zone movable");
        assert_eq!(
            (all.mechanism, all.node, all.zone),
            (Some(Mechanism::VirtioMem), Some(1), ZoneWish::Movable)
        );
    }

    #[test]
    fn a_size_that_reads_in_two_ways_is_refused_with_both() {
        let said = refused("supple apply /run/q.sock --memory 6Gb");
        assert!(said.contains("6GiB (binary) or 6GB (decimal)"), "{said}");
        let said = refused("supple apply /run/q.sock --memory 6144");
        assert!(said.contains("6144M for MiB"), "{said}");
    }

    #[test]
    fn a_node_is_one_of_memory() {
        let said = refused("supple plan /run/q.sock --vcpus 2 --node 1");
        assert!(said.contains("--memory"), "{said}");
    }

    #[test]
    fn disks_and_limits_are_read() {
        let all = wanted(
            "--cpu-limit 2.5 --cpu-weight 200 --disk vda=40G --disk vdb=+10G --disk-iops vda=2000 \
             --disk-rate vda=read:200M --nic eth0=500mbit/1gbit --ip 203.0.113.7=100mbit --ip 2001:db8::7@eth0=none",
        );
        assert_eq!(all.cpu_weight.map(scale::setting::Weight::get), Some(200));
        assert_eq!(all.disks["vda"].size, Some(Change::To(Bytes::gib(40))));
        assert_eq!(all.disks["vdb"].size, Some(Change::Grow(Bytes::gib(10))));
        assert!(!all.disks["vda"].iops.is_keep() && !all.disks["vda"].rate.is_keep());
        assert_eq!((all.nics.len(), all.ips.len()), (1, 2));
        let again = refused_later("--nic eth0=1mbit --nic eth0=2mbit");
        assert!(again.contains("given twice for eth0"), "{again}");
        let unclear = refused("supple plan /run/q.sock --nic eth0=500M");
        assert!(unclear.contains("500mbit for bits") && unclear.contains("4gbit"), "{unclear}");
        let nameless = refused("supple plan /run/q.sock --disk 40G");
        assert!(nameless.contains("vda=40G"), "{nameless}");
    }

    /// What is refused once all options are read.
    fn refused_later(words: &str) -> String {
        let words = format!("supple plan /run/q.sock {words}");
        match Cli::try_parse_from(words.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::Plan(resize)) => resize.read().expect_err("two of one").text(100),
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn options_count_before_the_file_and_it_may_name_the_machine() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("web1.toml");
        std::fs::write(&path, "vm = \"web1\"\nmemory = \"8G\"\nvcpus = 4\n").expect("a file");
        let command = ["supple", "plan", "-c", "qemu:///system", "--vcpus", "2", "-f"].map(str::to_owned);
        let words = command.into_iter().chain([path.display().to_string()]);
        let Cli { mut command, connect } = Cli::try_parse_from(words).expect("a command");
        command.connect(connect.as_deref()).expect("a machine of libvirt's");
        let Command::Plan(resize) = command else { panic!("{command:?}") };
        let Request { machine, wanted } = resize.read().expect("a wish");
        assert_eq!(machine.vm.to_string(), "qemu:///system#web1");
        assert_eq!(wanted.memory, Some(Change::To(Bytes::gib(8))));
        assert_eq!(wanted.vcpus, Some(Change::To(2)));
    }

    #[test]
    fn what_cannot_be_a_connection_is_told_what_it_may_be() {
        assert!(read_connection("4").unwrap_err().contains("--vcpus"));
        assert!(read_connection("+2").unwrap_err().contains("--vcpus"));
        assert!(
            read_connection("qemu:///system#web1").unwrap_err().contains("--connect 'qemu:///system' web1")
        );
        assert!(read_connection("").is_err());
        assert_eq!(read_connection("hail").as_deref(), Ok("hail"), "an alias of libvirt's configuration");
    }
}
