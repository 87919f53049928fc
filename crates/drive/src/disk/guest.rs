//! What a Linux guest shows of its disks, through its agent: one program is run there that reads /sys and /proc and asks
//! the tools that are there, and changes nothing. What it says is untrusted: bounded, checked, and only ever given back
//! to the guest itself. What it means is told in [`super::stack`].

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use scale::disk::Tool;
use scale::units::Bytes;

use super::by_hand::{self, Unshown};
use crate::guest::exec::{self, End, ExecError};
use crate::guest::facts;
use crate::guest::reach::Reach;
use crate::wire::shown;

/// The most that is taken of what the program prints: about 2000 devices.
const MOST_TEXT: usize = 512 * 1024;
/// The most lines of any kind.
const MOST_LINES: usize = 16_384;
/// The longest name of a device: the device mapper's have at most 128 characters (DM_NAME_LEN, linux/dm-ioctl.h).
const LONGEST_NAME: usize = 128;
/// The longest path of a mount point.
const LONGEST_PATH: usize = 4096;

/// The shell that the program is written for.
const SHELL: &str = "/bin/sh";
/// One line for each fact, its words kept apart by tabs, its kind first. It starts hardly any process: an emulated guest
/// takes milliseconds for each. `stat` is asked of file systems on block devices alone: a dead server hangs nobody.
const PROGRAM: &str = include_str!("look.sh");

/// All that a guest shows of its block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// By the kernel's name.
    pub(super) devices: BTreeMap<String, Device>,
    /// By the name of their device.
    pub(super) mounts: BTreeMap<String, Mount>,
    /// What lies on a device by its own mark (`blkid`).
    pub(super) marks: BTreeMap<String, String>,
    /// Kinds of partition tables, by the disk's name.
    pub(super) tables: BTreeMap<String, String>,
    /// LVM's physical volumes by their path.
    pub(super) volumes: BTreeMap<String, Volume>,
    /// Devices with swap space that is in use.
    pub(super) swaps: BTreeSet<String>,
    /// Devices that one btrfs shares with others.
    pub(super) shared: BTreeSet<String>,
    pub(super) tools: BTreeSet<Tool>,
}

impl Shown {
    /// The device that is found by this name in /dev or /dev/mapper.
    fn named(&self, name: &str) -> Option<String> {
        let is_it = |device: &Device| device.mapped.as_ref().is_some_and(|mapped| mapped.name == name);
        let mut found = self.devices.iter().filter(|(kernels, device)| *kernels == name || is_it(device));
        found.next().map(|(name, _)| name.clone())
    }
}

/// A block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) size: Bytes,
    pub(super) start: Bytes,
    /// Its number, if it is a partition.
    pub(super) partition: Option<u32>,
    pub(super) mapped: Option<Mapped>,
    /// The devices that it lies on.
    pub(super) below: Vec<String>,
    /// Its place in /sys, which names the bus that it hangs on and, of a partition, its disk.
    pub(super) at: String,
    pub(super) serial: Option<String>,
}

/// What the device mapper knows a device by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) name: String,
    pub(super) uuid: String,
}

/// A physical volume of LVM's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) group: String,
    pub(super) size: Bytes,
    /// What is free in its group.
    pub(super) free: Bytes,
}

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) kind: String,
    pub(super) at: String,
    /// What `df` counts as its blocks, where that could be asked.
    pub(super) size: Option<Bytes>,
}

