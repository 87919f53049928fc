//! What QEMU's command line tells that its monitor does not: memory limits before QEMU 7.1, and which backends boot
//! memory uses. The words come from `/proc/PID/cmdline`, and a command line that is hidden tells nothing.

use scale::units::Bytes;

use super::replies::MemoryConfig;
use crate::host;

/// QEMU's command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// That of the process, as far as it can be read.
    pub(super) fn of(pid: Option<u32>) -> CommandLine {
        CommandLine::parse(&pid.map(host::command_line).unwrap_or_default())
    }

    /// From the NUL-separated words of `/proc/PID/cmdline`.
    pub(super) fn parse(raw: &[u8]) -> CommandLine {
        let words = raw.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        CommandLine { words: words.collect() }
    }

    /// The values of an option. QEMU takes `-name` and `--name` alike.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.words
            .windows(2)
            .filter(move |pair| {
                pair[0].strip_prefix('-').is_some_and(|w| w.strip_prefix('-').unwrap_or(w) == name)
            })
            .map(|pair| pair[1].as_str())
    }

    /// True where all that configures the machine can be seen here.
    pub(super) fn is_complete(&self) -> bool {
        let opaque = ["readconfig", "preconfig"];
        !self.words.is_empty()
            && !self.words.iter().any(|word| opaque.contains(&word.trim_start_matches('-')))
    }

    /// True where the id is named anywhere but in the definition of objects.
    pub(super) fn uses(&self, id: &str) -> bool {
        let mut previous = "";
        self.words.iter().any(|word| {
            let defines = previous.trim_start_matches('-') == "object";
            previous = word;
            let separators = [',', '=', ':', '"', '{', '}', ' '];
            !defines && word.split(separators).any(|part| part == id)
        })
    }

    /// The guest's nodes and the backends that `-numa node,memdev=` names for them, in order. A node without `nodeid`
    /// has the next number (hw/core/numa.c, `parse_numa_node`, 7.2 and 10.0).
    pub(super) fn numa_backends(&self) -> Vec<(u32, &str)> {
        let nodes = self.values("numa").filter(|value| value.split(',').next() == Some("node"));
        (0..)
            .zip(nodes)
            .filter_map(|(nth, value)| {
                let node = key(value, "nodeid").and_then(|node| node.parse().ok()).unwrap_or(nth);
                Some((node, key(value, "memdev")?))
            })
            .collect()
    }

    /// True where QEMU locks all of its memory: `-overcommit mem-lock=on` (newer ones have `on-fault`, which takes pages
    /// as they come and
    /// is bounded alike).
    pub(super) fn locks_memory(&self) -> bool {
        let on =
            |value: &str| key(value, "mem-lock").is_some_and(|on| matches!(on, "on" | "on-fault" | "yes"));
        self.values("overcommit").any(on)
    }

    /// The path of `-mem-path`.
    pub(super) fn mem_path(&self) -> Option<&str> {
        self.values("mem-path").last()
    }

    /// What `-m` says; sizes without a unit are in MiB, as QEMU has it.
    pub(super) fn memory(&self) -> Option<MemoryConfig> {
        let value = self.values("m").last()?;
        let size =
            key(value, "size").or_else(|| value.split(',').next().filter(|part| !part.contains('=')))?;
        Some(MemoryConfig {
            size: Some(size_of(size)?.get()),
            max_size: key(value, "maxmem").and_then(size_of).map(Bytes::get),
            slots: key(value, "slots").and_then(|slots| slots.parse().ok()),
        })
    }
}

/// The value of one key in `a=1,b=2`.
fn key<'a>(options: &'a str, key: &str) -> Option<&'a str> {
    options.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='))
}

/// A size as `-m` takes it: MiB, or with one of the suffixes b, K, M, G, T, P, E; decimal fractions allowed.
fn size_of(text: &str) -> Option<Bytes> {
    let digits = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" => 10,
        "" | "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let bytes = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let part: f64 = if fraction.is_empty() { 0.0 } else { format!("0.{fraction}").parse().ok()? };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below one unit, and positive"
    )]
    let part = (part * (1_u64 << shift) as f64) as u64;
    bytes.checked_add(part).map(Bytes::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> CommandLine {
        CommandLine::parse(words.join("\0").as_bytes())
    }

    #[test]
    fn memory_is_read_in_every_form_that_qemu_takes() {
        let gib = |n: u64| Some(n << 30);
        let told = |value| line(&["qemu", "-m", value]).memory().map(|m| (m.size, m.max_size, m.slots));
        assert_eq!(told("1024"), Some((gib(1), None, None)));
        assert_eq!(told("2G,slots=4,maxmem=8G"), Some((gib(2), gib(8), Some(4))));
        assert_eq!(told("size=2097152k,slots=255,maxmem=4194304k"), Some((gib(2), gib(4), Some(255))));
        assert_eq!(told("1.5G"), Some((Some(3 << 29), None, None)));
        assert_eq!(told("nonsense"), None);
        assert_eq!(line(&["qemu"]).memory(), None);
    }

    #[test]
    fn a_backend_is_used_where_anything_but_its_definition_names_it() {
        let line = line(&[
            "qemu",
            "-object",
            "memory-backend-ram,id=m0,size=1G",
            "-object",
            r#"{"qom-type":"memory-backend-ram","id":"spare","size":1}"#,
            "-numa",
            "node,nodeid=0,memdev=m0",
        ]);
        assert!(line.uses("m0") && !line.uses("spare") && !line.uses("m"));
        assert_eq!(line.numa_backends(), [(0, "m0")]);
    }

    #[test]
    fn a_node_without_a_number_has_the_next() {
        let nodes =
            ["node,memdev=a", "dist,src=0,dst=1,val=20", "node,cpus=1,memdev=b", "node,nodeid=7,memdev=c"];
        let words: Vec<&str> = ["qemu"].into_iter().chain(nodes.iter().flat_map(|n| ["-numa", n])).collect();
        assert_eq!(line(&words).numa_backends(), [(0, "a"), (1, "b"), (7, "c")]);
    }

    #[test]
    fn a_command_line_with_a_configuration_file_is_not_all() {
        assert!(line(&["qemu", "-m", "1G"]).is_complete());
        assert!(!line(&["qemu", "-readconfig", "vm.cfg"]).is_complete());
        assert!(!CommandLine::default().is_complete());
    }
}
