//! `flanneld capture`: the tunnel's packets, outer and inner, as they pass the interface between the hosts. That is where they pass
//! whichever way they are carried: by the daemon, or by the kernel. What the kernel's fast path takes in has no outer headers any more by
//! then ([`stripped`]).
//!
//! ```text
//!  socket ─ frame ─► decode (outer, then each inner packet) ─► filter ─► line on the terminal, or file (pcapng)
//! ```

pub mod decode;
mod file;
pub mod filter;
pub mod line;
mod socket;
pub mod stripped;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use clap::Args;
use hostnet::Netlink;
use tokio::signal::unix::{SignalKind, signal};

use super::ask;
use super::status::{Interface, Status};
use decode::Wrap;
use file::Trace;
use filter::Wanted;
use socket::{Frame, Frames};
use stripped::{Outer, Stripped};

/// `flanneld capture`.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Only packets to or from this host; may be given several times
    #[arg(long, value_name = "IP")]
    peer: Vec<Ipv4Addr>,
    /// Only packets to or from this address of the pod network; may be given several times
    #[arg(long, alias = "host", value_name = "IP")]
    pod: Vec<IpAddr>,
    /// Only inner packets to or from this TCP or UDP port; may be given several times
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// Only inner packets of this protocol: tcp, udp, icmp or a number
    #[arg(long, value_name = "NAME", value_parser = protocol)]
    proto: Option<u8>,
    /// End after so many inner packets
    #[arg(short, long, alias = "c", value_name = "N")]
    count: Option<u64>,
    /// Write a pcapng file in place of lines; - is standard output
    #[arg(short, long, alias = "w", value_name = "FILE")]
    write: Option<PathBuf>,
}

fn protocol(text: &str) -> Result<u8, String> {
    match text.to_lowercase().as_str() {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        other => {
            other.parse().map_err(|_| format!("{text} is none of tcp, udp, icmp and no number up to 255"))
        }
    }
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    packets: u64,
    /// Those of the packets that the fast path took in.
    stripped: u64,
    dropped: u32,
}

/// How the tunnel's packets look on the wire, by its backend.
fn wrap(status: &Status) -> Result<(Interface, u16, Wrap)> {
    let (Some(interface), Some(network)) = (&status.interface, &status.network) else {
        bail!("flanneld does not know its interface and network yet: {}", why(status));
    };
    let wrap = match (network.backend.as_str(), network.port) {
        ("udp", Some(port)) => (port, Wrap::Bare),
        ("vxlan", Some(port)) => (port, Wrap::Vxlan),
        (backend, _) => bail!(
            "packets of the {backend} backend have no outer datagram that could be taken off: look at them by tcpdump -ni {}",
            interface.name
        ),
    };
    Ok((interface.clone(), wrap.0, wrap.1))
}

fn why(status: &Status) -> String {
    status.subnet_manager.error.clone().unwrap_or_else(|| "it is just starting".to_owned())
}

/// Captures until it is enough, or until a signal.
pub(super) async fn run(args: &CaptureArgs, socket: &Path) -> Result<ExitCode> {
    let status = ask::status(socket).await?;
    let (interface, port, wrap) = wrap(&status)?;
    let link = Netlink::connect()?.link_by_name(&interface.name).await?;
    let ethernet = link.with_context(|| format!("{} is gone", interface.name))?.mac.len() == 6;
    let stripped = Stripped::of(&status).filter(|_| ethernet && wrap == Wrap::Bare);
    let frames = Frames::open(interface.index, port, if ethernet { 14 } else { 0 }, stripped)
        .with_context(|| format!("cannot look at {}", interface.name))?;
    let sink = match &args.write {
        None => Sink::Lines,
        Some(path) => {
            let failed = || format!("cannot write {}", path.display());
            let writer = file::create(path).with_context(failed)?;
            Sink::File(Trace::begin(writer, &interface.name, ethernet).with_context(failed)?, path.clone())
        }
    };
    let wanted = Wanted {
        peers: args.peer.clone(),
        hosts: args.pod.clone(),
        ports: args.port.clone(),
        protocol: args.proto,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let (most, stopped) = (args.count, stop.clone());
    let capture = Capture { frames, ethernet, wrap, wanted, sink, most, stripped, status, stop: stopped };
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let also =
        if stripped.is_some() { ", and what the fast path takes in there without outer headers" } else { "" };
    eprintln(&format!("capturing UDP port {port} on {}{also}; Ctrl-C ends it", interface.name));
    let mut reading = tokio::task::spawn_blocking(move || capture.run());
    let seen = tokio::select! {
        seen = &mut reading => seen,
        _ = async { tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} } } => {
            stop.store(true, Relaxed);
            reading.await
        }
    }??;
    let Seen { frames, packets, stripped, dropped } = seen;
    let by_kernel =
        if stripped > 0 { format!(", {stripped} of them taken in by the fast path") } else { String::new() };
    eprintln(&format!(
        "{packets} packets in {frames} frames{by_kernel}; {dropped} frames dropped by the kernel"
    ));
    Ok(ExitCode::SUCCESS)
}

