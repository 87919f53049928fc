//! What a machine's journal adds up to: the run that was left open, the removals that are pending, the last report.
//!
//! A pending removal is derived, never stored: it is an unplug whose intention is written and whose proof or refusal
//! is not. So a controller that dies between the two forgets nothing. Nor are the vCPUs that were plugged in one QEMU's
//! life: each intention of one counts.

use crate::observed::{Filled, Life, Observed, Pending, PendingDevice, VcpuProps, VcpuState};
use crate::plan::{Act, Plan};
use crate::report::Report;
use crate::run::{Outcome, Place, Record};
use crate::time::Moment;
use crate::wanted::Wanted;
use std::collections::BTreeSet;

/// More remarks than this are no news.
const MOST_REMARKS: usize = 64;

/// The sum of a journal's records.
#[derive(Debug, Clone, Default)]
pub struct History {
    open: Option<OpenRun>,
    pending: Vec<Pending>,
    /// Pending devices of which the guest's last word is older than the request.
    refused_before: BTreeSet<String>,
    /// True while an act is sent that asks again for what was pending already.
    again: bool,
    report: Option<Report>,
    /// What was remarked and not reported yet.
    remarks: Vec<String>,
    /// The QEMU process that the last run was for.
    life: Option<Life>,
    /// How often its places for vCPUs were filled, or were about to be.
    filled: Vec<Filled>,
}

/// A run that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRun {
    /// When it began.
    pub began: Moment,
    /// What was asked for.
    pub wanted: Wanted,
    /// Its plan.
    pub plan: Plan,
    /// The act that was sent, or about to be, and has not concluded.
    pub sending: Option<Place>,
    /// How many steps are proven.
    pub proven: usize,
}

