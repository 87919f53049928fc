//! What a machine is to be, as a file: TOML, or JSON where its name ends so. The words are those of the command line.
//!
//! `supple get` writes what `supple plan -f` and `apply -f` read. A file is a wish: what is not in it stays as it is.

use scale::observed::Observed;
use scale::plan::Sizes;
use scale::setting::Setting;
use scale::units::{parse_change, parse_count};
use scale::wanted::{DiskWish, IpWish, Mechanism, Wanted, ZoneWish};
use scale::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A wish has some lines; a machine of a thousand disks some thousand.
const LONGEST: u64 = 1 << 20;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct File {
    /// The machine, as on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vm: Option<String>,
    /// The guest agent's socket, for a machine on plain QEMU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mechanism: Option<Mechanism>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<ZoneWish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_limit: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_weight: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    disk: BTreeMap<String, Disk>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    nic: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    ip: BTreeMap<String, String>,
}

/// A word that may be written as a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    Whole(u64),
    Text(String),
}

impl Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Word::Whole(number) => number.fmt(f),
            Word::Text(text) => text.fmt(f),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Disk {
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iops: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<String>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// TOML, for people
    Toml,
    /// JSON, for programs
    Json,
}

impl File {
    /// Reads a file; `-` is standard input.
    ///
    /// # Errors
    /// With the file's name, and the place in it where there is one.
    pub(crate) fn read(path: &Path) -> Result<File, String> {
        let named = path.display();
        let bad = |why: &dyn Display| format!("{named}: {why}");
        let mut text = String::new();
        let read = if path == Path::new("-") {
            std::io::stdin().take(LONGEST + 1).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_string(&mut text))
        };
        let length = read.map_err(|why| bad(&why))?;
        if length as u64 > LONGEST {
            return Err(bad(&"longer than 1 MiB; this is no description of what a machine is to be"));
        }
        let format = match path.extension().is_some_and(|extension| extension == "json") {
            true => Format::Json,
            false => Format::Toml,
        };
        File::parse(&text, format).map_err(|why| bad(&why))
    }

    fn parse(text: &str, format: Format) -> Result<File, String> {
        match format {
            Format::Toml => toml::from_str(text).map_err(|why| why.to_string()),
            Format::Json => serde_json::from_str(text).map_err(|why| why.to_string()),
        }
    }

    /// The whole file.
    pub(crate) fn write(&self, format: Format) -> String {
        match format {
            Format::Toml => toml::to_string(self).expect("its tables come last, and its keys are texts"),
            Format::Json => {
                let mut text = serde_json::to_string_pretty(self).expect("its keys are texts");
                text.push('\n');
                text
            }
        }
    }

    /// What is asked for.
    ///
    /// # Errors
    /// With the key whose value is not understood.
    pub(crate) fn wanted(&self) -> Result<Wanted, String> {
        let mut wanted = Wanted {
            memory: self.memory.as_deref().map(|text| at("memory", parse_change(text))).transpose()?,
            vcpus: self.vcpus.as_ref().map(|word| at("vcpus", parse_count(&word.to_string()))).transpose()?,
            mechanism: self.mechanism,
            node: self.node,
            zone: self.zone.unwrap_or_default(),
            ..Wanted::default()
        };
        if let Some(limit) = &self.cpu_limit {
            wanted.cpu_limit = at("cpu-limit", words::parse_cpu_limit(&limit.to_string()))?;
        }
        if let Some(weight) = self.cpu_weight {
            wanted.cpu_weight = Some(at("cpu-weight", words::parse_cpu_weight(&weight.to_string()))?);
        }
        for (name, disk) in &self.disk {
            let mut wish = DiskWish::default();
            if let Some(size) = &disk.size {
                wish.size = Some(at(&format!("disk.{name}.size"), parse_change(size))?);
            }
            if let Some(iops) = &disk.iops {
                wish.iops = at(&format!("disk.{name}.iops"), words::parse_iops_wish(&iops.to_string()))?;
            }
            if let Some(rate) = &disk.rate {
                wish.rate = at(&format!("disk.{name}.rate"), words::parse_bytes_wish(rate))?;
            }
            wanted.disks.insert(name.clone(), wish);
        }
        for (name, rate) in &self.nic {
            wanted.nics.insert(name.clone(), at(&format!("nic.{name}"), words::parse_rate_wish(rate))?);
        }
        for (name, rate) in &self.ip {
            let key = format!("ip.\"{name}\"");
            let (ip, nic) = at(&key, words::parse_ip_name(name))?;
            let rate = at(&key, words::parse_rate_wish(rate))?;
            if wanted.ips.insert(ip, IpWish { nic, rate }).is_some() {
                return Err(format!("{key}: {ip} is there twice"));
            }
        }
        Ok(wanted)
    }

    /// What a machine is, as a wish that changes nothing.
    pub(crate) fn of(seen: &Observed, vm: Option<String>, agent: Option<PathBuf>) -> File {
        let Sizes { memory, vcpus } = Sizes::of(seen);
        let mut file = File {
            vm,
            agent,
            memory: Some(words::size(memory)),
            vcpus: (vcpus > 0).then(|| Word::Whole(vcpus.into())),
            ..File::default()
        };
        for disk in seen.disks() {
            let size = Some(words::size(disk.size));
            file.disk.insert(disk.name.clone(), Disk { size, ..Disk::default() });
        }
        for setting in seen.settings() {
            match setting {
                Setting::CpuPower(power) => {
                    let limit = power.limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
                    file.cpu_limit = Some(Word::Text(limit));
                    file.cpu_weight = Some(power.weight.get());
                }
                Setting::DiskIo { disk, io } => {
                    let disk = file.disk.entry(disk).or_default();
                    disk.iops = Some(Word::Text(words::iops(&io.iops)));
                    disk.rate = Some(words::throttled_bytes(&io.bytes));
                }
                Setting::NicRate { nic, rate } => {
                    file.nic.insert(nic, words::nic_rate(&rate));
                }
                // They follow the machine's memory and are not asked for.
                Setting::Memory { .. } | Setting::Locked { .. } => {}
                Setting::IpRate { nic, ip, rate } => {
                    file.ip.insert(format!("{ip}@{nic}"), words::nic_rate(&rate));
                }
            }
        }
        file
    }
}

