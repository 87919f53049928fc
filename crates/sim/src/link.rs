//! A controller's connection to a world: the driver seam.

use crate::chance::Fate;
use crate::clock::pace;
use crate::world::World;
use drive::{ApplyError, Hypervisor, ObserveError};
use scale::observed::{Disk, Guest, Known, Observed};
use scale::plan::Act;
use scale::sight::{BlocksSight, DimmSight, Event, GuestView, Look, Sight, ZonesSight};
use scale::time::Moment;
use scale::wanted::Scope;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// A connection to a [`World`]. The world outlives it; events that come while nobody is connected are nobody's.
#[derive(Debug)]
pub struct Link<'w> {
    world: &'w mut World,
    scope: Scope,
}

impl World {
    /// Connects to this machine.
    pub fn connect(&mut self) -> Link<'_> {
        self.events.clear();
        self.remarks.clear();
        Link { world: self, scope: Scope::ALL }
    }
}

/// Runs a future over links to its end; nothing where it waits for what never comes: a killed controller. Links never
/// wait in real time, so one look tells.
pub fn finish<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// An observation that tells nothing beyond `scope`, as a real driver's that saves itself the questions.
fn within(mut seen: Observed, scope: Scope) -> Observed {
    if !scope.power {
        seen.power = Known::default();
    }
    if !scope.disks {
        seen.disks = Known::default();
    }
    if let (false, Known::Is(disks)) = (scope.disk_guests, &mut seen.disks) {
        for disk in disks {
            disk.guest = Known::Not("the guest was not asked".to_owned());
        }
    }
    if !scope.nics {
        seen.nics = Known::default();
    }
    if let (false, Known::Is(nics)) = (scope.nic_guests, &mut seen.nics) {
        for nic in nics {
            (nic.aliases, nic.addresses) = (Vec::new(), Vec::new());
        }
    }
    if !scope.asks_guest() {
        seen.guest = Guest::Unheard("the guest was not asked".to_owned());
    }
    if let Guest::Heard(facts) = &mut seen.guest {
        if !scope.memory {
            (facts.block, facts.blocks) = (None, Vec::new());
            (facts.meminfo, facts.auto_online, facts.has_probe) = (None, None, false);
        }
        facts.tools.retain(|_| scope.disk_guests);
        facts.interfaces.retain(|_| scope.nic_guests);
        facts.vcpus.retain(|_| scope.vcpus);
        let told = facts.meminfo.is_some() && !facts.blocks.is_empty();
        if let Some(balloon) = seen.memory.balloon.as_mut().filter(|_| told && !scope.rest) {
            balloon.stats = None;
        }
    }
    seen
}

impl Hypervisor for Link<'_> {
    fn now(&self) -> Moment {
        self.world.now()
    }

    fn attend(&mut self, scope: Scope) {
        self.scope = scope;
    }

    async fn observe(&mut self) -> Result<Observed, ObserveError> {
        self.world.pass(pace::MONITOR);
        self.world.reachable()?;
        Ok(within(self.world.observed(), self.scope))
    }

    async fn look(&mut self, look: &Look) -> Result<Sight, ObserveError> {
        self.world.pass(pace::MONITOR);
        self.world.reachable()?;
        Ok(self.world.look(look))
    }

    async fn apply(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.world.send(act, until)
    }

    fn remarks(&mut self) -> Vec<String> {
        std::mem::take(&mut self.world.remarks)
    }

    async fn watch(&mut self, until: Moment) -> Option<Event> {
        loop {
            if let Some(event) = self.world.events.pop_front() {
                return Some(event);
            }
            if let Some(why) = self.world.gone() {
                return Some(Event::Gone { why: why.to_owned() });
            }
            let Some(what) = self.world.clock.next_by(until) else { break };
            self.world.happen(what);
        }
        let rest = until.since(self.world.now());
        self.world.pass(rest);
        None
    }
}

impl World {
    fn reachable(&self) -> Result<(), ObserveError> {
        self.gone().map_or(Ok(()), |why| Err(ObserveError::Unreachable(why.to_owned())))
    }

    /// Sends one act; what befalls it on the way is chance's.
    fn send(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        self.pass(pace::MONITOR);
        if let Some(why) = self.gone() {
            return Err(ApplyError::Unknown(why.to_owned()));
        }
        let fate = self.faults.fate(&mut self.chance);
        let answer = match fate {
            Fate::Refused => Err(ApplyError::Refused("the monitor is not in the mood".into())),
            Fate::Lost => Err(ApplyError::Unknown("no answer".into())),
            Fate::Goes | Fate::Unanswered => self.do_act(act, until),
        };
        self.note(format!("{fate:?}: {act}: {answer:?}"));
        if !matches!(fate, Fate::Lost | Fate::Unanswered) {
            return answer;
        }
        let rest = until.since(self.now());
        self.pass(rest);
        Err(ApplyError::Unknown("no answer".into()))
    }

