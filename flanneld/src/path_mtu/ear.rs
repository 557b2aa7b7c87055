//! The raw ICMP socket on which answers and routers are heard. It is control's own: what it hears never disturbs the sockets of the
//! data path, as their error queues would (an error that is pending there makes the next send fail).

use std::io;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};
use tokio::net::UdpSocket;

use super::message::{Heard, heard};

/// Types that are wanted.
const ECHO_REPLY: u32 = 0;
const UNREACHABLE: u32 = 3;

mod option {
    #![allow(missing_docs)]
    use nix::{setsockopt_impl, sockopt_impl};
    /// `ICMP_FILTER` of linux/icmp.h: a bit for each type that is not wanted.
    const ICMP_FILTER: libc::c_int = 1;
    sockopt_impl!(IcmpFilter, SetOnly, libc::SOL_RAW, ICMP_FILTER, u32);
}

/// See the module.
#[derive(Debug)]
pub struct Ear {
    /// tokio has no type for raw sockets; what is received from one is a datagram like any other.
    socket: UdpSocket,
    buffer: Box<[u8]>,
}

impl Ear {
    /// Listens from now on. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Ear> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
        let wanted = 1 << ECHO_REPLY | 1 << UNREACHABLE;
        setsockopt(&socket, option::IcmpFilter, &!wanted)?;
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Ear { socket, buffer: vec![0; usize::from(u16::MAX)].into() })
    }

    /// Waits for the next message that is of interest.
    pub async fn next(&mut self) -> io::Result<Heard> {
        loop {
            let length = self.socket.recv(&mut self.buffer).await?;
            if let Some(heard) = heard(&self.buffer[..length]) {
                return Ok(heard);
            }
        }
    }
}
