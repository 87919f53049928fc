//! One narrow question to the machine: only what the proof of one step needs, QEMU and the guest asked at once.

use std::ops::Range;

use scale::observed::{Dimm, MemBlock, VcpuState, VirtioMem, blocks_of};
use scale::sight::{BlocksSight, DimmSight, GuestView, Look, Sight, ZonesSight};
use scale::time::Moment;
use scale::units::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::backends;
use super::balloon;
use super::monitor::Monitor;
use super::replies::{self, BalloonInfo, Devices, HotpluggableCpu, MemoryDevice, Property};
use super::set;
use crate::ObserveError;
use crate::disk::{self, Names};
use crate::guest::answers::{self, VCPUS};
use crate::guest::facts;
use crate::guest::reach::{Mute, Reach};
use crate::guest::zones;

/// Answers a look. `changed` is when the last act was sent: older figures of a balloon driver say nothing of it.
/// `names` are those that a manager has given to disks.
pub(crate) async fn look(
    monitor: &Monitor,
    reach: &mut Reach,
    look: &Look,
    changed: Moment,
    names: &Names,
) -> Result<Sight, ObserveError> {
    Ok(match look {
        Look::Backend(id) => {
            let objects: Vec<Property> = monitor.ask("qom-list", json!({ "path": "/objects" })).await?;
            Sight::Backend(backends::exists(&objects, id))
        }
        Look::Dimm(id) => {
            let (devices, shown) = tokio::join!(devices(monitor), blocks_and_size(reach));
            let dimm = devices?.dimms.into_iter().find(|dimm| dimm.id == *id);
            Sight::Dimm(dimm.map(|device| {
                let region = Region::of_dimm(&device);
                monitor.note_place(id, region);
                let guest = within(shown, &region);
                DimmSight { device, guest }
            }))
        }
        Look::DimmDevice(id) => {
            let dimm = devices(monitor).await?.dimms.into_iter().find(|dimm| dimm.id == *id);
            let guest = GuestView::Unasked("the guest was not to be asked".into());
            Sight::Dimm(dimm.map(|device| DimmSight { device, guest }))
        }
        Look::VirtioMem(id) => {
            Sight::VirtioMem(devices(monitor).await?.virtio_mem.into_iter().find(|device| device.id == *id))
        }
        Look::Blocks(id) => {
            let (region, shown) = tokio::join!(region(monitor, id), blocks_and_size(reach));
            Sight::Blocks(region?.map(|region| within(shown, &region)))
        }
        Look::Zones(id) => {
            let (region, shown) = tokio::join!(region(monitor, id), blocks_and_size(reach));
            match region? {
                Some(region) => Sight::Zones(Some(in_zones(reach, within(shown, &region)).await)),
                None => Sight::Zones(None),
            }
        }
        Look::GuestTotal => Sight::GuestTotal(guest_total(monitor, changed).await?),
        Look::Balloon => {
            let told: Option<BalloonInfo> = monitor.ask_if("query-balloon", Value::Null).await?;
            Sight::Balloon(told.map(|told| Bytes::new(told.actual)))
        }
        Look::Vcpu(id) => {
            let (plugged, guest) = tokio::join!(is_plugged(monitor, id), vcpus(reach));
            Sight::Vcpu { plugged: plugged?, guest }
        }
        Look::VcpuDevice(id) => {
            let guest = GuestView::Unasked("the guest was not to be asked".into());
            Sight::Vcpu { plugged: is_plugged(monitor, id).await?, guest }
        }
        Look::Vcpus => Sight::Vcpus(vcpus(reach).await),
        Look::Setting(name) => Sight::Setting(set::look(monitor, name, names).await?),
        Look::Disk(name) => Sight::Disk(disk::look(monitor, Some(reach), name, names).await?.map(Box::new)),
        Look::DiskDevice(name) => Sight::Disk(disk::look(monitor, None, name, names).await?.map(Box::new)),
    })
}

/// Where a memory device lies in the guest's address space.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    addr: u64,
    size: Bytes,
    /// What of it is plugged: all of a DIMM, `size` of a virtio-mem device.
    plugged: Bytes,
    /// True where the guest has all of it once it is plugged: a DIMM.
    pub(super) is_whole: bool,
}

impl Region {
    fn of_dimm(dimm: &Dimm) -> Region {
        Region { addr: dimm.addr, size: dimm.size, plugged: dimm.size, is_whole: true }
    }

    fn of_virtio_mem(device: &VirtioMem) -> Region {
        Region { addr: device.addr, size: device.max, plugged: device.size, is_whole: false }
    }

