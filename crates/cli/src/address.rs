//! How a machine is named: by its name or uuid in libvirt (`web1`), by that with its libvirt's URI
//! (`qemu:///system#web1`), or by its QMP socket (`qmp:/path/to/qmp.sock`, or the bare path). It opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A machine, as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Behind a QMP socket.
    Qmp(PathBuf),
    /// Kept by libvirt.
    Libvirt(Domain),
}

/// A machine of libvirt's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Domain {
    /// The URI of that libvirt, where it is named.
    pub(crate) uri: Option<String>,
    /// The machine's name or uuid.
    pub(crate) name: String,
}

/// Why a text names no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAddress {
    /// A URI without a machine.
    #[error(
        "'{0}' names a libvirt and no machine; write {0}#web1 for its machine web1, or `--connect {0} web1`; `supple \
         list --connect {0}` shows its machines"
    )]
    NoMachine(String),
    /// A network address.
    #[error(
        "'{0}' is a network address; a machine is named by its name in libvirt (web1) or qmp:/path/to/qmp.sock"
    )]
    Network(String),
    /// Nothing.
    #[error("a machine is named by its name in libvirt (web1) or by its QMP socket (qmp:/path/to/qmp.sock)")]
    Empty,
    /// `--connect` where it has no meaning.
    #[error("{0}; leave --connect out")]
    Connected(&'static str),
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let (prefixed, rest) = match text.strip_prefix("qmp:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if !prefixed && rest.contains("://") {
            // A name may hold a '#', a URI cannot.
            return match rest.split_once('#') {
                Some((uri, name)) if !name.is_empty() => Ok(Address::named(Some(uri), name)),
                Some((uri, _)) => Err(BadAddress::NoMachine(uri.to_owned())),
                None => Err(BadAddress::NoMachine(rest.to_owned())),
            };
        }
        // As QEMU writes it: unix:/path,server=on
        let unix = rest.strip_prefix("unix:");
        let path = unix.unwrap_or(rest);
        let path = path.split_once(",server").map_or(path, |(path, _)| path);
        if path.trim().is_empty() {
            return Err(BadAddress::Empty);
        }
        if is_network(path) {
            return Err(BadAddress::Network(text.to_owned()));
        }
        // libvirt allows no name with a '/'.
        if prefixed || unix.is_some() || path.contains('/') {
            return Ok(Address::Qmp(PathBuf::from(path)));
        }
        Ok(Address::named(None, text))
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
    fn named(uri: Option<&str>, name: &str) -> Address {
        Address::Libvirt(Domain { uri: uri.map(str::to_owned), name: name.to_owned() })
    }

    /// The same at the libvirt that `--connect` names.
    pub(crate) fn at(self, connect: &str) -> Result<Address, BadAddress> {
        match self {
            Address::Qmp(_) => Err(BadAddress::Connected("a QMP socket needs no libvirt")),
            Address::Libvirt(Domain { uri: Some(_), .. }) => {
                Err(BadAddress::Connected("the machine names its libvirt already"))
            }
            Address::Libvirt(Domain { uri: None, name }) => Ok(Address::named(Some(connect), &name)),
        }
    }
}

/// What the journal of the machine behind a socket is found by: the same for every way to write one path, and also once
/// the socket is gone.
pub(crate) fn socket_key(socket: &Path) -> String {
    format!("qmp:{}", whole(socket).display())
}

/// What the journal of a machine of libvirt's is found by: the same for its name and its uuid, at whatever URI.
#[cfg(feature = "libvirt")]
pub(crate) fn uuid_key(uuid: &str) -> String {
    format!("libvirt:{uuid}")
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

/// As a word of a shell's command line that names the same machine again.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Address::Qmp(socket) => format!("qmp:{}", socket.display()),
            Address::Libvirt(Domain { uri: Some(uri), name }) => format!("{uri}#{name}"),
            Address::Libvirt(Domain { uri: None, name }) => name.clone(),
        };
        f.write_str(&quoted(&text))
    }
}

/// `text` as a shell reads it as one word.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:+=,@%#".contains(c);
    if text.chars().all(plain) && !text.starts_with('#') && !text.is_empty() {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Address {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_path_is_an_address_with_or_without_its_prefix() {
        for text in
            ["qmp:/run/q.sock", "/run/q.sock", "unix:/run/q.sock,server=on,wait=off", "qmp:unix:/run/q.sock"]
        {
            assert_eq!(read(text).to_string(), "qmp:/run/q.sock", "{text}");
        }
        assert_eq!(read("./q.sock"), Address::Qmp("./q.sock".into()));
        assert_eq!(read("qmp:q.sock"), Address::Qmp("q.sock".into()));
    }

    #[test]
    fn a_word_is_a_name_in_libvirt_and_a_uri_comes_before_it() {
        assert_eq!(read("web1"), Address::named(None, "web1"));
        assert_eq!(read("web #1"), Address::named(None, "web #1"));
        assert_eq!(read("qemu:///system#web1"), Address::named(Some("qemu:///system"), "web1"));
        let far = "qemu+ssh://root@h/system?keyfile=/k";
        assert_eq!(read(&format!("{far}#a#b")), Address::named(Some(far), "a#b"));
        assert_eq!(read("web1").at("qemu:///session"), Ok(read("qemu:///session#web1")));
        for whole in ["/run/q.sock", "qemu:///system#web1"] {
            let error = read(whole).at("qemu:///session").expect_err(whole);
            assert!(error.to_string().contains("leave --connect out"), "{error}");
        }
    }

    #[test]
    fn an_address_is_printed_as_a_shell_reads_it() {
        for (text, word) in [
            ("web1", "web1"),
            ("qemu:///system#web1", "qemu:///system#web1"),
            ("qemu+unix:///system?socket=/s#web1", "'qemu+unix:///system?socket=/s#web1'"),
            ("it's", r"'it'\''s'"),
            ("/run/my vm/q", "'qmp:/run/my vm/q'"),
        ] {
            assert_eq!(read(text).to_string(), word);
        }
    }

    #[test]
    fn what_names_no_machine_is_told_what_does() {
        for text in ["qmp:", "", " ", "localhost:4444", "qmp:tcp:h:4444"] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains("qmp:/path/to/qmp.sock"), "{text}: {error}");
        }
        for text in ["qemu:///system", "qemu:///system#"] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains("write qemu:///system#web1"), "{text}: {error}");
        }
        assert!(matches!("localhost:4444".parse::<Address>(), Err(BadAddress::Network(_))));
    }

    #[test]
    fn one_machine_has_one_key_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("q.sock");
        let by_link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &by_link).unwrap();
        let gone = socket_key(&socket);
        std::fs::write(&socket, "").unwrap();
        assert_eq!(gone, socket_key(&socket));
        assert_eq!(gone, socket_key(&by_link.join("q.sock")));
        assert_eq!(gone, socket_key(&dir.path().join("./q.sock")));
    }
}
