//! What every call into the library needs: its start, its last error, its strings and records. It calls nothing that
//! reaches a hypervisor.
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::thread;
use std::time::Duration;

use virt_sys as sys;

use super::error::{Code, Error};
use super::library::{lib, load};
use super::stats::{Param, Params};

/// Opens the library once for this process: quietly, and with a thread for its events.
///
/// The event loop must stand before the first connection is opened, or that connection has neither events nor
/// keep-alive (libvirt-event.h, `virEventRegisterDefaultImpl`).
pub(super) fn start() -> Result<(), Error> {
    load(|library| {
        // SAFETY: both take effect once, before any other call of ours; the handler touches nothing.
        let registered = unsafe {
            (library.virSetErrorFunc)(ptr::null_mut(), Some(silent));
            (library.virEventRegisterDefaultImpl)()
        };
        if registered == 0 {
            let run = library.virEventRunDefaultImpl;
            let spawned =
                thread::Builder::new().name("libvirt-events".to_owned()).spawn(move || run_events(run));
            spawned.expect("a thread can be started");
        }
    })
}

/// Without a handler of its own the library prints every error to standard error.
unsafe extern "C" fn silent(_: *mut c_void, _: sys::virErrorPtr) {}

fn run_events(run: unsafe extern "C" fn() -> c_int) {
    loop {
        // SAFETY: the default implementation is registered, and only this thread runs it.
        let ran = unsafe { run() };
        if ran < 0 {
            // It fails where poll(2) does. Then events are late, and a busy loop would help nobody.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What the library says of the call that just failed on this thread.
pub(super) fn last_error() -> Error {
    // SAFETY: the pointer is null or to this thread's last error, which stays until this thread's next call.
    unsafe {
        let error = (lib().virGetLastError)();
        match error.as_ref() {
            Some(error) => Error::new(error.code, error.domain, &lossy(error.message).unwrap_or_default()),
            None => Error::own(Code::Internal, "libvirt failed and does not say why"),
        }
    }
}

/// The result of a call that gives -1 where it failed.
pub(super) fn done(result: c_int) -> Result<c_int, Error> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

/// An argument for the library.
pub(super) fn text(argument: &str) -> Result<CString, Error> {
    CString::new(argument).map_err(|_| Error::own(Code::InvalidArgument, "a text with a NUL byte in it"))
}

/// Copies a string of the library's; `None` for a null pointer.
///
/// # Safety
/// `string` is null or points to a string that ends with NUL and lives during this call.
pub(super) unsafe fn lossy(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    Some(unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned())
}

/// Copies a string that the caller owns, and frees it; the last error for a null pointer.
///
/// # Safety
/// `string` is null or was allocated by the library for its caller, and is not used again.
pub(super) unsafe fn taken(string: *mut c_char) -> Result<String, Error> {
    // SAFETY: as the caller promises; libvirt's strings come from malloc (libvirt-common.h).
    unsafe {
        let copy = lossy(string).ok_or_else(last_error)?;
        libc::free(string.cast());
        Ok(copy)
    }
}

/// Copies typed parameters; those of a type that nobody here knows are left out.
///
/// # Safety
/// `params` points to `count` parameters that the library filled in, or `count` is not above zero.
pub(super) unsafe fn copied(params: sys::virTypedParameterPtr, count: c_int) -> Params {
    let count = usize::try_from(count).unwrap_or(0);
    if params.is_null() || count == 0 {
        return Params::default();
    }
    // SAFETY: as the caller promises; the union's member is the one that `type_` names.
    unsafe {
        std::slice::from_raw_parts(params, count)
            .iter()
            .filter_map(|param| {
                let name = lossy(param.field.as_ptr())?;
                let value = match u32::try_from(param.type_).ok()? {
                    sys::VIR_TYPED_PARAM_INT => Param::Signed(param.value.i.into()),
                    sys::VIR_TYPED_PARAM_UINT => Param::Unsigned(param.value.ui.into()),
                    sys::VIR_TYPED_PARAM_LLONG => Param::Signed(param.value.l),
                    sys::VIR_TYPED_PARAM_ULLONG => Param::Unsigned(param.value.ul),
                    sys::VIR_TYPED_PARAM_DOUBLE => Param::Float(param.value.d),
                    sys::VIR_TYPED_PARAM_BOOLEAN => Param::Bool(param.value.b != 0),
                    sys::VIR_TYPED_PARAM_STRING => Param::Text(lossy(param.value.s)?),
                    _ => return None,
                };
                Some((name, value))
            })
            .collect()
    }
}

/// Copies typed parameters that the caller owns, and frees them.
///
/// # Safety
/// As for [`copied`], and they are not used again.
pub(super) unsafe fn taken_params(params: sys::virTypedParameterPtr, count: c_int) -> Params {
    // SAFETY: as the caller promises.
    unsafe {
        let copy = copied(params, count);
        (lib().virTypedParamsFree)(params, count);
        copy
    }
}
