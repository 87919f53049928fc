//! How what lies on a disk is grown in a Linux guest: which program, with which words.
//!
//! One table for all: a plan names the [`Tool`], a driver runs its [`command`], and where an agent may run nothing the
//! same words are what a person is given. Nothing here runs anything, and nothing ever makes a layer smaller.

use crate::observed::{Layer, LayerKind};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A program in the guest that grows a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// `growpart` of cloud-utils: a partition, moving the second GPT header along.
    Growpart,
    /// `sfdisk` of util-linux: the same.
    Sfdisk,
    /// `cryptsetup`: an opened LUKS container.
    Cryptsetup,
    /// `pvresize`: an LVM physical volume.
    Pvresize,
    /// `lvextend`: an LVM logical volume.
    Lvextend,
    /// `resize2fs`: ext2, ext3 and ext4, while mounted.
    Resize2fs,
    /// `xfs_growfs`: XFS, only while mounted.
    XfsGrowfs,
    /// `btrfs`: only while mounted.
    Btrfs,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Tool; 8] = [
        Tool::Growpart,
        Tool::Sfdisk,
        Tool::Cryptsetup,
        Tool::Pvresize,
        Tool::Lvextend,
        Tool::Resize2fs,
        Tool::XfsGrowfs,
        Tool::Btrfs,
    ];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Tool::Growpart => "growpart",
            Tool::Sfdisk => "sfdisk",
            Tool::Cryptsetup => "cryptsetup",
            Tool::Pvresize => "pvresize",
            Tool::Lvextend => "lvextend",
            Tool::Resize2fs => "resize2fs",
            Tool::XfsGrowfs => "xfs_growfs",
            Tool::Btrfs => "btrfs",
        }
    }

    /// The exit status that means that there was nothing left to do, where the program has one beside 0.
    pub const fn nothing_to_do(self) -> Option<i32> {
        match self {
            // growpart(1): NOCHANGE.
            Tool::Growpart => Some(1),
            Tool::Sfdisk
            | Tool::Cryptsetup
            | Tool::Pvresize
            | Tool::Lvextend
            | Tool::Resize2fs
            | Tool::XfsGrowfs
            | Tool::Btrfs => None,
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.program())
    }
}

/// The tools that grow a layer of this kind, the best first; none where Supple knows no way.
pub fn tools(kind: &LayerKind) -> &'static [Tool] {
    match kind {
        LayerKind::Partition { .. } => &[Tool::Growpart, Tool::Sfdisk],
        LayerKind::Luks => &[Tool::Cryptsetup],
        LayerKind::PhysicalVolume { .. } => &[Tool::Pvresize],
        LayerKind::LogicalVolume { .. } => &[Tool::Lvextend],
        LayerKind::Filesystem { kind, .. } => match kind.as_str() {
            "ext2" | "ext3" | "ext4" => &[Tool::Resize2fs],
            "xfs" => &[Tool::XfsGrowfs],
            "btrfs" => &[Tool::Btrfs],
            _other => &[],
        },
        LayerKind::Swap | LayerKind::Other(_) => &[],
    }
}

/// The program and its arguments by which `tool` grows `layer` to all that lies below it; `disk` is the guest's device
/// of the whole disk. Nothing where the tool does not grow such a layer, or where the filesystem is not mounted and
/// grows only so.
pub fn command(tool: Tool, disk: &str, layer: &Layer) -> Option<Vec<String>> {
    if !tools(&layer.kind).contains(&tool) {
        return None;
    }
    let device = layer.device.as_str();
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    match (tool, &layer.kind) {
        (Tool::Growpart, LayerKind::Partition { number, .. }) => {
            words(&["growpart", disk, &number.to_string()])
        }
        (Tool::Sfdisk, LayerKind::Partition { number, .. }) => {
            words(&["sh", "-c", SFDISK, "sh", disk, &number.to_string()])
        }
        (Tool::Cryptsetup, _) => words(&["cryptsetup", "--batch-mode", "resize", device]),
        (Tool::Pvresize, _) => words(&["pvresize", device]),
        (Tool::Lvextend, _) => words(&["lvextend", "-l", "+100%FREE", device]),
        (Tool::Resize2fs, _) => words(&["resize2fs", device]),
        (Tool::XfsGrowfs, LayerKind::Filesystem { mount: Some(mount), .. }) => words(&["xfs_growfs", mount]),
        (Tool::Btrfs, LayerKind::Filesystem { mount: Some(mount), .. }) => {
            words(&["btrfs", "filesystem", "resize", "max", mount])
        }
        (Tool::Growpart | Tool::Sfdisk | Tool::XfsGrowfs | Tool::Btrfs, _) => None,
    }
}

