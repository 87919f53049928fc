//! A running machine: what its driver observes of it, its shape, and what its guest shows besides. It asks and changes
//! nothing.

use scale::doctor::vm::{Channel, Firmware, Region, Running, Shape};
use scale::observed::{Observed, VcpuState};
use serde_json::{Value, json};

use super::described::of_board;
#[cfg(feature = "libvirt")]
use super::described::shape_of;
use super::inside;
use crate::domxml;
#[cfg(feature = "libvirt")]
use crate::domxml::{Domain, HostLimits};
#[cfg(feature = "libvirt")]
use crate::libvirt::LibvirtMachine;
use crate::qmp::QmpMachine;
use crate::qmp::monitor::Monitor;
use crate::qmp::observe::{Peripheral, peripherals};
use crate::wire::shown;
use crate::{Hypervisor, ObserveError};

/// The most ports of serial devices that are asked for their names.
const MOST_PORTS: usize = 64;

impl QmpMachine {
    /// Everything that a doctor wants to know of it.
    ///
    /// # Errors
    /// QEMU does not answer. A guest that does not is a finding.
    pub async fn examined(&mut self) -> Result<Running, ObserveError> {
        let seen = self.observe().await?;
        let (monitor, reach) = self.parts();
        let inside = inside::gather(reach, &seen.guest).await;
        let shape = shape(monitor, &seen).await?;
        Ok(Running { seen, shape, inside })
    }
}

#[cfg(feature = "libvirt")]
impl LibvirtMachine {
    /// Everything that a doctor wants to know of it; `live` is its live description.
    ///
    /// # Errors
    /// libvirt or QEMU does not answer. A guest that does not is a finding.
    pub async fn examined(&mut self, live: &Domain, host: &HostLimits) -> Result<Running, ObserveError> {
        let seen = self.observe().await?;
        let inside = inside::gather(self.reach(), &seen.guest).await;
        // The running machine has its addresses already.
        let shape = Shape { space: None, ..shape_of(live, host) };
        Ok(Running { seen, shape, inside })
    }
}

/// The shape of a machine on plain QEMU.
async fn shape(monitor: &Monitor, seen: &Observed) -> Result<Shape, ObserveError> {
    let list = peripherals(monitor).await?;
    let (acpi, firmware, channel, confidential, network) = tokio::try_join!(
        acpi(monitor),
        firmware(monitor, &seen.machine.arch),
        channel(monitor, &list),
        confidential(monitor),
        monitor.ask_if::<String>("human-monitor-command", json!({ "command-line": "info network" })),
    )?;
    let network = network.unwrap_or_default();
    let named = domxml::Machine { name: Some(seen.machine.kind.clone()), ..domxml::Machine::default() };
    let (memory, slots) = (&seen.memory, &seen.vcpus.slots);
    let starting =
        |prefix: &str| count(list.iter().filter(|p| kind(p).is_some_and(|k| k.starts_with(prefix))));
    let vcpus = if slots.is_empty() { vcpus(monitor).await? } else { seen.vcpus.plugged() };
    let nodes = memory.nodes.len();
    // An agent that answers has a channel, of whatever kind.
    let channel = if seen.guest.heard().is_some() { Channel::Of("unix".to_owned()) } else { channel };
    Ok(Shape {
        arch: seen.machine.arch.clone(),
        machine: seen.machine.kind.clone(),
        board: of_board(named.board(&seen.machine.arch), &named),
        acpi,
        firmware,
        boot: memory.boot,
        ceiling: (memory.ceiling > memory.boot).then_some(memory.ceiling),
        slots: memory.slots,
        nodes: if nodes > 1 { u32::try_from(nodes).ok() } else { None },
        outside_nodes: 0,
        virtio_mem: memory.virtio_mem.iter().map(|d| Region { max: d.max, block: Some(d.block) }).collect(),
        balloon: memory.balloon.is_some(),
        vcpus,
        max_vcpus: seen.vcpus.ceiling().max(vcpus),
        vcpu_hotplug: !slots.is_empty(),
        removable_vcpus: slots
            .iter()
            .filter(|slot| matches!(slot.state, VcpuState::Device(_)))
            .map(|slot| slot.count)
            .sum(),
        channel,
        vfio: seen.host.vfio || starting("vfio-") > 0,
        vhost: 0,
        vhost_user: starting("vhost-user-")
            + count(network.lines().filter(|line| line.contains("type=vhost-user"))),
        vdpa: starting("vhost-vdpa") + count(network.lines().filter(|line| line.contains("type=vhost-vdpa"))),
        hard_limit: None,
        confidential,
        locked: false,
        raw: Vec::new(),
        space: None,
        system: None,
    })
}

fn count(items: impl Iterator) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

fn kind((_, device): &Peripheral) -> Option<&str> {
    device.child()
}

/// Whether guests can hear by ACPI: QEMU has no words of theirs to tell without it ("missing ACPI device";
/// qapi/acpi.json, 7.2).
async fn acpi(monitor: &Monitor) -> Result<Option<bool>, ObserveError> {
    let answer: Option<Vec<Value>> = monitor.ask_if("query-acpi-ospm-status", Value::Null).await?;
    Ok(Some(answer.is_some()))
}

async fn firmware(monitor: &Monitor, arch: &str) -> Result<Firmware, ObserveError> {
    let machine = "/machine";
    let (flash, file, secure) = tokio::try_join!(
        monitor.property::<String>(machine, "pflash0"),
        monitor.property::<String>(machine, "firmware"),
        monitor.property::<bool>("/machine/system.flash0", "secure"),
    )?;
    let named = |file: &String| ["OVMF", "edk2", "AAVMF", "QEMU_EFI"].iter().any(|name| file.contains(name));
    let by_flash = flash.is_some_and(|backend| !backend.is_empty());
    Ok(match (secure, by_flash || file.as_ref().is_some_and(named)) {
        (Some(true), true) => Firmware::UefiSecure,
        (Some(false) | None, true) => Firmware::Uefi,
        (_, false) if arch == "x86_64" => Firmware::Bios,
        (_, false) => Firmware::Unknown,
    })
}

/// The agent's channel, among the ports of virtio's serial devices.
async fn channel(monitor: &Monitor, list: &[Peripheral]) -> Result<Channel, ObserveError> {
    let ports = list.iter().filter(|port| kind(port) == Some("virtserialport"));
    for (folder, port) in ports.take(MOST_PORTS) {
        let name: Option<String> = monitor.property(&format!("{folder}/{}", port.name), "name").await?;
        if name.is_some_and(|name| name == "org.qemu.guest_agent.0") {
            return Ok(Channel::Of("unix".to_owned()));
        }
    }
    Ok(Channel::Absent)
}

/// What keeps the host from reading its memory: the type of the object that does, such as `sev-guest`.
async fn confidential(monitor: &Monitor) -> Result<Option<String>, ObserveError> {
    let path: Option<String> = monitor.property("/machine", "confidential-guest-support").await?;
    let Some(path) = path.filter(|path| !path.is_empty()) else { return Ok(None) };
    Ok(monitor.property::<String>(&path, "type").await?.map(|kind| shown(&kind)))
}

/// How many vCPUs a machine has that plugs none.
async fn vcpus(monitor: &Monitor) -> Result<u32, ObserveError> {
    let all: Option<Vec<Value>> = monitor.ask_if("query-cpus-fast", Value::Null).await?;
    Ok(count(all.unwrap_or_default().iter()))
}
