//! The packet path allocates nothing once it runs: two engines, sockets on loopback between them, pairs of sockets for their devices.
//!
//! ```text
//!  test ─ pair ─ engine A ═ 127.0.0.1 ═ 127.0.0.2 ═ engine B ─ pair ─ test
//! ```
#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use flanneld::datapath::checksum;
use flanneld::datapath::counters::Meters;
use flanneld::datapath::engine::{Engine, Parts};
use flanneld::datapath::layers::{TCP, UDP};
use flanneld::datapath::path::Level;
use flanneld::datapath::tun::Tun;
use flanneld::datapath::udp::Udp;
use flanneld::datapath::virtio::{self, Gso, Header, Kind, Partial};
use flanneld::family::Dual;
use flanneld::route::{Handle, Table};
use ipnetwork::Ipv4Network;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use prometheus_client::registry::Registry;

/// Counts what all threads ask for.
struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Rounds in which rooms are made and threads find their pointers.
const WARM_UP: usize = 100;
const ROUNDS: usize = 3000;
const SEGMENT: usize = 1400;
const HERE: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 2);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 5, 2, 2);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 5, 9, 9);

/// A host with its pods: an engine, and the other end of its device.
struct Host {
    _engine: Engine,
    device: File,
}

impl Host {
    fn start(own: &str, at: SocketAddrV4, peer: &str, peer_at: SocketAddrV4) -> Host {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
        let meters = Meters::register(&mut Registry::default());
        let own: Ipv4Network = own.parse().unwrap();
        let routes = Handle::default();
        routes.publish(Table::new(Some(own), [(peer.parse().unwrap(), peer_at)]));
        let level = Level::Offload;
        let udp = Udp::bind(at.into(), 1, level, meters.path.clone()).unwrap();
        let tun = Tun::over(vec![File::from(theirs)], &meters.path).unwrap();
        let parts = Parts {
            tun,
            udp,
            routes,
            own: Dual::only_v4(own.network().into()),
            level,
            mtu: 1472,
            wireguard: None,
            meters,
        };
        let engine = Engine::start(parts).unwrap();
        Host { _engine: engine, device: File::from(ours) }
    }

    /// Its kernel has a packet for the device.
    fn give(&mut self, packet: &[u8]) {
        assert_eq!(self.device.write(packet).unwrap(), packet.len());
    }

    /// The next packet that its kernel gets from the device.
    fn take<'a>(&mut self, buffer: &'a mut [u8]) -> &'a [u8] {
        let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 5000_u16).unwrap(), 1, "nothing comes");
        let length = self.device.read(buffer).unwrap();
        &buffer[..length]
    }
}

/// A packet as a TUN gives it: its checksum is left to us, and so is splitting, if it is long.
fn packet(to: Ipv4Addr, protocol: u8, payload: usize) -> Vec<u8> {
    let (transport, offset) = if protocol == TCP { (20, checksum::IN_TCP) } else { (8, checksum::IN_UDP) };
    let length = (transport + payload) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    bytes[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    bytes.extend([HERE.octets(), to.octets()].concat());
    let sum = checksum::of(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![0; transport];
    header[1] = 80;
    if protocol == TCP {
        (header[12], header[13]) = (0x50, 0x10);
    } else {
        header[4..6].copy_from_slice(&length.to_be_bytes());
    }
    let pseudo = checksum::pseudo(&bytes[12..20], protocol, length.into());
    header[offset..offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    bytes.extend(header);
    bytes.extend((0..payload).map(|n| (n / 7) as u8));
    let gso = (payload > SEGMENT).then_some(Gso { kind: Kind::Tcp4, size: SEGMENT as u16 });
    let partial = Some(Partial { start: 20, offset: offset as u16 });
    let left = Header { partial, gso, header_len: 20 + transport as u16 };
    [&left.emit()[..], &bytes].concat()
}

#[test]
fn batches_of_all_kinds_are_carried_without_an_allocation() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let [at_a, at_b] = [1, 2].map(|n| SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, n), port));
    let mut a = Host::start("10.5.1.0/24", at_a, "10.5.2.0/24", at_b);
    let mut b = Host::start("10.5.2.0/24", at_b, "10.5.1.0/24", at_a);
    let stream = packet(THERE, TCP, 20 * SEGMENT + 9);
    let (small, lost) = (packet(THERE, UDP, 64), packet(NOWHERE, UDP, 64));
    let mut buffer = vec![0; 1 << 17];
    let mut before = 0;
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            before = ASKED.load(Ordering::Relaxed);
        }
        for packet in [&small, &lost, &stream] {
            a.give(packet);
        }
        for expected in [&small, &stream] {
            let came = b.take(&mut buffer);
            assert_eq!(came.len(), expected.len(), "one packet is what was one");
            assert_eq!(came[virtio::LEN + 40..], expected[virtio::LEN + 40..]);
        }
        // Not as often as there are packets for nobody; until then the answers allocate nothing either.
        if round < 10 {
            assert_eq!(a.take(&mut buffer)[virtio::LEN + 9], 1, "ICMP");
        }
    }
    assert_eq!(ASKED.load(Ordering::Relaxed) - before, 0, "allocations in {ROUNDS} rounds");
}
