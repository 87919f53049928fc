//! What prepare makes of single descriptions, word by word.

use crate::corpus::text;
use drive::domxml::{Domain, HostLimits, MemoryModel, Prepare, Prepared, VirtioMem, prepare};
use scale::units::Bytes;

fn prepared(name: &str, want: &Prepare) -> Prepared {
    let host = HostLimits { address_bits: Some(46), ..HostLimits::default() };
    prepare(&text(name), want, &host).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn memory(gib: u64, slots: u32) -> Prepare {
    Prepare { max_memory: Some(Bytes::gib(gib)), slots: Some(slots), ..Prepare::default() }
}

fn vcpus(max: u32) -> Prepare {
    Prepare { max_vcpus: Some(max), ..Prepare::default() }
}

/// The lines that the diff takes out and puts in, each without its indentation.
fn changed(prepared: &Prepared) -> Vec<String> {
    let lines = prepared.diff.lines().skip(2).filter(|line| line.starts_with(['-', '+']));
    lines.map(|line| format!("{}{}", &line[..1], line[1..].trim())).collect()
}

#[test]
fn a_plain_machine_gets_a_ceiling_and_its_first_cell() {
    let done = prepared("plain-pc", &memory(64, 32));
    assert_eq!(
        changed(&done),
        [
            "+<maxMemory slots='32' unit='KiB'>67108864</maxMemory>",
            "-<cpu mode='host-model' check='partial'/>",
            "+<cpu mode='host-model' check='partial'>",
            "+<numa>",
            "+<cell id='0' cpus='0-1' memory='2097152' unit='KiB'/>",
            "+</numa>",
            "+</cpu>",
        ]
    );
    assert!(
        done.diff.starts_with("--- plain-pc as it is\n+++ plain-pc from the next boot\n@@"),
        "{}",
        done.diff
    );
    assert_eq!(done.undo, text("plain-pc"));
    assert_eq!(done.changes.len(), 2, "{:?}", done.changes);
    assert!(done.notes[0].contains("when the machine is next started"), "{:?}", done.notes);
}

#[test]
fn a_machine_of_few_words_is_filled_in() {
    let want = Prepare { max_vcpus: Some(2), agent_channel: true, ..memory(2, 16) };
    let done = prepared("tiny", &want);
    assert_eq!(
        done.xml,
        "<domain type='kvm'>\n  <name>tiny</name>\n  <maxMemory slots='16' unit='KiB'>2097152</maxMemory>\n  \
         <memory>524288</memory>\n  <vcpu placement='static' current='1'>2</vcpu>\n  <vcpus>\n    \
         <vcpu id='0' enabled='yes' hotpluggable='no'/>\n    <vcpu id='1' enabled='no' hotpluggable='yes'/>\n  \
         </vcpus>\n  <os>\n    <type arch='x86_64'>hvm</type>\n  </os>\n  <features>\n    <acpi/>\n  </features>\n  \
         <cpu>\n    <numa>\n      <cell id='0' cpus='0-1' memory='524288' unit='KiB'/>\n    </numa>\n  </cpu>\n  \
         <devices>\n    <channel type='unix'>\n      \
         <target type='virtio' name='org.qemu.guest_agent.0'/>\n    </channel>\n  </devices>\n</domain>\n"
    );
}

#[test]
fn a_description_on_one_line_stays_on_one_line() {
    let want = Prepare { agent_channel: true, ..memory(8, 16) };
    let done = prepared("oneline", &want);
    assert!(!done.xml.contains('\n'));
    assert!(
        done.xml
            .contains("<maxMemory slots='16' unit='KiB'>8388608</maxMemory><memory unit='GiB'>2</memory>")
    );
    assert!(done.xml.contains("<devices><channel type='unix'><target type='virtio' "));
}

#[test]
fn crlf_and_tabs_are_kept_in_what_is_new() {
    let crlf = prepared("crlf", &memory(8, 16));
    assert!(crlf.xml.contains("\r\n  <maxMemory slots='16' unit='KiB'>8388608</maxMemory>\r\n  <memory "));
    assert_eq!(crlf.xml.matches('\n').count(), crlf.xml.matches("\r\n").count());
    let tabs = prepared("tabs", &memory(8, 16));
    assert!(tabs.xml.contains("\n\t\t<numa>\n\t\t\t<cell id='0' "), "{}", tabs.xml);
}

#[test]
fn remarks_stay_where_they_were() {
    let want = Prepare { max_vcpus: Some(4), agent_channel: true, ..memory(8, 16) };
    let done = prepared("comments", &want);
    assert!(done.xml.contains("until the cache moved in -->\n  <maxMemory slots='16' unit='KiB'>8388608</maxMemory>\n  <memory unit='MiB'>1024</memory> <!-- never less -->"));
    assert!(done.xml.contains(
        "<vcpu current='2'><!-- at boot -->4</vcpu> <!-- two are enough --> <!-- really -->\n  <vcpus>"
    ));
    assert!(done.xml.contains("  </vcpus>\n  <!-- <vcpu>16</vcpu> -->\n"));
    assert!(done.xml.contains("<!-- nothing yet -->\n    <numa>"));
    assert!(done.xml.contains("<!-- last -->\n    <channel type='unix'>"));
}

#[test]
fn elements_of_others_are_not_touched() {
    let want = Prepare { max_vcpus: Some(4), agent_channel: true, ..memory(8, 16) };
    let (before, done) = (text("namespaces"), prepared("namespaces", &want));
    let metadata =
        |xml: &str| xml[xml.find("<metadata>").unwrap()..xml.find("</metadata>").unwrap()].to_owned();
    assert_eq!(metadata(&before), metadata(&done.xml));
    assert!(done.notes.iter().any(|note| note.contains("ICH9-LPC.disable_s3=1")), "{:?}", done.notes);
}

#[test]
fn a_ceiling_is_raised_in_the_unit_it_was_written_in() {
    let done = prepared("units-mixed", &Prepare { max_memory: Some(Bytes::gib(16)), ..Prepare::default() });
    assert_eq!(
        changed(&done),
        ["-<maxMemory slots='4' unit='GiB'>8</maxMemory>", "+<maxMemory slots='4' unit='GiB'>16</maxMemory>"]
    );
    let odd =
        prepared("units-mixed", &Prepare { max_memory: Some(Bytes::mib(8 << 10 | 1)), ..Prepare::default() });
    assert_eq!(changed(&odd)[1], "+<maxMemory slots='4' unit='KiB'>8389632</maxMemory>");
}

#[test]
fn a_ceiling_between_two_mib_becomes_what_libvirt_would_make_of_it() {
    let want = Prepare { max_memory: Some(Bytes::new(64_000_000_000)), ..Prepare::default() };
    let domain = Domain::parse(&prepared("plain-pc", &want).xml).unwrap();
    assert_eq!(domain.memory.max.map(|max| max.size), Some(Bytes::mib(61_036)));
}

#[test]
fn memory_devices_without_a_node_join_the_first_cell() {
    let done = prepared("dimm-without-numa", &memory(8, 8));
    assert!(done.xml.contains("<target><size unit='GiB'>1</size><node>0</node></target>"), "{}", done.xml);
    assert!(done.xml.contains("<cell id='0' cpus='0' memory='1048576' unit='KiB'/>"));
}

#[test]
fn new_vcpus_are_listed_as_hotpluggable_and_those_at_boot_stay() {
    let done = prepared("plain-pc", &vcpus(4));
    assert_eq!(
        changed(&done),
        [
            "-<vcpu placement='static'>2</vcpu>",
            "+<vcpu placement='static' current='2'>4</vcpu>",
            "+<vcpus>",
            "+<vcpu id='0' enabled='yes' hotpluggable='no'/>",
            "+<vcpu id='1' enabled='yes' hotpluggable='no'/>",
            "+<vcpu id='2' enabled='no' hotpluggable='yes'/>",
            "+<vcpu id='3' enabled='no' hotpluggable='yes'/>",
            "+</vcpus>",
        ]
    );
}

#[test]
fn a_list_that_is_there_is_continued() {
    let done = prepared("vcpus-list", &vcpus(6));
    assert_eq!(
        changed(&done)[2..],
        [
            "+<vcpu id='4' enabled='no' hotpluggable='yes'/>",
            "+<vcpu id='5' enabled='no' hotpluggable='yes'/>"
        ]
    );
}

#[test]
fn vcpus_at_boot_become_removable_on_request_save_the_first() {
    let want = Prepare { removable_vcpus: true, ..Prepare::default() };
    let done = prepared("plain-pc", &want);
    let domain = Domain::parse(&done.xml).unwrap();
    assert_eq!(domain.vcpus.each.iter().map(|v| v.hotpluggable).collect::<Vec<_>>(), [false, true]);
    assert_eq!((domain.vcpus.current, domain.vcpus.max), (2, 2));
    assert!(prepared("vcpus-list", &want).is_unchanged());
}

#[test]
fn a_core_of_ppc64_is_removable_as_a_whole_or_not_at_all() {
    let want = Prepare { removable_vcpus: true, ..Prepare::default() };
    let both = text("ppc64").replace("<vcpu current='8'>16", "<vcpu>16");
    let done = prepare(&both, &want, &HostLimits::default()).unwrap_or_else(|e| panic!("{e}"));
    let vcpus = Domain::parse(&done.xml).unwrap().vcpus.each;
    assert_eq!(vcpus.len(), 16);
    assert!(vcpus.iter().all(|vcpu| vcpu.enabled && vcpu.hotpluggable == (vcpu.id >= 8)), "{vcpus:?}");
}

#[test]
fn the_topology_grows_by_sockets_and_for_windows_by_cores() {
    let sockets = prepared("topology", &vcpus(12));
    assert!(changed(&sockets).contains(&"+<topology sockets='3' cores='2' threads='2'/>".to_owned()));
    let cores = prepared("windows", &vcpus(8));
    assert!(changed(&cores).contains(&"+<topology sockets='2' cores='4' threads='1'/>".to_owned()));
    assert!(cores.notes.iter().any(|note| note.contains("limit sockets")), "{:?}", cores.notes);
}

#[test]
fn new_vcpus_are_shared_out_among_the_cells_socket_by_socket() {
    let cells = |name: &str, max: u32| -> Vec<String> {
        let domain = Domain::parse(&prepared(name, &vcpus(max)).xml).unwrap();
        domain.cpu.cells.iter().map(|cell| cell.cpus.to_string()).collect()
    };
    assert_eq!(cells("numa-two", 8), ["0-1,4-5", "2-3,6-7"]);
    assert_eq!(cells("numa-two", 6), ["0-1,4-5", "2-3"]);
    assert_eq!(cells("numa-cpuless", 6), ["0,3-4", "", "1-2,5"]);
    assert_eq!(cells("numa-caret", 6), ["0-1,3-4", "2,5"]);
    assert_eq!(cells("numa-partial", 8), ["0,2-6", "1,7"]);
}

#[test]
fn vcpus_in_no_cell_are_written_where_libvirt_puts_them() {
    let done = prepared("numa-partial", &memory(8, 16));
    let domain = Domain::parse(&done.xml).unwrap();
    assert_eq!(domain.cpu.cells[0].cpus.to_string(), "0,2-5");
    assert!(
        done.xml.contains(
            "<cell id='1' cpus='1' memory='1048576' unit='KiB'/>\n      <cell id='0' cpus='0,2-5' "
        )
    );
}

#[test]
fn a_virtio_mem_device_takes_what_the_ceiling_leaves_and_gives_nothing_yet() {
    let want = Prepare { virtio_mem: Some(VirtioMem::default()), ..memory(64, 32) };
    let done = prepared("plain-pc", &want);
    let domain = Domain::parse(&done.xml).unwrap();
    let device = &domain.memory_devices[0];
    assert_eq!((&device.model, device.size, device.node), (&MemoryModel::VirtioMem, Bytes::gib(62), Some(0)));
    assert_eq!((device.block, device.requested), (Some(Bytes::mib(2)), Some(Bytes::ZERO)));
    assert_eq!((domain.memory.written, domain.memory.current), (Some(Bytes::gib(64)), Some(Bytes::gib(2))));
    assert_eq!(domain.memory.boot, Bytes::gib(2));
}

#[test]
fn what_the_guest_has_at_boot_is_written_down_before_the_sum_grows() {
    let want = Prepare {
        virtio_mem: Some(VirtioMem { size: Some(Bytes::gib(1)), ..VirtioMem::default() }),
        ..memory(4, 16)
    };
    let domain = Domain::parse(&prepared("tiny", &want).xml).unwrap();
    assert_eq!(
        (domain.memory.written, domain.memory.current),
        (Some(Bytes::mib(1536)), Some(Bytes::mib(512)))
    );
}

#[test]
fn a_virtio_mem_device_that_is_there_is_kept_or_resized() {
    let ask =
        |size| Prepare { virtio_mem: Some(VirtioMem { size, ..VirtioMem::default() }), ..Prepare::default() };
    assert!(prepared("virtio-mem", &ask(None)).is_unchanged());
    let grown = prepared("virtio-mem", &ask(Some(Bytes::gib(12))));
    assert_eq!(
        changed(&grown),
        [
            "-<memory unit='KiB'>9437184</memory>",
            "+<memory unit='KiB'>13631488</memory>",
            "-<size unit='KiB'>8388608</size>",
            "+<size unit='KiB'>12582912</size>",
        ]
    );
}

#[test]
fn a_block_is_as_large_as_huge_pages_and_vfio_need() {
    let block = |xml: &str, want: &Prepare| {
        let host = HostLimits { address_bits: Some(46), ..HostLimits::default() };
        let done = prepare(xml, want, &host).unwrap_or_else(|e| panic!("{e}"));
        Domain::parse(&done.xml).unwrap().memory_devices[0].block
    };
    let want = |gib| Prepare { virtio_mem: Some(VirtioMem::default()), ..memory(gib, 16) };
    let pages = text("hugepages").replace("<locked/>", "");
    assert_eq!(block(&pages, &want(16)), Some(Bytes::gib(1)));
    assert_eq!(block(&text("vfio"), &want(300)), Some(Bytes::mib(2)));
    assert_eq!(block(&text("vfio"), &want(1024)), Some(Bytes::mib(32)));
}

#[test]
fn ppc64_needs_no_cell_and_grows_by_256_mib() {
    let want = Prepare { max_memory: Some(Bytes::mib(8193)), max_vcpus: Some(32), ..Prepare::default() };
    let done = prepared("ppc64", &want);
    assert!(done.xml.contains("<maxMemory slots='16' unit='KiB'>8650752</maxMemory>"));
    assert!(!done.xml.contains("<numa>"));
    assert!(done.xml.contains("<topology sockets='2' cores='2' threads='8'/>"));
}

#[test]
fn s390x_grows_by_virtio_mem_without_slots_or_cells() {
    let want = Prepare {
        max_memory: Some(Bytes::gib(8)),
        max_vcpus: Some(4),
        virtio_mem: Some(VirtioMem::default()),
        ..Prepare::default()
    };
    let host = HostLimits { huge_page: Bytes::mib(1), ..HostLimits::default() };
    let done = prepare(&text("s390x"), &want, &host).unwrap_or_else(|e| panic!("{e}"));
    assert!(done.xml.contains("<maxMemory unit='KiB'>8388608</maxMemory>"));
    assert!(done.xml.contains("<block unit='KiB'>1024</block>"));
    assert!(!done.xml.contains("<numa>"));
}

#[test]
fn only_what_is_asked_for_is_changed() {
    let agent = Prepare { agent_channel: true, ..Prepare::default() };
    assert!(prepared("q35-ovmf", &agent).is_unchanged());
    let done = prepared("numa-partial", &agent);
    assert_eq!(changed(&done).len(), 3, "{}", done.diff);
    assert!(prepared("numa-partial", &Prepare::default()).is_unchanged());
    assert!(prepared("plain-pc", &Prepare::default()).diff.is_empty());
}

#[test]
fn what_will_surprise_later_is_said_now() {
    let said = |name: &str, want: &Prepare| prepared(name, want).notes.join("\n");
    assert!(said("memfd-shared", &memory(8, 16)).contains("<hard_limit> is 3 GiB"));
    assert!(said("memfd-shared", &memory(8, 16)).contains("vhost-user"));
    assert!(said("hugepages", &memory(8, 16)).contains("huge pages of 1 GiB"));
    assert!(said("vfio", &memory(512, 16)).contains("pinned"));
    assert!(said("q35-ovmf", &vcpus(8)).contains("firmware must agree"));
    assert!(said("dimm-of-guides", &memory(32, 32)).contains("524287 KiB is no whole number"));
}
