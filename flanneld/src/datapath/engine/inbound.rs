//! In to the pods: receive, judge each datagram, join what belongs together, and hand it to the device.

use std::net::SocketAddr;
use std::time::Instant;

use nix::errno::Errno;

use super::{Shared, whole};
use crate::datapath::coalesce::{Joined, Run, Runs};
use crate::datapath::counters::{Counters, Reason};
use crate::datapath::forward::{self, LONGEST};
use crate::datapath::layers::MAX_HEADER;
use crate::datapath::partial;
use crate::datapath::path::{Feature, Path};
use crate::datapath::tun::Queue;
use crate::datapath::udp::Udp;
use crate::datapath::virtio;
use crate::datapath::wireguard::{Answer, OVERHEAD, Opener};
use crate::route::traffic::Train;

/// One direction of one queue.
struct Inbound<'a> {
    queue: &'a Queue,
    counters: &'a Counters,
    path: &'a Path,
    runs: Runs,
}

/// Runs until it is time to stop, or the socket is gone.
pub(super) fn run(shared: &Shared, queue: usize) {
    let parts = &shared.parts;
    let path = &parts.meters.path;
    let mut inbound = Inbound {
        queue: &parts.tun.queues()[queue],
        counters: &parts.meters.into,
        path,
        runs: Runs::new(joined(path)),
    };
    let mut receiver = parts.udp.receiver(queue);
    let mut opener = parts.wireguard.clone().map(|wireguard| Opener::new(wireguard, receiver.room()));
    let mut answers = Answers { udp: &parts.udp, queue, counters: &parts.meters.out };
    loop {
        match receiver.receive() {
            Ok(true) => {}
            Ok(false) if !shared.wait(parts.udp.fd(queue)) => return,
            Ok(false) => continue,
            Err(error) => return tracing::error!(%error, "the UDP socket is gone"),
        }
        let table = parts.routes.at(Instant::now());
        let mut train = Train::new(&table);
        let (bytes, datagrams) = receiver.received();
        for (datagram, at) in datagrams.iter().flat_map(|d| d.segments().map(move |at| (d, at))) {
            let judged = match &mut opener {
                None => forward::inbound(&mut bytes[at.clone()], datagram.from, datagram.tos, &table).map(
                    |peer| {
                        // What is longer is cut before anything is finished.
                        if at.len() <= parts.mtu {
                            partial::finish(&mut bytes[at.clone()]);
                        }
                        forward::fit_answers(&mut bytes[at.clone()], peer, &table);
                        Some((peer, at))
                    },
                ),
                Some(opener) => opener.open(bytes, at, datagram.from, &mut answers).and_then(|opened| {
                    let Some((sender, at)) = opened else { return Ok(None) };
                    forward::inbound(opener.packet(at.clone()), sender, 0, &table)
                        .map(|peer| Some((peer, at)))
                }),
            };
            match judged {
                Err(reason) => inbound.counters.drop(reason),
                Ok(None) => {}
                Ok(Some((peer, at))) => {
                    if opener.is_none() && at.len() > parts.mtu {
                        if let Some(gso) = partial::whole(&bytes[at.clone()], parts.mtu) {
                            inbound.hand_on(bytes);
                            let (packets, length) =
                                whole::hand_on((inbound.queue, path), bytes, at, gso, inbound.counters);
                            train.packets(peer, packets, length);
                            continue;
                        }
                        if at.len() > LONGEST {
                            inbound.counters.drop(Reason::Truncated);
                            continue;
                        }
                    }
                    train.packet(peer, at.len());
                    let bytes = opener.as_ref().map_or(&*bytes, Opener::bytes);
                    if inbound.runs.is_full() {
                        inbound.hand_on(bytes);
                    }
                    inbound.runs.push(bytes, at);
                }
            }
        }
        inbound.hand_on(opener.as_ref().map_or(&*bytes, Opener::bytes));
    }
}

/// What the device takes joined.
fn joined(path: &Path) -> Joined {
    match (path.uses(Feature::Join), path.uses(Feature::TunUso)) {
        (true, true) => Joined::TcpUdp,
        (true, false) => Joined::Tcp,
        (false, _) => Joined::Nothing,
    }
}

/// What goes back at once. The other side asks again for what is lost.
struct Answers<'a> {
    udp: &'a Udp,
    queue: usize,
    counters: &'a Counters,
}

impl Answer for Answers<'_> {
    fn handshake(&mut self, message: &[u8], to: SocketAddr) {
        let _ = self.udp.send(self.queue, message, to);
    }

    fn packet(&mut self, sealed: &[u8], to: SocketAddr) {
        match self.udp.send(self.queue, sealed, to) {
            Ok(()) => self.counters.carried(1, (sealed.len() - OVERHEAD) as u64),
            Err(_) => self.counters.drop(Reason::Send),
        }
    }
}

impl Inbound<'_> {
    /// Hands all runs to the device.
    fn hand_on(&mut self, bytes: &[u8]) {
        let (mut refused, mut packets, mut length) = (false, 0, 0);
        for run in self.runs.iter() {
            match self.write(bytes, run) {
                Err(error) if run.count > 1 && error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                    refused = true;
                    self.apart(bytes, run);
                }
                Err(_) => self.counters.drop_many(Reason::Send, run.count as u64),
                Ok(()) => {
                    packets += run.count as u64;
                    length += run.bytes as u64;
                }
            }
        }
        self.counters.carried(packets, length);
        self.runs.clear();
        if refused {
            self.join_no_more();
        }
    }

    fn write(&self, bytes: &[u8], run: &Run) -> std::io::Result<()> {
        if run.count == 1 {
            return self.runs.parts(run).try_for_each(|part| self.queue.write(&bytes[part.packet.clone()]));
        }
        let mut header = [0; virtio::LEN + MAX_HEADER];
        let length = self.runs.header(bytes, run, &mut header);
        self.queue.write_run(&header[..length], bytes, self.runs.parts(run).map(|part| part.payload()))
    }

    /// Hands on the packets of a run one by one.
    fn apart(&self, bytes: &[u8], run: &Run) {
        for part in self.runs.parts(run) {
            match self.queue.write(&bytes[part.packet.clone()]) {
                Ok(()) => self.counters.carried(1, part.packet.len() as u64),
                Err(_) => self.counters.drop(Reason::Send),
            }
        }
    }

    /// Some kernels refuse super-packets that others take.
    fn join_no_more(&mut self) {
        if self.path.uses(Feature::Join) {
            tracing::warn!(
                "the kernel does not take a joined packet; packets are handed on one by one from now on"
            );
        }
        self.path.set(Feature::Join, false);
        self.runs.join(Joined::Nothing);
    }
}
