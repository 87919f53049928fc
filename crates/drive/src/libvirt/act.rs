//! Acts as libvirt's calls, each on the running domain and on the definition that its next start takes, so that both
//! stay equal. A removal is asked of the running domain first; the definition follows when the device is gone (see
//! `definition`), because libvirt itself would count a guest that has not answered in 5 s as success (9.0 and 11.3).

use std::time::Duration;

use scale::plan::Act;
use scale::setting::Setting;
use scale::units::Bytes;
use tokio::time::Instant;

use super::definition::{Definition, Leaving, described, vcpu_number};
use super::domain::Domain;
use super::error::{Code, Error};
use super::pool::{CallError, Lane};
use super::terms::{Affect, Xml};
use super::{disks, memory_limit, nics, power};
use crate::ApplyError;
use crate::disk::Names;
use crate::disk::act::grow_in_guest;
use crate::domxml::{DeviceKind, DeviceWish, MemoryDevice, MemoryModel, device_xml, with_requested};
use crate::guest::onlining;
use crate::guest::reach::Reach;
use crate::qmp::act::{REQUESTED, guard, make_known, offline, online, path};
use crate::qmp::driver::duration;
use crate::qmp::monitor::Monitor;
use crate::qmp::observe::may_lose_a_vcpu;

/// What changes one domain.
#[derive(Debug)]
pub(super) struct Hand {
    domain: Domain,
    lane: Lane,
    pub(super) definition: Definition,
    /// How long the guest may take to empty one memory block.
    block: Duration,
}

