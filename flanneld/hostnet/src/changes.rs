//! Whether links, addresses or routes changed, as the kernel tells those who listen (rtnetlink(7)). What changed isn't read: whoever
//! asks looks at everything that is his anyway.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::{Error, Result};

const GROUPS: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE) as u32;
/// Messages that are read at a time; if there are more, the next look finds them.
const MOST: usize = 4096;

/// An ear on this namespace. Between two looks the kernel keeps messages for it, as many as a socket holds.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
}

impl Changes {
    /// Listens from now on.
    pub fn listen() -> Result<Changes> {
        open().map(|socket| Changes { socket }).map_err(|errno| Error::Socket { source: errno.into() })
    }

    /// Whether there was a change of links, addresses or routes since the last look. When in doubt there was.
    pub fn any(&self) -> bool {
        let mut changed = false;
        for _ in 0..MOST {
            match recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return changed,
                // ENOBUFS is among them: there were more than the socket holds.
                Ok(_) | Err(_) => changed = true,
            }
        }
        changed
    }
}

fn open() -> nix::Result<OwnedFd> {
    let route = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(socket)
}
