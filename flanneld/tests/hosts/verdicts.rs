//! The kernel's program in the driver and flanneld judge the same packets: what the program takes or drops, flanneld would have taken as
//! it is, or dropped. What it passes on unchanged, flanneld judges anyway. Needs root, for the kernel runs the program on bytes of ours.

#![allow(unsafe_code, reason = "no crate that is here asks the kernel to run a program")]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use flanneld::datapath::checksum;
use flanneld::datapath::fast::{Neighbour, Place, Program, Programs};
use flanneld::datapath::forward::inbound;
use flanneld::route::Table;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::wire::{PORT, inner};

const PACKETS: usize = 200_000;
const SEED: u64 = 4789;
const HERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const MTU: u32 = 1472;
/// Ethernet's header, and those of the outer packet.
const ETHERNET: usize = 14;
const OUTER: usize = 28;
/// What the program leaves before a frame that it took.
const MARK: usize = 4;
/// `enum xdp_action`.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
/// `enum bpf_cmd`.
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The part of `union bpf_attr` that this command reads (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// What a program makes of a frame: its verdict, and the frame afterwards.
fn run(program: BorrowedFd<'_>, frame: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; frame.len() + 256];
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    let size = size_of::<TestRun>() as libc::c_uint;
    // SAFETY: the kernel reads `size_in` bytes of the frame, and writes `size_out` bytes at the most; both live until it returns.
    let code = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size) };
    assert_eq!(code, 0, "{}", io::Error::last_os_error());
    out.truncate(attributes.size_out as usize);
    (attributes.verdict, out)
}

/// A frame with these outer addresses and class around an inner packet.
fn frame(from: SocketAddrV4, tos: u8, packet: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(8 + packet.len()).unwrap();
    let mut ip = vec![0x45, tos];
    ip.extend((20 + udp).to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    ip.extend([from.ip().octets(), HERE.octets()].concat());
    let sum = checksum::of(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let ports = [from.port().to_be_bytes(), PORT.to_be_bytes(), udp.to_be_bytes(), [0, 0]].concat();
    [&[2; 12][..], &[8, 0], &ip, &ports, packet].concat()
}

/// What the kernel tells flanneld of a datagram: its sender and its class of service.
fn told(frame: &[u8]) -> (SocketAddrV4, u8) {
    let ip = &frame[ETHERNET..];
    let from = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]);
    (SocketAddrV4::new(from, u16::from_be_bytes([ip[20], ip[21]])), ip[1])
}

/// A packet that would be taken, but for what chance changes of it.
fn strange(random: &mut SmallRng) -> Vec<u8> {
    let pick = |random: &mut SmallRng, all: &[Ipv4Addr]| all[random.random_range(0..all.len())];
    let (theirs, mine) = (Ipv4Addr::new(10, 5, 2, 7), Ipv4Addr::new(10, 5, 1, 9));
    let source = pick(random, &[theirs, theirs, theirs, theirs, Ipv4Addr::new(10, 5, 3, 7), mine, STRANGER]);
    let to = pick(random, &[mine, mine, mine, mine, theirs, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST]);
    let mut packet = inner(source, to, &vec![7; random.random_range(0..64)]);
    packet[1] = random.random();
    packet[8] = if random.random_bool(0.1) { random.random_range(0..3) } else { random.random() };
    if random.random_bool(0.8) {
        packet[10..12].fill(0);
        let sum = checksum::of(&packet[..20]).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
    }
    for _ in 0..[0, 0, 0, 1, 3][random.random_range(0..5)] {
        let at = random.random_range(0..packet.len());
        packet[at] = random.random();
    }
    match random.random_range(0..12) {
        0 => packet.truncate(random.random_range(0..packet.len())),
        1 => packet.resize(random.random_range(0..3000), 7),
        _ => {}
    }
    packet
}

#[test]
fn the_program_in_the_driver_judges_as_flanneld_does() {
    let programs = Programs::load().unwrap();
    let own = "10.5.1.0/24".parse().unwrap();
    let peer = Neighbour {
        subnet: "10.5.2.0/24".parse().unwrap(),
        next_hop: PEER,
        takes: true,
        takes_marks: true,
        narrow: false,
    };
    let place = Place { address: HERE, port: PORT, underlay: 2, device: 3, mtu: MTU, wire: true };
    programs.publish(own, &place, [peer].into_iter(), None).unwrap();
    let (_, program) = programs.program(Program::Driver).unwrap();
    let table = Table::new(Some(own), [(peer.subnet, SocketAddrV4::new(PEER, PORT))]);

    let (mut random, mut taken, mut dropped, mut passed) = (SmallRng::seed_from_u64(SEED), 0, 0, 0);
    for _ in 0..PACKETS {
        let ip = if random.random_bool(0.9) { PEER } else { STRANGER };
        let port = if random.random_bool(0.95) { PORT } else { PORT + 1 };
        let (from, tos) = (SocketAddrV4::new(ip, port), random.random());
        let packet = strange(&mut random);
        let mut before = frame(from, tos, &packet);
        if random.random_bool(0.05) {
            let at = random.random_range(0..ETHERNET + OUTER);
            before[at] = random.random();
        }
        let (verdict, after) = run(program, &before);
        let mut by_flanneld = packet.clone();
        let (from, tos) = told(&before);
        let judged = inbound(&mut by_flanneld, from.into(), tos, &table);
        match verdict {
            XDP_PASS if after == before => passed += 1,
            XDP_PASS => {
                taken += 1;
                assert!(judged.is_ok(), "taken, though {judged:?}: {packet:02x?}");
                assert_eq!(after[MARK..][..ETHERNET], before[..ETHERNET]);
                assert_eq!(after[MARK + ETHERNET..], by_flanneld, "it goes on as by flanneld");
            }
            XDP_DROP => {
                dropped += 1;
                assert!(judged.is_err(), "dropped, though flanneld takes it: {packet:02x?}");
            }
            other => panic!("verdict {other}"),
        }
    }
    println!("of {PACKETS} packets the program took {taken}, dropped {dropped}, left {passed} to flanneld");
    assert!(taken > PACKETS / 10 && dropped > PACKETS / 10 && passed > PACKETS / 20, "all of it was tried");
    programs.withdraw().unwrap();
    let good =
        frame(SocketAddrV4::new(PEER, PORT), 0, &inner([10, 5, 2, 7].into(), [10, 5, 1, 9].into(), b"x"));
    assert_eq!(run(program, &good), (XDP_PASS, good), "without a lease nothing is taken");
}
