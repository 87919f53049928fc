//! Descriptions of single memory devices, as `virsh attach-device` and `update-device` take them.
//!
//! Only sizes that libvirt rounds nowhere come out of here. To detach a device, use its own text from the live
//! description ([`MemoryDevice::xml`](super::MemoryDevice)): with its address and alias libvirt cannot mistake it for an
//! equal one. It will not choose a size or a place.

use super::document::{BadXml, Document, attribute, child, content_of};
use super::edit::Edits;
use super::fragment::{Fragment, Layout};
use super::units::{kib, read_amount};
use scale::units::Bytes;

/// A memory device to be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceWish {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its size; for virtio-mem the most that it can give.
    pub size: Bytes,
    /// What its size must be a multiple of. 2 MiB, or the guest's memory block or the huge page where those are larger;
    /// 256 MiB on ppc64.
    pub unit: Bytes,
    /// The guest's node; `None` only for machines without NUMA cells (ppc64, s390x).
    pub node: Option<u32>,
    /// libvirt's name for it. libvirt keeps only names that begin with `ua-`.
    pub alias: Option<String>,
    /// The size of the huge pages that it is made of, where the machine itself does not say.
    pub page_size: Option<Bytes>,
}

/// The kinds of memory devices that can be described here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceKind {
    /// A DIMM.
    Dimm {
        /// Its slot; libvirt takes the lowest free one where it is `None`.
        slot: Option<u32>,
        /// Its first address in the guest, which needs a slot; QEMU takes the lowest free one where it is `None`.
        base: Option<u64>,
    },
    /// A virtio-mem device. It needs a machine with QEMU 5.1 and libvirt 7.9 or later.
    VirtioMem {
        /// The unit in which it changes: a power of two, at least the host's transparent huge page.
        block: Bytes,
        /// How much of it is asked for.
        requested: Bytes,
    },
}

/// Why a memory device cannot be described so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDevice {
    /// A size that would not be the same everywhere.
    #[error(
        "{size} is no multiple of {unit}; use {}. libvirt rounds a DIMM up to a whole MiB when it is attached to a running \
         machine and to a whole 2 MiB at boot, QEMU takes only multiples of 2 MiB, and the description keeps the number \
         as written: only exact multiples are the same size everywhere", nearest(.below, .above)
    )]
    Size {
        /// The size.
        size: Bytes,
        /// What it must be a multiple of.
        unit: Bytes,
        /// The nearest below; zero where there is none.
        below: Bytes,
        /// The nearest above.
        above: Bytes,
    },
    /// A block size that no host takes.
    #[error(
        "a block size of {block} cannot be had: it must be a power of two and at least 1 MiB; 2 MiB is usual"
    )]
    Block {
        /// The block size.
        block: Bytes,
    },
    /// More than the device has, or no multiple of its block.
    #[error("{requested} cannot be asked of a virtio-mem device of {size} in blocks of {block}; ask for {}",
        nearest(.below, .above))]
    Requested {
        /// How much.
        requested: Bytes,
        /// The device's size.
        size: Bytes,
        /// Its block size.
        block: Bytes,
        /// The nearest below.
        below: Bytes,
        /// The nearest above that the device can give; the same as `below` where there is none.
        above: Bytes,
    },
    /// A slot beyond QEMU's.
    #[error(
        "there is no slot {slot}: slots are numbered from 0 to 255; leave it out and libvirt takes the lowest free one"
    )]
    Slot {
        /// The slot.
        slot: u32,
    },
    /// An address without a slot, or one that QEMU would refuse.
    #[error("{base:#x} cannot be a DIMM's address: {why}; leave it out and QEMU takes the lowest free one")]
    Base {
        /// The address.
        base: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An alias that libvirt would drop.
    #[error(
        "'{alias}' cannot be an alias: libvirt keeps only those of letters, digits, - and _ that begin with 'ua-'"
    )]
    Alias {
        /// The alias.
        alias: String,
    },
}

fn nearest(below: &Bytes, above: &Bytes) -> String {
    if below.is_zero() || below == above { above.to_string() } else { format!("{below} or {above}") }
}

