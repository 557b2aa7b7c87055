//! SPDY/3.1 framing, the client's side: what containerd's streaming server speaks. No I/O.
//!
//! The source is draft-mbelshe-httpbis-spdy-00. Two things of it are left out on purpose. Header blocks that the runtime
//! sends stay compressed: nothing in them is needed. Windows are neither granted nor counted: the library behind the
//! streaming servers (spdystream) does neither and drops WINDOW_UPDATE, so a client that waited for one would hang after
//! 64 KiB of stdin; what is under way is bounded by TCP.

use super::dictionary;
use flate2::{Compress, Compression, FlushCompress, Status};
use std::io;

/// Every frame begins with so many bytes.
pub(super) const HEAD: usize = 8;
/// The longest control frame that is read; a length has 24 bits.
const MAX_CONTROL: usize = 16 << 10;
/// The most that fits into a frame.
const MAX_LENGTH: usize = (1 << 24) - 1;
/// The first bit of a control frame, then the version.
const CONTROL: u16 = 0x8000 | 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const HEADERS: u16 = 8;
/// The flag of a stream's last frame.
const FIN: u8 = 1;
/// Status of RST_STREAM: the stream isn't opened.
const REFUSED_STREAM: u32 = 3;
/// Status of RST_STREAM: the stream isn't needed any longer; how spdystream ends its streams.
const CANCEL: u32 = 5;

/// What the first bytes of a frame say about the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// `length` bytes of a stream follow, the last ones if `fin`.
    Data { stream: u32, fin: bool, length: usize },
    /// `length` bytes follow that belong to [`Frame::parse`].
    Control { kind: u16, fin: bool, length: usize },
}

impl Head {
    /// # Errors
    /// If it is another protocol or version, or a control frame longer than [`MAX_CONTROL`].
    pub(super) fn parse(bytes: [u8; HEAD]) -> io::Result<Head> {
        let [a, b, c, d, flags, lengths @ ..] = bytes;
        let [e, f, g] = lengths;
        let (fin, length) = (flags & FIN != 0, u32::from_be_bytes([0, e, f, g]) as usize);
        if a & 0x80 == 0 {
            return Ok(Head::Data { stream: u32::from_be_bytes([a, b, c, d]), fin, length });
        }
        let version = u16::from_be_bytes([a, b]);
        if version != CONTROL {
            return Err(malformed(&format!("a control frame of version {}", version & 0x7fff)));
        }
        let kind = u16::from_be_bytes([c, d]);
        if length > MAX_CONTROL {
            return Err(malformed(&format!("a control frame of type {kind} with {length} bytes")));
        }
        Ok(Head::Control { kind, fin, length })
    }
}

/// What a control frame of the runtime's means to a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The runtime sends no more in this stream.
    End(u32),
    /// The runtime asks for this frame in return.
    Answer(Vec<u8>),
    /// SETTINGS, WINDOW_UPDATE, GOAWAY (streams that are open go on), and what later versions may add.
    Passed,
}

impl Frame {
    /// # Errors
    /// If the frame is shorter than its type asks for, or resets a stream for any reason but the end of its use.
    pub(super) fn parse(kind: u16, fin: bool, payload: &[u8]) -> io::Result<Frame> {
        let word = |at: usize| match payload.get(at..at + 4) {
            Some(&[a, b, c, d]) => Ok(u32::from_be_bytes([a, b, c, d])),
            _ => Err(malformed(&format!("a control frame of type {kind} with {} bytes", payload.len()))),
        };
        let stream = || word(0).map(|id| id & 0x7fff_ffff);
        match kind {
            SYN_STREAM => Ok(Frame::Answer(reset(stream()?, REFUSED_STREAM))),
            SYN_REPLY | HEADERS => stream().map(|id| if fin { Frame::End(id) } else { Frame::Passed }),
            RST_STREAM => match (stream()?, word(4)?) {
                (id, CANCEL) => Ok(Frame::End(id)),
                (id, status) => Err(malformed(&format!("a reset of stream {id} with status {status}"))),
            },
            // Even numbers are the runtime's own pings; this client sends none.
            PING => word(0).map(|id| if id % 2 == 0 { Frame::Answer(ping(id)) } else { Frame::Passed }),
            _ => Ok(Frame::Passed),
        }
    }
}

/// Opens streams; the header blocks of a connection are one compressed stream.
pub(super) struct Opener(Compress);

impl Opener {
    /// # Errors
    /// If the compressor refuses its dictionary.
    pub(super) fn new() -> io::Result<Opener> {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(&dictionary::bytes())?;
        Ok(Opener(compress))
    }

    /// SYN_STREAM with these headers, whose names are in lower case.
    ///
    /// # Errors
    /// If the headers can't be compressed.
    pub(super) fn open(&mut self, stream: u32, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = number(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(number(text.len()));
            plain.extend(text.as_bytes());
        }
        let mut payload = stream.to_be_bytes().to_vec();
        // No associated stream; the highest priority and no credential slot.
        payload.extend([0; 6]);
        // A flushed block takes a few bytes more than its content where that doesn't compress.
        payload.reserve(plain.len() + 128);
        let before = self.0.total_in();
        let status = self.0.compress_vec(&plain, &mut payload, FlushCompress::Sync)?;
        if status != Status::Ok || self.0.total_in() - before != plain.len() as u64 {
            return Err(io::Error::other("SPDY headers can't be compressed"));
        }
        Ok(control(SYN_STREAM, &payload))
    }
}

