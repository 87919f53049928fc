//! Acts as commands. One act, one change: a command is sent once, and a guard reads what the act starts from right
//! before. Nothing is awaited but the command's own answer.

use std::ops::Range;
use std::time::Duration;

use scale::generations::NESTS_OBJECT_PROPERTIES;
use scale::observed::{Backing, HostPolicy, Placement, VcpuProps};
use scale::plan::{Act, Zone};
use scale::units::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::driver::duration;
use super::monitor::Monitor;
use super::{look, observe, power, set};
use crate::disk;
use crate::guest::facts::shown_blocks;
use crate::guest::reach::Reach;
use crate::guest::{onlining, probe, zones};
use crate::{ApplyError, ObserveError};

/// Where a virtio-mem device, or any device with an id, is among QEMU's objects.
pub(crate) fn path(id: &str) -> String {
    format!("/machine/peripheral/{id}")
}

/// Carries out one act by `until`. `block` bounds the emptying of one memory block.
pub(super) async fn apply(
    monitor: &Monitor,
    reach: &mut Reach,
    act: &Act,
    block: Duration,
    until: Instant,
) -> Result<(), ApplyError> {
    let order = |command, arguments| monitor.order(command, arguments, until);
    match act {
        Act::CreateBackend { memdev, size, backing, placement } => {
            let nested = NESTS_OBJECT_PROPERTIES.is_in(monitor.version().into());
            order("object-add", backend(memdev, *size, (backing, placement), nested)?).await
        }
        Act::DeleteBackend { memdev } => order("object-del", json!({ "id": memdev })).await,
        Act::PlugDimm { memdev, brings: Some(_), .. } => {
            Err(ApplyError::Refused(format!("nobody makes the backend {memdev}: QEMU has no manager here")))
        }
        Act::PlugDimm { id, memdev, brings: None, slot, node, addr } => {
            order("device_add", dimm(id, memdev, *slot, *node, *addr)).await
        }
        Act::UnplugDimm { id, .. } => order("device_del", json!({ "id": id })).await,
        Act::UnplugVcpu { id } => {
            observe::may_lose_a_vcpu(monitor).await?;
            order("device_del", json!({ "id": id })).await
        }
        Act::PlugVcpu { id, driver, props } => {
            order("device_add", vcpu(id, driver, *props)).await?;
            power::follow(monitor).await
        }
        Act::ResizeVirtioMem { id, from, to } => {
            let now: Option<u64> = monitor.property(&path(id), REQUESTED).await?;
            let now =
                now.ok_or_else(|| ApplyError::Refused(format!("there is no virtio-mem device {id}")))?;
            guard(&format!("the size requested of {id}"), Bytes::new(now), *from, *to)?;
            order("qom-set", request(id, *to)).await
        }
        Act::SettleVirtioMem { id } => {
            let size: Option<u64> = monitor.property(&path(id), "size").await?;
            let size =
                size.ok_or_else(|| ApplyError::Refused(format!("there is no virtio-mem device {id}")))?;
            order("qom-set", request(id, Bytes::new(size))).await
        }
        // A target is absolute, and a balloon may still be on its way to an earlier one.
        Act::SetBalloon { to, .. } => order("balloon", json!({ "value": to.get() })).await,
        Act::MakeKnown { device, after } => make_known(monitor, reach, device, duration(*after), until).await,
        Act::OnlineBlocks { device, zone } => online(monitor, reach, device, *zone, until).await,
        Act::OfflineBlocks { device } => offline(monitor, reach, device, block, until).await,
        Act::OnlineVcpus { count } => onlining::online_vcpus(reach, *count, until).await,
        Act::AwaitOnline { .. } => Ok(()),
        Act::Set { from, to } => set::set(monitor, from, to, until).await,
        Act::GrowDisk { disk, from, to } => disk::act::grow(monitor, disk, *from, *to, until).await,
        Act::GrowInGuest { device, layer, tool, .. } => {
            disk::act::grow_in_guest(reach, device, layer, *tool, until).await
        }
    }
}

