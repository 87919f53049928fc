//! Where the library calls us. Each function here copies what it is told into a [`Sink`] and returns: it runs on the
//! library's event thread, which serves all connections of the process.
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_ulonglong, c_void};
use std::{mem, ptr, thread};

use scale::units::Bytes;
use serde_json::Value;
use virt_sys as sys;

use super::connection::Connection;
use super::domain::Domain;
use super::error::Error;
use super::events::{Event, EventKind, Lifecycle, Sink};
use super::library::lib;
use super::raw::{done, lossy};

/// A registered callback; deregistered when dropped.
#[derive(Debug)]
pub(super) struct Callback {
    id: c_int,
    kind: EventKind,
    connection: Connection,
}

/// Has the library tell `sink` of one kind of event of `domain`.
pub(super) fn register(
    connection: &Connection,
    domain: &Domain,
    kind: EventKind,
    sink: Sink,
) -> Result<Callback, Error> {
    let opaque = Box::into_raw(Box::new(sink)).cast::<c_void>();
    // SAFETY: both handles are valid. What `opaque` points to is the library's until it calls `release`, which it does
    // once and after the last call of the callback; where it refuses, it is ours again.
    let id = unsafe {
        let id = match own(kind) {
            Some((number, callback)) => (lib().virConnectDomainEventRegisterAny)(
                connection.pointer(),
                domain.pointer(),
                number,
                Some(callback),
                opaque,
                Some(release),
            ),
            None => (lib().virConnectDomainQemuMonitorEventRegister)(
                connection.pointer(),
                domain.pointer(),
                ptr::null(),
                Some(on_qemu),
                opaque,
                Some(release),
                0,
            ),
        };
        done(id).inspect_err(|_| release(opaque))?
    };
    Ok(Callback { id, kind, connection: connection.clone() })
}

impl Drop for Callback {
    fn drop(&mut self) {
        let (id, kind, connection) = (self.id, self.kind, self.connection.clone());
        // It talks to the daemon and would wait for one that hangs: whoever drops this must not. The sink belongs to
        // the library until then, so events on their way meet no freed memory.
        let deregister = move || {
            // SAFETY: the connection is open and the id is one that it gave.
            unsafe {
                match kind {
                    EventKind::Qemu => {
                        (lib().virConnectDomainQemuMonitorEventDeregister)(connection.pointer(), id)
                    }
                    EventKind::Lifecycle
                    | EventKind::DeviceAdded
                    | EventKind::DeviceRemoved
                    | EventKind::DeviceRemovalFailed
                    | EventKind::MemoryDeviceSize
                    | EventKind::Balloon
                    | EventKind::Agent
                    | EventKind::Tunable => {
                        (lib().virConnectDomainEventDeregisterAny)(connection.pointer(), id)
                    }
                }
            }
        };
        drop(thread::Builder::new().name("libvirt-unwatch".to_owned()).spawn(deregister));
    }
}

type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);

/// libvirt's number and our function for one of its own events; nothing for QEMU's.
fn own(kind: EventKind) -> Option<(c_int, Generic)> {
    // SAFETY of each transmute: libvirt takes every callback as the generic type and calls it with the arguments that
    // its number stands for (`VIR_DOMAIN_EVENT_CALLBACK`, libvirt-domain.h); the table below pairs them.
    let (number, callback) = unsafe {
        match kind {
            EventKind::Lifecycle => {
                (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, mem::transmute::<LifecycleFn, Generic>(on_lifecycle))
            }
            EventKind::DeviceAdded => {
                (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, mem::transmute::<AliasFn, Generic>(on_added))
            }
            EventKind::DeviceRemoved => {
                (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, mem::transmute::<AliasFn, Generic>(on_removed))
            }
            EventKind::DeviceRemovalFailed => (
                sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
                mem::transmute::<AliasFn, Generic>(on_refused),
            ),
            EventKind::MemoryDeviceSize => (
                sys::VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE,
                mem::transmute::<SizeFn, Generic>(on_size),
            ),
            EventKind::Balloon => {
                (sys::VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, mem::transmute::<BalloonFn, Generic>(on_balloon))
            }
            EventKind::Agent => {
                (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, mem::transmute::<AgentFn, Generic>(on_agent))
            }
            EventKind::Tunable => {
                (sys::VIR_DOMAIN_EVENT_ID_TUNABLE, mem::transmute::<TunableFn, Generic>(on_tunable))
            }
            EventKind::Qemu => return None,
        }
    };
    Some((c_int::try_from(number).unwrap_or(-1), callback))
}

