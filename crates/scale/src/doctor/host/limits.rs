//! What a host's memory and limits allow.

use super::{HostNode, LimitFacts};
use crate::doctor::{Finding, Section, roughly};
use crate::units::Bytes;

/// Below this much available memory a host has no room for guests to grow.
const LITTLE: Bytes = Bytes::gib(1);
/// Up to this many regions a vhost limit is in the way of DIMMs (the kernel's default is 64).
const FEW_REGIONS: u32 = 64;
/// Address bits of a guest's CPU that is not given the host's (QEMU 7.2 and 10.0, `TCG_PHYS_ADDR_BITS`).
const GUEST_BITS: u32 = 40;

pub(super) fn judge(facts: &LimitFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(memory(facts));
    found.push(huge_pages(&facts.nodes));
    found.push(vhost(facts.vhost_regions));
    found.push(memlock(facts.memlock));
    found.extend(facts.address_bits.map(address_bits));
    found
}

fn memory(facts: &LimitFacts) -> Option<Finding> {
    let (total, available) = (facts.memory?, facts.available?);
    let found = format!("{} available of {}", roughly(available), roughly(total));
    if available < LITTLE {
        let reason = "guests that grow take it from the host, and a host without memory ends them";
        return Some(Finding::note(Section::Host, "host-memory", found, reason));
    }
    Some(Finding::ok(Section::Host, "host-memory", found))
}

fn huge_pages(nodes: &[HostNode]) -> Finding {
    let each = |node: &HostNode| {
        let pools: Vec<String> = node
            .huge_pages
            .iter()
            .filter(|pool| pool.total > 0)
            .map(|pool| format!("{} of {} pages of {} free", pool.free, pool.total, pool.size))
            .collect();
        (!pools.is_empty()).then(|| format!("node {}: {}", node.id, pools.join(", ")))
    };
    let said: Vec<String> = nodes.iter().filter_map(each).collect();
    if said.is_empty() {
        return Finding::ok(
            Section::Host,
            "huge-pages",
            "none set aside; only guests that are backed by them need any",
        );
    }
    let used_up = |pool: &super::HugePages| pool.total > 0 && pool.free == 0;
    let found = said.join("; ");
    if nodes.iter().any(|node| node.huge_pages.iter().any(used_up)) {
        let reason = "a guest that is backed by them grows only where some are free on its node";
        return Finding::note(Section::Host, "huge-pages", found, reason)
            .by_hand("set more aside: echo COUNT > /sys/devices/system/node/nodeN/hugepages/hugepages-SIZEkB/nr_hugepages");
    }
    Finding::ok(Section::Host, "huge-pages", found)
}

fn vhost(regions: Option<u32>) -> Finding {
    const SUBJECT: &str = "vhost-regions";
    match regions {
        None => Finding::ok(Section::Host, SUBJECT, "vhost is not loaded: no guest uses it now"),
        Some(regions) if regions <= FEW_REGIONS => {
            let found = format!("vhost maps {regions} memory regions of a guest at most");
            let reason = "each DIMM takes one, so a guest with a vhost network card ends at about 60 DIMMs";
            Finding::note(Section::Host, SUBJECT, found, reason).on_host(
                "echo 'options vhost max_mem_regions=509' > /etc/modprobe.d/vhost.conf   # at the module's next load",
            )
        }
        Some(regions) => {
            Finding::ok(Section::Host, SUBJECT, format!("vhost maps {regions} memory regions of a guest"))
        }
    }
}

fn memlock(limit: Option<Bytes>) -> Finding {
    const SUBJECT: &str = "locked-memory";
    match limit {
        None => Finding::ok(Section::Host, SUBJECT, "what you start may lock as much memory as it wants"),
        Some(limit) => Finding::note(
            Section::Host,
            SUBJECT,
            format!("what you start may lock {limit}"),
            "memory that is added to a guest with a VFIO device is locked at once, and QEMU ends where it may not be; \
             libvirt raises the limit by itself",
        )
        .by_hand("for such guests on plain QEMU: ulimit -l unlimited before it starts, or prlimit --memlock later"),
    }
}

fn address_bits(bits: u32) -> Finding {
    const SUBJECT: &str = "address-bits";
    let reach = Bytes::new(1_u64.checked_shl(bits).unwrap_or(u64::MAX));
    let found = format!("{bits} physical address bits: {reach}");
    if bits < GUEST_BITS {
        let reason = "QEMU gives guests 40 bits by default, which this host cannot keep";
        return Finding::note(Section::Host, SUBJECT, found, reason).by_hand(
            "give guests the host's bits: host-phys-bits=on, in libvirt <maxphysaddr mode='passthrough'/>",
        );
    }
    Finding::ok(Section::Host, SUBJECT, found)
}
