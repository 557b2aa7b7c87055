//! The loops: a pair of them for each queue, one out of the pods and one in to them. They move batches and carry out verdicts;
//! they decide nothing.
//!
//! Each is a thread that blocks in `poll` when there is nothing to move. Order within a flow holds, since the kernel keeps a
//! flow in one queue of the device and a peer at one socket, and a loop never shuffles what it moves. A peer's packets are
//! written to the queue that has its socket's number; the kernel learns from that where to put the answers, so that a pair of
//! loops has its peers for itself.
//!
//! Where packets are sealed, a further thread looks after the peers' timers ([`timers`]).

mod inbound;
mod outbound;
mod timers;
mod whole;

use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::counters::Meters;
use super::path::{Feature, Level};
use super::tun::Tun;
use super::udp::Udp;
use super::wireguard::Wireguard;
use crate::family::Dual;
use crate::route::Handle;

/// The running data path; dropping it ends all threads.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    queues: usize,
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
}

/// What the data path is made of.
#[derive(Debug)]
pub struct Parts {
    /// The device.
    pub tun: Tun,
    /// The sockets.
    pub udp: Udp,
    /// Where packets go.
    pub routes: Handle,
    /// The tunnel's address of each family: ICMP answers come from it.
    pub own: Dual<IpAddr>,
    /// How far packets are moved together.
    pub level: Level,
    /// What is counted.
    pub meters: Meters,
    /// Packets are sealed; none: they travel as they are.
    pub wireguard: Option<Arc<Wireguard>>,
    /// The largest packet of a pod.
    pub mtu: usize,
}

/// What all loops share.
#[derive(Debug)]
struct Shared {
    parts: Parts,
    /// Closed on the other end when it is time to stop.
    stop: PipeReader,
}

impl Engine {
    /// Starts both directions on as many queues as both ends have.
    pub fn start(mut parts: Parts) -> std::io::Result<Engine> {
        let queues = parts.udp.count().min(parts.tun.queues().len());
        // A queue or socket that nobody reads would swallow what the kernel puts there.
        parts.tun.keep(queues);
        parts.udp.keep(queues);
        parts.announce(queues);
        let (stop, writer) = pipe()?;
        let shared = Arc::new(Shared { parts, stop });
        let mut engine = Engine { shared: shared.clone(), queues, stop: Some(writer), threads: Vec::new() };
        for queue in 0..queues {
            let (out, into) = (shared.clone(), shared.clone());
            engine.spawn(format!("flannel-out{queue}"), move || outbound::run(&out, queue))?;
            engine.spawn(format!("flannel-in{queue}"), move || inbound::run(&into, queue))?;
        }
        if let Some(wireguard) = shared.parts.wireguard.clone() {
            let shared = shared.clone();
            engine.spawn("flannel-timers".to_owned(), move || timers::run(&shared, &wireguard))?;
        }
        Ok(engine)
    }

    /// What the next process needs to carry on with these queues and sockets; see [`super::pass::Given`].
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Parts { tun, udp, .. } = &self.shared.parts;
        let queues = tun.queues()[..self.queues].iter().map(AsFd::as_fd);
        let sockets = (0..self.queues).map(|queue| udp.fd(queue));
        std::iter::once(tun.alone()).chain(queues).chain(sockets).collect()
    }

    /// What sends by its socket as long as it runs, and does not keep it.
    pub fn voice(&self) -> Voice {
        Voice(Arc::downgrade(&self.shared))
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.push(Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    /// Whether all loops still run: they end by themselves when the TUN is deleted under them.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }
}

/// See [`Engine::voice`]. The default one has no data path and says nothing.
#[derive(Debug, Clone, Default)]
pub struct Voice(Weak<Shared>);

impl Voice {
    /// Sends one datagram; whether the kernel took it.
    pub fn send(&self, message: &[u8], to: SocketAddr) -> bool {
        self.0.upgrade().is_some_and(|shared| shared.parts.udp.send(0, message, to).is_ok())
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

impl Parts {
    fn announce(&self, queues: usize) {
        let path = &self.meters.path;
        path.set_queues(queues);
        tracing::info!(
            level = ?self.level,
            queues,
            tun_tso = path.uses(Feature::TunTso),
            tun_uso = path.uses(Feature::TunUso),
            udp_gso = path.uses(Feature::UdpGso),
            udp_gro = path.uses(Feature::UdpGro),
            "carrying packets"
        );
    }
}

impl Shared {
    /// Waits for so long; false when it is time to stop.
    fn pause(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        matches!(poll(&mut fds, time), Ok(0) | Err(nix::errno::Errno::EINTR))
    }

    /// Waits until there is something to read; false when it is time to stop.
    fn wait(&self, fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return false,
                // The stop pipe is never read, so its byte wakes all threads.
                Ok(_) => return fds[1].revents().is_none_or(|events| events.is_empty()),
            }
        }
    }
}
