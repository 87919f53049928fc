//! Disks of a lab guest: empty images on the host, by QEMU's arguments or libvirt's XML. It will not look into them, nor
//! make anything on them: the guest does.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use scale::units::Bytes;

/// A disk: empty at boot, thin on the host, and known in the guest by its id as serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    id: String,
    size: Bytes,
    qcow2: bool,
    bus: Bus,
    /// The throttle group of a filter below it, as newer managers have it.
    group: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    Virtio,
    VirtioScsi,
    Sata,
}

impl Disk {
    /// A raw image on virtio-blk.
    #[must_use]
    pub fn new(id: &str, size: Bytes) -> Self {
        Self { id: id.to_owned(), size, qcow2: false, bus: Bus::Virtio, group: None }
    }

    /// The same on virtio-scsi.
    #[must_use]
    pub fn scsi(self) -> Self {
        Self { bus: Bus::VirtioScsi, ..self }
    }

    /// The same on SATA.
    #[must_use]
    pub fn sata(self) -> Self {
        Self { bus: Bus::Sata, ..self }
    }

    /// The same as a qcow2 image.
    #[must_use]
    pub fn qcow2(self) -> Self {
        Self { qcow2: true, ..self }
    }

    /// The same below a filter of a throttle group that limits nothing yet.
    #[must_use]
    pub fn in_group(self, group: &str) -> Self {
        Self { group: Some(group.to_owned()), ..self }
    }

    /// Its image among the files of a guest's.
    pub(crate) fn image(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.img", self.id))
    }

    /// Makes the image.
    pub(crate) fn make(&self, dir: &Path) -> Result<()> {
        if self.qcow2 {
            return Ok(fs::write(self.image(dir), qcow2(self.size))?);
        }
        Ok(File::create(self.image(dir))?.set_len(self.size.get())?)
    }

    fn format(&self) -> &'static str {
        if self.qcow2 { "qcow2" } else { "raw" }
    }
}

/// The arguments for disks whose images lie in `dir`.
pub(super) fn arguments(disks: &[Disk], dir: &Path, qemu: &mut Command) {
    if disks.iter().any(|disk| disk.bus == Bus::VirtioScsi) {
        qemu.args(["-device", "virtio-scsi-pci,id=scsi0"]);
    }
    let mut groups: Vec<&String> = disks.iter().filter_map(|disk| disk.group.as_ref()).collect();
    groups.sort();
    groups.dedup();
    for group in groups {
        qemu.arg("-object").arg(format!("throttle-group,id={group}"));
    }
    for disk in disks {
        let (id, format, image) = (&disk.id, disk.format(), disk.image(dir));
        let lower = match &disk.group {
            Some(group) => format!(
                "driver=throttle,node-name=node-{id},throttle-group={group},file.driver={format},file.file."
            ),
            None => format!("driver={format},node-name=node-{id},file."),
        };
        qemu.arg("-blockdev").arg(format!(
            "{lower}driver=file,{}filename={}",
            file_of(&lower),
            image.display()
        ));
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::VirtioScsi => "scsi-hd,bus=scsi0.0",
            Bus::Sata => "ide-hd",
        };
        qemu.arg("-device").arg(format!("{device},id={id},drive=node-{id},serial={id}"));
    }
}

/// The prefix of the options of the node that opens the file.
fn file_of(lower: &str) -> &str {
    lower.rsplit(',').next().unwrap_or_default()
}

/// The elements for disks whose images lie in `dir`, with the targets that libvirt asks for: `vda`, `sda` and on.
pub(super) fn elements(disks: &[Disk], dir: &Path) -> String {
    let mut text = String::new();
    let mut names = [('v', 'a'), ('s', 'a')];
    for disk in disks {
        let (name, bus) = match disk.bus {
            Bus::Virtio => (&mut names[0], "virtio"),
            Bus::VirtioScsi => (&mut names[1], "scsi"),
            Bus::Sata => (&mut names[1], "sata"),
        };
        let target = format!("{}d{}", name.0, name.1);
        name.1 = char::from(u8::try_from(name.1).expect("a letter") + 1);
        let _ = writeln!(
            text,
            "    <disk type='file' device='disk'>\n      <driver name='qemu' type='{}'/>\n      \
             <source file='{}'/>\n      <target dev='{target}' bus='{bus}'/>\n      <serial>{}</serial>\n    </disk>",
            disk.format(),
            super::domain::escaped(&disk.image(dir).display().to_string()),
            disk.id
        );
    }
    if disks.iter().any(|disk| disk.bus == Bus::VirtioScsi) {
        text.push_str("    <controller type='scsi' index='0' model='virtio-scsi'/>\n");
    }
    text
}

/// An empty qcow2 image of version 3 with clusters of 64 KiB (docs/interop/qcow2.txt of QEMU): a header, a table and a
/// block of reference counts, and a table of the first level, a cluster each.
fn qcow2(size: Bytes) -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    // Each entry of the first level is for a cluster full of entries of the second.
    let first_level = size.count_of(Bytes::new((CLUSTER * CLUSTER / 8) as u64)) + 1;
    assert!(first_level * 8 <= CLUSTER as u64, "an image of {size} needs more than one cluster of tables");
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &size.get().to_be_bytes());
    put(36, &u32::try_from(first_level).expect("as asserted").to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    // 2^4 bits for each count, and the header's own length.
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1u16.to_be_bytes());
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_lies_between_device_and_format() {
        let mut qemu = Command::new("qemu");
        let disks =
            [Disk::new("a", Bytes::gib(1)), Disk::new("b", Bytes::gib(1)).qcow2().scsi().in_group("g")];
        arguments(&disks, Path::new("/d"), &mut qemu);
        let words: Vec<String> = qemu.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(
            words.contains(&"driver=raw,node-name=node-a,file.driver=file,file.filename=/d/a.img".to_owned())
        );
        let filter = "driver=throttle,node-name=node-b,throttle-group=g,file.driver=qcow2,file.file.driver=file,\
                      file.file.filename=/d/b.img";
        assert!(words.contains(&filter.to_owned()), "{words:?}");
        assert!(words.contains(&"scsi-hd,bus=scsi0.0,id=b,drive=node-b,serial=b".to_owned()));
    }

    #[test]
    fn an_image_is_small_and_of_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new("a", Bytes::gib(4)).qcow2();
        disk.make(dir.path()).unwrap();
        let image = fs::read(disk.image(dir.path())).unwrap();
        assert_eq!(
            (&image[..4], &image[24..32], image.len()),
            (&b"QFI\xfb"[..], &(4u64 << 30).to_be_bytes()[..], 4 << 16)
        );
    }
}
