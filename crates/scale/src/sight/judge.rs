//! What a look means for a proof: the one place where it is decided whether a step is done.

use super::{BlocksSight, GuestView, Look, Sight, ZonesSight};
use crate::observed::{Disk, GuestVcpu, Known};
use crate::plan::{Proof, Strength};
use crate::units::Bytes;

/// Linux's word for the movable zone (`zone_names`, mm/page_alloc.c, 6.1).
const MOVABLE: &str = "Movable";

/// What a look means for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It holds, this strongly.
    Holds(Strength),
    /// Not yet: this is missing.
    NotYet(String),
    /// No more, however long one waits: this is in the way.
    Never(String),
}

impl Proof {
    /// What must be looked at to judge this. `ask_guest` is false where the plan expects no answer from the guest.
    pub fn look(&self, ask_guest: bool) -> Look {
        match self {
            Proof::BackendExists { memdev } | Proof::BackendGone { memdev } => Look::Backend(memdev.clone()),
            Proof::DimmSeen { id } if ask_guest => Look::Dimm(id.clone()),
            Proof::DimmSeen { id } | Proof::DimmPlugged { id } | Proof::DimmGone { id } => {
                Look::DimmDevice(id.clone())
            }
            Proof::BlocksOnline { device, .. } | Proof::BlocksOffline { device } => {
                Look::Blocks(device.clone())
            }
            Proof::BlocksMovable { device, .. } => Look::Zones(device.clone()),
            Proof::VirtioMemSize { id, .. } | Proof::VirtioMemSettled { id } => Look::VirtioMem(id.clone()),
            Proof::GuestTotal { .. } => Look::GuestTotal,
            Proof::BalloonAt { .. } => Look::Balloon,
            Proof::VcpuSeen { id, .. } if ask_guest => Look::Vcpu(id.clone()),
            Proof::VcpuSeen { id, .. } | Proof::VcpuGone { id } => Look::VcpuDevice(id.clone()),
            Proof::VcpusOnline { .. } => Look::Vcpus,
            Proof::SetAt { setting } => Look::Setting(setting.name()),
            Proof::DiskAt { disk, in_guest: false, .. } => Look::DiskDevice(disk.clone()),
            Proof::DiskAt { disk, .. } | Proof::LayerAt { disk, .. } => Look::Disk(disk.clone()),
        }
    }

