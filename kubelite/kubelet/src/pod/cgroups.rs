//! The cgroup of a pod that ended. The runtime makes it with the first container and leaves it behind.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the empty cgroup `parent` from every hierarchy that has it. What isn't empty stays.
pub(super) async fn remove(parent: &str) {
    let relative = parent.trim_start_matches('/');
    if relative.is_empty() {
        return;
    }
    let mut hierarchies = vec![PathBuf::from(ROOT)];
    if let Ok(mut entries) = tokio::fs::read_dir(ROOT).await {
        while let Ok(Some(entry)) = entries.next_entry().await {
            hierarchies.push(entry.path());
        }
    }
    for hierarchy in hierarchies {
        remove_in(&hierarchy.join(relative)).await;
    }
}

async fn remove_in(cgroup: &Path) {
    // Absent in this hierarchy, or still in use: both are left as they are.
    if let Err(error) = tokio::fs::remove_dir(cgroup).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(%error, cgroup = %cgroup.display(), "a pod's cgroup stays");
    }
}
