//! The machine type of a description: its architecture, its board and its version.
//!
//! It says what a board can be given while it runs, as far as that follows from its name alone.

/// Architecture, machine type and firmware.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// The architecture; where the description names none, libvirt takes the host's.
    pub arch: Option<String>,
    /// The machine type, such as `pc-q35-7.2`.
    pub name: Option<String>,
    /// `hvm` for what QEMU runs.
    pub os_type: Option<String>,
    /// The program that runs it.
    pub emulator: Option<String>,
    /// `<features><acpi/>`.
    pub acpi: bool,
    /// `<features><hyperv>`, which guests of Windows have.
    pub hyperv: bool,
    /// UEFI: `firmware='efi'` or a loader of type `pflash`.
    pub uefi: bool,
    /// Firmware in system management mode (secure boot), which must agree to each vCPU that is plugged.
    pub secure_firmware: bool,
}

/// What a machine type's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// x86, i440FX.
    Pc,
    /// x86, Q35.
    Q35,
    /// Arm's, RISC-V's or LoongArch's virtual board.
    Virt,
    /// POWER's.
    Pseries,
    /// IBM Z's.
    S390Ccw,
    /// x86 without hot-plug of memory or vCPUs: microvm.
    Microvm,
    /// x86 without PCI.
    Isapc,
    /// One that this version does not know.
    Other,
}

impl Machine {
    /// The board. Without a machine type libvirt takes the first one of the architecture.
    pub fn board(&self, arch: &str) -> Board {
        let Some(name) = self.name.as_deref() else {
            return default_board(arch);
        };
        match name {
            "pc" => Board::Pc,
            "q35" => Board::Q35,
            "microvm" => Board::Microvm,
            "isapc" => Board::Isapc,
            _ if name.starts_with("pc-q35-") => Board::Q35,
            // `pc-0.12` to `pc-1.3` and `rhel6.6.0` are i440FX boards from before the name said so.
            _ if name.starts_with("pc-") || name.starts_with("rhel6.") => Board::Pc,
            _ if name == "virt" || name.starts_with("virt-") => Board::Virt,
            _ if name.starts_with("pseries") => Board::Pseries,
            _ if name.starts_with("s390-ccw") => Board::S390Ccw,
            _ => Board::Other,
        }
    }

    /// QEMU's version in the machine type (`pc-q35-7.2` is 7, 2). None for an alias, which is the newest one, and for
    /// distributions' own names.
    pub fn version(&self) -> Option<(u32, u32)> {
        let (_, last) = self.name.as_deref()?.rsplit_once('-')?;
        let (major, minor) = last.split_once('.')?;
        Some((plain(major)?, plain(minor)?))
    }

    /// True for a machine type of QEMU older than `major.minor`; false where the name has no version.
    pub fn is_older_than(&self, major: u32, minor: u32) -> bool {
        self.version().is_some_and(|version| version < (major, minor))
    }
}

fn default_board(arch: &str) -> Board {
    match arch {
        "x86_64" | "i686" => Board::Pc,
        "aarch64" | "riscv64" | "loongarch64" => Board::Virt,
        "ppc64" | "ppc64le" => Board::Pseries,
        "s390x" => Board::S390Ccw,
        _ => Board::Other,
    }
}

fn plain(number: &str) -> Option<u32> {
    if number.bytes().all(|b| b.is_ascii_digit()) { number.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str) -> Machine {
        Machine { name: Some(name.to_owned()), ..Machine::default() }
    }

    #[test]
    fn boards_are_told_by_name() {
        for (name, board) in [
            ("pc", Board::Pc),
            ("pc-i440fx-7.2", Board::Pc),
            ("pc-i440fx-jammy", Board::Pc),
            ("pc-1.0", Board::Pc),
            ("q35", Board::Q35),
            ("pc-q35-rhel9.4.0", Board::Q35),
            ("virt-8.0", Board::Virt),
            ("pseries-7.2", Board::Pseries),
            ("s390-ccw-virtio-7.2", Board::S390Ccw),
            ("microvm", Board::Microvm),
            ("isapc", Board::Isapc),
            ("xenpv", Board::Other),
        ] {
            assert_eq!(machine(name).board("x86_64"), board, "{name}");
        }
        assert_eq!(Machine::default().board("aarch64"), Board::Virt);
    }

    #[test]
    fn only_qemus_own_names_have_its_version() {
        assert_eq!(machine("pc-q35-7.2").version(), Some((7, 2)));
        assert_eq!(machine("pc-1.0").version(), Some((1, 0)));
        assert_eq!(machine("q35").version(), None);
        assert_eq!(machine("pc-q35-rhel9.4.0").version(), None);
        assert_eq!(machine("pc-i440fx-noble").version(), None);
        assert!(machine("pc-i440fx-2.0").is_older_than(2, 1));
        assert!(!machine("pc-i440fx-10.0").is_older_than(2, 1));
        assert!(!machine("q35").is_older_than(9, 9));
    }
}
