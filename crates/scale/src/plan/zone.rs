//! In which zone of a Linux guest new memory goes online.
//!
//! Movable memory can be emptied and removed again, but the kernel cannot use it for itself: its own share is boot
//! memory, and beyond three parts movable to one part of its own it starves
//! (Documentation/admin-guide/mm/memory-hotplug.rst, Linux 6.1). All that is hot-plugged already is taken as movable.

use super::make::Scene;
use super::{Obstacle, Proof, When, Zone};
use crate::observed::AutoOnline;
use crate::units::Bytes;
use crate::wanted::ZoneWish;

/// What shows that a device's blocks went online in `zone`. Of a device that was partly in use before (`unused` is
/// false), in whatever zone, only the blocks that come now are to be movable: those the driver answers for.
pub(super) fn shown_by(zone: Zone, device: &str, whole: bool, unused: bool) -> Proof {
    let device = device.to_owned();
    match zone {
        Zone::Movable if unused => Proof::BlocksMovable { device, whole },
        Zone::Default | Zone::Movable | Zone::PreferMovable | Zone::AsBefore => {
            Proof::BlocksOnline { device, whole }
        }
    }
}

/// The zones of what one plan adds.
pub(super) struct Zones<'a> {
    scene: &'a Scene<'a>,
    movable: Bytes,
    /// True once something could not be movable because of the ratio.
    starved: bool,
}

impl<'a> Zones<'a> {
    /// `movable` is what is hot-plugged before the first addition.
    pub(super) fn new(scene: &'a Scene<'a>, movable: Bytes) -> Zones<'a> {
        Zones { scene, movable, starved: false }
    }

    /// The zone for `size` more.
    pub(super) fn next(&mut self, size: Bytes) -> Result<Zone, Obstacle> {
        let footing = &self.scene.footing;
        let fits = self.movable + size <= self.most();
        let zone = match self.scene.wanted.zone {
            ZoneWish::Movable => {
                self.movable_only(fits)?;
                // Without files, a guest whose own policy is movable is all that there is to rely on.
                if footing.chooses_zone { Zone::Movable } else { Zone::Default }
            }
            ZoneWish::Auto if footing.chooses_zone && !footing.onlines_itself() => {
                self.starved |= !fits;
                if fits { Zone::PreferMovable } else { Zone::Default }
            }
            ZoneWish::Auto | ZoneWish::Kernel => Zone::Default,
        };
        if !self.adds_to_kernel(zone) {
            self.movable = self.movable + size;
        }
        Ok(zone)
    }

    /// `size` less of what was hot-plugged.
    pub(super) fn gone(&mut self, size: Bytes) {
        self.movable = self.movable.saturating_sub(size);
    }

    /// True where memory that goes online in `zone` becomes the kernel's own.
    pub(super) fn adds_to_kernel(&self, zone: Zone) -> bool {
        let footing = &self.scene.footing;
        let goes_online = footing.onlines_itself() || footing.sets_blocks;
        zone == Zone::Default && goes_online && footing.auto_online() != Some(AutoOnline::Movable)
    }

    /// What a reader should know of the zones chosen.
    pub(super) fn note(&self) -> Option<String> {
        let footing = &self.scene.footing;
        if !footing.shows_blocks {
            return None;
        }
        if self.starved {
            return Some(format!(
                "not all new memory is movable: beyond {} parts movable to one part of the kernel's own ({}) the \
                 kernel would starve; what is not movable may not come out again",
                self.scene.limits.movable_ratio, self.scene.seen.memory.boot,
            ));
        }
        if footing.onlines_itself() {
            return Some("the guest onlines new memory by itself, in the zone of its own policy".to_owned());
        }
        (!footing.chooses_zone && self.scene.wanted.zone == ZoneWish::Auto).then(|| {
            "the agent cannot choose the zone of new memory (no guest-file commands); what the kernel uses of it may \
             not come out again"
                .to_owned()
        })
    }

    fn most(&self) -> Bytes {
        self.scene.seen.memory.boot.times(self.scene.limits.movable_ratio)
    }

    fn movable_only(&self, fits: bool) -> Result<(), Obstacle> {
        let footing = &self.scene.footing;
        let reason = if footing.onlines_itself() && footing.auto_online() != Some(AutoOnline::Movable) {
            "movable memory was asked for, and the guest's kernel onlines new memory by itself, in a zone of its own \
             choice"
                .to_owned()
        } else if !footing.chooses_zone && !footing.onlines_itself() {
            "movable memory was asked for, and no agent in the guest lets files be written, by which alone a block's \
             zone is chosen"
                .to_owned()
        } else if !fits {
            format!(
                "more than {} parts of movable memory to one part of the kernel's own ({}) starve the guest's kernel",
                self.scene.limits.movable_ratio, self.scene.seen.memory.boot
            )
        } else {
            return Ok(());
        };
        Err(Obstacle { when: When::NotNow, reason, way_out: "ask for --zone auto".to_owned() })
    }
}
