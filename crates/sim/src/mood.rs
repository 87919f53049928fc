//! The ways in which a guest is difficult. They combine; each can be limited in time.

use crate::chance::Chance;
use crate::clock::{Happening, pace};
use crate::world::World;
use scale::time::{Moment, Span};

/// One way in which a guest is difficult. A guest without moods is willing: it gives up and takes in what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mood {
    /// Some memory is pinned: offlining fails, an ejection is refused with status 0x82, virtio-mem shrinks only in
    /// part; with [`Pinned::All`] vCPUs are kept too.
    Refuses(Pinned),
    /// The agent is silent for so long from now; then it does what it was asked in the meantime.
    Stalls(Span),
    /// The agent says what is not so.
    Lies(Lie),
    /// QEMU ends after so long.
    Vanishes(Span),
    /// The guest agrees to every removal at once and lets go so much later.
    EjectsLate(Span),
    /// The guest does not hear of removals. QEMU keeps the request and passes it on at the next plug.
    NoAcpi,
    /// The guest brings new memory and vCPUs into use so long after they appear: at once for a kernel that does it,
    /// later for a udev rule.
    OnlinesItself(Span),
    /// The kernel has no memory left for the page tables of new memory: a plugged DIMM never appears.
    OutOfMetadata,
    /// The kernel has no driver for memory hot-plug, only `probe`: it neither finds a plugged DIMM by itself nor ever
    /// hears that one is to go (Linux 2.6.32 without acpi_memhotplug).
    NeedsProbe,
    /// No block goes online as movable (EINVAL): the kernel has it in another zone.
    NotMovable,
    /// There is no agent.
    NoAgent,
    /// The agent does not take these commands.
    FilteredAgent(Vec<String>),
    /// The guest restarts after so long.
    Reboots(Span),
    /// The host takes no limit.
    NoLimits,
    /// The host sets a part of a limit and then fails.
    HalfLimits,
    /// The host makes the machine's taps anew after so long: every limit on them is gone.
    TapsRemade(Span),
    /// The host's filesystems are full.
    HostFull,
    /// The guest does not notice a disk's new size until it restarts.
    DisksUnnoticed,
    /// The programs that grow what lies on a disk fail.
    ToolsFail,
}

/// Which memory is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pinned {
    /// Some in every memory device.
    All,
    /// Some in these devices.
    In(Vec<String>),
}

/// What an agent says that is not so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// That it has onlined or offlined what it was asked to: nothing changes.
    Done,
    /// That blocks are there that are not.
    Phantoms,
    /// That all blocks are online.
    AllOnline,
}

/// A mood and its time.
#[derive(Debug, Clone)]
pub(crate) struct Spell {
    mood: Mood,
    until: Option<Moment>,
}

impl Mood {
    /// A mood by chance.
    pub fn any(chance: &mut Chance) -> Mood {
        match chance.below(16) {
            0 | 1 => Mood::Refuses(Pinned::All),
            2 => Mood::Stalls(Span::millis(100 + chance.below(40_000))),
            3 => Mood::Lies(Lie::Done),
            4 => Mood::Lies(Lie::Phantoms),
            5 => Mood::Lies(Lie::AllOnline),
            6 => Mood::EjectsLate(Span::millis(chance.below(120_000))),
            7 => Mood::NoAcpi,
            8 => Mood::OnlinesItself(Span::millis(0)),
            9 => Mood::OnlinesItself(Span::millis(chance.below(3000))),
            10 => Mood::OutOfMetadata,
            11 => Mood::NoAgent,
            12 => Mood::NeedsProbe,
            13 => Mood::NotMovable,
            14 => Mood::FilteredAgent(vec!["guest-exec".into(), "guest-set-memory-blocks".into()]),
            _ => Mood::Reboots(Span::millis(chance.below(2000))),
        }
    }
}

impl Mood {
    /// A mood of disks and limits by chance.
    pub fn any_of_host(chance: &mut Chance) -> Mood {
        match chance.below(6) {
            0 => Mood::NoLimits,
            1 => Mood::HalfLimits,
            2 => Mood::TapsRemade(Span::millis(chance.below(3000))),
            3 => Mood::HostFull,
            4 => Mood::DisksUnnoticed,
            _ => Mood::ToolsFail,
        }
    }
}

