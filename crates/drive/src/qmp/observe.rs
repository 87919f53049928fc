//! Everything there is to know of a machine, asked of QEMU in at most two exchanges: one for all that has a name, one
//! for what the first named (the balloon's figures, and once the boot memory's backing). It changes nothing.
//!
//! Through libvirt each question is an exchange of its own. There only those are put whose answers are needed: what does
//! not change stands in libvirt's description of the running machine, and backends are libvirt's to make and to free.

use scale::observed::{Balloon, DimmKind, Host, Life, Machine, Manager, Memory, Node, Vcpus, Version};
use scale::units::Bytes;
use scale::wanted::Scope;
use serde_json::{Value, json};

use super::backends::{self, Users};
use super::balloon;
use super::lasting::Lasting;
use super::monitor::Monitor;
use super::replies::{
    self, BalloonInfo, Devices, HotpluggableCpu, Kvm, Memdev, MemoryDevice, Migration, OspmStatus, Property,
    SizeSummary, Status, VcpuThread,
};
use crate::{ApplyError, ObserveError, host};

/// So often is asked again where DIMMs go while a balloon is looked at; each time another one went.
const MOMENTS: usize = 8;

/// QEMU's side of an observation, and the host's.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) machine: Machine,
    pub(crate) memory: Memory,
    pub(crate) vcpus: Vcpus,
    pub(crate) host: Host,
    /// Where the balloon is among QEMU's objects.
    pub(crate) balloon: Option<String>,
}

/// What changes.
#[derive(Debug)]
struct Current {
    /// What the machine does, in QEMU's words.
    state: String,
    base: u64,
    devices: Vec<MemoryDevice>,
    backends: Option<Listed>,
    cpus: Option<Vec<HotpluggableCpu>>,
    ospm: Vec<OspmStatus>,
    balloon: Option<BalloonInfo>,
    numa: Option<String>,
    migration: Migration,
    peripherals: Vec<Peripheral>,
    threads: Vec<VcpuThread>,
}

/// All objects, and the memory backends.
type Listed = (Vec<Property>, Vec<Memdev>);

/// A device's folder and entry.
pub(crate) type Peripheral = (&'static str, Property);

/// Looks at the machine and the host, as far as `scope` goes.
pub(crate) async fn observe(
    monitor: &Monitor,
    known: &mut Option<Lasting>,
    scope: Scope,
) -> Result<Seen, ObserveError> {
    let (lasting, current) = ask(monitor, known, scope).await?;
    let devices = replies::devices(current.devices, &current.ospm)?;
    let (objects, memdevs) = match current.backends {
        Some(listed) => listed,
        None if devices.lenders.is_empty() => Listed::default(),
        None => backends(monitor).await?,
    };
    let boot = lasting.boot_backends.take().unwrap_or_else(|| {
        backends::of_boot(lasting.link.as_deref(), &lasting.line, &objects, &devices.backends)
    });
    let users = Users {
        devices: &devices.backends,
        boot: &boot,
        line: &lasting.line,
        peripherals: &current.peripherals,
    };
    let mut backings = std::mem::take(&mut lasting.backings);
    let sources = backends::sources(
        monitor,
        (&boot, &devices.lenders),
        (&objects, &memdevs),
        (&lasting.line, lasting.pid),
        &mut backings,
    );
    let balloon_path = balloon::path(&current.peripherals);
    let balloon = balloon(monitor, current.balloon.as_ref(), balloon_path.as_deref());
    let unused = backends::unused(monitor, memdevs.clone(), &objects, users);
    let (sources, unused_backends, balloon) = tokio::try_join!(sources, unused, balloon)?;
    lasting.backings = backings;
    lasting.boot_backends = Some(boot);

    let (boot, ceiling, slots) = limits(lasting, current.base, &current.ospm);
    let vcpus = Vcpus {
        slots: replies::vcpu_slots(current.cpus.unwrap_or_default(), &current.ospm, monitor.manager())?,
        removed_before: replies::vcpu_removed_before(&current.ospm),
        one_thread: replies::on_one_thread(&current.threads),
        filled: Vec::new(),
    };
    let Devices { dimms, virtio_mem, others, .. } = devices;
    let mut memory = Memory {
        boot,
        ceiling,
        slots,
        alignment: Bytes::ZERO,
        backing: sources.backing,
        sources: sources.each,
        dimms,
        virtio_mem,
        others,
        balloon,
        unused_backends,
        nodes: Vec::new(),
    };
    memory.alignment = memory.largest_page().unwrap_or_else(|| alignment(&lasting.arch));
    memory.nodes = nodes(current.numa.as_deref().unwrap_or_default(), &memory);
    let busy = replies::busy(&current.migration);
    let life = life(&current.threads, lasting.pid);
    let machine = machine(monitor, lasting, current.state, busy, life);
    let host = host(lasting, &memory, monitor.manager());
    Ok(Seen { machine, memory, vcpus, host, balloon: balloon_path })
}

/// The host around QEMU. What a manager limits is the manager's to tell and to move.
fn host(lasting: &Lasting, memory: &Memory, manager: Manager) -> Host {
    let mut host = host::look(lasting.pid);
    host.pools = host::pools(lasting.pid, memory);
    host.locks = lasting.line.locks_memory();
    if let Some(pid) = lasting.pid.filter(|_| manager == Manager::Nobody) {
        host::limits::moving(pid, &mut host);
    }
    host
}

/// What lasts, if it is not `known`, and what changes.
async fn ask<'a>(
    monitor: &Monitor,
    known: &'a mut Option<Lasting>,
    scope: Scope,
) -> Result<(&'a mut Lasting, Current), ObserveError> {
    let current = match &*known {
        Some(lasting) => current(monitor, Some(lasting), scope).await?,
        None => {
            let (lasting, current) = tokio::try_join!(Lasting::ask(monitor), current(monitor, None, scope))?;
            *known = Some(lasting);
            current
        }
    };
    let lasting = known.as_mut().expect("asked for above, where it was not known");
    lasting.base = Some(current.base);
    Ok((lasting, current))
}

