//! CRI v1 over a unix socket: calls and time limits. How values look on the wire stands in `convert`.

mod convert;

use super::*;
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use std::collections::HashMap;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

/// Most calls answer in milliseconds; a runtime under load gets this long.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// A sandbox includes its network plugins.
const SANDBOX_LIMIT: Duration = Duration::from_secs(240);
/// An image is pulled within this time or tried again.
const PULL_LIMIT: Duration = Duration::from_secs(3600);
/// What exec returns is capped by the runtime at 16 MB per stream.
const MAX_MESSAGE: usize = 48 << 20;

/// A client of a CRI v1 runtime. It connects at the first call, and again whenever the runtime was restarted.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// A client of the runtime that listens at `socket`. Must be called inside a tokio runtime.
    pub fn new(socket: &Path) -> Cri {
        let socket = socket.to_path_buf();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The address is only the authority of the requests; the connector decides where they go.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Cri {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
        }
    }
}

impl From<Status> for RuntimeError {
    fn from(status: Status) -> RuntimeError {
        let message = status.message().to_string();
        match status.code() {
            tonic::Code::NotFound => RuntimeError::NotFound(message),
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => RuntimeError::Timeout(message),
            tonic::Code::Unavailable => RuntimeError::Unavailable(message),
            code => RuntimeError::Failed { code: format!("{code:?}"), message },
        }
    }
}

/// Waits for a call no longer than `limit`.
async fn within<T>(
    limit: Duration,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => {
            Err(RuntimeError::Timeout(format!("no answer from the container runtime within {limit:?}")))
        }
    }
}

/// What is gone needs no stopping and no removing.
fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn missing(what: &str) -> RuntimeError {
    RuntimeError::Failed { code: "Internal".into(), message: format!("the runtime's answer has no {what}") }
}

fn selector(pod_uid: Option<&str>) -> HashMap<String, String> {
    pod_uid.map(|uid| (label::POD_UID.to_string(), uid.to_string())).into_iter().collect()
}

#[async_trait]
impl Runtime for Cri {
    async fn version(&self) -> Result<Version> {
        let request = Request::new(cri::VersionRequest { version: "v1".into() });
        let answer = within(CALL_LIMIT, self.runtime.clone().version(request)).await?;
        Ok(Version { name: answer.runtime_name, version: answer.runtime_version })
    }

    async fn status(&self) -> Result<RuntimeStatus> {
        let request = cri::StatusRequest { verbose: false };
        let answer = within(CALL_LIMIT, self.runtime.clone().status(request)).await?;
        Ok(convert::runtime_status(answer.status.unwrap_or_default()))
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        let request = cri::RunPodSandboxRequest {
            config: Some(convert::sandbox_config(config)),
            runtime_handler: config.runtime_handler.clone(),
        };
        let answer = within(SANDBOX_LIMIT, self.runtime.clone().run_pod_sandbox(request)).await?;
        Ok(answer.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_string() };
        gone_is_fine(within(SANDBOX_LIMIT, self.runtime.clone().stop_pod_sandbox(request)).await.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_string() };
        gone_is_fine(within(SANDBOX_LIMIT, self.runtime.clone().remove_pod_sandbox(request)).await.map(drop))
    }

