//! recvmmsg and sendmmsg over memory that is made once; the safe wrappers allocate for each call.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use crate::datapath::buffer::Datagram;
use crate::datapath::outbox::{self, Message, Outbox};

/// Room for one control message that holds a number.
const NUMBER: usize = {
    // SAFETY: computes a length.
    unsafe { libc::CMSG_SPACE(size_of::<libc::c_int>() as libc::c_uint) as usize }
};
/// Room for two: where to cut or what was joined, and the class of service.
const CONTROL: usize = 2 * NUMBER;

/// Aligned as the kernel's control messages are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// An address as the kernel has it, with room for either family: `sockaddr_in6` of linux/in6.h, whose third field is where `sockaddr_in`
/// has the address.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Name {
    family: libc::sa_family_t,
    port: u16,
    v4: [u8; 4],
    v6: [u8; 16],
    scope: u32,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Name>() == size_of::<libc::sockaddr_in6>());
    assert!(offset_of!(Name, port) == offset_of!(libc::sockaddr_in, sin_port));
    assert!(offset_of!(Name, port) == offset_of!(libc::sockaddr_in6, sin6_port));
    assert!(offset_of!(Name, v4) == offset_of!(libc::sockaddr_in, sin_addr));
    assert!(offset_of!(Name, v6) == offset_of!(libc::sockaddr_in6, sin6_addr));
};

impl Name {
    /// Writes an address; its length. The kernel takes one of IPv4 at a socket of both families, too.
    fn set(&mut self, at: SocketAddr) -> libc::socklen_t {
        self.port = at.port().to_be();
        match at.ip() {
            IpAddr::V4(ip) => {
                self.family = libc::AF_INET as libc::sa_family_t;
                self.v4 = ip.octets();
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            IpAddr::V6(ip) => {
                self.family = libc::AF_INET6 as libc::sa_family_t;
                (self.v4, self.v6, self.scope) = ([0; 4], ip.octets(), 0);
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    /// What the kernel wrote. A socket of both families tells of IPv4 addresses as mapped ones (RFC 4291 section 2.5.5.2).
    fn get(&self) -> SocketAddr {
        let port = u16::from_be(self.port);
        if self.family == libc::AF_INET as libc::sa_family_t {
            return SocketAddr::new(Ipv4Addr::from(self.v4).into(), port);
        }
        SocketAddr::new(Ipv6Addr::from(self.v6).to_canonical(), port)
    }
}

/// What both calls take.
struct Vectors {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
}

impl std::fmt::Debug for Vectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vectors").field("messages", &self.headers.len()).finish_non_exhaustive()
    }
}

impl Vectors {
    fn new(messages: usize, vectors: usize) -> Vectors {
        // SAFETY: both are plain C structs, for which zero is a valid value.
        let (header, vector) = unsafe { (zeroed(), zeroed()) };
        Vectors {
            headers: vec![header; messages].into(),
            vectors: vec![vector; vectors].into(),
            names: vec![Name::default(); messages].into(),
            controls: vec![Control([0; CONTROL]); messages].into(),
        }
    }
}

/// What sendmmsg takes.
#[derive(Debug)]
pub(super) struct SendVectors(Vectors);

/// Filled in, and pointing to an outbox and a batch that live as long.
pub(super) struct Filled<'a> {
    headers: &'a mut [libc::mmsghdr],
    pointed_to: PhantomData<&'a [u8]>,
}

impl Default for SendVectors {
    fn default() -> Self {
        SendVectors(Vectors::new(outbox::MOST_PACKETS, 2 * outbox::MOST_PACKETS))
    }
}

impl SendVectors {
    /// Points to all messages of the outbox, whose payload lies in `bytes`.
    pub(super) fn fill<'a>(&'a mut self, outbox: &'a Outbox, bytes: &'a [u8]) -> Filled<'a> {
        let Vectors { headers, vectors, names, controls } = &mut self.0;
        let mut used = 0;
        for (i, message) in outbox.messages().iter().enumerate() {
            let first = used;
            for (header, payload) in outbox.pieces(message) {
                for part in [header, &bytes[payload]].into_iter().filter(|part| !part.is_empty()) {
                    vectors[used] =
                        libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
                    used += 1;
                }
            }
            let length = names[i].set(message.to.at);
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[first];
            header.msg_iovlen = (used - first) as _;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = length;
            control(header, &mut controls[i], message);
        }
        Filled { headers: &mut headers[..outbox.messages().len()], pointed_to: PhantomData }
    }
}

