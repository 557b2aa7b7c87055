//! A pod's volumes: directories of the node that are made before its containers and removed after them.
//!
//! Layout as upstream: `<data_dir>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>`. What lives here: which kinds there are, and where
//! a container finds them. [`sources`] has what is written into them, [`atomic`] how, [`paths`] keeps subPath inside.

mod atomic;
mod empty_dir;
mod host_path;
mod paths;
pub(crate) mod sources;
mod token;

use crate::Config;
use crate::runtime::{Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a volume can't be made or a mount can't be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// Reading its source failed. The worker tries again; users see event FailedMount.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    SetUp {
        /// The volume's name.
        volume: String,
        /// What failed.
        message: String,
    },
    /// A container mounts what the pod doesn't have.
    #[error("container {container} mounts volume {volume}, which the pod does not have")]
    Unknown {
        /// The container's name.
        container: String,
        /// The volume's name.
        volume: String,
    },
    /// A subPath that can't be used.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {message}")]
    SubPath {
        /// The container's name.
        container: String,
        /// The volume's name.
        volume: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A pod's volumes by name: where each lies on the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodVolumes {
    paths: BTreeMap<String, PathBuf>,
}

/// Makes all volumes of `pod` below its directory, or brings them up to date. Idempotent; called at every look at the pod
/// that is about to start a container, and for running pods every minute or so.
pub(crate) async fn mount(
    client: &kube::Client,
    config: &Config,
    pod: &Pod,
) -> Result<PodVolumes, VolumeError> {
    let mut volumes = PodVolumes::default();
    let base = config.pod_dir(&pod.uid().unwrap_or_default()).join("volumes");
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let path = set_up(client, &base, pod, volume)
            .await
            .map_err(|message| VolumeError::SetUp { volume: volume.name.clone(), message })?;
        volumes.paths.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

/// Unmounts and removes all volumes of the pod with `uid`, whose containers are gone. Idempotent; it knows the pod only by
/// what lies on disk, so that volumes of pods that vanished meanwhile go too.
pub(crate) async fn unmount(config: &Config, uid: &str) -> std::io::Result<()> {
    let volumes = config.pod_dir(uid).join("volumes");
    let dir = volumes.clone();
    // Unmounted first: a tmpfs that is still there must not be emptied as if it were a folder.
    tokio::task::spawn_blocking(move || empty_dir::unmount_below(&dir)).await??;
    match tokio::fs::remove_dir_all(volumes).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// One volume: each kind is made by its own few lines.
async fn set_up(client: &kube::Client, base: &Path, pod: &Pod, volume: &Volume) -> Result<PathBuf, String> {
    if let Some(source) = &volume.host_path {
        return host_path::check(&source.path, source.type_.as_deref().unwrap_or_default());
    }
    let at = |kind: &str| base.join(format!("kubernetes.io~{kind}")).join(&volume.name);
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.fs_group);
    if let Some(source) = &volume.empty_dir {
        let path = at("empty-dir");
        empty_dir::make(&path, source, group).map_err(|e| format!("{}: {e}", path.display()))?;
        return Ok(path);
    }
    let reader = sources::Reader::new(client, pod);
    let (kind, files) = if let Some(source) = &volume.config_map {
        ("configmap", reader.config_map_volume(source).await?)
    } else if let Some(source) = &volume.secret {
        ("secret", reader.secret_volume(source).await?)
    } else if let Some(source) = &volume.downward_api {
        ("downward-api", reader.downward_volume(source)?)
    } else if let Some(source) = &volume.projected {
        ("projected", reader.projected_volume(source, &at("projected")).await?)
    } else {
        return Err("this kind of volume is not supported by this kubelet".into());
    };
    let path = at(kind);
    atomic::write(&path, &files, group).map_err(|e| format!("writing {}: {e}", path.display()))?;
    Ok(path)
}

impl PodVolumes {
    /// The mounts of one container, in the order of its spec.
    pub(crate) fn mounts(
        &self,
        container: &Container,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, VolumeError> {
        container.volume_mounts.iter().flatten().map(|m| self.mount_of(container, m, env)).collect()
    }

    fn mount_of(
        &self,
        container: &Container,
        mount: &VolumeMount,
        env: &BTreeMap<String, String>,
    ) -> Result<Mount, VolumeError> {
        let unknown =
            || VolumeError::Unknown { container: container.name.clone(), volume: mount.name.clone() };
        let base = self.paths.get(&mount.name).ok_or_else(unknown)?;
        let sub = mount.sub_path.clone().or(mount.sub_path_expr.as_ref().map(|e| crate::env::expand(e, env)));
        let host = match sub.filter(|sub| !sub.is_empty()) {
            None => base.clone(),
            Some(sub) => paths::inside(base, &sub).map_err(|message| VolumeError::SubPath {
                container: container.name.clone(),
                volume: mount.name.clone(),
                message,
            })?,
        };
        Ok(Mount {
            container_path: mount.mount_path.clone(),
            host_path: host.to_string_lossy().into_owned(),
            read_only: mount.read_only.unwrap_or(false),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        })
    }
}
