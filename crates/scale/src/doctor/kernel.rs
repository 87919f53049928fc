//! A Linux guest's kernel: its build options and its command line, as far as resizing depends on them. Pure readers of
//! text that a guest gave; what they do not find is unknown, never no.

use std::collections::BTreeMap;

use crate::units::{Bytes, parse_size};

/// The build options that resizing depends on.
pub const OPTIONS: [&str; 9] = [
    "CONFIG_MEMORY_HOTPLUG",
    "CONFIG_MEMORY_HOTREMOVE",
    "CONFIG_ACPI_HOTPLUG_MEMORY",
    "CONFIG_HOTPLUG_CPU",
    "CONFIG_ACPI_HOTPLUG_CPU",
    "CONFIG_VIRTIO_MEM",
    "CONFIG_VIRTIO_BALLOON",
    "CONFIG_MEMORY_HOTPLUG_DEFAULT_ONLINE",
    "CONFIG_NUMA",
];

/// How an option was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Built {
    /// Into the kernel.
    In,
    /// As a module.
    Module,
    /// Not at all.
    Out,
}

/// The build options of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    built: BTreeMap<&'static str, Built>,
    whole: bool,
}

impl Options {
    /// From a configuration as in `/boot/config-*` and `/proc/config.gz`, whole. An option that is nowhere in it depends
    /// on another that is out, so it is out too.
    pub fn read(text: &str) -> Options {
        let mut options = Options { built: BTreeMap::new(), whole: false };
        for line in text.lines() {
            let (name, built) = match (line.strip_prefix("# "), line.split_once('=')) {
                (Some(rest), _) => match rest.strip_suffix(" is not set") {
                    Some(name) => (name, Built::Out),
                    None => continue,
                },
                (None, Some((name, "y"))) => (name, Built::In),
                (None, Some((name, "m"))) => (name, Built::Module),
                (None, Some((name, _))) if name.starts_with("CONFIG_") => {
                    options.whole = true;
                    continue;
                }
                (None, _) => continue,
            };
            // Any other text than a configuration has none of these lines.
            options.whole |= name.starts_with("CONFIG_");
            if let Some(known) = OPTIONS.iter().find(|known| **known == name) {
                options.built.insert(known, built);
            }
        }
        options
    }

    /// Only this, of all options: what was seen of the kernel at work.
    pub fn seen(signs: &[(&'static str, Built)]) -> Options {
        Options { built: signs.iter().copied().collect(), whole: false }
    }

    /// How an option was built; nothing where that is not known.
    pub fn get(&self, name: &str) -> Option<Built> {
        self.built.get(name).copied().or(if self.whole { Some(Built::Out) } else { None })
    }

    /// True where it is known to be out.
    pub fn lacks(&self, name: &str) -> bool {
        self.get(name) == Some(Built::Out)
    }

    /// True where nothing is known.
    pub fn is_empty(&self) -> bool {
        self.built.is_empty() && !self.whole
    }
}

/// A kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// From `/proc/cmdline`.
    pub fn read(text: &str) -> CommandLine {
        CommandLine { words: text.split_whitespace().map(str::to_owned).collect() }
    }

    /// The last value of a parameter `name=value`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.words.iter().rev().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// True where a word is there as it is.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|w| w == word)
    }

    /// The most memory that the kernel uses (`mem=`), whatever it is given.
    pub fn memory_limit(&self) -> Option<Bytes> {
        parse_size(self.value("mem")?).ok()
    }

    /// The most vCPUs that the kernel takes (`nr_cpus=`, `possible_cpus=`; `nosmp` and `maxcpus=` bound only those at
    /// boot, but for 0, which means one).
    pub fn vcpu_limit(&self) -> Option<u32> {
        let value = |name| self.value(name).and_then(|value| value.parse::<u32>().ok()).map(|n| n.max(1));
        [value("nr_cpus"), value("possible_cpus")].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_whole_configuration_does_not_name_is_out() {
        let options = Options::read(
            "#\n# Automatically generated file\nCONFIG_64BIT=y\nCONFIG_MEMORY_HOTPLUG=y\nCONFIG_VIRTIO_MEM=m\n# \
             CONFIG_MEMORY_HOTPLUG_DEFAULT_ONLINE is not set\nCONFIG_LOCALVERSION=\"\"\n",
        );
        assert_eq!(options.get("CONFIG_MEMORY_HOTPLUG"), Some(Built::In));
        assert_eq!(options.get("CONFIG_VIRTIO_MEM"), Some(Built::Module));
        assert!(options.lacks("CONFIG_MEMORY_HOTPLUG_DEFAULT_ONLINE") && options.lacks("CONFIG_HOTPLUG_CPU"));
    }

    #[test]
    fn what_is_no_configuration_says_nothing() {
        for text in ["", "# nothing\n", "<html>a=y</html>", "\u{0}\u{1}"] {
            let options = Options::read(text);
            assert!(options.is_empty() && !options.lacks("CONFIG_MEMORY_HOTPLUG"), "{text}");
        }
    }

    #[test]
    fn signs_tell_only_of_what_was_seen() {
        let options = Options::seen(&[("CONFIG_MEMORY_HOTPLUG", Built::In)]);
        assert_eq!(options.get("CONFIG_MEMORY_HOTPLUG"), Some(Built::In));
        assert_eq!(options.get("CONFIG_VIRTIO_MEM"), None);
        assert!(!options.is_empty());
    }

    #[test]
    fn limits_on_the_command_line_are_read() {
        let line =
            CommandLine::read("root=/dev/vda1 mem=4G nr_cpus=8 possible_cpus=4 memhp_default_state=online\n");
        assert_eq!(line.memory_limit(), Some(Bytes::gib(4)));
        assert_eq!(line.vcpu_limit(), Some(4));
        assert_eq!(line.value("memhp_default_state"), Some("online"));
        assert_eq!(
            (CommandLine::read("quiet").vcpu_limit(), CommandLine::read("nr_cpus=x").vcpu_limit()),
            (None, None)
        );
        assert!(CommandLine::read("a movable_node b").has("movable_node"));
    }
}