/// Tells the kernel what is unusual about a message: that it is to be cut into datagrams, and its class of service.
fn control(header: &mut libc::msghdr, control: &mut Control, message: &Message) {
    let mut used = 0;
    if message.count > 1 {
        // No longer than an IP packet.
        let size = message.size as u16;
        used += write(&mut control.0, used, (libc::SOL_UDP, libc::UDP_SEGMENT), &size.to_ne_bytes());
    }
    if message.tos != 0 {
        let tos = libc::c_int::from(message.tos);
        used += write(&mut control.0, used, (libc::IPPROTO_IP, libc::IP_TOS), &tos.to_ne_bytes());
    }
    header.msg_control = if used == 0 { std::ptr::null_mut() } else { (&raw mut *control).cast() };
    header.msg_controllen = used as _;
}

/// Writes one control message (cmsg(3)) at a place that is aligned for it; how much room it took.
fn write(
    room: &mut [u8; CONTROL],
    at: usize,
    (level, kind): (libc::c_int, libc::c_int),
    data: &[u8],
) -> usize {
    let length = data.len() as libc::c_uint;
    // SAFETY: computes lengths.
    let (whole, space) = unsafe { (libc::CMSG_LEN(length) as usize, libc::CMSG_SPACE(length) as usize) };
    // SAFETY: a plain C struct, for which zero is a valid value.
    let mut header: libc::cmsghdr = unsafe { zeroed() };
    (header.cmsg_len, header.cmsg_level, header.cmsg_type) = (whole as _, level, kind);
    let place = room[at..at + space].as_mut_ptr();
    // SAFETY: the place has room for header and data, as the slice was checked to be so long; the header is a plain C struct.
    unsafe {
        place.cast::<libc::cmsghdr>().write_unaligned(header);
        let begin = place.add(whole - data.len());
        std::ptr::copy_nonoverlapping(data.as_ptr(), begin, data.len());
    }
    space
}

impl Filled<'_> {
    /// Sends messages from that one on; how many the kernel took, at least one.
    pub(super) fn send(&mut self, socket: &UdpSocket, from: usize) -> io::Result<usize> {
        let headers = &mut self.headers[from..];
        let count = headers.len() as libc::c_uint;
        // SAFETY: every header points to memory of the stated length that is borrowed for this value's life; the kernel only reads it.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// What recvmmsg takes.
#[derive(Debug)]
pub(super) struct ReceiveVectors(Vectors);

impl ReceiveVectors {
    /// For so many messages.
    pub(super) fn new(messages: usize) -> ReceiveVectors {
        ReceiveVectors(Vectors::new(messages, messages))
    }

    /// Receives what is there, without waiting, each message into a room of its own of `bytes`.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        bytes: &mut [u8],
        room: usize,
        datagrams: &mut Vec<Datagram>,
    ) -> io::Result<()> {
        let Vectors { headers, vectors, names, controls } = &mut self.0;
        for (i, place) in bytes.chunks_exact_mut(room).take(headers.len()).enumerate() {
            vectors[i] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: room };
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_control = (&raw mut controls[i]).cast();
            header.msg_controllen = CONTROL as _;
        }
        let (count, nobody) = (headers.len() as libc::c_uint, std::ptr::null_mut());
        // SAFETY: every header points to memory of the stated length that outlives the call; no timeout.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, nobody)
        };
        let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (i, header) in headers[..count].iter().enumerate() {
            let (segment, tos) = told(&header.msg_hdr);
            datagrams.push(Datagram {
                at: i * room..i * room + (header.msg_len as usize).min(room),
                segment,
                from: names[i].get(),
                tos,
            });
        }
        Ok(())
    }
}

/// The length of each datagram, if the kernel joined some, and their class of service.
fn told(header: &libc::msghdr) -> (Option<usize>, u8) {
    let (mut segment, mut tos) = (None, 0);
    // SAFETY: the kernel has filled the control buffer as far as msg_controllen says; the macros stay within that, and what is read
    // is of the type that udp(7) and ip(7) tell of.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.read(),
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, message);
        }
    }
    (segment, tos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_stay_what_they_are() {
        let mut name = Name::default();
        for (text, length) in [("192.0.2.1:8285", 16), ("[fd00::1]:51820", 28), ("198.51.100.9:1", 16)] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!((name.set(at), name.get()), (length, at));
        }
        name.set("[::ffff:192.0.2.1]:7".parse().unwrap());
        assert_eq!(name.get(), "192.0.2.1:7".parse().unwrap(), "a mapped one");
    }
}
