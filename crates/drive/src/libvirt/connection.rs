//! A connection to libvirt: the daemon behind a URI, and its domains. Every call blocks, some for as long as the daemon
//! does: tasks go through [`super::Lane`]. It does not reconnect.
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{CString, c_int, c_ulong, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;
use virt_sys as sys;

use super::domain::Domain;
use super::error::{Code, Error};
use super::library::lib;
use super::raw::{done, last_error, start, taken, text};
use super::stats::{Params, StatsGroup};

/// A connection to libvirt. Cheap to clone; closed when the last clone, [`Domain`] and subscription are gone.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    pointer: NonNull<sys::virConnect>,
    closed: watch::Receiver<Option<Closed>>,
}

// SAFETY: libvirt's handles may be used from any thread and from several at once (libvirt's FAQ and `virobject`:
// reference counts are atomic, each call locks what it needs).
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The daemon went away.
    ByDaemon,
    /// The daemon did not answer keep-alive messages.
    KeepAlive,
    /// An input or output error.
    Failed,
    /// We closed it.
    ByUs,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByDaemon => "the libvirt daemon closed the connection (it was stopped or restarted)",
            Self::KeepAlive => "the libvirt daemon has stopped answering",
            Self::Failed => "the connection to the libvirt daemon broke",
            Self::ByUs => "closed by us",
        })
    }
}

/// Versions as libvirt counts them: major x 1,000,000 + minor x 1,000 + micro.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The library in this process.
    pub library: Version,
    /// The daemon.
    pub daemon: Version,
    /// The hypervisor that the daemon would start; absent where it found none.
    pub hypervisor: Option<Version>,
}

type Version = scale::observed::Version;

/// Which domains are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those that run, paused ones included.
    Active,
    /// Those that are only defined.
    Inactive,
}

impl Which {
    fn bits(self) -> u32 {
        match self {
            Self::All => 0,
            Self::Active => sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE,
            Self::Inactive => sys::VIR_CONNECT_LIST_DOMAINS_INACTIVE,
        }
    }
}

/// `VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT`, libvirt 4.5: leave out what cannot be told at once.
const STATS_NOWAIT: u32 = 1 << 29;

impl Connection {
    /// Connects. The URI is libvirt's: `qemu:///system`, `qemu+unix:///system?socket=/path`, `qemu+ssh://host/system`.
    ///
    /// # Errors
    /// Nothing answers there, or it does not let us in.
    pub fn open(uri: &str) -> Result<Self, Error> {
        let uri = text(uri)?;
        start()?;
        // SAFETY: the string lives during the call.
        Self::opened(unsafe { (lib().virConnectOpen)(uri.as_ptr()) })
    }

    /// Connects for reading alone: libvirt's read-only socket needs no privilege where it is set up so.
    ///
    /// # Errors
    /// As for [`Connection::open`].
    pub fn open_read_only(uri: &str) -> Result<Self, Error> {
        let uri = text(uri)?;
        start()?;
        // SAFETY: the string lives during the call.
        Self::opened(unsafe { (lib().virConnectOpenReadOnly)(uri.as_ptr()) })
    }

    fn opened(pointer: sys::virConnectPtr) -> Result<Self, Error> {
        let pointer = NonNull::new(pointer).ok_or_else(last_error)?;
        let (tell, closed) = watch::channel(None);
        let opaque = Box::into_raw(Box::new(tell)).cast::<c_void>();
        // SAFETY: the connection is open; what `opaque` points to is the library's until it calls `free_closed`, and
        // ours again where it refuses.
        unsafe {
            let registered = (lib().virConnectRegisterCloseCallback)(
                pointer.as_ptr(),
                Some(on_closed),
                opaque,
                Some(free_closed),
            );
            if registered < 0 {
                free_closed(opaque);
            }
        }
        Ok(Self { inner: Arc::new(Inner { pointer, closed }) })
    }

    pub(super) fn pointer(&self) -> sys::virConnectPtr {
        self.inner.pointer.as_ptr()
    }

    /// How the connection ended, once it has.
    pub fn closed(&self) -> watch::Receiver<Option<Closed>> {
        self.inner.closed.clone()
    }

    /// The URI that libvirt connected to, which is the full form of the one given.
    ///
    /// # Errors
    /// libvirt does not say.
    pub fn uri(&self) -> Result<String, Error> {
        // SAFETY: the connection is open; the string is the caller's.
        unsafe { taken((lib().virConnectGetURI)(self.pointer())) }
    }