    fn do_act(&mut self, act: &Act, until: Moment) -> Result<(), ApplyError> {
        let said = match act {
            Act::CreateBackend { memdev, size, backing, .. } => self.object_add(memdev, *size, backing),
            Act::DeleteBackend { memdev } => self.object_del(memdev),
            Act::PlugDimm { id, memdev, brings, slot, node, addr } => {
                let plug = crate::qemu::Plug { id, memdev, slot: *slot, node: *node, addr: *addr };
                match brings {
                    Some(size) => self.attach_dimm(&plug, *size),
                    None => self.plug_dimm(&plug),
                }
            }
            Act::UnplugDimm { id, .. } => self.unplug_dimm(id),
            Act::ResizeVirtioMem { id, from, to } => self
                .unmoved("requested-size", self.requested(id), *from, *to)
                .and_then(|()| self.request_virtio_mem(id, *to)),
            Act::SettleVirtioMem { id } => match self.qemu.virtio_mem.iter().find(|v| v.id == *id) {
                Some(device) => self.request_virtio_mem(id, device.size),
                None => Err(format!("Device '{id}' not found")),
            },
            Act::SetBalloon { to, .. } => self.set_balloon(*to),
            Act::PlugVcpu { id, driver, props } => self.plug_vcpu(id, driver, props),
            Act::UnplugVcpu { id } => self.unplug_vcpu(id),
            Act::AwaitOnline { .. } => Ok(()),
            Act::Set { from, to } => self.set_limit(from, to),
            Act::GrowDisk { disk, from, to } => self.resize_disk(disk, *from, *to),
            Act::MakeKnown { .. }
            | Act::OnlineBlocks { .. }
            | Act::OfflineBlocks { .. }
            | Act::OnlineVcpus { .. }
            | Act::GrowInGuest { .. } => {
                return self.send_to_agent(act, until);
            }
        };
        said.map_err(ApplyError::Refused)
    }

    fn requested(&self, id: &str) -> Option<scale::units::Bytes> {
        self.qemu.virtio_mem.iter().find(|v| v.id == id).map(|v| v.requested)
    }

    /// An act that starts from a value is not sent where that has changed, unless it is done already.
    fn unmoved(
        &self,
        what: &str,
        now: Option<scale::units::Bytes>,
        from: scale::units::Bytes,
        to: scale::units::Bytes,
    ) -> Result<(), String> {
        match now {
            Some(now) if now != from && now != to => {
                Err(format!("{what} is at {now}, not at {from}: somebody else has changed it"))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn look(&mut self, look: &Look) -> Sight {
        match look {
            Look::Backend(memdev) => Sight::Backend(self.qemu.backends.contains_key(memdev)),
            Look::Dimm(id) => Sight::Dimm(self.look_at_dimm(id, true)),
            Look::DimmDevice(id) => Sight::Dimm(self.look_at_dimm(id, false)),
            Look::VirtioMem(id) => {
                Sight::VirtioMem(self.qemu.said_virtio_mem().into_iter().find(|v| v.id == *id))
            }
            Look::Blocks(device) => {
                let known = self.qemu.blocks_of(device, self.guest.block).is_some();
                Sight::Blocks(known.then(|| self.ask_for_blocks(device)))
            }
            Look::Zones(device) => {
                let known = self.qemu.blocks_of(device, self.guest.block).is_some();
                Sight::Zones(known.then(|| self.ask_for_zones(device)))
            }
            Look::GuestTotal => Sight::GuestTotal(self.balloon_stats().map(|s| s.total)),
            Look::Balloon => Sight::Balloon(self.qemu.balloon_actual()),
            Look::Vcpu(id) => {
                let plugged = self.qemu.places.iter().any(|p| p.device() == Some(id));
                Sight::Vcpu { plugged, guest: self.ask("guest-get-vcpus", World::said_vcpus) }
            }
            Look::VcpuDevice(id) => {
                let plugged = self.qemu.places.iter().any(|p| p.device() == Some(id));
                Sight::Vcpu { plugged, guest: GuestView::Unasked("it was not to be asked".into()) }
            }
            Look::Vcpus => Sight::Vcpus(self.ask("guest-get-vcpus", World::said_vcpus)),
            Look::Setting(name) => Sight::Setting(self.setting(name)),
            Look::Disk(name) => Sight::Disk(self.look_at_disk(name, true)),
            Look::DiskDevice(name) => Sight::Disk(self.look_at_disk(name, false)),
        }
    }

    fn look_at_disk(&mut self, name: &str, ask_guest: bool) -> Option<Box<Disk>> {
        let heard = match ask_guest {
            true => self.ask("guest-exec", |_| ()),
            false => GuestView::Unasked("it was not to be asked".into()),
        };
        let heard = match &heard {
            GuestView::Shows(()) => Ok(()),
            GuestView::Unasked(why) | GuestView::Silent(why) => Err(why.as_str()),
        };
        self.said_disks(heard).into_iter().find(|disk| disk.name == name).map(Box::new)
    }

    fn look_at_dimm(&mut self, id: &str, ask_guest: bool) -> Option<DimmSight> {
        let device = self.qemu.said_dimms().into_iter().find(|d| d.id == id)?;
        let guest = match ask_guest {
            true => self.ask_for_blocks(id),
            false => GuestView::Unasked("it was not to be asked".into()),
        };
        Some(DimmSight { device, guest })
    }

    fn ask_for_zones(&mut self, device: &str) -> GuestView<ZonesSight> {
        let zones = self.guest.zones_of(device);
        match self.ask_for_blocks(device) {
            GuestView::Shows(shown) => GuestView::Shows(ZonesSight { shown, zones }),
            GuestView::Unasked(why) => GuestView::Unasked(why),
            GuestView::Silent(why) => GuestView::Silent(why),
        }
    }

    fn ask_for_blocks(&mut self, device: &str) -> GuestView<BlocksSight> {
        self.ask("guest-get-memory-blocks", |world| BlocksSight {
            block: world.guest.block,
            covers: world.qemu.blocks_at_least(device, world.guest.block),
            blocks: world.said_blocks(device).unwrap_or_default(),
        })
    }
}