    /// The memory blocks that cover it.
    pub(super) fn blocks(&self, block: Bytes) -> Range<u64> {
        blocks_of(self.addr, self.size, block)
    }

    /// True where it begins and ends with memory blocks.
    pub(super) fn fits(&self, block: Bytes) -> bool {
        Bytes::new(self.addr).is_multiple_of(block) && self.size.is_multiple_of(block)
    }

    /// How many blocks the guest is to show at least. Linux may spread a virtio-mem device's memory over more.
    pub(super) fn least(&self, block: Bytes) -> u64 {
        if self.is_whole {
            let covered = self.blocks(block);
            return covered.end - covered.start;
        }
        self.plugged.count_of(block)
    }
}

/// Where a DIMM or virtio-mem device lies, if QEMU lists it.
pub(super) async fn region(monitor: &Monitor, id: &str) -> Result<Option<Region>, ObserveError> {
    let devices = devices(monitor).await?;
    let dimm = devices.dimms.iter().find(|dimm| dimm.id == id).map(Region::of_dimm);
    Ok(dimm.or_else(|| devices.virtio_mem.iter().find(|device| device.id == id).map(Region::of_virtio_mem)))
}

async fn devices(monitor: &Monitor) -> Result<Devices, ObserveError> {
    let list: Vec<MemoryDevice> = monitor.ask("query-memory-devices", Value::Null).await?;
    replies::devices(list, &[])
}

async fn blocks_and_size(reach: &mut Reach) -> Result<(Vec<MemBlock>, Bytes), Mute> {
    let size = facts::block(reach).await?;
    Ok((facts::shown_blocks(reach).await?, size))
}

/// The guest's blocks in a region.
fn within(shown: Result<(Vec<MemBlock>, Bytes), Mute>, region: &Region) -> GuestView<BlocksSight> {
    match shown {
        Ok((mut blocks, block)) => {
            let range = region.blocks(block);
            let covers = region.least(block);
            blocks.retain(|shown| range.contains(&shown.index));
            GuestView::Shows(BlocksSight { block, covers, blocks })
        }
        Err(mute) => view(mute),
    }
}

/// The same, with the zones of those that are online.
async fn in_zones(reach: &mut Reach, shown: GuestView<BlocksSight>) -> GuestView<ZonesSight> {
    match shown {
        GuestView::Shows(shown) => {
            let online: Vec<u64> = shown.blocks.iter().filter(|b| b.online).map(|b| b.index).collect();
            let zones = zones::zones(reach, &online, Instant::now() + reach.limit()).await;
            GuestView::Shows(ZonesSight { shown, zones })
        }
        GuestView::Unasked(why) => GuestView::Unasked(why),
        GuestView::Silent(why) => GuestView::Silent(why),
    }
}

fn view<T>(mute: Mute) -> GuestView<T> {
    match mute {
        Mute::Unasked(why) => GuestView::Unasked(why),
        // A guest without memory hot-plug refuses to list blocks: asked again, it will not say more.
        Mute::Silent(why) | Mute::Refused(why) | Mute::Unknown(why) => GuestView::Silent(why),
    }
}

async fn vcpus(reach: &mut Reach) -> GuestView<Vec<scale::observed::GuestVcpu>> {
    let limit = reach.limit();
    match reach.call(VCPUS, Value::Null, limit).await {
        Ok(answer) => match answers::vcpus(&answer) {
            Ok(vcpus) => GuestView::Shows(vcpus),
            Err(error) => view(Mute::of(&error)),
        },
        Err(mute) => view(mute),
    }
}

async fn is_plugged(monitor: &Monitor, id: &str) -> Result<bool, ObserveError> {
    let cpus: Option<Vec<HotpluggableCpu>> = monitor.ask_if("query-hotpluggable-cpus", Value::Null).await?;
    let slots = replies::vcpu_slots(cpus.unwrap_or_default(), &[], monitor.manager())?;
    Ok(slots.iter().any(|slot| matches!(&slot.state, VcpuState::Device(device) if device == id)))
}

/// MemTotal by the balloon driver, told in a later second than that of the last act.
async fn guest_total(monitor: &Monitor, changed: Moment) -> Result<Option<Bytes>, ObserveError> {
    let peripherals = super::observe::peripherals(monitor).await?;
    let Some(path) = balloon::path(&peripherals) else { return Ok(None) };
    balloon::turn_on(monitor, &path).await?;
    let told = balloon::latest(monitor, &path).await?;
    let second = |moment: Moment| moment.unix_millis() / 1000;
    Ok(told.filter(|told| second(told.at) > second(changed)).map(|told| told.total))
}
