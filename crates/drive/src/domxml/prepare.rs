//! Prepares a machine's description so that its next boot can be resized while it runs.
//!
//! [`prepare`] works out what the machine should be, collects every obstacle, and only then edits the text; the result
//! is read back before it is given out. It takes the description of the next boot, changes nothing on a running
//! machine, defines nothing, and takes no memory and no vCPU away. It will not start QEMU: whether the result boots is
//! for a trial, which sees what no description tells.

mod address;
mod agent;
mod memory;
mod obstacle;
mod vcpus;
mod virtio_mem;

use super::document::{Document, child};
use super::domain::Domain;
use super::edit::Edits;
use super::fragment::Fragment;
use super::machine::Board;
use super::read;
use obstacle::refuse;
use roxmltree::Node;
use scale::observed::Version;
use scale::units::Bytes;
use similar::TextDiff;

pub use address::{AddressSpace, address_space};
pub use obstacle::{Obstacle, PrepareRefusal};

/// What the next boot should make possible. What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prepare {
    /// The ceiling of memory.
    pub max_memory: Option<Bytes>,
    /// How many DIMMs it may consist of; 16 where the machine had none.
    pub slots: Option<u32>,
    /// The ceiling of vCPUs. The number at boot stays.
    pub max_vcpus: Option<u32>,
    /// Whether the vCPUs that are there at boot, save the first (on ppc64: the first core), can be taken away too.
    pub removable_vcpus: bool,
    /// A virtio-mem device.
    pub virtio_mem: Option<VirtioMem>,
    /// A channel for the guest agent.
    pub agent_channel: bool,
}

/// A virtio-mem device that a machine should have. It gives the guest nothing until something is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtioMem {
    /// The most that it can give; where it is `None`, what the device on that node has, or all that the ceiling of
    /// memory leaves.
    pub size: Option<Bytes>,
    /// The unit in which it changes; where it is `None`, the smallest that libvirt accepts and VFIO bears.
    pub block: Option<Bytes>,
    /// The guest's node.
    pub node: u32,
}

/// What the host brings into it. Where something is not known, the careful reading is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLimits {
    /// The architecture of machines that name none.
    pub arch: String,
    /// The host CPU's physical address bits (`address sizes` in /proc/cpuinfo).
    pub address_bits: Option<u32>,
    /// The host CPU is AMD's.
    pub amd: bool,
    /// The size of the host's transparent huge pages, below which libvirt accepts no virtio-mem block.
    pub huge_page: Bytes,
    /// The most vCPUs of this machine type, from libvirt's domain capabilities.
    pub max_vcpus: Option<u32>,
    /// QEMU's version.
    pub qemu: Option<Version>,
    /// libvirt's version.
    pub libvirt: Option<Version>,
}

impl Default for HostLimits {
    /// A host of which nothing is known but that it is x86-64.
    fn default() -> HostLimits {
        HostLimits {
            arch: "x86_64".to_owned(),
            address_bits: None,
            amd: false,
            huge_page: Bytes::mib(2),
            max_vcpus: None,
            qemu: None,
            libvirt: None,
        }
    }
}

/// A prepared description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The new text; the old one where nothing is to be changed.
    pub xml: String,
    /// What is different, as a unified diff; empty where nothing is.
    pub diff: String,
    /// Each change, in a sentence that says why.
    pub changes: Vec<String>,
    /// What is good to know and changes nothing here.
    pub notes: Vec<String>,
    /// The text before, with which all of it is taken back.
    pub undo: String,
}

impl Prepared {
    /// True if the machine already was what was asked for.
    pub fn is_unchanged(&self) -> bool {
        self.xml == self.undo
    }
}

/// A machine, what it should become, and where.
struct Case<'c> {
    domain: &'c Domain,
    want: &'c Prepare,
    host: &'c HostLimits,
    arch: &'c str,
    board: Board,
}

/// What there is to say about the edits.
#[derive(Default)]
struct Said {
    changes: Vec<String>,
    notes: Vec<String>,
}

/// Edits the description `xml` so that the next boot has what `want` says.
///
/// Preparing the result again with the same `want` changes nothing.
///
/// # Errors
/// Every obstacle that was found, each with a way out. Nothing is edited then.
pub fn prepare(xml: &str, want: &Prepare, host: &HostLimits) -> Result<Prepared, PrepareRefusal> {
    let document = Document::open(xml, "domain").map_err(refuse)?;
    let domain = read::domain(&document).map_err(refuse)?;
    let arch = domain.machine.arch.as_deref().unwrap_or(&host.arch);
    let case = Case { domain: &domain, want, host, arch, board: domain.machine.board(arch) };

    let mut obstacles = case.obstacles();
    let memory = memory::goal(&case, &mut obstacles);
    let vcpus = vcpus::goal(&case, &mut obstacles);
    agent::check(&case, &mut obstacles);
    if !obstacles.is_empty() {
        return Err(PrepareRefusal { obstacles });
    }

    let mut edits = Edits::new(&document);
    let mut said = Said::default();
    let root = document.root();
    memory.edit(&case, &vcpus, root, &mut edits, &mut said);
    vcpus.edit(&case, root, &mut edits, &mut said);
    let devices: Vec<Fragment> =
        agent::new_device(&case, &mut said).into_iter().chain(memory.new_device()).collect();
    match child(root, "devices") {
        Some(node) => devices.into_iter().for_each(|device| edits.append(node, device)),
        None if devices.is_empty() => {}
        None => edits.append(root, Fragment::holding("devices", devices)),
    }
    let new = edits.apply();
    if new != xml {
        read_back(&case, &new, &memory, &vcpus)?;
        case.general_notes(&mut said);
    }
    Ok(Prepared {
        diff: diff(
            (&format!("{} as it is", domain.name), xml),
            (&format!("{} from the next boot", domain.name), &new),
        ),
        xml: new,
        changes: said.changes,
        notes: said.notes,
        undo: xml.to_owned(),
    })
}

