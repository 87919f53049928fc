//! Where a guest's highest address is, and whether its CPU reaches it.
//!
//! QEMU lays the memory for hot-plug above the boot memory, and its PCI window above that, and does not start where the
//! CPU's physical address bits do not reach the end of it (QEMU 7.2 and 10.0, `pc_memory_init`, `virt_set_memmap`). The
//! same arithmetic as QEMU's is done here, so that the refusal comes before the next boot and not with it.

use super::{Case, HostLimits, Obstacle, Prepare};
use crate::domxml::domain::{AddressBits, Domain, MaxMemory, MemoryModel};
use crate::domxml::machine::Board;
use crate::domxml::units::as_attached;
use scale::units::Bytes;

const GIB: u64 = 1 << 30;
/// The guest's CPU has 40 bits unless it is told otherwise (QEMU 7.2 and 10.0, `TCG_PHYS_ADDR_BITS`).
const DEFAULT_BITS: u32 = 40;
/// On AMD's, the addresses below 1 TiB belong to HyperTransport: a machine that would reach into them has all memory
/// above 4 GiB moved up to 1 TiB (QEMU 7.1 and later machine types).
const HYPERTRANSPORT: u64 = 0xfd_0000_0000;
const TIB: u64 = 1 << 40;

/// The addresses that a machine takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressSpace {
    /// Where the memory for hot-plug begins.
    pub devices: u64,
    /// Where the highest of all addresses ends.
    pub end: u64,
    /// How many bits the guest's CPU has.
    pub bits: u32,
    /// Where that number comes from.
    pub whose: &'static str,
}

impl AddressSpace {
    /// True if the CPU reaches the end.
    pub fn fits(&self) -> bool {
        self.end <= self.reach()
    }

    fn reach(&self) -> u64 {
        1u64.checked_shl(self.bits).unwrap_or(u64::MAX)
    }
}

/// The addresses of a machine as it is described; nothing for architectures where QEMU does not look at them.
pub fn address_space(domain: &Domain, host: &HostLimits) -> Option<AddressSpace> {
    let arch = domain.machine.arch.as_deref().unwrap_or(&host.arch);
    let case = Case { domain, want: &Prepare::default(), host, arch, board: domain.machine.board(arch) };
    let without = MaxMemory { size: domain.memory.boot, slots: None };
    space(&case, domain.memory.max.unwrap_or(without))
}

/// The addresses of the machine with such a ceiling; nothing for architectures where QEMU does not look at them.
pub(super) fn space(case: &Case<'_>, max: MaxMemory) -> Option<AddressSpace> {
    let boot = as_attached(case.domain.memory.boot, false).get();
    let slots = u64::from(max.slots.unwrap_or(0));
    let hotplug = max.size.get().saturating_sub(boot).saturating_add(slots * GIB);
    let (bits, whose) = bits(case);
    let (devices, end) = match case.board {
        Board::Virt => {
            let devices = up_to_gib(boot.saturating_add(GIB));
            (devices, devices.saturating_add(hotplug))
        }
        Board::Pc | Board::Q35 => {
            let above_4g = boot_above_4g(boot, case.board);
            let enclaves = case.domain.memory_devices.iter().filter(|d| d.model == MemoryModel::SgxEpc);
            let above_4g = above_4g.saturating_add(enclaves.map(|device| device.size).sum::<Bytes>().get());
            let hole = pci_hole(case.domain, case.board);
            let laid_from = |start: u64| {
                let devices = up_to_gib(start.saturating_add(above_4g));
                (devices, up_to_gib(devices.saturating_add(hotplug)).saturating_add(hole))
            };
            let low = laid_from(4 * GIB);
            if low.1 > HYPERTRANSPORT && is_amd(case) { laid_from(TIB) } else { low }
        }
        Board::Pseries | Board::S390Ccw | Board::Microvm | Board::Isapc | Board::Other => return None,
    };
    Some(AddressSpace { devices, end, bits, whose })
}

/// Refuses a ceiling that the guest's CPU cannot reach, with the ceilings that it could, and one with which a DIMM that
/// has a fixed address would be outside of the memory for hot-plug.
pub(super) fn check(case: &Case<'_>, max: MaxMemory, obstacles: &mut Vec<Obstacle>) {
    let Some(space) = space(case, max) else {
        return;
    };
    for device in &case.domain.memory_devices {
        let Some(base) = device.slot.and_then(|slot| slot.base) else { continue };
        if base < space.devices || base.saturating_add(device.size.get()) > space.end {
            obstacles.push(Obstacle::DeviceAddress { base, from: space.devices, end: space.end });
        }
    }
    if space.fits() {
        return;
    }
    obstacles.push(Obstacle::AddressSpace {
        end: Bytes::new(space.end).round_up(Bytes::gib(1)),
        reach: Bytes::new(space.reach()),
        bits: space.bits,
        whose: space.whose,
        way_out: way_out(case, max),
    });
}

