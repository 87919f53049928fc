//! What a guest's memory is made of, node by node, and what the host has left of it.

use crate::units::Bytes;
use serde::{Deserialize, Serialize};

/// How the memory of a DIMM is backed on the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Ordinary pages: `memory-backend-ram`.
    #[default]
    Ram,
    /// Ordinary pages that other processes can map: `memory-backend-memfd` with `share=on` (vhost-user needs it).
    SharedMemfd,
    /// Pages of a hugetlbfs mount: `memory-backend-file`.
    Hugepages {
        /// The mount, such as `/dev/hugepages`.
        path: String,
        /// Size of one page.
        page: Bytes,
        /// Whether other processes can map it.
        share: bool,
    },
    /// Huge pages without a mount: `memory-backend-memfd` with `hugetlb=on`.
    HugeMemfd {
        /// Size of one page.
        page: Bytes,
        /// Whether other processes can map it.
        share: bool,
    },
    /// Something that Supple cannot make more of, with QEMU's word for it.
    Unknown(String),
}

impl Backing {
    /// The size of its huge pages; nothing for ordinary ones. All sizes are multiples of it.
    pub fn page(&self) -> Option<Bytes> {
        match self {
            Backing::Hugepages { page, .. } | Backing::HugeMemfd { page, .. } => Some(*page),
            Backing::Ram | Backing::SharedMemfd | Backing::Unknown(_) => None,
        }
    }
}

/// Where on the host a backend's memory is to lie (`policy`, `host-nodes`), and when it is taken (`prealloc`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Placement {
    /// How the host's nodes are chosen from.
    #[serde(default)]
    pub policy: HostPolicy,
    /// The host's nodes, ascending; none with [`HostPolicy::Default`].
    #[serde(default)]
    pub host_nodes: Vec<u32>,
    /// Whether all of it is taken when it is made. Huge pages always are: a shortage found later kills QEMU (SIGBUS).
    #[serde(default)]
    pub prealloc: bool,
}

impl Placement {
    /// True where nothing was said of it.
    pub fn is_default(&self) -> bool {
        *self == Placement::default()
    }

    /// The host's nodes that it cannot leave. Only `bind` holds: `preferred` and `interleave` go elsewhere where a node
    /// is full (mm/mempolicy.c, 6.1: `policy_nodemask`).
    pub fn bound(&self) -> Option<&[u32]> {
        match self.policy {
            HostPolicy::Bind if !self.host_nodes.is_empty() => Some(&self.host_nodes),
            HostPolicy::Bind | HostPolicy::Default | HostPolicy::Preferred | HostPolicy::Interleave => None,
        }
    }
}

/// How a backend chooses among the host's nodes (`HostMemPolicy`, qapi/machine.json).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostPolicy {
    /// As the kernel likes.
    #[default]
    Default,
    /// The named node first.
    Preferred,
    /// The named nodes or none.
    Bind,
    /// The named nodes in turn.
    Interleave,
}

impl HostPolicy {
    /// QEMU's word for it.
    pub fn word(self) -> &'static str {
        match self {
            HostPolicy::Default => "default",
            HostPolicy::Preferred => "preferred",
            HostPolicy::Bind => "bind",
            HostPolicy::Interleave => "interleave",
        }
    }
}

/// What the memory of one owner is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Source {
    /// Whose memory.
    pub of: SourceOf,
    /// How it is backed.
    pub backing: Backing,
    /// Where on the host it lies.
    #[serde(default)]
    pub placement: Placement,
}

/// Whose memory a [`Source`] tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceOf {
    /// Boot memory of a guest node.
    Node(u32),
    /// A virtio-mem device, by its id.
    Device(String),
}

impl super::Memory {
    /// What new memory of a guest node is made of: the same as its boot memory. A node without memory of its own takes
    /// after the machine's first.
    pub fn source_of_node(&self, node: u32) -> (Backing, Placement) {
        self.source_of(&SourceOf::Node(node)).unwrap_or_else(|| (self.backing.clone(), Placement::default()))
    }

    /// What a virtio-mem device takes its memory from, where that is known.
    pub fn source_of_device(&self, id: &str) -> Option<(Backing, Placement)> {
        self.source_of(&SourceOf::Device(id.to_owned()))
    }

    fn source_of(&self, of: &SourceOf) -> Option<(Backing, Placement)> {
        let source = self.sources.iter().find(|source| source.of == *of)?;
        Some((source.backing.clone(), source.placement.clone()))
    }

