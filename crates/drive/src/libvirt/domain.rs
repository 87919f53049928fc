//! One domain of libvirt: what it is, and the calls that change it. Every call blocks, some for as long as the guest
//! does: tasks go through [`super::Lane`]. Sizes are exact or refused, never rounded.
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{c_char, c_int, c_uint, c_ulong};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use scale::units::Bytes;
use virt_sys as sys;

use super::connection::Connection;
use super::error::{Code, Error};
use super::library::lib;
use super::raw::{done, lossy, taken, taken_params, text};
use super::stats::{MemoryStats, Params};
use super::terms::{Affect, INCOMING, Info, Job, OPERATIONS, State, VcpuCount, Xml};

/// A domain. Cheap to clone. It stays a valid handle when the domain is gone; calls then fail with
/// [`Code::NoDomain`].
#[derive(Clone)]
pub struct Domain {
    inner: Arc<Inner>,
}

struct Inner {
    pointer: NonNull<sys::virDomain>,
    connection: Connection,
}

// SAFETY: as for a connection: libvirt's handles may be used from any thread and from several at once.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: this was the last handle. It only gives memory back and does not talk to the daemon.
        unsafe { (lib().virDomainFree)(self.pointer.as_ptr()) };
    }
}

impl Domain {
    /// Takes over a reference.
    pub(super) fn new(pointer: NonNull<sys::virDomain>, connection: Connection) -> Self {
        Self { inner: Arc::new(Inner { pointer, connection }) }
    }

    // SAFETY of every call below: the handle is valid while `self` lives, strings and numbers live during the call,
    // and what the library allocates for its caller is copied and freed once.
    pub(super) fn pointer(&self) -> sys::virDomainPtr {
        self.inner.pointer.as_ptr()
    }

    /// The connection that this came from.
    pub fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    /// Its name when the handle was made.
    pub fn name(&self) -> String {
        // SAFETY: see `pointer`; the string belongs to the handle.
        unsafe { lossy((lib().virDomainGetName)(self.pointer())) }.unwrap_or_default()
    }

    /// Its uuid, in lower case with dashes.
    pub fn uuid(&self) -> String {
        let mut buffer: [c_char; sys::VIR_UUID_STRING_BUFLEN as usize] =
            [0; sys::VIR_UUID_STRING_BUFLEN as usize];
        // SAFETY: see `pointer`; the buffer has the size that the call asks for and ends with NUL in any case.
        unsafe {
            (lib().virDomainGetUUIDString)(self.pointer(), buffer.as_mut_ptr());
            lossy(buffer.as_ptr()).unwrap_or_default()
        }
    }

