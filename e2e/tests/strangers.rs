//! What does not belong to the network: packets of strangers, and addresses that nobody has leased.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::Lab;
use e2e::probe::Pod;
use e2e::run::{output, run, wait_for, words};

const FLANNEL_PORT: u16 = 8285;
const INJECTED: u64 = 50;

/// This machine is on the hosts' switch and has no lease: whatever source its packets claim, none reaches a pod.
#[test]
fn a_stranger_cannot_inject() -> Result<()> {
    let lab = Lab::attach()?;
    let victim = Pod::start(&lab, "victim", 1, "sleep 3600")?;
    let peer = Pod::start(&lab, "peer", 2, "sleep 3600")?;
    let (from, to): (Ipv4Addr, Ipv4Addr) = (peer.ip.parse()?, victim.ip.parse()?);
    let filter = format!("ip netns exec node1 timeout 4 tcpdump -nli cni0 udp and dst host {to}");
    let mut dump =
        words(&filter).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn()?;
    std::thread::sleep(Duration::from_secs(1));

    let before = dropped(&lab, "Sender")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for number in 0..INJECTED {
        // Sources: the peer's pod, nobody's address in the network, an address outside, the victim's own host.
        let source =
            [from, Ipv4Addr::new(10, 42, 254, 9), Ipv4Addr::new(198, 18, 8, 2), to][(number % 4) as usize];
        socket.send_to(&datagram(source, to), (lab.host(1).ip.as_str(), FLANNEL_PORT))?;
    }
    wait_for("every injected packet to be counted", Duration::from_secs(5), || {
        Ok((dropped(&lab, "Sender")? >= before + INJECTED).then_some(()))
    })?;
    let mut seen = String::new();
    std::io::Read::read_to_string(&mut dump.stdout.take().context("tcpdump has no output")?, &mut seen)?;
    dump.wait()?;
    ensure!(seen.trim().is_empty(), "delivered: {seen}");
    Ok(())
}

/// TCP fails at once where no lease covers the destination: the sender gets an ICMP answer, not silence.
#[test]
fn an_address_without_a_lease_is_refused_at_once() -> Result<()> {
    let lab = Lab::attach()?;
    let _client = Pod::start(&lab, "seeker", 3, "sleep 3600")?;
    let started = Instant::now();
    let done = output(&mut lab.kubectl(&["exec", "seeker", "--", "nc", "-w", "10", "10.42.254.9", "80"]))?;
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(text.contains("unreachable"), "{text}");
    ensure!(started.elapsed() < Duration::from_secs(5), "it waited {:?}", started.elapsed());
    Ok(())
}

/// An inner packet: IPv4 with UDP to port 9, no data.
fn datagram(from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend([0x30, 0x39, 0, 9, 0, 8, 0, 0]);
    packet
}

/// How many arriving packets the first host's flanneld has dropped for this reason.
fn dropped(lab: &Lab, reason: &str) -> Result<u64> {
    let text = run(&mut words(&format!("busybox wget -qO- http://{}:8081/metrics", lab.host(1).ip)))?;
    let name = format!("flannel_drops_total{{direction=\"in\",reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)).context("no such metric")?;
    Ok(value.parse()?)
}