    /// The largest page that any node's memory consists of, where huge ones are used.
    pub fn largest_page(&self) -> Option<Bytes> {
        let nodes = self.sources.iter().filter(|source| matches!(source.of, SourceOf::Node(_)));
        nodes.filter_map(|source| source.backing.page()).chain(self.backing.page()).max()
    }
}

/// What is left of memory on the host, of one node or of all together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryPool {
    /// The host's node; absent for the whole host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// The size of the huge pages that it tells of; absent for ordinary memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Bytes>,
    /// What is free. Of ordinary memory, what is held by files that the kernel can drop counts too.
    pub free: Bytes,
    /// How much of it is promised to somebody who has not touched it yet. Linux tells that of the whole host alone
    /// (`resv_hugepages`; mm/hugetlb.c, 6.1).
    #[serde(default)]
    pub promised: Bytes,
}

impl super::Host {
    /// What can be had of huge pages of this size, on these of the host's nodes or anywhere. Promised pages may be
    /// taken from any node, so each set of nodes is counted without all of them. Nothing where the host does not tell.
    pub fn free_pages(&self, page: Bytes, nodes: Option<&[u32]>) -> Option<Bytes> {
        let of_page = || self.pools.iter().filter(|pool| pool.page == Some(page));
        let whole = of_page().find(|pool| pool.node.is_none())?;
        let free = match nodes {
            None => whole.free,
            Some(nodes) => Self::on(of_page(), nodes)?,
        };
        Some(free.saturating_sub(whole.promised))
    }

    /// What ordinary memory these of the host's nodes have. Nothing where the host does not tell.
    pub fn free_on(&self, nodes: &[u32]) -> Option<Bytes> {
        Self::on(self.pools.iter().filter(|pool| pool.page.is_none()), nodes)
    }

    fn on<'a>(pools: impl Iterator<Item = &'a MemoryPool>, nodes: &[u32]) -> Option<Bytes> {
        let told: Vec<Bytes> = pools
            .filter(|pool| pool.node.is_some_and(|node| nodes.contains(&node)))
            .map(|pool| pool.free)
            .collect();
        (!told.is_empty()).then(|| told.into_iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Host, Memory};

    fn pool(node: Option<u32>, page: Option<u64>, free: u64, promised: u64) -> MemoryPool {
        MemoryPool {
            node,
            page: page.map(Bytes::mib),
            free: Bytes::mib(free),
            promised: Bytes::mib(promised),
        }
    }

    #[test]
    fn promised_pages_are_free_on_no_node() {
        let pools = vec![
            pool(None, Some(2), 600, 100),
            pool(Some(0), Some(2), 400, 0),
            pool(Some(1), Some(2), 200, 0),
            pool(Some(1), None, 77, 0),
        ];
        let host = Host { pools, ..Host::default() };
        let page = Bytes::mib(2);
        assert_eq!(host.free_pages(page, None), Some(Bytes::mib(500)));
        assert_eq!(host.free_pages(page, Some(&[1])), Some(Bytes::mib(100)));
        assert_eq!(host.free_pages(page, Some(&[0, 1])), Some(Bytes::mib(500)));
        assert_eq!(host.free_pages(page, Some(&[7])), None);
        assert_eq!(host.free_pages(Bytes::gib(1), None), None);
        assert_eq!((host.free_on(&[1]), host.free_on(&[0])), (Some(Bytes::mib(77)), None));
    }

    #[test]
    fn a_node_without_memory_takes_after_the_machine() {
        let huge = Backing::HugeMemfd { page: Bytes::mib(2), share: true };
        let bound = Placement { policy: HostPolicy::Bind, host_nodes: vec![1], ..Placement::default() };
        let source = Source { of: SourceOf::Node(1), backing: huge.clone(), placement: bound.clone() };
        let memory = Memory { sources: vec![source], ..Memory::default() };
        assert_eq!(memory.source_of_node(1), (huge, bound));
        assert_eq!(memory.source_of_node(0), (Backing::Ram, Placement::default()));
        assert_eq!((memory.source_of_device("vmem0"), memory.largest_page()), (None, Some(Bytes::mib(2))));
    }

    #[test]
    fn only_bind_holds_memory_to_its_nodes() {
        for policy in [HostPolicy::Default, HostPolicy::Preferred, HostPolicy::Interleave] {
            assert_eq!(Placement { policy, host_nodes: vec![0], prealloc: true }.bound(), None, "{policy:?}");
        }
        let bind = Placement { policy: HostPolicy::Bind, host_nodes: vec![0], prealloc: false };
        assert_eq!(bind.bound(), Some(&[0][..]));
    }
}
