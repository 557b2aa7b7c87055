//! A pod's volumes: directories of the node that are made before its containers and removed after them.

use crate::Config;
use crate::runtime::{Mount, Propagation};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Volume, VolumeMount};
use kube::{Api, ResourceExt};
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
    match tokio::fs::remove_dir_all(config.pod_dir(uid).join("volumes")).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
        let host = sub.map_or_else(|| base.clone(), |sub| base.join(sub));
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

async fn set_up(client: &kube::Client, base: &Path, pod: &Pod, volume: &Volume) -> Result<PathBuf, String> {
    if let Some(host) = &volume.host_path {
        return Ok(PathBuf::from(&host.path));
    }
    let namespace = pod.namespace().unwrap_or_default();
    let (kind, files) = if volume.empty_dir.is_some() {
        ("empty-dir", BTreeMap::new())
    } else if let Some(source) = &volume.config_map {
        let map = Api::<ConfigMap>::namespaced(client.clone(), &namespace).get(&source.name).await;
        let text = map.map_err(|e| e.to_string())?.data.unwrap_or_default();
        ("configmap", text.into_iter().map(|(k, v)| (k, v.into_bytes())).collect())
    } else if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.as_ref()) {
        let secret = Api::<Secret>::namespaced(client.clone(), &namespace).get(name).await;
        let data = secret.map_err(|e| e.to_string())?.data.unwrap_or_default();
        ("secret", data.into_iter().map(|(k, v)| (k, v.0)).collect())
    } else {
        return Err("this kind of volume is not supported".into());
    };
    let path = base.join(format!("kubernetes.io~{kind}")).join(&volume.name);
    write_files(&path, files).await.map_err(|e| format!("writing {}: {e}", path.display()))?;
    Ok(path)
}

async fn write_files(path: &Path, files: BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    tokio::fs::create_dir_all(path).await?;
    for (name, content) in files {
        tokio::fs::write(path.join(name), content).await?;
    }
    Ok(())
}
