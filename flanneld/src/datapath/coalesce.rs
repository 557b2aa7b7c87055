//! Joining packets of one flow into super-packets, as the kernel's GRO does, so that the way to the pod is gone once for many.
//!
//! A packet may join only the newest run of its own flow, and runs are handed on in the order in which they began: within a
//! flow nothing overtakes, whatever is joined. What could not be told from the original after splitting is not joined: another
//! TTL, TOS, DF, option, window or acknowledgement, a gap, a wrong checksum.

use std::ops::Range;

use super::checksum::{self, add};
use super::layers::{Layers, MAX_HEADER, TCP};
use super::split::{FIN_PSH, TCP_FLAGS};
use super::virtio::{self, Gso, Header, Kind, Partial};

/// Packets that are looked at before they are handed on.
pub const MOST_PACKETS: usize = 512;
/// Packets in a run: as many as a UDP socket that wants super-packets gets from the kernel's own GRO.
pub const MOST_JOINED: usize = 64;
/// Runs that are searched for a packet's flow; more flows at a time are joined less well, and none is reordered.
const LOOKBACK: usize = 32;
/// The longest packet that an IP header can tell of.
const MOST_BYTES: usize = 65_535;
/// The flags with which a segment may join: ACK, and PSH and FIN, which end a run.
const JOINABLE: u8 = 0x10 | FIN_PSH;

/// The parts of a packet, in some buffer.
#[derive(Debug, Clone)]
pub struct Part {
    /// All of it.
    pub packet: Range<usize>,
    /// Where its payload begins, from the packet's beginning.
    header: usize,
    /// The next packet of the run.
    next: Option<usize>,
}

/// Packets that are handed on together.
#[derive(Debug)]
pub struct Run {
    /// None: a packet that nothing joins.
    layers: Option<Layers>,
    first: usize,
    last: usize,
    /// How many packets.
    pub count: usize,
    /// All of them together, each with its headers.
    pub bytes: usize,
    /// Their payload, without headers.
    payload: usize,
    /// The payload of each but the last.
    size: usize,
    /// The TCP sequence number or IP identification that comes next.
    sequence: u32,
    id: u16,
    /// The first packet's checksums are right; not looked at before something wants to join.
    checked: Option<bool>,
    open: bool,
}

/// What may be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Nothing: each packet is a run.
    Nothing,
    /// TCP segments.
    Tcp,
    /// UDP datagrams of one length, too.
    TcpUdp,
}

/// Runs in the order in which they began.
#[derive(Debug)]
pub struct Runs {
    joined: Joined,
    runs: Vec<Run>,
    parts: Vec<Part>,
}

impl Runs {
    /// None yet.
    pub fn new(joined: Joined) -> Runs {
        let (runs, parts) = (Vec::with_capacity(MOST_PACKETS), Vec::with_capacity(MOST_PACKETS));
        Runs { joined, runs, parts }
    }

    /// From now on, only so much is joined.
    pub fn join(&mut self, joined: Joined) {
        self.joined = joined;
    }

    /// Whether they must be handed on before another packet comes.
    pub fn is_full(&self) -> bool {
        self.parts.len() >= MOST_PACKETS
    }

