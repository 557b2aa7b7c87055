//! What is on a wire, as an AF_PACKET socket sees it, and packets made by hand.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use flanneld::datapath::checksum;
use hostnet::netns::run_in;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::lab::Lab;

/// EtherTypes.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// flannel's port.
pub const PORT: u16 = 8285;

/// Looks at an interface until it is stopped, and keeps the packets of one family that it was asked for.
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

/// What a capture saw.
pub struct Seen {
    /// The packets that were asked for, from the IP header on.
    pub kept: Vec<Vec<u8>>,
    /// How many frames there were in all.
    pub frames: usize,
}

impl Capture {
    /// Begins, with IPv4 packets; it is listening when this returns.
    pub fn start(ns: &Path, interface: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Capture {
        Capture::begin(ns, interface, IPV4, 28, wanted)
    }

    /// The same with IPv6 packets.
    pub fn start6(ns: &Path, interface: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Capture {
        Capture::begin(ns, interface, IPV6, 48, wanted)
    }

    fn begin(
        ns: &Path,
        interface: &str,
        kind: u16,
        least: usize,
        wanted: impl Fn(&[u8]) -> bool + Send + 'static,
    ) -> Capture {
        let (fd, index) = run_in(ns, || (packet_socket(), if_nametoindex(interface).unwrap())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen { kept: Vec::new(), frames: 0 };
            let mut frame = [0; 65536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut frame) else { continue };
                let Some(from) = from.filter(|from| from.ifindex() == index as usize) else { continue };
                seen.frames += 1;
                let (ip, is_ip) = (&frame[..length], from.protocol() == kind.to_be());
                if is_ip && ip.len() >= least && wanted(ip) {
                    seen.kept.push(ip.to_vec());
                }
            }
            seen
        });
        Capture { stop, thread: Some(thread) }
    }

    /// Begins at the switch's end of a host's wire: what is there is what the wire carries, whatever programs the host's own interface has.
    pub fn wire(lab: &Lab, host: usize, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Capture {
        Capture::start(lab.switch.path(), &format!("h{}", host + 1), wanted)
    }

    /// Ends it, a moment after the last packet was sent; what it saw.
    pub fn stop(mut self) -> Seen {
        std::thread::sleep(std::time::Duration::from_millis(200));
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn packet_socket() -> OwnedFd {
    let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .unwrap();
    setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20)).unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
    fd
}

/// Whether a packet on the hosts' network is a pod's, in clear: from or to the pods' network.
pub fn in_clear(ip: &[u8]) -> bool {
    ip[12..14] == [10, 5] || ip[16..18] == [10, 5]
}

/// Whether it is a tunnel's.
pub fn is_tunnel(ip: &[u8]) -> bool {
    ip[9] == 17 && ip[22..24] == PORT.to_be_bytes()
}

/// A UDP packet as it travels inside of a datagram; the UDP checksum is left out, which IPv4 allows.
pub fn inner(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(28 + payload.len()).unwrap();
    let mut bytes = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 17, 0, 0];
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    let sum = checksum::of(&bytes).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
    for field in [7000, 7000, total - 20, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

/// A UDP socket in a namespace.
pub fn udp(ns: &Path, address: impl Into<SocketAddr>) -> UdpSocket {
    let address = address.into();
    run_in(ns, || UdpSocket::bind(address)).unwrap().unwrap()
}
