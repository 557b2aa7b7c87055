//! What only one flanneld of a host has, and the next one gets: the socket beside the subnet file, and the health server's port.

use std::future::Future;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Result;
use prometheus_client::registry::Registry;

use super::socket::Socket;
use super::succession::{Bequest, Successor};
use crate::config::Config;
use crate::http::Health;
use crate::lease::keeper::Passed;
use crate::look::board::Board;

/// See the module.
pub(super) struct Place {
    path: PathBuf,
    board: Board,
    socket: Socket,
    health: Option<Health>,
}

impl Place {
    /// Takes it; `health` is the health server's socket if another process passed it on.
    pub(super) async fn open(
        config: &Config,
        board: &Board,
        registry: Arc<Registry>,
        health: Option<TcpListener>,
    ) -> Result<Place> {
        let health = match config.healthz {
            Some(address) => Some(Health::open(address, health, board.readiness(), registry).await?),
            None => None,
        };
        let path = config.socket();
        let socket = Socket::open(&path, board)?;
        Ok(Place { path, board: board.clone(), socket, health })
    }

    /// The next process that wants it. May be dropped half-way and called again.
    pub(super) async fn successor(&mut self) -> Successor {
        self.socket.successor().await
    }

    /// Leaves it to that process, with a lease and the data path's descriptors; whether it carries packets now. If not, the place is
    /// this process's as before.
    pub(super) async fn leave(
        &mut self,
        successor: &mut Successor,
        lease: Option<Passed>,
        data_path: &[BorrowedFd<'_>],
    ) -> bool {
        let version = &successor.request.version;
        tracing::info!(version, queues = data_path.len() / 2, "another flanneld takes over");
        let mut health = self.health.as_mut().filter(|h| Some(h.address()) == successor.request.health);
        let bequest = Bequest { lease, health: health.is_some() };
        if let Some(health) = &health {
            health.pause();
        }
        let first = health.as_ref().map(|health| health.as_fd());
        let descriptors: Vec<BorrowedFd<'_>> = first.into_iter().chain(data_path.iter().copied()).collect();
        let Err(why) = successor.carries(&bequest, &descriptors).await else { return true };
        if let Some(health) = &mut health {
            health.resume();
        }
        // The other one may have put its own in place of it.
        match Socket::open(&self.path, &self.board) {
            Ok(socket) => self.socket = socket,
            Err(error) => tracing::error!("{error:#}"),
        }
        // Last of all: whoever reads it may ask for the place again.
        tracing::warn!("the process that wanted to take over {why}");
        false
    }

    /// Does that, unless another process takes the place meanwhile, to which there is nothing else to leave.
    pub(super) async fn unless_left<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Successor> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                mut successor = self.socket.successor() => {
                    if self.leave(&mut successor, None, &[]).await {
                        return Err(successor);
                    }
                }
            }
        }
    }
}
