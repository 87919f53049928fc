//! What does not change while QEMU runs, asked once: of QEMU, or read from libvirt's description of the running machine,
//! where each question to QEMU would be an exchange of its own. It guesses nothing: a description in which more stands
//! than is understood here tells nothing.

use std::collections::BTreeMap;

use scale::observed::{Accel, Backing};
use serde_json::Value;

use super::backends::Boot;
use super::cmdline::CommandLine;
use super::monitor::Monitor;
use super::replies::{Kvm, MemoryConfig, Name, Target, Uuid};
use crate::ObserveError;
#[cfg(feature = "libvirt")]
use crate::domxml;

/// What does not change while QEMU runs.
#[derive(Debug)]
pub(crate) struct Lasting {
    pub(super) name: Option<String>,
    pub(super) uuid: Option<String>,
    pub(super) kind: String,
    pub(super) arch: String,
    pub(super) accel: Accel,
    pub(super) config: Option<MemoryConfig>,
    /// Size of the region for memory devices (x86 only).
    pub(super) region: Option<u64>,
    pub(super) line: CommandLine,
    pub(super) pid: Option<u32>,
    /// Memory that it was started with.
    pub(super) base: Option<u64>,
    /// True where it is known to have one NUMA node at most, of ordinary memory that no host node is named for.
    pub(super) is_plain: bool,
    /// The machine's link to the backend of its boot memory.
    pub(super) link: Option<String>,
    pub(super) boot_backends: Option<Vec<Boot>>,
    /// What backends are made of, by their ids.
    pub(super) backings: BTreeMap<String, Backing>,
}

/// QEMU's own arguments in a description that would make it another machine than the description says.
#[cfg(feature = "libvirt")]
const TELLING: [&str; 11] = [
    "M",
    "accel",
    "m",
    "machine",
    "mem-path",
    "mem-prealloc",
    "name",
    "numa",
    "object",
    "readconfig",
    "uuid",
];

impl Lasting {
    /// Asks QEMU.
    pub(super) async fn ask(monitor: &Monitor) -> Result<Lasting, ObserveError> {
        let machine = "/machine";
        let none = || Value::Null;
        let (name, uuid, kvm, target, kind, config, link, region) = tokio::try_join!(
            monitor.ask_if::<Name>("query-name", none()),
            monitor.ask_if::<Uuid>("query-uuid", none()),
            monitor.ask_if::<Kvm>("query-kvm", none()),
            monitor.ask_if::<Target>("query-target", none()),
            monitor.property::<String>(machine, "type"),
            monitor.property::<MemoryConfig>(machine, "memory"),
            monitor.property::<String>(machine, "memory-backend"),
            monitor.property::<u64>(machine, "device-memory-region-size"),
        )?;
        let pid = monitor.pid();
        let line = CommandLine::of(pid);
        let kind = kind.unwrap_or_default();
        Ok(Lasting {
            name: name.and_then(|name| name.name),
            uuid: uuid.map(|uuid| uuid.uuid).filter(|uuid| uuid.chars().any(|c| !matches!(c, '0' | '-'))),
            kind: kind.strip_suffix("-machine").unwrap_or(&kind).to_owned(),
            arch: target.map(|target| target.arch).unwrap_or_default(),
            accel: kvm.map_or(Accel::Unknown, |kvm| if kvm.enabled { Accel::Kvm } else { Accel::Tcg }),
            config: config.or_else(|| line.memory()),
            region,
            base: None,
            is_plain: false,
            link,
            boot_backends: None,
            line,
            pid,
            backings: BTreeMap::new(),
        })
    }

    /// What the description of a running machine tells, if it is all told there. libvirt gives QEMU its limits as they
    /// stand in `<maxMemory>` and plain memory to boot with (`qemuBuildMemCommandLine`, 9.0 and 11.3). Shared, huge
    /// and bound memory and more nodes than one are for QEMU to tell.
    #[cfg(feature = "libvirt")]
    pub(crate) fn described(domain: &domxml::Domain, pid: Option<u32>) -> Option<Lasting> {
        let domxml::Memory { max, backing, .. } = &domain.memory;
        let is_plain = backing.hugepages.is_empty() && backing.source.is_none() && backing.access.is_none();
        let is_one = matches!(domain.cpu.cells.as_slice(), [] | [domxml::Cell { is_shared: false, .. }]);
        let is_all = !domain.raw_arguments.iter().any(|word| TELLING.contains(&word.trim_start_matches('-')));
        if !(is_plain && is_one && is_all) || domain.is_bound {
            return None;
        }
        let accel = match domain.kind.as_str() {
            "kvm" => Accel::Kvm,
            "qemu" => Accel::Tcg,
            _ => return None,
        };
        let slots = max.and_then(|max| max.slots).map(u64::from);
        Some(Lasting {
            name: Some(domain.name.clone()),
            uuid: domain.uuid.clone(),
            kind: domain.machine.name.clone()?,
            arch: domain.machine.arch.clone()?,
            accel,
            config: Some(MemoryConfig { size: None, max_size: max.map(|max| max.size.get()), slots }),
            region: None,
            base: domain.cpu.cells.first().map(|cell| cell.memory.get()),
            is_plain: true,
            link: None,
            boot_backends: Some(Vec::new()),
            line: CommandLine::of(pid),
            pid,
            backings: BTreeMap::new(),
        })
    }
}

#[cfg(all(test, feature = "libvirt"))]
mod tests {
    use super::*;

    fn told(more: &str, cell: &str) -> Option<Lasting> {
        let xml = format!(
            "<domain type='qemu' id='1' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <name>web1</name><uuid>6f3c1a52-0b1e-4c57-9b4d-1de1f0a1b2c3</uuid>\
             <maxMemory slots='16' unit='GiB'>8</maxMemory><memory unit='GiB'>2</memory><vcpu>2</vcpu>\
             <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>\
             <cpu><numa><cell id='0' cpus='0-1' memory='2' unit='GiB'{cell}/></numa></cpu>{more}</domain>"
        );
        Lasting::described(&domxml::Domain::parse(&xml).expect("a description"), None)
    }

    #[test]
    fn a_plain_machine_is_told_by_its_description() {
        let other =
            "<qemu:commandline><qemu:arg value='-netdev'/><qemu:arg value='user,id=n'/></qemu:commandline>";
        let lasting = told(other, "").expect("told");
        assert_eq!((lasting.kind.as_str(), lasting.arch.as_str()), ("pc-q35-7.2", "x86_64"));
        assert_eq!((lasting.accel, lasting.is_plain), (Accel::Tcg, true));
        let config = MemoryConfig { size: None, max_size: Some(8 << 30), slots: Some(16) };
        assert_eq!((lasting.config, lasting.base), (Some(config), Some(2 << 30)));
    }

    #[test]
    fn what_may_be_otherwise_is_left_to_qemu() {
        for more in [
            "<memoryBacking><hugepages/></memoryBacking>",
            "<numatune><memory mode='strict' nodeset='1'/></numatune>",
            "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
            "<qemu:commandline><qemu:arg value='-m'/><qemu:arg value='4G'/></qemu:commandline>",
            "<qemu:commandline><qemu:arg value='--object'/><qemu:arg value='x'/></qemu:commandline>",
        ] {
            assert!(told(more, "").is_none(), "{more}");
        }
        assert!(told("", " memAccess='shared'").is_none());
    }
}
