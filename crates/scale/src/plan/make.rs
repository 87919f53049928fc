//! From what is seen and what is wanted to a plan: who is asked what, and in which order it all comes.
//!
//! The parts decide each for itself (`memory`, `vcpu`, `heal`); this file puts their groups in order: what a crash
//! left behind, memory that grows, vCPUs that come, memory that shrinks, memory that is plugged and unused, vCPUs that go or are unused. A
//! broken step ends a run, so what helps most comes first and what only tidies comes last.

use super::footing::Footing;
use super::resolve::Resolved;
use super::{Act, Asked, Basis, Obstacle, Plan, Proof, Refusal, Sizes, Step, Strength, Unmet, When};
use super::{danger, disks, escort, heal, memory, resolve, settings, vcpu};
use crate::limits::Limits;
use crate::observed::Observed;
use crate::time::Span;
use crate::units::{Bytes, Change};
use crate::wanted::Wanted;

/// Plans the way from what is seen to what is wanted. Pure: the same arguments give the same plan.
///
/// A machine that already is as asked gives a plan without steps.
///
/// # Errors
/// A [`Refusal`] with every obstacle found, each with a way out.
pub fn plan(seen: &Observed, wanted: &Wanted, limits: &Limits) -> Result<Plan, Refusal> {
    let Resolved { asked, moves, notes, mut obstacles } = resolve::resolve(seen, wanted);
    let scene =
        Scene { seen, wanted, limits, footing: Footing::of(seen, limits), from: Sizes::of(seen), asked };
    let asked = &scene.asked;
    let memory = asked.memory.map_or_else(Part::default, |to| memory::plan(&scene, to));
    let (mut vcpus, mut fewer) = (Part::default(), Part::default());
    if let Some(to) = asked.vcpus {
        (vcpus, fewer) = vcpu::plan(&scene, to);
    }
    let (more, less) = settings::plan(&scene, &moves);
    // What gives more comes before what needs it, what gives less after what grows; what the guest may refuse to
    // give up comes behind both.
    let mut parts = match memory.adds_memory {
        true => vec![leftovers(&scene), more, memory, vcpus, less],
        false => vec![leftovers(&scene), more, vcpus, less, memory],
    };
    let healed = if wanted.memory.is_some() { heal::memory(&scene, &parts) } else { Part::default() };
    // vCPUs go after the last DIMM has moved: QEMU 7.2 under TCG survives no DIMM change after one has gone (`danger`).
    let moves_dimms = healed.acts().any(|act| matches!(act, Act::PlugDimm { .. } | Act::UnplugDimm { .. }));
    parts.extend(if moves_dimms { [healed, fewer] } else { [fewer, healed] });
    if wanted.vcpus.is_some() {
        parts.push(heal::vcpus(&scene, &parts));
    }
    parts.push(disks::plan(&scene));
    obstacles.extend(danger::whole(&scene, &parts));
    obstacles.extend(parts.iter_mut().flat_map(|part| std::mem::take(&mut part.obstacles)));
    if !obstacles.is_empty() {
        obstacles.dedup();
        return Err(Refusal { obstacles });
    }
    escort::escort(&scene, &mut parts);
    let to = Sizes {
        memory: asked.memory.unwrap_or(scene.from.memory),
        vcpus: asked.vcpus.unwrap_or(scene.from.vcpus),
    };
    let notes = notes.into_iter().chain(parts.iter_mut().flat_map(|part| std::mem::take(&mut part.notes)));
    let notes = once_each(notes);
    let unmet = parts.iter_mut().flat_map(|part| std::mem::take(&mut part.unmet)).collect();
    Ok(Plan {
        basis: Basis::of(seen),
        from: scene.from,
        asked: asked.clone(),
        to,
        steps: numbered(parts),
        notes,
        unmet,
    })
}

/// Plans as [`plan`] does; where DIMMs that the guest refused to let go (`wanted.keep`) put the size out of reach,
/// plans for the nearest size that is in reach: a partial shrink is a result.
///
/// # Errors
/// The [`Refusal`] of the size that was asked for, where there is no such way either.
pub fn plan_around(seen: &Observed, wanted: &Wanted, limits: &Limits) -> Result<Plan, Refusal> {
    let refusal = match plan(seen, wanted, limits) {
        Ok(plan) => return Ok(plan),
        Err(refusal) => refusal,
    };
    let asked = resolve::resolve(seen, wanted).asked;
    let from = Sizes::of(seen);
    let scene = Scene { seen, wanted, limits, footing: Footing::of(seen, limits), from, asked };
    let least = from.memory.saturating_sub(memory::removable(&scene));
    if wanted.keep.is_empty() || least >= from.memory || scene.asked_memory() >= least {
        return Err(refusal);
    }
    let nearest = Wanted { memory: Some(Change::To(least)), ..wanted.clone() };
    plan(seen, &nearest, limits).map_err(|_| refusal)
}