fn way_out(case: &Case<'_>, max: MaxMemory) -> String {
    let fits = |size: Bytes, slots: u32| {
        let max = MaxMemory { size, slots: max.slots.map(|_| slots) };
        space(case, max).is_none_or(|space| space.fits())
    };
    let slots = max.slots.unwrap_or(0);
    let mut ways = Vec::new();
    let (mut fitting, mut too_much) =
        (case.domain.total_memory().count_of(Bytes::gib(1)), max.size.count_of(Bytes::gib(1)) + 1);
    let least = fitting;
    while too_much - fitting > 1 {
        let middle = fitting.midpoint(too_much);
        if fits(Bytes::gib(middle), slots) { fitting = middle } else { too_much = middle }
    }
    if fitting > least {
        ways.push(format!("ask for at most {} with {slots} slots", Bytes::gib(fitting)));
    }
    if let Some(fewer) = (1..slots).rev().find(|fewer| fits(max.size, *fewer)) {
        ways.push(format!("for at most {fewer} slots (each takes 1 GiB of addresses)"));
    }
    let host = case.host.address_bits.filter(|host| *host > bits(case).0);
    if case.domain.kind == "kvm"
        && case.is_x86()
        && !matches!(case.domain.cpu.address_bits, Some(AddressBits::Host(_)))
    {
        let known = host.map_or(String::new(), |host| format!(" (the host's CPU has {host} bits)"));
        ways.push(format!(
            "give the guest's CPU the host's bits with <maxphysaddr mode='passthrough'/> in <cpu>{known}"
        ));
    }
    if ways.is_empty() { "it cannot grow at all with such a CPU".to_owned() } else { ways.join(", or ") }
}

/// What of the boot memory is above 4 GiB (QEMU 7.2 and 10.0, `pc_q35_init`, `pc_init1`).
fn boot_above_4g(boot: u64, board: Board) -> u64 {
    let (all_below, split) =
        if board == Board::Q35 { (0xb000_0000, 0x8000_0000) } else { (0xe000_0000, 0xc000_0000) };
    if boot < all_below { 0 } else { boot - split }
}

/// The 64-bit PCI window above all memory. A machine that names no type may be either board; Q35's window is the larger.
fn pci_hole(domain: &Domain, board: Board) -> u64 {
    let default = if board == Board::Q35 || domain.machine.name.is_none() { 32 * GIB } else { 2 * GIB };
    domain.backends.pci_hole.map_or(default, Bytes::get)
}

fn up_to_gib(n: u64) -> u64 {
    Bytes::new(n).round_up(Bytes::gib(1)).get()
}

/// How many address bits the guest's CPU has, and why.
fn bits(case: &Case<'_>) -> (u32, &'static str) {
    let cpu = &case.domain.cpu;
    if case.domain.kind != "kvm" {
        return (DEFAULT_BITS, "as every CPU that QEMU emulates");
    }
    let host = case.host.address_bits;
    let of_host = |limit: Option<u32>| match host {
        Some(host) => (host.min(limit.unwrap_or(host)), "as the host has"),
        None => (DEFAULT_BITS, "taking the least, as the host's are not known"),
    };
    match cpu.address_bits {
        Some(AddressBits::Emulated(Some(bits))) => (bits, "as its <maxphysaddr> says"),
        Some(AddressBits::Host(limit)) => of_host(limit),
        // QEMU gives its `host` and `max` CPUs the host's bits by itself (7.2, `host_cpu_max_instance_init`); an Arm
        // guest always has the host's.
        None if !case.is_x86() || matches!(cpu.mode.as_deref(), Some("host-passthrough" | "maximum")) => {
            of_host(None)
        }
        Some(AddressBits::Emulated(None)) | None => (DEFAULT_BITS, "QEMU's default"),
    }
}

/// Whether the guest's CPU says that it is AMD's. Under KVM QEMU gives every model the host's vendor; emulated models
/// have their own, and the default one is AMD's.
fn is_amd(case: &Case<'_>) -> bool {
    if !case.is_x86() || case.domain.machine.is_older_than(7, 1) {
        return false;
    }
    if case.domain.kind == "kvm" {
        return case.host.amd;
    }
    let of_amd = ["EPYC", "Opteron", "athlon", "phenom", "qemu64", "max"];
    case.domain.cpu.model.as_deref().is_none_or(|model| of_amd.iter().any(|prefix| model.starts_with(prefix)))
}
