//! What a machine's journal adds up to: the run that was left open, the removals that are pending, the last report.
//!
//! A pending removal is derived, never stored: it is an unplug whose intention is written and whose proof or refusal
//! is not. So a controller that dies between the two forgets nothing.

use crate::observed::{Observed, Pending, PendingDevice, VcpuState};
use crate::plan::{Act, Plan};
use crate::report::Report;
use crate::run::{Outcome, Place, Record};
use crate::time::Moment;
use crate::wanted::Wanted;
use std::collections::BTreeSet;

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
            Record::Reported { report } => self.report = Some((**report).clone()),
        }
    }

    /// The run that was left open: its controller died.
    pub fn open(&self) -> Option<&OpenRun> {
        self.open.as_ref()
    }

    /// Removals that are asked of the guest and neither done nor refused.
    pub fn pending(&self) -> &[Pending] {
        &self.pending
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

    fn note_sending(&mut self, at: Moment, place: Place, refused_before: bool) {
        let Some(open) = &mut self.open else { return };
        open.sending = Some(place);
        let device = match place.act(&open.plan) {
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