/// The description of a memory device, on lines, ending in one.
///
/// # Errors
/// The device would be another one once libvirt and QEMU have read it.
pub fn device_xml(wish: &DeviceWish) -> Result<String, BadDevice> {
    let unit = wish.unit.max(Bytes::new(1 << 10));
    if wish.size.is_zero() || !wish.size.is_multiple_of(unit) {
        let (below, above) = (wish.size.round_down(unit), wish.size.max(Bytes::new(1)).round_up(unit));
        return Err(BadDevice::Size { size: wish.size, unit, below, above });
    }
    if let Some(alias) = wish.alias.as_ref().filter(|alias| !is_alias(alias)) {
        return Err(BadDevice::Alias { alias: alias.clone() });
    }
    let amount = |name, size| Fragment::text(name, kib(size)).with("unit", "KiB");
    let mut target = vec![amount("size", wish.size)];
    target.extend(wish.node.map(|node| Fragment::text("node", node)));
    let (model, address) = match &wish.kind {
        DeviceKind::Dimm { slot, base } => ("dimm", dimm_address(*slot, *base, unit)?),
        DeviceKind::VirtioMem { block, requested } => {
            check_request(wish.size, *block, *requested)?;
            target.extend([amount("block", *block), amount("requested", *requested)]);
            ("virtio-mem", None)
        }
    };
    let mut parts = Vec::new();
    parts.extend(wish.page_size.map(|page| Fragment::holding("source", vec![amount("pagesize", page)])));
    parts.push(Fragment::holding("target", target));
    parts.extend(wish.alias.as_ref().map(|alias| Fragment::empty("alias").with("name", alias)));
    parts.extend(address);
    let layout = Layout::Lines { newline: "\n", indent: String::new(), step: "  ".to_owned() };
    Ok(format!("{}\n", Fragment::holding("memory", parts).with("model", model).render(&layout)))
}

fn is_alias(alias: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    alias.len() > 3 && alias.starts_with("ua-") && alias.chars().all(name)
}

fn dimm_address(slot: Option<u32>, base: Option<u64>, unit: Bytes) -> Result<Option<Fragment>, BadDevice> {
    if let Some(slot) = slot.filter(|slot| *slot > 255) {
        return Err(BadDevice::Slot { slot });
    }
    let address = |slot| Fragment::empty("address").with("type", "dimm").with("slot", slot);
    match (slot, base) {
        (None, None) => Ok(None),
        (Some(slot), None) => Ok(Some(address(slot))),
        (None, Some(base)) => {
            Err(BadDevice::Base { base, why: "libvirt takes one only together with a slot" })
        }
        (Some(_), Some(base)) if !Bytes::new(base).is_multiple_of(unit) => {
            Err(BadDevice::Base { base, why: "it is no multiple of the machine's memory unit" })
        }
        (Some(slot), Some(base)) => Ok(Some(address(slot).with("base", format!("{base:#x}")))),
    }
}

fn check_request(size: Bytes, block: Bytes, requested: Bytes) -> Result<(), BadDevice> {
    if !block.get().is_power_of_two() || block < Bytes::mib(1) {
        return Err(BadDevice::Block { block });
    }
    if !size.is_multiple_of(block) {
        let (below, above) = (size.round_down(block), size.round_up(block));
        return Err(BadDevice::Size { size, unit: block, below, above });
    }
    if requested > size || !requested.is_multiple_of(block) {
        let (below, above) = (requested.min(size).round_down(block), requested.min(size).round_up(block));
        return Err(BadDevice::Requested { requested, size, block, below, above });
    }
    Ok(())
}

/// Why a virtio-mem device cannot be asked for an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The text is not that of a device.
    #[error(transparent)]
    Unreadable(#[from] BadXml),
    /// Another kind of device.
    #[error("a memory device of model '{model}' has one size only; take it out and add another one")]
    OtherModel {
        /// Its model.
        model: String,
    },
    /// The device cannot give that amount.
    #[error(transparent)]
    Device(#[from] BadDevice),
}

/// The description of a virtio-mem device, from its own text, with another amount asked of it: what `update-device`
/// takes. libvirt refuses an update that changes anything else.
///
/// # Errors
/// The text is not of a virtio-mem device, or the device cannot give that amount.
pub fn with_requested(device: &str, requested: Bytes) -> Result<String, BadRequest> {
    let document = Document::open(device, "memory")?;
    let root = document.root();
    let model = attribute(root, "model").unwrap_or_default();
    if model != "virtio-mem" {
        return Err(BadRequest::OtherModel { model });
    }
    let missing = |place: &str| BadXml::Missing { place: place.to_owned() };
    let target = child(root, "target").ok_or_else(|| missing("<target>"))?;
    let amount = |name: &'static str| {
        let text = content_of(target, name).ok_or_else(|| missing(&format!("<{name}>")))?;
        let unit = child(target, name).and_then(|node| attribute(node, "unit"));
        let bad = |e: super::units::BadAmount| BadXml::Value {
            place: format!("<{name}>"),
            text: text.clone(),
            why: e.to_string(),
        };
        read_amount(&text, unit.as_deref()).map_err(bad)
    };
    check_request(amount("size")?, amount("block")?, requested)?;
    let mut edits = Edits::new(&document);
    match child(target, "requested") {
        Some(node) => edits.set_amount(node, requested),
        None => edits.append(target, Fragment::text("requested", kib(requested)).with("unit", "KiB")),
    }
    Ok(edits.apply())
}
