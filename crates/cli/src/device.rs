//! `supple device-xml`: the description of a memory device, for those who attach it themselves. It reaches no machine.

use drive::domxml::{DeviceKind, DeviceWish, device_xml};
use scale::units::Bytes;

use crate::args::Device;
use crate::failure::{DONE, Failure};
use crate::show::paragraph;
use crate::words::as_value;
use crate::{screen, wire};

/// QEMU takes DIMMs in multiples of this only (7.2 and 10.0, `QEMU_VMALLOC_ALIGN`).
const UNIT: Bytes = Bytes::mib(2);
/// The memory block of most Linux guests (x86-64 below 64 GiB).
const USUAL_BLOCK: Bytes = Bytes::mib(128);

/// Prints the description; the exit status. What there is to say about it goes to standard error.
pub(crate) fn run(asked: &Device) -> Result<u8, Failure> {
    let (wish, notes) = wish(asked);
    let xml = device_xml(&wish).map_err(|error| Failure::bad_input(error.to_string()))?;
    if asked.output.json {
        let size_bytes = wish.size.get();
        screen::say(&wire::Document::DeviceXml(wire::DeviceXml { xml, size_bytes, notes }).render());
        return Ok(DONE);
    }
    for note in &notes {
        screen::warn(&paragraph("note: ", note, screen::columns()));
    }
    screen::say(&xml);
    Ok(DONE)
}

/// The device, in a size that is the same everywhere, and what there is to say about that.
fn wish(asked: &Device) -> (DeviceWish, Vec<String>) {
    let kind = if asked.virtio_mem {
        DeviceKind::VirtioMem { block: asked.block, requested: asked.requested }
    } else {
        DeviceKind::Dimm { slot: asked.slot, base: asked.base }
    };
    let unit =
        UNIT.max(asked.page_size.unwrap_or(UNIT)).max(if asked.virtio_mem { asked.block } else { UNIT });
    let size = asked.size.round_up(unit);
    let mut notes = Vec::new();
    if size != asked.size {
        notes.push(format!(
            "{} is no multiple of {unit} and is rounded up to {size} ({}). libvirt would do so too, but not everywhere \
             alike: to a whole MiB when it attaches a DIMM to a running machine, to whole 2 MiB when it starts one, and \
             not at all in the definition, so that the same text no longer fits the device when it is to be detached",
            asked.size,
            in_kib(size),
        ));
    }
    if !asked.virtio_mem && !size.is_multiple_of(USUAL_BLOCK) {
        notes.push(format!(
            "a Linux guest takes a DIMM in whole memory blocks only, or not at all: {USUAL_BLOCK} in most guests, up to \
             2 GiB in large ones; {} and {} are multiples of {USUAL_BLOCK}",
            as_value(size.round_down(USUAL_BLOCK).max(USUAL_BLOCK)),
            as_value(size.round_up(USUAL_BLOCK).max(USUAL_BLOCK.times(2))),
        ));
    }
    let wish = DeviceWish {
        kind,
        size,
        unit,
        node: asked.node.0,
        alias: asked.alias.clone(),
        page_size: asked.page_size,
    };
    (wish, notes)
}

fn in_kib(size: Bytes) -> String {
    format!("{} KiB", size.count_of(Bytes::new(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn told(words: &str) -> (DeviceWish, Vec<String>) {
        let words = format!("supple device-xml {words}");
        match Cli::try_parse_from(words.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::DeviceXml(device)) => wish(&device),
            other => panic!("{words}: {other:?}"),
        }
    }

    #[test]
    fn the_size_of_most_guides_is_rounded_and_told_why() {
        let (wish, notes) = told("--size 524287K");
        assert_eq!(wish.size, Bytes::mib(512));
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].contains("524287 KiB is no multiple of 2 MiB and is rounded up to 512 MiB (524288 KiB)")
        );
    }

    #[test]
    fn an_exact_size_gets_no_note_and_a_part_of_a_block_gets_one() {
        assert_eq!(told("--size 512M --node 0").1, [""; 0]);
        let (wish, notes) = told("--size 300M");
        assert_eq!(wish.size, Bytes::mib(300));
        assert!(notes[0].contains("256MiB and 384MiB are multiples of 128 MiB"), "{notes:?}");
        assert!(told("--size 64M").1[0].contains("128MiB and 256MiB"));
        assert_eq!(told("--size 300M --virtio-mem").1, [""; 0]);
    }

    #[test]
    fn what_it_is_made_of_decides_what_fits() {
        assert_eq!(told("--size 1500M --page-size 1G").0.size, Bytes::gib(2));
        assert_eq!(told("--size 5M --virtio-mem --block 4M").0.size, Bytes::mib(8));
        assert_eq!(told("--size 1G --node none").0.node, None);
        assert_eq!(told("--size 1G").0.node, Some(0));
    }
}
