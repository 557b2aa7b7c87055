//! The real `flanneld` on hosts that are network namespaces, with a real etcd. Needs root, etcd and nft.
//!
//! ```text
//!  pod ─ cni0 ─ host 1 eth0 ─┐                                  ┌─ eth0 host 2 ─ cni0 ─ pod
//!                            ├─ br0 (switch, router, etcd) ─────┤
//!                            └─────────── eth0 stranger ────────┘
//! ```
//!
//! Each host's default route leads to the switch, so a pod packet that the tunnel does not take has somewhere to leak to.

// Helpers of tests are tests too; figures and the daemons' logs are for whoever runs them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod claim;
mod cost;
mod damage;
mod death;
mod dual;
mod extension;
mod flags;
mod flannel;
mod flood;
mod headers;
mod heal;
mod inject;
mod ipip;
mod kube;
mod lab;
mod look;
mod moving;
mod mtu;
mod nat;
mod path_mtu;
mod series;
mod silent;
mod traffic;
mod unreachable;
mod upgrade;
mod vxlan;
mod wire;
mod wireguard;
