//! The values that go to and come from a [`Runtime`](super::Runtime). Times are nanoseconds since the epoch, 0 = never.

use std::collections::BTreeMap;

/// Label and annotation keys by which the kubelet finds its pods again, the same as upstream's.
pub mod label {
    /// Label: the pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Label: the pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// Label: the pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Label: the container's name.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: hash of the container's spec.
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often the container was restarted before.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: path of the termination message inside the container.
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: `File` or `FallbackToLogsOnError`.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: seconds that the pod's containers get to stop.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Name and version of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For example `containerd`.
    pub name: String,
    /// For example `1.6.20`.
    pub version: String,
}

/// One half of the runtime's readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it is ready.
    pub ready: bool,
    /// CamelCase reason if not.
    pub reason: String,
    /// Text for people.
    pub message: String,
}

/// Whether pods can be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// CRI's RuntimeReady.
    pub runtime: Readiness,
    /// CRI's NetworkReady.
    pub network: Readiness,
}

/// Whose namespace a sandbox or container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NamespaceMode {
    /// Shared by the pod.
    #[default]
    Pod,
    /// Of each container alone.
    Container,
    /// The host's.
    Node,
    /// That of another container, by its ID.
    Target(String),
}

/// The namespaces of a sandbox or container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network: Pod or Node.
    pub network: NamespaceMode,
    /// Processes.
    pub pid: NamespaceMode,
    /// System V IPC and POSIX message queues: Pod or Node.
    pub ipc: NamespaceMode,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// What the runtime's own profile says.
    RuntimeDefault,
    /// A profile on the node, by its absolute path.
    Localhost(String),
}

/// A pod's resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A port of the host that leads into the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host.
    pub host_port: u16,
    /// Address on the host; empty for all.
    pub host_ip: String,
}

/// Who a sandbox or container runs as, and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// User ID; None means the image's.
    pub run_as_user: Option<i64>,
    /// User name, where the image has one and no user ID is set.
    pub run_as_username: String,
    /// Primary group ID; None means the image's.
    pub run_as_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// All capabilities, devices and system calls.
    pub privileged: bool,
    /// No writes to the image's file system.
    pub read_only_root: bool,
    /// No more privileges by set-user-ID programs.
    pub no_new_privileges: bool,
    /// Capabilities to add, without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop, without `CAP_`.
    pub drop_capabilities: Vec<String>,
    /// System calls.
    pub seccomp: Seccomp,
    /// Leave /proc unmasked (procMount: Unmasked).
    pub unmasked_proc: bool,
}

/// What a sandbox is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Host name; empty in the host's network.
    pub hostname: String,
    /// Directory of the pod's logs.
    pub log_directory: String,
    /// resolv.conf; None takes the node's.
    pub dns: Option<Dns>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup; empty leaves it to the runtime.
    pub cgroup_parent: String,
    /// Kernel settings of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Security of the sandbox itself.
    pub security: Security,
    /// Which of the runtime's handlers runs it; empty is the default one.
    pub runtime_handler: String,
}

/// Mount propagation between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// Later mounts on the host appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A file or directory of the host inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path in the container.
    pub container_path: String,
    /// Absolute path on the host.
    pub host_path: String,
    /// No writes.
    pub read_only: bool,
    /// Propagation of further mounts.
    pub propagation: Propagation,
}

/// Limits and weights; 0 = unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CFS period, microseconds.
    pub cpu_period: i64,
    /// CFS quota, microseconds per period.
    pub cpu_quota: i64,
    /// Relative weight, 1024 = one CPU.
    pub cpu_shares: i64,
    /// Memory limit, bytes.
    pub memory_limit: i64,
    /// oom_score_adj, −1000 to 1000.
    pub oom_score_adj: i64,
}

/// What a container is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// The container's name in the pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// Image reference or ID.
    pub image: String,
    /// The image as the user wrote it.
    pub user_image: String,
    /// Replaces the image's entry point if not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments if not empty.
    pub args: Vec<String>,
    /// Working directory; empty means the image's.
    pub working_dir: String,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Mounts, in order.
    pub mounts: Vec<Mount>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the sandbox's log directory.
    pub log_path: String,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attached client.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Limits and weights.
    pub resources: Resources,
    /// User and privileges.
    pub security: Security,
}

/// A sandbox as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// ID given by the runtime.
    pub id: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Whether containers can be started in it.
    pub ready: bool,
    /// Creation.
    pub created_at: i64,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContainerState {
    /// Created, not yet started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ended.
    Exited,
    /// The runtime doesn't know.
    #[default]
    Unknown,
}

/// A container as listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// ID given by the runtime.
    pub id: String,
    /// ID of its sandbox.
    pub sandbox_id: String,
    /// Name in the pod.
    pub name: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// Where it is in its life.
    pub state: ContainerState,
}

/// All that is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatus {
    /// ID given by the runtime.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Creation.
    pub created_at: i64,
    /// Start.
    pub started_at: i64,
    /// End.
    pub finished_at: i64,
    /// Exit code, 128 + signal if killed.
    pub exit_code: i32,
    /// `Completed`, `Error` or `OOMKilled`; empty while it runs.
    pub reason: String,
    /// The runtime's text, for example why it didn't start.
    pub message: String,
    /// Image as it was asked for.
    pub image: String,
    /// Image by digest, or by ID.
    pub image_ref: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Absolute path of its log.
    pub log_path: String,
}

/// What a command in a container left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal; then standard error must be off.
    pub tty: bool,
}

/// Credentials for a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ImageAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `user:password`.
    pub auth: String,
    /// Registry.
    pub server_address: String,
    /// OAuth identity token.
    pub identity_token: String,
}

/// An image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// ID, `sha256:…`.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size: u64,
    /// User ID that the image runs as.
    pub uid: Option<i64>,
    /// User name that the image runs as; empty if numeric or unset.
    pub username: String,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// The container's ID.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// The pod's name.
    pub pod_name: String,
    /// The pod's namespace.
    pub pod_namespace: String,
    /// The pod's UID.
    pub pod_uid: String,
    /// When it was measured.
    pub timestamp: i64,
    /// CPU time since its start, nanoseconds.
    pub cpu_nanoseconds: u64,
    /// Memory without reclaimable cache, bytes.
    pub memory_working_set: u64,
    /// All memory, bytes.
    pub memory_usage: u64,
    /// Bytes in its writable layer.
    pub filesystem_used: u64,
}
