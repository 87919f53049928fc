//! What is left of the host's memory: huge pages and, of each node, ordinary memory. From /sys, and only what the guest's
//! own memory is made of is read.

use std::fs;
use std::path::Path;

use scale::observed::{Memory, MemoryPool};
use scale::units::Bytes;

use super::{kib_line, text};

/// Linux numbers at most so many nodes (`CONFIG_NODES_SHIFT` is 10 at most; arch/x86/Kconfig, 6.1).
const MOST_NODES: u32 = 1024;

/// What is left of the memory that `memory` is made of. Nothing where the QEMU process is not on this host (`pid`).
pub fn pools(pid: Option<u32>, memory: &Memory) -> Vec<MemoryPool> {
    if pid.is_none() {
        return Vec::new();
    }
    let sources = || memory.sources.iter();
    let mut pages: Vec<Bytes> =
        sources().map(|source| &source.backing).chain([&memory.backing]).filter_map(|b| b.page()).collect();
    pages.sort_unstable();
    pages.dedup();
    let bound = sources().any(|source| source.placement.bound().is_some());
    read(Path::new("/sys"), &pages, bound)
}

/// The size of huge pages where none is named, where the kernel has such pages.
pub fn usual_huge_page() -> Option<Bytes> {
    text(Path::new("/proc/meminfo")).and_then(|text| kib_line(&text, "Hugepagesize"))
}

/// Huge pages of these sizes, of each node and in all; of each node its ordinary memory too, where that is asked for.
fn read(sys: &Path, pages: &[Bytes], ordinary: bool) -> Vec<MemoryPool> {
    let mut all: Vec<MemoryPool> =
        pages.iter().filter_map(|page| huge(&sys.join("kernel/mm/hugepages"), None, *page)).collect();
    let nodes = nodes(&sys.join("devices/system/node"));
    for (node, folder) in nodes.iter().filter(|_| ordinary || !pages.is_empty()) {
        all.extend(pages.iter().filter_map(|page| huge(&folder.join("hugepages"), Some(*node), *page)));
        all.extend(of_node(folder, *node).filter(|_| ordinary));
    }
    all
}

fn nodes(folder: &Path) -> Vec<(u32, std::path::PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let node = |entry: fs::DirEntry| {
        let number: u32 = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        (number < MOST_NODES).then(|| (number, entry.path()))
    };
    let mut nodes: Vec<_> = entries.flatten().filter_map(node).collect();
    nodes.sort();
    nodes
}

/// Pages of one size. Those that are promised are told of the whole host alone.
fn huge(folder: &Path, node: Option<u32>, page: Bytes) -> Option<MemoryPool> {
    let folder = folder.join(format!("hugepages-{}kB", page.get() / 1024));
    let count = |name: &str| {
        let number: u64 = text(&folder.join(name))?.trim().parse().ok()?;
        number.checked_mul(page.get()).map(Bytes::new)
    };
    let promised = count("resv_hugepages").unwrap_or_default();
    Some(MemoryPool { node, page: Some(page), free: count("free_hugepages")?, promised })
}

/// What a node has free, and what files hold there that the kernel gives up first: a program that is bound to the node
/// gets both (mm/vmscan.c, 6.1).
fn of_node(folder: &Path, node: u32) -> Option<MemoryPool> {
    // Each line begins with `Node 0 `.
    let told = text(&folder.join("meminfo"))?.replace(&format!("Node {node} "), "");
    let line = |name: &str| kib_line(&told, name);
    let given_up = ["Inactive(file)", "SReclaimable"].into_iter().filter_map(line).sum();
    let free = line("MemFree")?.checked_add(given_up)?;
    Some(MemoryPool { node: Some(node), page: None, free, promised: Bytes::ZERO })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        }
    }

    fn two_nodes() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        write(
            root.path(),
            &[
                ("kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "10\n"),
                ("kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "4\n"),
                ("devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "3\n"),
                ("devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "7\n"),
                ("devices/system/node/node1/meminfo", "Node 1 MemTotal: 9 kB\nNode 1 MemFree:  5 kB\n"),
                (
                    "devices/system/node/node0/meminfo",
                    "Node 0 MemFree:    8 kB\nNode 0 Inactive(file):  16 kB\nNode 0 SReclaimable: 1 kB\n",
                ),
                ("devices/system/node/online", "0-1\n"),
            ],
        );
        root
    }

    #[test]
    fn huge_pages_are_told_of_each_node_and_promised_ones_of_all() {
        let root = two_nodes();
        let told = read(root.path(), &[Bytes::mib(2), Bytes::gib(1)], false);
        let plain: Vec<_> =
            told.iter().map(|p| (p.node, p.free.get() >> 20, p.promised.get() >> 20)).collect();
        assert_eq!(plain, [(None, 20, 8), (Some(0), 6, 0), (Some(1), 14, 0)]);
        assert!(told.iter().all(|pool| pool.page == Some(Bytes::mib(2))));
    }

    #[test]
    fn what_files_hold_of_a_node_counts_as_free() {
        let root = two_nodes();
        let told = read(root.path(), &[], true);
        let plain: Vec<_> = told.iter().map(|p| (p.node, p.page, p.free.get() >> 10)).collect();
        assert_eq!(plain, [(Some(0), None, 25), (Some(1), None, 5)]);
        assert_eq!(read(root.path(), &[], false), []);
    }

    #[test]
    fn a_qemu_elsewhere_has_no_pools_here() {
        assert_eq!(pools(None, &Memory { backing: huge_memfd(), ..Memory::default() }), []);
    }

    fn huge_memfd() -> scale::observed::Backing {
        scale::observed::Backing::HugeMemfd { page: Bytes::mib(2), share: true }
    }
}
