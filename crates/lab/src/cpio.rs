//! Writes an initramfs: the `newc` form of cpio, as Documentation/driver-api/early-userspace/buffer-format.rst
//! in Linux describes it. It will not read one, nor know owners, times or device nodes: all is root's.

/// An archive that grows entry by entry. A directory must be added before what lies in it.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds the directory `path` (no leading slash).
    pub(crate) fn dir(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds the file `path`, executable or not.
    pub(crate) fn file(&mut self, path: &str, executable: bool, content: &[u8]) {
        self.entry(path, if executable { 0o100_755 } else { 0o100_644 }, content);
    }

    /// Adds the symbolic link `path`, which points at `target`.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, 0o120_777, target.as_bytes());
    }

    /// The whole archive. A kernel reads several of them one after the other as one.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("no file of the guest is 4 GiB");
        let name = u32::try_from(path.len() + 1).expect("no path of the guest is 4 GiB");
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_stands_on_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.dir("a");
        archive.file("a/bcd", true, b"12345");
        archive.link("a/e", "bcd");
        let bytes = archive.finish();
        let headers: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"070701")).collect();
        assert_eq!(headers.len(), 4);
        assert!(headers.iter().all(|at| at % 4 == 0), "{headers:?}");
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn a_file_says_its_mode_and_size() {
        let mut archive = Archive::default();
        archive.file("x", true, b"12345");
        let header = String::from_utf8(archive.finish()[..110].to_vec()).unwrap();
        assert_eq!(&header[14..22], "000081ed");
        assert_eq!(&header[54..62], "00000005");
    }
}
