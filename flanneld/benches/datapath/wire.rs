//! The wire between the hosts: a veth pair that behaves as network cards do.
//!
//! A veth hands super-packets over whole, which no wire does. So each is cut before it enters (`gso_max_segs`), and the receiver
//! joins what it can (GRO), as it does for cards; from a veth it does so only if the other end has no TSO.
#![allow(unsafe_code)] // ethtool's calls have no safe form.

use std::fs::File;
use std::os::fd::AsRawFd;

use hostnet::Netlink;
use ipnetwork::IpNetwork;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::lab::{Host, inside};
use super::tool;

/// `ETHTOOL_STSO` and `ETHTOOL_SGRO` of linux/ethtool.h.
const SET_TSO: u32 = 0x1f;
const SET_GRO: u32 = 0x2c;

nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);

/// Connects two hosts by `wire0`.
pub fn connect(hosts: &[Host], whole: bool) {
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
            if !whole {
                set(SET_TSO, 0);
                set(SET_GRO, 1);
            }
        });
        if !whole {
            tool(host.ns.path(), "ip", &["link", "set", "wire0", "gso_max_segs", "1"]);
        }
    }
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