    /// Forgets them; they were handed on.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.parts.clear();
    }

    /// The runs.
    pub fn iter(&self) -> std::slice::Iter<'_, Run> {
        self.runs.iter()
    }

    /// The packets of a run.
    pub fn parts(&self, run: &Run) -> impl Iterator<Item = &Part> {
        std::iter::successors(self.parts.get(run.first), |part| self.parts.get(part.next?))
    }

    /// Takes over the packet that lies at `at`: it joins the newest run of its flow, or begins one.
    pub fn push(&mut self, bytes: &[u8], at: Range<usize>) {
        let packet = &bytes[at.clone()];
        let layers = if self.joined == Joined::Nothing { None } else { Layers::parse(packet) };
        let index = self.parts.len();
        let header = layers.map_or(0, |layers| layers.payload);
        self.parts.push(Part { packet: at, header, next: None });
        match layers {
            Some(layers) => {
                if let Some(run) = self.newest(bytes, packet, &layers)
                    && self.joins(bytes, run, packet, &layers)
                {
                    return self.append(run, index, packet, &layers);
                }
                self.runs.push(Run::begin(index, packet, layers, self.joined));
            }
            None => {
                // A fragment may belong to any flow, so that nothing behind it may get before it.
                self.runs.iter_mut().for_each(|run| run.open = false);
                self.runs.push(Run::alone(index, packet));
            }
        }
    }

    /// The newest run of the packet's flow.
    fn newest(&self, bytes: &[u8], packet: &[u8], layers: &Layers) -> Option<usize> {
        let same = |run: &Run| {
            let Some(theirs) = run.layers else { return false };
            let first = &bytes[self.parts[run.first].packet.clone()];
            (theirs.protocol, theirs.v6) == (layers.protocol, layers.v6)
                && theirs.ports(first) == layers.ports(packet)
                && theirs.addresses(first) == layers.addresses(packet)
        };
        let from = self.runs.len().saturating_sub(LOOKBACK);
        self.runs[from..].iter().rposition(same).map(|at| from + at)
    }

    fn joins(&mut self, bytes: &[u8], run: usize, packet: &[u8], layers: &Layers) -> bool {
        let run = &mut self.runs[run];
        let payload = packet.len() - layers.payload;
        let first = &bytes[self.parts[run.first].packet.clone()];
        let may = run.open
            && (1..=run.size).contains(&payload)
            && run.count < MOST_JOINED
            && layers.payload + run.payload + payload <= MOST_BYTES
            && run.layers == Some(*layers)
            && network_fits(first, packet, run.id, layers.v6)
            && (layers.protocol != TCP || tcp_fits(first, packet, run.sequence, layers))
            && is_right(packet, layers);
        may && *run.checked.get_or_insert_with(|| is_right(first, layers))
    }

    fn append(&mut self, run: usize, index: usize, packet: &[u8], layers: &Layers) {
        let run = &mut self.runs[run];
        let payload = packet.len() - layers.payload;
        self.parts[run.last].next = Some(index);
        run.last = index;
        run.count += 1;
        run.bytes += packet.len();
        run.payload += payload;
        run.sequence = run.sequence.wrapping_add(payload as u32);
        run.id = run.id.wrapping_add(1);
        run.open = payload == run.size && !ends_run(packet, layers);
    }

    /// Writes what stands before the payloads of a run of several: the kernel's header and the packets' common one. Its length.
    pub fn header(&self, bytes: &[u8], run: &Run, out: &mut [u8; virtio::LEN + MAX_HEADER]) -> usize {
        let Some(layers) = run.layers.filter(|_| run.count > 1) else {
            out[..virtio::LEN].copy_from_slice(&Header::default().emit());
            return virtio::LEN;
        };
        let (begin, header) = out.split_at_mut(virtio::LEN);
        let header = &mut header[..layers.payload];
        header.copy_from_slice(&bytes[self.parts[run.first].packet.clone()][..layers.payload]);
        let last = &bytes[self.parts[run.last].packet.clone()];
        run.write(header, last, &layers);
        begin.copy_from_slice(&run.virtio(&layers).emit());
        virtio::LEN + header.len()
    }
}

impl Part {
    /// What stands behind the headers.
    pub fn payload(&self) -> Range<usize> {
        self.packet.start + self.header..self.packet.end
    }
}

impl Run {
    fn begin(index: usize, packet: &[u8], layers: Layers, joined: Joined) -> Run {
        let payload = packet.len() - layers.payload;
        let tcp = layers.protocol == TCP;
        let sequence = if tcp { word(packet, layers.network + 4) } else { 0 };
        let options = !layers.v6 && layers.network != 20;
        let id = if layers.v6 { 0 } else { u16::from_be_bytes([packet[4], packet[5]]) };
        let fits =
            if tcp { packet[layers.network + TCP_FLAGS] & !JOINABLE == 0 } else { joined == Joined::TcpUdp };
        Run {
            layers: Some(layers),
            first: index,
            last: index,
            count: 1,
            bytes: packet.len(),
            payload,
            size: payload,
            sequence: sequence.wrapping_add(payload as u32),
            id: id.wrapping_add(1),
            checked: None,
            open: fits && !options && payload > 0 && !ends_run(packet, &layers),
        }
    }

