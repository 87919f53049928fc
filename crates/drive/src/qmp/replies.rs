//! What QEMU's replies say, in Supple's words. Pure. Unknown members are ignored and unknown kinds of memory devices
//! passed over; a reply that contradicts its documentation (qapi/*.json, QEMU 7.2 and 10.0) is [`Nonsense`].

use std::collections::{BTreeMap, BTreeSet};

use scale::observed::{
    Dimm, DimmKind, HostPolicy, Manager, Node, Ost, OtherDevice, Placement, VcpuProps, VcpuSlot, VcpuState,
    VirtioMem,
};
use scale::units::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::ObserveError;
use crate::wire::shown;

/// A list longer than this is not taken: QEMU has at most 256 DIMM slots and 4096 vCPUs (10.0).
const MOST: usize = 65_536;

/// `query-status`.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    pub(super) status: String,
}

/// `query-name`.
#[derive(Debug, Deserialize)]
pub(super) struct Name {
    pub(super) name: Option<String>,
}

/// `query-uuid`.
#[derive(Debug, Deserialize)]
pub(super) struct Uuid {
    #[serde(rename = "UUID")]
    pub(super) uuid: String,
}

/// `query-kvm`.
#[derive(Debug, Deserialize)]
pub(super) struct Kvm {
    pub(super) enabled: bool,
}

/// `query-target`.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    pub(super) arch: String,
}

/// The machine's property `memory` (QEMU 7.1 and later): `-m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct MemoryConfig {
    pub(super) size: Option<u64>,
    pub(super) max_size: Option<u64>,
    pub(super) slots: Option<u64>,
}

/// `query-memory-size-summary`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct SizeSummary {
    pub(super) base_memory: u64,
}

/// `query-balloon`.
#[derive(Debug, Deserialize)]
pub(super) struct BalloonInfo {
    pub(super) actual: u64,
}

/// `query-memdev`, one of the list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Memdev {
    pub(super) id: Option<String>,
    pub(super) size: u64,
    #[serde(default)]
    prealloc: bool,
    #[serde(default)]
    host_nodes: Vec<u32>,
    #[serde(default)]
    policy: HostPolicy,
}

impl Memdev {
    /// Where on the host it lies.
    pub(super) fn placement(&self) -> Placement {
        let mut host_nodes = self.host_nodes.clone();
        host_nodes.sort_unstable();
        Placement { policy: self.policy, host_nodes, prealloc: self.prealloc }
    }
}

/// `qom-list`, one of the list.
#[derive(Debug, Deserialize)]
pub(crate) struct Property {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

impl Property {
    /// The type of the object that this is, if it is a child.
    pub(crate) fn child(&self) -> Option<&str> {
        self.kind.strip_prefix("child<")?.strip_suffix('>')
    }
}

/// `query-memory-devices`, one of the list.
#[derive(Debug, Deserialize)]
pub(super) struct MemoryDevice {
    #[serde(rename = "type")]
    kind: String,
    data: Value,
}

/// `query-hotpluggable-cpus`, one of the list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct HotpluggableCpu {
    #[serde(rename = "type")]
    driver: String,
    vcpus_count: u32,
    props: Map<String, Value>,
    qom_path: Option<String>,
}

/// `query-cpus-fast`, one of the list: a vCPU and the thread that runs it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct VcpuThread {
    pub(super) cpu_index: i64,
    pub(super) thread_id: u32,
}

/// `query-acpi-ospm-status`, one of the list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OspmStatus {
    device: Option<String>,
    slot: String,
    slot_type: String,
    source: u64,
    status: u64,
}

/// `query-migrate`. Empty where none was ever started.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Migration {
    status: Option<String>,
}

/// Memory devices, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) dimms: Vec<Dimm>,
    pub(super) virtio_mem: Vec<VirtioMem>,
    pub(super) others: Vec<OtherDevice>,
    /// The ids of all backends that they use, those of unknown kinds of devices included.
    pub(super) backends: BTreeSet<String>,
    /// virtio-mem devices, each with its backend.
    pub(super) lenders: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