/// The balloon at `path`, with its driver's last figures.
async fn balloon(
    monitor: &Monitor,
    info: Option<&BalloonInfo>,
    path: Option<&str>,
) -> Result<Option<Balloon>, ObserveError> {
    let Some(info) = info else { return Ok(None) };
    let stats = match path {
        Some(path) => balloon::latest(monitor, path).await?,
        None => None,
    };
    Ok(Some(Balloon { actual: Bytes::new(info.actual), stats }))
}

/// QEMU's nodes without the NVDIMMs that it counts in; one node where it has set up none.
fn nodes(numa: &str, memory: &Memory) -> Vec<Node> {
    let mut nodes = replies::nodes(numa);
    for nvdimm in memory.dimms.iter().filter(|dimm| dimm.kind == DimmKind::Nvdimm) {
        for node in nodes.iter_mut().filter(|node| node.id == nvdimm.node) {
            node.memory = node.memory.saturating_sub(nvdimm.size);
        }
    }
    if nodes.is_empty() { vec![Node { id: 0, memory: memory.total() }] } else { nodes }
}

/// Which QEMU process this is.
fn life(threads: &[VcpuThread], pid: Option<u32>) -> Option<Life> {
    let first = threads.iter().min_by_key(|vcpu| vcpu.cpu_index)?;
    Some(Life { thread: first.thread_id, started: pid.and_then(host::started) })
}

fn machine(
    monitor: &Monitor,
    lasting: &Lasting,
    state: String,
    busy: Vec<String>,
    life: Option<Life>,
) -> Machine {
    let version = monitor.version();
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Machine {
        name: lasting.name.clone(),
        uuid: lasting.uuid.clone(),
        kind: lasting.kind.clone(),
        arch: lasting.arch.clone(),
        qemu: Version(number(version.major), number(version.minor), number(version.micro)),
        accel: lasting.accel,
        state,
        busy,
        manager: monitor.manager(),
        life,
    }
}

/// What DIMM sizes must be multiples of with ordinary pages (`QEMU_VMALLOC_ALIGN`, include/qemu/osdep.h, and
/// `SPAPR_MEMORY_BLOCK_SIZE`, hw/ppc/spapr.h; 7.2 and 10.0).
fn alignment(arch: &str) -> Bytes {
    match arch {
        "ppc64" => Bytes::mib(256),
        "s390x" => Bytes::mib(1),
        _ => Bytes::mib(2),
    }
}

/// Boot memory, ceiling and slots: from the machine's property, else from the command line, else (x86) from the
/// region for memory devices, which has 1 GiB more for each slot (hw/i386/pc.c, `pc_get_device_memory_range`, 7.2).
fn limits(lasting: &Lasting, base: u64, ospm: &[OspmStatus]) -> (Bytes, Bytes, u32) {
    let boot = Bytes::new(base);
    if let Some(config) = lasting.config {
        let slots = config.slots.and_then(|slots| u32::try_from(slots).ok()).unwrap_or(0);
        return (boot, Bytes::new(config.max_size.unwrap_or(base).max(base)), slots);
    }
    let slots = replies::dimm_slots(ospm);
    let spare = lasting.region.unwrap_or(0).saturating_sub(u64::from(slots) << 30);
    (boot, boot.checked_add(Bytes::new(spare)).unwrap_or(boot), slots)
}

/// Refuses where QEMU runs all vCPUs on one thread: it would end at the removal of one, which may be asked of it as a
/// way back too.
pub(crate) async fn may_lose_a_vcpu(monitor: &Monitor) -> Result<(), ApplyError> {
    let (kvm, threads) = tokio::try_join!(
        monitor.ask_if::<Kvm>("query-kvm", Value::Null),
        monitor.ask_if::<Vec<VcpuThread>>("query-cpus-fast", Value::Null),
    )?;
    let emulated = kvm.is_some_and(|kvm| !kvm.enabled);
    match emulated && replies::on_one_thread(&threads.unwrap_or_default()) {
        true => Err(ApplyError::Refused(
            "QEMU runs all vCPUs on one thread (TCG) and would end itself when one is removed".to_owned(),
        )),
        false => Ok(()),
    }
}