/// How often blocks are looked for that come late.
const LATE_BLOCK: Duration = Duration::from_millis(20);
/// How long blocks of a DIMM are waited for that the guest does not show.
const APPEARS: Duration = Duration::from_secs(10);
pub(crate) const REQUESTED: &str = "requested-size";

/// Refuses where something stands neither where the act starts from nor where it leads to (sent a second time).
pub(crate) fn guard(what: &str, now: Bytes, from: Bytes, to: Bytes) -> Result<(), ApplyError> {
    if now == from || now == to {
        return Ok(());
    }
    Err(ApplyError::Refused(format!("{what} is {now} and no longer {from}: something else has changed it")))
}

fn request(id: &str, size: Bytes) -> Value {
    json!({ "path": path(id), "property": REQUESTED, "value": size.get() })
}

/// The arguments of `object-add`; before QEMU 6.0 the object's properties are nested in `props`.
fn backend(
    memdev: &str,
    size: Bytes,
    (backing, placement): (&Backing, &Placement),
    nested: bool,
) -> Result<Value, ApplyError> {
    let (kind, mut props) = match backing {
        Backing::Ram => ("memory-backend-ram", json!({})),
        Backing::SharedMemfd => ("memory-backend-memfd", json!({ "share": true })),
        // Without `prealloc` a shortage of huge pages kills QEMU at the first touch (SIGBUS).
        Backing::Hugepages { path, share, .. } => {
            ("memory-backend-file", json!({ "mem-path": path, "share": share, "prealloc": true }))
        }
        Backing::HugeMemfd { page, share } => (
            "memory-backend-memfd",
            json!({ "hugetlb": true, "hugetlbsize": page.get(), "share": share, "prealloc": true }),
        ),
        Backing::Unknown(what) => {
            return Err(ApplyError::Refused(format!(
                "boot memory is backed by {what}, which Supple cannot make"
            )));
        }
    };
    props["size"] = size.get().into();
    if placement.prealloc {
        props["prealloc"] = true.into();
    }
    if placement.policy != HostPolicy::Default {
        props["policy"] = placement.policy.word().into();
        props["host-nodes"] = placement.host_nodes.clone().into();
    }
    let mut arguments = json!({ "qom-type": kind, "id": memdev });
    if nested {
        arguments["props"] = props;
    } else if let (Some(arguments), Value::Object(props)) = (arguments.as_object_mut(), props) {
        arguments.extend(props);
    }
    Ok(arguments)
}

fn dimm(id: &str, memdev: &str, slot: u32, node: u32, addr: Option<u64>) -> Value {
    let mut arguments =
        json!({ "driver": "pc-dimm", "id": id, "memdev": memdev, "slot": slot, "node": node });
    if let Some(addr) = addr {
        arguments["addr"] = addr.into();
    }
    arguments
}

fn vcpu(id: &str, driver: &str, props: VcpuProps) -> Value {
    let mut arguments = Map::new();
    arguments.insert("driver".into(), driver.into());
    arguments.insert("id".into(), id.into());
    arguments.extend(props.listed().map(|(name, place)| (name.into(), place.into())));
    arguments.into()
}

/// Waits for `after` that the guest finds the blocks of a DIMM by itself, then tells it of those that are absent still.
/// QEMU is asked where the DIMM lies right before: a wrong address crashes the guest.
pub(crate) async fn make_known(
    monitor: &Monitor,
    reach: &mut Reach,
    device: &str,
    after: Duration,
    until: Instant,
) -> Result<(), ApplyError> {
    let patience = (Instant::now() + after).min(until);
    loop {
        let block = crate::guest::facts::block(reach).await?;
        let (region, shown) = tokio::join!(region(monitor, device), shown_blocks(reach));
        let (region, shown) = (region?, shown?);
        if !region.is_whole || !region.fits(block) {
            let why = format!(
                "{device} is no DIMM of whole memory blocks of {block}: the guest cannot be told of it"
            );
            return Err(ApplyError::Refused(why));
        }
        let mut absent: Vec<u64> = region.blocks(block).collect();
        absent.retain(|index| shown.iter().all(|shown| shown.index != *index));
        if absent.is_empty() {
            return Ok(());
        }
        if Instant::now() >= patience {
            return probe::make_known(reach, &absent, block, until).await;
        }
        tokio::time::sleep(LATE_BLOCK).await;
    }
}

