//! What the kubelet asks of a container runtime: a small trait with its own small types, modelled on CRI v1.
//!
//! [`cri`] speaks to containerd and its like; [`testing`] is the in-memory twin. Nothing here decides anything.

pub mod cri;
pub mod testing;
mod types;

pub use types::*;

use async_trait::async_trait;
use std::time::Duration;

/// Why the runtime did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such sandbox, container or image.
    #[error("rpc error: code = NotFound desc = {0}")]
    NotFound(String),
    /// The call or the command in the container took longer than allowed.
    #[error("rpc error: code = DeadlineExceeded desc = {0}")]
    Timeout(String),
    /// The runtime can't be reached; it may be restarting.
    #[error("container runtime is not reachable: {0}")]
    Unavailable(String),
    /// Anything else, in the runtime's own words.
    #[error("rpc error: code = {code} desc = {message}")]
    Failed {
        /// gRPC's name of the status code.
        code: String,
        /// The runtime's text.
        message: String,
    },
}

/// Result of a call to the runtime.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// A container runtime. Every call is idempotent where CRI says so: stopping or removing what is gone succeeds.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version, for the Node's nodeInfo.
    async fn version(&self) -> Result<Version>;
    /// Whether the runtime and its network can start pods.
    async fn status(&self) -> Result<RuntimeStatus>;

    /// Creates a pod's sandbox with its network and returns its ID.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String>;
    /// Kills what runs in the sandbox and releases its network.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes the sandbox and its containers.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    /// The sandboxes, of one pod or of all.
    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<Sandbox>>;
    /// IP addresses of a sandbox, the first one being the primary; none in the host's network.
    async fn sandbox_ips(&self, id: &str) -> Result<Vec<std::net::IpAddr>>;

    /// Creates a container and returns its ID.
    async fn create_container(
        &self,
        sandbox_id: &str,
        container: &ContainerConfig,
        sandbox: &SandboxConfig,
    ) -> Result<String>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Asks a container to stop and kills it after `grace`.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Removes a container that doesn't run.
    async fn remove_container(&self, id: &str) -> Result<()>;
    /// The containers, of one pod or of all.
    async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<Container>>;
    /// All that is known of one container.
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;

    /// Runs a command in a container and waits for it; a zero timeout waits for ever.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput>;
    /// Prepares a command with streams and returns the URL where they are served.
    async fn exec(&self, id: &str, command: &[String], streams: Streams) -> Result<String>;
    /// Prepares access to a running container's streams and returns the URL where they are served.
    async fn attach(&self, id: &str, streams: Streams) -> Result<String>;
    /// Prepares port forwarding into a sandbox and returns the URL where it is served.
    async fn port_forward(&self, sandbox_id: &str, ports: &[u16]) -> Result<String>;
    /// Makes the runtime open the container's log file anew, after a rotation.
    async fn reopen_log(&self, id: &str) -> Result<()>;

    /// Pulls an image and returns its reference.
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<&ImageAuth>,
        sandbox: &SandboxConfig,
    ) -> Result<String>;
    /// The image if it is there.
    async fn image_status(&self, image: &str) -> Result<Option<Image>>;
    /// All images.
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// Removes an image; what is gone is no error.
    async fn remove_image(&self, image: &str) -> Result<()>;

    /// What the containers use, of one pod or of all.
    async fn container_stats(&self, pod_uid: Option<&str>) -> Result<Vec<ContainerStats>>;
}
