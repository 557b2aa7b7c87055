//! How a container is asked, for probes and for hooks: a command in it, an HTTP request, a connection.

use crate::context::Context;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Pod, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// As much of an answer as is read.
const ANSWER_LIMIT: u64 = 4096;

/// Who is asked.
pub(crate) struct Subject<'a> {
    pub(crate) context: &'a Context,
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    /// The container's ID.
    pub(crate) id: &'a str,
    /// The pod's address.
    pub(crate) pod_ip: Option<IpAddr>,
}

impl Subject<'_> {
    /// Exit code 0 is success; the text of a failure is what the command said.
    pub(crate) async fn exec(&self, exec: &ExecAction, limit: Duration) -> Result<(), String> {
        let command = exec.command.clone().unwrap_or_default();
        let output =
            self.context.runtime.exec_sync(self.id, &command, limit).await.map_err(|e| e.to_string())?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(if said.is_empty() { format!("command exited with {}", output.exit_code) } else { said })
    }

    /// A status from 200 to 399 is success.
    pub(crate) async fn http_get(&self, get: &HTTPGetAction) -> Result<(), String> {
        if get.scheme.as_deref() == Some("HTTPS") {
            return Err("requests over HTTPS are not supported by this kubelet".to_owned());
        }
        let host = self.host(get.host.as_deref())?;
        let port = self.port(&get.port)?;
        let path = match get.path.as_deref() {
            None | Some("") => "/".to_owned(),
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(path) => format!("/{path}"),
        };
        let given = get.http_headers.iter().flatten();
        let headers: String = given.map(|h| format!("{}: {}\r\n", h.name, h.value)).collect();
        let named = headers.to_lowercase().starts_with("host:") || headers.to_lowercase().contains("\nhost:");
        let own = if named { String::new() } else { format!("Host: {host}:{port}\r\n") };
        let request = format!(
            "GET {path} HTTP/1.0\r\n{own}User-Agent: kube-probe/1.37\r\nConnection: close\r\n{headers}\r\n"
        );
        let answer = exchange(&host, port, &request).await;
        let answer = answer.map_err(|error| format!("Get \"http://{host}:{port}{path}\": {error}"))?;
        match status(&answer) {
            Some(200..=399) => Ok(()),
            Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
            None => Err(format!("Get \"http://{host}:{port}{path}\": the answer is no HTTP")),
        }
    }

    /// A connection that is accepted is success.
    pub(crate) async fn tcp(&self, socket: &TCPSocketAction) -> Result<(), String> {
        let (host, port) = (self.host(socket.host.as_deref())?, self.port(&socket.port)?);
        let connected = TcpStream::connect((host.as_str(), port)).await;
        connected.map(drop).map_err(|error| format!("dial tcp {host}:{port}: {error}"))
    }

    fn host(&self, given: Option<&str>) -> Result<String, String> {
        if let Some(host) = given.filter(|h| !h.is_empty()) {
            return Ok(host.to_owned());
        }
        let own = crate::pod::spec::host_network(self.pod).then_some(self.context.config.node_ip);
        own.or(self.pod_ip).map(|ip| ip.to_string()).ok_or_else(|| "the pod has no address".to_owned())
    }

    /// A port by number, or by its name in the container.
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let named = |name: &str| {
            let mut ports = self.container.ports.iter().flatten();
            ports.find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
        };
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => name.parse().ok().or_else(|| named(name)),
        };
        number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| format!("there is no port {port:?}"))
    }
}

async fn exchange(host: &str, port: u16, request: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(answer.split(|b| *b == b'\n').next()?).into_owned();
    line.strip_prefix("HTTP/")?.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_in_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        assert_eq!(status(b"SSH-2.0-x 200 y\r\n"), None);
        assert_eq!(status(b""), None);
    }
}
