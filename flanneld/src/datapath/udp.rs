//! The UDP socket to the other flannelds: whole batches in one system call each way.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::buffer::{BATCH, Batch};
use super::forward::Verdict;

/// Socket buffers of this size ride out a moment in which the other thread has the processor.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// A socket on which datagrams of bare inner packets come and go.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
}

impl Udp {
    /// Binds to the external address and flannel's port.
    pub fn bind(address: SocketAddrV4) -> io::Result<Udp> {
        use nix::sys::socket::{setsockopt, sockopt};
        let socket = UdpSocket::bind(address)?;
        // As much as the system's limits allow; less is slower, not wrong.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER);
        let _ = setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER);
        Ok(Udp { socket })
    }

    /// Receives what is there into the batch, without waiting.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.filled = sys::receive(&self.socket, batch)?;
        Ok(())
    }

    /// Sends the packets with the verdict [`Verdict::Send`]; how many the kernel took. The others among them are marked
    /// with [`Verdict::Pending`].
    pub fn send(&self, batch: &mut Batch) -> usize {
        let mut wanted = [(0, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); BATCH];
        let mut count = 0;
        for (i, buffer) in batch.packets().iter().enumerate() {
            if let Verdict::Send(to) = buffer.verdict {
                wanted[count] = (i, to);
                count += 1;
            }
        }
        let (mut next, mut sent) = (0, 0);
        while next < count {
            match sys::send(&self.socket, batch, &wanted[next..count]) {
                Ok(done) if done > 0 => {
                    next += done;
                    sent += done;
                }
                // The first one failed (no route to that peer, its queue is full): it is lost, the rest goes on.
                _ => {
                    batch.buffers[wanted[next].0].verdict = Verdict::Pending;
                    next += 1;
                }
            }
        }
        sent
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// recvmmsg and sendmmsg over buffers that are already there; the safe wrappers allocate for each call.
#[allow(unsafe_code)]
mod sys {
    use super::*;

    pub(super) fn receive(socket: &UdpSocket, batch: &mut Batch) -> io::Result<usize> {
        // SAFETY: all three are plain C structs for which zero is a valid value.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        let mut names: [libc::sockaddr_in; BATCH] = unsafe { std::mem::zeroed() };
        for i in 0..BATCH {
            let data = &mut batch.buffers[i].data;
            vectors[i] = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: every header points to buffers of the stated length that outlive the call; no timeout.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags,
                std::ptr::null_mut(),
            )
        };
        let count = match usize::try_from(received) {
            Ok(count) => count,
            Err(_) => return none_if_empty(io::Error::last_os_error()),
        };
        for (i, header) in headers[..count].iter().enumerate() {
            let buffer = &mut batch.buffers[i];
            let length = header.msg_len as usize;
            buffer.truncated = length > buffer.data.len() || header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            buffer.len = length.min(buffer.data.len());
            let ip = Ipv4Addr::from(u32::from_be(names[i].sin_addr.s_addr));
            buffer.from = SocketAddrV4::new(ip, u16::from_be(names[i].sin_port));
        }
        Ok(count)
    }

    fn none_if_empty(error: io::Error) -> io::Result<usize> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
            // An earlier datagram met a closed port; the kernel tells it here, once.
            io::ErrorKind::ConnectionRefused => Ok(0),
            _ => Err(error),
        }
    }

    pub(super) fn send(
        socket: &UdpSocket,
        batch: &Batch,
        wanted: &[(usize, SocketAddrV4)],
    ) -> io::Result<usize> {
        // SAFETY: as in `receive`.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let mut vectors: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        let mut names: [libc::sockaddr_in; BATCH] = unsafe { std::mem::zeroed() };
        for (i, (at, to)) in wanted.iter().enumerate() {
            let packet = batch.buffers[*at].packet();
            vectors[i] = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
            names[i].sin_family = libc::AF_INET as libc::sa_family_t;
            names[i].sin_port = to.port().to_be();
            names[i].sin_addr.s_addr = u32::from(*to.ip()).to_be();
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        // SAFETY: every header points to a packet of the stated length, which the kernel only reads.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), wanted.len() as libc::c_uint, 0)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}
