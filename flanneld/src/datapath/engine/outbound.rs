//! Out of the pods: read a batch, judge each packet, split what is too long, send all of it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::Instant;

use super::Shared;
use crate::datapath::buffer::{self, Batch, Slot};
use crate::datapath::checksum;
use crate::datapath::counters::{Counters, Reason};
use crate::datapath::forward::{self, Verdict};
use crate::datapath::icmp::{self, Limit, MAX_ANSWER};
use crate::datapath::outbox::Outbox;
use crate::datapath::packet::Packet;
use crate::datapath::path::Level;
use crate::datapath::split::Segments;
use crate::datapath::tun::Queue;
use crate::datapath::udp::{Sender, Udp};
use crate::datapath::virtio::Gso;
use crate::datapath::wireguard::{OVERHEAD, Sealed, Sealer};

/// One direction of one queue.
struct Outbound<'a> {
    queue: &'a Queue,
    number: usize,
    udp: &'a Udp,
    sender: Sender<'a>,
    counters: &'a Counters,
    outbox: Outbox,
    sealer: Option<Sealer>,
    own: Ipv4Addr,
    limit: Limit,
    start: Instant,
}

/// Runs until it is time to stop, or the device is gone.
pub(super) fn run(shared: &Shared, queue: usize) {
    let parts = &shared.parts;
    let mut outbound = Outbound {
        queue: &parts.tun.queues()[queue],
        number: queue,
        udp: &parts.udp,
        sender: parts.udp.sender(queue),
        counters: &parts.meters.out,
        outbox: Outbox::default(),
        sealer: parts.wireguard.as_deref().map(|wireguard| Sealer::new(wireguard, parts.mtu)),
        own: parts.own,
        limit: Limit::new(0),
        start: Instant::now(),
    };
    let most = if parts.level == Level::Plain { 1 } else { buffer::MOST_PACKETS };
    let mut batch = Batch::new(most);
    loop {
        match outbound.queue.read(&mut batch) {
            Ok(true) => outbound.batch(shared, &mut batch),
            Ok(false) if !shared.wait(outbound.queue.as_fd()) => return,
            Ok(false) => {}
            Err(error) => return tracing::error!(%error, "the TUN is gone"),
        }
    }
}

impl Outbound<'_> {
    fn batch(&mut self, shared: &Shared, batch: &mut Batch) {
        let table = shared.parts.routes.at(Instant::now());
        let Batch { bytes, slots, .. } = batch;
        for slot in slots.iter() {
            let packet = &mut bytes[slot.at.clone()];
            let outcome = match forward::outbound(packet, &table) {
                Verdict::Send(to) => self.stage(bytes, slot, to),
                Verdict::Drop(reason) => Err(reason),
                Verdict::Refuse => {
                    self.refuse(packet);
                    Err(Reason::NoRoute)
                }
            };
            if let Err(reason) = outcome {
                self.counters.drop(reason);
            }
        }
        self.flush(bytes);
    }

    /// Does what the kernel left to be done, and puts the packets into the outbox.
    fn stage(&mut self, bytes: &mut [u8], slot: &Slot, to: SocketAddrV4) -> Result<(), Reason> {
        let left = slot.left?;
        if let Some(gso) = left.gso {
            return self.split(bytes, slot, gso, to);
        }
        if let Some(partial) = left.partial {
            let packet = &mut bytes[slot.at.clone()];
            checksum::complete(packet, partial.start.into(), partial.offset.into()).ok_or(Reason::Offload)?;
        }
        self.make_room(bytes);
        self.push(bytes, to, 0, slot.at.clone())
    }

    fn split(&mut self, bytes: &[u8], slot: &Slot, gso: Gso, to: SocketAddrV4) -> Result<(), Reason> {
        let start = slot.at.start;
        let mut segments = Segments::new(&bytes[slot.at.clone()], gso)?;
        loop {
            self.make_room(bytes);
            let Some(header) = self.outbox.header() else { return Err(Reason::Send) };
            let Some(segment) = segments.next(header) else { return Ok(()) };
            let payload = start + segment.payload.start..start + segment.payload.end;
            if let Err(reason) = self.push(bytes, to, segment.header, payload) {
                self.counters.drop(reason);
            }
        }
    }

    /// Sends what there is if another packet would not fit.
    fn make_room(&mut self, bytes: &[u8]) {
        if self.outbox.is_full() || self.sealer.as_ref().is_some_and(Sealer::is_full) {
            self.flush(bytes);
        }
    }

    /// Puts a packet into the outbox, whose header has so many bytes that were written anew; sealed, if packets are.
    fn push(
        &mut self,
        bytes: &[u8],
        to: SocketAddrV4,
        header: usize,
        payload: Range<usize>,
    ) -> Result<(), Reason> {
        let Some(sealer) = &mut self.sealer else {
            let together = self.sender.together(to);
            self.outbox.push(to, header, payload, together);
            return Ok(());
        };
        let header = self.outbox.header().map_or(&[][..], |whole| &whole[..header]);
        match sealer.seal(to, header, &bytes[payload])? {
            Sealed::Packet(to, at) => {
                let together = self.sender.together(to);
                self.outbox.push(to, 0, at, together);
            }
            // One that is lost is made again.
            Sealed::Handshake(to, at) => drop(self.udp.send(self.number, &sealer.bytes()[at], to)),
            Sealed::Waits => {}
        }
        Ok(())
    }

    fn flush(&mut self, bytes: &[u8]) {
        let (bytes, overhead) =
            self.sealer.as_ref().map_or((bytes, 0), |sealer| (sealer.bytes(), OVERHEAD as u64));
        let sent = self.sender.flush(&mut self.outbox, bytes);
        self.counters.carried(sent.packets, sent.bytes - overhead * sent.packets);
        self.counters.drop_many(Reason::Send, sent.lost);
        if let Some(sealer) = &mut self.sealer {
            sealer.clear();
        }
    }

    /// Tells the sender of a packet that nobody is there, as often as is allowed.
    fn refuse(&mut self, packet: &mut [u8]) {
        let mut answer = [0; MAX_ANSWER];
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Ok(packet) = Packet::parse(packet) else { return };
        let Some(length) = icmp::unreachable(&packet, self.own, &mut answer) else { return };
        if self.limit.take(now) && self.queue.write(&answer[..length]).is_ok() {
            self.counters.answers.inc();
        }
    }
}