impl Case<'_> {
    /// True if memory or vCPUs are to be prepared at all.
    fn is_about_sizes(&self) -> bool {
        self.wants_memory() || self.want.max_vcpus.is_some() || self.want.removable_vcpus
    }

    fn wants_memory(&self) -> bool {
        self.want.max_memory.is_some() || self.want.slots.is_some() || self.want.virtio_mem.is_some()
    }

    fn is_x86(&self) -> bool {
        self.arch == "x86_64"
    }

    fn is_ppc64(&self) -> bool {
        matches!(self.arch, "ppc64" | "ppc64le")
    }

    fn machine_name(&self) -> String {
        self.domain.machine.name.clone().unwrap_or_else(|| format!("of {}", self.arch))
    }

    /// What stands against any preparation of this machine.
    fn obstacles(&self) -> Vec<Obstacle> {
        let mut found = Vec::new();
        if self.domain.id.is_some() {
            found.push(Obstacle::LiveDescription);
        }
        let runs_qemu = matches!(self.domain.kind.as_str(), "kvm" | "qemu");
        let is_hvm = self.domain.machine.os_type.as_deref().is_none_or(|kind| kind == "hvm");
        if !runs_qemu || !is_hvm {
            found.push(Obstacle::NotQemu { kind: self.domain.kind.clone() });
        } else if self.is_about_sizes()
            && !matches!(self.arch, "x86_64" | "aarch64" | "ppc64" | "ppc64le" | "s390x")
        {
            found.push(Obstacle::UnknownArchitecture { arch: self.arch.to_owned() });
        } else if self.is_about_sizes() && !self.board_can_grow() {
            found.push(Obstacle::FixedBoard { machine: self.machine_name() });
        }
        let needs_acpi = self.is_x86() || self.arch == "aarch64";
        if self.is_about_sizes() && needs_acpi && !self.domain.machine.acpi {
            let what = match (self.wants_memory(), self.want.max_vcpus.is_some()) {
                (true, true) => "memory and vCPUs",
                (true, false) => "memory",
                (false, _) => "vCPUs",
            };
            found.push(Obstacle::NoAcpi { what, needs_uefi: self.arch == "aarch64" });
        }
        found
    }

    /// Whether memory or vCPUs of this board can grow at all. QEMU 2.1 brought memory hot-plug, for the machine types
    /// from then on.
    fn board_can_grow(&self) -> bool {
        match self.board {
            Board::Pc | Board::Q35 => self.is_x86() && !self.domain.machine.is_older_than(2, 1),
            Board::Virt => self.arch == "aarch64" && !self.domain.machine.is_older_than(4, 2),
            Board::Pseries => self.is_ppc64(),
            Board::S390Ccw => self.arch == "s390x",
            Board::Microvm | Board::Isapc | Board::Other => false,
        }
    }

    fn general_notes(&self, said: &mut Said) {
        said.notes.push(
            "It takes effect when the machine is next started; a reboot from within the guest is not enough."
                .to_owned(),
        );
        if !self.domain.raw_arguments.is_empty() {
            said.notes.push(format!(
                "QEMU gets arguments past libvirt ({}); what they do to memory and vCPUs is not looked at here.",
                self.domain.raw_arguments.join(" ").escape_debug()
            ));
        }
    }
}

/// The last of the elements at the beginning that libvirt writes before all that is put in here.
fn anchor<'t, 'a>(root: Node<'t, 'a>) -> Node<'t, 'a> {
    ["vcpu", "currentMemory", "memory", "maxMemory", "name"]
        .into_iter()
        .find_map(|name| child(root, name))
        .expect("a machine that was read has a name")
}

/// Makes sure that the new text says what was worked out: the last word against a description of a shape that the edits
/// did not foresee.
fn read_back(
    case: &Case<'_>,
    new: &str,
    memory: &memory::Goal,
    vcpus: &vcpus::Goal,
) -> Result<(), PrepareRefusal> {
    let domain = Domain::parse(new).map_err(refuse)?;
    let wrong = if memory.is_in(&domain, case) && vcpus.is_in(&domain) && agent::is_in(&domain, case) {
        let as_before = domain.memory.boot == case.domain.memory.boot
            && domain.vcpus.current == case.domain.vcpus.current
            && domain.name == case.domain.name;
        if as_before { None } else { Some("what the machine boots with") }
    } else {
        Some("what was asked for")
    };
    match wrong {
        None => Ok(()),
        Some(what) => Err(PrepareRefusal { obstacles: vec![Obstacle::NotReadBack { what }] }),
    }
}

/// What is different between two texts, each with its title, as a unified diff; empty where nothing is.
pub fn diff((before, old): (&str, &str), (after, new): (&str, &str)) -> String {
    if old == new {
        return String::new();
    }
    TextDiff::from_lines(old, new).unified_diff().header(before, after).to_string()
}