/// The head of a DATA frame; its `length` bytes follow.
///
/// # Errors
/// If a frame can't be so long.
pub(super) fn data(stream: u32, fin: bool, length: usize) -> io::Result<[u8; HEAD]> {
    if length > MAX_LENGTH {
        return Err(io::Error::other(format!("{length} bytes don't fit into a SPDY frame")));
    }
    let ([a, b, c, d], [_, e, f, g]) = (stream.to_be_bytes(), number(length));
    Ok([a, b, c, d, u8::from(fin) * FIN, e, f, g])
}

fn ping(id: u32) -> Vec<u8> {
    control(PING, &id.to_be_bytes())
}

fn reset(stream: u32, status: u32) -> Vec<u8> {
    control(RST_STREAM, &[stream.to_be_bytes(), status.to_be_bytes()].concat())
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [CONTROL.to_be_bytes(), kind.to_be_bytes()].concat();
    // No flags; control frames of this client are far below 24 bits of length.
    frame.extend(number(payload.len()));
    frame.extend(payload);
    frame
}

fn number(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the runtime sent {what} over SPDY"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Decompress, FlushDecompress};

    #[test]
    fn heads() {
        let data = |stream, fin, length| Some(Head::Data { stream, fin, length });
        let control = |kind, fin, length| Some(Head::Control { kind, fin, length });
        let cases = [
            ([0, 0, 0, 3, 0, 0, 1, 2], data(3, false, 258)),
            ([0x7f, 255, 255, 255, 1, 255, 255, 255], data(0x7fff_ffff, true, MAX_LENGTH)),
            ([0x80, 3, 0, 2, 1, 0, 0, 4], control(SYN_REPLY, true, 4)),
            ([0x80, 3, 0, 4, 0, 0, 0x40, 0], control(4, false, MAX_CONTROL)),
            // Too long, another version, and HTTP.
            ([0x80, 3, 0, 4, 0, 0, 0x40, 1], None),
            ([0x80, 2, 0, 2, 0, 0, 0, 4], None),
            ([0xff; 8], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Head::parse(bytes).ok(), expected, "{bytes:?}");
        }
        assert_eq!(super::data(3, false, 258).unwrap(), [0, 0, 0, 3, 0, 0, 1, 2]);
        assert_eq!(super::data(1, true, 0).unwrap(), [0, 0, 0, 1, 1, 0, 0, 0]);
        assert!(super::data(1, true, MAX_LENGTH + 1).is_err());
    }

    #[test]
    fn frames() {
        let answer = |bytes: &[u8]| Some(Frame::Answer(bytes.to_vec()));
        let cases: [(u16, bool, &[u8], Option<Frame>); 14] = [
            (SYN_REPLY, false, &[0, 0, 0, 1], Some(Frame::Passed)),
            (SYN_REPLY, true, &[0, 0, 0, 1, 9, 9], Some(Frame::End(1))),
            (HEADERS, true, &[0x80, 0, 0, 5], Some(Frame::End(5))),
            (SYN_REPLY, true, &[0, 0, 0], None),
            (RST_STREAM, false, &[0, 0, 0, 7, 0, 0, 0, 5], Some(Frame::End(7))),
            (RST_STREAM, false, &[0, 0, 0, 7, 0, 0, 0, 3], None),
            (RST_STREAM, false, &[0, 0, 0, 7], None),
            (PING, false, &[0, 0, 1, 2], answer(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 1, 2])),
            (PING, false, &[0, 0, 0, 1], Some(Frame::Passed)),
            (PING, false, &[], None),
            (
                SYN_STREAM,
                false,
                &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
                answer(&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 3]),
            ),
            // SETTINGS, GOAWAY, WINDOW_UPDATE.
            (4, false, &[0, 0, 0, 0], Some(Frame::Passed)),
            (7, false, &[0; 8], Some(Frame::Passed)),
            (9, false, &[0; 8], Some(Frame::Passed)),
        ];
        for (kind, fin, payload, expected) in cases {
            assert_eq!(Frame::parse(kind, fin, payload).ok(), expected, "{kind} {payload:?}");
        }
    }

    /// What a server sees: one zlib stream over all header blocks, that asks for the dictionary first.
    #[test]
    fn streams_open() {
        let mut opener = Opener::new().unwrap();
        let mut inflate = Decompress::new(true);
        let block = |text: &str| {
            let mut block = vec![0, 0, 0, 1, 0, 0, 0, 10];
            block.extend(b"streamtype");
            block.extend([0, 0, 0, u8::try_from(text.len()).unwrap()]);
            block.extend(text.as_bytes());
            block
        };
        for (id, text) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let frame = opener.open(id, &[("streamtype", text)]).unwrap();
            let (head, rest) = frame.split_first_chunk().unwrap();
            let expected = Head::Control { kind: SYN_STREAM, fin: false, length: rest.len() };
            assert_eq!(Head::parse(*head).unwrap(), expected);
            let (fixed, packed) = rest.split_at(10);
            assert_eq!(fixed, [&u32::to_be_bytes(id)[..], &[0; 6]].concat());
            let mut plain = Vec::with_capacity(256);
            let mut packed = packed;
            if id == 1 {
                let before = inflate.total_in();
                let error = inflate.decompress_vec(packed, &mut plain, FlushDecompress::Sync).unwrap_err();
                // The dictionary's checksum as the protocol knows it.
                assert_eq!(error.needs_dictionary(), Some(0xe3c6_a7c2));
                packed = &packed[usize::try_from(inflate.total_in() - before).unwrap()..];
                inflate.set_dictionary(&dictionary::bytes()).unwrap();
            }
            inflate.decompress_vec(packed, &mut plain, FlushDecompress::Sync).unwrap();
            assert_eq!(plain, block(text));
        }
    }
}