struct DimmData {
    id: Option<String>,
    addr: u64,
    size: u64,
    slot: u32,
    node: u32,
    memdev: String,
    hotplugged: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct VirtioMemData {
    id: Option<String>,
    memaddr: u64,
    requested_size: u64,
    size: u64,
    max_size: u64,
    block_size: u64,
    node: u32,
}

/// Sorts the memory devices: DIMMs by slot, virtio-mem by address.
pub(super) fn devices(list: Vec<MemoryDevice>, ospm: &[OspmStatus]) -> Result<Devices, ObserveError> {
    let mut devices = Devices::default();
    for MemoryDevice { kind, data } in bounded("query-memory-devices", list)? {
        if let Some(memdev) = data.get("memdev").and_then(Value::as_str) {
            devices.backends.insert(last_part(memdev).to_owned());
        }
        match kind.as_str() {
            "dimm" => devices.dimms.push(dimm(data, DimmKind::Dimm, ospm)?),
            "nvdimm" => devices.dimms.push(dimm(data, DimmKind::Nvdimm, ospm)?),
            "virtio-mem" => {
                let memdev =
                    data.get("memdev").and_then(Value::as_str).map(|path| last_part(path).to_owned());
                let device = virtio_mem(data)?;
                devices.lenders.extend(memdev.map(|memdev| (device.id.clone(), memdev)));
                devices.virtio_mem.push(device);
            }
            // It has a region of its own (hw/i386/sgx.c).
            "sgx-epc" => {}
            // virtio-pmem, hv-balloon and what is to come: no business of ours, but their places are taken.
            _ => devices.others.extend(other(&kind, &data)),
        }
    }
    devices.dimms.sort_by_key(|dimm| dimm.slot);
    devices.virtio_mem.sort_by_key(|device| device.addr);
    devices.others.sort_by_key(|device| device.addr);
    Ok(devices)
}

/// How much is in DIMMs, as far as a balloon counts it: NVDIMMs are not in it (`get_current_ram_size`,
/// hw/virtio/virtio-balloon.c, 7.2 and 10.0).
pub(super) fn in_dimms(list: &[MemoryDevice]) -> u64 {
    let dimms = list.iter().filter(|device| device.kind == "dimm");
    dimms.filter_map(|device| device.data["size"].as_u64()).fold(0, u64::saturating_add)
}

fn dimm(data: Value, kind: DimmKind, ospm: &[OspmStatus]) -> Result<Dimm, ObserveError> {
    let data: DimmData = parsed("query-memory-devices", data)?;
    let slot = data.slot.to_string();
    let word = ospm.iter().find(|word| word.slot_type == "DIMM" && word.slot == slot);
    Ok(Dimm {
        id: data.id.unwrap_or_default(),
        memdev: last_part(&data.memdev).to_owned(),
        kind,
        slot: data.slot,
        node: data.node,
        addr: data.addr,
        size: Bytes::new(data.size),
        hotplugged: data.hotplugged,
        ost: word.and_then(OspmStatus::ost),
    })
}

/// A device of another kind, where it holds a place: an hv-balloon without memory of its own has none.
fn other(kind: &str, data: &Value) -> Option<OtherDevice> {
    let number = |key: &str| data.get(key).and_then(Value::as_u64);
    let size = number("max-size").or_else(|| number("size")).filter(|size| *size > 0)?;
    Some(OtherDevice { kind: shown(kind), addr: number("memaddr")?, size: Bytes::new(size) })
}

fn virtio_mem(data: Value) -> Result<VirtioMem, ObserveError> {
    let data: VirtioMemData = parsed("query-memory-devices", data)?;
    Ok(VirtioMem {
        id: data.id.unwrap_or_default(),
        node: data.node,
        addr: data.memaddr,
        block: Bytes::new(data.block_size),
        max: Bytes::new(data.max_size),
        requested: Bytes::new(data.requested_size),
        size: Bytes::new(data.size),
    })
}

impl OspmStatus {
    /// The guest's last word on the slot. QEMU starts each slot with zeros: nothing said.
    fn ost(&self) -> Option<Ost> {
        (self.source != 0 || self.status != 0).then_some(Ost { source: self.source, status: self.status })
    }