/// What changes, as far as `scope` needs it and what is `known` does not tell.
async fn current(monitor: &Monitor, known: Option<&Lasting>, scope: Scope) -> Result<Current, ObserveError> {
    let none = || Value::Null;
    let is_plain = known.is_some_and(|known| known.is_plain);
    let base = async {
        match known.and_then(|known| known.base) {
            Some(base) => Ok(base),
            None => {
                let told: SizeSummary = monitor.ask("query-memory-size-summary", none()).await?;
                Ok(told.base_memory)
            }
        }
    };
    let devices = async {
        let devices: Vec<MemoryDevice> = monitor.ask("query-memory-devices", none()).await?;
        Ok(devices)
    };
    let numa = async {
        let info = json!({ "command-line": "info numa" });
        if is_plain { Ok(None) } else { monitor.ask_if("human-monitor-command", info).await }
    };
    let backends = async { if is_plain { Ok(None) } else { backends(monitor).await.map(Some) } };
    let spares = monitor.manager() == Manager::Libvirt && !scope.rest;
    // libvirt knows of the jobs that it began, and is asked before.
    let migration = async { if spares { Ok(None) } else { monitor.ask_if("query-migrate", none()).await } };
    let peripherals = async { if spares { Ok(Vec::new()) } else { peripherals(monitor).await } };
    let state = async {
        if spares && monitor.is_said_to_run().await {
            return Ok(Machine::RUNNING.to_owned());
        }
        let told: Status = monitor.ask("query-status", none()).await?;
        Ok(told.status)
    };
    // Of a machine whose vCPUs are not asked about, the threads tell only which QEMU it is, and so does the host.
    let first = monitor.pid().filter(|_| spares && !scope.vcpus).and_then(host::first_vcpu);
    let threads = async {
        match first {
            Some(thread_id) => Ok(Some(vec![VcpuThread { cpu_index: 0, thread_id }])),
            None => monitor.ask_if("query-cpus-fast", none()).await,
        }
    };
    let (state, base, devices, backends, cpus, ospm, balloon, numa, migration, peripherals, threads) = tokio::try_join!(
        state,
        base,
        devices,
        backends,
        monitor.ask_if("query-hotpluggable-cpus", none()),
        monitor.ask_if("query-acpi-ospm-status", none()),
        monitor.ask_if("query-balloon", none()),
        numa,
        migration,
        peripherals,
        threads,
    )?;
    let (devices, balloon) = of_one_moment(monitor, base, devices, balloon).await?;
    Ok(Current {
        state,
        base,
        devices,
        backends,
        cpus,
        ospm: ospm.unwrap_or_default(),
        balloon,
        numa,
        migration: migration.unwrap_or_default(),
        peripherals,
        threads: threads.unwrap_or_default(),
    })
}

/// Devices and a balloon's word that belong together. QEMU tells what the balloon leaves of all that is plugged at that
/// moment (`virtio_balloon_stat`, hw/virtio/virtio-balloon.c, 7.2 and 10.0): a DIMM that goes between both answers would
/// look like memory that the balloon has taken, and the machine like one that has shrunk already.
async fn of_one_moment(
    monitor: &Monitor,
    base: u64,
    mut devices: Vec<MemoryDevice>,
    mut balloon: Option<BalloonInfo>,
) -> Result<(Vec<MemoryDevice>, Option<BalloonInfo>), ObserveError> {
    for _ in 0..MOMENTS {
        let in_dimms = replies::in_dimms(&devices);
        if balloon.as_ref().is_none_or(|told| told.actual >= base.saturating_add(in_dimms)) {
            break;
        }
        devices = monitor.ask("query-memory-devices", Value::Null).await?;
        if replies::in_dimms(&devices) == in_dimms {
            break;
        }
        balloon = monitor.ask_if("query-balloon", Value::Null).await?;
    }
    Ok((devices, balloon))
}

/// All objects, and the memory backends among them.
async fn backends(monitor: &Monitor) -> Result<Listed, ObserveError> {
    let (objects, memdevs) = tokio::try_join!(
        monitor.ask_if::<Vec<Property>>("qom-list", json!({ "path": "/objects" })),
        monitor.ask_if::<Vec<Memdev>>("query-memdev", Value::Null),
    )?;
    Ok((objects.unwrap_or_default(), memdevs.unwrap_or_default()))
}

/// All devices but the machine's own parts, with the folder that each is in.
pub(crate) async fn peripherals(monitor: &Monitor) -> Result<Vec<Peripheral>, ObserveError> {
    const FOLDERS: [&str; 2] = ["/machine/peripheral", "/machine/peripheral-anon"];
    let list = |folder: &'static str| async move {
        let list: Option<Vec<Property>> = monitor.ask_if("qom-list", json!({ "path": folder })).await?;
        Ok(list.unwrap_or_default().into_iter().map(move |device| (folder, device)))
    };
    let (ids, anonymous) = tokio::try_join!(list(FOLDERS[0]), list(FOLDERS[1]))?;
    Ok(ids.chain(anonymous).collect())
}