impl History {
    /// The sum of these records, oldest first.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> History {
        let mut history = History::default();
        for record in records {
            history.note(record);
        }
        history
    }

    /// Adds one record.
    pub fn note(&mut self, record: &Record) {
        match record {
            Record::Began { at, wanted, plan } => {
                self.enter(plan.basis.life, &plan.basis.filled);
                self.open = Some(OpenRun {
                    began: *at,
                    wanted: wanted.clone(),
                    plan: (**plan).clone(),
                    sending: None,
                    proven: 0,
                });
            }
            Record::Sending { at, place, refused_before } => self.note_sending(*at, *place, *refused_before),
            Record::Concluded { place, outcome, .. } => self.note_concluded(*place, outcome),
            Record::Ended { .. } => self.open = None,
            Record::Settled { device, .. } => self.pending.retain(|p| p.device.id() != device),
            Record::Remarked { remark, .. } => self.note_remark(remark),
            Record::Reported { report } => {
                self.report = Some((**report).clone());
                self.remarks.clear();
            }
            Record::Filled { life, filled } => {
                (self.life, self.filled) = (Some(*life), filled.clone());
            }
        }
    }

    /// How often places for vCPUs were filled since this QEMU started. An intention counts, whatever became of it: one
    /// too many is a refusal, one too few ends the machine.
    pub fn filled(&self, life: Option<Life>) -> &[Filled] {
        match self.life.zip(life) {
            Some((then, now)) if then.may_be(now) => &self.filled,
            Some(_) | None => &[],
        }
    }

    /// What is still to be known of a journal that is shortened: nothing, or how often places were
    /// filled in the last run's QEMU.
    pub fn lasting(&self) -> Option<Record> {
        let life = self.life.filter(|_| !self.filled.is_empty())?;
        Some(Record::Filled { life, filled: self.filled.clone() })
    }

    /// The run that was left open: its controller died.
    pub fn open(&self) -> Option<&OpenRun> {
        self.open.as_ref()
    }

    /// Removals that are asked of the guest and neither done nor refused.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    /// Adds to an observation what the machine itself does not show: the removals that are pending, and how often places
    /// for vCPUs were filled since QEMU started.
    #[must_use]
    pub fn added_to(&self, mut seen: Observed) -> Observed {
        let settled = self.settled(&seen);
        seen.pending = self.pending.clone();
        seen.pending.retain(|p| !settled.iter().any(|(device, _)| device == &p.device));
        seen.vcpus.filled = self.filled(seen.machine.life).to_vec();
        seen
    }

    /// What was remarked by controllers that did not live to report it.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// What was reported last.
    pub fn report(&self) -> Option<&Report> {
        self.report.as_ref()
    }

    /// The pending removals that have come to their end, as the machine shows now, and how.
    ///
    /// Gone from QEMU is done. The guest's refusal is believed only while its agent answers: QEMU keeps the last
    /// word of a slot, and a guest that hangs may yet act on the newer request. A refusal that is older than the request
    /// is not believed at all.
    pub fn settled(&self, seen: &Observed) -> Vec<(PendingDevice, String)> {
        self.pending
            .iter()
            .filter_map(|pending| {
                let old = self.refused_before.contains(pending.device.id());
                how_it_ended(&pending.device, seen, old).map(|how| (pending.device.clone(), how))
            })
            .collect()
    }

    /// A run begins in this QEMU, in whose life so much was known to be filled. What was in an earlier one is gone with
    /// it.
    fn enter(&mut self, life: Option<Life>, filled: &[Filled]) {
        match self.life.zip(life) {
            // Once known, the moment of its start is kept.
            Some((then, now)) if then.may_be(now) => {
                self.life = Some(Life { started: now.started.or(then.started), ..now });
            }
            Some(_) | None => {
                self.filled.clear();
                self.life = life;
            }
        }
        if !filled.is_empty() {
            self.filled = filled.to_vec();
        }
    }

    fn note_remark(&mut self, remark: &str) {
        if self.remarks.len() < MOST_REMARKS && !self.remarks.iter().any(|said| said == remark) {
            self.remarks.push(remark.to_owned());
        }
    }

    fn note_sending(&mut self, at: Moment, place: Place, refused_before: bool) {
        let Some(open) = &mut self.open else { return };
        open.sending = Some(place);
        let device = match place.act(&open.plan) {
            Some(Act::PlugVcpu { id, props, .. }) => return fill(&mut self.filled, id, *props),
            Some(Act::UnplugDimm { id, memdev, .. }) => {
                PendingDevice::Dimm { id: id.clone(), memdev: memdev.clone() }
            }
            Some(Act::UnplugVcpu { id }) => PendingDevice::Vcpu { id: id.clone() },
            Some(_) | None => return,
        };
        let before = self.pending.len();
        self.pending.retain(|p| p.device.id() != device.id());
        self.again = self.pending.len() < before;
        if refused_before {
            self.refused_before.insert(device.id().to_owned());
        } else {
            self.refused_before.remove(device.id());
        }
        self.pending.push(Pending { device, since: at });
    }

    fn note_concluded(&mut self, place: Place, outcome: &Outcome) {
        let Some(open) = &mut self.open else { return };
        open.sending = None;
        if place.undo.is_none() && matches!(outcome, Outcome::Proven { .. }) {
            open.proven += 1;
        }
        // What QEMU's monitor refuses was not asked: but an earlier request for the same may still stand.
        let answered = match outcome {
            Outcome::Proven { .. } => true,
            Outcome::Refused { by_guest, .. } => *by_guest || !self.again,
            Outcome::Overdue { .. } | Outcome::Lost { .. } => false,
        };
        if let Some(id) = place.act(&open.plan).and_then(Act::removed)
            && answered
        {
            self.pending.retain(|p| p.device.id() != id);
        }
    }
}

fn fill(filled: &mut Vec<Filled>, id: &str, props: VcpuProps) {
    match filled.iter_mut().find(|filled| filled.props == props) {
        Some(known) => {
            known.times = known.times.saturating_add(1);
            id.clone_into(&mut known.id);
        }
        None => filled.push(Filled { id: id.to_owned(), props, times: 1 }),
    }
}

