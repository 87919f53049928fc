//! Reads the two things that the lab must know of an ELF file: the libraries that a program needs, and the
//! modules that a kernel module depends on. Little-endian ELF64 alone; a malformed file is an error, not a panic.
//! It will not resolve anything: see `image` and `modules`.

use anyhow::{Context, Result, ensure};

/// The sonames in the `DT_NEEDED` entries of a program or library; empty for a static one.
///
/// # Errors
/// The bytes are no ELF64 file, or a table points outside of it.
pub(crate) fn needed(elf: &[u8]) -> Result<Vec<String>> {
    let sections = Sections::read(elf)?;
    let (Some(dynamic), Some(strings)) = (sections.named(".dynamic")?, sections.named(".dynstr")?) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in dynamic.chunks_exact(16) {
        // DT_NULL = 0 ends the table, DT_NEEDED = 1.
        match u64_at(entry, 0)? {
            0 => break,
            1 => found.push(text_at(strings, u64_at(entry, 8)?)?),
            _ => {}
        }
    }
    Ok(found)
}

/// The names in a kernel module's `depends=` (include/linux/module.h: `.modinfo` is a list of `key=value\0`).
///
/// # Errors
/// The bytes are no ELF64 file, or have no `.modinfo`.
pub(crate) fn depends(module: &[u8]) -> Result<Vec<String>> {
    let sections = Sections::read(module)?;
    let info = sections.named(".modinfo")?.context("no .modinfo: this is no kernel module")?;
    let fields = info.split(|byte| *byte == 0);
    let listed = fields.filter_map(|field| std::str::from_utf8(field).ok()?.strip_prefix("depends="));
    Ok(listed.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(Into::into).collect())
}

struct Sections<'a> {
    elf: &'a [u8],
    table: usize,
    count: u16,
    names: &'a [u8],
}

impl<'a> Sections<'a> {
    const HEADER: usize = 64;

    fn read(elf: &'a [u8]) -> Result<Self> {
        ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a little-endian ELF64 file");
        let table = usize::try_from(u64_at(elf, 0x28)?)?;
        let count = u16_at(elf, 0x3c)?;
        let mut sections = Self { elf, table, count, names: &[] };
        sections.names = sections.bytes(u16_at(elf, 0x3e)?)?;
        Ok(sections)
    }

    fn header(&self, index: u16) -> Result<&'a [u8]> {
        let start = self.table.checked_add(usize::from(index) * Self::HEADER);
        let header = start.and_then(|start| self.elf.get(start..start.checked_add(Self::HEADER)?));
        header.context("a section header lies outside of the file")
    }

    fn bytes(&self, index: u16) -> Result<&'a [u8]> {
        let header = self.header(index)?;
        let (start, size) =
            (usize::try_from(u64_at(header, 0x18)?)?, usize::try_from(u64_at(header, 0x20)?)?);
        let bytes = start.checked_add(size).and_then(|end| self.elf.get(start..end));
        bytes.context("a section lies outside of the file")
    }

    fn named(&self, name: &str) -> Result<Option<&'a [u8]>> {
        for index in 0..self.count {
            let offset = u32::from_le_bytes(at(self.header(index)?, 0)?);
            if text_at(self.names, u64::from(offset))? == name {
                return self.bytes(index).map(Some);
            }
        }
        Ok(None)
    }
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    let found =
        offset.checked_add(N).and_then(|end| bytes.get(offset..end)).context("the file is cut short")?;
    Ok(found.try_into()?)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(at(bytes, offset)?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(at(bytes, offset)?))
}

fn text_at(strings: &[u8], offset: u64) -> Result<String> {
    let rest = strings.get(usize::try_from(offset)?..).context("a name lies outside of its table")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name does not end")?;
    Ok(String::from_utf8(rest[..end].to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_the_c_library() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needed(&elf).unwrap().iter().any(|name| name == "libc.so.6"));
        assert!(depends(&elf).is_err());
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [0, 4, 16, 63, 64, elf.len() / 2] {
            assert!(needed(&elf[..length]).is_err(), "{length}");
        }
    }
}
