//! The `<cpu>` of a description: model, topology, NUMA cells.

use super::{amount, missing, number, value};
use crate::domxml::cpuset::CpuSet;
use crate::domxml::document::{BadXml, attribute, child, children, content_of};
use crate::domxml::domain::{AddressBits, Cell, Cpu, Topology};
use roxmltree::Node;

/// QEMU's limit (`MAX_NODES`, QEMU 7.2 and 10.0).
const MOST_CELLS: usize = 128;

pub(super) fn read(root: Node<'_, '_>) -> Result<Cpu, BadXml> {
    let Some(cpu) = child(root, "cpu") else {
        return Ok(Cpu::default());
    };
    Ok(Cpu {
        mode: attribute(cpu, "mode"),
        model: content_of(cpu, "model"),
        topology: child(cpu, "topology").map(topology).transpose()?,
        address_bits: child(cpu, "maxphysaddr").map(address_bits).transpose()?,
        cells: child(cpu, "numa").map(cells).transpose()?.unwrap_or_default(),
    })
}

fn topology(node: Node<'_, '_>) -> Result<Topology, BadXml> {
    let part = |name| match number(node, name)? {
        Some(0) => Err(value("<topology>", "0", "each part is at least 1")),
        Some(n) => Ok(n),
        None => Ok(1),
    };
    Ok(Topology {
        sockets: part("sockets")?,
        dies: part("dies")?,
        clusters: part("clusters")?,
        cores: part("cores")?,
        threads: part("threads")?,
    })
}

fn address_bits(node: Node<'_, '_>) -> Result<AddressBits, BadXml> {
    Ok(match attribute(node, "mode").as_deref() {
        Some("passthrough") => AddressBits::Host(number(node, "limit")?),
        _ => AddressBits::Emulated(number(node, "bits")?),
    })
}

/// The cells, by id. A cell without an id has the number of its place (libvirt 9.0, `virDomainNumaDefParseXML`).
fn cells(numa: Node<'_, '_>) -> Result<Vec<Cell>, BadXml> {
    let mut cells = Vec::new();
    if children(numa, "cell").nth(MOST_CELLS).is_some() {
        return Err(BadXml::TooIntricate);
    }
    for (place, node) in (0u32..).zip(children(numa, "cell")) {
        let cpus = match attribute(node, "cpus") {
            None => CpuSet::new(),
            Some(text) => CpuSet::read(&text)
                .ok_or_else(|| value("<cell cpus>", &text, "not a set of vCPUs such as 0-3,^2"))?,
        };
        let memory =
            amount(node, "memory", "unit", "<cell memory>")?.ok_or_else(|| missing("memory in <cell>"))?;
        let is_shared = attribute(node, "memAccess").is_some_and(|access| access == "shared");
        cells.push(Cell { id: number(node, "id")?.unwrap_or(place), cpus, memory, is_shared });
    }
    cells.sort_by_key(|cell| cell.id);
    if let Some((_, cell)) = (0u32..).zip(&cells).find(|(place, cell)| *place != cell.id) {
        return Err(value("<cell id>", &cell.id.to_string(), "the ids must be 0, 1, 2 and so on, each once"));
    }
    let mut seen = CpuSet::new();
    for cell in &cells {
        if cell.cpus.iter().any(|cpu| !seen.insert(cpu)) {
            return Err(value(
                "<cell cpus>",
                &cell.cpus.to_string(),
                "some of these vCPUs are in another cell already",
            ));
        }
    }
    Ok(cells)
}

/// libvirt takes no cell with a vCPU that the machine cannot have (9.0, `virDomainDefParseXML`).
pub(super) fn check_cells(cpu: &Cpu, vcpus: u32) -> Result<(), BadXml> {
    match cpu.cells.iter().flat_map(|cell| cell.cpus.iter()).find(|id| *id >= vcpus) {
        Some(id) => Err(value("<cell cpus>", &id.to_string(), "beyond the number of vCPUs in <vcpu>")),
        None => Ok(()),
    }
}
