//! Reads a container's log file for a client: from its end, for a time, and on while the container runs.
//!
//! A log that is rotated meanwhile is read to its end and then goes on in the new file. What the file's lines look like is
//! in [`line`].

mod line;

pub(crate) use line::Options;

use crate::runtime::{ContainerState, Runtime};
use bytes::Bytes;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc::Sender;

/// Read at once.
const BLOCK: usize = 64 << 10;
/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);
/// How many looks without anything new pass until the runtime is asked whether the container still runs.
const LOOKS_PER_STATE: u32 = 5;
/// A line of the file may be so long; CRI's runtimes cut at 16 KiB.
const MAX_LINE: usize = 1 << 20;

/// A container's log.
pub(crate) struct Log {
    /// Who knows whether the container runs.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The container's ID.
    pub(crate) id: String,
    /// The file.
    pub(crate) path: PathBuf,
}

/// Sends the log as the client wants it, until it ends or nobody receives any more.
///
/// # Errors
/// If the file can't be opened or read.
pub(crate) async fn send(log: &Log, options: &Options, to: &Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut file = File::open(&log.path).await?;
    if let Some(lines) = options.tail {
        let start = tail(&mut file, lines).await?;
        file.seek(SeekFrom::Start(start)).await?;
    }
    let mut copy = Copy { filter: line::Filter::new(options), rest: vec![], to };
    let mut idle = 0;
    // After the container's end the file is read once more, for what came between.
    let mut ended = !options.follow;
    loop {
        if !copy.all(&mut file).await? {
            return Ok(());
        }
        if let Some(next) = rotated(&file, &log.path).await? {
            // What was written until the rename is read by now only if it is read after the rename was seen.
            if !copy.all(&mut file).await? {
                return Ok(());
            }
            file = next;
            continue;
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = to.closed() => return Ok(()),
            () = tokio::time::sleep(POLL) => idle += 1,
        }
        if idle % LOOKS_PER_STATE == 0 {
            ended = !runs(log).await;
        }
    }
}

async fn runs(log: &Log) -> bool {
    match log.runtime.container_status(&log.id).await {
        Ok(status) => matches!(status.state, ContainerState::Running | ContainerState::Created),
        Err(crate::runtime::RuntimeError::NotFound(_)) => false,
        // The runtime is away; the container may well run.
        Err(_) => true,
    }
}

/// The file that lies at `path` now, if it is another one.
async fn rotated(file: &File, path: &Path) -> io::Result<Option<File>> {
    let next = match File::open(path).await {
        Ok(next) => next,
        // Between the rename and the runtime's opening a new file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (old, new) = (file.metadata().await?, next.metadata().await?);
    Ok(((old.dev(), old.ino()) != (new.dev(), new.ino())).then_some(next))
}

struct Copy<'a> {
    filter: line::Filter,
    /// The beginning of a line whose end is not yet in the file.
    rest: Vec<u8>,
    to: &'a Sender<io::Result<Bytes>>,
}

impl Copy<'_> {
    /// Sends what is in the file from where it stands; false if nothing more is wanted.
    async fn all(&mut self, file: &mut File) -> io::Result<bool> {
        let mut block = vec![0; BLOCK];
        loop {
            let count = file.read(&mut block).await?;
            if count == 0 {
                return Ok(true);
            }
            let (out, more) = self.take(block.get(..count).unwrap_or_default());
            if !out.is_empty() && self.to.send(Ok(out.into())).await.is_err() || !more {
                return Ok(false);
            }
        }
    }

    fn take(&mut self, block: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(block.len());
        for piece in block.split_inclusive(|byte| *byte == b'\n') {
            let Some(end) = piece.strip_suffix(b"\n") else {
                self.rest.extend_from_slice(piece);
                self.rest.truncate(MAX_LINE);
                break;
            };
            let flow = if self.rest.is_empty() {
                self.filter.take(end, &mut out)
            } else {
                self.rest.extend_from_slice(end);
                self.filter.take(&std::mem::take(&mut self.rest), &mut out)
            };
            if flow.is_break() {
                return (out, false);
            }
        }
        (out, true)
    }
}

