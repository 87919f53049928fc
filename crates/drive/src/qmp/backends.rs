//! Memory backends: which the boot memory uses and how it is backed, and which nothing uses. Careful to one side: a
//! backend counts as unused only where everything that could use it was looked at. (QEMU itself refuses to delete one
//! that is in use: "object 'X' is in use, can not be deleted", seen on 7.2.)

use std::collections::{BTreeMap, BTreeSet};

use scale::observed::{Backend, Backing, Manager, Source, SourceOf};
use scale::plan::OWN_PREFIX;
use scale::units::Bytes;
use serde_json::{Value, json};

use super::cmdline::CommandLine;
use super::monitor::{Monitor, each};
use super::observe::Peripheral;
use super::replies::{Memdev, Property, last_part};
use crate::{ObserveError, host};

/// The most devices that are asked whether they use a backend. A machine with more keeps its unused backends unseen.
const MOST_DEVICES: usize = 512;

/// The type of the object `id`, from the list of all objects.
fn kind<'a>(objects: &'a [Property], id: &str) -> Option<&'a str> {
    objects.iter().find(|object| object.name == id)?.child()
}

/// Whether the objects list a memory backend of this id.
pub(super) fn exists(objects: &[Property], id: &str) -> bool {
    kind(objects, id).is_some_and(|kind| kind.starts_with("memory-backend-"))
}

/// A backend of boot memory, and the guest's node whose memory it is, where that is known.
pub(super) type Boot = (Option<u32>, String);

/// The backends that boot memory uses. `link` is the machine's property `memory-backend`: absent before QEMU 5.0, empty
/// where NUMA nodes have backends of their own. Which those are only the command line tells; where it is hidden, all
/// that no device uses and Supple has not made are taken for them, and libvirt's names tell their nodes (`ram-nodeN`;
/// src/qemu/qemu_command.c, 9.0 and 11.3).
pub(super) fn of_boot(
    link: Option<&str>,
    line: &CommandLine,
    objects: &[Property],
    devices: &BTreeSet<String>,
) -> Vec<Boot> {
    let numa = line.numa_backends();
    match link.map(last_part) {
        _ if !numa.is_empty() => numa.into_iter().map(|(node, id)| (Some(node), id.to_owned())).collect(),
        None => Vec::new(),
        Some("") => {
            let ids = objects.iter().map(|object| &object.name);
            let boot =
                |id: &&String| exists(objects, id) && !devices.contains(*id) && !id.starts_with(OWN_PREFIX);
            let node = |id: &String| id.strip_prefix("ram-node")?.parse().ok();
            ids.filter(boot).map(|id| (node(id), id.clone())).collect()
        }
        // One backend for all of boot memory: QEMU takes it for one node at most.
        Some(id) => vec![(Some(0), id.to_owned())],
    }
}

/// What the guest's memory is made of.
#[derive(Debug)]
pub(super) struct Sources {
    /// What new memory is made of where its node tells nothing else.
    pub(super) backing: Backing,
    /// Node by node, and of each virtio-mem device.
    pub(super) each: Vec<Source>,
}

/// How boot memory is backed, and what virtio-mem devices (`lenders`: id and backend) take theirs from. Backends that
/// were asked of before are in `known`: what one is made of never changes.
pub(super) async fn sources(
    monitor: &Monitor,
    (boot, lenders): (&[Boot], &[(String, String)]),
    (objects, memdevs): (&[Property], &[Memdev]),
    (line, pid): (&CommandLine, Option<u32>),
    known: &mut BTreeMap<String, Backing>,
) -> Result<Sources, ObserveError> {
    let ids: BTreeSet<&String> =
        boot.iter().map(|(_, id)| id).chain(lenders.iter().map(|(_, id)| id)).collect();
    let unknown: Vec<&String> = ids.into_iter().filter(|id| !known.contains_key(*id)).collect();
    let asked = each(unknown.iter().map(|id| backing(monitor, id, objects, pid))).await;
    for (id, backing) in unknown.into_iter().zip(asked) {
        known.insert(id.clone(), backing?);
    }
    let source = |of: SourceOf, id: &str| {
        let memdev = memdevs.iter().find(|memdev| memdev.id.as_deref() == Some(id));
        let placement = memdev.map(Memdev::placement).unwrap_or_default();
        Some(Source { of, backing: known.get(id)?.clone(), placement })
    };
    let nodes = boot.iter().filter_map(|(node, id)| source(SourceOf::Node((*node)?), id));
    let devices = lenders.iter().filter_map(|(device, id)| source(SourceOf::Device(device.clone()), id));
    let each: Vec<Source> = nodes.chain(devices).collect();
    let first = boot.first().and_then(|(_, id)| known.get(id));
    let differing = boot.iter().find(|(node, id)| node.is_none() && known.get(id) != first);
    let backing = match (first, differing) {
        // QEMU before 5.0 may have boot memory without a backend object.
        (None, _) => line.mem_path().map_or(Backing::Ram, |path| of_file(path, false, pid)),
        (Some(first), None) => first.clone(),
        (Some(_), Some((_, other))) => {
            let first = &boot[0].1;
            Backing::Unknown(format!("objects of different kinds ({first} and {other})"))
        }
    };
    Ok(Sources { backing, each })
}

