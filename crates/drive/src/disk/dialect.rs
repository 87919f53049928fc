//! Disk I/O limits in the words of those who keep them: a device of QEMU's, a throttle group, libvirt. All have the same
//! six limits, each with a burst and its length. Always all of them are written, so that none is reset by leaving it out.

use scale::setting::{Burst, DiskIo, Iops, Throttle, Throttles};
use scale::units::Bytes;

/// How one of them calls the limits. Reads and writes together, reads, writes.
#[derive(Debug)]
pub(crate) struct Dialect {
    bytes: [&'static str; 3],
    iops: [&'static str; 3],
    /// What follows a limit's name for its burst, and for the length of that.
    burst: [&'static str; 2],
    size: &'static str,
    /// The length that stands for "no burst".
    no_length: u64,
}

/// `query-block` and `block_set_io_throttle` (qapi/block-core.json, 7.2 and 10.0).
pub(crate) const DEVICE: Dialect = Dialect {
    bytes: ["bps", "bps_rd", "bps_wr"],
    iops: ["iops", "iops_rd", "iops_wr"],
    burst: ["_max", "_max_length"],
    size: "iops_size",
    no_length: 1,
};

/// The property `limits` of a `throttle-group` (`ThrottleLimits`, qapi/block-core.json, 7.2 and 10.0).
pub(crate) const GROUP: Dialect = Dialect {
    bytes: ["bps-total", "bps-read", "bps-write"],
    iops: ["iops-total", "iops-read", "iops-write"],
    burst: ["-max", "-max-length"],
    size: "iops-size",
    no_length: 1,
};

/// `virDomainSetBlockIoTune` (libvirt-domain.h). A length that stands alone is refused, so none is 0 here
/// (`qemuDomainSetBlockIoTune`, 9.0 and 11.3).
#[cfg(feature = "libvirt")]
pub(crate) const LIBVIRT: Dialect = Dialect {
    bytes: ["total_bytes_sec", "read_bytes_sec", "write_bytes_sec"],
    iops: ["total_iops_sec", "read_iops_sec", "write_iops_sec"],
    burst: ["_max", "_max_length"],
    size: "size_iops_sec",
    no_length: 0,
};

impl Dialect {
    /// The limits, of the numbers that `told` gives for names. A limit of zero is none.
    pub(crate) fn read(&self, told: impl Fn(&str) -> Option<u64>) -> DiskIo {
        let number = |name: String| told(&name).filter(|number| *number > 0);
        let throttle = |name: &str| {
            let [max, length] = self.burst.map(|burst| format!("{name}{burst}"));
            let steady = number(name.to_owned())?;
            let seconds = || number(length).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
            Some((steady, number(max).map(|to| (to, seconds()))))
        };
        DiskIo {
            bytes: throttles(self.bytes, throttle, Bytes::new),
            iops: throttles(self.iops, throttle, Iops::new),
            iops_size: number(self.size.to_owned()).map(Bytes::new),
            group: None,
        }
    }

    /// Every name with its number.
    pub(crate) fn write(&self, io: &DiskIo) -> Vec<(String, u64)> {
        let DiskIo { bytes, iops, iops_size, group: _ } = io;
        let mut all = self.written(self.bytes, bytes, |bytes| bytes.get());
        all.extend(self.written(self.iops, iops, |iops| iops.get()));
        all.push((self.size.to_owned(), iops_size.map_or(0, Bytes::get)));
        all
    }

    fn written<T: Copy>(
        &self,
        names: [&str; 3],
        throttles: &Throttles<T>,
        plain: fn(T) -> u64,
    ) -> Vec<(String, u64)> {
        let Throttles { total, read, write } = throttles;
        let mut all = Vec::new();
        for (name, throttle) in names.into_iter().zip([total, read, write]) {
            let burst = throttle.as_ref().and_then(|throttle| throttle.burst);
            all.push((name.to_owned(), throttle.as_ref().map_or(0, |throttle| plain(throttle.steady))));
            all.push((format!("{name}{}", self.burst[0]), burst.map_or(0, |burst| plain(burst.to))));
            let seconds = burst.map_or(self.no_length, |burst| burst.seconds.into());
            all.push((format!("{name}{}", self.burst[1]), seconds));
        }
        all
    }
}

fn throttles<T>(
    names: [&str; 3],
    of: impl Fn(&str) -> Option<(u64, Option<(u64, u32)>)>,
    unit: fn(u64) -> T,
) -> Throttles<T> {
    let [total, read, write] = names.map(|name| {
        let (steady, burst) = of(name)?;
        let burst = burst.map(|(to, seconds)| Burst { to: unit(to), seconds });
        Some(Throttle { steady: unit(steady), burst })
    });
    Throttles { total, read, write }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn throttle<T: Copy + std::fmt::Debug>(unit: fn(u64) -> T) -> impl Strategy<Value = Option<Throttle<T>>> {
        let burst = prop::option::of((1u64..1 << 40, 1u32..1000));
        prop::option::of((1u64..1 << 40, burst)).prop_map(move |limit| {
            limit.map(|(steady, burst)| Throttle {
                steady: unit(steady),
                burst: burst.map(|(to, seconds)| Burst { to: unit(to), seconds }),
            })
        })
    }

    fn throttles<T: Copy + std::fmt::Debug>(unit: fn(u64) -> T) -> impl Strategy<Value = Throttles<T>> {
        (throttle(unit), throttle(unit), throttle(unit)).prop_map(|(total, read, write)| Throttles {
            total,
            read,
            write,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            bytes in throttles(Bytes::new),
            iops in throttles(Iops::new),
            size in prop::option::of(1u64..1 << 20),
        ) {
            let io = DiskIo { bytes, iops, iops_size: size.map(Bytes::new), group: None };
            for dialect in [DEVICE, GROUP] {
                let written: BTreeMap<String, u64> = dialect.write(&io).into_iter().collect();
                prop_assert_eq!(written.len(), 19, "every field, whatever is limited");
                prop_assert_eq!(&dialect.read(|name| written.get(name).copied()), &io);
            }
        }
    }

    #[test]
    fn an_older_answer_without_lengths_is_a_burst_of_a_second() {
        let told = BTreeMap::from([("iops", 100), ("iops_max", 500)]);
        let io = DEVICE.read(|name| told.get(name).copied());
        let burst = io.iops.total.and_then(|total| total.burst);
        assert_eq!(burst, Some(Burst { to: Iops::new(500), seconds: 1 }));
        assert!(io.bytes.is_free());
    }
}