fn how_it_ended(device: &PendingDevice, seen: &Observed, refused_before: bool) -> Option<String> {
    let refusal = match device {
        PendingDevice::Dimm { id, .. } => match seen.memory.dimms.iter().find(|d| d.id == *id) {
            None => return Some("the guest let it go".to_owned()),
            Some(dimm) => dimm.ost.and_then(|ost| ost.refusal()),
        },
        PendingDevice::Vcpu { id } => {
            let slot = seen.vcpus.slots.iter().find(|s| s.state == VcpuState::Device(id.clone()));
            match slot {
                None => return Some("the guest let it go".to_owned()),
                Some(slot) => slot.ost.and_then(|ost| ost.refusal()),
            }
        }
    };
    refusal.filter(|_| seen.guest.heard().is_some() && !refused_before).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Asked, Basis, Proof, Sizes, Step, Strength};
    use crate::time::Span;
    use crate::units::Bytes;

    fn life(thread: u32) -> Life {
        Life { thread, started: Some(1) }
    }

    fn began(life: Option<Life>) -> Record {
        let props = VcpuProps { core_id: Some(1), ..VcpuProps::default() };
        let act = Act::PlugVcpu { id: "supple-vcpu0".to_owned(), driver: String::new(), props };
        let unplug = Act::UnplugVcpu { id: "supple-vcpu0".to_owned() };
        let step = |act, undo| Step {
            group: 0,
            act,
            proof: Proof::VcpusOnline { count: 2 },
            strength: Strength::GuestConfirmed,
            deadline: Span::secs(1),
            undo,
        };
        let sizes = Sizes { memory: Bytes::gib(1), vcpus: 1 };
        let basis = Basis { life, ..Basis::default() };
        let plan = Plan {
            basis,
            from: sizes,
            asked: Asked::default(),
            to: sizes,
            steps: vec![step(act, vec![unplug])],
            notes: Vec::new(),
            unmet: Vec::new(),
        };
        Record::Began { at: Moment::default(), wanted: Wanted::default(), plan: Box::new(plan) }
    }

    fn sending(undo: Option<usize>) -> Record {
        Record::Sending { at: Moment::default(), place: Place { step: 0, undo }, refused_before: false }
    }

    fn times(records: &[Record], life: Option<Life>) -> Vec<u32> {
        History::of(records).filled(life).iter().map(|filled| filled.times).collect()
    }

    #[test]
    fn each_intention_to_plug_a_vcpu_counts_in_its_qemu_s_life() {
        let mut records = vec![began(Some(life(7)))];
        assert!(times(&records, Some(life(7))).is_empty(), "nothing was sent");
        records.push(sending(None));
        assert_eq!(times(&records, Some(life(7))), [1], "killed before it heard the answer");
        records.push(sending(Some(0)));
        records.extend([began(Some(life(7))), sending(None)]);
        assert_eq!(times(&records, Some(life(7))), [2], "a removal takes nothing off");
        assert!(times(&records, Some(life(8))).is_empty(), "another QEMU");
        assert!(times(&records, None).is_empty(), "who knows which QEMU");
        records.extend([began(Some(life(8))), sending(None)]);
        assert_eq!(times(&records, Some(life(8))), [1], "the machine was stopped and started");
        assert!(times(&records, Some(life(7))).is_empty());
    }

    #[test]
    fn a_qemu_that_was_once_seen_from_elsewhere_is_still_the_same() {
        let afar = Life { started: None, ..life(7) };
        let records = [began(Some(life(7))), sending(None), began(Some(afar)), sending(None)];
        assert_eq!(times(&records, Some(life(7))), [2]);
        let later = Life { started: Some(2), ..life(7) };
        assert!(times(&records, Some(later)).is_empty(), "the number was used again");
    }

    #[test]
    fn a_shortened_journal_knows_as_much_of_the_places() {
        let records = [began(Some(life(7))), sending(None), sending(None)];
        let kept = History::of(&records).lasting().expect("a place was filled");
        assert_eq!(times(&[kept.clone(), began(Some(life(7))), sending(None)], Some(life(7))), [3]);
        assert!(times(&[kept, began(Some(life(8)))], Some(life(8))).is_empty());
        assert_eq!(History::of(&[began(Some(life(7)))]).lasting(), None);
    }
}