    /// What a look means for this proof. `acknowledged` tells whether the guest's ACPI driver has reported the
    /// insertion of the device: enough where the guest cannot be asked for more.
    pub fn judge(&self, sight: &Sight, acknowledged: bool) -> Judgement {
        use Judgement::NotYet;
        use Strength::{DeviceOnly, DriverConfirmed};
        match (self, sight) {
            (Proof::BackendExists { .. }, Sight::Backend(exists)) => {
                holds_if(*exists, DeviceOnly, "QEMU does not list the backend")
            }
            (Proof::BackendGone { .. }, Sight::Backend(exists)) => {
                holds_if(!exists, DeviceOnly, "QEMU still lists the backend")
            }
            (Proof::DimmSeen { .. }, Sight::Dimm(Some(dimm))) => dimm_seen(&dimm.guest, acknowledged),
            (Proof::DimmPlugged { .. }, Sight::Dimm(Some(_))) => Judgement::Holds(DeviceOnly),
            (Proof::DimmSeen { .. } | Proof::DimmPlugged { .. }, Sight::Dimm(None)) => {
                NotYet("QEMU does not list the DIMM".into())
            }
            (Proof::DimmGone { .. }, Sight::Dimm(dimm)) => holds_if(
                dimm.is_none(),
                DriverConfirmed,
                "QEMU still lists the DIMM: the guest has not let it go",
            ),
            (Proof::BlocksOnline { whole, .. }, Sight::Blocks(Some(view))) => blocks_online(view, *whole),
            (Proof::BlocksOffline { .. }, Sight::Blocks(Some(view))) => blocks_offline(view),
            (Proof::BlocksMovable { whole, .. }, Sight::Zones(Some(view))) => blocks_movable(view, *whole),
            (Proof::BlocksOnline { .. }, Sight::Blocks(None))
            | (Proof::BlocksMovable { .. }, Sight::Zones(None)) => {
                NotYet("QEMU does not list the device".into())
            }
            // What is not there has no block online: the undo of a plug that QEMU refused passes by here.
            (Proof::BlocksOffline { .. }, Sight::Blocks(None)) => Judgement::Holds(DeviceOnly),
            (Proof::VirtioMemSize { size, .. }, Sight::VirtioMem(Some(device))) => holds_if(
                device.size == *size,
                DriverConfirmed,
                &format!("the device holds {} of {size}", device.size),
            ),
            (Proof::VirtioMemSettled { .. }, Sight::VirtioMem(Some(device))) => {
                let gap = format!("the device holds {} with {} requested", device.size, device.requested);
                holds_if(device.size == device.requested, DriverConfirmed, &gap)
            }
            (Proof::VirtioMemSize { .. } | Proof::VirtioMemSettled { .. }, Sight::VirtioMem(None)) => {
                NotYet("QEMU does not list the virtio-mem device".into())
            }
            (Proof::BalloonAt { actual }, Sight::Balloon(Some(now))) => {
                holds_if(now == actual, DriverConfirmed, &format!("the balloon is at {now} of {actual}"))
            }
            (Proof::BalloonAt { .. }, Sight::Balloon(None)) => NotYet("there is no balloon".into()),
            (Proof::GuestTotal { at_least }, Sight::GuestTotal(Some(total))) => holds_if(
                total >= at_least,
                DriverConfirmed,
                &format!("the guest counts {total} of {at_least}"),
            ),
            (Proof::GuestTotal { .. }, Sight::GuestTotal(None)) => {
                NotYet("the guest's balloon driver tells nothing".into())
            }
            (Proof::VcpuSeen { present, .. }, Sight::Vcpu { plugged: true, guest }) => {
                vcpu_seen(guest, *present, acknowledged)
            }
            (Proof::VcpuSeen { .. }, Sight::Vcpu { plugged: false, .. }) => {
                NotYet("QEMU does not list the vCPU".into())
            }
            (Proof::VcpuGone { .. }, Sight::Vcpu { plugged, .. }) => {
                holds_if(!plugged, DriverConfirmed, "QEMU still lists the vCPU: the guest has not let it go")
            }
            (Proof::VcpusOnline { count }, Sight::Vcpus(view)) => vcpus_online(view, *count),
            (proof, sight) => proof.judge_limit_or_disk(sight),
        }
    }

    fn judge_limit_or_disk(&self, sight: &Sight) -> Judgement {
        use Judgement::NotYet;
        match (self, sight) {
            (Proof::SetAt { setting }, Sight::Setting(Some(read))) => holds_if(
                setting.is_shown_by(read),
                Strength::DeviceOnly,
                &format!("read back, {} is {}", read.name(), read.value()),
            ),
            (Proof::SetAt { setting }, Sight::Setting(None)) => {
                NotYet(format!("there is nothing to read {} from", setting.name()))
            }
            (Proof::DiskAt { size, in_guest, .. }, Sight::Disk(Some(disk))) => {
                disk_at(disk, *size, *in_guest)
            }
            (Proof::LayerAt { layer, at_least, .. }, Sight::Disk(Some(disk))) => {
                layer_at(disk, layer, *at_least)
            }
            (Proof::DiskAt { .. } | Proof::LayerAt { .. }, Sight::Disk(None)) => {
                NotYet("QEMU does not list the disk".into())
            }
            (proof, sight) => NotYet(format!("the driver answered {proof:?} with {sight:?}")),
        }
    }
}

fn holds_if(holds: bool, strength: Strength, otherwise: &str) -> Judgement {
    if holds { Judgement::Holds(strength) } else { Judgement::NotYet(otherwise.to_owned()) }
}

