//! This host: what it runs, its memory by node, its limits. From /proc, /sys and os-release; what cannot be read is
//! absent.

use std::fs;
use std::path::{Path, PathBuf};

use scale::doctor::host::{
    HostFacts, HostNode, HostSystem, HugePages, KvmDevice, LibvirtFacts, LimitFacts, QemuFacts,
};
use scale::units::Bytes;

use super::emulator;
use crate::host::{kib_line, memlock};

/// The most nodes that are looked at.
const MOST_NODES: u32 = 1024;

/// Gathers everything about this host. `qemu` is the QEMU to ask, or why there is none.
pub async fn gather(qemu: Result<PathBuf, String>, libvirt: LibvirtFacts) -> HostFacts {
    let qemu = match qemu {
        Ok(path) => emulator::ask(&path).await,
        Err(looked) => QemuFacts::Absent(looked),
    };
    HostFacts { system: system(), qemu, kvm: kvm(Path::new("/dev/kvm")), libvirt, limits: limits() }
}

/// What this host runs.
pub(super) fn system() -> HostSystem {
    let text =
        ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(path).ok());
    os_release(&text.unwrap_or_default(), rustix::system::uname().machine().to_string_lossy().as_ref())
}

fn os_release(text: &str, arch: &str) -> HostSystem {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
    };
    HostSystem {
        id: value("ID"),
        version: value("VERSION_ID"),
        name: value("PRETTY_NAME"),
        like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
        arch: arch.to_owned(),
    }
}

fn kvm(path: &Path) -> KvmDevice {
    match fs::File::options().read(true).write(true).open(path) {
        Ok(_) => KvmDevice::Opens,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => KvmDevice::Absent,
        Err(error) => KvmDevice::Closed(reason(&error)),
    }
}

/// An error without its number, which tells nobody more.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// This host's memory and limits.
pub fn limits() -> LimitFacts {
    let meminfo = read(Path::new("/proc/meminfo")).unwrap_or_default();
    let own = read(Path::new("/proc/self/limits")).unwrap_or_default();
    LimitFacts {
        memory: kib_line(&meminfo, "MemTotal"),
        available: kib_line(&meminfo, "MemAvailable"),
        nodes: nodes(Path::new("/sys/devices/system/node")),
        vhost_regions: number(Path::new("/sys/module/vhost/parameters/max_mem_regions")),
        memlock: memlock(&own),
        address_bits: crate::host::address_bits(),
    }
}

fn nodes(root: &Path) -> Vec<HostNode> {
    let mut all: Vec<HostNode> = (0..MOST_NODES)
        .filter_map(|id| {
            let folder = root.join(format!("node{id}"));
            folder.is_dir().then(|| node(id, &folder))
        })
        .collect();
    all.sort_by_key(|node| node.id);
    all
}

fn node(id: u32, folder: &Path) -> HostNode {
    // Each line begins with `Node 0 `.
    let text = read(&folder.join("meminfo")).unwrap_or_default().replace(&format!("Node {id} "), "");
    HostNode {
        id,
        memory: kib_line(&text, "MemTotal").unwrap_or_default(),
        free: kib_line(&text, "MemFree").unwrap_or_default(),
        huge_pages: huge_pages(&folder.join("hugepages")),
    }
}

fn huge_pages(folder: &Path) -> Vec<HugePages> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let pool = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file: &str| number(&entry.path().join(file)).map(u64::from);
        Some(HugePages {
            size: Bytes::new(kib.checked_mul(1024)?),
            total: count("nr_hugepages")?,
            free: count("free_hugepages")?,
        })
    };
    let mut pools: Vec<HugePages> = entries.flatten().filter_map(pool).collect();
    pools.sort_by_key(|pool| pool.size);
    pools
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &Path) -> Option<u32> {
    read(path)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_read_with_and_without_quotes() {
        let system =
            os_release("NAME=x\nID=rocky\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n", "x86_64");
        assert_eq!((system.id.as_str(), system.version.as_str()), ("rocky", "9.4"));
        assert_eq!(system.like, ["rhel", "centos", "fedora"]);
        assert_eq!(os_release("", "x86_64").name, "");
    }

    #[test]
    fn nodes_have_their_own_free_memory_and_huge_pages() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("node0/meminfo", "Node 0 MemTotal:       2048 kB\nNode 0 MemFree:        1024 kB\n");
        write("node0/hugepages/hugepages-2048kB/nr_hugepages", "8\n");
        write("node0/hugepages/hugepages-2048kB/free_hugepages", "3\n");
        write("node1/meminfo", "");
        let nodes = nodes(root.path());
        assert_eq!(nodes.len(), 2);
        assert_eq!((nodes[0].memory, nodes[0].free), (Bytes::mib(2), Bytes::mib(1)));
        assert_eq!(nodes[0].huge_pages, [HugePages { size: Bytes::mib(2), total: 8, free: 3 }]);
    }

    #[test]
    fn a_device_that_is_not_there_is_told_from_one_that_is_closed() {
        assert_eq!(kvm(Path::new("/nowhere/kvm")), KvmDevice::Absent);
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(kvm(dir.path()), KvmDevice::Closed(_)), "a folder opens for nobody to write");
    }
}