impl Hand {
    pub(super) fn new(domain: Domain, lane: Lane, is_persistent: bool, block: Duration) -> Hand {
        let definition = Definition::new(domain.clone(), lane.clone(), is_persistent);
        Hand { domain, lane, definition, block }
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Carries out one act by `until`. `names` are libvirt's of disks.
    pub(super) async fn apply(
        &mut self,
        monitor: &Monitor,
        reach: &mut Reach,
        act: &Act,
        names: &Names,
        until: Instant,
    ) -> Result<(), ApplyError> {
        match act {
            Act::CreateBackend { memdev, .. }
            | Act::DeleteBackend { memdev }
            | Act::PlugDimm { memdev, brings: None, .. } => Err(ApplyError::Refused(format!(
                "libvirt makes and frees the backend of a memory device with the device; {memdev} cannot be by itself"
            ))),
            Act::PlugDimm { id, brings: Some(size), slot, node, addr, .. } => {
                self.plug_dimm(id, *size, *slot, *node, *addr, until).await
            }
            Act::UnplugDimm { id, .. } => self.unplug_dimm(id, until).await,
            Act::ResizeVirtioMem { id, from, to } => {
                let now = requested(monitor, id, REQUESTED).await?;
                guard(&format!("the size requested of {id}"), now, *from, *to)?;
                self.request(id, *to, until).await
            }
            Act::SettleVirtioMem { id } => {
                let size = requested(monitor, id, "size").await?;
                self.request(id, size, until).await
            }
            // A target is absolute, and a balloon may still be on its way to an earlier one.
            Act::SetBalloon { to, .. } => {
                let (affect, to) = (self.definition.both(), *to);
                self.change("the balloon's target", until, move |domain| domain.set_memory(to, affect)).await
            }
            Act::PlugVcpu { id, .. } => {
                let (number, affect) = (number(id)?, self.definition.both());
                let call = move |domain: &Domain| domain.set_vcpu(&number, true, affect);
                self.change("a vCPU's plugging", until, call).await.map_err(|error| explained(error, id))
            }
            Act::UnplugVcpu { id } => {
                may_lose_a_vcpu(monitor).await?;
                self.unplug_vcpu(id, until).await
            }
            Act::MakeKnown { device, after } => {
                make_known(monitor, reach, device, duration(*after), until).await
            }
            Act::OnlineBlocks { device, zone } => online(monitor, reach, device, *zone, until).await,
            Act::OfflineBlocks { device } => offline(monitor, reach, device, self.block, until).await,
            Act::OnlineVcpus { count } => onlining::online_vcpus(reach, *count, until).await,
            Act::AwaitOnline { .. } => Ok(()),
            Act::Set { from, to } => self.set(monitor, from, to, names, until).await,
            Act::GrowDisk { disk, from, to } => {
                disks::grow(self, monitor, names, (disk, *from, *to), until).await
            }
            Act::GrowInGuest { device, layer, tool, .. } => {
                grow_in_guest(reach, device, layer, *tool, until).await
            }
        }
    }

    async fn set(
        &self,
        monitor: &Monitor,
        from: &Setting,
        to: &Setting,
        names: &Names,
        until: Instant,
    ) -> Result<(), ApplyError> {
        match (from, to) {
            (Setting::CpuPower(from), Setting::CpuPower(to)) => {
                power::set(self, monitor, *from, *to, until).await
            }
            (Setting::DiskIo { io: from, .. }, Setting::DiskIo { disk, io: to }) => {
                disks::limit(self, monitor, names, (disk, from, to), until).await
            }
            (_, Setting::Memory { .. } | Setting::Locked { .. }) => {
                memory_limit::set(self, monitor, from, to, until).await
            }
            (
                _,
                Setting::NicRate { .. }
                | Setting::IpRate { .. }
                | Setting::CpuPower(_)
                | Setting::DiskIo { .. },
            ) => nics::set(self, monitor, from, to, until).await,
        }
    }

    async fn plug_dimm(
        &self,
        id: &str,
        size: Bytes,
        slot: u32,
        node: u32,
        addr: Option<u64>,
        until: Instant,
    ) -> Result<(), ApplyError> {
        let wish = DeviceWish {
            kind: DeviceKind::Dimm { slot: Some(slot), base: addr },
            size,
            unit: Bytes::mib(2),
            node: Some(node),
            alias: Some(id.to_owned()),
            page_size: None,
        };
        let xml = device_xml(&wish).map_err(|error| ApplyError::Refused(error.to_string()))?;
        let affect = self.definition.both();
        let plugged =
            self.change("a DIMM's plugging", until, move |domain| domain.attach(&xml, affect)).await;
        plugged.map_err(|error| match error {
            // The plan saw to it that the running machine has room.
            ApplyError::Refused(why) if affect == Affect::Both && is_about_room(&why) => {
                ApplyError::Refused(format!(
                    "{why}; its definition for the next start is another one by now and has no room for it (--live-only \
                     leaves the definition as it is)"
                ))
            }
            ApplyError::Refused(why) if why.contains("cannot limit locked memory") => {
                ApplyError::Refused(format!(
                    "{why}; libvirt bounds what QEMU may lock by the machine's hard_limit before it plugs memory, and its \
                     daemon lacks CAP_SYS_RESOURCE here: give it that, or lift the limit with `virsh memtune DOMAIN \
                     --hard-limit -1 --live`"
                ))
            }
            other @ (ApplyError::Refused(_) | ApplyError::Unknown(_)) => other,
        })
    }

    /// The definition knows of it before it is asked: where the guest grants an earlier request for the same meanwhile, this
    /// one is refused, and the device is gone all the same.
    async fn unplug_dimm(&mut self, id: &str, until: Instant) -> Result<(), ApplyError> {
        self.definition.leaves(id, Leaving::Named);
        let device = self.memory_device(id, until).await?;
        self.definition.leaves(id, Leaving::Memory(Box::new(device)));
        let alias = id.to_owned();
        self.change("a DIMM's removal", until, move |domain| domain.detach_alias(&alias, Affect::Live)).await
    }

    /// As for a DIMM.
    async fn unplug_vcpu(&mut self, id: &str, until: Instant) -> Result<(), ApplyError> {
        let number = number(id)?;
        self.definition.leaves(id, Leaving::Vcpu(number.clone()));
        let domain = self.domain.clone();
        let call = move || domain.set_vcpu(&number, false, Affect::Live);
        match self.lane.call("a vCPU's removal", left(until), call).await {
            Ok(()) => Ok(()),
            // Asked of the guest, which has not answered within libvirt's 5 s: followed by QEMU's events from here on.
            Err(CallError::Libvirt(error)) if is_unanswered(&error) => Ok(()),
            Err(error) => Err(refused(error)),
        }
    }

    /// Asks for this much of a virtio-mem device, then has the definition follow.
    async fn request(&mut self, id: &str, size: Bytes, until: Instant) -> Result<(), ApplyError> {
        let device = self.memory_device(id, until).await?;
        let xml =
            with_requested(&device.xml, size).map_err(|error| ApplyError::Refused(error.to_string()))?;
        self.change("a virtio-mem device's size", until, move |domain| domain.update(&xml, Affect::Live))
            .await?;
        self.definition.requested(&device, size).await;
        Ok(())
    }

    /// A memory device of the running domain.
    async fn memory_device(&self, id: &str, until: Instant) -> Result<MemoryDevice, ApplyError> {
        let description = described(&self.domain, &self.lane, Xml::Live, until).await;
        let devices = description.map_err(ApplyError::Refused)?.memory_devices;
        let is_ours = |device: &MemoryDevice| {
            matches!(device.model, MemoryModel::Dimm | MemoryModel::VirtioMem)
                && device.alias.as_deref() == Some(id)
        };
        let found = devices.into_iter().find(is_ours);
        found.ok_or_else(|| ApplyError::Refused(format!("libvirt lists no memory device {id}")))
    }

    pub(super) async fn change(
        &self,
        what: &'static str,
        until: Instant,
        call: impl FnOnce(&Domain) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), ApplyError> {
        let domain = self.domain.clone();
        self.lane.call(what, left(until), move || call(&domain)).await.map_err(refused)
    }
}

/// An emulated vCPU's end is not told to libvirt, which then takes the vCPU for one that is there.
fn explained(error: ApplyError, vcpu: &str) -> ApplyError {
    match &error {
        ApplyError::Refused(why) if why.contains("already in requested state") => {
            ApplyError::Refused(format!(
                "{why}: QEMU has no {vcpu}, and libvirt has not learnt that it left, as it does not under \
                 emulation; restart libvirt's daemon, which looks at its machines anew and does not touch them"
            ))
        }
        ApplyError::Refused(_) | ApplyError::Unknown(_) => error,
    }
}

async fn requested(monitor: &Monitor, id: &str, property: &str) -> Result<Bytes, ApplyError> {
    let told: Option<u64> = monitor.property(&path(id), property).await?;
    told.map(Bytes::new).ok_or_else(|| ApplyError::Refused(format!("there is no virtio-mem device {id}")))
}

fn number(id: &str) -> Result<String, ApplyError> {
    vcpu_number(id).ok_or_else(|| {
        ApplyError::Refused(format!("{id} is no vCPU of libvirt's: it was plugged behind libvirt's back"))
    })
}

/// True where libvirt finds no room for a memory device (libvirt 9.0 and 11.3, `virDomainDefPostParseMemory`,
/// `qemuDomainDefValidateMemoryHotplug`).
fn is_about_room(why: &str) -> bool {
    ["would exceed domain's maxMemory", "exceeds slots count", "no free memory device slot"]
        .iter()
        .any(|part| why.contains(part))
}

/// True where libvirt asked the guest for something and has not seen it done. Other jobs that hold the domain time out
/// with the same code, but they say which lock they waited for.
fn is_unanswered(error: &Error) -> bool {
    error.code == Code::OperationTimeout && error.message.contains("unplug request timed out")
}

pub(super) fn refused(error: CallError) -> ApplyError {
    match error {
        CallError::TimedOut { .. } => ApplyError::Unknown(error.to_string()),
        CallError::Busy { .. } | CallError::Crowded { .. } => ApplyError::Refused(error.to_string()),
        CallError::Libvirt(error) if error.is_no_answer() => ApplyError::Unknown(error.message),
        CallError::Libvirt(error) if error.is_held() => ApplyError::Refused(error.held()),
        CallError::Libvirt(error) => ApplyError::Refused(error.message),
    }
}

pub(super) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
