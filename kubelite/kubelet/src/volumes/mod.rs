//! A pod's volumes: directories of the node that are made before its containers and removed after them.
//!
//! ```text
//! <data_dir>/pods/<uid>/volumes/kubernetes.io~<kind>/<volume>/     the volume
//! <data_dir>/pods/<uid>/volume-subpaths/<volume>/<container>/<n>   a part of it, bound for a mount with a subPath
//! ```
//!
//! - [`empty_dir`], [`host_path`]: directories; [`source`] and [`token`]: files from the API, written by [`atomic`].
//! - [`subpath`]: parts of volumes, found without leaving them.
//! - [`teardown`]: the end of it all.
//!
//! Volumes on other machines (claims, CSI) are not here; a pod with one stays waiting and says so.

mod atomic;
mod empty_dir;
mod host_path;
pub(crate) mod source;
mod subpath;
mod teardown;
mod token;

use crate::Config;
use crate::pod::spec;
use crate::runtime::{Mount, Propagation};
use k8s_openapi::api::core::v1::{Container, Pod, Volume as Spec, VolumeMount};
use kube::ResourceExt;
use source::{Reader, Selection};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) use teardown::unmount;

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
    /// A part of a volume can't be mounted.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {message}")]
    SubPath {
        /// The container's name.
        container: String,
        /// The volume's name.
        volume: String,
        /// What failed.
        message: String,
    },
}

/// A pod's volumes by name: where each lies on the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodVolumes {
    paths: BTreeMap<String, PathBuf>,
    /// Where parts of volumes are bound.
    subpaths: PathBuf,
}

/// One volume that is being made.
struct Volume<'a> {
    client: &'a kube::Client,
    pod: &'a Pod,
    path: PathBuf,
    /// The pod's fsGroup.
    group: Option<u32>,
}

/// Makes all volumes of `pod` below its directory, or brings them up to date. Idempotent; called at every look at the pod
/// that is about to start a container, and for running pods every minute or so: that is how soon changed maps arrive, and
/// tokens are renewed a fifth of their life (two minutes at least) before they end.
pub(crate) async fn mount(
    client: &kube::Client,
    config: &Config,
    pod: &Pod,
) -> Result<PodVolumes, VolumeError> {
    let base = config.pod_dir(&pod.uid().unwrap_or_default());
    let mut volumes = PodVolumes { paths: BTreeMap::new(), subpaths: base.join(teardown::SUBPATHS) };
    let security = spec::of(pod).security_context.clone().unwrap_or_default();
    let group = security.fs_group.and_then(|group| u32::try_from(group).ok());
    for volume in spec::of(pod).volumes.iter().flatten() {
        let failed = |message| VolumeError::SetUp { volume: volume.name.clone(), message };
        let (kind, source) = source_of(volume)
            .ok_or_else(|| failed("this kind of volume is not supported by this kubelet".into()))?;
        let path = base.join(teardown::VOLUMES).join(format!("kubernetes.io~{kind}")).join(&volume.name);
        let made = set_up(source, Volume { client, pod, path, group }).await.map_err(failed)?;
        volumes.paths.insert(volume.name.clone(), made);
    }
    Ok(volumes)
}

