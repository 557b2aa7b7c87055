//! One flanneld takes the place of another one that runs, and no packet is lost.
//!
//! ```text
//!  the new one                                              the old one
//!  start, up to the listing of the leases                   carries packets, renews the lease
//!  "take-over" and what it could go on with ([`Request`])   ──►    renews no more
//!                                             ◄──  the lease, the health server's socket, queues and sockets ([`Bequest`])
//!  carries packets, too, from the same queues               carries packets
//!  "carrying"                                        ──►    stops, and stands by
//!  renews the lease                                         if this connection ends: carries packets again
//! ```
//!
//! If the new one ends or is silent before it says that it carries, the old one goes on as if nothing had been. Queues and sockets
//! are passed only to one that would make them alike; else the old one lets go of them first, which is a gap.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use crate::backend::carrier::Wish;
use crate::datapath::pass;
use crate::lease::keeper::Passed;

/// In bytes.
const LONGEST_LINE: usize = 16 * 1024;
/// So long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
const CARRYING: &str = "carrying";

/// What the new one asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    /// Who asks; for the log.
    pub(super) version: String,
    /// Where it serves health.
    pub(super) health: Option<SocketAddr>,
    /// What it could go on with.
    pub(super) carrier: Option<Wish>,
}

impl Request {
    /// Of this process.
    pub(super) fn new(health: Option<SocketAddr>, carrier: Option<Wish>) -> Request {
        Request { version: env!("CARGO_PKG_VERSION").to_owned(), health, carrier }
    }
}

/// What the old one leaves.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Bequest {
    /// Its lease, if it has one.
    pub(super) lease: Option<Passed>,
    /// Whether the first descriptor is the health server's.
    pub(super) health: bool,
}

/// A line of a conversation, and descriptors that came with it. Reading may be dropped half-way and begun again.
#[derive(Debug, Default)]
pub(super) struct Line {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Line {
    /// The next line, without its end.
    pub(super) async fn read(&mut self, stream: &UnixStream) -> io::Result<String> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line = self.bytes.drain(..=end).take(end).collect();
                return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
            }
            if self.bytes.len() > LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            stream.readable().await?;
            let (mut part, descriptors) = ([0; 4096], &mut self.descriptors);
            match stream.try_io(Interest::READABLE, || pass::receive(stream, &mut part, descriptors)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.bytes.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The process that wants this one's place.
#[derive(Debug)]
pub(super) struct Successor {
    stream: UnixStream,
    line: Line,
    /// What it asked for.
    pub(super) request: Request,
}

impl Successor {
    pub(super) fn new(stream: UnixStream, line: Line, request: Request) -> Successor {
        Successor { stream, line, request }
    }

    /// Leaves it all that, until it carries packets. If it doesn't, this process goes on; the error says why.
    pub(super) async fn carries(
        &mut self,
        bequest: &Bequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), String> {
        let conversation = async {
            self.give(bequest, descriptors).await?;
            self.line.read(&self.stream).await
        };
        match timeout(PATIENCE, conversation).await {
            Ok(Ok(line)) if line == CARRYING => Ok(()),
            Ok(Ok(line)) => Err(format!("says something else: {line:?}")),
            Ok(Err(error)) => Err(format!("is gone: {error}")),
            Err(_) => Err("is silent".to_owned()),
        }
    }

    async fn give(&mut self, bequest: &Bequest, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut text = serde_json::to_vec(bequest)?;
        text.push(b'\n');
        self.stream.writable().await?;
        let sent = self.stream.try_io(Interest::WRITABLE, || pass::send(&self.stream, &text, descriptors))?;
        self.stream.write_all(&text[sent..]).await
    }

    /// Waits until it is gone.
    pub(super) async fn gone(mut self) {
        // It says nothing any more.
        while self.stream.read(&mut [0]).await.is_ok_and(|length| length > 0) {}
    }
}

/// The process that this one takes the place of.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: UnixStream,
}

/// What came from it.
#[derive(Debug)]
pub(super) struct Inheritance {
    /// Its lease, if it has one.
    pub(super) lease: Option<Passed>,
    /// The health server's socket.
    pub(super) health: Option<std::net::TcpListener>,
    /// The data path.
    pub(super) given: Option<pass::Given>,
    /// A moment before it told of the lease.
    pub(super) asked: Instant,
}

impl Predecessor {
    pub(super) fn new(stream: UnixStream) -> Predecessor {
        Predecessor { stream }
    }

    /// Asks for its place. From its answer on it waits for [`Predecessor::carrying`], but not for long.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Inheritance> {
        let asked = Instant::now();
        let question = format!("take-over {}\n", serde_json::to_string(request)?);
        let mut line = Line::default();
        let conversation = async {
            self.stream.write_all(question.as_bytes()).await?;
            line.read(&self.stream).await
        };
        let answer = timeout(PATIENCE, conversation)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .context("the flanneld that runs here does not hand over; end it first")?;
        let bequest: Bequest = serde_json::from_str(&answer)
            .with_context(|| format!("the flanneld that runs here answers {answer:?}; end it first"))?;
        let mut descriptors = line.descriptors;
        if bequest.health && descriptors.is_empty() {
            bail!("the flanneld that runs here says that it passes its health server on, and does not");
        }
        let health = bequest.health.then(|| descriptors.remove(0).into());
        let given = pass::Given::from_descriptors(descriptors);
        Ok(Inheritance { lease: bequest.lease, health, given, asked })
    }

    /// Says that this process carries packets: the other one may stop. The connection has to last as long as this process does.
    pub(super) async fn carrying(mut self) -> Result<UnixStream> {
        let told = self.stream.write_all(format!("{CARRYING}\n").as_bytes()).await;
        told.context("the flanneld that handed over is gone")?;
        tracing::info!("took the place of the flanneld that ran here; it stands by until it is ended");
        Ok(self.stream)
    }
}
