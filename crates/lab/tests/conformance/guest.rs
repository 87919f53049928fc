//! Real guests: which there are, and what the stages do and see inside of them, by the lab's own shell.

use lab::{Agent, Inside, Onlining, Recipe, Service};
use scale::units::Bytes;
use serde_json::Value;

use crate::stage::{Make, SMALL, Size};

/// The guest of a make.
pub(crate) fn recipe(make: Make) -> Recipe {
    let plain = Recipe::q35().memory(SMALL).max_memory(Bytes::gib(8), 16).vcpus(1, 4);
    match make {
        Make::Plain => plain,
        Make::VirtioMem => plain.virtio_mem(Bytes::gib(2), 0).onlining(Onlining::KernelMovable),
        Make::WithoutAgent => plain.onlining(Onlining::Kernel).agent(Agent::Absent),
    }
}

/// What is plugged, of what QEMU answers to `query-memory-size-summary` and `query-cpus-fast`.
pub(crate) fn plugged(memory: &Value, vcpus: &Value) -> Size {
    let bytes = |key: &str| Bytes::new(memory[key].as_u64().unwrap());
    let vcpus = vcpus.as_array().unwrap().len();
    Size { memory: bytes("base-memory") + bytes("plugged-memory"), vcpus: vcpus.try_into().unwrap() }
}

/// What is online, by the guest's kernel.
pub(crate) async fn online(guest: &Inside) -> Size {
    let witness = guest.witness();
    let blocks = witness.blocks().await.unwrap();
    let online = blocks.iter().filter(|block| block.online).count() as u64;
    let memory = witness.block_size().await.unwrap().times(online);
    Size { memory, vcpus: witness.nproc().await.unwrap().into() }
}

/// So much memory is written, read back and given back.
pub(crate) async fn uses(guest: &Inside, size: Bytes) {
    let witness = guest.witness();
    let touched = witness.touch(size).await.unwrap();
    assert!(witness.intact(&touched).await.unwrap(), "what was written is read back");
    witness.release(touched).await.unwrap();
}

/// Pins memory in the movable zone, which user space fills first. A pipe that nobody reads holds on to the pages of the
/// file that was sent into it, and what is held on to cannot be moved (`folio_migrate_mapping`, Linux 6.1).
pub(crate) async fn pin(guest: &Inside) {
    let pin = "dd if=/dev/zero of=/mem/kept bs=32k count=1 2> /dev/null && mkfifo /run/kept && \
               { sleep 100000 < /run/kept & echo $! > /run/kept.pid; } && cat /mem/kept > /run/kept";
    guest.shell(pin).await.unwrap().ok().unwrap();
}

/// Lets go of it.
pub(crate) async fn unpin(guest: &Inside) {
    let unpin = "kill $(cat /run/kept.pid) && rm -f /run/kept /run/kept.pid /mem/kept";
    guest.shell(unpin).await.unwrap().ok().unwrap();
}

/// Masks the guest's interrupt for memory hot-plug (`\_GPE._E03` of QEMU's tables; hw/i386/acpi-build.c, 7.2), or lets
/// it through again. What it misses meanwhile comes when it is let through.
pub(crate) async fn hears_of_memory(guest: &Inside, hears: bool) {
    let word = if hears { "unmask" } else { "mask" };
    guest.shell(&format!("echo {word} > /sys/firmware/acpi/interrupts/gpe03")).await.unwrap().ok().unwrap();
}

/// Ends the watch over the guest's service, which has answered all that it was asked.
pub(crate) async fn served(service: Service) {
    let report = service.finish().await;
    assert!(report.answered > 0 && report.lost == 0, "{report:?}");
}