fn at<T>(key: &str, read: Result<T, impl Display>) -> Result<T, String> {
    read.map_err(|why| format!("{key}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scale::limits::Limits;
    use scale::plan::plan;
    use scale::units::{Bytes, Change};

    const WEB1: &str = "\
vm = \"web1\"
memory = \"8G\"
vcpus = 4
cpu-limit = \"2.5\"

[disk.vda]
size = \"40G\"
iops = 2000
rate = \"200M\"

[nic]
eth0 = \"500mbit/1gbit\"

[ip]
\"203.0.113.7\" = \"100mbit\"
\"2001:db8::7@eth0\" = \"in:100mbit,out:none\"
";

    fn wanted(text: &str) -> Result<Wanted, String> {
        File::parse(text, Format::Toml).and_then(|file| file.wanted())
    }

    #[test]
    fn a_file_says_what_the_command_line_says() {
        let said = wanted(WEB1).expect("a wish");
        assert_eq!(said.memory, Some(Change::To(Bytes::gib(8))));
        assert_eq!(said.disks["vda"].size, Some(Change::To(Bytes::gib(40))));
        assert_eq!(said.disks["vda"].iops, words::parse_iops_wish("2000").expect("a limit"));
        assert_eq!(said.nics["eth0"], words::parse_rate_wish("500mbit/1gbit").expect("a rate"));
        assert_eq!(said.ips.len(), 2);
        assert_eq!(said.ips[&"2001:db8::7".parse().expect("an address")].nic.as_deref(), Some("eth0"));
        let json = File::parse(WEB1, Format::Toml).expect("a file").write(Format::Json);
        assert_eq!(File::parse(&json, Format::Json).and_then(|file| file.wanted()), Ok(said));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_place() {
        for (text, words) in [
            ("memroy = \"8G\"", "memroy"),
            ("memory = \"8Gb\"", "memory: '8Gb' can be read in two ways"),
            ("[nic]\neth0 = \"500M\"", "nic.eth0: '500M' can be read in several ways"),
            ("[disk.vda]\niops = \"2k\"", "disk.vda.iops: '2k'"),
            ("[ip]\n\"203.0.113.7\" = \"1mbit\"\n\"203.0.113.7@eth0\" = \"2mbit\"", "twice"),
            ("cpu-weight = 0", "cpu-weight"),
        ] {
            let said = wanted(text).expect_err(text);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn what_is_written_of_a_machine_asks_nothing_of_it() {
        let seen = crate::example::furnished();
        for format in [Format::Toml, Format::Json] {
            let file = File::of(&seen, Some("web1".to_owned()), None);
            let text = file.write(format);
            let read = File::parse(&text, format).expect("our own file");
            assert_eq!(read, file, "{text}");
            let plan =
                plan(&seen, &read.wanted().expect("our own words"), &Limits::default()).expect("nothing");
            assert_eq!(plan.steps, [], "{text}");
            assert!(text.contains("52:54:00:00:00:01") && text.contains("203.0.113.7"), "{text}");
        }
    }
}
