use super::super::attached::Pci;
use super::super::guest::read;
use super::*;
use scale::observed::DiskBus;

const VDA: &str = "/devices/pci0000:00/0000:00:05.0/virtio2/block/vda";

fn attached(serial: Option<&str>, slot: u8, scsi: Option<[u32; 3]>) -> Attached {
    let place = Place { pci: Pci { bus: 0, slot, function: 0 }, scsi };
    Attached { bus: DiskBus::Virtio, serial: serial.map(str::to_owned), place: Some(place) }
}

/// The layers of the disk in slot 5, each as its depth and name.
fn layers(text: &str) -> Vec<String> {
    fn told(layers: &[Layer], depth: usize, out: &mut Vec<String>) {
        for layer in layers {
            out.push(format!("{}{} {}", "  ".repeat(depth), layer.name(), layer.size));
            told(&layer.above, depth + 1, out);
        }
    }
    let mut out = Vec::new();
    told(&find(&read(text), &attached(None, 5, None)).expect("a disk").layers, 0, &mut out);
    out
}

fn disk() -> String {
    format!("B\tvda\t8388608\t\t\t\t\t{VDA}\t\t\n")
}

fn part(number: u32, start: u64, sectors: u64) -> String {
    format!("B\tvda{number}\t{sectors}\t{start}\t{number}\t\t\t{VDA}/vda{number}\t\t\n")
}

fn mapped(name: &str, sectors: u64, mapped: &str, uuid: &str, below: &str) -> String {
    format!("B\t{name}\t{sectors}\t\t\t{mapped}\t{uuid}\t/devices/virtual/block/{name}\t\t{below}\n")
}

fn lvm(suffix: &str) -> String {
    format!("LVM-{}{suffix}", "x".repeat(64))
}

#[test]
fn partitions_lie_in_the_order_of_their_start() {
    let text = disk()
        + &part(1, 4196352, 2048)
        + &part(2, 2048, 4194304)
        + "P\tvda\tgpt\nM\t254:2\t/\text4\t/\t4096\t500000\nN\tvda2\t254:2\nS\t/dev/vda1\n";
    assert_eq!(
        layers(&text),
        [
            "partition /dev/vda2 2 GiB",
            "  ext4 /dev/vda2 2000000 KiB",
            "partition /dev/vda1 1 MiB",
            "  swap /dev/vda1 1 MiB"
        ]
    );
}

#[test]
fn lvm_and_luks_are_followed_upwards() {
    let text = disk()
        + &part(1, 2048, 8386560)
        + &mapped("dm-0", 8384512, "luks-1", "CRYPT-LUKS2-abc-luks-1", "vda1")
        + &mapped("dm-1", 2097152, "my--vg-root", &lvm(""), "dm-0")
        + &mapped("dm-2", 2097152, "my--vg-lv--data", &lvm(""), "dm-0")
        + "V\t  /dev/mapper/luks-1|my-vg|4290772992|1048576\nM\t254:3\t/\txfs\t/\t4096\t1000\nN\tdm-1\t254:3\n";
    let group =
        find(&read(&text), &attached(None, 5, None)).expect("a disk").layers[0].above[0].above[0].clone();
    assert_eq!(group.kind, LayerKind::PhysicalVolume { group: "my-vg".into(), free: Bytes::mib(1) });
    let volume = LayerKind::LogicalVolume { group: "my-vg".into(), volume: "lv-data".into() };
    assert_eq!(group.above[1].kind, volume);
    assert_eq!(
        layers(&text),
        [
            "partition /dev/vda1 4095 MiB",
            "  LUKS /dev/mapper/luks-1 4094 MiB",
            "    physical volume /dev/mapper/luks-1 4092 MiB",
            "      logical volume /dev/mapper/my--vg-root 1 GiB",
            "        xfs /dev/mapper/my--vg-root 4000 KiB",
            "      logical volume /dev/mapper/my--vg-lv--data 1 GiB",
        ]
    );
}

