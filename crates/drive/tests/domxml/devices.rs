//! Descriptions of single memory devices: only sizes that are the same everywhere.

use crate::corpus::text;
use drive::domxml::{
    BadDevice, DeviceKind, DeviceWish, Domain, MemoryModel, as_attached, as_booted, device_xml,
    with_requested,
};
use proptest::prelude::*;
use scale::units::Bytes;

fn dimm(size: Bytes) -> DeviceWish {
    DeviceWish {
        kind: DeviceKind::Dimm { slot: None, base: None },
        size,
        unit: Bytes::mib(2),
        node: Some(0),
        alias: None,
        page_size: None,
    }
}

/// What libvirt would read of the device in a machine.
fn read_back(device: &str) -> drive::domxml::MemoryDevice {
    let machine =
        format!("<domain><name>n</name><memory unit='TiB'>8</memory><devices>{device}</devices></domain>");
    Domain::parse(&machine).expect("a description").memory_devices.remove(0)
}

#[test]
fn a_dimm_is_described_as_guides_do_with_an_exact_size() {
    assert_eq!(
        device_xml(&dimm(Bytes::mib(512))).unwrap(),
        "<memory model='dimm'>\n  <target>\n    <size unit='KiB'>524288</size>\n    <node>0</node>\n  </target>\n</memory>\n"
    );
}

#[test]
fn everything_about_a_device_can_be_said() {
    let wish = DeviceWish {
        kind: DeviceKind::Dimm { slot: Some(3), base: Some(0x1_4000_0000) },
        alias: Some("ua-supple-3".to_owned()),
        page_size: Some(Bytes::gib(1)),
        ..dimm(Bytes::gib(1))
    };
    let device = read_back(&device_xml(&wish).unwrap());
    assert_eq!(device.slot.map(|slot| (slot.number, slot.base)), Some((3, Some(0x1_4000_0000))));
    assert_eq!((device.alias.as_deref(), device.page_size), (Some("ua-supple-3"), Some(Bytes::gib(1))));
}

#[test]
fn a_virtio_mem_device_has_a_block_and_a_request() {
    let kind = DeviceKind::VirtioMem { block: Bytes::mib(2), requested: Bytes::gib(1) };
    let device = read_back(&device_xml(&DeviceWish { kind, ..dimm(Bytes::gib(8)) }).unwrap());
    assert_eq!((device.model, device.size), (MemoryModel::VirtioMem, Bytes::gib(8)));
    assert_eq!((device.block, device.requested), (Some(Bytes::mib(2)), Some(Bytes::gib(1))));
}

#[test]
fn the_size_of_most_guides_is_refused_with_the_rounding_explained() {
    let said = device_xml(&dimm(Bytes::new(524_287 << 10))).unwrap_err().to_string();
    assert!(said.starts_with("524287 KiB is no multiple of 2 MiB; use 510 MiB or 512 MiB."), "{said}");
    assert!(said.contains("whole MiB when it is attached") && said.contains("2 MiB at boot"), "{said}");
    let said = device_xml(&dimm(Bytes::mib(1))).unwrap_err().to_string();
    assert!(said.contains("use 2 MiB."), "{said}");
    assert!(matches!(device_xml(&dimm(Bytes::ZERO)), Err(BadDevice::Size { .. })));
    let blocks = DeviceWish { unit: Bytes::mib(128), ..dimm(Bytes::mib(192)) };
    assert!(device_xml(&blocks).unwrap_err().to_string().contains("use 128 MiB or 256 MiB"));
}