fn dimm_seen(guest: &GuestView<BlocksSight>, acknowledged: bool) -> Judgement {
    match guest {
        GuestView::Shows(sight) => {
            let shown = sight.blocks.len() as u64;
            let missing = format!("the guest shows {shown} of the {} memory blocks", sight.covers);
            holds_if(shown >= sight.covers, Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) => {
            let missing = format!("the guest has not acknowledged the DIMM and cannot be asked ({why})");
            holds_if(acknowledged, Strength::DriverConfirmed, &missing)
        }
        GuestView::Silent(why) => Judgement::NotYet(format!("the guest does not answer ({why})")),
    }
}

fn online(sight: &BlocksSight, whole: bool) -> Judgement {
    let online = sight.blocks.iter().filter(|b| b.online).count() as u64;
    let shown = sight.blocks.len() as u64;
    let of = if whole { sight.covers } else { sight.covers.max(shown) };
    let missing = format!("{online} of {of} memory blocks are online in the guest");
    holds_if(online >= of, Strength::GuestConfirmed, &missing)
}

/// Once all are online, none changes its zone by itself.
fn blocks_movable(view: &GuestView<ZonesSight>, whole: bool) -> Judgement {
    let ZonesSight { shown, zones } = match view {
        GuestView::Shows(sight) => sight,
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            return Judgement::NotYet(format!("the guest does not answer ({why})"));
        }
    };
    let judged = online(shown, whole);
    if !matches!(judged, Judgement::Holds(_)) {
        return judged;
    }
    let blocks = shown.blocks.iter().filter(|block| block.online);
    let other =
        blocks.map(|b| (b.index, zones.get(&b.index))).find(|(_, zone)| zone.is_none_or(|z| z != MOVABLE));
    match other {
        None => judged,
        Some((index, Some(zone))) => Judgement::Never(format!(
            "memory{index} is online in the zone {zone}: something in the guest put it there first"
        )),
        Some((index, None)) => Judgement::Never(format!(
            "the guest does not tell the zone of memory{index}, so nothing shows that it is movable"
        )),
    }
}

fn blocks_online(view: &GuestView<BlocksSight>, whole: bool) -> Judgement {
    match view {
        GuestView::Shows(sight) => online(sight, whole),
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            Judgement::NotYet(format!("the guest does not answer ({why})"))
        }
    }
}

fn blocks_offline(view: &GuestView<BlocksSight>) -> Judgement {
    match view {
        GuestView::Shows(sight) => {
            let online = sight.blocks.iter().filter(|b| b.online).count();
            let missing = format!("{online} of {} memory blocks are still online in the guest", sight.covers);
            holds_if(online == 0, Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            Judgement::NotYet(format!("the guest does not answer ({why})"))
        }
    }
}

fn vcpu_seen(guest: &GuestView<Vec<GuestVcpu>>, present: u32, acknowledged: bool) -> Judgement {
    match guest {
        GuestView::Shows(vcpus) => {
            let missing = format!("the guest shows {} of {present} vCPUs", vcpus.len());
            holds_if(vcpus.len() as u64 >= u64::from(present), Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) => {
            let missing = format!("the guest has not acknowledged the vCPU and cannot be asked ({why})");
            holds_if(acknowledged, Strength::DriverConfirmed, &missing)
        }
        GuestView::Silent(why) => Judgement::NotYet(format!("the guest does not answer ({why})")),
    }
}

fn vcpus_online(view: &GuestView<Vec<GuestVcpu>>, count: u32) -> Judgement {
    match view {
        GuestView::Shows(vcpus) => {
            let online = vcpus.iter().filter(|v| v.online).count() as u64;
            let missing = format!("{online} of {count} vCPUs are online in the guest");
            holds_if(online >= u64::from(count), Strength::GuestConfirmed, &missing)
        }
        GuestView::Unasked(why) | GuestView::Silent(why) => {
            Judgement::NotYet(format!("the guest does not answer ({why})"))
        }
    }
}

fn disk_at(disk: &Disk, size: Bytes, in_guest: bool) -> Judgement {
    if disk.size != size {
        return Judgement::NotYet(format!("QEMU shows the disk at {} of {size}", disk.size));
    }
    if !in_guest {
        return Judgement::Holds(Strength::DeviceOnly);
    }
    match &disk.guest {
        Known::Is(guest) => holds_if(
            guest.size == size,
            Strength::GuestConfirmed,
            &format!("the guest shows {} at {} of {size}", guest.device, guest.size),
        ),
        Known::Not(why) => Judgement::NotYet(format!("the guest does not show the disk ({why})")),
    }
}

fn layer_at(disk: &Disk, name: &str, at_least: Bytes) -> Judgement {
    let guest = match &disk.guest {
        Known::Is(guest) => guest,
        Known::Not(why) => return Judgement::NotYet(format!("the guest does not show the disk ({why})")),
    };
    match guest.layers.iter().find_map(|layer| layer.find(name)) {
        Some(layer) => holds_if(
            layer.size >= at_least,
            Strength::GuestConfirmed,
            &format!("the guest shows {name} at {} of {at_least}", layer.size),
        ),
        None => Judgement::NotYet(format!("the guest shows no {name} on the disk")),
    }
}
