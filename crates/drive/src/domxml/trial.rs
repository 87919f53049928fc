//! The description of a throw-away machine with which a preparation is tried out: the same board, CPU, memory and vCPUs,
//! and nothing that belongs to anybody. It starts nothing.

use super::document::{BadXml, Document, at, child, children, is};
use super::domain::MemoryModel;
use super::fragment::escape;
use roxmltree::Node;

/// What the trial takes over as it stands, in libvirt's order.
const KEPT: [&str; 7] = ["maxMemory", "memory", "currentMemory", "vcpu", "vcpus", "numatune", "features"];

/// What a trial leaves out, for those who read its result.
pub const LEFT_OUT: &str = "without disks, networks, firmware, huge pages and passed-through devices";

/// The description of a throw-away machine called `name` that is as large as `description`. Its memory is not backed by
/// huge pages nor locked, so that it costs the host nothing until it is used, which it never is.
///
/// # Errors
/// The text is not of a machine.
pub fn trial(description: &str, name: &str) -> Result<String, BadXml> {
    let document = Document::open(description, "domain")?;
    let (root, text) = (document.root(), description);
    let whole = |node: Node<'_, '_>| format!("  {}\n", &text[node.range()]);
    let kind = root.attribute("type").unwrap_or_default();
    let mut out = format!("<domain type='{}'>\n  <name>{}</name>\n", escape(kind, '\''), escape(name, '>'));
    for part in KEPT {
        out.extend(child(root, part).map(whole));
    }
    if let Some(kind) = at(root, &["os", "type"]) {
        out.push_str(&format!("  <os>\n  {}  </os>\n", whole(kind)));
    }
    out.extend(child(root, "cpu").map(whole));
    out.push_str("  <devices>\n");
    if let Some(devices) = child(root, "devices") {
        for device in devices.children().filter(|node| is_kept(*node)) {
            out.push_str("  ");
            out.push_str(&if is(device, "memory") { unbacked(device, text) } else { whole(device) });
        }
    }
    out.push_str("    <controller type='usb' model='none'/>\n    <memballoon model='none'/>\n  </devices>\n</domain>\n");
    Ok(out)
}

/// True for devices that decide how large a machine can be: its program, its PCI bridges, its IOMMU and its memory, save
/// memory that is somebody's file.
fn is_kept(device: Node<'_, '_>) -> bool {
    let has = |name, value| device.attribute(name).is_some_and(|found| found == value);
    is(device, "emulator")
        || is(device, "iommu")
        || (is(device, "controller") && has("type", "pci"))
        || (is(device, "memory")
            && [MemoryModel::Dimm, MemoryModel::VirtioMem].iter().any(|model| has("model", model.word())))
}

/// A memory device without the host's pages that it would be made of.
fn unbacked(device: Node<'_, '_>, text: &str) -> String {
    let range = device.range();
    let mut out = String::from("  ");
    let mut from = range.start;
    for source in children(device, "source") {
        out.push_str(&text[from..source.range().start]);
        from = source.range().end;
    }
    out.push_str(&text[from..range.end]);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domxml::{AddressSpace, Domain, HostLimits, address_space};

    const MACHINE: &str = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name><uuid>6f3c1a52-0b1e-4c57-9b4d-1de1f0a1b2c3</uuid>
  <metadata><a:b xmlns:a='u'/></metadata>
  <maxMemory slots='32' unit='GiB'>64</maxMemory><memory unit='GiB'>6</memory>
  <memoryBacking><hugepages/><locked/></memoryBacking>
  <vcpu current='2'>4</vcpu>
  <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader secure='yes'/><nvram>/n</nvram></os>
  <features><acpi/></features>
  <cpu mode='host-passthrough'><numa><cell id='0' cpus='0-3' memory='4' unit='GiB'/></numa></cpu>
  <devices><emulator>/usr/bin/q</emulator>
    <disk type='file'><source file='/disk'/></disk>
    <interface type='network'><source network='default'/></interface>
    <channel type='unix'><source mode='bind' path='/socket'/></channel>
    <controller type='pci' model='pcie-root'><pcihole64 unit='GiB'>128</pcihole64></controller>
    <controller type='scsi'/>
    <hostdev mode='subsystem'/>
    <memory model='dimm'><source><pagesize unit='GiB'>1</pagesize></source><target><size unit='GiB'>2</size><node>0</node></target></memory>
    <memory model='nvdimm'><source><path>/nv</path></source><target><size unit='GiB'>1</size></target></memory>
  </devices>
  <qemu:commandline><qemu:arg value='-netdev'/></qemu:commandline>
</domain>";

    #[test]
    fn nothing_of_anybodys_is_in_it() {
        let made = trial(MACHINE, "supple-trial").unwrap();
        for part in [
            "/disk",
            "network",
            "/socket",
            "hostdev",
            "/nv",
            "efi",
            "loader",
            "qemu:",
            "uuid",
            "web1",
            "scsi",
            "a:b",
            "hugepages",
            "locked",
            "pagesize",
        ] {
            assert!(!made.contains(part), "{part}: {made}");
        }
    }

    #[test]
    fn it_is_as_large_as_the_machine() {
        let (made, machine) = (trial(MACHINE, "a<b").unwrap(), Domain::parse(MACHINE).unwrap());
        let trial = Domain::parse(&made).unwrap();
        assert_eq!(trial.name, "a<b");
        assert_eq!((trial.memory.boot, trial.memory.max), (machine.memory.boot, machine.memory.max));
        assert_eq!((trial.vcpus.clone(), trial.cpu.clone()), (machine.vcpus.clone(), machine.cpu.clone()));
        let space = |domain: &Domain| address_space(domain, &HostLimits::default());
        assert!(matches!(space(&trial), Some(AddressSpace { .. })));
        assert_eq!(space(&trial), space(&machine));
        assert_eq!(trial.memory_devices.len(), 1);
    }
}
