//! Sending: messages of several datagrams where the kernel cuts them, one by one where it does not.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::ops::AddAssign;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendmsg};

use super::sys::SendVectors;
use crate::datapath::outbox::{Message, Outbox};
use crate::datapath::path::{Feature, Path};
use crate::route::Hop;

/// Next hops to which messages are not cut by the kernel: the interface takes less than it did, and the pods don't know yet; or, with
/// sealed packets, the way there is narrower than the interface.
const MOST_NARROW: usize = 64;
/// After so many packets it is tried again.
const NARROW_FOR: u32 = 100_000;

/// What became of datagrams.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that it did not take.
    pub lost: u64,
}

/// Sends by one socket.
#[derive(Debug)]
pub struct Sender<'a> {
    socket: &'a UdpSocket,
    vectors: SendVectors,
    path: Path,
    /// The kernel cuts messages.
    cuts: bool,
    /// But not for these, for so many packets.
    narrow: Vec<(SocketAddr, u32)>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(socket: &'a UdpSocket, path: Path) -> Sender<'a> {
        let cuts = path.uses(Feature::UdpGso);
        Sender {
            socket,
            vectors: SendVectors::default(),
            path,
            cuts,
            narrow: Vec::with_capacity(MOST_NARROW),
        }
    }

    /// Whether packets to this next hop may share a message; asked for each packet.
    pub fn together(&mut self, to: SocketAddr) -> bool {
        let Some(at) = self.narrow.iter().position(|(peer, _)| *peer == to) else { return self.cuts };
        self.narrow[at].1 -= 1;
        if self.narrow[at].1 == 0 {
            self.narrow.swap_remove(at);
        }
        false
    }

    /// Sends all messages, whose payload lies in `bytes`, clears the outbox, and tells what became of each. A message that fails
    /// holds up no other.
    pub fn flush(&mut self, outbox: &mut Outbox, bytes: &[u8], mut tell: impl FnMut(Hop, Sent)) {
        let mut refused = None;
        let mut vectors = self.vectors.fill(outbox, bytes);
        let messages = outbox.messages();
        let mut next = 0;
        while next < messages.len() {
            match vectors.send(self.socket, next) {
                Ok(done) => {
                    messages[next..next + done]
                        .iter()
                        .for_each(|message| tell(message.to, Sent::all(message)));
                    next += done;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let message = &messages[next];
                    match Refusal::of(&error).filter(|_| message.count > 1) {
                        Some(refusal) => {
                            refused = Some((refusal, message.to.at));
                            tell(message.to, apart(self.socket, outbox, message, bytes));
                        }
                        // No route to that peer, or its queue is full: lost, the rest goes on.
                        None => tell(message.to, Sent { lost: message.count as u64, ..Sent::default() }),
                    }
                    next += 1;
                }
            }
        }
        outbox.clear();
        if let Some((refusal, to)) = refused {
            self.learn(refusal, to);
        }
    }

    fn learn(&mut self, refusal: Refusal, to: SocketAddr) {
        match refusal {
            Refusal::Unable => {
                if self.cuts && self.path.uses(Feature::UdpGso) {
                    tracing::warn!(
                        "the interface cannot send with UDP_SEGMENT; packets are sent one by one from now on"
                    );
                }
                self.cuts = false;
                self.path.set(Feature::UdpGso, false);
            }
            Refusal::Narrow => {
                tracing::debug!(%to, "the way there is narrower than the interface: packets are sent one by one for a while");
                if self.narrow.len() == MOST_NARROW {
                    self.narrow.remove(0);
                }
                self.narrow.push((to, NARROW_FOR));
            }
        }
    }
}

/// Why the kernel did not cut a message.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    /// The interface has no checksum offload, without which there is no cutting.
    Unable,
    /// A datagram is longer than the path's MTU.
    Narrow,
}

impl Refusal {
    fn of(error: &io::Error) -> Option<Refusal> {
        match Errno::from_raw(error.raw_os_error()?) {
            Errno::EIO | Errno::EOPNOTSUPP => Some(Refusal::Unable),
            // EINVAL from kernels before 6.14.
            Errno::EMSGSIZE | Errno::EINVAL => Some(Refusal::Narrow),
            _ => None,
        }
    }
}

/// Sends the datagrams of one message one by one.
fn apart(socket: &UdpSocket, outbox: &Outbox, message: &Message, bytes: &[u8]) -> Sent {
    let (to, mut sent) = (SockaddrStorage::from(message.to.at), Sent::default());
    for (header, payload) in outbox.pieces(message) {
        let length = header.len() + payload.len();
        let parts = [IoSlice::new(header), IoSlice::new(&bytes[payload])];
        match sendmsg(socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), Some(&to)) {
            Ok(_) => sent += Sent { packets: 1, bytes: length as u64, lost: 0 },
            Err(_) => sent.lost += 1,
        }
    }
    sent
}

impl Sent {
    fn all(message: &Message) -> Sent {
        Sent { packets: message.count as u64, bytes: message.bytes as u64, lost: 0 }
    }
}

impl AddAssign for Sent {
    fn add_assign(&mut self, more: Sent) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        self.lost += more.lost;
    }
}
