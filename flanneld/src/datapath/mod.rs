//! The packet's way, in two directions that know nothing of each other.
//!
//! ```text
//!  pod ─► flannel0 ─ tun::read ─► Batch ─ forward::outbound ─► udp::send ═► the next hop's flanneld
//!  pod ◄─ flannel0 ◄─ tun::write ─ Batch ◄─ forward::inbound ◄─ udp::receive ◄═ (checked: sender, source, destination)
//! ```
//!
//! `packet`, `checksum`, `icmp` and `forward` are pure: bytes and a table in, verdicts out, no clock, no file. `tun` and `udp`
//! move batches to and from the kernel. `engine` is the two loops and decides nothing.

pub mod buffer;
pub mod checksum;
pub mod coalesce;
pub mod counters;
pub mod engine;
pub mod forward;
pub mod icmp;
pub mod layers;
pub mod packet;
pub mod split;
pub mod tun;
pub mod udp;
pub mod virtio;
