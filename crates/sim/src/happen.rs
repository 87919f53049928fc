//! What was decided comes to pass.

use crate::clock::Happening;
use crate::world::World;

impl World {
    pub(crate) fn happen(&mut self, what: Happening) {
        match what {
            Happening::ScanDimms => self.scan_dimms(),
            Happening::ScanVcpus => self.scan_vcpus(),
            Happening::Eject(id) if self.qemu.dimms.iter().any(|d| d.id == id) => self.dimm_leaves(&id),
            Happening::Eject(id) => self.vcpu_leaves(&id),
            Happening::Keep(id) if self.qemu.dimms.iter().any(|d| d.id == id) => self.dimm_ost(&id, 3, 0x82),
            Happening::Keep(id) => self.vcpu_stays(&id),
            Happening::OnlinesMemory(device) => self.online_device(&device),
            Happening::OnlinesVcpu(number) => self.online_vcpu(number),
            Happening::VirtioMem(id) => self.move_virtio_mem(&id),
            Happening::Balloon => self.move_balloon(),
            Happening::SizeEvent => self.tell_size(),
            Happening::AgentActs(act) => {
                let done = self.agent_acts(&act, self.clock.now + crate::clock::pace::BOOT);
                self.note(format!("agent, late: {act}: {done:?}"));
            }
            Happening::RemakeTaps => self.remake_taps(),
            Happening::Reset => self.reset(),
            Happening::Booted => self.booted(),
            Happening::Vanish(why) => self.vanish(&why),
        }
    }
}
