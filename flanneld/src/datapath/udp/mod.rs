//! The UDP sockets to the other flannelds: whole batches in one system call each way, super-packets where the kernel can.
//!
//! One socket a queue, all on one port. The kernel chooses the socket by sender, so what one peer sends stays in order.

mod receiver;
mod sender;
mod sys;

pub use receiver::Receiver;
pub use sender::{Sender, Sent};

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket, sockopt,
};

use super::path::{Feature, Level, Path};

mod option {
    #![allow(missing_docs)]
    use nix::{setsockopt_impl, sockopt_impl};
    sockopt_impl!(MtuDiscover, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int);
}

/// Socket buffers of this size ride out a moment in which another thread has the processor.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Sockets on which datagrams of bare inner packets come and go.
#[derive(Debug)]
pub struct Udp {
    sockets: Vec<UdpSocket>,
    level: Level,
    path: Path,
}

impl Udp {
    /// Binds to the external address and flannel's port, as often as there are queues, if the kernel does that. At the unspecified address
    /// of IPv6, datagrams of both families come and go.
    pub fn bind(address: SocketAddr, queues: usize, level: Level, path: Path) -> io::Result<Udp> {
        // The first one shares with nobody: another flanneld on this host finds the port taken, or is found.
        let first = bound(address, false)?;
        let mut sockets = vec![first];
        if queues > 1 && setsockopt(&sockets[0], sockopt::ReusePort, &true).is_ok() {
            sockets.extend((1..queues).map_while(|_| bound(address, true).ok()));
        }
        Ok(Udp::of(sockets, level, path))
    }

    /// Of sockets that another process passed on.
    pub fn adopt(sockets: Vec<OwnedFd>, level: Level, path: Path) -> Udp {
        Udp::of(sockets.into_iter().map(UdpSocket::from).collect(), level, path)
    }

    fn of(sockets: Vec<UdpSocket>, level: Level, path: Path) -> Udp {
        for socket in &sockets {
            // As much as the system's limits allow; less is slower, not wrong.
            if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err() {
                let _ = setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER);
            }
            let _ = setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER);
        }
        let offload = level == Level::Offload;
        let cuts = offload && sockets.first().is_some_and(|s| getsockopt(s, sockopt::UdpGsoSegment).is_ok());
        let joins = offload && sockets.iter().all(|s| setsockopt(s, sockopt::UdpGroSegment, &true).is_ok());
        path.set(Feature::UdpGso, cuts);
        path.set(Feature::UdpGro, joins);
        Udp { sockets, level, path }
    }

    /// For bare inner packets: no datagram is fragmented, here or on the way, and the class of service of those that come is told.
    ///
    /// `IP_PMTUDISC_PROBE`, not `DO`: the kernel would keep a path MTU of its own, which anybody who knows both addresses can
    /// lower by a forged ICMP message, and would let no larger packet out that could find out the truth.
    pub fn carries_bare_packets(&self) -> io::Result<()> {
        for socket in &self.sockets {
            setsockopt(socket, option::MtuDiscover, &libc::IP_PMTUDISC_PROBE)?;
            setsockopt(socket, sockopt::IpRecvTos, &true)?;
        }
        Ok(())
    }

    /// How many sockets there are.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Closes all but so many.
    pub fn keep(&mut self, sockets: usize) {
        self.sockets.truncate(sockets.max(1));
    }

    /// What sends by one of them.
    pub fn sender(&self, queue: usize) -> Sender<'_> {
        Sender::new(&self.sockets[queue], self.path.clone())
    }

    /// What receives from one of them.
    pub fn receiver(&self, queue: usize) -> Receiver<'_> {
        Receiver::new(&self.sockets[queue], self.level, self.path.uses(Feature::UdpGro))
    }

    /// Sends one datagram by itself: a message between the flannelds, that carries no packet.
    pub fn send(&self, queue: usize, message: &[u8], to: SocketAddr) -> io::Result<()> {
        self.sockets[queue].send_to(message, to).map(drop)
    }

    /// For waiting.
    pub fn fd(&self, queue: usize) -> BorrowedFd<'_> {
        self.sockets[queue].as_fd()
    }
}

/// A socket, which `shares` the port with those that do so, too.
fn bound(address: SocketAddr, shares: bool) -> nix::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    if shares {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}
