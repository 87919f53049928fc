//! The rules of virtio-mem, the balloon and vCPUs.

use super::{Auditor, Kind};
use crate::observed::{Accel, VcpuProps, VcpuState};
use crate::plan::OWN_PREFIX;
use crate::units::Bytes;

impl Auditor<'_> {
    /// QEMU refuses a request that is no multiple of the block or above the region (hw/virtio/virtio-mem.c, 7.2).
    pub(super) fn resize_virtio_mem(&mut self, id: &str, from: Bytes, to: Bytes) {
        let Some(index) = self.ledger.virtio_mem.iter().position(|v| v.device.id == id) else {
            self.find(Kind::VirtioMem, format!("there is no virtio-mem device {id}"));
            return;
        };
        let device = self.ledger.virtio_mem[index].device.clone();
        let in_use = self.ledger.virtio_mem[index].in_use;
        self.require(from == device.requested, Kind::VirtioMem, || {
            format!("{id} is moved from {from} while {} are requested of it", device.requested)
        });
        self.require(to.is_multiple_of(device.block) && to <= device.max, Kind::VirtioMem, || {
            format!("{id} takes multiples of {} up to {}, not {to}", device.block, device.max)
        });
        if to > device.size {
            // No page tables are counted here: the driver adds block by block, each in use before the next, and stops
            // where the kernel has no more (drivers/virtio/virtio_mem.c, 6.1).
            self.ledger.gain(to - device.size);
            self.ledger.virtio_mem[index].in_use = in_use + (to - device.size);
        } else {
            // What is not in use may go first.
            self.guest_loses(in_use.saturating_sub(to));
            self.ledger.virtio_mem[index].in_use = in_use.min(to);
        }
        self.host_lends(id, device.size, to);
        let device = &mut self.ledger.virtio_mem[index].device;
        (device.requested, device.size) = (to, to);
    }

    pub(super) fn settle_virtio_mem(&mut self, id: &str) {
        let Some(stretch) = self.ledger.virtio_mem.iter_mut().find(|v| v.device.id == id) else {
            self.find(Kind::VirtioMem, format!("there is no virtio-mem device {id}"));
            return;
        };
        stretch.device.requested = stretch.device.size;
    }

    /// QEMU clamps a target above all memory and refuses one of zero (hw/virtio/virtio-balloon.c, 7.2).
    pub(super) fn set_balloon(&mut self, from: Bytes, to: Bytes) {
        let most = self.ledger.balloonable();
        let Some(held) = self.ledger.ballooned else {
            self.find(Kind::Balloon, "the machine has no balloon");
            return;
        };
        let now = most.saturating_sub(held);
        self.require(from == now, Kind::Balloon, || format!("the balloon is at {now}, not at {from}"));
        self.require(!to.is_zero() && to <= most, Kind::Balloon, || {
            format!("a target of {to}, with {most} of boot memory and DIMMs")
        });
        self.ledger.ballooned = Some(most.saturating_sub(to));
        if to >= now {
            self.ledger.gain(to - now);
        } else {
            self.guest_loses(now - to);
        }
    }

    /// QEMU wants every property that it lists for the place, and nothing there yet (hw/i386/x86.c, 7.2).
    pub(super) fn plug_vcpu(&mut self, id: &str, driver: &str, props: &VcpuProps) {
        let taken = self.ledger.has_device(id);
        self.require(!taken, Kind::Id, || format!("there is a device {id} already"));
        let given = self.seen.vcpus.slots.iter().find(|s| s.props == *props).and_then(|s| s.name.as_deref());
        match given {
            Some(name) => self.require(id == name, Kind::Id, || {
                format!("'{id}' will be called {name} by the machine's manager")
            }),
            None => self.require(id.len() > OWN_PREFIX.len() && id.starts_with(OWN_PREFIX), Kind::Id, || {
                format!("'{id}' does not begin with {OWN_PREFIX}, by which our own devices are known")
            }),
        }
        self.survives_vcpu_removal(id);
        self.no_dimm_is_late(id);
        let Some(place) = self.ledger.vcpus.iter_mut().find(|p| p.props == *props) else {
            self.find(Kind::Vcpu, format!("the machine has no place {props:?}"));
            return;
        };
        let (state, takes, count) = (place.state.clone(), place.driver.clone(), place.count);
        place.state = VcpuState::Device(id.to_owned());
        self.require(state == VcpuState::Free, Kind::Vcpu, || {
            format!("the place of {id} is not free: {state:?}")
        });
        self.require(takes == driver, Kind::Vcpu, || {
            format!("{id} is a {driver}, its place takes a {takes}")
        });
        self.has_a_context_for(id, count);
    }

    /// Under TCG QEMU has one context for each vCPU that there can be at once, and takes none back (tcg/tcg.c, 10.0).
    fn has_a_context_for(&mut self, id: &str, count: u32) {
        self.vcpus_started = self.vcpus_started.saturating_add(count);
        let most: u32 = self.ledger.vcpus.iter().map(|place| place.count).sum();
        let fits = self.seen.machine.accel != Accel::Tcg || self.vcpus_started <= most;
        let started = self.vcpus_started;
        self.require(fits, Kind::KnownDanger, || {
            format!("{id} is vCPU {started} of this QEMU's life, which ends under TCG with more than {most}")
        });
    }

    /// Only a vCPU with an id can be removed; boot vCPUs have none.
    pub(super) fn unplug_vcpu(&mut self, id: &str) {
        let mut places = self.ledger.vcpus.iter_mut();
        let place = places.find(|p| matches!(&p.state, VcpuState::Device(d) if d == id && !id.is_empty()));
        match place {
            Some(place) => place.state = VcpuState::Free,
            None => self.find(Kind::NotRemovable, format!("there is no vCPU device '{id}' to unplug")),
        }
        self.since_vcpu_removal = true;
        self.no_dimm_is_late(id);
        let deadly = self.seen.machine.accel == Accel::Tcg && self.seen.vcpus.one_thread;
        self.require(!deadly, Kind::KnownDanger, || {
            format!("{id} goes, and QEMU runs all vCPUs on one thread, which it would wait for on that very thread")
        });
        let left = self.ledger.sizes().vcpus;
        self.require(left > 0, Kind::NotRemovable, || "the last vCPU is removed".into());
    }

    pub(super) fn online_vcpus(&mut self, count: u32) {
        let plugged = self.ledger.sizes().vcpus;
        self.require(count > 0 && count <= plugged, Kind::Vcpu, || {
            format!("{count} vCPUs are to be online of {plugged}")
        });
        let able = self
            .seen
            .guest
            .heard()
            .is_some_and(|h| h.can("guest-set-vcpus") || h.can_write_files() || h.can("guest-exec"));
        self.require(able, Kind::GuestCannot, || "nobody can online the guest's vCPUs".into());
    }
}
