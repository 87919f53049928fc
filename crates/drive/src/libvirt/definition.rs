//! The definition that a machine's next start takes, and how it follows the running machine.
//!
//! What libvirt changes on both sides in one call needs nothing here. Removals and virtio-mem do: the definition follows
//! when the device is gone, or when the running one has taken its new size. A controller that dies in between leaves
//! the definition behind; the next one makes up for that ([`Definition::follow`]). It will not change what runs.

use std::time::Duration;

use scale::observed::{Observed, VcpuSlot, VcpuState};
use scale::units::Bytes;
use tokio::time::Instant;

use super::domain::Domain;
use super::error::Error;
use super::pool::{CallError, Lane};
use super::terms::{Affect, Xml};
use crate::domxml::{self, MemoryDevice, MemoryModel, as_attached, with_requested};

/// How long libvirt may take to change a definition.
const DEFINITION: Duration = Duration::from_secs(30);

/// The definition of one domain.
#[derive(Debug)]
pub(super) struct Definition {
    domain: Domain,
    lane: Lane,
    /// Whether it follows: it is there, and that is wanted.
    keeps: bool,
    /// What was asked to leave the running machine and is still in here.
    leaving: Vec<(String, Leaving)>,
    not_followed: Vec<String>,
}

/// Something that was asked to leave.
#[derive(Debug, Clone)]
pub(super) enum Leaving {
    /// A memory device, as it was described while it ran.
    Memory(Box<MemoryDevice>),
    /// A DIMM that libvirt does not describe any more.
    Named,
    /// A vCPU, by libvirt's number for it.
    Vcpu(String),
}

impl Definition {
    pub(super) fn new(domain: Domain, lane: Lane, is_persistent: bool) -> Definition {
        Definition { domain, lane, keeps: is_persistent, leaving: Vec::new(), not_followed: Vec::new() }
    }

    /// Whether it follows, where there is one.
    pub(super) fn keep(&mut self, keeps: bool) {
        self.keeps = self.keeps && keeps;
    }

    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    pub(super) fn not_followed(&self) -> &[String] {
        &self.not_followed
    }

    /// What a change is to be made to that libvirt makes to both sides at once.
    pub(super) fn both(&self) -> Affect {
        if self.keeps { Affect::Both } else { Affect::Live }
    }

    /// Takes note that this was asked to leave the running machine.
    pub(super) fn leaves(&mut self, id: &str, what: Leaving) {
        self.leaving.retain(|(leaving, _)| leaving != id);
        if self.keeps {
            self.leaving.push((id.to_owned(), what));
        }
    }

    /// A device is no more, and goes from here too.
    pub(super) async fn gone(&mut self, id: &str) {
        let Some(at) = self.leaving.iter().position(|(leaving, _)| leaving == id) else { return };
        let (id, what) = self.leaving.remove(at);
        let followed = match what {
            Leaving::Memory(device) => self.forget_memory(&device).await,
            Leaving::Named => self.forget_by_name(&id).await,
            Leaving::Vcpu(number) => self.forget_vcpu(number).await,
        };
        self.note(&format!("the removal of {id}"), followed);
    }

    /// What was asked to leave and is not seen any more goes from here too.
    pub(super) async fn gone_from(&mut self, seen: &Observed) {
        let is_there = |id: &str| {
            let vcpu = |slot: &VcpuSlot| matches!(&slot.state, VcpuState::Device(device) if device == id);
            seen.memory.dimms.iter().any(|dimm| dimm.id == id) || seen.vcpus.slots.iter().any(vcpu)
        };
        let gone = self.leaving.iter().map(|(id, _)| id).filter(|id| !is_there(id));
        for id in gone.cloned().collect::<Vec<_>>() {
            self.gone(&id).await;
        }
    }

    /// This much is asked of a virtio-mem device that runs, and is asked of it here too.
    pub(super) async fn requested(&mut self, live: &MemoryDevice, size: Bytes) {
        if self.keeps {
            let followed = self.request(live, size).await;
            self.note(&format!("the size of {}", live.alias.as_deref().unwrap_or("virtio-mem")), followed);
        }
    }

    /// Makes up for what a controller that died did not see through: a device that is gone from the running machine goes
    /// from here, and a virtio-mem device is asked for the same. `is_gone`: QEMU has no such vCPU or DIMM, or why it does
    /// not tell.
    pub(super) async fn follow(&mut self, id: &str, is_gone: Result<bool, String>) {
        if self.keeps {
            let followed = match is_gone {
                Ok(is_gone) => self.followed(id, is_gone).await,
                Err(why) => Err(why),
            };
            self.note(&format!("what became of {id}"), followed);
        }
    }

    async fn followed(&self, id: &str, is_gone: bool) -> Result<(), String> {
        if let Some(number) = vcpu_number(id) {
            return if is_gone { self.forget_vcpu(number).await } else { Ok(()) };
        }
        match self.memory_device(Xml::Live, |device| device.alias.as_deref() == Some(id)).await? {
            Some(device) if device.model == MemoryModel::VirtioMem => {
                self.request(&device, device.requested.unwrap_or(Bytes::ZERO)).await
            }
            // Described, and gone all the same: libvirt takes note of it a moment after QEMU.
            Some(_stays) if !is_gone => Ok(()),
            Some(_) | None => self.forget_by_name(id).await,
        }
    }

