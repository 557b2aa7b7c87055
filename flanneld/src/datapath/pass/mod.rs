//! Open descriptors on their way from one process to the next, over a Unix socket (`SCM_RIGHTS`, unix(7)).
//!
//! A descriptor that is passed stays what it is: the queue of the device and the socket keep what waits in them, and the kernel
//! goes on to put packets there. So while both processes have them each packet is read by one of the two, and none waits where
//! nobody reads.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// At once; a data path has fewer.
pub const MOST: usize = 64;

/// What a process gets to carry on where another one is.
#[derive(Debug)]
pub struct Given {
    /// The name that one process can have (see [`super::tun`]).
    pub alone: OwnedFd,
    /// The device's queues.
    pub queues: Vec<OwnedFd>,
    /// As many sockets.
    pub sockets: Vec<OwnedFd>,
}

impl Given {
    /// From descriptors in the order in which [`super::engine::Engine::descriptors`] has them: none if they aren't a data path's.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Given> {
        let mut rest = descriptors.into_iter();
        let alone = rest.next()?;
        let mut queues: Vec<OwnedFd> = rest.collect();
        let sockets = queues.split_off(queues.len() / 2);
        (!queues.is_empty() && queues.len() == sockets.len()).then_some(Given { alone, queues, sockets })
    }
}

/// Sends bytes, and descriptors with the first of them. The socket must not be full; how many bytes went.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = sendmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(sent)
}

/// Receives bytes, without waiting, and the descriptors that come with them; how many bytes, 0 at the end.
pub fn receive(socket: impl AsFd, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; MOST]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has made these descriptors for this call alone; nobody else owns them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_passed_stays_open_and_keeps_what_waits_in_it() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"waits").unwrap();
        send(&here, b"line\n", &[far.as_fd()]).unwrap();
        drop(far);
        let (mut bytes, mut descriptors) = ([0; 16], Vec::new());
        assert_eq!(receive(&there, &mut bytes, &mut descriptors).unwrap(), 5);
        let mut passed = UnixStream::from(descriptors.pop().unwrap());
        let mut waited = [0; 5];
        passed.read_exact(&mut waited).unwrap();
        assert_eq!((&bytes[..5], &waited), (&b"line\n"[..], b"waits"));
        assert_eq!(
            receive(&there, &mut bytes, &mut descriptors).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(here);
        assert_eq!(receive(&there, &mut bytes, &mut descriptors).unwrap(), 0);
    }

    #[test]
    fn a_data_path_is_a_name_and_as_many_queues_as_sockets() {
        let some = |count: usize| {
            (0..count).map(|_| OwnedFd::from(UnixStream::pair().unwrap().0)).collect::<Vec<_>>()
        };
        for (count, queues) in [(0, None), (1, None), (2, None), (3, Some(1)), (4, None), (5, Some(2))] {
            let given = Given::from_descriptors(some(count));
            assert_eq!(given.map(|given| given.queues.len()), queues, "{count}");
        }
    }
}
