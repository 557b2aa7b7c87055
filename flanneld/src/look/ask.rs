//! Asking the running flanneld, by the socket beside its subnet file.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::status::Status;

/// The longest answer in bytes: far more than 4,000 peers need.
const MAX_ANSWER: u64 = 64 << 20;
/// So long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens.
    #[error(
        "no flanneld answers at {}: {words}; does it run on this host, and with this --subnet-file?",
        path.display()
    )]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// The kernel's words.
        words: io::Error,
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

/// Asks for the status.
pub async fn status(path: &Path) -> Result<Status, NoAnswer> {
    let broken = |problem: String| NoAnswer::Broken { path: path.to_owned(), problem };
    let stream = UnixStream::connect(path).await;
    let mut stream = stream.map_err(|words| NoAnswer::NoDaemon { path: path.to_owned(), words })?;
    let ask = async {
        stream.write_all(b"status\n").await?;
        let mut text = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut text).await?;
        io::Result::Ok(text)
    };
    let silent = || format!("nothing came within {} s", PATIENCE.as_secs());
    let answer = timeout(PATIENCE, ask).await.map_err(|_| broken(silent()))?;
    let text = answer.map_err(|error| broken(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| broken(format!("{error}; is it of another version?")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn told(answer: Option<&'static [u8]>) -> Result<Status, NoAnswer> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.sock");
        if let Some(answer) = answer {
            let listener = UnixListener::bind(&path).unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
                let _ = stream.read(&mut [0; 64]).await;
            });
        }
        status(&path).await
    }

    #[tokio::test]
    async fn what_is_wrong_is_told() {
        for (answer, words) in [
            (None, "no flanneld answers at"),
            (Some(&b"unknown question\n"[..]), "is it of another version?"),
            (Some(b""), "does not answer as it should"),
        ] {
            let text = told(answer).await.unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
        let line = serde_json::to_vec(&Status { pid: 7, ..Status::default() }).unwrap();
        assert_eq!(told(Some(line.leak())).await.unwrap().pid, 7);
    }
}
