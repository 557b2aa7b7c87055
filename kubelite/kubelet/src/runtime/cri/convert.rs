//! CRI's messages from and to the kubelet's own types, nothing else.

use super::super::*;
use k8s_cri::v1 as cri;
use std::collections::BTreeMap;
use std::net::IpAddr;

fn int64(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

fn namespaces(from: &Namespaces) -> cri::NamespaceOption {
    let mode = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => cri::NamespaceMode::Pod as i32,
        NamespaceMode::Container => cri::NamespaceMode::Container as i32,
        NamespaceMode::Node => cri::NamespaceMode::Node as i32,
        NamespaceMode::Target(_) => cri::NamespaceMode::Target as i32,
    };
    let target_id = match &from.pid {
        NamespaceMode::Target(id) => id.clone(),
        _ => String::new(),
    };
    cri::NamespaceOption {
        network: mode(&from.network),
        pid: mode(&from.pid),
        ipc: mode(&from.ipc),
        target_id,
        userns_options: None,
    }
}

fn seccomp(from: &Seccomp) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (profile, reference) = match from {
        Seccomp::Unconfined => (ProfileType::Unconfined, String::new()),
        Seccomp::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Seccomp::Localhost(path) => (ProfileType::Localhost, path.clone()),
    };
    cri::SecurityProfile { profile_type: profile as i32, localhost_ref: reference }
}

/// Paths of /proc and /sys that containers don't see, as Docker chose them.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
/// Paths of /proc that containers may only read.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn sandbox_security(from: &Security) -> cri::LinuxSandboxSecurityContext {
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(&from.namespaces)),
        run_as_user: from.run_as_user.map(int64),
        run_as_group: from.run_as_group.map(int64),
        readonly_rootfs: from.read_only_root,
        supplemental_groups: from.supplemental_groups.clone(),
        privileged: from.privileged,
        seccomp: Some(seccomp(&from.seccomp)),
        ..Default::default()
    }
}

fn container_security(from: &Security) -> cri::LinuxContainerSecurityContext {
    let unmasked = from.unmasked_proc || from.privileged;
    let paths = |all: &[&str]| if unmasked { vec![] } else { all.iter().map(|p| p.to_string()).collect() };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: from.add_capabilities.clone(),
            drop_capabilities: from.drop_capabilities.clone(),
            ..Default::default()
        }),
        privileged: from.privileged,
        namespace_options: Some(namespaces(&from.namespaces)),
        run_as_user: from.run_as_user.map(int64),
        run_as_group: from.run_as_group.map(int64),
        run_as_username: from.run_as_username.clone(),
        readonly_rootfs: from.read_only_root,
        supplemental_groups: from.supplemental_groups.clone(),
        no_new_privs: from.no_new_privileges,
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(&from.seccomp)),
        ..Default::default()
    }
}

fn port_mapping(from: &PortMapping) -> cri::PortMapping {
    let protocol = match from.protocol.as_str() {
        "UDP" => cri::Protocol::Udp,
        "SCTP" => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    };
    cri::PortMapping {
        protocol: protocol as i32,
        container_port: i32::from(from.container_port),
        host_port: i32::from(from.host_port),
        host_ip: from.host_ip.clone(),
    }
}

pub(super) fn sandbox_config(from: &SandboxConfig) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: from.name.clone(),
            uid: from.uid.clone(),
            namespace: from.namespace.clone(),
            attempt: from.attempt,
        }),
        hostname: from.hostname.clone(),
        log_directory: from.log_directory.clone(),
        dns_config: from.dns.as_ref().map(|dns| cri::DnsConfig {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        port_mappings: from.port_mappings.iter().map(port_mapping).collect(),
        labels: from.labels.clone().into_iter().collect(),
        annotations: from.annotations.clone().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: from.cgroup_parent.clone(),
            security_context: Some(sandbox_security(&from.security)),
            sysctls: from.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        windows: None,
    }
}

fn mount(from: &Mount) -> cri::Mount {
    let propagation = match from.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: from.container_path.clone(),
        host_path: from.host_path.clone(),
        readonly: from.read_only,
        propagation: propagation as i32,
        ..Default::default()
    }
}

fn mount_back(from: cri::Mount) -> Mount {
    let propagation = match from.propagation() {
        cri::MountPropagation::PropagationPrivate => Propagation::Private,
        cri::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        cri::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    Mount {
        container_path: from.container_path,
        host_path: from.host_path,
        read_only: from.readonly,
        propagation,
    }
}

pub(super) fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.to_string(), ..Default::default() }
}

fn resources(from: &Resources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        memory_limit_in_bytes: from.memory_limit,
        oom_score_adj: from.oom_score_adj,
        ..Default::default()
    }
}

