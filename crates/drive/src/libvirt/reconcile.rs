//! A definition that has come apart from the running machine, and the changes that make it follow again. The running
//! machine is what counts and is never touched here; what only a new start can bring is left alone.

use std::collections::BTreeSet;

use scale::units::Bytes;
use serde_json::Value;

use super::error::{Code, Error};
use super::kept::Kept;
use super::pool::CallError;
use super::terms::{Affect, Xml};
use crate::domxml::{
    BadXml, DeviceKind, DeviceWish, Domain, Drift, MemoryDevice, MemoryModel, device_xml, drift,
    with_requested,
};

/// How a running machine and its definition have come apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Apart {
    /// What can be mended now, in the order in which it must be.
    pub mends: Vec<Mend>,
    /// What the next start brings: prepared, and meant so.
    pub waits: Vec<Drift>,
    /// What a person must decide, with the reason.
    pub by_hand: Vec<(Drift, String)>,
}

/// One difference and the changes of the definition that end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mend {
    /// The difference.
    pub drift: Drift,
    changes: Vec<Change>,
}

/// A change of the definition alone.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// A memory device comes.
    Attach(String),
    /// A memory device goes.
    Detach(String),
    /// A virtio-mem device is asked for another amount.
    Update(String),
    /// A vCPU is there, or not.
    Vcpu { number: u32, enabled: bool },
}

impl Mend {
    /// What is done, for people.
    pub fn what(&self) -> String {
        let words = |change: &Change| match change {
            Change::Attach(_) => "add the device to the definition".to_owned(),
            Change::Detach(_) => "take the device out of the definition".to_owned(),
            Change::Update(_) => "request the same in the definition".to_owned(),
            Change::Vcpu { number, enabled: true } => format!("have vCPU {number} in the definition"),
            Change::Vcpu { number, enabled: false } => format!("leave vCPU {number} out of the definition"),
        };
        self.changes.iter().map(words).collect::<Vec<_>>().join(", then ")
    }
}

/// Compares the running machine with its definition. Nothing is apart where all three are empty.
pub fn apart(live: &Domain, next: &Domain) -> Apart {
    let mut apart = Apart::default();
    for drift in drift(live, next) {
        if drift.awaits_restart() {
            apart.waits.push(drift);
            continue;
        }
        match changes(&drift, live, next) {
            Ok(changes) => apart.mends.push(Mend { drift, changes }),
            Err(why) => apart.by_hand.push((drift, why)),
        }
    }
    // Slots are freed before they are taken.
    apart.mends.sort_by_key(|mend| !matches!(mend.drift, Drift::OnlyNextBoot { .. }));
    apart
}

fn changes(drift: &Drift, live: &Domain, next: &Domain) -> Result<Vec<Change>, String> {
    match drift {
        Drift::OnlyLive { device } => Ok(vec![Change::Attach(described(device)?)]),
        Drift::OnlyNextBoot { device } => {
            ours(device)?;
            Ok(vec![Change::Detach(device.xml.clone())])
        }
        Drift::Rounded { model, node, live: size, next: written } => {
            let found = |device: &&MemoryDevice| device.model == *model && device.node == *node;
            let running = live.memory_devices.iter().filter(found).find(|device| device.size == *size);
            let defined = next.memory_devices.iter().filter(found).find(|device| device.size == *written);
            let (Some(running), Some(defined)) = (running, defined) else { return Err(lost()) };
            Ok(vec![Change::Detach(defined.xml.clone()), Change::Attach(described(running)?)])
        }
        Drift::Requested { node, live: asked, next: written } => {
            let is_it = |device: &&MemoryDevice| {
                device.model == MemoryModel::VirtioMem
                    && device.node == *node
                    && device.requested.unwrap_or(Bytes::ZERO) == *written
            };
            let defined = next.memory_devices.iter().find(is_it).ok_or_else(lost)?;
            let xml = with_requested(&defined.xml, *asked).map_err(|error| error.to_string())?;
            Ok(vec![Change::Update(xml)])
        }
        Drift::Vcpus { .. } => {
            let numbers = 0..live.vcpus.max.min(next.vcpus.max);
            let differ = numbers.filter(|number| has(live, *number) != has(next, *number));
            Ok(differ.map(|number| Change::Vcpu { number, enabled: has(live, number) }).collect())
        }
        Drift::Balloon { .. } => {
            Err("the balloon is a matter of the moment; `virsh setmem --config` sets what the next start has"
                .to_owned())
        }
        Drift::RemovableVcpus { .. } => {
            Err("which vCPUs the next start can give up is decided by `supple prepare \
                                             --removable-vcpus`"
                .to_owned())
        }
        Drift::MaxMemory { .. }
        | Drift::Slots { .. }
        | Drift::MaxVcpus { .. }
        | Drift::Topology { .. }
        | Drift::Cells { .. }
        | Drift::BootMemory { .. }
        | Drift::AgentChannel { .. } => Err("it waits for the next start".to_owned()),
    }
}

