//! What differs between generations of QEMU, as data: one row for each difference that Supple acts on.
//!
//! Planner, auditor, doctor and drivers ask a row here, and none of them compares versions by itself; docs/qemu.md has the
//! same rows, with the tests that saw them. What a QEMU can do at all is probed and no business of this table (see
//! `doctor::host`).

use crate::observed::{Accel, Machine, Version};

/// What older QEMUs do and later ones do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// What it is, for people.
    pub what: &'static str,
    /// The first QEMU that is known not to have it.
    pub until: Version,
    /// Whether only emulated machines have it.
    pub emulated: bool,
}

/// Seen with Debian's 7.2 (the heap is damaged by then), with a DIMM added, a DIMM removed and a vCPU added, and not with
/// 10.0. Nothing between them was tried, so it counts as theirs too.
pub const DIES_AFTER_A_VCPU_REMOVAL: Difference = Difference {
    what: "a DIMM that comes or goes, or a vCPU that comes, after a vCPU was removed ends an emulated machine",
    until: Version(10, 0, 0),
    emulated: true,
};

/// qapi/qom.json, 6.0 ("object-add: 'props' was removed").
pub const NESTS_OBJECT_PROPERTIES: Difference = Difference {
    what: "the properties of a new object are given in a part of their own",
    until: Version(6, 0, 0),
    emulated: false,
};

/// All of them.
pub const DIFFERENCES: [Difference; 2] = [DIES_AFTER_A_VCPU_REMOVAL, NESTS_OBJECT_PROPERTIES];

impl Difference {
    /// Whether a QEMU of this version has it, on machines that can.
    pub fn is_in(self, qemu: Version) -> bool {
        qemu < self.until
    }

    /// Whether this machine has it. Where QEMU does not say how it runs its vCPUs, it is not taken to emulate them.
    pub fn concerns(self, machine: &Machine) -> bool {
        self.is_in(machine.qemu) && (!self.emulated || machine.accel == Accel::Tcg)
    }
}
