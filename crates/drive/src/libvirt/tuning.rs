//! What libvirt changes of a running domain's disks and CPU time: sizes in bytes, limits as typed parameters. Every call
//! blocks: tasks go through [`super::Lane`]. Of a disk's limits all are written, since libvirt lifts what is left out of
//! a kind (`qemuDomainSetBlockIoTune`, 9.0 and 11.3).
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{CStr, c_char, c_int};

use scale::setting::DiskIo;
use scale::units::Bytes;
use virt_sys as sys;

use super::domain::Domain;
use super::error::Error;
use super::library::lib;
use super::raw::{copied, done, text};
use super::stats::Params;
use super::terms::Affect;
use crate::disk::dialect::LIBVIRT;

/// The most parameters of CPU time that libvirt's protocol carries, and lets be asked for
/// (`REMOTE_DOMAIN_SCHEDULER_PARAMETERS_MAX`, remote_protocol.x); 11.3 has nine.
const MOST: usize = 16;

/// A parameter's value, of the type that libvirt asks for.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Signed(i64),
    Unsigned(u64),
    Text(&'a CStr),
}

/// CPU time as libvirt counts it (`virDomainSetSchedulerParametersFlags`). What is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuTime {
    /// What all of QEMU's threads together may take in each period, both in microseconds (libvirt 1.3.3): a negative
    /// quota for no limit.
    pub global: Option<(u64, i64)>,
    /// `cpu_shares`: 1024 by default with control groups of version 1, 100 with those of version 2.
    pub shares: Option<u64>,
}

impl Domain {
    /// Sets the size of the disk with this target name. libvirt does not ask whether that is smaller.
    ///
    /// # Errors
    /// libvirt or QEMU refused.
    pub fn block_resize(&self, target: &str, size: Bytes) -> Result<(), Error> {
        let target = text(target)?;
        // SAFETY: see `pointer`.
        done(unsafe {
            (lib().virDomainBlockResize)(
                self.pointer(),
                target.as_ptr(),
                size.get(),
                sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES,
            )
        })?;
        Ok(())
    }

    /// Sets all limits of the disk with this target name.
    ///
    /// # Errors
    /// libvirt or QEMU refused.
    pub fn set_block_io(&self, target: &str, io: &DiskIo, affect: Affect) -> Result<(), Error> {
        let (target, group) = (text(target)?, io.group.as_deref().map(text).transpose()?);
        let written = LIBVIRT.write(io);
        let mut params: Vec<_> =
            written.iter().map(|(name, number)| param(name, Value::Unsigned(*number))).collect();
        params.extend(group.as_deref().map(|group| param("group_name", Value::Text(group))));
        let count = c_int::try_from(params.len()).expect("a few");
        // SAFETY: see `pointer`; the parameters and their texts live during the call, which only reads them.
        done(unsafe {
            (lib().virDomainSetBlockIoTune)(
                self.pointer(),
                target.as_ptr(),
                params.as_mut_ptr(),
                count,
                affect.bits(),
            )
        })?;
        Ok(())
    }

    /// What libvirt tells of CPU time: `cpu_shares`, `global_quota`, `vcpu_quota` and others.
    ///
    /// # Errors
    /// libvirt does not manage it here (a session's, or no such control group).
    pub fn cpu_time(&self, affect: Affect) -> Result<Params, Error> {
        let mut params = vec![param("", Value::Unsigned(0)); MOST];
        let mut count = c_int::try_from(MOST).expect("a few");
        // SAFETY: see `pointer`; the call fills in at most as many parameters as `count` says there is room for.
        done(unsafe {
            (lib().virDomainGetSchedulerParametersFlags)(
                self.pointer(),
                params.as_mut_ptr(),
                &mut count,
                affect.bits(),
            )
        })?;
        // SAFETY: the call filled in `count` of them; none is a text, so none is to be freed.
        Ok(unsafe { copied(params.as_mut_ptr(), count.min(c_int::try_from(MOST).expect("a few"))) })
    }

