//! The files that the kubelet itself puts into containers: /etc/hosts and the termination message.

use super::{config, spec};
use crate::Config;
use crate::runtime::Mount;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use std::fmt::Write;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const HOSTS: &str = "/etc/hosts";

/// Writes the container's files and returns their mounts; what the container mounts itself stays its own.
pub(super) async fn own_mounts(
    config: &Config,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    ips: &[IpAddr],
    others: &[Mount],
) -> std::io::Result<Vec<Mount>> {
    let mut mounts = vec![];
    let free = |path: &str| others.iter().all(|m| m.container_path != path);
    let dir = config.pod_dir(&pod.uid().unwrap_or_default());
    if free(HOSTS) {
        mounts.push(mount(HOSTS, &hosts_file(config, pod, &dir, ips).await?));
    }
    let path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !path.is_empty() && free(path) {
        mounts.push(mount(path, &termination_file(&dir, &container.name, attempt).await?));
    }
    Ok(mounts)
}

fn mount(container_path: &str, host: &Path) -> Mount {
    Mount {
        container_path: container_path.to_string(),
        host_path: host.to_string_lossy().into_owned(),
        ..Mount::default()
    }
}

async fn hosts_file(config: &Config, pod: &Pod, dir: &Path, ips: &[IpAddr]) -> std::io::Result<PathBuf> {
    let path = dir.join("etc-hosts");
    let node = match spec::host_network(pod) {
        true => Some(tokio::fs::read_to_string(HOSTS).await.unwrap_or_default()),
        false => None,
    };
    let text = hosts(config, pod, ips, node.as_deref());
    // In place, not by renaming: containers that run have this very file mounted.
    if tokio::fs::read_to_string(&path).await.ok().as_ref() != Some(&text) {
        tokio::fs::create_dir_all(dir).await?;
        tokio::fs::write(&path, text).await?;
    }
    Ok(path)
}

/// The text of /etc/hosts; `node` is the node's own, for pods in the host's network.
fn hosts(config: &Config, pod: &Pod, ips: &[IpAddr], node: Option<&str>) -> String {
    let mut text = match node {
        Some(node) => format!("# Kubernetes-managed hosts file (host network).\n{node}"),
        None => own_hosts(config, pod, ips),
    };
    let spec = spec::of(pod);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

fn own_hosts(config: &Config, pod: &Pod, ips: &[IpAddr]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let name = config::hostname(pod);
    let subdomain = spec::of(pod).subdomain.clone().filter(|s| !s.is_empty());
    let full = subdomain.map(|subdomain| {
        let namespace = pod.namespace().unwrap_or_default();
        format!("{name}.{subdomain}.{namespace}.svc.{}\t", config.cluster_domain)
    });
    for ip in ips {
        let _ = writeln!(text, "{ip}\t{}{name}", full.as_deref().unwrap_or_default());
    }
    text
}

async fn termination_file(dir: &Path, container: &str, attempt: u32) -> std::io::Result<PathBuf> {
    let dir = dir.join("containers").join(container);
    let path = dir.join(attempt.to_string());
    tokio::fs::create_dir_all(&dir).await?;
    tokio::fs::write(&path, "").await?;
    // Any user in the container may leave a message.
    tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).await?;
    Ok(path)
}