/// Where the last `lines` lines begin; the parts of a line count as one.
async fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata().await?.len();
    // Bytes from `end` on that belong to a line whose beginning is further ahead.
    let mut carried: Vec<u8> = vec![];
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        file.seek(SeekFrom::Start(start)).await?;
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(BLOCK)];
        file.read_exact(&mut block).await?;
        block.append(&mut carried);
        let mut line_end = block.len();
        while let Some(newline) =
            block.get(..line_end.saturating_sub(1)).and_then(|b| b.iter().rposition(|byte| *byte == b'\n'))
        {
            let line = block.get(newline + 1..line_end).unwrap_or_default();
            found += u64::from(line::is_end(line));
            if found > lines {
                return Ok(start + line_end as u64);
            }
            line_end = newline + 1;
        }
        block.truncate(line_end);
        carried = block;
        carried.truncate(MAX_LINE);
        end = start;
    }
    let first = line::is_end(&carried);
    Ok(if found + u64::from(first) > lines { carried.len() as u64 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing::Memory;

    fn log(dir: &Path, text: &str) -> Log {
        let path = dir.join("0.log");
        std::fs::write(&path, text).unwrap();
        Log { runtime: Arc::new(Memory::new(&[])), id: "gone".into(), path }
    }

    async fn read(log: &Log, options: &Options) -> String {
        let (to, mut from) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(8);
        let receive = async {
            let mut text = vec![];
            while let Some(bytes) = from.recv().await {
                text.extend_from_slice(&bytes.unwrap());
            }
            String::from_utf8(text).unwrap()
        };
        let send = async {
            send(log, options, &to).await.unwrap();
            drop(to);
        };
        tokio::join!(receive, send).0
    }

    #[tokio::test]
    async fn the_tail_counts_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let text = "t stdout F 1\nt stdout P 2\nt stdout F 2\nt stdout F 3\n";
        let log = log(dir.path(), text);
        for (lines, expected) in [(0, ""), (1, "3\n"), (2, "22\n3\n"), (3, "1\n22\n3\n"), (9, "1\n22\n3\n")] {
            let options = Options { tail: Some(lines), ..Options::default() };
            assert_eq!(read(&log, &options).await, expected, "{lines}");
        }
    }

    #[tokio::test]
    async fn the_tail_of_a_log_of_many_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> = (0..20_000).map(|n| format!("line {n:09}")).collect();
        let text: String = lines.iter().map(|l| format!("t stdout F {l}\n")).collect();
        assert!(text.len() > 4 * BLOCK);
        let log = log(dir.path(), &text);
        for count in [1, 5_000, 19_999, 20_000, 20_001] {
            let options = Options { tail: Some(count), ..Options::default() };
            let from = lines.len().saturating_sub(usize::try_from(count).unwrap());
            let expected: String = lines[from..].iter().map(|l| format!("{l}\n")).collect();
            assert!(read(&log, &options).await == expected, "{count}");
        }
    }

    #[tokio::test]
    async fn following_goes_on_in_the_new_file_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), "t stdout F 1\n");
        let write = async {
            tokio::time::sleep(POLL * 2).await;
            std::fs::rename(&log.path, dir.path().join("0.log.old")).unwrap();
            std::fs::write(dir.path().join("0.log.old"), "t stdout F 1\nt stdout F 2\n").unwrap();
            tokio::time::sleep(POLL).await;
            std::fs::write(&log.path, "t stdout F 3\n").unwrap();
        };
        // The twin knows no such container, so following ends at the first question.
        let options = Options { follow: true, ..Options::default() };
        let (text, ()) = tokio::join!(read(&log, &options), write);
        assert_eq!(text, "1\n2\n3\n");
    }
}
