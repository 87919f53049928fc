//! A recipe as a domain of libvirt: the same guest, described as an operator would describe it. It will not define it:
//! see `libvirtd`.

use std::fmt::Write as _;
use std::path::Path;

use scale::units::Bytes;

use super::{Board, Parts, Recipe, VirtioMem, place};
use crate::accel::Accel;

impl Recipe {
    /// The domain's XML. Its console's log and the witness's socket lie in `dir`. It has no uuid: libvirt makes one.
    pub(crate) fn domain(&self, name: &str, parts: &Parts, dir: &Path) -> String {
        let (kind, cpu) = match parts.accel {
            Accel::Kvm => ("kvm", "host-passthrough"),
            Accel::Tcg => ("qemu", "maximum"),
        };
        let at = |file: &str| escaped(&dir.join(file).display().to_string());
        let path = |file: &Path| escaped(&file.display().to_string());
        let (boot, max, nodes) = (self.vcpus, self.max_vcpus, u16::from(self.numa_nodes));
        let cores = max / nodes;
        format!(
            "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
{memory}{pages}  <vcpu placement='static' current='{boot}'>{max}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{line}</cmdline>
  </os>
  <features>
    <acpi/>
  </features>
  <cpu mode='{cpu}'>
    <topology sockets='{nodes}' dies='1' cores='{cores}' threads='1'/>
{numa}  </cpu>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='{console}'/>
    </serial>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <channel type='unix'>
      <source mode='bind' path='{witness}'/>
      <target type='virtio' name='org.supple.lab'/>
    </channel>
    <memballoon model='{balloon}'/>
{disks}{virtio_mem}{tap}  </devices>
{network}</domain>
",
            name = escaped(name),
            memory = self.sizes(),
            pages = self.huge_node.map(huge_pages).unwrap_or_default(),
            machine = self.board.name(),
            kernel = path(&parts.image.kernel()),
            initrd = path(&parts.image.initrd(self.variant())),
            line = escaped(&self.kernel_line(parts.accel)),
            numa = self.nodes(cores),
            emulator = path(&parts.qemu.installed()),
            console = at(place::CONSOLE),
            witness = at(place::WITNESS),
            balloon = if self.balloon { "virtio" } else { "none" },
            disks = super::disk::elements(&self.disks, dir),
            virtio_mem = self.virtio_mem.map(device).unwrap_or_default(),
            network = self.network(),
            tap = self.tap.as_deref().map(interface).unwrap_or_default(),
        )
    }

    fn sizes(&self) -> String {
        let mut text = String::new();
        if self.max_memory > self.memory {
            let slots = if self.slots > 0 { format!(" slots='{}'", self.slots) } else { String::new() };
            let _ = writeln!(text, "  <maxMemory{slots} unit='KiB'>{}</maxMemory>", kib(self.max_memory));
        }
        let _ = writeln!(text, "  <memory unit='KiB'>{}</memory>", kib(self.memory));
        text
    }

    /// libvirt 9.0 wants a node for memory to be plugged into; 9.6 makes one up.
    fn nodes(&self, cores: u16) -> String {
        if self.max_memory <= self.memory && self.numa_nodes == 1 {
            return String::new();
        }
        let share = self.memory.per(self.numa_nodes.into());
        let cell = |node: u16| {
            let (first, last) = (node * cores, (node + 1) * cores - 1);
            format!("      <cell id='{node}' cpus='{first}-{last}' memory='{}' unit='KiB'/>\n", kib(share))
        };
        let cells: String = (0..self.numa_nodes.into()).map(cell).collect();
        format!("    <numa>\n{cells}    </numa>\n")
    }

    /// QEMU's own network, as for the other lab guests: libvirt 9.0 has no element for its port forwarding. The slot
    /// is one that libvirt does not come to when it hands them out from the lowest.
    fn network(&self) -> String {
        let slot = match self.board {
            Board::Q35 => "0x1e",
            Board::I440fx => "0x1f",
        };
        let device = format!("virtio-net-pci,netdev=labnet,romfile=,addr={slot}");
        let args = ["-netdev", super::command::USER_NET, "-device", &device];
        let args: String =
            args.iter().map(|arg| format!("    <qemu:arg value='{}'/>\n", escaped(arg))).collect();
        format!("  <qemu:commandline>\n{args}  </qemu:commandline>\n")
    }
}

/// Huge pages by memfd need no mount of a hugetlbfs.
fn huge_pages(node: u8) -> String {
    format!(
        "  <memoryBacking>
    <hugepages>
      <page size='2048' unit='KiB' nodeset='{node}'/>
    </hugepages>
    <source type='memfd'/>
  </memoryBacking>
  <numatune>
    <memnode cellid='{node}' mode='strict' nodeset='0'/>
  </numatune>
"
    )
}

fn device(VirtioMem { max, node }: VirtioMem) -> String {
    format!(
        "    <memory model='virtio-mem'>
      <target>
        <size unit='KiB'>{}</size>
        <node>{node}</node>
        <block unit='KiB'>2048</block>
        <requested unit='KiB'>0</requested>
      </target>
      <alias name='ua-vmem0'/>
    </memory>
",
        kib(max)
    )
}

/// A NIC on a tap `tap0` that libvirt makes.
fn interface(mac: &str) -> String {
    format!(
        "    <interface type='ethernet'>
      <mac address='{mac}'/>
      <target dev='tap0'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
"
    )
}

/// libvirt's own unit, so that nothing is converted.
fn kib(size: Bytes) -> u64 {
    assert!(size.is_multiple_of(Bytes::mib(1)), "libvirt rounds {size} up to a whole MiB");
    size.count_of(Bytes::new(1024))
}

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