fn lost() -> String {
    "the device is not found in both descriptions; look at `virsh dumpxml` with and without --inactive"
        .to_owned()
}

/// Whether a vCPU is there; without a list they are the first ones.
fn has(domain: &Domain, number: u32) -> bool {
    match domain.vcpus.each.iter().find(|vcpu| vcpu.id == number) {
        Some(vcpu) => vcpu.enabled,
        None => number < domain.vcpus.current,
    }
}

fn ours(device: &MemoryDevice) -> Result<(), String> {
    match device.model {
        MemoryModel::Dimm | MemoryModel::VirtioMem => Ok(()),
        MemoryModel::Nvdimm | MemoryModel::VirtioPmem | MemoryModel::SgxEpc | MemoryModel::Other(_) => {
            Err("Supple keeps its hands off such a device: it may hold data; `virsh attach-device` or `detach-device` with \
                 --config does it"
                .to_owned())
        }
    }
}

/// The description with which a running device gets into the definition, in the same place and by the same name.
fn described(device: &MemoryDevice) -> Result<String, String> {
    ours(device)?;
    let kind = match device.block {
        Some(block) => DeviceKind::VirtioMem { block, requested: device.requested.unwrap_or(Bytes::ZERO) },
        None => DeviceKind::Dimm {
            slot: device.slot.map(|slot| slot.number),
            base: device.slot.and_then(|slot| slot.base),
        },
    };
    let wish = DeviceWish {
        kind,
        size: device.size,
        unit: device.block.unwrap_or(Bytes::mib(2)),
        node: device.node,
        // libvirt keeps no other names in a definition.
        alias: device.alias.clone().filter(|alias| alias.starts_with("ua-")),
        page_size: device.page_size,
    };
    device_xml(&wish).map_err(|error| error.to_string())
}

