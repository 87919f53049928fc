//! Who a guest is: id, version and name as its agent or its libvirt description has them. It asks nobody.

use serde::{Deserialize, Serialize};

/// A guest's operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct System {
    /// As in os-release (`debian`, `rhel`, `openEuler`), or `mswindows`.
    pub id: String,
    /// Its version, such as `12`, `9.4`, `2008r2`; empty where unknown.
    pub version: String,
    /// Its full name, in which editions are found: `Windows Server 2019 Datacenter`.
    pub name: String,
    /// The machine type as `uname -m` has it (`x86_64`, and also `x86` on Windows); empty where unknown.
    pub arch: String,
}

/// The systems that are no Linux.
const OTHERS: [&str; 5] = ["mswindows", "freebsd", "openbsd", "netbsd", "solaris"];

impl System {
    /// True for a Linux, known or not.
    pub fn is_linux(&self) -> bool {
        !self.id.is_empty() && !OTHERS.contains(&self.id.as_str())
    }

    /// True for a Windows.
    pub fn is_windows(&self) -> bool {
        self.id == "mswindows"
    }

    /// Major and minor version; nothing where there is no number.
    pub fn numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split('.');
        let major = parts.next()?.parse().ok()?;
        // SUSE writes 15.4, openEuler 22.03, Debian 12.
        Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
    }

    /// From what the guest agent says (`guest-get-osinfo`). An agent knows the versions of Windows that were there when it
    /// was made, and calls a later server by the last of them (qga/commands-win32.c); before QEMU 8.0 it has none for
    /// Windows 7, for want of a comma. The name is Windows's own: where it tells the version, that counts.
    pub fn of_agent(id: &str, version: &str, name: &str, arch: &str) -> System {
        let named = if id == "mswindows" { windows_named(name) } else { None };
        let seven = id == "mswindows" && version.is_empty() && name.contains("Windows 7");
        let told = if seven { "7" } else { version }.to_owned();
        System {
            id: id.to_owned(),
            version: named.unwrap_or(told),
            name: name.to_owned(),
            arch: arch.to_owned(),
        }
    }

    /// From libosinfo's id in a libvirt description, such as `http://microsoft.com/win/2k22`. Nothing where the id is of
    /// another form. Editions are not in it.
    pub fn of_libosinfo(id: &str, arch: &str) -> Option<System> {
        let path = id.split_once("://").map_or(id, |(_, rest)| rest);
        let mut parts = path.split('/');
        let (_, system, version) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
        let system = if path.starts_with("microsoft.com/") { "mswindows" } else { system };
        let id = match system {
            "sle" | "sled" => "sles",
            "opensuse" => "opensuse-leap",
            "openeuler" => "openEuler",
            "centos-stream" => "centos",
            other => other,
        };
        let version = if system == "mswindows" { windows(version) } else { version };
        // libosinfo's name of a version still under way.
        let version = if version.starts_with("unknown") { "" } else { version };
        Some(System {
            id: id.to_owned(),
            version: version.to_owned(),
            name: path.to_owned(),
            arch: arch.to_owned(),
        })
    }
}

/// The version in the name of a Windows Server, as the guest agent has it.
fn windows_named(name: &str) -> Option<String> {
    let (_, rest) = name.split_once("Server ")?;
    let year = rest.get(..4).filter(|year| year.bytes().all(|byte| byte.is_ascii_digit()))?;
    let second = year != "2003" && rest[4..].trim_start().starts_with("R2");
    Some(format!("{year}{}", if second { "r2" } else { "" }))
}

/// libosinfo's short name of a Windows, as the guest agent has it.
fn windows(version: &str) -> &str {
    match version {
        "2k3" | "2k3r2" => "2003",
        "2k8" => "2008",
        "2k8r2" => "2008r2",
        "2k12" => "2012",
        "2k12r2" => "2012r2",
        "2k16" => "2016",
        "2k19" => "2019",
        "2k22" => "2022",
        "2k25" => "2025",
        other => other,
    }
}
