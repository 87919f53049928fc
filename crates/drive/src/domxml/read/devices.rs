//! The `<devices>` of a description, as far as resizing depends on them.

use super::{amount_of, missing, number, plain, value};
use crate::domxml::document::{BadXml, Document, attribute, child, children, content_of, is_yes};
use crate::domxml::domain::{AgentChannel, Backends, Balloon, DiskTarget, MemoryDevice, MemoryModel, Slot};
use roxmltree::Node;

/// The name that the guest agent's channel has in the guest.
pub(crate) const AGENT: &str = "org.qemu.guest_agent.0";

/// QEMU has 256 slots, and a machine few buses for other memory devices.
const MOST_DEVICES: usize = 1024;

pub(super) fn memory(document: &Document<'_>) -> Result<Vec<MemoryDevice>, BadXml> {
    let Some(devices) = child(document.root(), "devices") else {
        return Ok(Vec::new());
    };
    if children(devices, "memory").nth(MOST_DEVICES).is_some() {
        return Err(BadXml::TooIntricate);
    }
    children(devices, "memory").map(|node| memory_device(node, document.text())).collect()
}

fn memory_device(node: Node<'_, '_>, text: &str) -> Result<MemoryDevice, BadXml> {
    let target = child(node, "target").ok_or_else(|| missing("<target> in <memory model>"))?;
    let guest_node = match content_of(target, "node") {
        None => None,
        Some(text) => Some(plain(&text).ok_or_else(|| value("<target><node>", &text, "not a node"))?),
    };
    let source = child(node, "source");
    Ok(MemoryDevice {
        model: model(&attribute(node, "model").ok_or_else(|| missing("model in <memory>"))?),
        size: amount_of(target, "size")?.ok_or_else(|| missing("<size> in <memory model>"))?,
        node: guest_node,
        block: amount_of(target, "block")?,
        requested: amount_of(target, "requested")?,
        current: amount_of(target, "current")?,
        slot: child(node, "address").map_or(Ok(None), slot)?,
        alias: child(node, "alias").and_then(|alias| attribute(alias, "name")),
        page_size: source.map_or(Ok(None), |source| amount_of(source, "pagesize"))?,
        xml: text[node.range()].to_owned(),
    })
}

/// Disks in the order of the description; one without a target is none that could be named.
pub(super) fn disks(devices: Node<'_, '_>) -> Vec<DiskTarget> {
    let is_disk = |disk: &Node<'_, '_>| {
        attribute(*disk, "device").is_none_or(|device| matches!(device.as_str(), "disk" | "lun"))
    };
    let named = |disk: Node<'_, '_>| {
        let target = child(disk, "target").and_then(|target| attribute(target, "dev"))?;
        Some(DiskTarget { target, alias: child(disk, "alias").and_then(|alias| attribute(alias, "name")) })
    };
    children(devices, "disk").take(MOST_DEVICES).filter(is_disk).filter_map(named).collect()
}

fn model(word: &str) -> MemoryModel {
    match word {
        "dimm" => MemoryModel::Dimm,
        "nvdimm" => MemoryModel::Nvdimm,
        "virtio-mem" => MemoryModel::VirtioMem,
        "virtio-pmem" => MemoryModel::VirtioPmem,
        "sgx-epc" => MemoryModel::SgxEpc,
        other => MemoryModel::Other(other.to_owned()),
    }
}

fn slot(address: Node<'_, '_>) -> Result<Option<Slot>, BadXml> {
    if attribute(address, "type").is_none_or(|kind| kind != "dimm") {
        return Ok(None);
    }
    let base = match attribute(address, "base") {
        None => None,
        Some(text) => Some(
            hex(&text).ok_or_else(|| value("<address base>", &text, "not an address such as 0x100000000"))?,
        ),
    };
    Ok(number(address, "slot")?.map(|number| Slot { number, base }))
}

fn hex(text: &str) -> Option<u64> {
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(digits);
    if digits.is_empty() || digits.starts_with('+') { None } else { u64::from_str_radix(digits, 16).ok() }
}

pub(super) fn balloon(devices: Node<'_, '_>) -> Option<Balloon> {
    let node = child(devices, "memballoon")?;
    let period = child(node, "stats").and_then(|stats| attribute(stats, "period"));
    Some(Balloon {
        model: attribute(node, "model").unwrap_or_default(),
        autodeflate: is_yes(node, "autodeflate"),
        free_page_reporting: is_yes(node, "freePageReporting"),
        stats_period: period.and_then(|period| plain(&period)).unwrap_or(0),
    })
}

pub(super) fn agent(devices: Node<'_, '_>) -> Option<AgentChannel> {
    for channel in children(devices, "channel") {
        let Some(target) = child(channel, "target") else { continue };
        if attribute(target, "type").is_some_and(|kind| kind == "virtio")
            && attribute(target, "name").is_some_and(|name| name == AGENT)
        {
            return Some(AgentChannel {
                kind: attribute(channel, "type").unwrap_or_default(),
                connected: attribute(target, "state").map(|state| state == "connected"),
            });
        }
    }
    None
}

pub(super) fn backends(devices: Node<'_, '_>) -> Result<Backends, BadXml> {
    let mut found = Backends::default();
    for node in devices.children().filter(|node| node.is_element() && node.tag_name().namespace().is_none()) {
        let kind = attribute(node, "type").unwrap_or_default();
        let says = |part, name, wanted: &str| {
            child(node, part)
                .and_then(|part| attribute(part, name))
                .is_some_and(|value| value.starts_with(wanted))
        };
        match (node.tag_name().name(), kind.as_str()) {
            ("hostdev", "pci" | "mdev") | ("interface", "hostdev") | ("disk", "nvme") => found.vfio += 1,
            ("interface", "vdpa") | ("disk", "vhostvdpa") => found.vdpa += 1,
            ("interface" | "disk", "vhostuser") => found.vhost_user += 1,
            ("filesystem", _) if says("driver", "type", "virtiofs") => found.vhost_user += 1,
            ("video", _) if says("driver", "name", "vhostuser") => found.vhost_user += 1,
            // libvirt uses vhost-net for virtio NICs on a tap by default (libvirt 9.0, `qemuInterfaceOpenVhostNet`).
            ("interface", "network" | "bridge" | "direct" | "ethernet")
                if says("model", "type", "virtio") && !says("driver", "name", "qemu") =>
            {
                found.vhost += 1;
            }
            ("vsock", _) | ("hostdev", "scsi_host") => found.vhost += 1,
            ("iommu", _) => found.extended_interrupts |= says("driver", "eim", "on"),
            _ => {}
        }
    }
    let first_bus = children(devices, "controller").find(|node| {
        attribute(*node, "type").is_some_and(|kind| kind == "pci")
            && attribute(*node, "model").is_some_and(|model| model == "pci-root" || model == "pcie-root")
            && attribute(*node, "index").is_none_or(|index| index == "0")
    });
    found.pci_hole = first_bus.map_or(Ok(None), |bus| amount_of(bus, "pcihole64"))?;
    Ok(found)
}