/// Why it is not known how far they have come apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApartError {
    /// libvirt does not tell.
    #[error(transparent)]
    Untold(#[from] CallError),
    /// A description makes no sense.
    #[error(transparent)]
    Description(#[from] BadXml),
}

impl Kept {
    /// How far the running machine and its definition have come apart; nothing where it does not run or has no definition.
    ///
    /// # Errors
    /// [`ApartError`].
    pub async fn apart(&self) -> Result<Option<Apart>, ApartError> {
        if !self.state().await?.is_there()
            || !self.call("a question to libvirt", |domain| domain.is_persistent()).await?
        {
            return Ok(None);
        }
        let mut live = Domain::parse(&self.described(Xml::Live).await?)?;
        let next = Domain::parse(&self.described(Xml::Inactive).await?)?;
        if let Some(present) = self.vcpus().await? {
            live.vcpus.set_present(&present);
        }
        Ok(Some(apart(&live, &next)))
    }

    /// The vCPUs that QEMU has, by libvirt's numbers, which are QEMU's own; nothing where there is no QEMU to ask. libvirt
    /// never learns of an emulated vCPU's end, so what it describes may be one that has left.
    async fn vcpus(&self) -> Result<Option<BTreeSet<u32>>, CallError> {
        const QUESTION: &str = "{\"execute\":\"query-cpus-fast\"}";
        match self.call("a question to QEMU", |domain| domain.monitor_command(QUESTION)).await {
            Ok(reply) => Ok(numbers(&reply)),
            Err(CallError::Libvirt(error)) if error.code == Code::NoSupport => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes the definition so that this difference is no more.
    ///
    /// # Errors
    /// libvirt does not accept a change; the ones before it are made.
    pub async fn mend(&self, mend: &Mend) -> Result<(), CallError> {
        for change in mend.changes.clone() {
            self.call("a change of the definition", move |domain| -> Result<(), Error> {
                match &change {
                    Change::Attach(xml) => domain.attach(xml, Affect::Config),
                    Change::Detach(xml) => domain.detach(xml, Affect::Config),
                    Change::Update(xml) => domain.update(xml, Affect::Config),
                    Change::Vcpu { number, enabled } => {
                        domain.set_vcpu(&number.to_string(), *enabled, Affect::Config)
                    }
                }
            })
            .await?;
        }
        Ok(())
    }
}

/// The numbers in QEMU's reply to `query-cpus-fast`.
fn numbers(reply: &str) -> Option<BTreeSet<u32>> {
    let reply: Value = serde_json::from_str(reply).ok()?;
    let number = |cpu: &Value| u32::try_from(cpu["cpu-index"].as_u64()?).ok();
    reply["return"].as_array()?.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMM: &str = "<memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target>\
                        <alias name='ua-supple-dimm0'/><address type='dimm' slot='3' base='0x140000000'/></memory>";
    const ODD: &str =
        "<memory model='dimm'><target><size unit='KiB'>524287</size><node>0</node></target></memory>";
    const NVDIMM: &str = "<memory model='nvdimm'><source><path>/n</path></source><target><size unit='GiB'>1</size>\
                          <node>0</node></target></memory>";

    fn machine(vcpus: &str, devices: &str) -> Domain {
        let text = format!(
            "<domain type='kvm'><name>web1</name><maxMemory slots='8' unit='GiB'>8</maxMemory><memory unit='GiB'>1</memory>\
             {vcpus}<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><cpu><numa><cell id='0' cpus='0-3' \
             memory='1' unit='GiB'/></numa></cpu><devices>{devices}</devices></domain>"
        );
        Domain::parse(&text).unwrap()
    }

    const VCPUS: &str = "<vcpu current='2'>4</vcpu>";

    #[test]
    fn a_running_device_comes_into_the_definition_with_its_name_and_place() {
        let apart = apart(&machine(VCPUS, DIMM), &machine(VCPUS, ""));
        let [Mend { changes, .. }] = apart.mends.as_slice() else { panic!("{apart:?}") };
        let [Change::Attach(xml)] = changes.as_slice() else { panic!("{changes:?}") };
        for part in ["ua-supple-dimm0", "slot='3'", "0x140000000", ">524288<"] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
    }

    #[test]
    fn what_left_the_running_machine_leaves_first() {
        let other = DIMM.replace("512", "1024");
        let apart = apart(&machine(VCPUS, DIMM), &machine(VCPUS, &other));
        let kinds: Vec<_> = apart.mends.iter().map(|mend| mend.what()).collect();
        assert_eq!(kinds, ["take the device out of the definition", "add the device to the definition"]);
    }

    #[test]
    fn a_number_that_libvirt_rounds_is_written_exactly() {
        let live = DIMM.replace("<alias name='ua-supple-dimm0'/>", "<alias name='dimm0'/>");
        let apart = apart(&machine(VCPUS, &live), &machine(VCPUS, ODD));
        let [Mend { changes, .. }] = apart.mends.as_slice() else { panic!("{apart:?}") };
        let [Change::Detach(old), Change::Attach(new)] = changes.as_slice() else { panic!("{changes:?}") };
        assert!(old.contains("524287") && new.contains("524288") && !new.contains("alias"), "{old} {new}");
    }

    #[test]
    fn vcpus_follow_one_by_one() {
        let list = "<vcpu current='2'>4</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' \
                    enabled='no' hotpluggable='yes'/><vcpu id='2' enabled='yes' hotpluggable='yes'/></vcpus>";
        let apart = apart(&machine(list, ""), &machine("<vcpu current='1'>4</vcpu>", ""));
        let expected = vec![Change::Vcpu { number: 2, enabled: true }];
        assert_eq!(apart.mends.iter().map(|mend| mend.changes.clone()).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn a_vcpu_that_libvirt_has_not_seen_leave_does_not_come_into_the_definition() {
        let list = "<vcpu current='3'>4</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' \
                    enabled='yes' hotpluggable='yes'/><vcpu id='2' enabled='yes' hotpluggable='yes'/></vcpus>";
        let next = machine("<vcpu current='1'>4</vcpu>", "");
        let mut live = machine(list, "");
        assert_eq!(apart(&live, &next).mends.len(), 1);
        let told = r#"{"return":[{"cpu-index":0,"thread-id":40}],"id":"libvirt-7"}"#;
        live.vcpus.set_present(&numbers(told).unwrap());
        assert_eq!(apart(&live, &next), Apart::default());
        assert_eq!(numbers(r#"{"error":{"class":"GenericError","desc":"no"}}"#), None);
        assert_eq!(numbers(r#"{"return":[{"cpu-index":-1}]}"#), None);
    }

    #[test]
    fn what_may_hold_data_and_what_waits_for_a_start_is_left_alone() {
        let prepared = machine("<vcpu current='2'>8</vcpu>", "");
        let found = apart(&machine(VCPUS, NVDIMM), &prepared);
        assert_eq!(found.mends, []);
        assert_eq!(found.waits.len(), 1, "{found:?}");
        assert!(found.by_hand[0].1.contains("may hold data"), "{found:?}");
        assert_eq!(apart(&prepared, &prepared), Apart::default());
    }
}
