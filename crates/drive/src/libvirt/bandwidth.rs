//! Limits of one domain that libvirt keeps as typed parameters: the traffic of a NIC. Every call blocks: tasks go
//! through [`super::Lane`]. All fields are written, so that setting one resets no other.
#![allow(unsafe_code, reason = "the C library has no safe form")]

use std::ffi::{c_char, c_int};
use std::ptr;

use scale::setting::{BitRate, NicRate, Rate};
use scale::units::Bytes;
use virt_sys as sys;

use super::domain::Domain;
use super::error::{Code, Error};
use super::library::lib;
use super::raw::{copied, done, text};
use super::stats::Params;
use super::terms::Affect;

/// What libvirt counts rates in: a thousand bytes a second (`kbps` of tc(8), virnetdevbandwidth.c, 9.0 and 11.3).
pub(super) const STEP: BitRate = BitRate::kbit(8);
/// What it counts bursts in (`kb` of tc(8), there).
const BURST: Bytes = Bytes::new(1024);
/// More parameters than libvirt has of these; 11.3 has seven.
const MOST: usize = 64;
/// What a NIC has from the network that it is on (`floor`); it is kept as it is.
const FLOOR: &str = "inbound.floor";

/// A NIC's limits as libvirt keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    /// The limits. Of what the guest sends libvirt enforces no peak.
    pub rate: NicRate,
    /// What the NIC is promised of its network's limit, in thousands of bytes a second; 0 for nothing.
    pub floor: u32,
}

impl Domain {
    /// The limits of the NIC with this MAC address, or host device name; `affect` is [`Affect::Live`] or
    /// [`Affect::Config`].
    ///
    /// # Errors
    /// There is no such NIC, or libvirt does not limit such a domain's NICs (a session's).
    pub fn bandwidth(&self, nic: &str, affect: Affect) -> Result<Bandwidth, Error> {
        let nic = text(nic)?;
        let mut count: c_int = 0;
        let get = |params, count: &mut c_int| {
            // SAFETY: see `pointer`; the call fills in at most as many parameters as `count` says there is room for, and
            // with none only tells how many there are.
            done(unsafe {
                (lib().virDomainGetInterfaceParameters)(
                    self.pointer(),
                    nic.as_ptr(),
                    params,
                    count,
                    affect.bits(),
                )
            })
        };
        get(ptr::null_mut(), &mut count)?;
        let room = usize::try_from(count).unwrap_or(0).min(MOST);
        let mut params = vec![unsigned("", 0); room];
        count = c_int::try_from(room).expect("at most a few");
        get(params.as_mut_ptr(), &mut count)?;
        let told = count.min(c_int::try_from(room).expect("at most a few"));
        // SAFETY: the call filled in `count` of them; none is a text, so none is to be freed.
        Ok(read(&unsafe { copied(params.as_mut_ptr(), told) }))
    }

    /// Sets all limits of the NIC with this MAC address. Of a running domain libvirt first removes all that queues or
    /// filters at the NIC's device, others' too, and then lays its own out (virNetDevBandwidthSet, 9.0 and 11.3).
    ///
    /// # Errors
    /// A rate that is no whole number of 8 kbit, a burst that is none of KiB, or a peak where libvirt enforces none;
    /// or libvirt refused.
    pub fn set_bandwidth(&self, nic: &str, bandwidth: &Bandwidth, affect: Affect) -> Result<(), Error> {
        let mut params = written(bandwidth).map_err(|why| Error::own(Code::InvalidArgument, &why))?;
        let (nic, count) = (text(nic)?, c_int::try_from(params.len()).expect("at most a few"));
        // SAFETY: see `pointer`; the parameters and the text live during the call.
        done(unsafe {
            (lib().virDomainSetInterfaceParameters)(
                self.pointer(),
                nic.as_ptr(),
                params.as_mut_ptr(),
                count,
                affect.bits(),
            )
        })?;
        Ok(())
    }
}

/// A parameter of libvirt's type `unsigned int`. Names are ours and short.
fn unsigned(name: &str, number: u32) -> sys::virTypedParameter {
    let mut field: [c_char; 80] = [0; 80];
    for (at, byte) in field.iter_mut().zip(name.bytes()) {
        *at = c_char::from_ne_bytes([byte]);
    }
    let kind = c_int::try_from(sys::VIR_TYPED_PARAM_UINT).expect("a small number");
    sys::virTypedParameter { field, type_: kind, value: sys::_virTypedParameter__bindgen_ty_1 { ui: number } }
}

