//! A plan on the wire.

use scale::plan::{Act, Plan as CorePlan, Proof, Step as CoreStep};
use scale::setting::Setting;
use serde::Serialize;

use super::{Asked, Sizes};

/// What would be done to one machine.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    /// Where the machine stands.
    pub(crate) from: Sizes,
    /// What was asked for, with steps such as `+2G` resolved.
    pub(crate) asked: Asked,
    /// Where it will stand when every step is proven.
    pub(crate) to: Sizes,
    /// What is done, in order; empty where the machine is as asked already.
    pub(crate) steps: Vec<Step>,
    /// What a reader should know before consenting.
    pub(crate) notes: Vec<String>,
    /// What the plan leaves to a person: a run of it is partial at best.
    pub(crate) unmet: Vec<Unmet>,
}

/// Something that was asked for and cannot be done here.
#[derive(Debug, Serialize)]
pub(crate) struct Unmet {
    /// What, and why not.
    pub(crate) why: String,
    /// What a person can do about it.
    pub(crate) by_hand: String,
}

/// One step.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// Steps of one group stand or are taken back together.
    pub(crate) group: u32,
    /// Always `live`: what needs a cold start is an obstacle, not a step.
    pub(crate) when: &'static str,
    /// What is done, as a word: `plug-dimm`.
    pub(crate) act: &'static str,
    /// The device or host memory that it is done to; null where it is done to no one device.
    pub(crate) device: Option<String>,
    /// What is done, as text.
    pub(crate) what: String,
    /// What shows that it is done, as a word: `dimm-seen`.
    pub(crate) proof: &'static str,
    /// What shows that it is done, as text.
    pub(crate) proven_by: String,
    /// The strongest proof that this machine can give: `guest-confirmed`, `driver-confirmed` or `device-only`.
    pub(crate) strength: String,
    /// How long the proof may take.
    pub(crate) deadline_ms: u64,
    /// How it is taken back, as texts, in this order.
    pub(crate) undo: Vec<String>,
}

impl From<&CorePlan> for Plan {
    fn from(plan: &CorePlan) -> Plan {
        Plan {
            from: plan.from.into(),
            asked: (&plan.asked).into(),
            to: plan.to.into(),
            steps: plan.steps.iter().map(Step::from).collect(),
            notes: plan.notes.clone(),
            unmet: plan
                .unmet
                .iter()
                .map(|unmet| Unmet { why: unmet.why.clone(), by_hand: unmet.by_hand.clone() })
                .collect(),
        }
    }
}

impl From<&CoreStep> for Step {
    fn from(step: &CoreStep) -> Step {
        let (act, device) = act(&step.act);
        Step {
            group: step.group,
            when: "live",
            act,
            device: device.map(str::to_owned),
            what: step.act.to_string(),
            proof: proof(&step.proof),
            proven_by: step.proof.to_string(),
            strength: step.strength.to_string(),
            deadline_ms: step.deadline.as_millis(),
            undo: step.undo.iter().map(ToString::to_string).collect(),
        }
    }
}

fn act(act: &Act) -> (&'static str, Option<&str>) {
    match act {
        Act::CreateBackend { memdev, .. } => ("create-backend", Some(memdev)),
        Act::DeleteBackend { memdev } => ("delete-backend", Some(memdev)),
        Act::PlugDimm { id, .. } => ("plug-dimm", Some(id)),
        Act::UnplugDimm { id, .. } => ("unplug-dimm", Some(id)),
        Act::MakeKnown { device, .. } => ("make-known", Some(device)),
        Act::OnlineBlocks { device, .. } => ("online-blocks", Some(device)),
        Act::OfflineBlocks { device } => ("offline-blocks", Some(device)),
        Act::ResizeVirtioMem { id, .. } => ("resize-virtio-mem", Some(id)),
        Act::SettleVirtioMem { id } => ("settle-virtio-mem", Some(id)),
        Act::SetBalloon { .. } => ("set-balloon", None),
        Act::PlugVcpu { id, .. } => ("plug-vcpu", Some(id)),
        Act::UnplugVcpu { id } => ("unplug-vcpu", Some(id)),
        Act::AwaitOnline { device } => ("await-online", Some(device)),
        Act::OnlineVcpus { .. } => ("online-vcpus", None),
        Act::Set { to, .. } => match &**to {
            Setting::CpuPower(_) => ("set-cpu-power", None),
            Setting::DiskIo { disk, .. } => ("set-disk-io", Some(disk)),
            Setting::NicRate { nic, .. } => ("set-nic-rate", Some(nic)),
            Setting::IpRate { nic, .. } => ("set-ip-rate", Some(nic)),
            Setting::Memory { .. } => ("set-memory-limit", None),
            Setting::Locked { .. } => ("set-locked-limit", None),
        },
        Act::GrowDisk { disk, .. } => ("grow-disk", Some(disk)),
        Act::GrowInGuest { disk, .. } => ("grow-in-guest", Some(disk)),
    }
}

fn proof(proof: &Proof) -> &'static str {
    match proof {
        Proof::BackendExists { .. } => "backend-exists",
        Proof::BackendGone { .. } => "backend-gone",
        Proof::DimmPlugged { .. } => "dimm-plugged",
        Proof::DimmSeen { .. } => "dimm-seen",
        Proof::DimmGone { .. } => "dimm-gone",
        Proof::BlocksOnline { .. } => "blocks-online",
        Proof::BlocksMovable { .. } => "blocks-movable",
        Proof::BlocksOffline { .. } => "blocks-offline",
        Proof::VirtioMemSize { .. } => "virtio-mem-size",
        Proof::VirtioMemSettled { .. } => "virtio-mem-settled",
        Proof::BalloonAt { .. } => "balloon-at",
        Proof::GuestTotal { .. } => "guest-total",
        Proof::VcpuSeen { .. } => "vcpu-seen",
        Proof::VcpuGone { .. } => "vcpu-gone",
        Proof::VcpusOnline { .. } => "vcpus-online",
        Proof::SetAt { .. } => "set-at",
        Proof::DiskAt { .. } => "disk-at",
        Proof::LayerAt { .. } => "layer-at",
    }
}