/// Asks the guest, within its limit.
///
/// # Errors
/// Why it does not show its disks, with what a person can do.
pub(super) async fn ask(reach: &mut Reach) -> Result<Shown, Unshown> {
    facts::make_known(reach).await.map_err(|mute| mute.to_string())?;
    if reach.os_id() == Some("mswindows") {
        return Err(by_hand::WINDOWS.to_owned().into());
    }
    if !reach.offers("guest-exec") || !reach.offers("guest-exec-status") {
        return Err(by_hand::filtered(reach).await);
    }
    let limit = reach.limit();
    let agent = reach.agent().await.map_err(|mute| mute.to_string())?;
    let output = match exec::run(agent, SHELL, &["-c", PROGRAM], MOST_TEXT, limit).await {
        Ok(output) => output,
        Err(ExecError::Agent(error)) => return Err(reach.note(&error).to_string().into()),
        Err(error @ ExecError::StillRuns { .. }) => return Err(error.to_string().into()),
    };
    if output.end != End::Exit(0) || output.is_cut {
        let said = shown(String::from_utf8_lossy(&output.stderr).trim());
        return Err(format!("the look at the guest's disks failed there: {said}").into());
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads what the program printed. A line that makes no sense is passed over: what it tells of is then not there.
pub(super) fn read(text: &str) -> Shown {
    let mut all = Shown::default();
    let (mut mounts, mut names) = (Vec::new(), BTreeMap::new());
    for line in text.lines().take(MOST_LINES) {
        let words: Vec<&str> = line.split('\t').collect();
        match words.as_slice() {
            ["B", name, rest @ ..] if is_name(name) => {
                if let Some(device) = device(rest) {
                    all.devices.insert((*name).to_owned(), device);
                }
            }
            ["M", numbers, root, rest @ ..] => {
                let is_part = *root != "/";
                mounts.extend(mount(rest).map(|mount| (is_part, (*numbers).to_owned(), mount)));
            }
            ["N", name, numbers] => {
                names.insert((*numbers).to_owned(), (*name).to_owned());
            }
            ["I", name, kind] if is_word(kind) => {
                all.marks.insert(last_part(name).to_owned(), (*kind).to_owned());
            }
            ["P", name, table] if is_word(table) => {
                all.tables.insert((*name).to_owned(), (*table).to_owned());
            }
            ["V", line] => volume(line, &mut all.volumes),
            ["S", name] => all.swaps.extend([last_part(name).to_owned()]),
            ["F", names @ ..] if names.len() > 1 => {
                all.shared.extend(names.iter().map(|name| (*name).to_owned()))
            }
            ["T", name] => all.tools.extend(Tool::ALL.into_iter().find(|tool| tool.program() == *name)),
            _ => {}
        }
    }
    // Of a file system that is seen at more places than one, the first at which all of it is seen.
    mounts.sort_by_key(|(is_part, ..)| *is_part);
    for (_, on, mount) in mounts {
        if let Some(name) = names.get(&on).cloned().or_else(|| all.named(last_part(&on))) {
            all.mounts.entry(name).or_insert(mount);
        }
    }
    all
}

/// Size, start, partition, mapped name, its uuid, place in /sys, serial number, devices below.
fn device(words: &[&str]) -> Option<Device> {
    let [size, start, partition, name, uuid, at, serial, below] = words else { return None };
    // Linux counts in these, whatever the disk's own sectors are.
    let sectors = |word: &str| word.parse::<u64>().ok()?.checked_mul(512).map(Bytes::new);
    let mapped = (is_name(name) && uuid.len() <= LONGEST_NAME)
        .then(|| Mapped { name: (*name).to_owned(), uuid: (*uuid).to_owned() });
    Some(Device {
        size: sectors(size)?,
        start: sectors(start).unwrap_or(Bytes::ZERO),
        partition: partition.parse().ok(),
        mapped,
        below: below.split(' ').filter(|name| is_name(name)).map(str::to_owned).collect(),
        at: at.chars().take(LONGEST_PATH).collect(),
        serial: Some(serial.trim()).filter(|serial| !serial.is_empty()).map(shown),
    })
}

/// Kind, place, size of a block, blocks.
fn mount(words: &[&str]) -> Option<Mount> {
    let [kind, at, block, blocks] = words else { return None };
    let (block, blocks) = (u64::from_str(block).ok(), u64::from_str(blocks).ok());
    let is_path = at.starts_with('/') && at.len() <= LONGEST_PATH && !at.chars().any(char::is_control);
    (is_word(kind) && is_path).then(|| Mount {
        kind: (*kind).to_owned(),
        at: (*at).to_owned(),
        size: block.zip(blocks).and_then(|(block, blocks)| block.checked_mul(blocks)).map(Bytes::new),
    })
}

/// `  /dev/vda2|vg|10733223936|0`
fn volume(line: &str, volumes: &mut BTreeMap<String, Volume>) {
    let words: Vec<&str> = line.trim().split('|').collect();
    if let [path, group, size, free] = words.as_slice()
        && let Ok(size) = size.parse()
        && (group.is_empty() || is_name(group))
    {
        // A volume without a group has no word for what is free in it.
        let free = Bytes::new(free.parse().unwrap_or(0));
        let volume = Volume { group: (*group).to_owned(), size: Bytes::new(size), free };
        volumes.insert((*path).to_owned(), volume);
    }
}

/// A name that can be given to a program as it is. The kernel writes `!` for a slash in it.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+_.-!:@#%=,".contains(c);
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.starts_with(['-', '.']) && name.chars().all(plain)
}

fn is_word(word: &str) -> bool {
    !word.is_empty()
        && word.len() <= 64
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-.+".contains(c))
}

/// The kernel's name in a path such as `/dev/vda1`; of a mapped device the mapper's.
fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_guest_prints_is_read() {
        let shown = read(
            "B\tvda\t2097152\t\t\t\t\t/devices/pci0000:00/0000:00:05.0/virtio2/block/vda\tSER0 \t\n\
             B\tvda1\t2095104\t2048\t1\t\t\t/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/vda1\t\t\n\
             B\tdm-0\t800\t\t\tvg-root\tLVM-abc\t/devices/virtual/block/dm-0\t\tvda1 vdb\n\
             M\t254:1\t/sub\text4\t/part\t4096\t1000\nM\t254:1\t/\text4\t/srv/my data\t4096\t1000\nN\tvda1\t254:1\n\
             M\t/dev/mapper/vg-root\t/@\tbtrfs\t/sub\t4096\t10\nI\t/dev/vda1\text4\nP\tvda\tgpt\nV\t  /dev/vdb|vg|4096|0\nS\t/dev/vdc\nF\tvdd\tvde\nF\tvdf\n\
             T\tgrowpart\nT\trm\nB\tbad\tx\nnothing\n",
        );
        let root = &shown.devices["vda1"];
        assert_eq!((root.partition, root.start, root.size), (Some(1), Bytes::mib(1), Bytes::mib(1023)));
        assert_eq!(shown.devices["vda"].serial.as_deref(), Some("SER0"));
        assert_eq!(shown.devices["dm-0"].below, ["vda1", "vdb"]);
        let mount = &shown.mounts["vda1"];
        assert_eq!(shown.mounts["dm-0"].at, "/sub", "known by its device, not by numbers");
        assert_eq!((mount.at.as_str(), mount.size), ("/srv/my data", Some(Bytes::new(4_096_000))));
        let volume = Volume { group: "vg".into(), size: Bytes::new(4096), free: Bytes::ZERO };
        assert_eq!(shown.volumes["/dev/vdb"], volume);
        assert_eq!((shown.marks.len(), shown.tables["vda"].as_str(), shown.swaps.len()), (1, "gpt", 1));
        assert_eq!((shown.shared.len(), shown.devices.len()), (2, 3));
        assert_eq!(shown.tools, BTreeSet::from([Tool::Growpart]));
    }

    #[test]
    fn nothing_that_could_be_an_option_or_a_path_is_a_name() {
        for name in ["-x", "../vda", "a b", "", ".", "vda;rm", "a\"b", &"x".repeat(129)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("cciss!c0d0") && is_name("vg--x-root_1") && is_name("luks-0a.b"));
        assert_eq!(mount(&["ext4", "relative", "1", "1"]), None);
        assert_eq!(mount(&["ext4", "/a\u{1b}[2J", "1", "1"]), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_no_harm(text in "[A-Z\\t\\n -~]{0,400}") {
            let shown = read(&text);
            prop_assert!(shown.devices.keys().all(|name| is_name(name)));
        }
    }
}
