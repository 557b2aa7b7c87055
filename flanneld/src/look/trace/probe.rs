//! Questions by ICMP, and what comes back. A raw socket hears what is told about the tunnel's datagrams, too.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::echo::{self, Heard, Trouble};

/// The longest packet that is looked at.
const LONGEST: usize = 65_536;

/// Questions to one address.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// To whom.
    pub to: Ipv4Addr,
    /// The size of the whole IP packet.
    pub size: usize,
    /// How often at the most; one answer is enough.
    pub times: u16,
    /// Between two questions.
    pub gap: Duration,
    /// After the last one.
    pub patience: Duration,
    /// The datagrams by which they travel go there.
    pub tunnel: Option<(Ipv4Addr, u16)>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Questions asked.
    pub sent: u16,
    /// How long the first answer took.
    pub echo: Option<Duration>,
    /// Trouble that was told, by whom, and whether it is about the tunnel's datagram.
    pub trouble: Vec<(Ipv4Addr, Trouble, bool)>,
    /// Why the kernel of this host did not even send.
    pub refused: Option<String>,
}

/// Asks.
pub struct Prober {
    socket: Socket,
    id: u16,
    sequence: u16,
    buffer: Box<[u8]>,
}

impl Prober {
    /// With a raw socket; needs root.
    pub fn open() -> io::Result<Prober> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        // The header is ours, so that nobody fragments what is asked.
        socket.set_header_included_v4(true)?;
        let buffer = vec![0; LONGEST].into();
        Ok(Prober { socket, id: rand::random(), sequence: 0, buffer })
    }

    /// Sends one question; its number.
    pub fn send(&mut self, to: Ipv4Addr, size: usize) -> io::Result<u16> {
        self.sequence = self.sequence.wrapping_add(1);
        let packet = echo::request(to, self.id, self.sequence, size);
        self.socket.send_to(&packet, &SocketAddrV4::new(to, 0).into())?;
        Ok(self.sequence)
    }

    /// What comes in about an address until then; none if nothing does.
    pub fn hear(
        &mut self,
        to: Ipv4Addr,
        tunnel: Option<(Ipv4Addr, u16)>,
        until: Instant,
    ) -> io::Result<Option<Heard>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let length = match self.socket.read(&mut self.buffer) {
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(heard) = echo::heard(&self.buffer[..length], self.id, to, tunnel) {
                return Ok(Some(heard));
            }
        }
    }

    /// Asks until there is an answer, or no more is to be expected.
    pub fn ask(&mut self, ask: Ask) -> io::Result<Outcome> {
        let (mut outcome, mut asked) = (Outcome::default(), BTreeMap::new());
        while outcome.sent < ask.times {
            // On a short way the answer is there before the call is back.
            let now = Instant::now();
            match self.send(ask.to, ask.size) {
                Ok(sequence) => drop(asked.insert(sequence, now)),
                Err(error) => outcome.refused = Some(error.to_string()),
            }
            outcome.sent += 1;
            let last = outcome.sent == ask.times;
            let until = Instant::now() + if last { ask.patience } else { ask.gap };
            while let Some(heard) = self.hear(ask.to, ask.tunnel, until)? {
                match heard {
                    Heard::Echo { sequence, .. } => {
                        outcome.echo = asked.get(&sequence).map(Instant::elapsed);
                        return Ok(outcome);
                    }
                    Heard::Trouble { from, what, outer } => outcome.trouble.push((from, what, outer)),
                }
            }
        }
        Ok(outcome)
    }
}