#[test]
fn what_libvirt_would_drop_or_qemu_refuse_is_refused() {
    let said = |wish: DeviceWish| device_xml(&wish).unwrap_err().to_string();
    let good = || dimm(Bytes::gib(1));
    let at = |slot, base| DeviceWish { kind: DeviceKind::Dimm { slot, base }, ..good() };
    let virtio = |block, requested| DeviceWish { kind: DeviceKind::VirtioMem { block, requested }, ..good() };
    for alias in ["dimm0", "ua-", "ua-a b", "ua-'/>"] {
        assert!(said(DeviceWish { alias: Some(alias.to_owned()), ..good() }).contains("begin with 'ua-'"));
    }
    assert!(said(at(Some(256), None)).contains("0 to 255"));
    assert!(said(at(None, Some(0x1_0000_0000))).contains("together with a slot"));
    assert!(said(at(Some(0), Some(0x1_0000_1000))).contains("no multiple"));
    assert!(said(virtio(Bytes::mib(3), Bytes::ZERO)).contains("power of two"));
    assert!(said(virtio(Bytes::gib(2), Bytes::ZERO)).contains("no multiple of 2 GiB; use 2 GiB"));
    assert!(said(virtio(Bytes::mib(2), Bytes::mib(1025))).contains("ask for 1 GiB"));
    assert!(said(virtio(Bytes::mib(2), Bytes::mib(33))).contains("ask for 32 MiB or 34 MiB"));
}

#[test]
fn a_request_changes_the_request_alone() {
    let live = Domain::parse(&text("live")).unwrap();
    let (dimm, virtio) = (&live.memory_devices[0], &live.memory_devices[2]);
    let asked = with_requested(&virtio.xml, Bytes::gib(3)).unwrap();
    assert_eq!(asked, virtio.xml.replace("<requested unit='KiB'>2097152<", "<requested unit='KiB'>3145728<"));
    assert_eq!(with_requested(&virtio.xml, Bytes::gib(2)).unwrap(), virtio.xml);
    let said = |device: &str, asked| with_requested(device, asked).unwrap_err().to_string();
    assert!(said(&virtio.xml, Bytes::gib(5)).contains("ask for 4 GiB"));
    assert!(said(&virtio.xml, Bytes::mib(3)).contains("2 MiB or 4 MiB"));
    assert!(said(&dimm.xml, Bytes::gib(1)).contains("'dimm' has one size only"));
    assert!(said("<disk/>", Bytes::gib(1)).contains("this is a <disk>"));
    let without = virtio.xml.replace("<requested unit='KiB'>2097152</requested>", "");
    assert_eq!(read_back(&with_requested(&without, Bytes::mib(4)).unwrap()).requested, Some(Bytes::mib(4)));
}

proptest! {
    #[test]
    fn what_is_described_is_rounded_nowhere(kib in 0u64..1 << 32, slot in prop::option::of(0..300u32)) {
        let wish = DeviceWish { kind: DeviceKind::Dimm { slot, base: None }, ..dimm(Bytes::new(kib << 10)) };
        if let Ok(xml) = device_xml(&wish) {
            let size = read_back(&xml).size;
            prop_assert_eq!(size, wish.size);
            prop_assert_eq!(as_attached(size, false), size);
            prop_assert_eq!(as_booted(size, false), size);
        } else if let Err(BadDevice::Size { below, above, .. }) = device_xml(&wish) {
            prop_assert!(below.is_zero() || device_xml(&dimm(below)).is_ok());
            prop_assert!(device_xml(&dimm(above)).is_ok());
            prop_assert!(below < wish.size.max(Bytes::new(1)) && wish.size < above);
        }
    }

    #[test]
    fn any_text_asked_for_memory_gets_an_answer(device in any::<String>(), asked in any::<u64>()) {
        let _ = with_requested(&device, Bytes::new(asked));
    }
}

#[test]
fn disks_are_known_by_libvirts_targets_and_drives_are_none() {
    let disks = "<disk type='file'><target dev='vda'/><alias name='virtio-disk0'/></disk>\
                 <disk type='block' device='lun'><target dev='sda'/></disk>\
                 <disk device='cdrom'><target dev='sdb'/></disk><disk device='floppy'><target dev='fda'/></disk><disk/>";
    let machine =
        format!("<domain><name>n</name><memory unit='GiB'>1</memory><devices>{disks}</devices></domain>");
    let found = Domain::parse(&machine).expect("a description").disks;
    let named: Vec<_> = found.iter().map(|disk| (disk.target.as_str(), disk.alias.as_deref())).collect();
    assert_eq!(named, [("vda", Some("virtio-disk0")), ("sda", None)]);
}
