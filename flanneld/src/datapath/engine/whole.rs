//! In to the pods, what no wire has cut: a super-packet of a kernel that encapsulates, out of another network namespace of this machine.

use std::io;
use std::ops::Range;

use crate::datapath::counters::{Counters, Reason};
use crate::datapath::layers::{Layers, MAX_HEADER};
use crate::datapath::path::{Feature, Path};
use crate::datapath::split::Segments;
use crate::datapath::tun::Queue;
use crate::datapath::virtio::{Gso, Header, Partial};

/// Hands the super-packet at `at` to the device: as it is where the device takes such, and else cut. How many packets and bytes that was.
pub(super) fn hand_on(
    (queue, path): (&Queue, &Path),
    bytes: &[u8],
    at: Range<usize>,
    gso: Gso,
    counters: &Counters,
) -> (u64, u64) {
    let packet = &bytes[at.clone()];
    let Ok(mut segments) = Segments::new(packet, gso) else {
        counters.drop(Reason::Offload);
        return (0, 0);
    };
    let (mut header, mut packets, mut length) = ([0; MAX_HEADER], 0, 0);
    let whole = path.uses(Feature::TunTso);
    let mut taken: io::Result<()> = Ok(());
    while let Some(segment) = segments.next(&mut header) {
        packets += 1;
        length += (segment.header + segment.payload.len()) as u64;
        if !whole && taken.is_ok() {
            let payload = at.start + segment.payload.start..at.start + segment.payload.end;
            taken = queue.write_parts(&header[..segment.header], &bytes[payload]);
        }
    }
    if whole {
        taken = write(queue, bytes, at, gso);
    }
    match taken {
        Ok(()) => counters.carried(packets, length),
        Err(_) => counters.drop_many(Reason::Send, packets),
    }
    (packets, length)
}

/// The kernel finishes the checksum when it cuts; until then it is as it came.
fn write(queue: &Queue, bytes: &[u8], at: Range<usize>, gso: Gso) -> io::Result<()> {
    let layers = Layers::parse(&bytes[at.clone()]).ok_or(io::ErrorKind::InvalidData)?;
    let (start, offset) = (layers.network as u16, layers.checksum_offset() as u16);
    let partial = Some(Partial { start, offset });
    let header = Header { partial, gso: Some(gso), header_len: layers.payload as u16 };
    queue.write_run(&header.emit(), bytes, std::iter::once(at))
}
