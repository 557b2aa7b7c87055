//! The real `flanneld` on hosts that are network namespaces, with a real etcd. Needs root, etcd and nft.
//!
//! ```text
//!  pod ─ cni0 ─ host 1 eth0 ─┐                                  ┌─ eth0 host 2 ─ cni0 ─ pod
//!                            ├─ br0 (switch, router, etcd) ─────┤
//!                            └─────────── eth0 stranger ────────┘
//! ```
//!
//! Each host's default route leads to the switch, so a pod packet that the tunnel does not take has somewhere to leak to.
//!
//! What must hold, and which test holds it. The right column is Go flannel's behaviour (v0.28.9, as its source reads or its issues say), on
//! which the test would fail.
//!
//! | what must hold | test | Go flannel |
//! |---|---|---|
//! | nodes that start at once get a subnet each, none exits | `claim::nodes_that_start…`, `claim::fifty_nodes…` | the loser of a race exits |
//! | a reservation stays one | `claim::a_reservation…` | becomes a lease of a day (1329) |
//! | two hosts with one address do not share a subnet | `claim::of_two_hosts…` | both use it |
//! | a host with another address keeps its subnet | `claim::a_host_that…`, `moving::*`, `reboot::*` | another subnet, the old lease stays for a day |
//! | paused beyond its lease a node sends nothing, and overwrites nobody | `death::paused_beyond…` | plain put over the new owner (1289, 1343) |
//! | a damaged record costs itself only | `damage::*` | all routes go, or the daemon exits (126) |
//! | a peer that moved while the watch was broken is found | `silent::what_happened…`, `silent::after_a_cut_line…` | not told (1247) |
//! | etcd that is silent, away or set back costs no packet | `silent::minutes…`, `silent::a_silent…`, `silent::a_lease_survives…` | watches a revision to come |
//! | device, address, routes, entries and rules that are deleted are back within 2 s | `heal::*` | device with another address, no entries (869, 877) |
//! | the interface flaps, moves, is made anew | `moving::*` | looked at once, at the start (1434, 1759) |
//! | what a dead predecessor left goes | `stale::*` | stays (2554) |
//! | nobody has the destination: refused at once | `unreachable::*` | the answer is a martian; connections time out |
//! | what a stranger injects is dropped and counted | `inject::*` | delivered |
//! | a million malformed packets: no exit, no growth | `flood::*` | hop 0 becomes 255, lengths are not checked |
//! | killed: nothing leaves in clear, connections live | `death::killed…`, `death::terminated…`, `death::without_a_device…` | the device goes, packets leave in clear |
//! | of two networks on one host none touches the other's | `networks::*` | routes of both stay, rules of one are the other's |
//! | an upgrade loses no packet | `upgrade::*` | nothing is carried meanwhile |
//! | the kernel's fast path judges as flanneld does | `verdicts::*`, and `inject`, `flood`, `headers` once more with it | has none |
//! | four thousand leases | `scale::*` | searches a list for each packet |

// Helpers of tests are tests too; figures and the daemons' logs are for whoever runs them.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod claim;
mod cost;
mod damage;
mod death;
mod dual;
mod extension;
mod fast;
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
mod look_fast;
mod moving;
mod mtu;
mod nat;
mod networks;
mod path_mtu;
mod reboot;
mod scale;
mod series;
mod silent;
mod stale;
mod traffic;
mod unreachable;
mod upgrade;
mod verdicts;
mod vxlan;
mod wire;
mod wireguard;
mod wireguard_dual;