#[test]
fn what_one_disk_alone_cannot_grow_is_no_layer_to_grow() {
    let others = [
        mapped("dm-0", 800, "vg-pool_tdata", &lvm("-tdata"), "vda"),
        "B\tmd0\t800\t\t\t\t\t/devices/virtual/block/md0\t\tvda vdb\n".to_owned(),
        mapped("dm-0", 800, "mpatha", "mpath-3600", "vda"),
        "F\tvda\tvdb\nM\t254:0\t/\tbtrfs\t/\t1\t1\nN\tvda\t254:0\n".to_owned(),
        "I\t/dev/vda\tcrypto_LUKS\n".to_owned(),
        "I\t/dev/vda\tzfs_member\n".to_owned(),
    ];
    for text in others {
        let shown = find(&read(&(disk() + &text)), &attached(None, 5, None)).expect("a disk");
        let layer = shown.layers[0].above.first().unwrap_or(&shown.layers[0]);
        assert!(matches!(layer.kind, LayerKind::Other(_)), "{text}: {layer:?}");
    }
    let dos = disk() + &part(1, 2048, 4096) + &part(2, 8192, 2) + &part(5, 10240, 4096) + "P\tvda\tdos\n";
    let kinds: Vec<String> =
        layers(&dos).iter().map(|l| l.trim().split(" /").next().unwrap_or("").into()).collect();
    assert_eq!(kinds, ["partition", "partition", "an extended partition", "partition"]);
}

#[test]
fn a_mark_tells_what_is_not_mounted() {
    let marked = |mark: &str| layers(&(disk() + &format!("I\t/dev/vda\t{mark}\n")))[0].clone();
    assert_eq!(marked("ext4"), "ext4 /dev/vda 4 GiB");
    assert_eq!(marked("swap"), "swap /dev/vda 4 GiB");
    assert_eq!(marked("LVM2_member"), "physical volume /dev/vda 4 GiB");
    assert!(layers(&disk()).is_empty());
}

#[test]
fn a_disk_is_known_by_its_serial_number_or_by_its_place() {
    let at = |host: u32, unit: u32| {
        format!(
            "/devices/pci0000:00/0000:00:02.0/0000:03:00.0/virtio0/host{host}/target{host}:0:0/{host}:0:0:{unit}/block/sd"
        )
    };
    let text = format!(
        "B\tsda\t8\t\t\t\t\t{}a\tONE\t\nB\tsdb\t8\t\t\t\t\t{}b\tTWO\t\nB\tsdc\t8\t\t\t\t\t/devices/x\tTWO\t\n\
         B\tvda\t8\t\t\t\t\t{VDA}\tthis-is-a-long-seria\t\n",
        at(2, 0),
        at(2, 1)
    );
    let shown = read(&text);
    let device = |attached: &Attached| find(&shown, attached).map(|disk| disk.device);
    assert_eq!(device(&attached(Some("ONE"), 9, None)), Ok("/dev/sda".into()));
    assert_eq!(device(&attached(Some("this-is-a-long-serial-number"), 9, None)), Ok("/dev/vda".into()));
    assert_eq!(device(&attached(None, 5, None)), Ok("/dev/vda".into()));
    let behind = Place { pci: Pci { bus: 3, slot: 0, function: 0 }, scsi: Some([0, 0, 1]) };
    let second = Attached { place: Some(behind), ..attached(Some("TWO"), 0, None) };
    assert_eq!(device(&second), Ok("/dev/sdb".into()), "two have its serial number, one is at its place");
    let both = Attached { place: Some(Place { scsi: None, ..behind }), ..attached(None, 0, None) };
    assert!(device(&both).is_err_and(|why| why.contains("more than one")));
    assert!(device(&attached(Some("NONE"), 9, None)).is_err_and(|why| why.contains("no disk")));
    assert!(device(&Attached { place: None, ..attached(None, 5, None) }).is_err(), "nothing to know it by");
}

#[test]
fn a_circle_has_an_end() {
    let text = disk()
        + &mapped("dm-0", 800, "a", "CRYPT-LUKS2-a", "vda dm-1")
        + &mapped("dm-1", 800, "b", "CRYPT-LUKS2-b", "dm-0");
    assert!(layers(&text).len() <= DEEPEST);
}
