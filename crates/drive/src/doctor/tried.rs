//! What a libvirt can do: it is asked for its versions, and to translate a few descriptions of machines into QEMU's
//! arguments. It reads and checks them against its QEMU as for a start, and starts and defines nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use scale::doctor::host::{DIMM, Libvirt, LibvirtFacts, REPORTING, VCPUS, VIRTIO_MEM};
use scale::units::Bytes;

use crate::libvirt::{CallError, Code, Connection, Error, Pool, missing};

/// How long all of it may take; it takes 0.1 s, or as long as libvirt needs to ask its QEMU for the first time.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the libvirt at `uri`. `arch` is the host's, as `uname -m` has it.
pub async fn ask_libvirt(uri: &str, arch: &str) -> LibvirtFacts {
    let (whole, of) = (uri.to_owned(), arch.to_owned());
    let lane = Pool::new(1).lane();
    match lane.call("a talk with libvirt", LIMIT, move || ask(&whole, &of)).await {
        Ok(libvirt) => LibvirtFacts::Answers(Box::new(libvirt)),
        Err(CallError::Libvirt(error)) if error.code == Code::NoLibrary => {
            // The message says what to install, and so does the finding that is made of this.
            LibvirtFacts::NoLibrary(missing().map_or(error.message, str::to_owned))
        }
        Err(error) => LibvirtFacts::Silent { uri: uri.to_owned(), why: error.to_string() },
    }
}

/// Blocks as libvirt's calls do.
fn ask(uri: &str, arch: &str) -> Result<Libvirt, Error> {
    let connection = Connection::open(uri)?;
    let versions = connection.versions()?;
    let capabilities = connection.domain_capabilities(None, Some(arch), None, None).unwrap_or_default();
    let told = capabilities_of(&capabilities);
    let tried = machines(arch).into_iter().map(|(subject, xml)| {
        let result = connection.translated(&xml).map(drop).map_err(|error| error.message);
        (subject, result)
    });
    Ok(Libvirt {
        uri: connection.uri().unwrap_or_else(|_| uri.to_owned()),
        library: versions.library,
        daemon: versions.daemon,
        hypervisor: versions.hypervisor,
        emulator: told.emulator,
        max_vcpus: told.max_vcpus,
        tried: tried.collect::<BTreeMap<_, _>>(),
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    emulator: Option<String>,
    max_vcpus: Option<u32>,
}

/// What `<domainCapabilities>` say.
fn capabilities_of(xml: &str) -> Told {
    let Ok(document) = roxmltree::Document::parse(xml) else { return Told::default() };
    let root = document.root_element();
    let child = |name: &str| root.children().find(|node| node.has_tag_name(name));
    Told {
        emulator: child("path").and_then(|node| node.text()).map(str::to_owned),
        max_vcpus: child("vcpu").and_then(|node| node.attribute("max")?.parse().ok()),
    }
}

/// A machine for each thing to try, emulated so that KVM is no condition.
fn machines(arch: &str) -> Vec<(&'static str, String)> {
    let (size, half) = (Bytes::mib(1024), Bytes::mib(512));
    let dimm = format!("<memory model='dimm'><target>{}<node>0</node></target></memory>", kib("size", half));
    let virtio_mem = format!(
        "<memory model='virtio-mem'><target>{}<node>0</node>{}{}</target></memory>",
        kib("size", half),
        kib("block", Bytes::mib(2)),
        kib("requested", Bytes::ZERO)
    );
    let reporting = "<memballoon model='virtio' freePageReporting='on'/>";
    let vcpus = "<vcpu current='1'>4</vcpu><vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' \
                 enabled='no' hotpluggable='yes'/><vcpu id='2' enabled='no' hotpluggable='yes'/><vcpu id='3' \
                 enabled='no' hotpluggable='yes'/></vcpus>";
    let fixed = "<vcpu>4</vcpu>";
    let machine = |vcpus: &str, devices: &str| {
        // Without UEFI, Arm's machines have no ACPI.
        let acpi = if arch == "x86_64" { "<features><acpi/></features>" } else { "" };
        format!(
            "<domain type='qemu'><name>supple-doctor</name>{}<maxMemory slots='4' unit='KiB'>{}</maxMemory>{vcpus}<os>\
             <type arch='{arch}'>hvm</type></os>{acpi}<cpu><numa><cell id='0' cpus='0-3' memory='{}' unit='KiB'/></numa>\
             </cpu><devices>{devices}</devices></domain>",
            kib("memory", size),
            Bytes::gib(4).get() / 1024,
            half.get() / 1024,
        )
    };
    vec![
        (DIMM, machine(fixed, &dimm)),
        (VIRTIO_MEM, machine(fixed, &virtio_mem)),
        (VCPUS, machine(vcpus, "")),
        (REPORTING, machine(fixed, reporting)),
    ]
}

fn kib(element: &str, size: Bytes) -> String {
    format!("<{element} unit='KiB'>{}</{element}>", size.get() / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_name_the_emulator_and_the_most_vcpus() {
        let xml = "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>qemu</domain><vcpu max='255'/>\
                   </domainCapabilities>";
        let told = capabilities_of(xml);
        assert_eq!(told.emulator.as_deref(), Some("/usr/bin/qemu-system-x86_64"));
        assert_eq!(told.max_vcpus, Some(255));
        assert_eq!(capabilities_of("nonsense"), Told::default());
    }

    #[test]
    fn each_machine_that_is_tried_is_a_sound_description() {
        for (subject, xml) in machines("x86_64") {
            let domain =
                crate::domxml::Domain::parse(&xml).unwrap_or_else(|error| panic!("{subject}: {error}"));
            assert_eq!(domain.memory.max.map(|max| max.size), Some(Bytes::gib(4)), "{subject}");
            assert_eq!(domain.vcpus.max, 4, "{subject}");
        }
    }
}
