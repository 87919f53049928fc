//! Netlink to the kernel's routing and traffic control: messages laid out, sent, and read back (netlink(7),
//! rtnetlink(7)). It knows no message's meaning, see `tc` and `link`.
//!
//! Bounded: an answer has at most [`MOST_BYTES`], a wait for one lasts at most [`PATIENCE`]. The calls block for as long
//! as the kernel is busy with its network configuration: tasks run them on a thread of their own.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// So much is taken as one answer: some ten thousand taps.
const MOST_BYTES: usize = 64 << 20;
/// The kernel answers at once, or has been stuck for long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A dump that changed while it was read is read again, so often at most.
const TRIES: usize = 8;
/// The kernel fills one datagram of a dump with at most 32 KiB (`NLMSG_GOODSIZE` and above, net/netlink/af_netlink.c).
const DATAGRAM: usize = 256 << 10;

/// The message's header: length, kind, flags, number, port.
const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Flags of a request (include/uapi/linux/netlink.h).
pub(super) mod flag {
    pub(in crate::net) const REQUEST: u16 = 0x1;
    pub(in crate::net) const ACK: u16 = 0x4;
    pub(in crate::net) const DUMP: u16 = 0x300;
    pub(in crate::net) const REPLACE: u16 = 0x100;
    pub(in crate::net) const EXCLUSIVE: u16 = 0x200;
    pub(in crate::net) const CREATE: u16 = 0x400;
    /// In an answer: the table changed while it was read.
    pub(in crate::net) const TORN: u16 = 0x10;
}

/// A message in the making.
#[derive(Debug, Clone)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of this kind with no content yet.
    pub(super) fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | flag::REQUEST).to_ne_bytes());
        Message { bytes }
    }

    /// Bytes as they are: the fixed part that stands before attributes.
    pub(super) fn fixed(mut self, bytes: &[u8]) -> Message {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// One attribute, padded to four bytes.
    pub(super) fn attr(mut self, kind: u16, value: &[u8]) -> Message {
        let length = u16::try_from(value.len() + 4).expect("attributes of ours are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A text with its NUL.
    pub(super) fn text(self, kind: u16, value: &str) -> Message {
        let bytes: Vec<u8> = value.bytes().chain([0]).collect();
        self.attr(kind, &bytes)
    }

    /// An attribute that holds attributes.
    pub(super) fn nest(mut self, kind: u16, inside: impl FnOnce(Message) -> Message) -> Message {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut all = inside(self);
        let length = u16::try_from(all.bytes.len() - start).expect("attributes of ours are short");
        all.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        all.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        all
    }

    fn finish(mut self, number: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("messages of ours are short");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&number.to_ne_bytes());
        self.bytes
    }
}

/// What the kernel answered: a message's kind and its content without the header.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) kind: u16,
    pub(super) content: Vec<u8>,
}

/// The attributes in a piece of a message, in their order. What is cut short ends it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attrs<'a>(pub(super) &'a [u8]);