/// Blocks that a DIMM covers are there as a rule, so they need not be listed first; of virtio-mem's region only some are.
pub(crate) async fn online(
    monitor: &Monitor,
    reach: &mut Reach,
    device: &str,
    zone: Zone,
    until: Instant,
) -> Result<(), ApplyError> {
    let region = match monitor.place_of(device) {
        Some(region) => region,
        None => region(monitor, device).await?,
    };
    let block = crate::guest::facts::block(reach).await?;
    let covered = region.blocks(block);
    if region.is_whole {
        let blocks: Vec<u64> = covered.clone().collect();
        let outcome = zones::online(reach, &blocks, zone, until).await;
        if outcome.is_ok() || !region.fits(block) || !come_late(reach, &covered, until).await? {
            return outcome;
        }
        return zones::online(reach, &blocks, zone, until).await;
    }
    // The guest's driver counts memory as plugged before Linux shows its block (virtio_mem_mb_add,
    // drivers/virtio/virtio_mem.c, 6.1): late ones are put online as they come.
    loop {
        let shown = shown_blocks(reach).await?;
        zones::online(reach, &onlining::in_state(&shown, &covered, false), zone, until).await?;
        let there = shown.iter().filter(|shown| covered.contains(&shown.index)).count() as u64;
        if there >= region.least(block) || Instant::now() >= until {
            return Ok(());
        }
        tokio::time::sleep(LATE_BLOCK).await;
    }
}

/// True where the guest shows all these blocks after a while and did not at once: they were plugged just now, by a
/// controller that died of it, say.
async fn come_late(reach: &mut Reach, covered: &Range<u64>, until: Instant) -> Result<bool, ApplyError> {
    let patience = until.min(Instant::now() + APPEARS);
    let mut late = false;
    loop {
        let shown = shown_blocks(reach).await?;
        if covered.clone().all(|index| shown.iter().any(|shown| shown.index == index)) {
            return Ok(late);
        }
        if Instant::now() >= patience {
            return Ok(false);
        }
        late = true;
        tokio::time::sleep(LATE_BLOCK).await;
    }
}

/// From the last block to the first: Linux fills memory from the start, so what refuses is found late but costs least
/// to put back.
pub(crate) async fn offline(
    monitor: &Monitor,
    reach: &mut Reach,
    device: &str,
    each: Duration,
    until: Instant,
) -> Result<(), ApplyError> {
    let block = crate::guest::facts::block(reach).await?;
    let (region, shown) = tokio::join!(region(monitor, device), shown_blocks(reach));
    let (region, shown) = (region?, shown?);
    let mut blocks = onlining::in_state(&shown, &region.blocks(block), true);
    blocks.reverse();
    zones::remember(reach, &blocks, until).await;
    onlining::offline(reach, &blocks, each, until).await
}

async fn region(monitor: &Monitor, device: &str) -> Result<look::Region, ApplyError> {
    let region = look::region(monitor, device).await?;
    region.ok_or_else(|| ApplyError::Refused(format!("QEMU lists no memory device {device}")))
}

/// What could not be read before an act was sent: nothing has happened.
impl From<ObserveError> for ApplyError {
    fn from(error: ObserveError) -> ApplyError {
        ApplyError::Refused(format!("{error}; nothing was changed"))
    }
}
