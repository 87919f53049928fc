//! Disks: how large they are, where their bytes lie, what limits them, and what their guest has on them; and how all of
//! that is changed, on plain QEMU and, but for QEMU's side of it, under libvirt too.
//!
//! ```text
//! query-block ---> drive.rs      what QEMU calls a disk, its size and its limits (dialect.rs)
//! qom-get -------> attached.rs   its bus, and the place at which its guest sees it
//! /proc, stat ---> lies.rs       what is free where it lies
//! guest agent ---> guest.rs      what the guest shows --> stack.rs: the layers on one disk, by_hand.rs: what it hides
//! act.rs                         grow it, grow what lies on it, limit it
//! ```

use std::collections::{BTreeMap, BTreeSet};

use scale::disk::Tool;
use scale::observed::{Disk, Known};
use scale::setting::DiskIo;
use serde_json::Value;

use crate::ObserveError;
use crate::guest::reach::Reach;
use crate::qmp::monitor::{Monitor, each};

pub(crate) mod act;
mod attached;
mod by_hand;
pub(crate) mod dialect;
pub(crate) mod drive;
mod guest;
mod lies;
mod stack;

use attached::Attached;
use by_hand::Unshown;
use drive::{BlockJob, Drive};
use guest::Shown;

/// Names that a manager has given to disks, by the ids of their devices: libvirt's targets.
pub(crate) type Names = BTreeMap<String, String>;

/// The disks, and the programs for them that the guest has.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) disks: Known<Vec<Disk>>,
    pub(crate) tools: BTreeSet<Tool>,
}

/// Looks at all disks. Where there is no `reach`, the guest is not asked; nor is it where QEMU has no disk.
pub(crate) async fn observe(
    monitor: &Monitor,
    reach: Option<&mut Reach>,
    names: &Names,
) -> Result<Seen, ObserveError> {
    let Some(drives) = drives(monitor).await? else {
        let disks = Known::Not("QEMU does not list its block devices".to_owned());
        return Ok(Seen { disks, tools: BTreeSet::new() });
    };
    let shown = match reach {
        Some(reach) if !drives.is_empty() => Some(guest::ask(reach).await),
        Some(_) | None => None,
    };
    let all = each(drives.iter().map(|drive| disk(monitor, drive, shown.as_ref(), names))).await;
    let mut disks = Vec::new();
    for disk in all {
        disks.extend(disk?);
    }
    tell_apart(&mut disks);
    let tools = shown.and_then(Result::ok).map(|shown| shown.tools).unwrap_or_default();
    Ok(Seen { disks: Known::Is(disks), tools })
}

/// Looks at the disk of this name alone, and at what the guest shows of it where there is a `reach`.
pub(crate) async fn look(
    monitor: &Monitor,
    reach: Option<&mut Reach>,
    wanted: &str,
    names: &Names,
) -> Result<Option<Disk>, ObserveError> {
    let Some(drive) = find(monitor, wanted, names).await? else { return Ok(None) };
    let shown = match reach {
        Some(reach) => Some(guest::ask(reach).await),
        None => None,
    };
    disk(monitor, &drive, shown.as_ref(), names).await
}

/// One disk; nothing where it is none. `shown` is what the guest shows, where it was asked.
async fn disk(
    monitor: &Monitor,
    drive: &Drive,
    shown: Option<&Result<Shown, Unshown>>,
    names: &Names,
) -> Result<Option<Disk>, ObserveError> {
    let (attached, io, lies) = tokio::join!(
        attached::look(monitor, drive, shown.is_some()),
        limits(monitor, drive),
        lies::look(drive, monitor.pid())
    );
    let Some(attached) = attached? else { return Ok(None) };
    let guest = match shown {
        Some(Ok(shown)) => stack::find(shown, &attached).map_or_else(Known::Not, Known::Is),
        Some(Err(unshown)) => Known::Not(unshown.of(&attached)),
        None => Known::Not("the guest was not asked".to_owned()),
    };
    let Attached { bus, serial, place: _ } = attached;
    let name = name(drive, names).to_owned();
    let in_guest = guest.known().map(|guest| guest.device.clone());
    let short = in_guest.as_ref().and_then(|device| device.strip_prefix("/dev/")).map(str::to_owned);
    let node = Some(drive.node.clone()).filter(|node| !node.starts_with('#'));
    let aliases = [drive.id.clone(), drive.drive.clone(), node, serial, in_guest, short];
    let mut aliases: Vec<String> = aliases.into_iter().flatten().filter(|alias| *alias != name).collect();
    aliases.dedup();
    Ok(Some(Disk {
        name,
        aliases,
        bus,
        format: drive.format.clone(),
        size: drive.size,
        read_only: drive.read_only,
        busy: drive.busy.clone(),
        lies,
        io: io?,
        guest,
    }))
}

/// A name that is one disk's is no other name of another's: libvirt's `vda` may be the guest's `/dev/vdb`.
fn tell_apart(disks: &mut [Disk]) {
    let names: BTreeSet<String> = disks.iter().map(|disk| disk.name.clone()).collect();
    for disk in disks {
        disk.aliases.retain(|alias| !names.contains(alias));
    }
}

/// What a disk is called.
fn name<'a>(drive: &'a Drive, names: &'a Names) -> &'a str {
    drive.id.as_ref().and_then(|id| names.get(id)).map_or_else(|| drive.name(), String::as_str)
}

/// The disks as QEMU lists them; nothing where it does not.
async fn drives(monitor: &Monitor) -> Result<Option<Vec<Drive>>, ObserveError> {
    let (list, jobs): (_, Option<Vec<BlockJob>>) = tokio::try_join!(
        monitor.ask_if("query-block", Value::Null),
        monitor.ask_if("query-block-jobs", Value::Null),
    )?;
    Ok(list.map(|list| drive::drives(list, &jobs.unwrap_or_default())))
}

/// The disk of this name.
pub(crate) async fn find(
    monitor: &Monitor,
    wanted: &str,
    names: &Names,
) -> Result<Option<Drive>, ObserveError> {
    let drives = drives(monitor).await?.unwrap_or_default();
    Ok(drives.into_iter().find(|drive| name(drive, names) == wanted))
}

/// The limits that hold for a disk.
pub(crate) async fn limits(monitor: &Monitor, drive: &Drive) -> Result<Known<DiskIo>, ObserveError> {
    let of_filter = match &drive.filter {
        Some(group) => {
            let told: Option<Value> = monitor.property(&group_path(group), "limits").await?;
            told.map(|told| dialect::GROUP.read(|name| told.get(name).and_then(Value::as_u64)))
        }
        None => None,
    };
    Ok(drive::limits(drive, of_filter))
}

/// Where a throttle group is among QEMU's objects.
fn group_path(group: &str) -> String {
    format!("/objects/{group}")
}
