//! The rules by which other managers lay DIMMs out, written from what their code does. Sizes in MiB.
//!
//! Only the rules: no retries, no I/O. What a manager refuses or QEMU fails at leaves its machine as it was.

/// A manager of one machine's DIMMs.
pub(crate) trait Manager {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Brings the machine's memory to `want` as far as its rule does. `keeps` is the guest: true for a DIMM of the
    /// given number and size that it does not let go.
    fn resize(&mut self, want: u64, keeps: &mut dyn FnMut(u64, u64) -> bool);
    /// The guest's memory now.
    fn total(&self) -> u64;
    /// What is in DIMMs.
    fn plugged(&self) -> u64;
    /// Slots that hold nothing.
    fn free_slots(&self) -> u64;
}

/// A plugged DIMM: a number of its own, and its size.
#[derive(Debug, Clone, Copy)]
struct Dimm {
    number: u64,
    size: u64,
}

/// Proxmox VE (qemu-server): the layout is a fixed sequence of 32 DIMMs of each size from 512 MiB doubling, and the
/// total says how far along it the machine is. Growth overshoots to the next DIMM; a shrink takes the last ones, past
/// the size asked for, and ends at the first that the guest keeps.
pub(crate) struct Proxmox {
    boot: u64,
    dimms: Vec<Dimm>,
}

impl Proxmox {
    pub(crate) fn new(boot: u64) -> Proxmox {
        Proxmox { boot, dimms: Vec::new() }
    }
}

impl Manager for Proxmox {
    fn name(&self) -> &'static str {
        "Proxmox VE"
    }

    fn resize(&mut self, want: u64, keeps: &mut dyn FnMut(u64, u64) -> bool) {
        // Growth walks the fixed sequence up to the present total, then plugs until the wanted one is reached.
        let mut walked = self.boot;
        for number in 0..256 {
            if walked >= want || self.dimms.len() == 255 {
                break;
            }
            let size = 512 << (number / 32);
            walked += size;
            if walked > self.total() {
                self.dimms.push(Dimm { number, size });
            }
        }
        while let Some(last) = self.dimms.last().filter(|_| self.total() > want).copied() {
            if keeps(last.number, last.size) {
                break;
            }
            self.dimms.pop();
        }
    }

    fn total(&self) -> u64 {
        self.boot + self.plugged()
    }

    fn plugged(&self) -> u64 {
        self.dimms.iter().map(|d| d.size).sum()
    }

    fn free_slots(&self) -> u64 {
        255 - self.dimms.len() as u64
    }
}

/// One DIMM for each growth, of just its size; how a shrink is made differs.
pub(crate) struct OnePerGrowth {
    name: &'static str,
    boot: u64,
    top: u64,
    slots: u64,
    shrink: Shrink,
    next: u64,
    dimms: Vec<Dimm>,
    balloon: u64,
}

/// How the manager shrinks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shrink {
    /// oVirt: the biggest DIMMs that fit, never past the size asked for, each only requested.
    BiggestThatFit,
    /// OpenNebula: a DIMM of just the size, if there is one.
    ExactDimm,
    /// Incus: the balloon, which removes nothing.
    Balloon,
}

impl OnePerGrowth {
    pub(crate) fn ovirt(boot: u64, top: u64) -> OnePerGrowth {
        OnePerGrowth::new("oVirt", (boot, top), 16, Shrink::BiggestThatFit)
    }

    pub(crate) fn opennebula(boot: u64, top: u64) -> OnePerGrowth {
        OnePerGrowth::new("OpenNebula", (boot, top), 16, Shrink::ExactDimm)
    }

    pub(crate) fn incus(boot: u64, top: u64) -> OnePerGrowth {
        OnePerGrowth::new("Incus", (boot, top), 8, Shrink::Balloon)
    }

    fn new(name: &'static str, (boot, top): (u64, u64), slots: u64, shrink: Shrink) -> OnePerGrowth {
        OnePerGrowth { name, boot, top, slots, shrink, next: 0, dimms: Vec::new(), balloon: 0 }
    }

    fn plug(&mut self, size: u64) -> bool {
        // QEMU holds to `maxmem`, whatever a balloon has taken.
        let room = self.top - self.boot - self.plugged();
        let fits = size > 0 && size <= room && (self.dimms.len() as u64) < self.slots;
        if fits {
            self.dimms.push(Dimm { number: self.next, size });
            self.next += 1;
        }
        fits
    }

    fn unplug(&mut self, by: u64, keeps: &mut dyn FnMut(u64, u64) -> bool) {
        let mut going: Vec<Dimm> = self.dimms.iter().filter(|d| d.size <= by).copied().collect();
        going.sort_by_key(|d| std::cmp::Reverse(d.size));
        let mut sum = 0;
        for dimm in going {
            if sum + dimm.size <= by {
                sum += dimm.size;
                if !keeps(dimm.number, dimm.size) {
                    self.dimms.retain(|d| d.number != dimm.number);
                }
            }
        }
    }

    /// Incus adds what the guest lacks by the balloon's account, unless boot memory suffices, and sets the balloon to
    /// what is too much.
    fn balloon(&mut self, want: u64) {
        if want > self.boot && (want <= self.total() || !self.plug(want - self.total())) {
            // `object-add` with nothing or less to add fails, and so does one without a slot or room.
            return;
        }
        self.balloon = self.boot + self.plugged() - want;
    }
}

impl Manager for OnePerGrowth {
    fn name(&self) -> &'static str {
        self.name
    }

    fn resize(&mut self, want: u64, keeps: &mut dyn FnMut(u64, u64) -> bool) {
        let now = self.total();
        match self.shrink {
            Shrink::Balloon if want != now => self.balloon(want),
            Shrink::BiggestThatFit | Shrink::ExactDimm if want > now => {
                self.plug(want - now);
            }
            Shrink::BiggestThatFit => self.unplug(now - want, keeps),
            Shrink::ExactDimm => {
                let exact = self.dimms.iter().position(|d| d.size == now - want);
                if let Some(at) = exact.filter(|at| !keeps(self.dimms[*at].number, self.dimms[*at].size)) {
                    self.dimms.remove(at);
                }
            }
            Shrink::Balloon => {}
        }
    }

    fn total(&self) -> u64 {
        self.boot + self.plugged() - self.balloon
    }

    fn plugged(&self) -> u64 {
        self.dimms.iter().map(|d| d.size).sum()
    }

    fn free_slots(&self) -> u64 {
        self.slots - self.dimms.len() as u64
    }
}
