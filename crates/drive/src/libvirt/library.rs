//! libvirt's libraries, opened when the first machine of libvirt's is asked for, and not before: a program that drives
//! plain QEMU starts without them, runs where there are none, and needs none to be built. (Linked, they and the fifty
//! libraries that they bring cost each start of the program 15 ms.)
//!
//! The functions' types are written here and compared with those of the `virt-sys` bindings when this is compiled.
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_ulonglong, c_void};
use std::sync::OnceLock;

use virt_sys as sys;

use super::error::{Code, Error};

/// Opens a library by its name, looks its functions up, and holds it for as long as the process lives.
fn open(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the name ends with NUL. Opening runs the library's own initialisation, which libvirt's documents as safe
    // at any time before its first call (virInitialize is called by each virConnectOpen).
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() { Err(last_error()) } else { Ok(library) }
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: the library is open and the name ends with NUL.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    if found.is_null() { Err(last_error()) } else { Ok(found) }
}

fn last_error() -> String {
    // SAFETY: the result is null or a string that lives until the next call of this kind on this thread.
    let said = unsafe { super::raw::lossy(libc::dlerror()) };
    said.unwrap_or_else(|| "the loader does not say why".to_owned())
}

macro_rules! library {
    ($($file:literal: { $(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)* })*) => {
        /// The functions that are used of libvirt, by their names there.
        #[allow(non_snake_case, reason = "the names are libvirt's")]
        pub(super) struct Library {
            $($(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*)*
        }

        impl Library {
            #[allow(non_snake_case, reason = "as above")]
            fn load() -> Result<Library, String> {
                $($(
                    // Refused here where the bindings say otherwise; it makes no use of the function itself.
                    const _: unsafe extern "C" fn($($argument),*) $(-> $result)? = sys::$name;
                )*)*
                $(
                    let library = open($file)?;
                    $(
                        let name = CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes());
                        let $name = symbol(library, name.expect("it ends with its only NUL"))?;
                        // SAFETY: the function of this name has this type, as the bindings confirm above.
                        let $name = unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>($name)
                        };
                    )*
                )*
                Ok(Library { $($($name,)*)* })
            }
        }
    };
}

type Conn = sys::virConnectPtr;
type Dom = sys::virDomainPtr;
type Params = sys::virTypedParameterPtr;
type Text = *const c_char;
type Free = sys::virFreeCallback;

