//! vCPUs: their places in QEMU, and how the guest takes them in and lets them go.

use crate::clock::{Happening, pace};
use crate::mood::Mood;
use crate::qemu::Qemu;
use crate::world::World;
use scale::observed::{Accel, Ost, VcpuProps, VcpuState};
use scale::sight::Event;

/// One place for a vCPU.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) props: VcpuProps,
    pub(crate) state: VcpuState,
    pub(crate) ost: Option<Ost>,
    pub(crate) inserting: bool,
    pub(crate) removing: bool,
}

impl Place {
    pub(crate) fn new(core: u32, state: VcpuState) -> Place {
        let props =
            VcpuProps { socket_id: Some(0), core_id: Some(core), thread_id: Some(0), ..VcpuProps::default() };
        Place { props, state, ost: None, inserting: false, removing: false }
    }

    pub(crate) fn device(&self) -> Option<&str> {
        match &self.state {
            VcpuState::Device(id) => Some(id),
            VcpuState::Free | VcpuState::Boot | VcpuState::Barred(_) => None,
        }
    }
}

/// The device type of every vCPU here.
pub(crate) const VCPU_DRIVER: &str = "qemu64-x86_64-cpu";

impl Qemu {
    /// Numbers of the places that are taken: the guest's numbers for its vCPUs too.
    pub(crate) fn taken_places(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.places).filter(|(_, p)| p.state.is_taken()).map(|(number, _)| number)
    }

    /// Under TCG each vCPU takes one of as many contexts as there are places, and none comes back (tcg/tcg.c, 10.0). On
    /// one thread, all use the same.
    fn has_no_context(&self) -> bool {
        let boot = self.places.iter().filter(|p| p.state == VcpuState::Boot).count();
        self.accel == Accel::Tcg && !self.one_thread && boot + self.vcpus_plugged > self.places.len()
    }
}

impl World {
    pub(crate) fn plug_vcpu(&mut self, id: &str, driver: &str, props: &VcpuProps) -> Result<(), String> {
        self.not_migrating("device_add")?;
        if self.qemu.has_device(id) {
            return Err(format!("Duplicate device ID '{id}'"));
        }
        if driver != VCPU_DRIVER {
            return Err(format!("Invalid CPU type, expected cpu type: '{VCPU_DRIVER}'"));
        }
        if props.core_id.is_none() {
            return Err("CPU core-id is not set".into());
        }
        let found = self.qemu.places.iter().position(|p| p.props == *props);
        let Some(number) = found else {
            let last = self.qemu.places.len().saturating_sub(1);
            return Err(format!("Invalid CPU core-id: {:?} must be in range 0:{last}", props.core_id));
        };
        if self.qemu.places[number].state.is_taken() {
            return Err(format!("CPU[{number}] with APIC ID {number} exists"));
        }
        if self.dies_of_vcpu_removal() {
            self.vanish("malloc(): largebin double linked list corrupted (nextsize)");
            return Ok(());
        }
        self.qemu.vcpus_plugged += 1;
        if self.qemu.has_no_context() {
            self.vanish("tcg_register_thread: assertion failed: (n < tcg_max_ctxs)");
            return Ok(());
        }
        let place = &mut self.qemu.places[number];
        place.state = VcpuState::Device(id.to_owned());
        place.inserting = true;
        place.removing = false;
        self.clock.after(pace::ACPI, Happening::ScanVcpus);
        Ok(())
    }

    pub(crate) fn unplug_vcpu(&mut self, id: &str) -> Result<(), String> {
        self.not_migrating("device_del")?;
        let deaf = self.is(&Mood::NoAcpi);
        let Some(place) = self.qemu.places.iter_mut().find(|p| p.device() == Some(id)) else {
            return Err(format!("Device '{id}' not found"));
        };
        place.removing = true;
        if !deaf {
            self.clock.after(pace::ACPI, Happening::ScanVcpus);
        }
        Ok(())
    }

    /// The guest's ACPI driver looks at all vCPU slots.
    pub(crate) fn scan_vcpus(&mut self) {
        for number in 0..self.qemu.places.len() {
            let place = &mut self.qemu.places[number];
            let Some(id) = place.device().map(str::to_owned) else { continue };
            if place.inserting {
                place.inserting = false;
                let vcpu = u32::try_from(number).expect("few places");
                self.guest.vcpus.insert(vcpu, false);
                self.vcpu_ost(number, 1, 0);
                self.appeared(Happening::OnlinesVcpu(vcpu));
            } else if place.removing {
                place.removing = false;
                if self.is_letting_go(&id) {
                    continue;
                }
                let late = self.ejects_late();
                let what = if self.pins(&id) { Happening::Keep(id) } else { Happening::Eject(id) };
                self.clock.after(pace::EJECT + late, what);
            }
        }
    }

    fn vcpu_ost(&mut self, number: usize, source: u64, status: u64) {
        let place = &mut self.qemu.places[number];
        place.ost = Some(Ost { source, status });
        let device = place.device().map(str::to_owned);
        self.tell(Event::Ost { slot_type: "CPU".into(), slot: number.to_string(), device, source, status });
    }

    /// The guest keeps a vCPU, and says so.
    pub(crate) fn vcpu_stays(&mut self, id: &str) {
        if let Some(number) = self.qemu.places.iter().position(|p| p.device() == Some(id)) {
            self.vcpu_ost(number, 3, 0x82);
        }
    }

    /// The guest lets a vCPU go; Linux takes it offline by itself (acpi_processor_remove).
    pub(crate) fn vcpu_leaves(&mut self, id: &str) {
        let Some(number) = self.qemu.places.iter().position(|p| p.device() == Some(id)) else { return };
        if self.qemu.accel == Accel::Tcg && self.qemu.one_thread {
            return self.vanish("qemu_thread_join: Resource deadlock avoided");
        }
        self.qemu.places[number].state = VcpuState::Free;
        self.qemu.places[number].removing = false;
        self.qemu.vcpu_removed = true;
        self.guest.vcpus.remove(&u32::try_from(number).expect("few places"));
        self.tell(Event::DeviceDeleted { id: id.to_owned() });
        self.vcpu_ost(number, 3, 0);
    }
}
