//! Keeps containers' logs bounded: a log that grew too long is put aside, and the oldest of those put aside go.

use crate::context::Context;
use crate::runtime::{ContainerState, RuntimeError};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often logs are looked at.
const LOOK: Duration = Duration::from_secs(30);
/// A log longer than this is put aside; upstream's containerLogMaxSize.
const MAX_SIZE: u64 = 10 << 20;
/// Logs of one container instance that stay, the current one among them; upstream's containerLogMaxFiles.
const MAX_FILES: usize = 5;

/// Rotates logs, for ever.
pub(crate) async fn run(context: Arc<Context>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = look(&context).await {
            tracing::debug!(%error, "logs can't be rotated, will be tried again");
        }
    }
}

async fn look(context: &Context) -> Result<(), RuntimeError> {
    let containers = context.runtime.list_containers(None).await?;
    for container in containers.iter().filter(|c| c.state == ContainerState::Running) {
        let status = match context.runtime.container_status(&container.id).await {
            Err(RuntimeError::NotFound(_)) => continue,
            other => other?,
        };
        let log = PathBuf::from(status.log_path);
        match put_aside(&log, MAX_SIZE, Timestamp::now()).await {
            Ok(false) => {}
            Ok(true) => context.runtime.reopen_log(&container.id).await?,
            Err(error) => tracing::warn!(%error, log = %log.display(), "a log can't be rotated"),
        }
    }
    Ok(())
}

/// Renames a log longer than `max` and removes the eldest ones beyond [`MAX_FILES`]; says whether it did.
async fn put_aside(log: &Path, max: u64, now: Timestamp) -> std::io::Result<bool> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str())) else {
        return Ok(false);
    };
    match tokio::fs::metadata(log).await {
        Ok(metadata) if metadata.len() > max => {}
        _ => return Ok(false),
    }
    tokio::fs::rename(log, directory.join(format!("{name}.{}", now.strftime("%Y%m%d-%H%M%S")))).await?;
    let mut old = vec![];
    let mut entries = tokio::fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let rotated = entry.file_name().to_str().is_some_and(|n| n.starts_with(&format!("{name}.")));
        old.extend(rotated.then(|| entry.path()));
    }
    // Their names end with the time.
    old.sort();
    let surplus = (old.len() + 1).saturating_sub(MAX_FILES);
    for path in old.into_iter().take(surplus) {
        tokio::fs::remove_file(path).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_logs_are_put_aside_and_the_eldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        std::fs::write(&log, "short").unwrap();
        assert!(!put_aside(&log, 10, Timestamp::UNIX_EPOCH).await.unwrap());
        for second in 0..8 {
            std::fs::write(&log, "rather long").unwrap();
            assert!(put_aside(&log, 10, Timestamp::from_second(second).unwrap()).await.unwrap());
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected: Vec<String> = (4..8).map(|s| format!("0.log.19700101-00000{s}")).collect();
        assert_eq!(names, expected);
    }
}