    /// The versions of all parties.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn versions(&self) -> Result<Versions, Error> {
        let (mut library, mut daemon, mut hypervisor): (c_ulong, c_ulong, c_ulong) = (0, 0, 0);
        // SAFETY: the connection is open and the numbers live during the calls.
        let told = unsafe {
            done((lib().virGetVersion)(&mut library, ptr::null(), ptr::null_mut()))?;
            done((lib().virConnectGetLibVersion)(self.pointer(), &mut daemon))?;
            (lib().virConnectGetVersion)(self.pointer(), &mut hypervisor)
        };
        let hypervisor = (told == 0 && hypervisor > 0).then(|| version(hypervisor));
        Ok(Versions { library: version(library), daemon: version(daemon), hypervisor })
    }

    /// The arguments that QEMU would be started with for this description. Nothing is defined or started; libvirt reads
    /// and checks the description as for a start.
    ///
    /// # Errors
    /// libvirt does not accept it, or its QEMU has not what it needs.
    pub fn translated(&self, xml: &str) -> Result<String, Error> {
        let (format, xml) = (text("qemu-argv")?, text(xml)?);
        // SAFETY: the connection is open and the strings live during the call; the result is the caller's.
        unsafe {
            let pointer = self.pointer();
            taken((lib().virConnectDomainXMLToNative)(pointer, format.as_ptr(), xml.as_ptr(), 0))
        }
    }

    /// Whether the connection still stands, as far as is known without asking.
    pub fn is_alive(&self) -> bool {
        // SAFETY: the connection is open.
        unsafe { (lib().virConnectIsAlive)(self.pointer()) == 1 }
    }

    /// Asks the daemon for a sign of life every `interval` seconds and gives up after `count` without one. False where
    /// the daemon is too old for that.
    ///
    /// # Errors
    /// This kind of connection has no such thing (one without a daemon).
    pub fn keep_alive(&self, interval: u16, count: u16) -> Result<bool, Error> {
        // SAFETY: the connection is open.
        done(unsafe { (lib().virConnectSetKeepAlive)(self.pointer(), interval.into(), count.into()) })
            .map(|result| result == 0)
    }

    /// All domains of this kind, in no order.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn domains(&self, which: Which) -> Result<Vec<Domain>, Error> {
        let mut list = ptr::null_mut();
        // SAFETY: the connection is open; the list of handles is the caller's, and so is each handle.
        unsafe {
            let count = done((lib().virConnectListAllDomains)(self.pointer(), &mut list, which.bits()))?;
            let all = (0..usize::try_from(count).unwrap_or(0))
                .filter_map(|index| NonNull::new(*list.add(index)))
                .map(|pointer| Domain::new(pointer, self.clone()))
                .collect();
            libc::free(list.cast());
            Ok(all)
        }
    }

    /// The domain of this name or uuid; a name is tried first.
    ///
    /// # Errors
    /// [`Code::NoDomain`] with the name in its message, or the daemon does not answer.
    pub fn domain(&self, name_or_uuid: &str) -> Result<Domain, Error> {
        let wanted = text(name_or_uuid)?;
        // SAFETY: the connection is open and the string lives during the calls.
        let mut found = self.found(unsafe { (lib().virDomainLookupByName)(self.pointer(), wanted.as_ptr()) });
        if found.is_err() && looks_like_uuid(name_or_uuid) {
            // SAFETY: as above.
            found =
                self.found(unsafe { (lib().virDomainLookupByUUIDString)(self.pointer(), wanted.as_ptr()) });
        }
        found.map_err(|error| {
            if error.code != Code::NoDomain {
                return error;
            }
            Error::own(Code::NoDomain, &format!("libvirt knows no domain '{name_or_uuid}'"))
        })
    }

    /// Makes a persistent definition, or replaces the one of the same name and uuid. A running domain takes it up at
    /// its next start.
    ///
    /// # Errors
    /// libvirt does not accept the XML.
    pub fn define(&self, xml: &str) -> Result<Domain, Error> {
        /// `VIR_DOMAIN_DEFINE_VALIDATE`: against libvirt's own schema.
        const VALIDATE: u32 = 1;
        let xml: CString = text(xml)?;
        // SAFETY: the connection is open and the string lives during the call.
        self.found(unsafe { (lib().virDomainDefineXMLFlags)(self.pointer(), xml.as_ptr(), VALIDATE) })
    }

    /// Starts a machine of this description without running its vCPUs; it has no definition and ends with this
    /// connection at the latest.
    ///
    /// # Errors
    /// libvirt does not accept the XML, or QEMU does not start with it: its last words are in the message.
    pub fn create_paused(&self, xml: &str) -> Result<Domain, Error> {
        const FLAGS: u32 = sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY;
        let xml: CString = text(xml)?;
        // SAFETY: the connection is open and the string lives during the call.
        self.found(unsafe { (lib().virDomainCreateXML)(self.pointer(), xml.as_ptr(), FLAGS) })
    }

    /// What the host is and can do: the XML of `virsh capabilities`.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn capabilities(&self) -> Result<String, Error> {
        // SAFETY: the connection is open; the string is the caller's.
        unsafe { taken((lib().virConnectGetCapabilities)(self.pointer())) }
    }

    /// What machines of this kind (`kvm`, `qemu`) can have here: the XML of `virsh domcapabilities`. What is not given is
    /// chosen by libvirt.
    ///
    /// # Errors
    /// There are no such machines here, or the daemon does not answer.
    pub fn domain_capabilities(
        &self,
        emulator: Option<&str>,
        arch: Option<&str>,
        machine: Option<&str>,
        kind: Option<&str>,
    ) -> Result<String, Error> {
        let [emulator, arch, machine, kind] =
            [emulator, arch, machine, kind].map(|word| word.map(text).transpose());
        let (emulator, arch, machine, kind) = (emulator?, arch?, machine?, kind?);
        let pointer = |word: &Option<CString>| word.as_ref().map_or(ptr::null(), |word| word.as_ptr());
        // SAFETY: the connection is open, the strings live during the call, and the result is the caller's.
        unsafe {
            taken((lib().virConnectGetDomainCapabilities)(
                self.pointer(),
                pointer(&emulator),
                pointer(&arch),
                pointer(&machine),
                pointer(&kind),
                0,
            ))
        }
    }

    fn found(&self, pointer: sys::virDomainPtr) -> Result<Domain, Error> {
        NonNull::new(pointer).map(|pointer| Domain::new(pointer, self.clone())).ok_or_else(last_error)
    }

    /// Figures of all domains of this kind. A domain that is busy with something else tells only what it can at once.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn stats(&self, which: Which, groups: &[StatsGroup]) -> Result<Vec<(Domain, Params)>, Error> {
        let groups = groups.iter().fold(0, |bits, group| bits | group.bit());
        let mut list = ptr::null_mut();
        // SAFETY: the connection is open. Records are the library's until the list is freed: what is kept of them is
        // copied, and each domain gets a reference of its own.
        unsafe {
            let flags = which.bits() | STATS_NOWAIT;
            let count = done((lib().virConnectGetAllDomainStats)(self.pointer(), groups, &mut list, flags))?;
            let mut all = Vec::new();
            for index in 0..usize::try_from(count).unwrap_or(0) {
                let record = &**list.add(index);
                let params = super::raw::copied(record.params, record.nparams);
                if let Some(pointer) =
                    NonNull::new(record.dom).filter(|p| (lib().virDomainRef)(p.as_ptr()) == 0)
                {
                    all.push((Domain::new(pointer, self.clone()), params));
                }
            }
            (lib().virDomainStatsRecordListFree)(list);
            Ok(all)
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("pointer", &self.inner.pointer).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        struct Last(NonNull<sys::virConnect>);
        // SAFETY: as for `Inner`.
        unsafe impl Send for Last {}
        let last = Last(self.pointer);
        // Closing talks to the daemon and would wait for one that hangs: whoever drops a handle must not. Without a
        // thread for it the connection stays open until the process ends.
        let close = move || {
            let Last(pointer) = { last };
            // SAFETY: this was the last handle, so nobody else uses the pointer.
            unsafe {
                (lib().virConnectUnregisterCloseCallback)(pointer.as_ptr(), Some(on_closed));
                (lib().virConnectClose)(pointer.as_ptr());
            }
        };
        drop(thread::Builder::new().name("libvirt-close".to_owned()).spawn(close));
    }
}

