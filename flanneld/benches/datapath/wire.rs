//! The wire between the hosts: a veth pair, that behaves more or less as network cards do.
#![allow(unsafe_code)] // ethtool's calls have no safe form.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::programs::Xdp;
use clap::ValueEnum;
use hostnet::Netlink;
use ipnetwork::IpNetwork;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::lab::{Host, inside};
use super::tool;

/// `ETHTOOL_STSO` and `ETHTOOL_SGRO` of linux/ethtool.h.
const SET_TSO: u32 = 0x1f;
const SET_GRO: u32 = 0x2c;

nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);

/// What kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Between network cards without tunnel offload: super-packets are cut before they enter, a frame comes into a buffer of its own
    /// (here it is copied, for which a card needs no processor), the receiver joins frames (GRO), and a sender who is too fast waits
    Card,
    /// Between namespaces, with frames of 1500 bytes: they are handed over as they are, and are lost when more than 256 wait
    Veth,
    /// Between namespaces, or cards with tunnel offload: super-packets are handed over whole
    Whole,
}

/// The program that gives each frame its buffer.
static CARD: &[u8] = aya::include_bytes_aligned!("../../bpf/card.o");

/// Connects two hosts by `wire0`. `taken`: the way brings its own program for the driver, which has the same effect.
pub fn connect(hosts: &[Host], wire: Wire, taken: bool) {
    let [a, b] = [&hosts[0], &hosts[1]];
    let end = File::open(b.ns.path()).unwrap();
    inside(a.ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        netlink.add_veth_into("wire0", "wire0", 1500, &end).await.unwrap();
    });
    for (n, host) in hosts.iter().enumerate() {
        inside(host.ns.path(), async || {
            let netlink = Netlink::connect().unwrap();
            let link = netlink.link_by_name("wire0").await.unwrap().unwrap();
            let ip: IpNetwork = format!("198.18.51.{}/24", n + 1).parse().unwrap();
            netlink.add_address(link.index, ip).await.unwrap();
            netlink.set_up(link.index, true).await.unwrap();
            if wire != Wire::Whole {
                // From a veth, GRO joins only what an end without TSO has sent.
                set(SET_TSO, 0);
                set(SET_GRO, 1);
            }
        });
        if wire != Wire::Whole {
            tool(host.ns.path(), "ip", &["link", "set", "wire0", "gso_max_segs", "1"]);
        }
    }
    if wire == Wire::Card {
        hosts.iter().for_each(|host| be_a_card(host, taken));
    }
}

/// Once both ends have their features: with a program in one driver, the other's can't be changed any more.
fn be_a_card(host: &Host, taken: bool) {
    // A queue lets a sender wait, instead of losing what doesn't fit.
    tool(host.ns.path(), "tc", &["qdisc", "replace", "dev", "wire0", "root", "pfifo", "limit", "1000"]);
    if taken {
        return;
    }
    let mut object = Ebpf::load(CARD).unwrap();
    let program: &mut Xdp = object.program_mut("card").unwrap().try_into().unwrap();
    program.load().unwrap();
    let fd = program.fd().unwrap().as_fd();
    inside(host.ns.path(), async || {
        let netlink = Netlink::connect().unwrap();
        let link = netlink.link_by_name("wire0").await.unwrap().unwrap();
        netlink.set_driver_program(link.index, fd, false).await.unwrap();
    });
}

/// Switches a feature of this namespace's `wire0`.
fn set(command: u32, data: u32) {
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let mut value = Value { command, data };
    // SAFETY: an all-zero ifreq is valid: it holds numbers and a union of numbers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip("wire0".bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads the ifreq and the value that it points to; both live until the call returns.
    unsafe { ethtool(fd.as_raw_fd(), &raw mut request) }.unwrap();
}