    async fn list_sandboxes(&self, pod_uid: Option<&str>) -> Result<Vec<Sandbox>> {
        let filter = cri::PodSandboxFilter { label_selector: selector(pod_uid), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let answer = within(CALL_LIMIT, self.runtime.clone().list_pod_sandbox(request)).await?;
        Ok(answer.items.into_iter().map(convert::sandbox).collect())
    }

    async fn sandbox_ips(&self, id: &str) -> Result<Vec<std::net::IpAddr>> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: false };
        let answer = within(CALL_LIMIT, self.runtime.clone().pod_sandbox_status(request)).await?;
        Ok(convert::ips(answer.status.and_then(|s| s.network)))
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        container: &ContainerConfig,
        sandbox: &SandboxConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_string(),
            config: Some(convert::container_config(container)),
            sandbox_config: Some(convert::sandbox_config(sandbox)),
        };
        Ok(within(CALL_LIMIT, self.runtime.clone().create_container(request)).await?.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: id.to_string() };
        within(CALL_LIMIT, self.runtime.clone().start_container(request)).await.map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_string(), timeout };
        gone_is_fine(within(grace + CALL_LIMIT, self.runtime.clone().stop_container(request)).await.map(drop))
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_string() };
        gone_is_fine(within(CALL_LIMIT, self.runtime.clone().remove_container(request)).await.map(drop))
    }

    async fn list_containers(&self, pod_uid: Option<&str>) -> Result<Vec<Container>> {
        let filter = cri::ContainerFilter { label_selector: selector(pod_uid), ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let answer = within(CALL_LIMIT, self.runtime.clone().list_containers(request)).await?;
        Ok(answer.containers.into_iter().map(convert::container).collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_string(), verbose: false };
        let answer = within(CALL_LIMIT, self.runtime.clone().container_status(request)).await?;
        answer.status.map(convert::container_status).ok_or_else(|| missing("container status"))
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_string(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let limit = if timeout.is_zero() { PULL_LIMIT } else { timeout + CALL_LIMIT };
        let answer = within(limit, self.runtime.clone().exec_sync(request)).await?;
        Ok(ExecOutput { stdout: answer.stdout, stderr: answer.stderr, exit_code: answer.exit_code })
    }

    async fn exec(&self, id: &str, command: &[String], streams: Streams) -> Result<String> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let (container_id, cmd) = (id.to_string(), command.to_vec());
        let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        Ok(within(CALL_LIMIT, self.runtime.clone().exec(request)).await?.url)
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<String> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request = cri::AttachRequest { container_id: id.to_string(), stdin, tty, stdout, stderr };
        Ok(within(CALL_LIMIT, self.runtime.clone().attach(request)).await?.url)
    }

    async fn port_forward(&self, sandbox_id: &str, ports: &[u16]) -> Result<String> {
        let port = ports.iter().map(|p| i32::from(*p)).collect();
        let request = cri::PortForwardRequest { pod_sandbox_id: sandbox_id.to_string(), port };
        Ok(within(CALL_LIMIT, self.runtime.clone().port_forward(request)).await?.url)
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = cri::ReopenContainerLogRequest { container_id: id.to_string() };
        within(CALL_LIMIT, self.runtime.clone().reopen_container_log(request)).await.map(drop)
    }

    async fn pull_image(
        &self,
        image: &str,
        auth: Option<&ImageAuth>,
        sandbox: &SandboxConfig,
    ) -> Result<String> {
        let request = cri::PullImageRequest {
            image: Some(convert::image_spec(image)),
            auth: auth.map(convert::auth),
            sandbox_config: Some(convert::sandbox_config(sandbox)),
        };
        Ok(within(PULL_LIMIT, self.images.clone().pull_image(request)).await?.image_ref)
    }

    async fn image_status(&self, image: &str) -> Result<Option<Image>> {
        let request = cri::ImageStatusRequest { image: Some(convert::image_spec(image)), verbose: false };
        let answer = within(CALL_LIMIT, self.images.clone().image_status(request)).await?;
        Ok(answer.image.map(convert::image))
    }

    async fn list_images(&self) -> Result<Vec<Image>> {
        let request = cri::ListImagesRequest { filter: None };
        let answer = within(CALL_LIMIT, self.images.clone().list_images(request)).await?;
        Ok(answer.images.into_iter().map(convert::image).collect())
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let request = cri::RemoveImageRequest { image: Some(convert::image_spec(image)) };
        gone_is_fine(within(CALL_LIMIT, self.images.clone().remove_image(request)).await.map(drop))
    }

    async fn container_stats(&self, pod_uid: Option<&str>) -> Result<Vec<ContainerStats>> {
        let filter = cri::ContainerStatsFilter { label_selector: selector(pod_uid), ..Default::default() };
        let request = cri::ListContainerStatsRequest { filter: Some(filter) };
        let answer = within(CALL_LIMIT, self.runtime.clone().list_container_stats(request)).await?;
        Ok(answer.stats.into_iter().map(convert::container_stats).collect())
    }
}
