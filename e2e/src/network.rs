//! The lab's wires: hosts as network namespaces on one switch, this machine on it too, and an outside that knows no pods.
//!
//! ```text
//!  node1 eth0 ─┐                                       ┌─ eth0 outside 198.18.8.2
//!  node2 eth0 ─┼─ br0 (lab-switch, 198.18.7.254, router) ┤
//!  node3 eth0 ─┘        └─ lab-host0: this machine, 198.18.7.253, so that kubectl reaches the cluster
//! ```
//!
//! The router knows no route to the pods: what crosses between hosts does so encapsulated, and what goes outside is
//! masqueraded, or it is lost. The addresses are those that RFC 2544 sets aside for benchmarks.

use std::path::Path;

use anyhow::{Result, bail};

use crate::run::{run, words};

/// The namespace of the switch and router.
pub const SWITCH: &str = "lab-switch";
/// The namespace of the machine outside of the cluster.
pub const OUTSIDE: &str = "lab-outside";
/// The address of the machine outside.
pub const OUTSIDE_IP: &str = "198.18.8.2";
const NETWORK: &str = "198.18.7.";
const OUTSIDE_NETWORK: &str = "198.18.8.";
/// How many hosts the lab has names and addresses for.
pub const MOST_HOSTS: u8 = 9;

/// The name of the `n`-th host, from 1.
pub fn host_name(n: u8) -> String {
    format!("node{n}")
}

/// The address of the `n`-th host on its `eth0`.
pub fn host_ip(n: u8) -> String {
    format!("198.18.7.{n}")
}

/// Makes switch, router and outside, and connects this machine.
pub fn create() -> Result<()> {
    if exists(SWITCH) {
        bail!("the lab's switch is there already: `make down` removes what an earlier run left");
    }
    check_free()?;
    batch(&format!(
        "netns add {SWITCH}
         netns add {OUTSIDE}
         link add lab-host0 type veth peer name host netns {SWITCH}
         link add eth0 netns {OUTSIDE} type veth peer name outside netns {SWITCH}
         addr add 198.18.7.253/24 dev lab-host0
         link set lab-host0 up"
    ))?;
    batch_in(
        SWITCH,
        "link set lo up
         link add br0 type bridge
         link set br0 up
         addr add 198.18.7.254/24 dev br0
         link set host master br0 up
         addr add 198.18.8.1/24 dev outside
         link set outside up",
    )?;
    run(&mut words(&format!("ip netns exec {SWITCH} busybox sysctl -w net.ipv4.ip_forward=1")))?;
    batch_in(
        OUTSIDE,
        &format!(
            "link set lo up
             addr add {OUTSIDE_IP}/24 dev eth0
             link set eth0 up
             route add default via 198.18.8.1"
        ),
    )
}

/// The lab's networks must be nobody else's here: packets for its hosts would go to a stranger.
fn check_free() -> Result<()> {
    let addresses = run(&mut words("ip -4 -o addr show"))?;
    match [NETWORK, OUTSIDE_NETWORK].iter().find(|net| addresses.contains(&format!("inet {net}"))) {
        None => Ok(()),
        Some(net) => {
            bail!("this machine has an address in {net}0/24, which the lab uses: the lab cannot run here")
        }
    }
}

/// Makes the `n`-th host's namespace and plugs its `eth0` into the switch.
pub fn plug(n: u8) -> Result<()> {
    let name = host_name(n);
    batch(&format!(
        "netns add {name}
         link add eth0 netns {name} type veth peer name {name} netns {SWITCH}"
    ))?;
    batch_in(SWITCH, &format!("link set {name} master br0 up"))?;
    batch_in(
        &name,
        &format!(
            "link set lo up
             addr add {}/24 dev eth0
             link set eth0 up
             route add default via 198.18.7.254",
            host_ip(n)
        ),
    )
}

/// Removes whatever there is of the lab's namespaces; their interfaces, routes and rules go with them.
pub fn destroy() -> Result<()> {
    let hosts = (1..=MOST_HOSTS).map(host_name);
    for name in hosts.chain([SWITCH.to_owned(), OUTSIDE.to_owned()]).filter(|name| exists(name)) {
        run(&mut words(&format!("ip netns delete {name}")))?;
    }
    Ok(())
}

/// Whether a network namespace of this name is there.
pub fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

fn batch(lines: &str) -> Result<()> {
    for line in lines.lines() {
        run(&mut words(&format!("ip {}", line.trim())))?;
    }
    Ok(())
}

fn batch_in(namespace: &str, lines: &str) -> Result<()> {
    for line in lines.lines() {
        run(&mut words(&format!("ip -n {namespace} {}", line.trim())))?;
    }
    Ok(())
}
