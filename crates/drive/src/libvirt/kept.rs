//! A machine that libvirt keeps, found by its URI and its name or uuid, whether it runs or not: what is known of it, its
//! descriptions, and the way on to driving it. It watches nothing and changes nothing by itself.

use std::time::Duration;

use scale::limits::Limits;

use super::agent::AgentLine;
use super::connection::{Connection, Which};
use super::domain::Domain;
use super::error::{Code, Error};
use super::pool::{CallError, Lane, Pool};
use super::terms::{State, Xml};
use crate::domxml::{self, HostLimits};
use crate::guest::Agent;
use crate::host;
use crate::qmp::driver::duration;

/// Calls of one machine that wait for libvirt at the same time at most: its monitor's, its agent's, and as many stuck.
const THREADS: usize = 4;

/// After so many unanswered signs of life, one each so many seconds, a connection counts as ended.
const ALIVE: (u16, u16) = (5, 3);

/// So many names like the one given are offered at most.
const OFFERED: usize = 3;

/// Connects to libvirt at `uri`, with signs of life where that kind of connection has them. Blocks as its calls do.
///
/// # Errors
/// As for [`Connection::open`].
pub(super) fn connect(uri: &str) -> Result<Connection, Error> {
    let connection = Connection::open(uri)?;
    // Not every kind of connection has it.
    let _ = connection.keep_alive(ALIVE.0, ALIVE.1);
    Ok(connection)
}

/// A machine that libvirt keeps. Cheap to clone; the connection is closed with the last clone.
#[derive(Debug, Clone)]
pub struct Kept {
    domain: Domain,
    pool: Pool,
    lane: Lane,
    uri: String,
    limit: Duration,
}

/// Why a machine was not found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// libvirt cannot be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// libvirt does not know it.
    #[error("libvirt knows no machine '{name}' at {uri}{}", hint(.near, *.known))]
    NoMachine {
        /// The connection's URI.
        uri: String,
        /// The name or uuid that was given.
        name: String,
        /// Names that are like it, the likest first.
        near: Vec<String>,
        /// How many machines there are.
        known: usize,
    },
}

/// Why libvirt cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Unreachable {
    /// The connection's URI.
    pub uri: String,
    /// What happened.
    pub source: CallError,
}

fn hint(near: &[String], known: usize) -> String {
    match (near, known) {
        ([], 0) => "; there is none at all, so they may be at another URI (qemu:///system for the host's, qemu:///session \
                    for your own)"
            .to_owned(),
        ([], 1) => "; `supple list` shows the one that is there".to_owned(),
        ([], many) => format!("; `supple list` shows the {many} that are there"),
        (near, _) => format!("; did you mean {}?", near.join(" or ")),
    }
}

impl Unreachable {
    /// True where another URI may serve a user whom this one does not let in.
    pub fn is_about_rights(&self) -> bool {
        matches!(&self.source, CallError::Libvirt(error) if matches!(error.code, Code::Auth | Code::Denied))
            || self.text().contains("Permission denied")
    }

    fn text(&self) -> String {
        let (uri, source) = (&self.uri, &self.source);
        let CallError::Libvirt(error) = source else { return format!("{uri}: {source}") };
        if error.code == Code::NoLibrary {
            return error.message.clone();
        }
        let scheme = uri.split_once("://").map_or("", |(scheme, _)| scheme);
        let remote = !is_local(uri) && !scheme.is_empty();
        let denied =
            matches!(error.code, Code::Auth | Code::Denied) || error.message.contains("Permission denied");
        let way_out = if remote {
            format!("`virsh -c {uri} list` must work here first")
        } else if denied {
            "run it as root, or as a member of the group libvirt, or take your own machines at qemu:///session".to_owned()
        } else if matches!(error.code, Code::System | Code::Rpc | Code::NoConnect)
            && uri.ends_with(":///system")
        {
            "libvirt's daemon does not run here: start it with `systemctl start libvirtd` (or virtqemud.socket, where that \
             is what is installed). A machine on plain QEMU is named by its QMP socket: qmp:/run/web1/qmp.sock"
                .to_owned()
        } else {
            format!("`virsh -c '{uri}' list` tells whether libvirt's daemon answers there")
        };
        format!("cannot reach libvirt at {uri}: {}; {way_out}", error.message)
    }
}

