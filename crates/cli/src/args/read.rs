//! Words of the command line as values, or what to write instead.

use scale::units::{BadSize, Bytes, parse_size};

use super::device::Node;

pub(super) fn read_node(text: &str) -> Result<Node, String> {
    match text.parse() {
        Ok(node) => Ok(Node(Some(node))),
        Err(_) if text == "none" => Ok(Node(None)),
        Err(_) => Err("it is neither a number nor `none`".to_owned()),
    }
}

pub(super) fn read_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let address = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    address.ok_or_else(|| "it is no address; write it as 0x100000000".to_owned())
}

/// A size; zero needs no unit.
pub(super) fn read_whole_size(text: &str) -> Result<Bytes, BadSize> {
    if text == "0" { Ok(Bytes::ZERO) } else { parse_size(text) }
}

/// The value of `--connect`, where it makes sense.
pub(super) fn read_connection(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; give a URI such as qemu:///system, or leave it out".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'+' || b == b'-') {
        return Err("it is the URI of a libvirt, as with virsh; vCPUs are --vcpus or -v".to_owned());
    }
    if let Some((uri, name)) = text.split_once('#') {
        return Err(format!(
            "it names a machine too; write `--connect '{uri}' {name}`, or the whole as the machine"
        ));
    }
    Ok(text.to_owned())
}
