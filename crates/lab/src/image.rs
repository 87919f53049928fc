//! Builds the guest: Debian's kernel, and an initramfs of busybox, the guest agent and our `init`; two variants have
//! udevd, or what grows disks, besides.
//!
//! Everything comes from Debian packages and is built once per set of package versions and per content of
//! this recipe. The guest has no distribution on any disk of its: it boots in seconds and forgets all. It will
//! not start anything: see `recipe`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use drive::guest::setup::UDEV_RULES;

use crate::apt::{Apt, Deb, Suite, run};
use crate::cache::{Cache, key};
use crate::cpio::Archive;
use crate::modules::Module;
use crate::{elf, kernel, modules};

/// Part of the cache key: raise it when this file changes what it builds from the same inputs.
const RECIPE: u32 = 3;

const INIT: &str = include_str!("guest/init.sh");

/// What `apt` is asked for. `linux-image-amd64` stands for the versioned package that it depends on.
const ROOTS: [&str; 14] = [
    "linux-image-amd64",
    "busybox-static",
    "qemu-guest-agent",
    "udev",
    "btrfs-progs",
    "cloud-guest-utils",
    "cryptsetup-bin",
    "dmsetup",
    "e2fsprogs",
    "fdisk",
    "lvm2",
    "util-linux",
    "xfsprogs",
    "zlib1g",
];

/// The kernel modules of a lab guest's devices, without what they depend on.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "virtio_balloon", "virtio_mem", "virtio_net"];

/// The kernel modules of disks and of what lies on them.
const DISK_MODULES: [&str; 16] = [
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "ahci",
    "ext4",
    "crc32c_generic",
    "xfs",
    "btrfs",
    "dm_mod",
    "dm_crypt",
    "dm_thin_pool",
    "aes_generic",
    "ecb",
    "xts",
    "sha256_generic",
    "algif_skcipher",
];

/// The programs of disks, by their places in the packages: those that a guest's administrator has, and those that make
/// what the tests grow.
const DISK_PROGRAMS: [&str; 14] = [
    "sbin/blkid",
    "sbin/cryptsetup",
    "sbin/dmsetup",
    "sbin/lvm",
    "sbin/mke2fs",
    "sbin/resize2fs",
    "sbin/sfdisk",
    "sbin/mkfs.xfs",
    "usr/sbin/xfs_growfs",
    "usr/sbin/xfs_db",
    "usr/bin/flock",
    "usr/bin/partx",
    "bin/btrfs",
    "sbin/mkfs.btrfs",
];

/// Other names of one of them: LVM is one program with a name for each verb.
const LINKS: [(&str, &str); 9] = [
    ("mkfs.ext4", "mke2fs"),
    ("pvs", "lvm"),
    ("pvcreate", "lvm"),
    ("pvresize", "lvm"),
    ("vgcreate", "lvm"),
    ("vgchange", "lvm"),
    ("lvcreate", "lvm"),
    ("lvextend", "lvm"),
    ("lvs", "lvm"),
];

/// Which initramfs a guest boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The smallest.
    Plain,
    /// With udevd.
    Udev,
    /// With the modules and programs of disks.
    Disks,
}

/// A built guest: what QEMU's `-kernel` and `-initrd` take.
#[derive(Debug, Clone)]
pub struct Image {
    dir: PathBuf,
}

