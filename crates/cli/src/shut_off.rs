//! A machine that does not run: what its next start has, and what of a wish could then be done. Pure.

use drive::domxml::{Domain, MemoryModel};
use scale::plan::{Obstacle, Refusal, When};
use scale::units::{Bytes, Change};
use scale::wanted::Wanted;

use crate::address::quoted;
use crate::words::{about, as_value, count};

/// A machine that does not run.
#[derive(Debug)]
pub(crate) struct Asleep<'a> {
    /// How the user named it.
    pub(crate) vm: String,
    /// Its name.
    pub(crate) name: &'a str,
    /// What it does instead, in libvirt's words.
    pub(crate) state: String,
    /// `virsh` at its libvirt.
    pub(crate) virsh: String,
    /// What its next start takes.
    pub(crate) next: &'a Domain,
}

impl Asleep<'_> {
    /// The memory of its next start.
    fn memory(&self) -> Bytes {
        let given = self.next.memory_devices.iter().map(|device| match device.model {
            MemoryModel::VirtioMem => device.requested.unwrap_or(Bytes::ZERO),
            MemoryModel::Dimm | MemoryModel::Other(_) => device.size,
            MemoryModel::Nvdimm | MemoryModel::VirtioPmem | MemoryModel::SgxEpc => Bytes::ZERO,
        });
        self.next.memory.boot + given.sum()
    }

    fn ceiling(&self) -> Bytes {
        self.next.memory.max.map_or(self.memory(), |max| max.size)
    }

    fn sizes(&self) -> String {
        let most = |grows: bool, ceiling: String| {
            if grows { format!(" of at most {ceiling}") } else { String::new() }
        };
        let vcpus = &self.next.vcpus;
        format!(
            "{} of memory{} and {}{}",
            about(self.memory()),
            most(self.ceiling() > self.memory(), about(self.ceiling())),
            count(vcpus.current.into(), "vCPU"),
            most(vcpus.max > vcpus.current, vcpus.max.to_string()),
        )
    }

    fn start(&self) -> String {
        format!("{} start {}", self.virsh, quoted(self.name))
    }

    /// What it is and what its next start has.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} does not run ({}); its next start has {}. Start it with `{}`",
            self.name,
            self.state,
            self.sizes(),
            self.start()
        )
    }
}

/// What is wanted of a machine that does not run: not now, and how it could be had.
pub(crate) fn refusal(asleep: &Asleep<'_>, wanted: &Wanted) -> Refusal {
    let memory = wanted.memory.map(|change| match change {
        Change::To(size) => size,
        Change::Grow(by) => asleep.memory() + by,
        Change::Shrink(by) => asleep.memory().saturating_sub(by),
    });
    let vcpus = wanted.vcpus.map(|change| match change {
        Change::To(count) => count,
        Change::Grow(by) => asleep.next.vcpus.current.saturating_add(by),
        Change::Shrink(by) => asleep.next.vcpus.current.saturating_sub(by),
    });
    let raise_memory = memory.filter(|size| *size > asleep.ceiling());
    let raise_vcpus = vcpus.filter(|count| *count > asleep.next.vcpus.max);
    let options: String = [
        raise_memory.map(|size| format!(" --max-memory {}", as_value(size))),
        raise_vcpus.map(|count| format!(" --max-vcpus {count}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let lower = memory.is_some_and(|size| size < asleep.memory())
        || vcpus.is_some_and(|count| count < asleep.next.vcpus.current);
    let (Asleep { vm, name, virsh, .. }, start) = (asleep, asleep.start());
    let way_out = if !options.is_empty() {
        format!(
            "raise its ceilings with `supple prepare {vm}{options}`, start it with `{start}`, and ask again"
        )
    } else if lower {
        format!(
            "that is less than it starts with: lower what it starts with (`{virsh} edit {}`), or start it with `{start}` \
             and ask again",
            quoted(name)
        )
    } else {
        format!("start it with `{start}` and ask again: its ceilings allow it")
    };
    let reason = format!(
        "{name} does not run ({}), and only a running machine is resized; its next start has {}",
        asleep.state,
        asleep.sizes()
    );
    Refusal { obstacles: vec![Obstacle { when: When::Cold, reason, way_out }] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(wanted: Wanted) -> (String, String) {
        let xml = "<domain type='kvm'><name>web1</name><maxMemory slots='16' unit='GiB'>8</maxMemory>\
                   <memory unit='GiB'>2</memory><vcpu current='2'>4</vcpu></domain>";
        let next = Domain::parse(xml).unwrap();
        let asleep = Asleep {
            vm: "web1".to_owned(),
            name: "web1",
            state: "shut off".to_owned(),
            virsh: "virsh -c qemu:///system".to_owned(),
            next: &next,
        };
        let mut refusal = refusal(&asleep, &wanted);
        let Obstacle { when, reason, way_out } = refusal.obstacles.remove(0);
        assert_eq!(when, When::Cold);
        (reason, way_out)
    }

    fn memory(change: Change<Bytes>) -> Wanted {
        Wanted { memory: Some(change), ..Wanted::default() }
    }

    #[test]
    fn what_the_next_start_could_do_is_said() {
        let (reason, way_out) = told(memory(Change::To(Bytes::gib(8))));
        assert!(
            reason.ends_with("its next start has 2 GiB of memory of at most 8 GiB and 2 vCPUs of at most 4"),
            "{reason}"
        );
        assert_eq!(
            way_out,
            "start it with `virsh -c qemu:///system start web1` and ask again: its ceilings allow it"
        );
    }

    #[test]
    fn what_is_above_the_ceilings_is_to_be_prepared_first() {
        let wanted = Wanted { vcpus: Some(Change::Grow(6)), ..memory(Change::Grow(Bytes::gib(14))) };
        let (_, way_out) = told(wanted);
        assert!(
            way_out.starts_with(
                "raise its ceilings with `supple prepare web1 --max-memory 16GiB --max-vcpus 8`"
            ),
            "{way_out}"
        );
    }

    #[test]
    fn what_is_below_its_start_is_edited() {
        let (_, way_out) = told(memory(Change::Shrink(Bytes::gib(1))));
        assert!(
            way_out.contains("less than it starts with") && way_out.contains("qemu:///system edit web1"),
            "{way_out}"
        );
    }
}
