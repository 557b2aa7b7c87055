//! A container's log: the file that the runtime writes (CRI's format), filtered, and followed while the container runs.

use super::Refusal;
use crate::context::Context;
use crate::runtime::{ContainerState, ContainerStatus, Runtime};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use futures::SinkExt;
use futures::channel::mpsc;
use http::StatusCode;
use hyper::body::Bytes;
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};

/// Between two looks for new lines of a followed log.
const POLL: Duration = Duration::from_millis(250);
/// Chunks that wait for a slow reader.
const WAITING: usize = 16;
/// A chunk is sent when it has grown to this.
const CHUNK: usize = 32 * 1024;

/// What is wanted of a log; the names are those of PodLogOptions.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<Timestamp>,
}

pub(super) async fn logs(
    State(context): State<Arc<Context>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(options): Query<Options>,
) -> Result<Response, Refusal> {
    let status = find(&context, &namespace, &pod, &container, options.previous).await?;
    let file = File::open(&status.log_path).await.map_err(|error| {
        Refusal::new(StatusCode::NOT_FOUND, format!("the log of {container} cannot be read: {error}"))
    })?;
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    let filter = Filter::new(&options, Timestamp::now());
    tokio::spawn(async move {
        let mut reader = Reader { file: BufReader::new(file), filter, sender, chunk: Vec::new() };
        // The reader hung up, or the file cannot be read further: either way the log ends here.
        let _ = reader.run(&options, context.runtime.as_ref(), &status.id).await;
    });
    let mut response = Response::new(Body::from_stream(receiver));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// The container, or the one before it.
async fn find(
    context: &Context,
    namespace: &str,
    pod: &str,
    name: &str,
    previous: bool,
) -> Result<ContainerStatus, Refusal> {
    let missing = |text: String| Refusal::new(StatusCode::NOT_FOUND, text);
    let entry = context
        .pods
        .find(namespace, pod)
        .ok_or_else(|| missing(format!("pod {namespace}/{pod} does not exist on this node")))?;
    let failed =
        |e: crate::runtime::RuntimeError| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
    let mut containers = context.runtime.list_containers(entry.pod.uid().as_deref()).await.map_err(failed)?;
    containers.retain(|c| c.name == name && c.state != ContainerState::Created);
    containers.sort_by_key(|c| std::cmp::Reverse(c.attempt));
    let found = containers.get(usize::from(previous));
    let found = found.ok_or_else(|| match previous {
        true => Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("previous terminated container \"{name}\" in pod \"{pod}\" not found"),
        ),
        false => Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("container \"{name}\" in pod \"{pod}\" is waiting to start"),
        ),
    })?;
    context.runtime.container_status(&found.id).await.map_err(failed)
}