fn read(params: &Params) -> Bandwidth {
    let side = |side: &str| {
        let number = |name: &str| params.number(&format!("{side}.{name}")).filter(|number| *number > 0);
        let rate = |count: u64| BitRate::new(STEP.get().saturating_mul(count));
        let average = rate(number("average")?);
        Some(Rate {
            average,
            peak: number("peak").map(rate),
            burst: number("burst").map(|burst| BURST.times(burst)),
        })
    };
    let floor = params.number(FLOOR).and_then(|floor| u32::try_from(floor).ok()).unwrap_or(0);
    Bandwidth { rate: NicRate { to_guest: side("inbound"), from_guest: side("outbound") }, floor }
}

fn written(bandwidth: &Bandwidth) -> Result<Vec<sys::virTypedParameter>, String> {
    let NicRate { to_guest, from_guest } = bandwidth.rate;
    if from_guest.is_some_and(|rate| rate.peak.is_some()) {
        return Err("libvirt holds what a guest sends to its average, and enforces no peak".to_owned());
    }
    let count = |of: Option<u64>, unit: u64, what: &str| match of {
        None => Ok(0),
        Some(of) if of.is_multiple_of(unit) => {
            u32::try_from(of / unit).map_err(|_| format!("{what}: more than libvirt can count"))
        }
        Some(_) => Err(format!("{what} is not in whole steps of libvirt's")),
    };
    let mut params = Vec::new();
    for (side, rate) in [("inbound", to_guest), ("outbound", from_guest)] {
        let figures = [
            ("average", rate.map(|rate| rate.average.get()), STEP.get()),
            ("peak", rate.and_then(|rate| rate.peak).map(BitRate::get), STEP.get()),
            ("burst", rate.and_then(|rate| rate.burst).map(Bytes::get), BURST.get()),
        ];
        for (name, figure, unit) in figures {
            let name = format!("{side}.{name}");
            params.push(unsigned(&name, count(figure, unit, &name)?));
        }
    }
    if bandwidth.floor > 0 {
        params.push(unsigned(FLOOR, bandwidth.floor));
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(mbit: u64, peak: Option<u64>) -> Rate {
        let average = BitRate::mbit(mbit);
        Rate { average, peak: peak.map(BitRate::mbit), burst: Some(Rate::usual_burst(average)) }
    }

    /// What libvirt would be told, as it tells it.
    fn told(bandwidth: &Bandwidth) -> Params {
        let mut params = written(bandwidth).expect("written");
        let count = c_int::try_from(params.len()).expect("a few");
        // SAFETY: all of them are filled in, and none is a text.
        unsafe { copied(params.as_mut_ptr(), count) }
    }

    #[test]
    fn every_field_is_written_and_comes_back() {
        let rate = NicRate { to_guest: Some(rate(80, Some(160))), from_guest: Some(rate(8, None)) };
        for bandwidth in [Bandwidth { rate, floor: 0 }, Bandwidth { rate, floor: 77 }, Bandwidth::default()] {
            let params = told(&bandwidth);
            assert_eq!(read(&params), bandwidth);
            assert_eq!(params.iter().count(), if bandwidth.floor > 0 { 7 } else { 6 }, "{params:?}");
        }
        let params = told(&Bandwidth { rate, floor: 0 });
        assert_eq!(
            (params.number("inbound.average"), params.number("inbound.peak")),
            (Some(10_000), Some(20_000))
        );
        assert_eq!((params.number("outbound.peak"), params.number("outbound.burst")), (Some(0), Some(64)));
    }

    #[test]
    fn what_libvirt_cannot_hold_is_refused() {
        let of = |to_guest, from_guest| Bandwidth { rate: NicRate { to_guest, from_guest }, floor: 0 };
        let odd = Rate { average: BitRate::new(8001), ..rate(8, None) };
        let uneven = Rate { burst: Some(Bytes::new(1000)), ..rate(8, None) };
        let vast = Rate { average: BitRate::new(8000 << 32), ..rate(8, None) };
        for (bad, why) in [
            (of(Some(odd), None), "inbound.average"),
            (of(None, Some(uneven)), "outbound.burst"),
            (of(Some(vast), None), "more than libvirt"),
            (of(None, Some(rate(8, Some(16)))), "no peak"),
        ] {
            assert!(written(&bad).is_err_and(|said| said.contains(why)), "{bad:?}");
        }
    }
}