impl<'a> Attrs<'a> {
    /// The last attribute of a kind, as the kernel itself reads them.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.filter(|(found, _)| *found == kind).last().map(|(_, value)| value)
    }

    /// The attributes within an attribute; none where it is missing.
    pub(super) fn within(self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// A text up to its NUL.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// A number of 32 bits.
    pub(super) fn number(self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        /// Without the marks of nesting and of byte order.
        const KIND: u16 = 0x3fff;
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & KIND;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A number of 16 bits in the host's order at an offset.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number of 32 bits in the host's order at an offset.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A line to the kernel, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    number: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> Result<Netlink, Errno> {
        // The protocol NETLINK_ROUTE is 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink { socket, number: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Has something done; the kernel's "no" is the error.
    pub(super) fn order(&mut self, message: Message) -> Result<(), Errno> {
        self.exchange(message, flag::ACK).map(|_| ())
    }

    /// Asks for one thing.
    pub(super) fn ask(&mut self, message: Message) -> Result<Vec<Answer>, Errno> {
        self.exchange(message, flag::ACK).map(|(answers, _)| answers)
    }

    /// Asks for all of a kind, as it stood at one moment.
    pub(super) fn dump(&mut self, message: &Message) -> Result<Vec<Answer>, Errno> {
        for _ in 0..TRIES {
            let (answers, torn) = self.exchange(message.clone(), flag::DUMP)?;
            if !torn {
                return Ok(answers);
            }
        }
        Err(Errno::AGAIN)
    }

    fn exchange(&mut self, mut message: Message, flags: u16) -> Result<(Vec<Answer>, bool), Errno> {
        self.number = self.number.wrapping_add(1);
        let set = u16_at(&message.bytes, 6).expect("there is a header") | flags;
        message.bytes[6..8].copy_from_slice(&set.to_ne_bytes());
        let bytes = message.finish(self.number);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let (mut answers, mut torn, mut taken) = (Vec::new(), false, 0);
        loop {
            let (_, length) = match recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            taken += length;
            if length > self.buffer.len() || taken > MOST_BYTES {
                return Err(Errno::MSGSIZE);
            }
            let end = heard(&self.buffer[..length], self.number, &mut answers, &mut torn)?;
            if end {
                return Ok((answers, torn));
            }
        }
    }
}

/// Takes in one datagram; true where it ends the answer to request `number`.
fn heard(mut bytes: &[u8], number: u32, answers: &mut Vec<Answer>, torn: &mut bool) -> Result<bool, Errno> {
    while let (Some(length), Some(kind), Some(flags), Some(of)) =
        (u32_at(bytes, 0), u16_at(bytes, 4), u16_at(bytes, 6), u32_at(bytes, 8))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let content = bytes.get(HEADER..length).ok_or(Errno::BADMSG)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if of != number {
            // The answer to an earlier request whose wait was over.
            continue;
        }
        *torn |= flags & flag::TORN != 0;
        match kind {
            // Both begin with the error's number, negative; zero is success.
            ERROR | DONE => {
                return match u32_at(content, 0).unwrap_or(0).cast_signed() {
                    0.. => Ok(true),
                    error => Err(Errno::from_raw_os_error(error.saturating_neg())),
                };
            }
            kind => answers.push(Answer { kind, content: content.to_vec() }),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, flags: u16, number: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Message::new(kind, flags).fixed(content).finish(number);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn what_is_nested_is_read_as_it_was_laid_out() {
        let message = Message::new(1, 0)
            .text(1, "htb")
            .nest(2, |inside| inside.attr(3, &7u32.to_ne_bytes()).nest(0x8004, |deeper| deeper.text(5, "")));
        let bytes = message.finish(9);
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
        let attrs = Attrs(&bytes[HEADER..]);
        assert_eq!(attrs.text(1).as_deref(), Some("htb"));
        assert_eq!(attrs.within(2).number(3), Some(7));
        assert_eq!(attrs.within(2).within(4).text(5).as_deref(), Some(""));
        assert_eq!(attrs.get(9), None);
    }

    #[test]
    fn attributes_that_are_cut_short_end_the_list() {
        let whole = Message::new(1, 0).attr(1, &[1, 2, 3, 4]).attr(2, &[5; 8]).bytes.split_off(HEADER);
        for cut in 0..whole.len() {
            let found: Vec<u16> = Attrs(&whole[..cut]).map(|(kind, _)| kind).collect();
            assert_eq!(found, if cut < 8 { vec![] } else { vec![1] }, "{cut}");
        }
        assert_eq!(Attrs(&[2, 0, 1, 0, 9, 9, 9, 9]).count(), 0, "shorter than its own header");
    }

    #[test]
    fn an_answer_ends_with_done_or_an_error_and_an_older_one_is_dropped() {
        let (mut answers, mut torn) = (Vec::new(), false);
        let mut datagram = answer(36, 0, 1, b"old!");
        datagram.extend(answer(36, flag::TORN, 2, b"new!"));
        assert_eq!(heard(&datagram, 2, &mut answers, &mut torn), Ok(false));
        assert_eq!((answers.len(), answers[0].content.as_slice(), torn), (1, b"new!".as_slice(), true));
        assert_eq!(heard(&answer(DONE, 0, 2, &[0; 4]), 2, &mut answers, &mut torn), Ok(true));
        let no = answer(ERROR, 0, 2, &(-1i32).to_ne_bytes());
        assert_eq!(heard(&no, 2, &mut answers, &mut torn), Err(Errno::PERM));
        assert_eq!(heard(&[255; 20], 2, &mut answers, &mut torn), Err(Errno::BADMSG));
    }

    #[test]
    fn the_kernel_lists_the_loopback() {
        let mut netlink = Netlink::open().expect("a socket");
        let links = netlink.dump(&Message::new(18, 0).fixed(&[0; 16])).expect("an answer");
        let names: Vec<_> = links.iter().filter_map(|link| Attrs(link.content.get(16..)?).text(3)).collect();
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
    }
}