type LifecycleFn =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type AliasFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);
type SizeFn =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, c_ulonglong, *mut c_void);
type BalloonFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_ulonglong, *mut c_void);
type AgentFn = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
type TunableFn = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    sys::virTypedParameterPtr,
    c_int,
    *mut c_void,
);

/// libvirt's memory events count in KiB.
fn kib(count: c_ulonglong) -> Bytes {
    Bytes::new(1024).times(count)
}

// SAFETY of what follows: `opaque` is the box that `register` made and lives until `release`; strings live during the
// call.

unsafe fn sink<'a>(opaque: *mut c_void) -> &'a Sink {
    // SAFETY: see above.
    unsafe { &*opaque.cast::<Sink>() }
}

unsafe extern "C" fn release(opaque: *mut c_void) {
    // SAFETY: see above.
    drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let event = match u32::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => Lifecycle::Defined,
        Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => Lifecycle::Undefined,
        Ok(sys::VIR_DOMAIN_EVENT_STARTED) => Lifecycle::Started,
        Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED) => Lifecycle::Paused,
        Ok(sys::VIR_DOMAIN_EVENT_RESUMED) => Lifecycle::Resumed,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => Lifecycle::Stopped,
        Ok(sys::VIR_DOMAIN_EVENT_SHUTDOWN) => Lifecycle::ShuttingDown,
        Ok(sys::VIR_DOMAIN_EVENT_PMSUSPENDED) => Lifecycle::Suspended,
        Ok(sys::VIR_DOMAIN_EVENT_CRASHED) => Lifecycle::Crashed,
        _ => Lifecycle::Other,
    };
    // SAFETY: see above.
    unsafe { sink(opaque) }.put(Event::Lifecycle(event, detail));
    0
}

/// Copies an alias; a device without one is nobody's and tells nothing.
unsafe fn put_alias(alias: *const c_char, opaque: *mut c_void, event: impl FnOnce(String) -> Event) {
    // SAFETY: see above.
    unsafe {
        if let Some(alias) = lossy(alias) {
            sink(opaque).put(event(alias));
        }
    }
}

unsafe extern "C" fn on_added(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe { put_alias(alias, opaque, Event::DeviceAdded) }
}

unsafe extern "C" fn on_removed(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe { put_alias(alias, opaque, Event::DeviceRemoved) }
}

unsafe extern "C" fn on_refused(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe { put_alias(alias, opaque, Event::DeviceRemovalFailed) }
}

unsafe extern "C" fn on_size(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    alias: *const c_char,
    size: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe { put_alias(alias, opaque, |alias| Event::MemoryDeviceSize(alias, kib(size))) }
}

unsafe extern "C" fn on_balloon(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    actual: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe { sink(opaque) }.put(Event::Balloon(kib(actual)));
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    let connected = u32::try_from(state) == Ok(sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED);
    // SAFETY: see above.
    unsafe { sink(opaque) }.put(Event::Agent(connected));
}

unsafe extern "C" fn on_tunable(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    _params: sys::virTypedParameterPtr,
    _count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe { sink(opaque) }.put(Event::Tunable);
}

unsafe extern "C" fn on_qemu(
    _: sys::virConnectPtr,
    _: sys::virDomainPtr,
    name: *const c_char,
    seconds: c_longlong,
    micros: c_uint,
    details: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: see above.
    unsafe {
        let Some(name) = lossy(name) else { return };
        let data = lossy(details).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
        let time =
            u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000).saturating_add(micros.into());
        sink(opaque).put(Event::Qemu(name, data, time));
    }
}