    fn alone(index: usize, packet: &[u8]) -> Run {
        Run {
            layers: None,
            first: index,
            last: index,
            count: 1,
            bytes: packet.len(),
            payload: 0,
            size: 0,
            sequence: 0,
            id: 0,
            checked: None,
            open: false,
        }
    }

    /// Makes the first packet's header one of all.
    fn write(&self, header: &mut [u8], last: &[u8], layers: &Layers) {
        let total = header.len() + self.payload;
        let Layers { network, protocol, .. } = *layers;
        if layers.v6 {
            header[4..6].copy_from_slice(&((total - network) as u16).to_be_bytes());
        } else {
            header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            header[10..12].fill(0);
            let sum = checksum::of(&header[..network]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        if protocol == TCP {
            header[network + TCP_FLAGS] |= last[network + TCP_FLAGS] & FIN_PSH;
        } else {
            header[network + 4..network + 6].copy_from_slice(&((total - network) as u16).to_be_bytes());
        }
        // The kernel finishes the sum when it splits; in between, each packet is known to be right.
        let pseudo = checksum::pseudo(layers.addresses(header), protocol, total - network);
        let at = network + layers.checksum_offset();
        header[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    }

    fn virtio(&self, layers: &Layers) -> Header {
        let kind = match (layers.protocol == TCP, layers.v6) {
            (true, false) => Kind::Tcp4,
            (true, true) => Kind::Tcp6,
            (false, _) => Kind::Udp,
        };
        let (start, offset) = (layers.network as u16, layers.checksum_offset() as u16);
        Header {
            partial: Some(Partial { start, offset }),
            gso: Some(Gso { kind, size: self.size as u16 }),
            header_len: layers.payload as u16,
        }
    }
}

/// Whether the IP headers differ in nothing but lengths, checksum and an identification that splitting brings back, or that
/// means nothing, since the packet may not be fragmented (RFC 6864 section 4.1).
fn network_fits(first: &[u8], packet: &[u8], id: u16, v6: bool) -> bool {
    if v6 {
        return first[..4] == packet[..4] && first[7] == packet[7];
    }
    let unfragmented = packet[6] & 0x40 != 0;
    first[..2] == packet[..2]
        && first[6..10] == packet[6..10]
        && (unfragmented || packet[4..6] == id.to_be_bytes())
}

/// Whether a segment follows those before it and says nothing new but its payload.
fn tcp_fits(first: &[u8], packet: &[u8], sequence: u32, layers: &Layers) -> bool {
    let at = layers.network;
    let (a, b) = (&first[at..layers.payload], &packet[at..layers.payload]);
    let flags = a[TCP_FLAGS] ^ b[TCP_FLAGS];
    word(packet, at + 4) == sequence
        && a[8..13] == b[8..13]
        && flags & !FIN_PSH == 0
        && a[14..16] == b[14..16]
        && a[18..] == b[18..]
}

fn ends_run(packet: &[u8], layers: &Layers) -> bool {
    layers.protocol == TCP && packet[layers.network + TCP_FLAGS] & FIN_PSH != 0
}

/// Whether both checksums are right. A joined packet counts as checked, so a wrong one must stay alone, as it is.
fn is_right(packet: &[u8], layers: &Layers) -> bool {
    let (network, transport) = packet.split_at(layers.network);
    let at = layers.checksum_offset();
    let pseudo = checksum::pseudo(layers.addresses(packet), layers.protocol, transport.len());
    let length = u16::from_be_bytes([transport[4], transport[5]]);
    let udp_fits = usize::from(length) == transport.len() && transport[at..at + 2] != [0, 0];
    (layers.v6 || checksum::sum(network) == 0xffff)
        && (layers.protocol == TCP || udp_fits)
        && add(pseudo, checksum::sum(transport)) == 0xffff
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