/// What a volume is made from.
enum Source<'a> {
    /// A directory or path of the node; made without the API.
    Local(Local),
    Map(Selection<'a>),
    Downward(&'a k8s_openapi::api::core::v1::DownwardAPIVolumeSource),
    Projected(&'a k8s_openapi::api::core::v1::ProjectedVolumeSource),
}

enum Local {
    EmptyDir(k8s_openapi::api::core::v1::EmptyDirVolumeSource),
    HostPath(k8s_openapi::api::core::v1::HostPathVolumeSource),
}

/// The table of kinds: the name of each one's directory, and its source.
fn source_of(volume: &Spec) -> Option<(&'static str, Source<'_>)> {
    if let Some(source) = &volume.empty_dir {
        return Some(("empty-dir", Source::Local(Local::EmptyDir(source.clone()))));
    }
    if let Some(source) = &volume.host_path {
        return Some(("host-path", Source::Local(Local::HostPath(source.clone()))));
    }
    if let Some(map) = &volume.config_map {
        let selection = Selection {
            kind: "configmap",
            name: &map.name,
            items: map.items.as_deref(),
            optional: map.optional.unwrap_or(false),
            mode: map.default_mode,
        };
        return Some(("configmap", Source::Map(selection)));
    }
    if let Some(secret) = &volume.secret {
        let selection = Selection {
            kind: "secret",
            name: secret.secret_name.as_deref().unwrap_or_default(),
            items: secret.items.as_deref(),
            optional: secret.optional.unwrap_or(false),
            mode: secret.default_mode,
        };
        return Some(("secret", Source::Map(selection)));
    }
    if let Some(source) = &volume.downward_api {
        return Some(("downward-api", Source::Downward(source)));
    }
    volume.projected.as_ref().map(|source| ("projected", Source::Projected(source)))
}

async fn set_up(source: Source<'_>, volume: Volume<'_>) -> Result<PathBuf, String> {
    let reader = Reader { client: volume.client, pod: volume.pod, volume: &volume.path };
    let files = match source {
        Source::Local(Local::HostPath(source)) => return host_path::set_up(&source),
        Source::Local(Local::EmptyDir(source)) => {
            empty_dir::set_up(&source, &volume)?;
            return Ok(volume.path);
        }
        Source::Map(selection) => reader.map(&selection).await?,
        Source::Downward(source) => reader.downward(source.items.as_deref(), source.default_mode)?,
        Source::Projected(source) => {
            let mut files = atomic::Files::new();
            for one in source.sources.iter().flatten() {
                files.extend(reader.projection(one, source.default_mode).await?);
            }
            files
        }
    };
    let (path, group) = (volume.path.clone(), volume.group);
    let written = tokio::task::spawn_blocking(move || atomic::write(&path, &files, group)).await;
    let written = written.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    written.map_err(|e| format!("writing {}: {e}", volume.path.display()))?;
    Ok(volume.path)
}

impl PodVolumes {
    /// The mounts of one container, in the order of its spec. Parts of volumes (subPath) are bound here, which needs the
    /// file system but neither API nor runtime.
    pub(crate) fn mounts(
        &self,
        container: &Container,
        env: &BTreeMap<String, String>,
    ) -> Result<Vec<Mount>, VolumeError> {
        let mounts = container.volume_mounts.iter().flatten().enumerate();
        mounts.map(|(at, mount)| self.mount_of(container, at, mount, env)).collect()
    }

    fn mount_of(
        &self,
        container: &Container,
        at: usize,
        mount: &VolumeMount,
        env: &BTreeMap<String, String>,
    ) -> Result<Mount, VolumeError> {
        let (of, volume) = (container.name.clone(), mount.name.clone());
        let Some(base) = self.paths.get(&mount.name) else {
            return Err(VolumeError::Unknown { container: of, volume });
        };
        let part = part(mount, env).and_then(|part| match part {
            None => Ok(base.clone()),
            Some(part) => {
                let target = self.subpaths.join(&mount.name).join(&container.name).join(at.to_string());
                subpath::bind(base, &part, &target)
            }
        });
        let host = part.map_err(|message| VolumeError::SubPath { container: of, volume, message })?;
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

/// The part of the volume that is mounted, if not the whole.
fn part(mount: &VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    if let Some(sub) = mount.sub_path.as_ref().filter(|sub| !sub.is_empty()) {
        return Ok(Some(sub.clone()));
    }
    let Some(expression) = mount.sub_path_expr.as_ref().filter(|e| !e.is_empty()) else { return Ok(None) };
    let missing = crate::env::unknown(expression, env);
    match missing.first() {
        Some(name) => Err(format!("missing value for \"{name}\"")),
        None => Ok(Some(crate::env::expand(expression, env))),
    }
}