    /// What it is doing.
    ///
    /// # Errors
    /// It is gone, or the daemon is.
    pub fn state(&self) -> Result<State, Error> {
        let (mut state, mut reason): (c_int, c_int) = (0, 0);
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainGetState)(self.pointer(), &mut state, &mut reason, 0) })?;
        Ok(State::from(state))
    }

    /// Whether it has a persistent definition; one without vanishes at its end.
    ///
    /// # Errors
    /// It is gone, or the daemon is.
    pub fn is_persistent(&self) -> Result<bool, Error> {
        // SAFETY: see `pointer`.
        Ok(done(unsafe { (lib().virDomainIsPersistent)(self.pointer()) })? == 1)
    }

    /// Its sizes at a glance.
    ///
    /// # Errors
    /// It is gone, or the daemon is.
    pub fn info(&self) -> Result<Info, Error> {
        let mut info = sys::virDomainInfo { state: 0, maxMem: 0, memory: 0, nrVirtCpu: 0, cpuTime: 0 };
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainGetInfo)(self.pointer(), &mut info) })?;
        let kib = |count: c_ulong| Bytes::new(1024).times(count);
        Ok(Info {
            state: State::from(info.state.into()),
            max_memory: kib(info.maxMem),
            memory: kib(info.memory),
            vcpus: info.nrVirtCpu.into(),
        })
    }

    /// Its description.
    ///
    /// # Errors
    /// It is gone, or the daemon is; `InactiveSecure` on a read-only connection is denied.
    pub fn xml(&self, which: Xml) -> Result<String, Error> {
        let flags = match which {
            Xml::Live => 0,
            Xml::Inactive => sys::VIR_DOMAIN_XML_INACTIVE,
            Xml::InactiveSecure => sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE,
        };
        // SAFETY: see `pointer`.
        unsafe { taken((lib().virDomainGetXMLDesc)(self.pointer(), flags)) }
    }

    /// Ends it at once, as by pulling its plug.
    ///
    /// # Errors
    /// It is gone, or the daemon is.
    pub fn destroy(&self) -> Result<(), Error> {
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainDestroy)(self.pointer()) })?;
        Ok(())
    }

    /// Adds a device. Accepted means that QEMU has it, not that the guest uses it.
    ///
    /// # Errors
    /// libvirt or QEMU refused; nothing has changed.
    pub fn attach(&self, device: &str, affect: Affect) -> Result<(), Error> {
        let device = text(device)?;
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainAttachDeviceFlags)(self.pointer(), device.as_ptr(), affect.bits()) })?;
        Ok(())
    }

    /// Changes what may change in a device: of a virtio-mem device, its requested size.
    ///
    /// # Errors
    /// libvirt or QEMU refused.
    pub fn update(&self, device: &str, affect: Affect) -> Result<(), Error> {
        let device = text(device)?;
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainUpdateDeviceFlags)(self.pointer(), device.as_ptr(), affect.bits()) })?;
        Ok(())
    }

    /// Removes the device that the XML matches: the first one, so give its address and alias. On a running domain,
    /// success within 5 s means that it is gone *or* that the guest has not answered yet.
    ///
    /// # Errors
    /// libvirt or QEMU refused, or the guest did within that time.
    pub fn detach(&self, device: &str, affect: Affect) -> Result<(), Error> {
        let device = text(device)?;
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainDetachDeviceFlags)(self.pointer(), device.as_ptr(), affect.bits()) })?;
        Ok(())
    }

    /// Asks for the removal of the device with this alias (libvirt 4.4) and does not wait for the guest.
    ///
    /// # Errors
    /// There is no such device, or libvirt or QEMU refused.
    pub fn detach_alias(&self, alias: &str, affect: Affect) -> Result<(), Error> {
        let alias = text(alias)?;
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainDetachDeviceAlias)(self.pointer(), alias.as_ptr(), affect.bits()) })?;
        Ok(())
    }

    /// How many vCPUs.
    ///
    /// # Errors
    /// It is gone or does not run, or the daemon is gone.
    pub fn vcpus(&self, which: VcpuCount, affect: Affect) -> Result<u32, Error> {
        let flags = which.bits() & !sys::VIR_DOMAIN_VCPU_HOTPLUGGABLE | affect.bits();
        // SAFETY: see `pointer`.
        let count = done(unsafe { (lib().virDomainGetVcpusFlags)(self.pointer(), flags) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// Sets how many vCPUs: lowest free places are taken first, highest removable ones given up first.
    ///
    /// # Errors
    /// libvirt or QEMU refused, or the guest did not give one up in time: then some may have changed.
    pub fn set_vcpus(&self, count: u32, which: VcpuCount, affect: Affect) -> Result<(), Error> {
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainSetVcpusFlags)(self.pointer(), count, which.bits() | affect.bits()) })?;
        Ok(())
    }

    /// Adds or removes the vCPUs with these numbers, written as `2,5-7` (libvirt 3.1).
    ///
    /// # Errors
    /// libvirt or QEMU refused, or the guest did not give one up in time.
    pub fn set_vcpu(&self, numbers: &str, enabled: bool, affect: Affect) -> Result<(), Error> {
        let numbers = text(numbers)?;
        // SAFETY: see `pointer`.
        done(unsafe {
            (lib().virDomainSetVcpu)(self.pointer(), numbers.as_ptr(), c_int::from(enabled), affect.bits())
        })?;
        Ok(())
    }

    /// The guest's vCPUs by its agent: `vcpus`, `online` and `offlinable`, each a list such as `0-3`.
    ///
    /// # Errors
    /// There is no agent or it does not answer.
    pub fn guest_vcpus(&self) -> Result<Params, Error> {
        let (mut params, mut count): (sys::virTypedParameterPtr, c_uint) = (ptr::null_mut(), 0);
        // SAFETY: see `pointer`.
        unsafe {
            done((lib().virDomainGetGuestVcpus)(self.pointer(), &mut params, &mut count, 0))?;
            Ok(taken_params(params, c_int::try_from(count).unwrap_or(0)))
        }
    }

    /// Sets the memory that the balloon leaves the guest (live) or that the next start gives it (config). A whole
    /// number of KiB, which is libvirt's unit here.
    ///
    /// # Errors
    /// A fraction of a KiB; or libvirt refused: there is no balloon, or it is more than the domain has.
    pub fn set_memory(&self, size: Bytes, affect: Affect) -> Result<(), Error> {
        let kib = Bytes::new(1024);
        if !size.is_multiple_of(kib) {
            return Err(Error::own(Code::InvalidArgument, &format!("{size} is not a whole number of KiB")));
        }
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainSetMemoryFlags)(self.pointer(), size.count_of(kib), affect.bits()) })?;
        Ok(())
    }

    /// The guest's memory by its balloon driver's account, as last told.
    ///
    /// # Errors
    /// It does not run.
    pub fn memory_stats(&self) -> Result<MemoryStats, Error> {
        const MOST: usize = sys::VIR_DOMAIN_MEMORY_STAT_NR as usize;
        let mut raw = [sys::virDomainMemoryStatStruct { tag: 0, val: 0 }; MOST];
        // SAFETY: see `pointer`; the call fills in at most as many as it is told there is room for.
        let count = done(unsafe {
            (lib().virDomainMemoryStats)(self.pointer(), raw.as_mut_ptr(), sys::VIR_DOMAIN_MEMORY_STAT_NR, 0)
        })?;
        let mut stats = MemoryStats::default();
        for stat in raw.iter().take(usize::try_from(count).unwrap_or(0)) {
            stats.note(u32::try_from(stat.tag).unwrap_or(u32::MAX), stat.val);
        }
        Ok(stats)
    }

    /// Has the balloon driver report every `seconds`; 0 for no more.
    ///
    /// # Errors
    /// There is no balloon.
    pub fn set_memory_stats_period(&self, seconds: u16, affect: Affect) -> Result<(), Error> {
        // SAFETY: see `pointer`.
        done(unsafe {
            (lib().virDomainSetMemoryStatsPeriod)(self.pointer(), seconds.into(), affect.bits())
        })?;
        Ok(())
    }

    /// Sends QEMU a command (JSON) and gives its whole reply. For questions alone: what is changed behind libvirt's
    /// back makes its own view false. libvirt notes it in the domain's log as a taint.
    ///
    /// # Errors
    /// It does not run, or another job holds it. An error in QEMU's reply is a reply.
    pub fn monitor_command(&self, command: &str) -> Result<String, Error> {
        let command = text(command)?;
        let mut reply = ptr::null_mut();
        // SAFETY: see `pointer`.
        unsafe {
            done((lib().virDomainQemuMonitorCommand)(self.pointer(), command.as_ptr(), &mut reply, 0))?;
            taken(reply)
        }
    }

    /// Sends the guest agent a command (JSON) and gives its whole reply. libvirt counts in whole seconds; `limit` is
    /// rounded up, and libvirt's own synchronisation before may add 5 s. There is always a limit: libvirt's default is
    /// to wait for ever.
    ///
    /// # Errors
    /// There is no agent, it does not answer in time, or it refused.
    pub fn agent_command(&self, command: &str, limit: Duration) -> Result<String, Error> {
        let command = text(command)?;
        let seconds = c_int::try_from(limit.as_millis().div_ceil(1000)).unwrap_or(c_int::MAX).max(1);
        // SAFETY: see `pointer`.
        unsafe { taken((lib().virDomainQemuAgentCommand)(self.pointer(), command.as_ptr(), seconds, 0)) }
    }

    /// How long libvirt's own agent calls wait (5.10): without it, for ever.
    ///
    /// # Errors
    /// It does not run.
    pub fn set_agent_timeout(&self, seconds: u16) -> Result<(), Error> {
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainAgentSetResponseTimeout)(self.pointer(), seconds.into(), 0) })?;
        Ok(())
    }

    /// For how long QEMU has owed libvirt an answer, if it does. This waits for no other call on the domain
    /// (`qemuDomainGetControlInfo`, 9.0 and 11.3).
    ///
    /// # Errors
    /// It does not run.
    pub fn owes_answer(&self) -> Result<Option<Duration>, Error> {
        let mut info = sys::virDomainControlInfo { state: 0, details: 0, stateTime: 0 };
        // SAFETY: see `pointer`.
        done(unsafe { (lib().virDomainGetControlInfo)(self.pointer(), &mut info, 0) })?;
        Ok((info.state == sys::VIR_DOMAIN_CONTROL_OCCUPIED).then(|| Duration::from_millis(info.stateTime)))
    }

    /// What occupies it, if that is one of the jobs that libvirt tells of.
    ///
    /// # Errors
    /// It does not run.
    pub fn job(&self) -> Result<Job, Error> {
        let (mut kind, mut params, mut count): (c_int, sys::virTypedParameterPtr, c_int) =
            (0, ptr::null_mut(), 0);
        // SAFETY: see `pointer`.
        let told = unsafe {
            done((lib().virDomainGetJobStats)(self.pointer(), &mut kind, &mut params, &mut count, 0))
                .map(|_| taken_params(params, count))
        };
        let params = match told {
            Ok(params) => params,
            // It has figures only where a migration comes from (`qemuDomainGetJobStatsInternal`, 9.0 and 11.3).
            Err(error) if error.code == Code::Unsupported => return Ok(Job::Running(INCOMING)),
            Err(error) => return Err(error),
        };
        let running = [sys::VIR_DOMAIN_JOB_BOUNDED, sys::VIR_DOMAIN_JOB_UNBOUNDED];
        if !u32::try_from(kind).is_ok_and(|kind| running.contains(&kind)) {
            return Ok(Job::None);
        }
        let operation = params.number("operation").and_then(|number| usize::try_from(number).ok());
        Ok(Job::Running(operation.and_then(|number| OPERATIONS.get(number)).unwrap_or(&OPERATIONS[0])))
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("name", &self.name()).finish_non_exhaustive()
    }
}
