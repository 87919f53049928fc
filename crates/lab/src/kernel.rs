//! Unpacks a kernel once on the host, so that no emulated guest has to.
//!
//! A distribution's kernel is packed with xz inside of a `bzImage` (Documentation/arch/x86/boot.rst); to unpack it
//! takes an emulated CPU about as long as all of the rest of the boot. What is inside is an ELF file that QEMU
//! starts directly by its PVH entry (docs/system/i386 of QEMU; `CONFIG_PVH`, set in Debian's kernels). It will not
//! insist: a kernel that is packed in another way, or has no such entry, boots as it came.

use std::io::Read;

use anyhow::{Context, Result};
use lzma_rust2::XzReader;

/// No kernel is larger than this.
const LARGEST: u64 = 512 << 20;

/// The ELF note that gives the 32-bit PVH entry: XEN_ELFNOTE_PHYS32_ENTRY = 18 (include/xen/interface/elfnote.h).
const PVH_NOTE: &[u8] = b"\x12\0\0\0Xen\0";

/// The kernel as QEMU boots it fastest: the ELF file inside of `image` if there is one with a PVH entry, else
/// `image` itself.
pub(crate) fn fastest(image: Vec<u8>) -> Vec<u8> {
    match inside(&image) {
        Some(elf) if elf.windows(PVH_NOTE.len()).any(|bytes| bytes == PVH_NOTE) => elf,
        Some(_) | None => image,
    }
}

/// What `xz` packed, whole.
pub(crate) fn unxz(packed: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    XzReader::new(packed, false).take(LARGEST).read_to_end(&mut unpacked).context("broken xz data")?;
    Ok(unpacked)
}

fn inside(image: &[u8]) -> Option<Vec<u8>> {
    let long = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    // setup_sects, payload_offset, payload_length; the payload lies behind the boot sector and the setup's sectors,
    // and ends with its unpacked length in four bytes.
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup.checked_add(usize::try_from(long(0x248)?).ok()?)?;
    let end = start.checked_add(usize::try_from(long(0x24c)?).ok()?)?.checked_sub(4)?;
    unxz(image.get(start..end)?).ok().filter(|elf| elf.starts_with(b"\x7fELF"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '\177ELF\22\0\0\0Xen\0' | xz --check=crc32`
    const PACKED: &[u8] = b"\xfd7zXZ\x00\x00\x01i\x22\xde6\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x0b\x7fELF\x12\x00\x00\x00Xen\x00\x00\x1d\xae_&\x00\x01 \x0c\xa2\xdd\xb4\xbc\x90B\x99\x0d\x01\x00\x00\x00\x00\x01YZ";

    #[test]
    fn a_file_that_is_no_kernel_stays_as_it_is() {
        for image in [&b""[..], b"\x7fELF", &[0; 1024]] {
            assert_eq!(fastest(image.to_vec()), image);
        }
    }

    #[test]
    fn a_packed_kernel_with_an_entry_comes_out() {
        let mut image = vec![0; 1024];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 1;
        image[0x24c..0x250].copy_from_slice(&u32::try_from(PACKED.len() + 4).unwrap().to_le_bytes());
        image.extend_from_slice(PACKED);
        image.extend_from_slice(&12u32.to_le_bytes());
        assert_eq!(fastest(image), b"\x7fELF\x12\0\0\0Xen\0");
    }
}