/// The second GPT header moves to the disk's new end first; then the partition takes all that follows it, and the
/// kernel is told of that partition alone, the others being in use.
const SFDISK: &str = "sfdisk --relocate gpt-bak-std \"$1\" 2>/dev/null; \
                      echo ', +' | sfdisk --no-reread --force -N \"$2\" \"$1\" && partx -u -n \"$2\" \"$1\"";

/// The words of [`command`] as a person types them.
pub fn as_typed(words: &[String]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./+%=:@,".contains(c);
    let typed = |word: &String| {
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.iter().map(typed).collect::<Vec<_>>().join(" ")
}

impl Layer {
    /// What it is called in a plan: its kind and its device, such as `ext4 /dev/vda1`. Unique among the layers of a
    /// disk.
    pub fn name(&self) -> String {
        let kind = match &self.kind {
            LayerKind::Partition { .. } => "partition",
            LayerKind::Luks => "LUKS",
            LayerKind::PhysicalVolume { .. } => "physical volume",
            LayerKind::LogicalVolume { .. } => "logical volume",
            LayerKind::Filesystem { kind, .. } => kind,
            LayerKind::Swap => "swap",
            LayerKind::Other(what) => what,
        };
        format!("{kind} {}", self.device)
    }

    /// This layer or the one above it of this name.
    pub fn find(&self, name: &str) -> Option<&Layer> {
        if self.name() == name {
            return Some(self);
        }
        self.above.iter().find_map(|layer| layer.find(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    fn layer(device: &str, kind: LayerKind) -> Layer {
        Layer { device: device.to_owned(), kind, size: Bytes::gib(1), above: Vec::new() }
    }

    fn filesystem(kind: &str, mount: Option<&str>) -> Layer {
        let mount = mount.map(str::to_owned);
        layer("/dev/vda1", LayerKind::Filesystem { kind: kind.to_owned(), mount })
    }

    fn typed(tool: Tool, layer: &Layer) -> Option<String> {
        command(tool, "/dev/vda", layer).map(|words| as_typed(&words))
    }

    #[test]
    fn every_tool_has_words_for_what_it_grows() {
        let partition = LayerKind::Partition { number: 1, start: Bytes::mib(1), table: "gpt".into() };
        let partition = layer("/dev/vda1", partition);
        assert_eq!(typed(Tool::Growpart, &partition).as_deref(), Some("growpart /dev/vda 1"));
        let volume = LayerKind::LogicalVolume { group: "vg".into(), volume: "root".into() };
        let volume = layer("/dev/vg/root", volume);
        assert_eq!(typed(Tool::Lvextend, &volume).as_deref(), Some("lvextend -l +100%FREE /dev/vg/root"));
        let ext4 = filesystem("ext4", None);
        assert_eq!(typed(Tool::Resize2fs, &ext4).as_deref(), Some("resize2fs /dev/vda1"));
        let xfs = filesystem("xfs", Some("/srv/my data"));
        assert_eq!(typed(Tool::XfsGrowfs, &xfs).as_deref(), Some("xfs_growfs '/srv/my data'"));
    }

    #[test]
    fn a_tool_grows_nothing_but_its_own() {
        let ext4 = filesystem("ext4", Some("/"));
        for tool in Tool::ALL {
            assert_eq!(typed(tool, &ext4).is_some(), tool == Tool::Resize2fs, "{tool}");
        }
        assert!(typed(Tool::XfsGrowfs, &filesystem("xfs", None)).is_none(), "XFS grows only while mounted");
        assert!(tools(&LayerKind::Swap).is_empty());
        assert!(tools(&filesystem("zfs_member", None).kind).is_empty());
    }

    #[test]
    fn what_a_person_types_cannot_break_out() {
        let words = ["sh", "-c", "it's $HOME", ""].map(str::to_owned);
        assert_eq!(as_typed(&words), r"sh -c 'it'\''s $HOME' ''");
    }
}