    async fn request(&self, live: &MemoryDevice, size: Bytes) -> Result<(), String> {
        let next = self.same_as(live).await?;
        let next = next.ok_or("the definition has no such device")?;
        if next.requested == Some(size) {
            return Ok(());
        }
        let xml = with_requested(&next.xml, size).map_err(|error| error.to_string())?;
        self.change(move |domain| domain.update(&xml, Affect::Config)).await
    }

    async fn forget_memory(&self, live: &MemoryDevice) -> Result<(), String> {
        match self.same_as(live).await? {
            Some(next) => self.change(move |domain| domain.detach(&next.xml, Affect::Config)).await,
            // It was plugged into the running machine alone.
            None => Ok(()),
        }
    }

    /// Forgets a DIMM of which only the name is left. One that libvirt named is called `dimm` and its slot's number
    /// (`qemuAssignDeviceMemoryAlias`, 9.0 and 11.3), and has no name here.
    async fn forget_by_name(&self, id: &str) -> Result<(), String> {
        let slot = id.strip_prefix("dimm").and_then(|number| number.parse().ok());
        let is_it = |device: &MemoryDevice| match &device.alias {
            Some(alias) => alias == id,
            None => slot.is_some() && device.slot.map(|slot| slot.number) == slot,
        };
        let is_dimm = |device: &MemoryDevice| device.model == MemoryModel::Dimm && is_it(device);
        match self.memory_device(Xml::Inactive, is_dimm).await? {
            Some(next) => self.change(move |domain| domain.detach(&next.xml, Affect::Config)).await,
            None => Ok(()),
        }
    }

    async fn forget_vcpu(&self, number: String) -> Result<(), String> {
        let next = self.described(Xml::Inactive).await?;
        let is_there = match next.vcpus.each.iter().find(|vcpu| vcpu.id.to_string() == number) {
            Some(vcpu) => vcpu.enabled,
            // Without a list they are the first ones.
            None => number.parse().is_ok_and(|number: u32| number < next.vcpus.current),
        };
        if !is_there {
            return Ok(());
        }
        self.change(move |domain| domain.set_vcpu(&number, false, Affect::Config)).await
    }

    /// The same device in here. Aliases of libvirt's own making are not in here, a virtio-mem device has no address
    /// here before 9.4, and a size stands here as it was written, where the running machine has it rounded.
    async fn same_as(&self, live: &MemoryDevice) -> Result<Option<MemoryDevice>, String> {
        let alike = |device: &MemoryDevice| {
            let sizes = [device.size, as_attached(device.size, false), as_attached(device.size, true)];
            device.model == live.model && device.node == live.node && sizes.contains(&live.size)
        };
        let number = |device: &MemoryDevice| device.slot.map(|slot| slot.number);
        self.memory_device(Xml::Inactive, |device| match (&device.alias, &live.alias) {
            (Some(a), Some(b)) => a == b,
            _one_has_none => alike(device) && (number(device).is_none() || number(device) == number(live)),
        })
        .await
    }

    async fn memory_device(
        &self,
        which: Xml,
        is_it: impl Fn(&MemoryDevice) -> bool,
    ) -> Result<Option<MemoryDevice>, String> {
        let description = self.described(which).await?;
        let is_ours =
            |device: &&MemoryDevice| matches!(device.model, MemoryModel::Dimm | MemoryModel::VirtioMem);
        Ok(description.memory_devices.iter().filter(is_ours).find(|device| is_it(device)).cloned())
    }

    async fn described(&self, which: Xml) -> Result<domxml::Domain, String> {
        described(&self.domain, &self.lane, which, Instant::now() + DEFINITION).await
    }

    async fn change(
        &self,
        call: impl FnOnce(&Domain) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), String> {
        let domain = self.domain.clone();
        let changed = self.lane.call("a change of the definition", DEFINITION, move || call(&domain)).await;
        changed.map_err(|error: CallError| error.to_string())
    }

    fn note(&mut self, what: &str, followed: Result<(), String>) {
        if let Err(why) = followed {
            self.not_followed.push(format!("{what}: {why}"));
        }
    }
}

/// A description of a domain, read by `until`.
pub(super) async fn described(
    domain: &Domain,
    lane: &Lane,
    which: Xml,
    until: Instant,
) -> Result<domxml::Domain, String> {
    let domain = domain.clone();
    let left = until.saturating_duration_since(Instant::now());
    let xml = lane.call("a description", left, move || domain.xml(which)).await;
    domxml::Domain::parse(&xml.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

/// libvirt's number of the vCPU that it calls `vcpu7`.
pub(super) fn vcpu_number(id: &str) -> Option<String> {
    id.strip_prefix("vcpu").filter(|number| number.parse::<u32>().is_ok()).map(str::to_owned)
}
