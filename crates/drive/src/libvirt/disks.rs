//! Disks of a machine of libvirt's: found under libvirt's names, seen as on plain QEMU, changed by libvirt's own calls.

use scale::setting::DiskIo;
use scale::units::Bytes;
use tokio::time::Instant;

use super::act::Hand;
use super::definition::described;
use super::terms::Xml;
use crate::ApplyError;
use crate::disk::{Names, act};
use crate::domxml::Domain;
use crate::qmp::monitor::Monitor;

/// The names that libvirt has given to disks (`vda`), by the ids of their devices.
pub(super) fn names(description: &Domain) -> Names {
    let named = |disk: &crate::domxml::DiskTarget| Some((disk.alias.clone()?, disk.target.clone()));
    description.disks.iter().filter_map(named).collect()
}

/// Asks for them anew: disks come and go while a machine runs.
pub(super) async fn ask(hand: &Hand, until: Instant) -> Result<Names, String> {
    described(hand.domain(), hand.lane(), Xml::Live, until).await.map(|description| names(&description))
}

/// Makes a disk larger.
pub(super) async fn grow(
    hand: &Hand,
    monitor: &Monitor,
    names: &Names,
    (disk, from, to): (&str, Bytes, Bytes),
    until: Instant,
) -> Result<(), ApplyError> {
    if act::may_grow(monitor, names, disk, from, to).await?.is_none() {
        return Ok(());
    }
    let target = disk.to_owned();
    hand.change("a disk's growth", until, move |domain| domain.block_resize(&target, to)).await
}

/// Limits a disk, on both sides.
pub(super) async fn limit(
    hand: &Hand,
    monitor: &Monitor,
    names: &Names,
    (disk, from, to): (&str, &DiskIo, &DiskIo),
    until: Instant,
) -> Result<(), ApplyError> {
    let drive = act::may_set(monitor, names, disk, from, to).await?;
    if let Some(group) = drive.filter {
        return Err(ApplyError::Refused(format!(
            "disk {disk} is limited by throttle group {group}, which libvirt keeps for more than this disk; set it \
             with: virsh domthrottlegroupset"
        )));
    }
    let (target, to, affect) = (disk.to_owned(), to.clone(), hand.definition.both());
    hand.change("a disk's limits", until, move |domain| domain.set_block_io(&target, &to, affect)).await
}
