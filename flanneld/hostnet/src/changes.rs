//! Whether links, addresses, routes, classifiers or a link's neighbours changed, as the kernel tells those who listen (rtnetlink(7)). What
//! changed isn't read: whoever asks looks at everything that is his anyway. Only of neighbours it is read whose they are: on a busy host those of other
//! links change all the time.

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
    | libc::RTMGRP_IPV6_ROUTE
    | libc::RTMGRP_TC
    | libc::RTMGRP_NEIGH) as u32;
/// `nlmsghdr` and as much of `ndmsg` as tells of which link a neighbour is.
const HEAD: usize = 24;
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

    /// Whether there was a change of links, addresses, routes, classifiers or the neighbours of one of these links since the last look.
    /// When in doubt there was.
    pub fn any(&self, links: &[u32]) -> bool {
        let (mut changed, mut head) = (false, [0; HEAD]);
        for _ in 0..MOST {
            match recv(self.socket.as_raw_fd(), &mut head, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return changed,
                Ok(HEAD) if neighbour_of(&head).is_some_and(|index| !links.contains(&index)) => {}
                // ENOBUFS is among them: there were more than the socket holds.
                Ok(_) | Err(_) => changed = true,
            }
        }
        changed
    }
}

/// Of which link the message tells a neighbour; none if it tells of something else.
fn neighbour_of(head: &[u8; HEAD]) -> Option<u32> {
    let [_, _, _, _, first, second, ..] = *head;
    let kind = u16::from_ne_bytes([first, second]);
    let index = <[u8; 4]>::try_from(&head[HEAD - 4..]).ok()?;
    [libc::RTM_NEWNEIGH, libc::RTM_DELNEIGH].contains(&kind).then(|| u32::from_ne_bytes(index))
}

fn open() -> nix::Result<OwnedFd> {
    let route = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    Ok(socket)
}
