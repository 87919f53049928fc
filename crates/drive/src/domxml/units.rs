//! Amounts of memory as libvirt writes them: a number, a `unit` attribute, KiB where there is none.
//!
//! Apart from `scale::units`, which reads what people type: here a bare number has a meaning, and `k` is 1024.
//! It will not round: how libvirt rounds an amount later, on its way to QEMU, is said by [`as_attached`] and
//! [`as_booted`].

use scale::units::Bytes;

const KIB: Bytes = Bytes::new(1 << 10);

/// libvirt keeps amounts as signed 64-bit bytes; above that it says "size value too large".
const LARGEST: u64 = i64::MAX as u64;

/// Why a text is not an amount of memory to libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadAmount {
    /// Not a whole, plain number.
    #[error("not a whole number")]
    Number,
    /// A unit that libvirt does not know.
    #[error("its unit is none of b, bytes, KB, k, KiB, MB, M, MiB, and so on up to E, EiB")]
    Unit,
    /// More bytes than libvirt takes.
    #[error("more than libvirt takes (8 EiB)")]
    TooLarge,
}

/// Reads an amount as libvirt does, up to the next whole KiB, which is how libvirt keeps it (libvirt 9.0 and 11.3,
/// `virScaleInteger`, `virDomainParseMemory`).
pub(super) fn read_amount(number: &str, unit: Option<&str>) -> Result<Bytes, BadAmount> {
    let number = number.trim();
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadAmount::Number);
    }
    let number: u64 = number.parse().map_err(|_| BadAmount::TooLarge)?;
    let scale = unit_scale(unit.unwrap_or(""))?;
    let bytes = number.checked_mul(scale).filter(|bytes| *bytes <= LARGEST).ok_or(BadAmount::TooLarge)?;
    Ok(Bytes::new(bytes).round_up(KIB))
}

/// Bytes in one `unit`. Letters in either case; a lone letter and `iB` are binary, a `B` after the letter is decimal.
pub(super) fn unit_scale(unit: &str) -> Result<u64, BadAmount> {
    if unit.is_empty() {
        return Ok(1 << 10);
    }
    let unit = unit.to_ascii_lowercase();
    if matches!(unit.as_str(), "b" | "byte" | "bytes") {
        return Ok(1);
    }
    let power = match unit.as_bytes()[0] {
        b'k' => 1,
        b'm' => 2,
        b'g' => 3,
        b't' => 4,
        b'p' => 5,
        b'e' => 6,
        _ => return Err(BadAmount::Unit),
    };
    match &unit[1..] {
        "" | "ib" => Ok(1 << (10 * power)),
        "b" => Ok(1000u64.pow(power)),
        _ => Err(BadAmount::Unit),
    }
}

/// The whole KiB in `size`, which is how this module writes every amount.
pub(super) fn kib(size: Bytes) -> u64 {
    size.round_up(KIB).count_of(KIB)
}

/// What libvirt makes of a memory device's size when it is attached to a running machine, and when it looks for the
/// device to detach: the next whole MiB (libvirt 9.0 and 11.3, `qemuDomainMemoryDeviceAlignSize`), 256 MiB on ppc64.
pub fn as_attached(size: Bytes, ppc64: bool) -> Bytes {
    size.round_up(if ppc64 { Bytes::mib(256) } else { Bytes::mib(1) })
}

/// What libvirt makes of a DIMM's size when the machine starts with it: the next whole 2 MiB, 256 MiB on ppc64. One MiB
/// apart from [`as_attached`], which is how a size that is no multiple of 2 MiB drifts.
pub fn as_booted(size: Bytes, ppc64: bool) -> Bytes {
    size.round_up(if ppc64 { Bytes::mib(256) } else { Bytes::mib(2) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(number: &str, unit: &str) -> u64 {
        read_amount(number, Some(unit)).unwrap_or_else(|e| panic!("{number} {unit}: {e}")).get()
    }

    #[test]
    fn a_bare_number_is_kib() {
        assert_eq!(read_amount("1048576", None), Ok(Bytes::gib(1)));
        assert_eq!(read_amount(" 1048576\n", Some("")), Ok(Bytes::gib(1)));
    }

    #[test]
    fn k_and_kib_are_binary_and_kb_is_decimal() {
        assert_eq!(read("4", "k"), 4096);
        assert_eq!(read("4", "KiB"), 4096);
        assert_eq!(read("1024", "KB"), 1_024_000);
        assert_eq!(read("2", "g"), 2 << 30);
        assert_eq!(read("2", "GIB"), 2 << 30);
        assert_eq!(read("2048", "GB"), 2_048_000_000_000);
        assert_eq!(read("1", "TiB"), 1 << 40);
        assert_eq!(read("4096", "b"), 4096);
        assert_eq!(read("4096", "Bytes"), 4096);
    }

    #[test]
    fn what_is_no_whole_kib_is_kept_as_the_next_one() {
        assert_eq!(read("1", "b"), 1024);
        assert_eq!(read("1", "MB"), 1_000_448);
    }

    #[test]
    fn what_libvirt_refuses_is_refused() {
        assert_eq!(read_amount("", None), Err(BadAmount::Number));
        assert_eq!(read_amount("-1", None), Err(BadAmount::Number));
        assert_eq!(read_amount("1.5", Some("G")), Err(BadAmount::Number));
        assert_eq!(read_amount("1", Some("XiB")), Err(BadAmount::Unit));
        assert_eq!(read_amount("1", Some("Kb2")), Err(BadAmount::Unit));
        assert_eq!(read_amount("8", Some("EiB")), Err(BadAmount::TooLarge));
        assert_eq!(read_amount("99999999999999999999", Some("b")), Err(BadAmount::TooLarge));
    }

    #[test]
    fn the_size_of_most_guides_is_rounded_to_512_mib() {
        let guides = Bytes::new(524_287 << 10);
        assert_eq!(as_attached(guides, false), Bytes::mib(512));
        assert_eq!(as_booted(guides, false), Bytes::mib(512));
    }

    #[test]
    fn an_odd_mib_is_one_size_live_and_another_at_boot() {
        assert_eq!(as_attached(Bytes::mib(513), false), Bytes::mib(513));
        assert_eq!(as_booted(Bytes::mib(513), false), Bytes::mib(514));
        assert_eq!(as_attached(Bytes::mib(513), true), Bytes::mib(768));
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(number in any::<String>(), unit in any::<String>()) {
            let _ = read_amount(&number, Some(&unit));
        }
    }
}
