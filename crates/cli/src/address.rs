//! How a machine is named: `qmp:/path/to/qmp.sock`, or the bare path. It opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A machine behind a QMP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    qmp: PathBuf,
}

/// Why a text names no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAddress {
    /// A name or a URI of a manager of machines.
    #[error(
        "'{0}' looks like a libvirt name; this version reaches a machine by its QMP socket only: \
         qmp:/path/to/qmp.sock (QEMU's option -qmp unix:/path/to/qmp.sock,server=on,wait=off)"
    )]
    Libvirt(String),
    /// A network address.
    #[error("'{0}' is a network address; QMP is reached by a Unix socket only: qmp:/path/to/qmp.sock")]
    Network(String),
    /// Nothing.
    #[error("a machine is named by its QMP socket: qmp:/path/to/qmp.sock")]
    Empty,
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let (prefixed, path) = match text.strip_prefix("qmp:") {
            Some(path) => (true, path),
            None => (false, text),
        };
        // As QEMU writes it: unix:/path,server=on
        let path = path.strip_prefix("unix:").unwrap_or(path);
        let path = path.split_once(",server").map_or(path, |(path, _)| path);
        if path.is_empty() {
            return Err(BadAddress::Empty);
        }
        if is_network(path) {
            return Err(BadAddress::Network(text.to_owned()));
        }
        if path.contains("://") || text.starts_with("libvirt:") || !(prefixed || path.contains('/')) {
            return Err(BadAddress::Libvirt(text.to_owned()));
        }
        Ok(Address { qmp: PathBuf::from(path) })
    }
}

/// `tcp:...`, or `host:4444` without any `/`.
fn is_network(path: &str) -> bool {
    let port = path.rsplit_once(':').map(|(_, port)| port);
    path.starts_with("tcp:")
        || (!path.contains('/')
            && port.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())))
}

impl Address {
    /// The socket.
    pub(crate) fn qmp(&self) -> &Path {
        &self.qmp
    }

    /// What this machine's journal is found by: the same for every way to write one path, and also once the socket is
    /// gone.
    pub(crate) fn key(&self) -> String {
        format!("qmp:{}", whole(&self.qmp).display())
    }
}

/// The path without links, as far as it exists.
fn whole(path: &Path) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent().and_then(|dir| dir.canonicalize().ok()), absolute.file_name()) {
        (Some(dir), Some(name)) => dir.join(name),
        (Some(_) | None, _) => absolute,
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "qmp:{}", self.qmp.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_an_address_with_or_without_its_prefix() {
        for text in
            ["qmp:/run/q.sock", "/run/q.sock", "unix:/run/q.sock,server=on,wait=off", "qmp:unix:/run/q.sock"]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), "qmp:/run/q.sock", "{text}");
        }
        assert_eq!("./q.sock".parse::<Address>().unwrap().qmp(), Path::new("./q.sock"));
        assert_eq!("qmp:q.sock".parse::<Address>().unwrap().qmp(), Path::new("q.sock"));
    }

    #[test]
    fn what_is_no_socket_is_told_what_is_accepted() {
        for text in ["web1", "qemu:///system", "libvirt:web1", "qmp:", "", "localhost:4444", "qmp:tcp:h:4444"]
        {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains("qmp:/path/to/qmp.sock"), "{text}: {error}");
        }
        assert!(matches!("web1".parse::<Address>(), Err(BadAddress::Libvirt(_))));
        assert!(matches!("localhost:4444".parse::<Address>(), Err(BadAddress::Network(_))));
    }

    #[test]
    fn one_machine_has_one_key_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("q.sock");
        let by_link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &by_link).unwrap();
        let key = |path: &Path| path.display().to_string().parse::<Address>().unwrap().key();
        let gone = key(&socket);
        std::fs::write(&socket, "").unwrap();
        assert_eq!(gone, key(&socket));
        assert_eq!(gone, key(&by_link.join("q.sock")));
        assert_eq!(gone, key(&dir.path().join("./q.sock")));
    }
}