    /// What libvirt tells of memory: `hard_limit` and others, in KiB.
    ///
    /// # Errors
    /// libvirt does not manage it here (a session's, or no such control group).
    pub fn memory_limits(&self, affect: Affect) -> Result<Params, Error> {
        let mut params = vec![param("", Value::Unsigned(0)); MOST];
        let mut count = c_int::try_from(MOST).expect("a few");
        // SAFETY: see `pointer`; the call fills in at most as many parameters as `count` says there is room for.
        done(unsafe {
            (lib().virDomainGetMemoryParameters)(
                self.pointer(),
                params.as_mut_ptr(),
                &mut count,
                affect.bits(),
            )
        })?;
        // SAFETY: the call filled in `count` of them; none is a text, so none is to be freed.
        Ok(unsafe { copied(params.as_mut_ptr(), count.min(c_int::try_from(MOST).expect("a few"))) })
    }

    /// Sets the most memory that QEMU may hold, in whole KiB.
    ///
    /// # Errors
    /// As for [`Domain::memory_limits`], or the kernel refused.
    pub fn set_hard_limit(&self, most: Bytes, affect: Affect) -> Result<(), Error> {
        let mut params = [param("hard_limit", Value::Unsigned(most.get().div_ceil(1024)))];
        // SAFETY: see `pointer`; the parameter lives during the call, which only reads it.
        done(unsafe {
            (lib().virDomainSetMemoryParameters)(self.pointer(), params.as_mut_ptr(), 1, affect.bits())
        })?;
        Ok(())
    }

    /// Sets CPU time.
    ///
    /// # Errors
    /// As for [`Domain::cpu_time`], or the kernel refused; of two changes the first may stand.
    pub fn set_cpu_time(&self, time: &CpuTime, affect: Affect) -> Result<(), Error> {
        let mut params = Vec::new();
        if let Some((period, quota)) = time.global {
            params.push(param("global_period", Value::Unsigned(period)));
            params.push(param("global_quota", Value::Signed(quota)));
        }
        params.extend(time.shares.map(|shares| param("cpu_shares", Value::Unsigned(shares))));
        let count = c_int::try_from(params.len()).expect("a few");
        // SAFETY: see `pointer`; the parameters live during the call, which only reads them.
        done(unsafe {
            (lib().virDomainSetSchedulerParametersFlags)(
                self.pointer(),
                params.as_mut_ptr(),
                count,
                affect.bits(),
            )
        })?;
        Ok(())
    }
}

/// A parameter. Names are ours and shorter than libvirt's 80 bytes.
fn param(name: &str, value: Value<'_>) -> sys::virTypedParameter {
    let mut field: [c_char; 80] = [0; 80];
    assert!(name.len() < field.len(), "{name} is too long for a parameter");
    for (at, byte) in field.iter_mut().zip(name.bytes()) {
        *at = c_char::from_ne_bytes([byte]);
    }
    let (kind, value) = match value {
        Value::Signed(l) => (sys::VIR_TYPED_PARAM_LLONG, sys::_virTypedParameter__bindgen_ty_1 { l }),
        Value::Unsigned(ul) => (sys::VIR_TYPED_PARAM_ULLONG, sys::_virTypedParameter__bindgen_ty_1 { ul }),
        Value::Text(text) => {
            let s = text.as_ptr().cast_mut();
            (sys::VIR_TYPED_PARAM_STRING, sys::_virTypedParameter__bindgen_ty_1 { s })
        }
    };
    sys::virTypedParameter { field, type_: c_int::try_from(kind).expect("a small number"), value }
}

#[cfg(test)]
mod tests {
    use super::super::stats::Param;
    use super::*;

    #[test]
    fn a_parameter_is_read_as_it_is_written() {
        let group = text("tier").unwrap();
        let mut params = [
            param("global_quota", Value::Signed(-1)),
            param("total_iops_sec_max_length", Value::Unsigned(7)),
            param("group_name", Value::Text(&group)),
        ];
        // SAFETY: three parameters, whose text lives until the end of this test.
        let read = unsafe { copied(params.as_mut_ptr(), 3) };
        assert_eq!(read.get("global_quota"), Some(&Param::Signed(-1)));
        assert_eq!(
            (read.number("total_iops_sec_max_length"), read.text("group_name")),
            (Some(7), Some("tier"))
        );
    }
}
