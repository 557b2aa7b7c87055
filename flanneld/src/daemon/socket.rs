//! The socket beside the subnet file (`/run/flannel/subnet.sock`): by it whoever is root on this host speaks to the flanneld that
//! carries its packets. A connection is one question, a line:
//!
//! - `ready`: whether packets are carried; answered by `ready` or `not ready`.
//! - `wait`: no answer, but the connection lasts as long as this flanneld has the place.
//! - `status`: what it knows, a line of JSON; see [`crate::look`].
//! - `take-over` and a request in JSON: a successor; see [`super::succession`].

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::succession::{Line, Successor};
use crate::look::board::Board;

/// Connections at a time.
const MOST: usize = 16;
/// So long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// The open socket; closed with the value.
#[derive(Debug)]
pub(super) struct Socket {
    successors: mpsc::Receiver<Successor>,
    task: JoinHandle<()>,
}

impl Socket {
    /// Opens it in place of what is there.
    pub(super) fn open(path: &Path, board: &Board) -> Result<Socket> {
        let listener = bind(path).with_context(|| format!("cannot open the socket {}", path.display()))?;
        // One at a time: a second successor waits until the first one has given up.
        let (sender, successors) = mpsc::channel(1);
        Ok(Socket { successors, task: tokio::spawn(serve(listener, board.clone(), sender)) })
    }

    /// The next process that wants the place. May be dropped half-way and called again.
    pub(super) async fn successor(&mut self) -> Successor {
        match self.successors.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// In one step: whoever connects reaches the one before or this one.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut part = PathBuf::from(path);
    part.set_extension(format!("sock.{}", std::process::id()));
    let _ = fs::remove_file(&part);
    let listener = UnixListener::bind(&part)?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o600))?;
    fs::rename(&part, path)?;
    Ok(listener)
}

async fn serve(listener: UnixListener, board: Board, successors: mpsc::Sender<Successor>) {
    let places = Arc::new(Semaphore::new(MOST));
    // Ends all connections with the socket.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (board, successors) = (board.clone(), successors.clone());
                connections.spawn(async move {
                    // One that breaks off is its own matter.
                    let _ = answer(stream, &board, &successors).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the socket beside the subnet file cannot accept");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    board: &Board,
    successors: &mpsc::Sender<Successor>,
) -> io::Result<()> {
    let mut line = Line::default();
    let question = timeout(PATIENCE, line.read(&stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match question.split_once(' ').unwrap_or((&question, "")) {
        ("ready", _) => stream.write_all(if board.ready() { b"ready\n" } else { b"not ready\n" }).await,
        ("status", _) => {
            let mut line = serde_json::to_vec(&board.status().await)?;
            line.push(b'\n');
            // Whoever asks and does not read holds a place for so long.
            timeout(PATIENCE, stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
        }
        ("wait", _) => stream.read(&mut [0]).await.map(drop),
        ("take-over", request) => {
            if let Ok(request) = serde_json::from_str(request) {
                // If there is nobody to take it the place is being given up.
                let _ = successors.send(Successor::new(stream, line, request)).await;
            }
            Ok(())
        }
        _ => stream.write_all(b"unknown question\n").await,
    }
}

/// Connects to the flanneld that has the place, if one has it.
pub(super) async fn connect(path: &Path) -> Result<Option<UnixStream>> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("cannot connect to {}", path.display())),
    }
}

/// Waits until nobody has the place.
pub(super) async fn vacant(path: &Path) -> Result<()> {
    while let Some(mut stream) = connect(path).await? {
        if stream.write_all(b"wait\n").await.is_ok() {
            let _ = stream.read(&mut [0]).await;
        }
    }
    Ok(())
}

/// Whether the flanneld of this container carries packets; on a host without containers, that of the host. One of another container
/// has no process id here.
pub async fn is_ready(path: &Path) -> Result<bool> {
    let Some(mut stream) = connect(path).await? else { return Ok(false) };
    if stream.peer_cred()?.pid().is_none_or(|pid| pid == 0) {
        return Ok(false);
    }
    let question = async {
        stream.write_all(b"ready\n").await?;
        Line::default().read(&stream).await
    };
    Ok(timeout(PATIENCE, question).await.is_ok_and(|answer| answer.is_ok_and(|answer| answer == "ready")))
}