/// Everything that the parts decide from.
pub(super) struct Scene<'a> {
    pub(super) seen: &'a Observed,
    pub(super) wanted: &'a Wanted,
    pub(super) limits: &'a Limits,
    pub(super) footing: Footing<'a>,
    pub(super) from: Sizes,
    pub(super) asked: Asked,
}

impl Scene<'_> {
    /// The total memory that is asked for, or what there is where nothing is asked.
    pub(super) fn asked_memory(&self) -> Bytes {
        self.asked.memory.unwrap_or(self.from.memory)
    }
}

/// One part's share of a plan.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Groups of steps, in order.
    pub(super) groups: Vec<Vec<Step>>,
    /// What a reader should know before consenting.
    pub(super) notes: Vec<String>,
    /// What is left to a person.
    pub(super) unmet: Vec<Unmet>,
    /// What stands in the way; the groups mean nothing then.
    pub(super) obstacles: Vec<Obstacle>,
    /// True if memory is added at any point, be it to take other memory away afterwards.
    pub(super) adds_memory: bool,
    /// The most memory that the machine holds at any point beyond what it holds now.
    pub(super) peak: Bytes,
    /// How much of what is taken away the guest has not in use.
    pub(super) idle: Bytes,
}

impl Part {
    /// A part that cannot be done.
    pub(super) fn obstacle(when: When, reason: String, way_out: String) -> Part {
        Part { obstacles: vec![Obstacle { when, reason, way_out }], ..Part::default() }
    }

    /// The acts of all groups, in order.
    pub(super) fn acts(&self) -> impl Iterator<Item = &Act> {
        self.groups.iter().flatten().map(|step| &step.act)
    }

    /// Puts `next` behind this.
    pub(super) fn then(&mut self, next: Part) {
        self.groups.extend(next.groups);
        self.notes.extend(next.notes);
        self.unmet.extend(next.unmet);
        self.obstacles.extend(next.obstacles);
        self.adds_memory |= next.adds_memory;
        self.peak = self.peak + next.peak;
        self.idle = self.idle + next.idle;
    }
}

fn once_each(notes: impl Iterator<Item = String>) -> Vec<String> {
    let mut all = Vec::new();
    for note in notes {
        if !all.contains(&note) {
            all.push(note);
        }
    }
    all
}

/// A step whose group is numbered later.
pub(super) fn step(act: Act, proof: Proof, strength: Strength, deadline: Span, undo: Vec<Act>) -> Step {
    Step { group: 0, act, proof, strength, deadline, undo }
}

/// `per_gib` for each GiB begun, and `base`.
pub(super) fn scaled(base: Span, per_gib: Span, size: Bytes) -> Span {
    let gibs = size.round_up(Bytes::gib(1)).count_of(Bytes::gib(1));
    Span::millis(base.as_millis().saturating_add(per_gib.times(gibs).as_millis()))
}

/// The step that makes the blocks of a DIMM known to a guest that does not find them by itself. The undo is for a DIMM
/// that the same group plugs: a rule in the guest may have brought blocks into use as they came.
pub(super) fn make_known(id: &str, size: Bytes, undo: Vec<Act>, limits: &Limits) -> Step {
    let deadline = limits.probe_after + scaled(limits.appear, limits.appear, size);
    step(
        Act::MakeKnown { device: id.to_owned(), after: limits.probe_after },
        Proof::DimmSeen { id: id.to_owned() },
        Strength::GuestConfirmed,
        deadline,
        undo,
    )
}

/// The step that deletes a backend.
pub(super) fn delete_backend(memdev: &str, limits: &Limits) -> Step {
    let memdev = memdev.to_owned();
    let proof = Proof::BackendGone { memdev: memdev.clone() };
    step(Act::DeleteBackend { memdev }, proof, Strength::DeviceOnly, limits.monitor, Vec::new())
}

/// Backends of our own that no device uses: a run that was cut short left them. Those of others are not ours to judge.
/// A machine that is occupied keeps them for now.
fn leftovers(scene: &Scene<'_>) -> Part {
    if !danger::machine(scene).is_empty() {
        return Part::default();
    }
    let steps: Vec<Step> = scene
        .seen
        .memory
        .unused_backends
        .iter()
        .filter(|backend| backend.id.starts_with(super::OWN_PREFIX))
        .map(|backend| delete_backend(&backend.id, scene.limits))
        .collect();
    Part { groups: if steps.is_empty() { Vec::new() } else { vec![steps] }, ..Part::default() }
}

fn numbered(parts: Vec<Part>) -> Vec<Step> {
    let groups = parts.into_iter().flat_map(|part| part.groups);
    (0..)
        .zip(groups.filter(|group| !group.is_empty()))
        .flat_map(|(number, steps)| steps.into_iter().map(move |step| Step { group: number, ..step }))
        .collect()
}
