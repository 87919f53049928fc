//! Reads a machine's description into a [`Domain`].
//!
//! What it does not know it passes over; what it needs and libvirt would refuse is an error. It will not look at the
//! host: what the description leaves to libvirt's defaults is `None`, or the default where libvirt always has the same.

mod cpu;
mod devices;

pub(super) use devices::AGENT;

use super::document::{BadXml, Document, at, attribute, child, children, content, content_of, is_yes};
use super::domain::{Backing, CpuTune, Domain, HugePages, MaxMemory, Memory, MemoryDevice, Vcpu, Vcpus};
use super::machine::Machine;
use super::units::read_amount;
use crate::domxml::cpuset::CpuSet;
use roxmltree::Node;
use scale::units::Bytes;
use std::str::FromStr;

/// libvirt's word for "no limit", in KiB (`VIR_DOMAIN_MEMORY_PARAM_UNLIMITED`).
const UNLIMITED: Bytes = Bytes::new(9_007_199_254_740_991 << 10);

/// More vCPUs than any machine type has, so that no number in a description makes us allocate without bound.
const MOST_VCPUS: u32 = 16_384;

const LIBOSINFO: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

impl Domain {
    /// Reads a description, live or of the next boot, as `virsh dumpxml` writes it.
    ///
    /// # Errors
    /// The text is no XML, not of a machine, larger than any machine's, or has a value that libvirt would refuse.
    pub fn parse(text: &str) -> Result<Domain, BadXml> {
        domain(&Document::open(text, "domain")?)
    }
}

/// Reads an opened description.
pub(super) fn domain(document: &Document<'_>) -> Result<Domain, BadXml> {
    let root = document.root();
    let devices = child(root, "devices");
    let cpu = cpu::read(root)?;
    let vcpus = vcpus(root)?;
    cpu::check_cells(&cpu, vcpus.max)?;
    let memory_devices = devices::memory(document)?;
    let boot_of_cells = (!cpu.cells.is_empty()).then(|| cpu.cells.iter().map(|cell| cell.memory).sum());
    Ok(Domain {
        kind: attribute(root, "type").unwrap_or_default(),
        id: attribute(root, "id").and_then(|id| id.parse().ok()),
        name: content_of(root, "name").ok_or_else(|| missing("<name>"))?,
        uuid: content_of(root, "uuid"),
        os: os_of(root),
        memory: memory(root, boot_of_cells, &memory_devices)?,
        vcpus,
        cpu,
        machine: machine(root),
        memory_devices,
        balloon: devices.and_then(devices::balloon),
        agent: devices.and_then(devices::agent),
        backends: devices.map(devices::backends).transpose()?.unwrap_or_default(),
        disks: devices.map(devices::disks).unwrap_or_default(),
        is_bound: child(root, "numatune").is_some(),
        launch_security: child(root, "launchSecurity").map(|n| attribute(n, "type").unwrap_or_default()),
        raw_arguments: raw_arguments(root),
    })
}

fn memory(root: Node<'_, '_>, cells: Option<Bytes>, devices: &[MemoryDevice]) -> Result<Memory, BadXml> {
    let written = amount_of(root, "memory")?;
    let boot = match (cells, written) {
        (Some(cells), _) => cells,
        (None, None) => return Err(missing("<memory>")),
        (None, Some(written)) => {
            let plugged: Bytes = devices.iter().map(|device| device.size).sum();
            written.checked_sub(plugged).ok_or_else(|| BadXml::Value {
                place: "<memory>".to_owned(),
                text: written.to_string(),
                why: format!("its memory devices alone have {plugged}"),
            })?
        }
    };
    if boot.is_zero() {
        return Err(missing("memory to boot with, in <memory> or in its NUMA cells"));
    }
    let max = match amount_of(root, "maxMemory")?.filter(|size| !size.is_zero()) {
        None => None,
        Some(size) => Some(MaxMemory {
            size,
            slots: child(root, "maxMemory").map_or(Ok(None), |node| number(node, "slots"))?,
        }),
    };
    let hard_limit = at(root, &["memtune"])
        .map_or(Ok(None), |node| amount_of(node, "hard_limit"))?
        .filter(|limit| *limit < UNLIMITED);
    Ok(Memory {
        boot,
        written,
        current: amount_of(root, "currentMemory")?,
        max,
        hard_limit,
        backing: backing(root)?,
    })
}

fn backing(root: Node<'_, '_>) -> Result<Backing, BadXml> {
    let Some(node) = child(root, "memoryBacking") else {
        return Ok(Backing::default());
    };
    let mut hugepages = Vec::new();
    if let Some(list) = child(node, "hugepages") {
        for page in children(list, "page") {
            let nodes = attribute(page, "nodeset").and_then(|nodes| CpuSet::read(&nodes));
            hugepages.push(HugePages { size: amount(page, "size", "unit", "<page size>")?, nodes });
        }
        if hugepages.is_empty() {
            hugepages.push(HugePages { size: None, nodes: None });
        }
    }
    Ok(Backing {
        hugepages,
        locked: child(node, "locked").is_some(),
        source: child(node, "source").and_then(|source| attribute(source, "type")),
        access: child(node, "access").and_then(|access| attribute(access, "mode")),
        discard: child(node, "discard").is_some(),
        immediate: child(node, "allocation")
            .and_then(|a| attribute(a, "mode"))
            .is_some_and(|m| m == "immediate"),
    })
}