pub(super) fn container_config(from: &ContainerConfig) -> cri::ContainerConfig {
    let envs = from.env.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() });
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: from.name.clone(), attempt: from.attempt }),
        image: Some(cri::ImageSpec {
            user_specified_image: from.user_image.clone(),
            ..image_spec(&from.image)
        }),
        command: from.command.clone(),
        args: from.args.clone(),
        working_dir: from.working_dir.clone(),
        envs: envs.collect(),
        mounts: from.mounts.iter().map(mount).collect(),
        labels: from.labels.clone().into_iter().collect(),
        annotations: from.annotations.clone().into_iter().collect(),
        log_path: from.log_path.clone(),
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(&from.resources)),
            security_context: Some(container_security(&from.security)),
        }),
        ..Default::default()
    }
}

pub(super) fn runtime_status(from: cri::RuntimeStatus) -> RuntimeStatus {
    let mut status = RuntimeStatus::default();
    for condition in from.conditions {
        let readiness =
            Readiness { ready: condition.status, reason: condition.reason, message: condition.message };
        match condition.r#type.as_str() {
            "RuntimeReady" => status.runtime = readiness,
            "NetworkReady" => status.network = readiness,
            _ => {}
        }
    }
    status
}

pub(super) fn sandbox(from: cri::PodSandbox) -> Sandbox {
    let ready = from.state() == cri::PodSandboxState::SandboxReady;
    let metadata = from.metadata.unwrap_or_default();
    Sandbox {
        id: from.id,
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        attempt: metadata.attempt,
        ready,
        created_at: from.created_at,
    }
}

/// The primary address and the others; what isn't an address is left out.
pub(super) fn ips(network: Option<cri::PodSandboxNetworkStatus>) -> Vec<IpAddr> {
    let Some(network) = network else { return vec![] };
    let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    all.filter_map(|ip| ip.parse().ok()).collect()
}

fn state(from: cri::ContainerState) -> ContainerState {
    match from {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => ContainerState::Running,
        cri::ContainerState::ContainerExited => ContainerState::Exited,
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    }
}

pub(super) fn container(from: cri::Container) -> Container {
    let state = state(from.state());
    let metadata = from.metadata.unwrap_or_default();
    Container {
        id: from.id,
        sandbox_id: from.pod_sandbox_id,
        name: metadata.name,
        pod_uid: from.labels.get(label::POD_UID).cloned().unwrap_or_default(),
        attempt: metadata.attempt,
        state,
    }
}

fn ordered(map: std::collections::HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

pub(super) fn container_status(from: cri::ContainerStatus) -> ContainerStatus {
    let state = state(from.state());
    let metadata = from.metadata.unwrap_or_default();
    ContainerStatus {
        id: from.id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        created_at: from.created_at,
        started_at: from.started_at,
        finished_at: from.finished_at,
        exit_code: from.exit_code,
        reason: from.reason,
        message: from.message,
        image: from.image.map(|i| i.image).unwrap_or_default(),
        image_ref: from.image_ref,
        labels: ordered(from.labels),
        annotations: ordered(from.annotations),
        mounts: from.mounts.into_iter().map(mount_back).collect(),
        log_path: from.log_path,
    }
}

pub(super) fn auth(from: &ImageAuth) -> cri::AuthConfig {
    cri::AuthConfig {
        username: from.username.clone(),
        password: from.password.clone(),
        auth: from.auth.clone(),
        server_address: from.server_address.clone(),
        identity_token: from.identity_token.clone(),
        registry_token: String::new(),
    }
}

pub(super) fn image(from: cri::Image) -> Image {
    Image {
        id: from.id,
        tags: from.repo_tags,
        digests: from.repo_digests,
        size: from.size,
        uid: from.uid.map(|uid| uid.value),
        username: from.username,
    }
}

pub(super) fn container_stats(from: cri::ContainerStats) -> ContainerStats {
    let value = |v: Option<cri::UInt64Value>| v.map_or(0, |v| v.value);
    let attributes = from.attributes.unwrap_or_default();
    let of = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    let cpu = from.cpu.unwrap_or_default();
    let memory = from.memory.unwrap_or_default();
    ContainerStats {
        name: attributes.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default(),
        pod_name: of(label::POD_NAME),
        pod_namespace: of(label::POD_NAMESPACE),
        pod_uid: of(label::POD_UID),
        id: attributes.id,
        timestamp: cpu.timestamp,
        cpu_nanoseconds: value(cpu.usage_core_nano_seconds),
        memory_working_set: value(memory.working_set_bytes),
        memory_usage: value(memory.usage_bytes),
        filesystem_used: value(from.writable_layer.and_then(|l| l.used_bytes)),
    }
}
