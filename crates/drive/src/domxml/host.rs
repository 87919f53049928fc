//! What a host brings into a preparation, from what its libvirt tells of itself and of one kind of machine: the texts of
//! `virsh capabilities` and `virsh domcapabilities`. It looks at no host, so that a remote one is treated the same.

use super::document::{BadXml, Document, at, attribute, child, content_of};
use super::prepare::HostLimits;

impl HostLimits {
    /// Reads the host's capabilities and, where there are any, those of the kind of machine. Versions and the size of
    /// huge pages are not in them and stay as they are by default.
    ///
    /// # Errors
    /// A text is not what it should be.
    pub fn read(host: &str, machine: Option<&str>) -> Result<HostLimits, BadXml> {
        let document = Document::open(host, "capabilities")?;
        let cpu = at(document.root(), &["host", "cpu"]);
        // Told since libvirt 8.7.
        let bits = cpu.and_then(|cpu| child(cpu, "maxphysaddr")).and_then(|node| attribute(node, "bits"));
        let defaults = HostLimits::default();
        let mut limits = HostLimits {
            arch: cpu.and_then(|cpu| content_of(cpu, "arch")).unwrap_or(defaults.arch.clone()),
            address_bits: bits.and_then(|bits| bits.parse().ok()).filter(|bits| (32..=64).contains(bits)),
            amd: cpu.and_then(|cpu| content_of(cpu, "vendor")).is_some_and(|vendor| vendor == "AMD"),
            ..defaults
        };
        if let Some(machine) = machine {
            let document = Document::open(machine, "domainCapabilities")?;
            let most = child(document.root(), "vcpu").and_then(|node| attribute(node, "max"));
            limits.max_vcpus = most.and_then(|most| most.parse().ok());
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "<capabilities><host><uuid>x</uuid><cpu><arch>x86_64</arch><vendor>AMD</vendor><maxphysaddr \
                        mode='emulate' bits='48'/></cpu></host><guest><arch name='i686'/></guest></capabilities>";

    #[test]
    fn the_hosts_cpu_and_the_machines_most_vcpus_are_read() {
        let machine =
            "<domainCapabilities><machine>pc-q35-7.2</machine><vcpu max='288'/></domainCapabilities>";
        let limits = HostLimits::read(HOST, Some(machine)).unwrap();
        let expected =
            HostLimits { address_bits: Some(48), amd: true, max_vcpus: Some(288), ..HostLimits::default() };
        assert_eq!(limits, expected);
        assert_eq!(HostLimits::read(HOST, None).unwrap().max_vcpus, None);
    }

    #[test]
    fn what_an_older_libvirt_does_not_tell_is_not_known() {
        let arm = "<capabilities><host><cpu><arch>aarch64</arch></cpu></host></capabilities>";
        let limits = HostLimits::read(arm, None).unwrap();
        assert_eq!((limits.arch.as_str(), limits.address_bits, limits.amd), ("aarch64", None, false));
        let odd = HOST.replace("48", "4800");
        assert_eq!(HostLimits::read(&odd, None).unwrap().address_bits, None);
        assert!(HostLimits::read("<domain/>", None).is_err());
    }
}
