//! What the runtime is told about a pod's sandbox and its containers. Pure.

use super::{admit, dns, resources, spec};
use crate::Config;
use crate::runtime::*;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Longest host name that Linux takes.
const MAX_HOSTNAME: usize = 63;

/// The directory of a pod's logs.
pub(crate) fn log_directory(config: &Config, pod: &Pod) -> std::path::PathBuf {
    let namespace = pod.namespace().unwrap_or_default();
    config.log_dir.join(format!("{namespace}_{}_{}", pod.name_any(), pod.uid().unwrap_or_default()))
}

/// The pod's host name: its own, or its name, cut to what Linux takes.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = spec::of(pod).hostname.clone().filter(|h| !h.is_empty());
    let name = own.unwrap_or_else(|| pod.name_any());
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_string()
}

fn labels(pod: &Pod) -> BTreeMap<String, String> {
    let own = [
        (label::POD_NAME, pod.name_any()),
        (label::POD_NAMESPACE, pod.namespace().unwrap_or_default()),
        (label::POD_UID, pod.uid().unwrap_or_default()),
    ];
    own.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

/// The sandbox of a pod; `node` is the node's own resolver.
pub(crate) fn sandbox(config: &Config, pod: &Pod, attempt: u32, node: &Dns) -> SandboxConfig {
    let mut all_labels = pod.labels().clone();
    all_labels.extend(labels(pod));
    let mut annotations = pod.annotations().clone();
    annotations.insert(label::GRACE.into(), spec::grace(pod).as_secs().to_string());
    SandboxConfig {
        name: pod.name_any(),
        namespace: pod.namespace().unwrap_or_default(),
        uid: pod.uid().unwrap_or_default(),
        attempt,
        hostname: if spec::host_network(pod) { String::new() } else { hostname(pod) },
        log_directory: log_directory(config, pod).to_string_lossy().into_owned(),
        dns: Some(dns::settings(config, pod, node)),
        port_mappings: port_mappings(pod),
        labels: all_labels,
        annotations,
        cgroup_parent: cgroup_parent(config, pod),
        sysctls: sysctls(pod),
        security: sandbox_security(pod),
        // The caller's to look up: it is the RuntimeClass' and not the pod's.
        runtime_handler: String::new(),
    }
}

/// `<cgroup_root>/kubepods/pod<uid>`, or empty where placement is left to the runtime.
pub(crate) fn cgroup_parent(config: &Config, pod: &Pod) -> String {
    let Some(root) = &config.cgroup_root else { return String::new() };
    format!("{}/kubepods/pod{}", root.trim_end_matches('/'), pod.uid().unwrap_or_default())
}

fn sysctls(pod: &Pod) -> BTreeMap<String, String> {
    let context = spec::of(pod).security_context.clone().unwrap_or_default();
    context.sysctls.into_iter().flatten().map(|s| (admit::dotted(&s.name), s.value)).collect()
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    if spec::host_network(pod) {
        return vec![];
    }
    let containers = spec::init_containers(pod).map(|(_, c)| c).chain(spec::main_containers(pod));
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    let port = |p: i32| u16::try_from(p).ok().filter(|p| *p != 0);
    ports
        .filter_map(|p| {
            Some(PortMapping {
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                container_port: port(p.container_port)?,
                host_port: port(p.host_port?)?,
                host_ip: p.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

fn namespaces(pod: &Pod) -> Namespaces {
    let spec = spec::of(pod);
    let mode = |host: Option<bool>| if host == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    Namespaces { network: mode(spec.host_network), pid, ipc: mode(spec.host_ipc) }
}

fn sandbox_security(pod: &Pod) -> Security {
    let context = spec::of(pod).security_context.clone().unwrap_or_default();
    let containers = spec::init_containers(pod).map(|(_, c)| c).chain(spec::main_containers(pod));
    let privileged = |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false);
    Security {
        namespaces: namespaces(pod),
        run_as_user: context.run_as_user,
        run_as_group: context.run_as_group.filter(|_| context.run_as_user.is_some()),
        supplemental_groups: groups(&context),
        privileged: containers.into_iter().any(privileged),
        // The pause process needs no more system calls than the runtime's profile allows.
        seccomp: Seccomp::RuntimeDefault,
        ..Security::default()
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    groups.extend(context.supplemental_groups.iter().flatten().filter(|g| Some(**g) != context.fs_group));
    groups
}

fn seccomp(config: &Config, profile: Option<&SeccompProfile>) -> Seccomp {
    match profile {
        Some(p) if p.type_ == "RuntimeDefault" => Seccomp::RuntimeDefault,
        Some(p) if p.type_ == "Localhost" => {
            let file = p.localhost_profile.clone().unwrap_or_default();
            Seccomp::Localhost(config.data_dir.join("seccomp").join(file).to_string_lossy().into_owned())
        }
        _ => Seccomp::Unconfined,
    }
}

/// Security of a container: its own settings before the pod's, and the image's user where neither names one.
fn security(
    config: &Config,
    pod: &Pod,
    container: &Container,
    pid_target: Option<String>,
    image: &Image,
) -> Security {
    let of_pod = spec::of(pod).security_context.clone().unwrap_or_default();
    let own: SecurityContext = container.security_context.clone().unwrap_or_default();
    let mut namespaces = namespaces(pod);
    if let Some(id) = pid_target.filter(|_| namespaces.pid == NamespaceMode::Container) {
        namespaces.pid = NamespaceMode::Target(id);
    }
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.unwrap_or_default();
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    let user = own.run_as_user.or(of_pod.run_as_user);
    Security {
        namespaces,
        run_as_user: user.or(image.uid),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups: groups(&of_pod),
        privileged,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(config, profile) },
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    }
}

/// What is known of a container only at its start.
pub(crate) struct Start {
    /// How often it was restarted before.
    pub(crate) attempt: u32,
    /// The image.
    pub(crate) image: Image,
    /// Its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Its mounts.
    pub(crate) mounts: Vec<Mount>,
    /// The container whose processes an ephemeral container sees.
    pub(crate) pid_target: Option<String>,
    /// The node's memory in bytes.
    pub(crate) node_memory: u64,
}

/// A container of the pod.
pub(crate) fn container(config: &Config, pod: &Pod, from: &Container, start: Start) -> ContainerConfig {
    let values: BTreeMap<String, String> = start.env.iter().cloned().collect();
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| crate::env::expand(text, &values)).collect()
    };
    let mut all_labels = labels(pod);
    all_labels.insert(label::CONTAINER_NAME.into(), from.name.clone());
    let path = from.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into());
    let policy = from.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let annotations = [
        (label::CONTAINER_HASH, spec::hash(from)),
        (label::RESTART_COUNT, start.attempt.to_string()),
        (label::TERMINATION_PATH, path),
        (label::TERMINATION_POLICY, policy),
        (label::GRACE, spec::grace(pod).as_secs().to_string()),
    ];
    let security = security(config, pod, from, start.pid_target, &start.image);
    ContainerConfig {
        name: from.name.clone(),
        attempt: start.attempt,
        image: start.image.id,
        user_image: from.image.clone().unwrap_or_default(),
        command: expand(&from.command),
        args: expand(&from.args),
        working_dir: from.working_dir.clone().unwrap_or_default(),
        env: start.env,
        mounts: start.mounts,
        labels: all_labels,
        annotations: annotations.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        log_path: format!("{}/{}.log", from.name, start.attempt),
        stdin: from.stdin.unwrap_or(false),
        stdin_once: from.stdin_once.unwrap_or(false),
        tty: from.tty.unwrap_or(false),
        resources: resources::of(pod, from, start.node_memory),
        security,
    }
}
