//! Out of the pods: read a batch, judge each packet, split what is too long, send all of it.

use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use crate::datapath::buffer::{self, Batch, Slot};
use crate::datapath::checksum;
use crate::datapath::counters::{Counters, Reason};
use crate::datapath::forward::{self, Onward, Verdict};
use crate::datapath::fragment::Fragments;
use crate::datapath::icmp::{self, Limit, Why};
use crate::datapath::icmp6;
use crate::datapath::layers::MAX_HEADER;
use crate::datapath::outbox::Outbox;
use crate::datapath::packet::Packet;
use crate::datapath::packet6::{self, Packet6};
use crate::datapath::path::Level;
use crate::datapath::split::Segments;
use crate::datapath::tun::Queue;
use crate::datapath::udp::{Sender, Sent, Udp};
use crate::datapath::virtio::{Gso, Header};
use crate::datapath::wireguard::{OVERHEAD, Sealed, Sealer};
use crate::family::Dual;
use crate::route::Table;
use crate::route::traffic::Count;

/// One direction of one queue.
struct Outbound<'a> {
    queue: &'a Queue,
    number: usize,
    udp: &'a Udp,
    sender: Sender<'a>,
    counters: &'a Counters,
    outbox: Outbox,
    sealer: Option<Sealer>,
    own: Dual<IpAddr>,
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
            if let Err(reason) = self.packet(bytes, slot, &table) {
                self.counters.drop(reason);
            }
        }
        self.flush(bytes, &table);
    }

    fn packet(&mut self, bytes: &mut [u8], slot: &Slot, table: &Table) -> Result<(), Reason> {
        let left = slot.left?;
        let packet = &mut bytes[slot.at.clone()];
        match forward::outbound(packet, &left, table) {
            Verdict::Send(onward) => self.stage(bytes, slot, left, (onward, table)),
            Verdict::Drop(reason) => Err(reason),
            Verdict::Refuse => {
                self.answer(packet, Why::Network);
                Err(Reason::NoRoute)
            }
            Verdict::TooLong(limit) => {
                self.answer(packet, Why::TooLong(limit));
                Err(Reason::TooLong)
            }
        }
    }

    /// Does what the kernel left to be done, and puts the packets into the outbox.
    fn stage(
        &mut self,
        bytes: &mut [u8],
        slot: &Slot,
        left: Header,
        to: (Onward, &Table),
    ) -> Result<(), Reason> {
        if let Some(gso) = left.gso {
            return self.split(bytes, slot, gso, to);
        }
        let packet = &mut bytes[slot.at.clone()];
        if let Some(partial) = left.partial {
            checksum::complete(packet, partial.start.into(), partial.offset.into()).ok_or(Reason::Offload)?;
        }
        if to.0.within.is_some() {
            let length = Packet::parse(packet)?.header_len();
            let mut head = [0; MAX_HEADER];
            head[..length].copy_from_slice(&packet[..length]);
            return self.fragments(bytes, &head[..length], slot.at.start + length..slot.at.end, to);
        }
        self.make_room(bytes, to.1);
        self.push(bytes, to.0, 0, slot.at.clone())
    }

    /// Puts a packet into the outbox in fragments: its beginning, and where the rest of it lies.
    fn fragments(
        &mut self,
        bytes: &[u8],
        head: &[u8],
        rest: Range<usize>,
        (to, table): (Onward, &Table),
    ) -> Result<(), Reason> {
        let limit = to.within.unwrap_or(usize::MAX);
        let mut fragments = Fragments::new(head, rest, limit).ok_or(Reason::TooLong)?;
        self.counters.fragmented.inc();
        loop {
            self.make_room(bytes, table);
            let Some(header) = self.outbox.header() else { return Err(Reason::Send) };
            let Some(part) = fragments.next(header) else { return Ok(()) };
            self.push(bytes, to, part.header, part.payload)?;
        }
    }

    fn split(
        &mut self,
        bytes: &[u8],
        slot: &Slot,
        gso: Gso,
        (to, table): (Onward, &Table),
    ) -> Result<(), Reason> {
        let start = slot.at.start;
        let mut segments = Segments::new(&bytes[slot.at.clone()], gso)?;
        if to.within.is_some() {
            let mut head = [0; MAX_HEADER];
            while let Some(segment) = segments.next(&mut head) {
                let rest = start + segment.payload.start..start + segment.payload.end;
                self.fragments(bytes, &head[..segment.header], rest, (to, table))?;
            }
            return Ok(());
        }
        loop {
            self.make_room(bytes, table);
            let Some(header) = self.outbox.header() else { return Err(Reason::Send) };
            let Some(segment) = segments.next(header) else { return Ok(()) };
            let payload = start + segment.payload.start..start + segment.payload.end;
            if let Err(reason) = self.push(bytes, to, segment.header, payload) {
                self.counters.drop(reason);
            }
        }
    }

    /// Sends what there is if another packet would not fit.
    fn make_room(&mut self, bytes: &[u8], table: &Table) {
        if self.outbox.is_full() || self.sealer.as_ref().is_some_and(Sealer::is_full) {
            self.flush(bytes, table);
        }
    }

    /// Puts a packet into the outbox, whose header has so many bytes that were written anew; sealed, if packets are.
    fn push(
        &mut self,
        bytes: &[u8],
        onward: Onward,
        header: usize,
        payload: Range<usize>,
    ) -> Result<(), Reason> {
        let Onward { to, tos, .. } = onward;
        let Some(sealer) = &mut self.sealer else {
            let together = self.sender.together(to.at);
            self.outbox.push((to, tos), header, payload, together);
            return Ok(());
        };
        let header = self.outbox.header().map_or(&[][..], |whole| &whole[..header]);
        match sealer.seal(to.at, header, &bytes[payload])? {
            Sealed::Packet(real, at) => {
                let together = self.sender.together(real);
                // Nothing of what is sealed shows outside.
                self.outbox.push((to.found_at(real), 0), 0, at, together);
            }
            // One that is lost is made again.
            Sealed::Handshake(to, at) => drop(self.udp.send(self.number, &sealer.bytes()[at], to)),
            Sealed::Waits => {}
        }
        Ok(())
    }

    /// Sends what is in the outbox; its next hops are of this table.
    fn flush(&mut self, bytes: &[u8], table: &Table) {
        let (bytes, overhead) =
            self.sealer.as_ref().map_or((bytes, 0), |sealer| (sealer.bytes(), OVERHEAD as u64));
        let mut sent = Sent::default();
        self.sender.flush(&mut self.outbox, bytes, |to, done| {
            sent += done;
            if let Some(peer) = table.traffic(to) {
                peer.out.add(Count { packets: done.packets, bytes: done.bytes - overhead * done.packets });
                peer.lost.fetch_add(done.lost, Ordering::Relaxed);
            }
        });
        self.counters.carried(sent.packets, sent.bytes - overhead * sent.packets);
        self.counters.drop_many(Reason::Send, sent.lost);
        if let Some(sealer) = &mut self.sealer {
            sealer.clear();
        }
    }

    /// Tells the sender of a packet why it is not carried, as often as is allowed.
    fn answer(&mut self, packet: &mut [u8], why: Why) {
        let mut answer = [0; icmp6::MAX_ANSWER];
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let length = if packet6::is(packet) {
            self.own
                .ipv6()
                .zip(Packet6::parse(packet).ok())
                .and_then(|(own, packet)| icmp6::unreachable(&packet, why, own, &mut answer))
        } else {
            self.own
                .ipv4()
                .zip(Packet::parse(packet).ok())
                .and_then(|(own, packet)| icmp::unreachable(&packet, why, own, &mut answer))
        };
        let Some(length) = length else { return };
        if self.limit.take(now) && self.queue.write(&answer[..length]).is_ok() {
            self.counters.answers.inc();
        }
    }
}