unsafe extern "C" fn on_closed(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let reason = match u32::try_from(reason) {
        Ok(sys::VIR_CONNECT_CLOSE_REASON_EOF) => Closed::ByDaemon,
        Ok(sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE) => Closed::KeepAlive,
        Ok(sys::VIR_CONNECT_CLOSE_REASON_CLIENT) => Closed::ByUs,
        _ => Closed::Failed,
    };
    // SAFETY: `opaque` is the box that was registered, and is freed only after the last call of this.
    let tell = unsafe { &*opaque.cast::<watch::Sender<Option<Closed>>>() };
    tell.send_replace(Some(reason));
}

unsafe extern "C" fn free_closed(opaque: *mut c_void) {
    // SAFETY: `opaque` is the box that was registered; the library calls this once.
    drop(unsafe { Box::from_raw(opaque.cast::<watch::Sender<Option<Closed>>>()) });
}

fn version(number: c_ulong) -> Version {
    let part = |divisor: c_ulong| u32::try_from(number / divisor % 1000).unwrap_or(0);
    scale::observed::Version(part(1_000_000), part(1000), part(1))
}

/// 32 hexadecimal digits, with or without dashes: what libvirt reads as a uuid.
fn looks_like_uuid(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_hexdigit).count();
    digits == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}