impl World {
    /// Puts the guest into a mood from now on, beside those that it is in.
    pub fn put(&mut self, mood: Mood) {
        self.put_until(mood, None);
    }

    /// Puts the guest into a mood for so long.
    pub fn put_for(&mut self, span: Span, mood: Mood) {
        self.put_until(mood, Some(self.clock.now + span));
    }

    /// The guest is willing again, and the way to it is good. What is under way stays under way, but for the restarts
    /// and ends that moods had in store.
    pub fn heal(&mut self) {
        if self.spells.iter().any(|s| s.mood == Mood::NeedsProbe) {
            // The kernel's driver for memory is loaded: it looks at what is there.
            self.clock.after(pace::ACPI, Happening::ScanDimms);
        }
        self.spells.clear();
        self.faults = crate::chance::Faults::default();
        self.clock
            .forget(|what| !matches!(what, Happening::Reset | Happening::RemakeTaps | Happening::Vanish(_)));
    }

    fn put_until(&mut self, mood: Mood, until: Option<Moment>) {
        let until = match &mood {
            Mood::Stalls(span) => Some(self.clock.now + *span),
            Mood::Vanishes(span) => {
                self.clock.after(*span, Happening::Vanish("QEMU was killed".into()));
                return;
            }
            Mood::Reboots(span) => {
                self.clock.after(*span, Happening::Reset);
                return;
            }
            Mood::TapsRemade(span) => {
                self.clock.after(*span, Happening::RemakeTaps);
                return;
            }
            Mood::Refuses(_)
            | Mood::Lies(_)
            | Mood::EjectsLate(_)
            | Mood::NoAcpi
            | Mood::OnlinesItself(_)
            | Mood::OutOfMetadata
            | Mood::NeedsProbe
            | Mood::NotMovable
            | Mood::NoAgent
            | Mood::FilteredAgent(_)
            | Mood::NoLimits
            | Mood::HalfLimits
            | Mood::HostFull
            | Mood::DisksUnnoticed
            | Mood::ToolsFail => until,
        };
        self.note(format!("mood: {mood:?}"));
        self.spells.push(Spell { mood, until });
    }

    /// The moods that the guest is in now.
    pub(crate) fn moods(&self) -> impl Iterator<Item = &Mood> {
        let now = self.clock.now;
        self.spells.iter().filter(move |s| s.until.is_none_or(|until| now < until)).map(|s| &s.mood)
    }

    pub(crate) fn is(&self, mood: &Mood) -> bool {
        self.moods().any(|m| m == mood)
    }

    /// When the agent will speak again, if it is silent.
    pub(crate) fn silent_until(&self) -> Option<Moment> {
        let stalls = self
            .spells
            .iter()
            .filter(|s| matches!(s.mood, Mood::Stalls(_)))
            .filter_map(|s| s.until)
            .max()
            .filter(|until| *until > self.clock.now);
        stalls.max(self.guest.booting_until)
    }

    /// How long after its appearance the guest brings a device into use, if it does so by itself.
    pub(crate) fn onlines_itself(&self) -> Option<Span> {
        self.moods()
            .filter_map(|m| if let Mood::OnlinesItself(after) = m { Some(*after) } else { None })
            .min()
    }

    /// True if some memory of this device is pinned.
    pub(crate) fn pins(&self, device: &str) -> bool {
        self.moods().any(|m| match m {
            Mood::Refuses(Pinned::All) => true,
            Mood::Refuses(Pinned::In(devices)) => devices.iter().any(|d| d == device),
            Mood::Stalls(_)
            | Mood::Lies(_)
            | Mood::Vanishes(_)
            | Mood::EjectsLate(_)
            | Mood::NoAcpi
            | Mood::OnlinesItself(_)
            | Mood::OutOfMetadata
            | Mood::NeedsProbe
            | Mood::NotMovable
            | Mood::NoAgent
            | Mood::FilteredAgent(_)
            | Mood::Reboots(_)
            | Mood::NoLimits
            | Mood::HalfLimits
            | Mood::TapsRemade(_)
            | Mood::HostFull
            | Mood::DisksUnnoticed
            | Mood::ToolsFail => false,
        })
    }

    /// How much later than agreed the guest lets go.
    pub(crate) fn ejects_late(&self) -> Span {
        self.moods()
            .filter_map(|m| if let Mood::EjectsLate(by) = m { Some(*by) } else { None })
            .max()
            .unwrap_or_default()
    }
}
