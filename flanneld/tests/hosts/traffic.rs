//! Pods of two hosts talk.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use hostnet::netns::run_in;
use hostnet::sysctl;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::lab::{Lab, Pod};
use super::wire::{Capture, is_tunnel, udp};

const PATIENCE: Duration = Duration::from_secs(10);

/// A pod that sends back whatever comes by TCP, until the test ends.
pub fn echo(pod: &Pod, port: u16) -> JoinHandle<()> {
    let address = SocketAddr::new(pod.ip.into(), port);
    let listener = run_in(pod.ns.path(), || TcpListener::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut back);
            });
        }
    })
}

/// A connection out of a namespace.
pub fn dial(ns: &Path, to: impl Into<IpAddr>, port: u16) -> std::io::Result<TcpStream> {
    let to = SocketAddr::new(to.into(), port);
    let stream = run_in(ns, || TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether a pod's answer to one datagram comes, within a moment.
pub fn answers(from: &Pod, to: &Pod) -> bool {
    answer((from.ns.path(), from.ip), (to.ns.path(), to.ip))
}

/// Whether the answer to one datagram from namespace and address to namespace and address comes, within a moment.
pub fn answer(from: (&Path, Ipv4Addr), to: (&Path, Ipv4Addr)) -> bool {
    let (server, client) = (udp(to.0, (to.1, 0)), udp(from.0, (from.1, 0)));
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    }
    let mut byte = [0; 8];
    let asked = client.send_to(b"question", server.local_addr().unwrap()).is_ok();
    let Ok((length, asker)) = server.recv_from(&mut byte) else { return false };
    asked && server.send_to(&byte[..length], asker).is_ok() && client.recv(&mut byte).is_ok()
}

#[test]
fn tcp_carries_megabytes_both_ways() {
    let (_lab, daemons, [a, b]) = Lab::pair();
    echo(&b, 80);
    let mut stream = dial(a.ns.path(), b.ip, 80).unwrap();
    let sent: Vec<u8> = (0..4_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut out, all) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || out.write_all(&all).unwrap());
    let mut back = vec![0; sent.len()];
    stream.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == sent, "what came back is not what was sent");
    for daemon in &daemons {
        assert!(daemon.metric(r#"flannel_packets_total{direction="out"}"#) > 0);
        assert_eq!(daemon.dropped("in", "Sender") + daemon.dropped("in", "Destination"), 0);
    }
}

#[test]
fn udp_of_the_inner_mtu_crosses_whole() {
    let (lab, daemons, [a, b]) = Lab::pair();
    let (_, mtu) = daemons[0].subnet();
    assert_eq!(mtu, 1472);
    let largest = mtu as usize - 28;
    let (server, client) = (udp(b.ns.path(), (b.ip, 53)), udp(a.ns.path(), (a.ip, 0)));
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let outer = Capture::wire(&lab, 0, is_tunnel);
    let at_pod = Capture::start(b.ns.path(), "eth0", |ip| ip[9] == 17);
    let mut buffer = vec![0; 2000];
    for n in 0..100 {
        let question = vec![n; largest];
        client.send_to(&question, (b.ip, 53)).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&question[..], client.local_addr().unwrap()));
        server.send_to(&buffer[..length], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), largest);
    }
    let (outer, inner) = (outer.stop().kept, at_pod.stop().kept);
    assert!(
        outer.len() >= 200 && outer.iter().all(|p| p.len() == 1500 && p[28] == 0x45),
        "bare inner packets"
    );
    // Four hops: the first host, its flanneld, the other's, the second host.
    let arrived: Vec<_> = inner.iter().filter(|p| p[16..20] == b.ip.octets()).collect();
    assert_eq!(arrived.len(), 100);
    assert!(arrived.iter().all(|p| p.len() == mtu as usize && p[8] == 60), "whole, and four hops away");
}

#[test]
fn ping_of_the_inner_mtu_comes_back() {
    let (_lab, daemons, [a, b]) = Lab::pair();
    let largest = daemons[0].subnet().1 as usize - 28;
    let fd = run_in(a.ns.path(), || {
        sysctl::set("net/ipv4/ping_group_range", "0\t0").unwrap();
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp).unwrap()
    })
    .unwrap();
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(b.ip, 0));
    let mut answer = vec![0; 2000];
    for n in 0..5 {
        let mut question = vec![8, 0, 0, 0, 0, 0, 0, n];
        question.resize(8 + largest, n);
        sendto(fd.as_raw_fd(), &question, &to, MsgFlags::empty()).unwrap();
        let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        assert_eq!((answer[0], answer[7], &answer[8..length]), (0, n, &question[8..]));
    }
}