struct Reader {
    file: BufReader<File>,
    filter: Filter,
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Reader {
    async fn run(&mut self, options: &Options, runtime: &dyn Runtime, id: &str) -> io::Result<()> {
        if let Some(count) = options.tail_lines {
            self.skip_to_tail(count).await?;
        }
        loop {
            // Asked first: what was written before the end is then read below.
            let running = options.follow && is_running(runtime, id).await;
            if self.read_lines().await? {
                return Ok(());
            }
            if !running {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
            if self.sender.is_closed() {
                return Ok(());
            }
        }
    }

    /// Sends the whole lines that are there; whether the log is over by its limit.
    async fn read_lines(&mut self) -> io::Result<bool> {
        let mut line = Vec::new();
        loop {
            let start = self.file.stream_position().await?;
            line.clear();
            let length = self.file.read_until(b'\n', &mut line).await?;
            if length == 0 || line.last() != Some(&b'\n') {
                // A line that is still being written is read again when it is whole.
                self.file.seek(io::SeekFrom::Start(start)).await?;
                self.flush().await?;
                return Ok(false);
            }
            let over = self.filter.take(&line, &mut self.chunk);
            if self.chunk.len() >= CHUNK || over {
                self.flush().await?;
            }
            if over {
                return Ok(true);
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.sender.send(Ok(chunk)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Moves to the last `count` lines.
    async fn skip_to_tail(&mut self, count: usize) -> io::Result<()> {
        let mut starts = VecDeque::with_capacity(count.min(4096) + 1);
        let (mut position, mut line) = (0u64, Vec::new());
        loop {
            line.clear();
            let length = self.file.read_until(b'\n', &mut line).await?;
            if length == 0 {
                break;
            }
            starts.push_back(position);
            position += length as u64;
            if starts.len() > count {
                starts.pop_front();
            }
        }
        let start = starts.front().copied().unwrap_or(position);
        self.file.seek(io::SeekFrom::Start(start)).await.map(drop)
    }
}

async fn is_running(runtime: &dyn Runtime, id: &str) -> bool {
    runtime.container_status(id).await.is_ok_and(|status| status.state == ContainerState::Running)
}

/// Which lines pass, and how they look. Pure.
#[derive(Debug)]
struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    left: Option<usize>,
}

impl Filter {
    fn new(options: &Options, now: Timestamp) -> Filter {
        let ago =
            options.since_seconds.and_then(|s| now.checked_sub(jiff::SignedDuration::from_secs(s)).ok());
        Filter {
            since: options.since_time.or(ago),
            timestamps: options.timestamps,
            left: options.limit_bytes,
        }
    }

    /// Appends what a line of the file says; whether the limit is reached.
    fn take(&mut self, line: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((time, text, whole)) = parse(line) else { return false };
        let before = self.since.is_some_and(|since| time.parse::<Timestamp>().is_ok_and(|time| time < since));
        if before {
            return false;
        }
        let start = out.len();
        if self.timestamps {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        if whole {
            out.push(b'\n');
        }
        let Some(left) = self.left.as_mut() else { return false };
        out.truncate(out.len().min(start + *left));
        *left -= out.len() - start;
        *left == 0
    }
}

/// A line of CRI's format: time, stream, `F` (a whole line) or `P` (a part of one), text.
fn parse(line: &[u8]) -> Option<(&str, &[u8], bool)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let _stream = parts.next()?;
    let tag = parts.next()?;
    Some((time, parts.next().unwrap_or_default(), !tag.starts_with(b"P")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 4] = [
        "2026-11-23T10:00:00.000000001Z stdout F one\n",
        "2026-11-23T10:00:01.5Z stderr P two, ",
        "2026-11-23T10:00:02Z stdout F three\n",
        "damaged\n",
    ];

    fn shown(options: &Options) -> String {
        let now = "2026-11-23T10:00:03Z".parse().unwrap();
        let (mut filter, mut out) = (Filter::new(options, now), Vec::new());
        for line in LINES {
            if filter.take(line.as_bytes(), &mut out) {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_filtered_and_parts_joined() {
        assert_eq!(shown(&Options::default()), "one\ntwo, three\n");
        assert_eq!(shown(&Options { since_seconds: Some(1), ..Options::default() }), "three\n");
        let since_time = Some("2026-11-23T10:00:01Z".parse().unwrap());
        assert_eq!(shown(&Options { since_time, ..Options::default() }), "two, three\n");
        assert_eq!(shown(&Options { limit_bytes: Some(6), ..Options::default() }), "one\ntw");
        let stamped = shown(&Options { timestamps: true, limit_bytes: Some(34), ..Options::default() });
        assert_eq!(stamped, "2026-11-23T10:00:00.000000001Z one");
    }

    #[test]
    fn options_are_read_from_a_query() {
        let uri: http::Uri =
            "/?follow=true&tailLines=5&sinceTime=2026-11-23T10:00:00Z&timestamps=true".parse().unwrap();
        let Query(options) = Query::<Options>::try_from_uri(&uri).unwrap();
        assert!(
            options.follow
                && options.timestamps
                && options.tail_lines == Some(5)
                && options.since_time.is_some()
        );
    }
}
