//! The message that a container leaves behind: the file at its terminationMessagePath, or the end of its log.

use crate::runtime::{ContainerState, ContainerStatus, label};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Longest message in bytes, as the API allows.
const MAX_MESSAGE: u64 = 4096;
/// How much of a failed container's log is its message.
const MAX_LOG: u64 = 2048;
/// How many of its lines.
const MAX_LINES: usize = 80;

/// Fills in the message of a container that ended.
pub(crate) async fn add_message(status: &mut ContainerStatus) {
    if status.state != ContainerState::Exited || !status.message.is_empty() {
        return;
    }
    let Some(path) = status.annotations.get(label::TERMINATION_PATH) else { return };
    let mounted = status.mounts.iter().find(|m| m.container_path == *path);
    if let Some(mount) = mounted {
        status.message = head(Path::new(&mount.host_path)).await;
    }
    let fall_back = status.annotations.get(label::TERMINATION_POLICY).map(String::as_str)
        == Some("FallbackToLogsOnError");
    if status.message.is_empty() && status.exit_code != 0 && fall_back {
        status.message = log_tail(Path::new(&status.log_path)).await;
    }
}

async fn head(path: &Path) -> String {
    let mut content = vec![];
    if let Ok(file) = tokio::fs::File::open(path).await {
        // A file that can't be read is an empty message.
        let _ = file.take(MAX_MESSAGE).read_to_end(&mut content).await;
    }
    String::from_utf8_lossy(&content).into_owned()
}

async fn log_tail(path: &Path) -> String {
    let read = async {
        let mut file = tokio::fs::File::open(path).await?;
        let size = file.metadata().await?.len();
        file.seek(std::io::SeekFrom::Start(size.saturating_sub(MAX_LOG))).await?;
        let mut content = vec![];
        file.take(MAX_LOG).read_to_end(&mut content).await?;
        std::io::Result::Ok(content)
    };
    let content = read.await.unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let lines: Vec<&str> = text.lines().filter_map(log_text).collect();
    lines[lines.len().saturating_sub(MAX_LINES)..].iter().map(|l| format!("{l}\n")).collect()
}

/// The text of a line of a CRI log: `<time> <stream> <P|F> <text>`. A line cut off at its beginning has none.
fn log_text(line: &str) -> Option<&str> {
    let mut fields = line.splitn(4, ' ');
    let time = fields.next()?;
    let stream = fields.next()?;
    let _tag = fields.next()?;
    (time.contains('T') && matches!(stream, "stdout" | "stderr")).then(|| fields.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn message_comes_from_the_file_else_from_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("message"), dir.path().join("0.log"));
        std::fs::write(&log, "2026-01-01T00:00:00Z stderr F it broke\n").unwrap();
        let annotation = |k: &str, v: &str| (k.to_string(), v.to_string());
        let fresh = || ContainerStatus {
            state: ContainerState::Exited,
            exit_code: 1,
            annotations: [
                annotation(label::TERMINATION_PATH, "/dev/termination-log"),
                annotation(label::TERMINATION_POLICY, "FallbackToLogsOnError"),
            ]
            .into(),
            mounts: vec![crate::runtime::Mount {
                container_path: "/dev/termination-log".into(),
                host_path: file.to_string_lossy().into_owned(),
                ..Default::default()
            }],
            log_path: log.to_string_lossy().into_owned(),
            ..ContainerStatus::default()
        };
        let mut status = fresh();
        add_message(&mut status).await;
        assert_eq!(status.message, "it broke\n");
        std::fs::write(&file, "bye").unwrap();
        let mut status = fresh();
        add_message(&mut status).await;
        assert_eq!(status.message, "bye");
    }
}