impl Image {
    /// The guest of this machine's release, built now if it does not stand in the cache.
    ///
    /// # Errors
    /// The packages cannot be fetched, or they no longer hold what the guest is made of.
    pub fn ensure(cache: &Cache) -> Result<Self> {
        let apt = Apt::open(cache, Suite::Release)?;
        let dir = apt.with_plan(&ROOTS, |plan| {
            let debs: Vec<&Deb> = plan.iter().filter(|deb| wanted(&deb.name)).collect();
            let name = format!(
                "guest-{}",
                key(&(RECIPE, INIT, UDEV_RULES, MODULES, (DISK_MODULES, DISK_PROGRAMS, LINKS), &debs,))
            );
            cache.ensure(&name, |dir| build(&apt, &debs, dir))
        })?;
        Ok(Self { dir })
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// The initramfs.
    #[must_use]
    pub fn initrd(&self, variant: Variant) -> PathBuf {
        self.dir.join(match variant {
            Variant::Plain => "initrd",
            Variant::Udev => "initrd-udev",
            Variant::Disks => "initrd-disks",
        })
    }

    /// A name that changes with the image's content.
    pub(crate) fn id(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Of all that apt would install, the libraries and the things themselves; the rest serves maintainer scripts.
fn wanted(name: &str) -> bool {
    let kernel = name.starts_with("linux-image-") && name != "linux-image-amd64";
    // Of use to programs that no guest gets: scripts, and XFS's check for names in Unicode.
    let script = ["perl", "python", "libicu"].iter().any(|word| name.contains(word));
    kernel || ROOTS[1..].contains(&name) || (name.starts_with("lib") && !script)
}

fn build(apt: &Apt, debs: &[&Deb], dir: &Path) -> Result<()> {
    let tree = tempfile::tempdir_in(dir)?;
    apt.unpack("a guest's kernel and programs", debs.iter().copied(), tree.path())?;
    let tree = tree.path();
    let version = only_entry(&tree.join("lib/modules"))?;
    let packed = fs::read(tree.join(format!("boot/vmlinuz-{version}")))?;
    fs::write(dir.join("kernel"), kernel::fastest(packed))?;

    let base = base(tree, &version)?;
    fs::write(dir.join("initrd"), &base)?;
    for (name, more) in [("initrd-udev", udev(tree)?), ("initrd-disks", disks(tree, &version)?)] {
        fs::write(dir.join(name), [base.as_slice(), &more].concat())?;
    }
    let listed = debs.iter().map(|deb| format!("{} {}\n", deb.name, deb.version));
    Ok(fs::write(dir.join("packages"), listed.collect::<String>())?)
}

fn base(tree: &Path, version: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in [
        "bin",
        "sbin",
        "dev",
        "proc",
        "sys",
        "run",
        "mem",
        "tmp",
        "etc",
        "www",
        "lib",
        "lib64",
        "lib/modules",
    ] {
        archive.dir(dir);
    }
    let busybox = tree.join("bin/busybox");
    for applet in run(Command::new(&busybox).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    archive.file("bin/busybox", true, &fs::read(&busybox)?);
    archive.file("init", true, INIT.as_bytes());
    archive.file("www/index.html", false, b"up\n");
    archive.file("etc/passwd", false, b"root:x:0:0:root:/:/bin/sh\n");
    archive.file("etc/group", false, b"root:x:0:\n");

    let base = modules::in_order(&tree.join("lib/modules").join(version), &MODULES)?;
    add_modules(&mut archive, "order", &base);
    programs(&mut archive, tree, &["usr/sbin/qemu-ga"], &BTreeSet::new()).map(|_| archive.finish())
}

/// Modules, and in a file of this name the order to load them in.
fn add_modules(archive: &mut Archive, name: &str, all: &[Module]) {
    let mut order = String::new();
    for module in all {
        let path = format!("lib/modules/{}.ko", module.name);
        archive.file(&path, false, &module.bytes);
        order.push_str(&format!("/{path}\n"));
    }
    archive.file(&format!("lib/modules/{name}"), false, order.as_bytes());
}

/// What the variant with disks has besides.
fn disks(tree: &Path, version: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let already = programs(&mut Archive::default(), tree, &["usr/sbin/qemu-ga"], &BTreeSet::new())?;
    programs(&mut archive, tree, &DISK_PROGRAMS, &already)?;
    for (name, program) in LINKS {
        archive.link(&format!("bin/{name}"), program);
    }
    let growpart = fs::read(tree.join("usr/bin/growpart")).context("the packages hold no growpart")?;
    archive.file("bin/growpart", true, &growpart);
    let dir = tree.join("lib/modules").join(version);
    let base: Vec<String> =
        modules::in_order(&dir, &MODULES)?.into_iter().map(|module| module.name).collect();
    let mut more = modules::in_order(&dir, &DISK_MODULES)?;
    more.retain(|module| !base.contains(&module.name));
    add_modules(&mut archive, "order-disks", &more);
    Ok(archive.finish())
}

/// What the udev variant has besides: an archive that the kernel reads after the first.
fn udev(tree: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    let mut there = Archive::default();
    let already = programs(&mut there, tree, &["usr/sbin/qemu-ga"], &BTreeSet::new())?;
    programs(&mut archive, tree, &["bin/udevadm"], &already)?;
    archive.link("bin/systemd-udevd", "udevadm");
    for dir in ["lib/udev", "lib/udev/rules.d"] {
        archive.dir(dir);
    }
    archive.file("lib/udev/rules.d/40-lab.rules", false, UDEV_RULES.as_bytes());
    Ok(archive.finish())
}

/// Adds programs of the tree to `bin/` and the libraries that they need to `lib/`, without those in `already`.
/// Returns the libraries that stand in the guest now.
fn programs(
    archive: &mut Archive,
    tree: &Path,
    names: &[&str],
    already: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let libraries = libraries(tree)?;
    let mut present = already.clone();
    let mut pending = Vec::new();
    for name in names {
        let bytes = fs::read(tree.join(name)).with_context(|| format!("the packages hold no {name}"))?;
        pending.extend(elf::needed(&bytes)?);
        let (_, file) = name.rsplit_once('/').unwrap_or(("", name));
        archive.file(&format!("bin/{file}"), true, &bytes);
    }
    while let Some(soname) = pending.pop() {
        if !present.insert(soname.clone()) {
            continue;
        }
        let path = libraries.get(&soname).with_context(|| format!("no package of the plan has {soname}"))?;
        let bytes = fs::read(path)?;
        pending.extend(elf::needed(&bytes)?);
        // The program interpreter is looked up by its full name, all else in /lib.
        let dir = if soname.starts_with("ld-linux") { "lib64" } else { "lib" };
        archive.file(&format!("{dir}/{soname}"), true, &bytes);
    }
    Ok(present)
}

/// Where each shared library of the tree is, by file name.
fn libraries(tree: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for dir in library_dirs(tree) {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_file() {
                found.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path);
            }
        }
    }
    Ok(found)
}

/// The directories below an unpacked tree in which Debian's packages put their libraries.
pub(crate) fn library_dirs(tree: &Path) -> Vec<PathBuf> {
    let names = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib", "lib64", "usr/lib64"];
    names.iter().map(|name| tree.join(name)).filter(|dir| dir.is_dir()).collect()
}

fn only_entry(dir: &Path) -> Result<String> {
    let names: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    ensure!(names.len() == 1, "expected one entry in {}, found {}", dir.display(), names.len());
    Ok(names[0].file_name().to_string_lossy().into_owned())
}
