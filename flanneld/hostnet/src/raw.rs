//! Netlink messages as bytes (linux/netlink.h), for dialects that no kept library has: written, sent, and their answers taken apart.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Length, type, flags, sequence number, sender.
const HEADER: usize = 16;
/// What nf_tables and generic netlink have behind it.
const SUBHEADER: usize = 4;
const ATTRIBUTE: usize = 4;
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// The kernel's datagrams are at most half of this.
const ROOM: usize = 64 * 1024;
/// The kernel answers at once; this is against waiting for ever.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// A message that is being written.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Without attributes. What it is sent for is a request anyway; `flags` are further ones.
    pub(crate) fn new(kind: u16, flags: i32, subheader: [u8; SUBHEADER]) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((libc::NLM_F_REQUEST as u16 | flags as u16).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(subheader);
        Message(bytes)
    }

    /// Adds an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        attribute(&mut self.0, kind, value);
        self
    }

    /// Adds an attribute that holds others.
    pub(crate) fn nested(self, kind: u16, attributes: &[u8]) -> Message {
        self.attribute(kind | NESTED, attributes)
    }

    /// All of it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Appends an attribute. Its length has 16 bits; what does not fit is for the caller to divide.
pub(crate) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The same with one that holds others.
pub(crate) fn nested(bytes: &mut Vec<u8>, kind: u16, attributes: &[u8]) {
    attribute(bytes, kind | NESTED, attributes);
}

/// A text as the kernel has it.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The attributes in bytes, up to what is cut off.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NESTED, value))
    })
}

/// One message of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    /// Attributes.
    Data(&'a [u8]),
    /// What was listed changed meanwhile.
    Changed,
    /// The end of a dump, or that it is done.
    Done,
    /// The kernel refuses.
    Refused(Errno),
}

/// The messages of a datagram; what is cut off is left out.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        answer(message)
    })
}

fn answer(message: &[u8]) -> Option<Answer<'_>> {
    let half = |at: usize| Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let (kind, flags) = (i32::from(half(4)?), i32::from(half(6)?));
    Some(match kind {
        _ if flags & libc::NLM_F_DUMP_INTR != 0 => Answer::Changed,
        libc::NLMSG_DONE => Answer::Done,
        libc::NLMSG_ERROR => {
            match i32::from_ne_bytes(message.get(HEADER..HEADER + 4)?.try_into().ok()?).wrapping_neg() {
                0 => Answer::Done,
                code => Answer::Refused(Errno::from_raw(code)),
            }
        }
        _ => Answer::Data(message.get(HEADER + SUBHEADER..)?),
    })
}

/// Sends a message by a socket of this protocol; the attributes of each message of the answer. An answer in `parts` has an end of its own.
/// `EAGAIN`: what was listed changed meanwhile.
pub(crate) fn exchange(protocol: SockProtocol, message: &[u8], parts: bool) -> nix::Result<Vec<Vec<u8>>> {
    let socket = open(protocol)?;
    sendto(socket.as_raw_fd(), message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let (mut data, mut buffer) = (Vec::new(), vec![0; ROOM]);
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        for answer in messages(buffer.get(..length).ok_or(Errno::EMSGSIZE)?) {
            match answer {
                Answer::Data(attributes) => data.push(attributes.to_vec()),
                Answer::Changed => return Err(Errno::EAGAIN),
                Answer::Done => return Ok(data),
                Answer::Refused(errno) => return Err(errno),
            }
        }
        if !parts {
            return Ok(data);
        }
    }
}

fn open(protocol: SockProtocol) -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, flags: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(u16::try_from(kind).unwrap().to_ne_bytes());
        bytes.extend(u16::try_from(flags).unwrap().to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn answers_are_told_apart() {
        let mut bytes = message(0x0a0f, 0, b"\x02\0\0\0data");
        bytes.extend(message(libc::NLMSG_ERROR, 0, &(-libc::ENOENT).to_ne_bytes()));
        bytes.extend(message(0x0a06, libc::NLM_F_DUMP_INTR, b"\x02\0\0\0data"));
        bytes.extend(message(libc::NLMSG_DONE, 0, &[0; 4]));
        bytes.extend(message(libc::NLMSG_ERROR, 0, &[0; 4]));
        let told: Vec<_> = messages(&bytes).collect();
        let refused = Answer::Refused(Errno::ENOENT);
        assert_eq!(told, [Answer::Data(b"data"), refused, Answer::Changed, Answer::Done, Answer::Done]);
        for cut in 0..bytes.len() {
            assert!(messages(&bytes[..cut]).count() < 5, "cut off at {cut}");
        }
        assert_eq!(messages(&[0; 64]).count(), 0, "a length of nothing is no message");
    }

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut inside = Vec::new();
        attribute(&mut inside, 3, &[7]);
        let bytes =
            Message::new(0x10, libc::NLM_F_ACK, [3, 1, 0, 0]).attribute(2, &text("wg")).nested(8, &inside);
        let bytes = bytes.finish();
        assert_eq!(bytes.len(), 20 + 8 + 12);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        let found: Vec<_> = attributes(&bytes[20..]).collect();
        assert_eq!(found, [(2, &b"wg\0"[..]), (8, &inside)]);
        assert_eq!(attributes(found[1].1).collect::<Vec<_>>(), [(3, &[7][..])]);
        for cut in 20..bytes.len() {
            assert!(attributes(&bytes[20..cut]).count() < 2, "cut off at {cut}");
        }
        assert_eq!(attributes(&[0; 32]).count(), 0);
    }
}