/// True for a URI whose hypervisor is on this host: no transport or `unix`, and no host named (libvirt's docs/uri).
pub(super) fn is_local(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once("://") else { return false };
    let transport = scheme.split_once('+').map(|(_, transport)| transport);
    matches!(transport, None | Some("unix")) && rest.starts_with('/')
}

impl Kept {
    /// Connects to libvirt at `uri` and takes the domain of this name or uuid.
    ///
    /// # Errors
    /// [`FindError`], with what to do about it.
    pub async fn find(uri: &str, name: &str, limits: &Limits) -> Result<Kept, FindError> {
        let pool = Pool::new(THREADS);
        let (lane, limit) = (pool.lane(), duration(limits.monitor));
        let (to, whom) = (uri.to_owned(), name.to_owned());
        let unreachable = |source| Unreachable { uri: uri.to_owned(), source };
        let found = lane.call("a connection to libvirt", limit, move || find(&to, &whom)).await;
        match found.map_err(unreachable)? {
            Ok(domain) => Ok(Kept { domain, pool, lane, uri: uri.to_owned(), limit }),
            Err(others) => Err(FindError::NoMachine {
                uri: uri.to_owned(),
                name: name.to_owned(),
                near: near(name, &others),
                known: others.len(),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.domain.name()
    }

    /// Its uuid, in lower case with dashes.
    pub fn uuid(&self) -> String {
        self.domain.uuid()
    }

    /// The URI that it was found at, as it was given.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// True where its QEMU is on this host.
    pub fn is_local(&self) -> bool {
        is_local(&self.uri)
    }

    /// What it is doing.
    ///
    /// # Errors
    /// It is gone, or libvirt does not answer in time.
    pub async fn state(&self) -> Result<State, CallError> {
        self.call("a question to libvirt", |domain| domain.state()).await
    }

    /// A description of it.
    ///
    /// # Errors
    /// It is gone, or libvirt does not answer in time.
    pub async fn described(&self, which: Xml) -> Result<String, CallError> {
        self.call("a description", move |domain| domain.xml(which)).await
    }

    /// Its guest's agent. Nothing is asked of it yet.
    pub fn agent(&self) -> Agent {
        Agent::through(self.agent_line())
    }

    /// Makes one blocking call, named `what` in errors, on its lane and within the monitor's limit.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, CallError> {
        self.call_on(&self.lane, what, call).await
    }

    /// The same on a lane of its own, beside what is done on the machine's: for what waits for no QEMU.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn call_beside<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, CallError> {
        self.call_on(&self.pool.lane(), what, call).await
    }

    async fn call_on<T: Send + 'static>(
        &self,
        lane: &Lane,
        what: &'static str,
        call: impl FnOnce(&Domain) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, CallError> {
        let domain = self.domain.clone();
        lane.call(what, self.limit, move || call(&domain)).await
    }

    /// What its host brings into a preparation of `description`, as far as that is told.
    ///
    /// # Errors
    /// libvirt does not answer in time.
    pub async fn host_limits(&self, description: &domxml::Domain) -> Result<HostLimits, CallError> {
        let machine = description.machine.clone();
        let kind = description.kind.clone();
        let is_local = self.is_local();
        let ask = move |domain: &Domain| {
            let connection = domain.connection();
            let host = connection.capabilities()?;
            let (emulator, arch) = (machine.emulator.as_deref(), machine.arch.as_deref());
            // Without an answer to this, the machine type's own limits are taken.
            let of_kind =
                connection.domain_capabilities(emulator, arch, machine.name.as_deref(), Some(&kind)).ok();
            Ok((host, of_kind, connection.versions()?))
        };
        let (host, of_kind, versions) = self.call("the host's capabilities", ask).await?;
        let mut limits = HostLimits::read(&host, of_kind.as_deref())
            .or_else(|_| HostLimits::read(&host, None))
            .unwrap_or_default();
        (limits.qemu, limits.libvirt) = (versions.hypervisor, Some(versions.daemon));
        if is_local {
            limits.address_bits = limits.address_bits.or_else(host::address_bits);
            limits.huge_page = host::transparent_huge_page().unwrap_or(limits.huge_page);
        }
        Ok(limits)
    }

    /// Starts a machine of this description at the same libvirt, never runs it, and ends it.
    ///
    /// # Errors
    /// libvirt or QEMU does not start it, in their words, or libvirt does not answer in time.
    pub async fn try_out(&self, description: &str) -> Result<(), CallError> {
        let description = description.to_owned();
        self.call("a trial", move |domain| domain.connection().create_paused(&description)?.destroy()).await
    }

    /// Replaces its definition, if that still is `before`; false where it is another one by now.
    ///
    /// # Errors
    /// libvirt does not accept the description or does not answer in time.
    pub async fn redefine(&self, before: &str, after: &str) -> Result<bool, CallError> {
        let (before, after) = (before.to_owned(), after.to_owned());
        self.call("a definition", move |domain| {
            if domain.xml(Xml::InactiveSecure)? != before {
                return Ok(false);
            }
            domain.connection().define(&after).map(|_| true)
        })
        .await
    }

    pub(super) fn agent_line(&self) -> AgentLine {
        AgentLine::new(self.domain.clone(), self.pool.lane())
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.lane
    }
}

/// The domain, or the names of those that there are. Blocks as its calls do.
fn find(uri: &str, name: &str) -> Result<Result<Domain, Vec<String>>, Error> {
    let connection = connect(uri)?;
    match connection.domain(name) {
        Ok(domain) => Ok(Ok(domain)),
        Err(error) if error.code == Code::NoDomain => {
            let all = connection.domains(Which::All)?;
            Ok(Err(all.iter().map(Domain::name).collect()))
        }
        Err(error) => Err(error),
    }
}

/// The names that a person who typed `name` may have meant: within a third of its letters, or with it in them.
fn near(name: &str, all: &[String]) -> Vec<String> {
    let typed = name.to_lowercase();
    let most = typed.chars().count().div_ceil(3);
    let mut found: Vec<(usize, &String)> = all
        .iter()
        .filter_map(|other| {
            let lower = other.to_lowercase();
            let apart = strsim::osa_distance(&typed, &lower);
            let holds =
                typed.len().min(lower.len()) >= 3 && (lower.contains(&typed) || typed.contains(&lower));
            (apart <= most || holds).then_some((apart, other))
        })
        .collect();
    found.sort();
    found.into_iter().take(OFFERED).map(|(_, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_with_a_host_or_another_transport_is_not_local() {
        for uri in ["qemu:///system", "qemu+unix:///session?socket=/run/x", "test:///default"] {
            assert!(is_local(uri), "{uri}");
        }
        for uri in ["qemu+ssh://host/system", "qemu://host/system", "qemu+tls:///system", "nonsense"] {
            assert!(!is_local(uri), "{uri}");
        }
    }

    #[test]
    fn names_that_may_have_been_meant_are_offered_the_likest_first() {
        let all = ["web1", "web2", "db-primary", "Mail", "w"].map(str::to_owned);
        assert_eq!(near("wbe1", &all), ["web1", "web2"]);
        assert_eq!(near("primary", &all), ["db-primary"]);
        assert_eq!(near("mail", &all), ["Mail"]);
        assert_eq!(near("oracle", &all), [""; 0]);
    }

    #[test]
    fn each_way_not_to_reach_libvirt_has_its_way_out() {
        let text = |uri: &str, code, message: &str| {
            let error = Error { code, domain: 0, message: message.to_owned() };
            Unreachable { uri: uri.to_owned(), source: CallError::Libvirt(error) }.to_string()
        };
        let off = text("qemu:///system", Code::System, "Failed to connect socket to '/run/x': No such file");
        assert!(off.contains("/run/x") && off.contains("systemctl start libvirtd"), "{off}");
        let denied =
            text("qemu:///system", Code::System, "Failed to connect socket to '/x': Permission denied");
        assert!(denied.contains("group libvirt") && !denied.contains("systemctl"), "{denied}");
        let polkit = text("qemu:///system", Code::Auth, "no polkit agent available");
        assert!(polkit.contains("group libvirt"), "{polkit}");
        let far = text("qemu+ssh://h/system", Code::Rpc, "cannot recv data");
        assert!(far.contains("virsh -c qemu+ssh://h/system list"), "{far}");
        let none = text("qemu:///system", Code::NoLibrary, "libvirt's library cannot be used here");
        assert_eq!(none, "libvirt's library cannot be used here");
    }
}
