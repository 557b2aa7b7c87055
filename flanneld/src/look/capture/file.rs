//! The pcapng file: each frame as it was on the wire, and behind it each inner packet as one of a second interface, so that whoever
//! opens it sees both without a setting. Inner packets get the Ethernet header of their frame: libpcap, and so tcpdump, refuses a file
//! whose interfaces differ in their kind of link.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::decode::{IPV4, IPV6};
use pcap_file::DataLink;
use pcap_file::Endianness;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriteError, PcapNgWriter};

/// The interfaces' numbers in the file.
const OUTER: u32 = 0;
const INNER: u32 = 1;
/// Those of an Ethernet header.
const ADDRESSES: usize = 12;

/// A file that is written.
pub struct Trace<W: Write> {
    writer: PcapNgWriter<W>,
    ethernet: bool,
}

/// Opens a file for a trace; it holds pods' data, so it is for its owner alone. `-` is standard output.
pub fn create(path: &Path) -> io::Result<Box<dyn Write + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(Box::new(BufWriter::new(file)))
}

impl<W: Write> Trace<W> {
    /// Begins one: the interface between the hosts, with Ethernet headers or without, and the tunnel.
    pub fn begin(writer: W, interface: &str, ethernet: bool) -> io::Result<Trace<W>> {
        let program = format!("flanneld {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Owned(program))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(writer, section).map_err(plain)?;
        let link = if ethernet { DataLink::ETHERNET } else { DataLink::RAW };
        let mut trace = Trace { writer, ethernet };
        trace.interface(interface, "between the hosts", link)?;
        trace.interface("tunnel", "inner packets, outer headers taken off", link)?;
        Ok(trace)
    }

    fn interface(&mut self, name: &str, what: &str, linktype: DataLink) -> io::Result<()> {
        let options = vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            InterfaceDescriptionOption::IfDescription(Cow::Borrowed(what)),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        let block = InterfaceDescriptionBlock { linktype, snaplen: 0, options };
        self.writer.write_block(&block.into_block()).map_err(plain)?;
        Ok(())
    }

    /// A frame.
    pub fn outer(&mut self, since: Duration, frame: &[u8]) -> io::Result<()> {
        self.packet(OUTER, since, frame, Vec::new())
    }

    /// An inner packet of a frame; the comment says by which outer datagram it travelled.
    pub fn inner(&mut self, since: Duration, frame: &[u8], packet: &[u8], comment: &str) -> io::Result<()> {
        let comment = EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(comment)));
        let kind = if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 };
        match frame.get(..ADDRESSES).filter(|_| self.ethernet) {
            Some(addresses) => {
                self.packet(INNER, since, &[addresses, &kind[..], packet].concat(), vec![comment])
            }
            None => self.packet(INNER, since, packet, vec![comment]),
        }
    }

    fn packet(
        &mut self,
        interface_id: u32,
        timestamp: Duration,
        data: &[u8],
        options: Vec<EnhancedPacketOption<'_>>,
    ) -> io::Result<()> {
        let original_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let data = Cow::Borrowed(data);
        let block = EnhancedPacketBlock { interface_id, timestamp, original_len, data, options };
        self.writer.write_block(&block.into_block()).map_err(plain)?;
        Ok(())
    }

    /// Hands everything to the system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

fn plain(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::testing::Flow;
    use pcap_file::pcapng::PcapNgReader;
    use pcap_file::pcapng::blocks::Block;

    #[test]
    fn both_views_are_read_back() {
        let (inner, at) = (Flow::tcp().packet(b"hello"), Duration::new(1_700_000_000, 123_456_789));
        let mut bytes = Vec::new();
        let mut trace = Trace::begin(&mut bytes, "eth0", true).unwrap();
        let frame = [&[2; 12], &IPV4[..], b"datagram"].concat();
        trace.outer(at, &frame).unwrap();
        trace.inner(at, &frame, &inner, "192.0.2.1 > 192.0.2.2").unwrap();
        trace.flush().unwrap();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut links, mut packets) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().0.into_owned() {
                Block::InterfaceDescription(interface) => links.push(interface.linktype),
                Block::EnhancedPacket(packet) => packets.push(packet),
                _ => {}
            }
        }
        assert_eq!(links, [DataLink::ETHERNET; 2]);
        let whole = [&frame[..14], &inner].concat();
        let told: Vec<_> =
            packets.iter().map(|p| (p.interface_id, p.timestamp, &p.data[..], p.options.len())).collect();
        assert_eq!(told, [(0, at, &frame[..], 0), (1, at, &whole[..], 1)]);
    }
}
