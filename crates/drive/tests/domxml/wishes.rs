//! Any wish on any description: what holds of every result.

use crate::corpus::all;
use drive::domxml::{Domain, HostLimits, MemoryModel, Prepare, Prepared, VirtioMem, prepare};
use proptest::prelude::*;
use scale::units::Bytes;

fn wish() -> impl Strategy<Value = Prepare> {
    let memory = prop::option::of(prop::sample::select(vec![
        Bytes::mib(700),
        Bytes::gib(1),
        Bytes::gib(4),
        Bytes::gib(16),
        Bytes::gib(64),
        Bytes::gib(512),
        Bytes::gib(2048),
        Bytes::new(64_000_000_000),
    ]));
    let slots = prop::option::weighted(0.3, prop::sample::select(vec![0, 1, 8, 16, 32, 256, 257]));
    let vcpus = prop::option::of(prop::sample::select(vec![1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 255, 300]));
    let size = prop::option::of(prop::sample::select(vec![Bytes::mib(512), Bytes::gib(2), Bytes::gib(12)]));
    let device = prop::option::of(
        (size, prop_oneof![6 => Just(0), 1 => 1..3u32]).prop_map(|(size, node)| VirtioMem {
            size,
            block: None,
            node,
        }),
    );
    (memory, slots, vcpus, any::<bool>(), device, any::<bool>()).prop_map(
        |(max_memory, slots, max_vcpus, removable_vcpus, virtio_mem, agent_channel)| Prepare {
            max_memory,
            slots,
            max_vcpus,
            removable_vcpus,
            virtio_mem,
            agent_channel,
        },
    )
}

fn host() -> impl Strategy<Value = HostLimits> {
    (prop::option::of(36u32..52), any::<bool>()).prop_map(|(address_bits, amd)| HostLimits {
        address_bits,
        amd,
        ..HostLimits::default()
    })
}

/// The shapes that each description is also tried in.
fn reshaped(text: &str, shape: u8) -> String {
    match shape {
        0 => text.to_owned(),
        1 => text.replace("\r\n", "\n").replace('\n', "\r\n"),
        2 => text.lines().map(str::trim).collect(),
        _ => text.replace("  ", "\t"),
    }
}

/// Everything that was asked for is in the result.
fn assert_has(domain: &Domain, want: &Prepare) {
    let max = domain.memory.max;
    if let Some(asked) = want.max_memory {
        let size = max.expect("a ceiling").size;
        assert!(size >= asked && size < asked + Bytes::mib(256), "{size} for {asked}");
        assert!(size >= domain.total_memory());
    }
    if let Some(asked) = want.slots {
        assert_eq!(max.and_then(|max| max.slots), Some(asked));
    }
    if let Some(asked) = want.max_vcpus {
        assert_eq!(domain.vcpus.max, asked);
        assert!(domain.cpu.topology.is_none_or(|topology| topology.vcpus() == u64::from(asked)));
        for id in 0..asked {
            let covered = domain.cpu.cells.iter().filter(|cell| cell.cpus.contains(id)).count();
            assert_eq!(covered, usize::from(!domain.cpu.cells.is_empty()), "vCPU {id}");
        }
    }
    if want.removable_vcpus {
        let ppc64 = domain.machine.arch.as_deref() == Some("ppc64le");
        let fixed = domain.cpu.topology.filter(|_| ppc64).map_or(1, |topology| topology.threads);
        assert!(domain.vcpus.each.iter().all(|vcpu| vcpu.hotpluggable || vcpu.id < fixed));
    }
    if let Some(asked) = want.virtio_mem {
        let device = domain
            .memory_devices
            .iter()
            .find(|device| device.model == MemoryModel::VirtioMem && device.node.unwrap_or(0) == asked.node);
        let device = device.expect("a virtio-mem device");
        assert!(asked.size.is_none_or(|size| size == device.size));
    }
    assert!(!want.agent_channel || domain.agent.is_some());
}

/// Lines that went out are those of the few elements that prepare changes.
fn assert_spares_the_rest(before: &str, done: &Prepared) {
    let may_change = [
        "<maxMemory",
        "<memory",
        "<vcpu",
        "<topology",
        "<cell",
        "<size",
        "current=",
        "<block",
        "<cpu",
        "<devices",
        "<target",
    ];
    for line in done.diff.lines().skip(2).filter(|line| line.starts_with('-')) {
        assert!(may_change.iter().any(|name| line.contains(name)), "{line}\n{}", done.diff);
    }
    let mut rest = done.xml.as_str();
    for remark in before.split("<!--").skip(1).map(|piece| &piece[..piece.find("-->").expect("closed")]) {
        let place = rest.find(remark).unwrap_or_else(|| panic!("lost: {remark}"));
        rest = &rest[place + remark.len()..];
    }
}

/// So many cases, or as many more as `PROPTEST_CASES` asks for.
fn cases(least: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(least), ..default }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_wish_is_granted_whole_once_and_without_side_effects(
        which in any::<prop::sample::Index>(), shape in 0..4u8, want in wish(), host in host(),
    ) {
        let all = all();
        let description = &all[which.index(all.len())];
        let text = reshaped(&description.text, shape);
        let Ok(done) = prepare(&text, &want, &host) else { return Ok(()) };
        let (before, after) = (Domain::parse(&text).unwrap(), Domain::parse(&done.xml).unwrap());
        assert_has(&after, &want);
        prop_assert_eq!(after.memory.boot, before.memory.boot);
        prop_assert_eq!(after.vcpus.current, before.vcpus.current);
        prop_assert_eq!(&after.machine, &before.machine);
        prop_assert_eq!(&after.metadata(), &before.metadata());
        if shape != 2 {
            assert_spares_the_rest(&text, &done);
        }
        prop_assert_eq!(done.is_unchanged(), done.changes.is_empty(), "{:?}\n{}", done.changes, done.diff);
        prop_assert_eq!(&done.undo, &text);
        let again = prepare(&done.xml, &want, &host).unwrap_or_else(|e| panic!("{e}\n{}", done.xml));
        prop_assert!(again.is_unchanged(), "{}", again.diff);
        prop_assert!(again.diff.is_empty() && again.changes.is_empty());
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_description_with_a_piece_taken_out_or_doubled_is_prepared_whole_or_refused(
        which in any::<prop::sample::Index>(), from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
        doubled in any::<bool>(), want in wish(), host in host(),
    ) {
        let all = all();
        let text = &all[which.index(all.len())].text;
        // Between two tags, so that what comes out is often still XML.
        let tags: Vec<usize> = text.match_indices('<').map(|(place, _)| place).collect();
        let (from, to) = (tags[from.index(tags.len())], tags[to.index(tags.len())]);
        let (from, to) = (from.min(to), from.max(to));
        let (head, tail) = if doubled { (&text[..to], &text[from..]) } else { (&text[..from], &text[to..]) };
        let text = format!("{head}{tail}");
        let Ok(done) = prepare(&text, &want, &host) else { return Ok(()) };
        assert_has(&Domain::parse(&done.xml).unwrap(), &want);
        let again = prepare(&done.xml, &want, &host).unwrap_or_else(|e| panic!("{e}\n{}", done.xml));
        prop_assert!(again.is_unchanged(), "{}", again.diff);
    }
}

/// What must be the same before and after.
trait Metadata {
    fn metadata(&self) -> (&str, Option<&str>, Option<&str>, &[String]);
}

impl Metadata for Domain {
    fn metadata(&self) -> (&str, Option<&str>, Option<&str>, &[String]) {
        (&self.name, self.uuid.as_deref(), self.os.as_deref(), &self.raw_arguments)
    }
}