    fn is_cpu(&self) -> bool {
        self.slot_type == "CPU"
    }
}

/// The places for vCPUs, in ascending order.
pub(super) fn vcpu_slots(
    list: Vec<HotpluggableCpu>,
    ospm: &[OspmStatus],
    manager: Manager,
) -> Result<Vec<VcpuSlot>, ObserveError> {
    let list = bounded("query-hotpluggable-cpus", list)?;
    let places = list.len();
    let mut slots = Vec::new();
    for (at, cpu) in list.into_iter().enumerate() {
        let (props, unknown) = props(&cpu.props)?;
        let state = match (cpu.qom_path.as_deref(), unknown) {
            (Some(path), _) => match path.strip_prefix("/machine/peripheral/") {
                Some(id) => VcpuState::Device(id.to_owned()),
                None => VcpuState::Boot,
            },
            (None, Some(unknown)) => VcpuState::Barred(format!(
                "QEMU describes this place with `{}`, which this version of Supple does not know",
                shown(&unknown)
            )),
            (None, None) => VcpuState::Free,
        };
        // QEMU numbers ACPI's CPU slots as the machine does, and lists the places from the last to the first
        // (hw/core/machine.c, machine_query_hotpluggable_cpus; seen on 7.2).
        let number = (places - 1 - at).to_string();
        let word = ospm.iter().find(|word| word.is_cpu() && word.slot == number);
        let ost = word.and_then(OspmStatus::ost);
        // libvirt numbers vCPUs as the machine does, and calls a device by the first that it holds
        // (qemuDomainRefreshVcpuInfo and qemuBuildHotpluggableCPUProps, 9.0 and 11.3).
        let name = match manager {
            Manager::Nobody => None,
            Manager::Libvirt => {
                Some(format!("vcpu{}", (places - 1 - at) as u64 * u64::from(cpu.vcpus_count)))
            }
        };
        slots.push(VcpuSlot { driver: cpu.driver, count: cpu.vcpus_count, props, state, name, ost });
    }
    slots.sort_by_key(|slot| slot.props);
    Ok(slots)
}

/// The properties that are known, and the name of one that is not.
fn props(map: &Map<String, Value>) -> Result<(VcpuProps, Option<String>), ObserveError> {
    let mut props = VcpuProps::default();
    let mut unknown = None;
    for (name, value) in map {
        match props.named_mut(name) {
            Some(place) => *place = Some(parsed("query-hotpluggable-cpus", value.clone())?),
            None => unknown = Some(name.clone()),
        }
    }
    Ok((props, unknown))
}

/// Whether a vCPU was removed since the machine started, as far as its slots tell: the guest confirmed an ejection
/// (source 3, status 0) and nothing was plugged there since. Seen on 7.2 with Linux 6.1.
pub(super) fn vcpu_removed_before(ospm: &[OspmStatus]) -> bool {
    ospm.iter().any(|word| {
        word.is_cpu() && word.device.is_none() && matches!(word.source, 3 | 0x103) && word.status == 0
    })
}

/// True where all vCPUs, of more than one, run on one thread.
pub(super) fn on_one_thread(vcpus: &[VcpuThread]) -> bool {
    vcpus.len() > 1 && vcpus.windows(2).all(|pair| pair[0].thread_id == pair[1].thread_id)
}

/// How many DIMM slots the machine has: the list holds one entry for each.
pub(super) fn dimm_slots(ospm: &[OspmStatus]) -> u32 {
    u32::try_from(ospm.iter().filter(|word| word.slot_type == "DIMM").count()).unwrap_or(u32::MAX)
}

/// The NUMA nodes, from the text monitor's `info numa`; nothing where the text has none. Its sizes are in MiB and
/// include plugged memory (hw/core/numa.c, 7.2).
pub(super) fn nodes(text: &str) -> Vec<Node> {
    let mut sizes: BTreeMap<u32, Bytes> = BTreeMap::new();
    for line in text.lines().take(MOST) {
        let Some((node, size)) =
            line.trim().strip_prefix("node ").and_then(|rest| rest.split_once(" size: "))
        else {
            continue;
        };
        let mib = size.trim().strip_suffix("MB").and_then(|mib| mib.trim().parse::<u64>().ok());
        if let (Ok(id), Some(size)) = (node.trim().parse(), mib.and_then(|mib| mib.checked_mul(1 << 20))) {
            sizes.insert(id, Bytes::new(size));
        }
    }
    sizes.into_iter().map(|(id, memory)| Node { id, memory }).collect()
}

/// What makes QEMU refuse hot-plug: a migration that is under way ("not allowed while migrating", system/qdev-monitor.c,
/// 7.2 and 10.0). A block job does not: a DIMM was plugged beside a running backup on 7.2.
pub(super) fn busy(migration: &Migration) -> Vec<String> {
    let status = migration.status.as_deref();
    let under_way = status.filter(|status| !matches!(*status, "none" | "completed" | "failed" | "cancelled"));
    under_way.map(|status| format!("a migration ({})", shown(status))).into_iter().collect()
}

/// The last part of an object's path: its id.
pub(super) fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn parsed<T: serde::de::DeserializeOwned>(command: &str, value: Value) -> Result<T, ObserveError> {
    serde_json::from_value(value).map_err(|error| nonsense(command, &error.to_string()))
}

fn bounded<T>(command: &str, list: Vec<T>) -> Result<Vec<T>, ObserveError> {
    if list.len() > MOST { Err(nonsense(command, "the list is too long")) } else { Ok(list) }
}

fn nonsense(command: &str, why: &str) -> ObserveError {
    ObserveError::Nonsense(format!("QEMU's answer to {command} makes no sense: {}", shown(why)))
}