fn eprintln(text: &str) {
    // If nobody reads it, nobody misses it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Where packets go.
enum Sink {
    Lines,
    File(Trace<Box<dyn Write + Send>>, PathBuf),
}

struct Capture {
    frames: Frames,
    ethernet: bool,
    wrap: Wrap,
    wanted: Wanted,
    sink: Sink,
    most: Option<u64>,
    stripped: Option<Stripped>,
    /// As it was at the beginning: who has which lease.
    status: Status,
    stop: Arc<AtomicBool>,
}

// The file is written by one thread only, the reader's.
impl Capture {
    fn run(mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let outcome = self.read(&mut seen);
        seen.dropped = self.frames.dropped;
        let flushed = match &mut self.sink {
            Sink::Lines => io::stdout().flush(),
            Sink::File(trace, _) => trace.flush(),
        };
        let outcome = outcome.and(flushed);
        match (outcome, &self.sink) {
            (Ok(()), _) => Ok(seen),
            (Err(error), _) if error.kind() == io::ErrorKind::BrokenPipe => Ok(seen),
            (Err(error), Sink::Lines) => Err(error.into()),
            (Err(error), Sink::File(_, path)) => Err(error).with_context(|| {
                format!(
                    "cannot write {} any more, after {} packets; what is in it can be read",
                    path.display(),
                    seen.packets
                )
            }),
        }
    }

    fn read(&mut self, seen: &mut Seen) -> io::Result<()> {
        let enough = |seen: &Seen| self.most.is_some_and(|most| seen.packets >= most);
        while !enough(seen) && !self.stop.load(Relaxed) {
            let Some(frame) = self.frames.next()? else { continue };
            let bare = self.stripped.filter(|_| !frame.outgoing);
            let (outer, payload) = match bare.and_then(|stripped| stripped.packet(frame.bytes)) {
                Some((source, packet)) => {
                    (Outer::Stripped { from: stripped::holder(&self.status, source) }, packet)
                }
                None => match decode::outer(frame.bytes, self.ethernet) {
                    Some(it) => (Outer::Datagram { from: it.from, to: it.to }, it.payload),
                    None => continue,
                },
            };
            let (before, whole) = (seen.packets, matches!(outer, Outer::Datagram { .. }));
            for packet in decode::inner(payload, self.wrap) {
                if enough(seen) {
                    break;
                }
                if self.wanted.takes(&outer, decode::view(packet).as_ref()) {
                    if let Sink::File(trace, _) = &mut self.sink
                        && whole
                        && seen.packets == before
                    {
                        trace.outer(frame.since, frame.bytes)?;
                    }
                    seen.packets += 1;
                    seen.stripped += u64::from(!whole);
                    self.sink.packet(&frame, &outer, packet)?;
                }
            }
            seen.frames += u64::from(seen.packets > before);
        }
        Ok(())
    }
}

impl Sink {
    fn packet(&mut self, frame: &Frame<'_>, outer: &Outer, packet: &[u8]) -> io::Result<()> {
        match self {
            Sink::Lines => {
                writeln!(io::stdout(), "{}", line::line(frame.since, frame.outgoing, outer, packet))
            }
            Sink::File(trace, _) => {
                let comment = match outer {
                    Outer::Datagram { from, to } => format!("in {from} > {to}"),
                    Outer::Stripped { .. } => format!("{outer}; without outer headers before it was seen"),
                };
                trace.inner(frame.since, frame.bytes, packet, &comment)
            }
        }
    }
}