/// How one backend is backed.
async fn backing(
    monitor: &Monitor,
    id: &str,
    objects: &[Property],
    pid: Option<u32>,
) -> Result<Backing, ObserveError> {
    let path = format!("/objects/{id}");
    let share = async { Ok(monitor.property(&path, "share").await?.unwrap_or(false)) };
    Ok(match kind(objects, id) {
        Some("memory-backend-ram") => Backing::Ram,
        Some("memory-backend-memfd") => {
            let (share, huge, page) = tokio::try_join!(
                share,
                monitor.property(&path, "hugetlb"),
                monitor.property::<u64>(&path, "hugetlbsize")
            )?;
            match (huge.unwrap_or(false), share) {
                (true, _) => of_huge_memfd(page.unwrap_or(0), share),
                (false, true) => Backing::SharedMemfd,
                (false, false) => Backing::Ram,
            }
        }
        // QEMU 9.1 and later.
        Some("memory-backend-shm") => Backing::SharedMemfd,
        Some("memory-backend-file") => {
            let (share, file) = tokio::try_join!(share, monitor.property::<String>(&path, "mem-path"))?;
            of_file(&file.unwrap_or_default(), share, pid)
        }
        Some(other) => Backing::Unknown(other.to_owned()),
        None => Backing::Unknown(format!("the object {id}")),
    })
}

/// A size of zero is the host's usual one (`memfd_create(2)`, MFD_HUGETLB alone).
fn of_huge_memfd(page: u64, share: bool) -> Backing {
    let usual = || host::usual_huge_page();
    match Some(Bytes::new(page)).filter(|page| !page.is_zero()).or_else(usual) {
        Some(page) => Backing::HugeMemfd { page, share },
        None => Backing::Unknown("memory-backend-memfd with huge pages of an unknown size".into()),
    }
}

fn of_file(path: &str, share: bool, pid: Option<u32>) -> Backing {
    match host::hugetlbfs(path, pid) {
        Some((path, page)) => Backing::Hugepages { path, page, share },
        None if share => Backing::SharedMemfd,
        None => Backing::Unknown(format!("memory-backend-file at {path}")),
    }
}

/// What is known of the users of backends.
#[derive(Debug)]
pub(super) struct Users<'a> {
    /// Backends of memory devices.
    pub(super) devices: &'a BTreeSet<String>,
    /// Backends of boot memory.
    pub(super) boot: &'a [Boot],
    /// QEMU's command line.
    pub(super) line: &'a CommandLine,
    /// All devices but those in the machine's own parts: folder and entry.
    pub(super) peripherals: &'a [Peripheral],
}

/// The backends that nothing uses, in ascending order of their ids.
pub(super) async fn unused(
    monitor: &Monitor,
    memdevs: Vec<Memdev>,
    objects: &[Property],
    users: Users<'_>,
) -> Result<Vec<Backend>, ObserveError> {
    if monitor.manager() == Manager::Libvirt {
        // Its to make and to free.
        return Ok(Vec::new());
    }
    let free = |id: &str| {
        let kinds =
            ["memory-backend-ram", "memory-backend-memfd", "memory-backend-file", "memory-backend-shm"];
        let told = users.line.is_complete() && !users.line.uses(id);
        kind(objects, id).is_some_and(|kind| kinds.contains(&kind))
            && !users.devices.contains(id)
            && !users.boot.iter().any(|(_, boot)| boot == id)
            && (told || id.starts_with(OWN_PREFIX))
    };
    let mut found: Vec<Backend> = memdevs
        .into_iter()
        .filter_map(|memdev| Some(Backend { id: memdev.id?, size: Bytes::new(memdev.size) }))
        .filter(|backend| free(&backend.id))
        .collect();
    if found.is_empty() {
        return Ok(found);
    }
    let linked = linked(monitor, users.peripherals).await?;
    let Some(linked) = linked else { return Ok(Vec::new()) };
    found.retain(|backend| !linked.contains(&backend.id));
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// The backends that devices outside of `query-memory-devices` link to, such as `ivshmem-plain`; nothing where there
/// are too many devices to ask.
async fn linked(
    monitor: &Monitor,
    peripherals: &[Peripheral],
) -> Result<Option<BTreeSet<String>>, ObserveError> {
    let others: Vec<String> = peripherals
        .iter()
        .filter(|(_, device)| device.child().is_some_and(|kind| !matches!(kind, "pc-dimm" | "nvdimm")))
        .map(|(folder, device)| format!("{folder}/{}", device.name))
        .collect();
    if others.len() > MOST_DEVICES {
        return Ok(None);
    }
    let lists = each(others.iter().map(|path| async move {
        let list: Option<Vec<Property>> = monitor.ask_if("qom-list", json!({ "path": path })).await?;
        Ok((path, list.unwrap_or_default()))
    }))
    .await;
    let mut links = Vec::new();
    for list in lists {
        let (path, list) = list?;
        links.extend(
            list.into_iter()
                .filter(|property| property.kind == "link<memory-backend>")
                .map(|property| (path, property.name)),
        );
    }
    let targets = each(links.iter().map(|(path, name)| monitor.property::<Value>(path, name))).await;
    let mut linked = BTreeSet::new();
    for target in targets {
        if let Some(target) = target?.as_ref().and_then(Value::as_str) {
            linked.insert(last_part(target).to_owned());
        }
    }
    Ok(Some(linked))
}
