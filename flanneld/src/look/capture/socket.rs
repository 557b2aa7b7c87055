//! Frames of one interface as the kernel shows them to packet sockets. Only the tunnel's get as far as here.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::filter;
use super::stripped::Stripped;

/// What the kernel keeps for us while we are busy, in bytes; behind that it drops, and counts.
const BUFFER: usize = 8 << 20;
/// The longest frame: a joined datagram of 64 KiB and what is before it.
const LONGEST: usize = 66_000;
/// So often the reader looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Sent by this host (`PACKET_OUTGOING`).
const OUTGOING: u8 = libc::PACKET_OUTGOING;

/// Frames of one interface.
pub struct Frames {
    socket: Socket,
    interface: u32,
    buffer: Vec<u8>,
    control: Vec<u8>,
    /// How many frames the kernel dropped since we could not keep up.
    pub dropped: u32,
}

/// A frame.
pub struct Frame<'a> {
    /// From the link's header on.
    pub bytes: &'a [u8],
    /// When, since 1970 (UTC).
    pub since: Duration,
    /// Sent by this host.
    pub outgoing: bool,
}

impl Frames {
    /// UDP of this port on an interface with link headers of this length, and what comes in there without.
    pub fn open(interface: u32, port: u16, link: u32, stripped: Option<Stripped>) -> io::Result<Frames> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))?;
        socket.attach_filter(&filter::program(interface, port, link, stripped))?;
        socket.set_read_timeout(Some(LOOK))?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        let control = nix::cmsg_space!(u32, libc::timespec);
        Ok(Frames { socket, interface, buffer: vec![0; LONGEST], control, dropped: 0 })
    }

    /// The next frame; none if there was none for a moment.
    pub fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        let mut room = [IoSliceMut::new(&mut self.buffer)];
        let received = recvmsg::<LinkAddr>(
            self.socket.as_raw_fd(),
            &mut room,
            Some(&mut self.control),
            MsgFlags::empty(),
        );
        let message = match received {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut since = Duration::ZERO;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::RxqOvfl(dropped) => self.dropped = dropped,
                ControlMessageOwned::ScmTimestampns(time) => since = Duration::from(time),
                _ => {}
            }
        }
        let (length, from) = (message.bytes, message.address);
        // Before the filter was there everything came in.
        let Some(from) = from.filter(|from| from.ifindex() == self.interface as usize) else {
            return Ok(None);
        };
        Ok(Some(Frame { bytes: &self.buffer[..length], since, outgoing: from.pkttype() == OUTGOING }))
    }
}
