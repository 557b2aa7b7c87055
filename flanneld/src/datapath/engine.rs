//! The two loops. They move batches and carry out verdicts; they decide nothing.
//!
//! One thread a direction, each blocked in `poll` until there is something to move. Order within a flow holds, since a
//! direction has one thread and a batch is never shuffled.

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::buffer::Batch;
use super::counters::{Counters, Reason};
use super::forward::{self, Verdict};
use super::icmp::{self, Limit, MAX_ANSWER};
use super::packet::Packet;
use super::tun::Tun;
use super::udp::Udp;
use crate::route::Handle;

/// The running data path; dropping it ends both threads.
#[derive(Debug)]
pub struct Engine {
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

/// What both loops share.
#[derive(Debug)]
struct Shared {
    tun: Tun,
    udp: Udp,
    routes: Handle,
    /// Closed on the other end when it is time to stop.
    stop: PipeReader,
}

impl Engine {
    /// Starts both directions. `own` is the tunnel's address: ICMP answers come from it.
    pub fn start(
        tun: Tun,
        udp: Udp,
        routes: Handle,
        own: Ipv4Addr,
        counters: (Counters, Counters),
    ) -> std::io::Result<Engine> {
        let (reader, writer) = pipe()?;
        let shared = Arc::new(Shared { tun, udp, routes, stop: reader });
        let (out, into) = (shared.clone(), shared);
        let (out_counters, in_counters) = counters;
        let threads = vec![
            Builder::new().name("flannel-out".into()).spawn(move || out.outbound(own, &out_counters))?,
            Builder::new().name("flannel-in".into()).spawn(move || into.inbound(&in_counters))?,
        ];
        Ok(Engine { stop: Some(writer), threads })
    }

    /// Whether both directions still run: a loop ends by itself when the TUN is deleted under it.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(mut writer) = self.stop.take() {
            // Closing is the signal; a byte wakes the pollers on the way.
            let _ = writer.write(&[0]);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn outbound(&self, own: Ipv4Addr, counters: &Counters) {
        let mut batch = Batch::default();
        let mut answer = [0; MAX_ANSWER];
        let start = Instant::now();
        let mut limit = Limit::new(0);
        while self.wait(self.tun.as_fd()) {
            if let Err(error) = self.tun.read(&mut batch) {
                return tracing::error!(%error, "the TUN is gone");
            }
            forward::outbound(batch.packets(), &self.routes.at(Instant::now()));
            let sent = self.udp.send(&mut batch);
            counters.packets.inc_by(sent as u64);
            let now = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            for buffer in batch.packets() {
                match buffer.verdict {
                    Verdict::Send(_) => drop(counters.bytes.inc_by(buffer.len as u64)),
                    Verdict::Drop(reason) => counters.drop(reason),
                    Verdict::Refuse => {
                        counters.drop(Reason::NoRoute);
                        let packet = Packet::parse(&mut buffer.data[..buffer.len]).ok();
                        let length = packet.and_then(|p| icmp::unreachable(&p, own, &mut answer));
                        if let Some(length) = length.filter(|_| limit.take(now))
                            && self.tun.write(&answer[..length])
                        {
                            counters.answers.inc();
                        }
                    }
                    Verdict::Pending | Verdict::Deliver => counters.drop(Reason::Send),
                }
            }
        }
    }

    fn inbound(&self, counters: &Counters) {
        let mut batch = Batch::default();
        while self.wait(self.udp.as_fd()) {
            if let Err(error) = self.udp.receive(&mut batch) {
                return tracing::error!(%error, "the UDP socket is gone");
            }
            forward::inbound(batch.packets(), &self.routes.at(Instant::now()));
            for buffer in batch.packets() {
                match buffer.verdict {
                    Verdict::Deliver if self.tun.write(buffer.packet()) => {
                        counters.packets.inc();
                        counters.bytes.inc_by(buffer.len as u64);
                    }
                    Verdict::Drop(reason) => counters.drop(reason),
                    _ => counters.drop(Reason::Send),
                }
            }
        }
    }

    /// Waits until there is something to read; false when it is time to stop.
    fn wait(&self, fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return false,
                // The stop pipe is never read, so its byte wakes both threads.
                Ok(_) => return fds[1].revents().is_none_or(|events| events.is_empty()),
            }
        }
    }
}
