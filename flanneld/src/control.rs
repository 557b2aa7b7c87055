//! The running daemon's socket: a file beside the subnet file, for root alone. One line asks, one line answers, both JSON; then the
//! connection ends.
//!
//! What lives here: who may ask, what a question costs at the most, and how an answer travels. What the answers say is
//! [`crate::look::board`]'s. Nothing secret is told.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::look::status::Status;

/// Questions at a time; more wait.
const MAX_CONNECTIONS: usize = 8;
/// The longest question in bytes.
const MAX_QUESTION: u64 = 4096;
/// The longest answer in bytes: far more than 4,000 peers need.
const MAX_ANSWER: u64 = 64 << 20;
/// So long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How it is: leases, routes, counters.
    Status,
}

/// What is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// The question can't be answered.
    Error(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error(
        "no flanneld answers at {}: {source}; does it run on this host, and with this --subnet-file?",
        path.display()
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// It is root's.
    #[error("{} is root's alone: run this as root", path.display())]
    NotRoot {
        /// The socket.
        path: PathBuf,
    },
    /// The conversation broke.
    #[error("flanneld at {} does not answer as it should: {problem}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Where the socket of a daemon with this subnet file is, e.g. `/run/flannel/subnet.sock`.
pub fn path(subnet_file: &Path) -> PathBuf {
    subnet_file.with_extension("sock")
}

/// Makes the socket, in place of one that a predecessor left: whoever comes last is asked.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let part = path.with_extension(format!("sock.{}", std::process::id()));
    let _ = std::fs::remove_file(&part);
    let listener = UnixListener::bind(&part)?;
    std::fs::set_permissions(&part, PermissionsExt::from_mode(0o600))?;
    std::fs::rename(&part, path)?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve<F: Future<Output = Answer> + Send>(
    listener: UnixListener,
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    // Somebody who asks and breaks off is his own matter.
                    let _ = timeout(PATIENCE, converse(stream, answer)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn converse<F: Future<Output = Answer>>(
    mut stream: UnixStream,
    answer: impl Fn(Request) -> F,
) -> io::Result<()> {
    // The file's mode says the same; this holds for a descriptor that was handed on, too.
    if stream.peer_cred()?.uid() != 0 {
        return send(&mut stream, &Answer::Error("only root may ask".to_owned())).await;
    }
    let mut line = Vec::new();
    BufReader::new((&mut stream).take(MAX_QUESTION)).read_until(b'\n', &mut line).await?;
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => answer(request).await,
        Err(error) => Answer::Error(format!("the question is not understood: {error}")),
    };
    send(&mut stream, &answer).await
}

async fn send(stream: &mut UnixStream, answer: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Asks the daemon for its status.
pub async fn status(path: &Path) -> Result<Status, NoAnswer> {
    let broken = |problem: String| NoAnswer::Broken { path: path.to_owned(), problem };
    let answer = timeout(PATIENCE, ask(path, Request::Status)).await;
    match answer.map_err(|_| broken(format!("nothing came within {} s", PATIENCE.as_secs())))?? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(problem) => Err(broken(problem)),
    }
}

async fn ask(path: &Path, request: Request) -> Result<Answer, NoAnswer> {
    let broken = |problem: String| NoAnswer::Broken { path: path.to_owned(), problem };
    let mut stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => NoAnswer::NotRoot { path: path.to_owned() },
        _ => NoAnswer::NoDaemon { path: path.to_owned(), source },
    })?;
    send(&mut stream, &request).await.map_err(|error| broken(error.to_string()))?;
    let mut text = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut text).await.map_err(|error| broken(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| broken(format!("{error}; is it of another version?")))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn daemon(path: &Path) -> tokio::task::JoinHandle<()> {
        let listener = listen(path).unwrap();
        tokio::spawn(serve(listener, |_| async { Answer::Status(Box::default()) }))
    }

    #[tokio::test]
    async fn the_last_daemon_is_asked_and_none_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = path(&dir.path().join("run/subnet.env"));
        let text = status(&socket).await.unwrap_err().to_string();
        assert!(text.contains("no flanneld answers at") && text.contains("--subnet-file"), "{text}");
        let first = daemon(&socket).await;
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        status(&socket).await.unwrap();
        let second = daemon(&socket).await;
        first.abort();
        status(&socket).await.unwrap();
        second.abort();
        let _ = second.await;
        assert!(matches!(status(&socket).await, Err(NoAnswer::NoDaemon { .. })), "a dead one's socket");
    }

    #[tokio::test]
    async fn a_question_that_makes_no_sense_is_answered_and_costs_little() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("subnet.sock");
        let _daemon = daemon(&socket).await;
        for question in [&b"\"open-sesame\"\n"[..], b"\n", &[b'x'; 5000]] {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            let _ = stream.write_all(question).await;
            let mut text = Vec::new();
            // What was not read of a question that is too long resets the connection, behind the answer.
            let _ = stream.read_to_end(&mut text).await;
            let answer = String::from_utf8(text).unwrap();
            assert!(answer.starts_with(r#"{"error":"the question is not understood"#), "{answer}");
        }
    }
}
