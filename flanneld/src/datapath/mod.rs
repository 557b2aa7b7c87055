//! The packet's way, in two directions that know nothing of each other.
//!
//! ```text
//!  pod ─► flannel0 ─ tun::read ─► Batch ─ forward::outbound ─ split ─► Outbox ─ udp::Sender ═► the next hop's flanneld
//!  pod ◄─ flannel0 ◄─ tun::write ─ Runs ◄─ coalesce ─ forward::inbound ◄─ udp::Receiver ◄═ (checked: sender, source, destination)
//! ```
//!
//! Packets stay in super-packets as far as can be: one of 64 KiB is read from the device in one call, judged once, split, and
//! sent in one call; what arrives is judged packet by packet and joined again. Over the wire goes a bare inner packet a
//! datagram, whatever the other side makes of it.
//!
//! What the kernel can do alone, its programs do (`fast`), and such a packet never comes here.
//!
//! `tun` and `udp` move batches to and from the kernel, `engine` is the loops and decides nothing, `pass` hands queues and
//! sockets to the next process. All else is pure: bytes and a table in, verdicts and ranges out, no clock, no file.

pub mod buffer;
pub mod checksum;
pub mod clamp;
pub mod coalesce;
pub mod counters;
pub mod ecn;
pub mod engine;
pub mod fast;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod icmp6;
pub mod layers;
pub mod outbox;
pub mod packet;
pub mod packet6;
pub mod partial;
pub mod pass;
pub mod path;
mod per_peer;
pub mod split;
pub mod tun;
pub mod udp;
mod view;
pub mod virtio;
pub mod wireguard;