library! {
    c"libvirt.so.0": {
        fn virConnectClose(Conn) -> c_int;
        fn virConnectDomainEventDeregisterAny(Conn, c_int) -> c_int;
        fn virConnectDomainEventRegisterAny(
            Conn, Dom, c_int, sys::virConnectDomainEventGenericCallback, *mut c_void, Free
        ) -> c_int;
        fn virConnectDomainXMLToNative(Conn, Text, Text, c_uint) -> *mut c_char;
        fn virConnectGetAllDomainStats(Conn, c_uint, *mut *mut sys::virDomainStatsRecordPtr, c_uint) -> c_int;
        fn virConnectGetCapabilities(Conn) -> *mut c_char;
        fn virConnectGetDomainCapabilities(Conn, Text, Text, Text, Text, c_uint) -> *mut c_char;
        fn virConnectGetLibVersion(Conn, *mut c_ulong) -> c_int;
        fn virConnectGetURI(Conn) -> *mut c_char;
        fn virConnectGetVersion(Conn, *mut c_ulong) -> c_int;
        fn virConnectIsAlive(Conn) -> c_int;
        fn virConnectListAllDomains(Conn, *mut *mut Dom, c_uint) -> c_int;
        fn virConnectOpen(Text) -> Conn;
        fn virConnectOpenReadOnly(Text) -> Conn;
        fn virConnectRegisterCloseCallback(Conn, sys::virConnectCloseFunc, *mut c_void, Free) -> c_int;
        fn virConnectSetKeepAlive(Conn, c_int, c_uint) -> c_int;
        fn virConnectUnregisterCloseCallback(Conn, sys::virConnectCloseFunc) -> c_int;
        fn virDomainAgentSetResponseTimeout(Dom, c_int, c_uint) -> c_int;
        fn virDomainAttachDeviceFlags(Dom, Text, c_uint) -> c_int;
        fn virDomainCreateXML(Conn, Text, c_uint) -> Dom;
        fn virDomainBlockResize(Dom, Text, c_ulonglong, c_uint) -> c_int;
        fn virDomainDefineXMLFlags(Conn, Text, c_uint) -> Dom;
        fn virDomainDestroy(Dom) -> c_int;
        fn virDomainDetachDeviceAlias(Dom, Text, c_uint) -> c_int;
        fn virDomainDetachDeviceFlags(Dom, Text, c_uint) -> c_int;
        fn virDomainFree(Dom) -> c_int;
        fn virDomainGetControlInfo(Dom, sys::virDomainControlInfoPtr, c_uint) -> c_int;
        fn virDomainGetGuestVcpus(Dom, *mut Params, *mut c_uint, c_uint) -> c_int;
        fn virDomainGetInfo(Dom, sys::virDomainInfoPtr) -> c_int;
        fn virDomainGetInterfaceParameters(Dom, Text, Params, *mut c_int, c_uint) -> c_int;
        fn virDomainGetJobStats(Dom, *mut c_int, *mut Params, *mut c_int, c_uint) -> c_int;
        fn virDomainGetMemoryParameters(Dom, Params, *mut c_int, c_uint) -> c_int;
        fn virDomainGetName(Dom) -> Text;
        fn virDomainGetSchedulerParametersFlags(Dom, Params, *mut c_int, c_uint) -> c_int;
        fn virDomainGetState(Dom, *mut c_int, *mut c_int, c_uint) -> c_int;
        fn virDomainGetUUIDString(Dom, *mut c_char) -> c_int;
        fn virDomainGetVcpusFlags(Dom, c_uint) -> c_int;
        fn virDomainGetXMLDesc(Dom, c_uint) -> *mut c_char;
        fn virDomainIsPersistent(Dom) -> c_int;
        fn virDomainLookupByName(Conn, Text) -> Dom;
        fn virDomainLookupByUUIDString(Conn, Text) -> Dom;
        fn virDomainMemoryStats(Dom, sys::virDomainMemoryStatPtr, c_uint, c_uint) -> c_int;
        fn virDomainRef(Dom) -> c_int;
        fn virDomainSetBlockIoTune(Dom, Text, Params, c_int, c_uint) -> c_int;
        fn virDomainSetInterfaceParameters(Dom, Text, Params, c_int, c_uint) -> c_int;
        fn virDomainSetMemoryFlags(Dom, c_ulong, c_uint) -> c_int;
        fn virDomainSetMemoryParameters(Dom, Params, c_int, c_uint) -> c_int;
        fn virDomainSetMemoryStatsPeriod(Dom, c_int, c_uint) -> c_int;
        fn virDomainSetSchedulerParametersFlags(Dom, Params, c_int, c_uint) -> c_int;
        fn virDomainSetVcpu(Dom, Text, c_int, c_uint) -> c_int;
        fn virDomainSetVcpusFlags(Dom, c_uint, c_uint) -> c_int;
        fn virDomainStatsRecordListFree(*mut sys::virDomainStatsRecordPtr);
        fn virDomainUpdateDeviceFlags(Dom, Text, c_uint) -> c_int;
        fn virEventRegisterDefaultImpl() -> c_int;
        fn virEventRunDefaultImpl() -> c_int;
        fn virGetLastError() -> sys::virErrorPtr;
        fn virGetVersion(*mut c_ulong, Text, *mut c_ulong) -> c_int;
        fn virSetErrorFunc(*mut c_void, sys::virErrorFunc);
        fn virTypedParamsFree(Params, c_int);
    }
    c"libvirt-qemu.so.0": {
        fn virConnectDomainQemuMonitorEventDeregister(Conn, c_int) -> c_int;
        fn virConnectDomainQemuMonitorEventRegister(
            Conn, Dom, Text, sys::virConnectDomainQemuMonitorEventCallback, *mut c_void, Free, c_uint
        ) -> c_int;
        fn virDomainQemuAgentCommand(Dom, Text, c_int, c_uint) -> *mut c_char;
        fn virDomainQemuMonitorCommand(Dom, Text, *mut *mut c_char, c_uint) -> c_int;
    }
}

static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();

/// Opens the libraries, once for this process; `first` is called once they are open, before anything else of them is.
///
/// # Errors
/// [`Code::NoLibrary`], with what to install.
pub(super) fn load(first: impl FnOnce(&Library)) -> Result<(), Error> {
    let loaded = LIBRARY.get_or_init(|| Library::load().inspect(first));
    loaded.as_ref().map(drop).map_err(|why| {
        let message = format!(
            "libvirt's library cannot be used here ({why}); install it (Debian: libvirt0, Red Hat: libvirt-libs, SUSE: \
             libvirt-libs), 6.0 or later, or name a machine on plain QEMU by its QMP socket: qmp:/run/web1/qmp.sock"
        );
        Error::own(Code::NoLibrary, &message)
    })
}

/// Why they cannot be used, where that was tried and failed.
pub(crate) fn missing() -> Option<&'static str> {
    LIBRARY.get()?.as_ref().err().map(String::as_str)
}

/// The libraries. Nothing but [`load`] comes before a connection, and nothing else without one.
pub(super) fn lib() -> &'static Library {
    match LIBRARY.get() {
        Some(Ok(library)) => library,
        Some(Err(_)) | None => panic!("a call to libvirt without a connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_or_found_is_named() {
        let why = open(c"libsupple-none.so.0").unwrap_err();
        assert!(why.contains("libsupple-none.so.0"), "{why}");
        let library = open(c"libvirt.so.0").unwrap();
        let why = symbol(library, c"virSuppleNone").unwrap_err();
        assert!(why.contains("virSuppleNone"), "{why}");
    }
}
