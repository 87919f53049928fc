//! How far a machine can be resized while it runs, as far as its description tells: at a glance, for many machines at
//! once. It knows nothing of the guest or the host, which the planner asks; it promises no plan.

use super::domain::{Domain, MemoryDevice, MemoryModel};
use super::machine::Board;
use scale::units::Bytes;

/// What a machine has and how far that can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The memory that it has: boot memory, DIMMs, and what virtio-mem and the balloon leave of theirs.
    pub memory: Bytes,
    /// The least memory without a balloon: what it booted with.
    pub least_memory: Bytes,
    /// The most memory.
    pub most_memory: Bytes,
    /// How many DIMMs can still be added.
    pub free_slots: u32,
    /// Whether a virtio-mem device is there, by which memory moves.
    pub virtio_mem: bool,
    /// Whether a balloon is there, by which memory can be taken without removing it.
    pub balloon: bool,
    /// The vCPUs that it has.
    pub vcpus: u32,
    /// The least vCPUs.
    pub least_vcpus: u32,
    /// The most vCPUs.
    pub most_vcpus: u32,
}

/// How far the machine can be resized, of its live description; of a definition, how far once it is started.
pub fn room(domain: &Domain) -> Room {
    let of = |model: MemoryModel| domain.memory_devices.iter().filter(move |device| device.model == model);
    let dimms: Bytes = of(MemoryModel::Dimm).map(|device| device.size).sum();
    let virtio: Vec<&MemoryDevice> = of(MemoryModel::VirtioMem).collect();
    let given: Bytes = virtio.iter().filter_map(|device| device.current.or(device.requested)).sum();
    let takes_all: Bytes = virtio.iter().map(|device| device.size).sum();
    let boot = domain.memory.boot;
    // libvirt counts into <currentMemory> what virtio-mem gives while the machine runs, and what it may give in
    // definitions.
    let whole = boot + dimms + given;
    let memory = domain.memory.current.map_or(whole, |current| current.min(whole));

    let used = domain.memory_devices.iter().filter(|device| device.model.takes_slot()).count();
    let max = domain.memory.max;
    let slots = max.and_then(|max| max.slots).unwrap_or(0);
    let free_slots = slots.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX));
    let left = max.map_or(Bytes::ZERO, |max| max.size.saturating_sub(domain.total_memory()));
    let by_dimm = if free_slots > 0 { left } else { Bytes::ZERO };

    let vcpus = &domain.vcpus;
    let removable = vcpus.each.iter().filter(|vcpu| vcpu.enabled && vcpu.hotpluggable).count();
    let removable = u32::try_from(removable).unwrap_or(u32::MAX);
    let (least_vcpus, most_vcpus) = if plugs_vcpus(domain) {
        (vcpus.current.saturating_sub(removable).max(1), vcpus.max)
    } else {
        (vcpus.current, vcpus.current)
    };
    Room {
        memory,
        least_memory: boot,
        most_memory: boot + dimms + takes_all + by_dimm,
        free_slots,
        virtio_mem: !virtio.is_empty(),
        balloon: domain.balloon.as_ref().is_some_and(|balloon| balloon.model != "none"),
        vcpus: vcpus.current,
        least_vcpus,
        most_vcpus,
    }
}

impl Room {
    /// Whether memory can be added or removed.
    pub fn memory_moves(&self) -> bool {
        self.most_memory > self.least_memory
    }

    /// Whether vCPUs can be added or removed.
    pub fn vcpus_move(&self) -> bool {
        self.most_vcpus > self.least_vcpus
    }
}

/// Arm's boards have no vCPU hot-plug in QEMU (7.2 and 10.0), microvm and isapc neither.
fn plugs_vcpus(domain: &Domain) -> bool {
    match domain.machine.board(domain.machine.arch.as_deref().unwrap_or("x86_64")) {
        Board::Pc | Board::Q35 | Board::Pseries | Board::S390Ccw | Board::Other => true,
        Board::Virt | Board::Microvm | Board::Isapc => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(inside: &str) -> Room {
        let xml = format!(
            "<domain type='kvm'><name>n</name>{inside}<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        );
        room(&Domain::parse(&xml).unwrap())
    }

    #[test]
    fn an_unprepared_machine_has_no_room() {
        let room = of("<memory unit='GiB'>2</memory><vcpu>2</vcpu>");
        assert!(!room.memory_moves() && !room.vcpus_move(), "{room:?}");
        assert_eq!((room.memory, room.vcpus), (Bytes::gib(2), 2));
    }

    #[test]
    fn free_slots_give_room_up_to_the_ceiling_and_none_left_gives_none() {
        let with = |slots: u32| {
            of(&format!(
                "<maxMemory slots='{slots}' unit='GiB'>8</maxMemory><memory unit='GiB'>3</memory>\
                 <devices><memory model='dimm'><target><size unit='GiB'>1</size></target></memory></devices>"
            ))
        };
        let room = with(2);
        assert_eq!((room.free_slots, room.least_memory, room.most_memory), (1, Bytes::gib(2), Bytes::gib(8)));
        assert_eq!((with(1).free_slots, with(1).most_memory), (0, Bytes::gib(3)));
    }

    #[test]
    fn virtio_mem_gives_what_it_has_and_may_give_the_rest() {
        let room = of(
            "<maxMemory unit='GiB'>10</maxMemory><memory unit='GiB'>6</memory><currentMemory unit='GiB'>3</currentMemory>\
             <devices><memory model='virtio-mem'><target><size unit='GiB'>4</size><block unit='MiB'>2</block>\
             <requested unit='GiB'>1</requested><current unit='GiB'>1</current></target></memory></devices>",
        );
        assert_eq!((room.memory, room.least_memory), (Bytes::gib(3), Bytes::gib(2)));
        assert_eq!((room.most_memory, room.virtio_mem), (Bytes::gib(6), true));
    }

    #[test]
    fn what_the_balloon_holds_is_not_had() {
        let room = of("<memory unit='GiB'>4</memory><currentMemory unit='GiB'>3</currentMemory>\
                       <devices><memballoon model='virtio'/></devices>");
        assert_eq!((room.memory, room.most_memory, room.balloon), (Bytes::gib(3), Bytes::gib(4), true));
        assert!(!of("<memory unit='GiB'>4</memory><devices><memballoon model='none'/></devices>").balloon);
    }

    #[test]
    fn only_vcpus_that_were_plugged_so_can_go_and_arms_never_come() {
        let vcpus = "<memory unit='GiB'>1</memory><vcpu current='3'>4</vcpu><vcpus><vcpu id='0' enabled='yes' \
                     hotpluggable='no'/><vcpu id='1' enabled='yes' hotpluggable='no'/><vcpu id='2' enabled='yes' \
                     hotpluggable='yes'/><vcpu id='3' enabled='no'/></vcpus>";
        let room = of(vcpus);
        assert_eq!((room.least_vcpus, room.vcpus, room.most_vcpus), (2, 3, 4));
        let arm = format!(
            "<domain type='kvm'><name>n</name>{vcpus}<os><type arch='aarch64' machine='virt'>hvm</type></os></domain>"
        );
        let room = super::room(&Domain::parse(&arm).unwrap());
        assert_eq!((room.least_vcpus, room.most_vcpus), (3, 3));
    }
}
