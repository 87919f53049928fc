//! The world: QEMU, its guest, their clock. Plain data; what it does is in the files beside this one.

use crate::chance::{Chance, Faults};
use crate::clock::{Clock, Happening};
use crate::guest::Guest;
use crate::limits::Fittings;
use crate::mood::Spell;
use crate::qemu::Qemu;
use scale::observed::Host;
use scale::sight::Event;
use scale::time::{Moment, Span};
use scale::units::Bytes;
use std::collections::VecDeque;

/// So many events wait for a driver; then the queue overflows, as a real driver's does.
const EVENTS_MAX: usize = 256;
/// So much of its past a world remembers.
const LOG_MAX: usize = 2000;

/// A machine in memory. [`World::small`] makes one, builder methods change it, [`World::connect`] reaches it.
#[derive(Debug, Clone)]
pub struct World {
    pub(crate) clock: Clock,
    pub(crate) qemu: Qemu,
    pub(crate) guest: Guest,
    pub(crate) host: Host,
    pub(crate) fittings: Fittings,
    pub(crate) spells: Vec<Spell>,
    pub(crate) chance: Chance,
    pub(crate) faults: Faults,
    pub(crate) events: VecDeque<Event>,
    /// What a driver would remark on.
    pub(crate) remarks: Vec<String>,
    log: VecDeque<String>,
}

impl World {
    pub(crate) fn of(qemu: Qemu, guest: Guest) -> World {
        World {
            clock: Clock::new(),
            qemu,
            guest,
            host: Host::default(),
            fittings: Fittings::default(),
            spells: Vec::new(),
            chance: Chance::new(0),
            faults: Faults::default(),
            events: VecDeque::new(),
            remarks: Vec::new(),
            log: VecDeque::new(),
        }
    }

    /// The present time of this world.
    pub fn now(&self) -> Moment {
        self.clock.now
    }

    /// Lets time pass.
    pub fn pass(&mut self, span: Span) {
        let until = self.clock.now + span;
        while let Some(what) = self.clock.next_by(until) {
            self.happen(what);
        }
        self.clock.now = self.clock.now.max(until);
    }

    /// Why QEMU is gone, if it is.
    pub fn gone(&self) -> Option<&str> {
        self.qemu.gone.as_deref()
    }

    /// The guest's MemTotal.
    pub fn guest_total(&self) -> Bytes {
        self.guest.total(self.held())
    }

    /// What the guest's MemAvailable says.
    pub fn guest_available(&self) -> Bytes {
        self.guest.available(self.held())
    }

    /// What QEMU has of memory: at boot, in DIMMs, and by virtio-mem. The balloon takes nothing from it.
    pub fn plugged_memory(&self) -> Bytes {
        let virtio: Bytes = self.qemu.virtio_mem.iter().map(|v| v.size).sum();
        self.qemu.boot + self.qemu.dimm_total() + virtio
    }

    /// vCPUs that QEMU has.
    pub fn plugged_vcpus(&self) -> usize {
        self.qemu.taken_places().count()
    }

    /// Memory in blocks that the guest uses.
    pub fn online_memory(&self) -> Bytes {
        self.guest.blocks.values().filter(|b| b.online).map(|b| b.size).sum()
    }

    /// vCPUs that the guest uses.
    pub fn online_vcpus(&self) -> usize {
        self.guest.vcpus.values().filter(|online| **online).count()
    }

    /// The ids of plugged DIMMs, by slot.
    pub fn dimms(&self) -> Vec<&str> {
        self.qemu.dimms.iter().map(|d| d.id.as_str()).collect()
    }

    /// Ids of memory backends that no device uses.
    pub fn spare_backends(&self) -> Vec<&str> {
        self.qemu.spare_backends().map(|(id, _)| id).collect()
    }

    /// Devices whose removal was asked for and may yet happen.
    pub fn removals_under_way(&self) -> Vec<String> {
        let dimms = self.qemu.dimms.iter().map(|d| (d.id.as_str(), d.removing));
        let vcpus = self.qemu.places.iter().filter_map(|p| p.device().map(|id| (id, p.removing)));
        dimms
            .chain(vcpus)
            .filter(|(id, removing)| *removing || self.clock.is_decided(&Happening::Eject((*id).to_owned())))
            .map(|(id, _)| id.to_owned())
            .collect()
    }

    /// What happened, oldest first; the last two thousand things.
    pub fn log(&self) -> impl Iterator<Item = &str> {
        self.log.iter().map(String::as_str)
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back(format!("{} {}", self.clock.now.unix_millis(), what.into()));
    }

    /// Sends an event to whoever is connected. Chance may drop it; then the driver notices that something was lost.
    pub(crate) fn tell(&mut self, event: Event) {
        self.note(format!("event: {event:?}"));
        let lost = self.chance.permille(self.faults.dropped);
        if lost || self.events.len() == EVENTS_MAX {
            let overflow = Event::Other { name: "events were lost".into() };
            if self.events.back() != Some(&overflow) {
                self.events.truncate(EVENTS_MAX - 1);
                self.events.push_back(overflow);
            }
            return;
        }
        self.events.push_back(event);
    }
}