fn vcpus(root: Node<'_, '_>) -> Result<Vcpus, BadXml> {
    let node = child(root, "vcpu");
    let bad = |text: &str, why: &str| value("<vcpu>", text, why);
    let max = match node.map(content) {
        None => 1,
        Some(text) => plain::<u32>(&text)
            .filter(|max| (1..=MOST_VCPUS).contains(max))
            .ok_or_else(|| bad(&text, "not a number of vCPUs"))?,
    };
    let current = node.map_or(Ok(None), |node| number(node, "current"))?.unwrap_or(max);
    let mut each: Vec<Vcpu> = Vec::new();
    for node in child(root, "vcpus").into_iter().flat_map(|list| children(list, "vcpu")) {
        let id = number(node, "id")?.ok_or_else(|| missing("id in <vcpus><vcpu>"))?;
        if id >= max {
            return Err(value("<vcpus><vcpu id>", &id.to_string(), "beyond the number of vCPUs in <vcpu>"));
        }
        let enabled = is_yes(node, "enabled");
        let hotpluggable = attribute(node, "hotpluggable").map_or(!enabled, |value| value == "yes");
        each.push(Vcpu { id, enabled, hotpluggable, order: number(node, "order")? });
    }
    // libvirt reads the list in order, so the last word on a vCPU counts.
    each.reverse();
    each.sort_by_key(|vcpu| vcpu.id);
    each.dedup_by_key(|vcpu| vcpu.id);
    let current = if each.is_empty() {
        current
    } else {
        u32::try_from(each.iter().filter(|vcpu| vcpu.enabled).count()).expect("ids are below MOST_VCPUS")
    };
    if current == 0 || current > max {
        return Err(bad(&current.to_string(), "the present number must be between 1 and the ceiling"));
    }
    Ok(Vcpus { max, current, each, tune: child(root, "cputune").map(tune).unwrap_or_default() })
}

fn tune(node: Node<'_, '_>) -> CpuTune {
    let number = |name| content_of(node, name).and_then(|text| plain(&text));
    CpuTune {
        shares: number("shares"),
        period: number("period"),
        quota: content_of(node, "quota").and_then(|text| text.parse().ok()),
        pinned: u32::try_from(children(node, "vcpupin").count()).unwrap_or(u32::MAX),
    }
}

fn machine(root: Node<'_, '_>) -> Machine {
    let os = child(root, "os");
    let kind = at(root, &["os", "type"]);
    let features = child(root, "features");
    let loader = at(root, &["os", "loader"]);
    let has = |name| features.and_then(|f| child(f, name)).is_some();
    let secure_feature = at(root, &["os", "firmware"])
        .into_iter()
        .flat_map(|firmware| children(firmware, "feature"))
        .any(|f| attribute(f, "name").is_some_and(|name| name == "secure-boot") && is_yes(f, "enabled"));
    Machine {
        arch: kind.and_then(|kind| attribute(kind, "arch")),
        name: kind.and_then(|kind| attribute(kind, "machine")),
        os_type: kind.map(content).filter(|text| !text.is_empty()),
        emulator: at(root, &["devices"]).and_then(|devices| content_of(devices, "emulator")),
        acpi: has("acpi"),
        hyperv: has("hyperv"),
        uefi: os.and_then(|os| attribute(os, "firmware")).is_some_and(|firmware| firmware == "efi")
            || loader.and_then(|loader| attribute(loader, "type")).is_some_and(|kind| kind == "pflash"),
        secure_firmware: secure_feature || loader.is_some_and(|loader| is_yes(loader, "secure")),
    }
}

fn os_of(root: Node<'_, '_>) -> Option<String> {
    let of_libosinfo = |node: &Node<'_, '_>| {
        node.is_element() && node.tag_name().namespace() == Some(LIBOSINFO) && node.tag_name().name() == "os"
    };
    child(root, "metadata")?.descendants().find(of_libosinfo).and_then(|os| attribute(os, "id"))
}

fn raw_arguments(root: Node<'_, '_>) -> Vec<String> {
    let of_qemu = |node: &Node<'_, '_>, name: &str| {
        node.is_element() && node.tag_name().namespace() == Some(QEMU) && node.tag_name().name() == name
    };
    root.children()
        .filter(|node| of_qemu(node, "commandline"))
        .flat_map(|list| list.children())
        .filter(|node| of_qemu(node, "arg"))
        .filter_map(|argument| attribute(argument, "value"))
        .collect()
}

fn missing(place: &str) -> BadXml {
    BadXml::Missing { place: place.to_owned() }
}

fn value(place: &str, text: &str, why: &str) -> BadXml {
    BadXml::Value { place: place.to_owned(), text: text.to_owned(), why: why.to_owned() }
}

/// A whole number in digits alone.
fn plain<T: FromStr>(text: &str) -> Option<T> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// The number in an attribute, where there is one.
fn number(node: Node<'_, '_>, name: &str) -> Result<Option<u32>, BadXml> {
    let Some(text) = attribute(node, name) else { return Ok(None) };
    let place = format!("<{} {name}>", node.tag_name().name());
    plain(&text).map(Some).ok_or_else(|| value(&place, &text, "not a whole number"))
}

/// The amount of memory in a child's text, where there is such a child.
fn amount_of(node: Node<'_, '_>, name: &'static str) -> Result<Option<Bytes>, BadXml> {
    let Some(child) = child(node, name) else { return Ok(None) };
    let text = content(child);
    read_amount(&text, attribute(child, "unit").as_deref())
        .map(Some)
        .map_err(|error| value(&format!("<{name}>"), &text, &error.to_string()))
}

/// The amount of memory in an attribute with its unit in another, where there is one.
fn amount(node: Node<'_, '_>, name: &str, unit: &str, place: &str) -> Result<Option<Bytes>, BadXml> {
    let Some(text) = attribute(node, name) else { return Ok(None) };
    read_amount(&text, attribute(node, unit).as_deref())
        .map(Some)
        .map_err(|error| value(place, &text, &error.to_string()))
}
