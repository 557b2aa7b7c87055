//! One try of a probe: a command, an HTTP request, a TCP connection or a gRPC health check.

use super::{grpc, http};
use crate::runtime::{Runtime, RuntimeError};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Characters of a command's output that an event carries.
const MAX_OUTPUT: usize = 1024;

/// What one try said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is as it should be.
    Success,
    /// It is not; the text is for users.
    Failure(String),
    /// Nobody knows: the runtime could not be asked. It counts neither way.
    Unknown(String),
}

/// What a probe does.
#[derive(Clone, Debug)]
pub(super) enum Action {
    Exec(Vec<String>),
    Http(http::Get),
    Tcp(String, u16),
    Grpc(String, u16, String),
    /// The probe can't be run as it stands.
    Wrong(String),
}

impl Action {
    /// Pure: from a probe's spec. Without a host of its own it goes to the pod's address.
    pub(super) fn new(container: &Container, probe: &Probe, pod_ip: IpAddr) -> Action {
        let host = |own: &Option<String>| own.clone().filter(|h| !h.is_empty()).unwrap_or(pod_ip.to_string());
        if let Some(exec) = &probe.exec {
            return Action::Exec(exec.command.clone().unwrap_or_default());
        }
        if let Some(get) = &probe.http_get {
            return http::Get::new(container, get, pod_ip).map_or_else(Action::Wrong, Action::Http);
        }
        if let Some(tcp) = &probe.tcp_socket {
            return port(container, &tcp.port)
                .map_or_else(Action::Wrong, |port| Action::Tcp(host(&tcp.host), port));
        }
        if let Some(grpc) = &probe.grpc {
            let number = port(container, &IntOrString::Int(grpc.port));
            let service = grpc.service.clone().unwrap_or_default();
            return number.map_or_else(Action::Wrong, |port| Action::Grpc(pod_ip.to_string(), port, service));
        }
        Action::Wrong("the probe has no handler that this kubelet supports".into())
    }

    /// One try, no longer than `timeout`.
    pub(super) async fn run(&self, runtime: &Arc<dyn Runtime>, id: &str, timeout: Duration) -> Outcome {
        match self {
            Action::Exec(command) => exec(runtime, id, command, timeout).await,
            Action::Http(get) => http(get, timeout).await,
            Action::Tcp(host, port) => tcp(host, *port, timeout).await,
            Action::Grpc(host, port, service) => grpc::check(host, *port, service, timeout).await,
            Action::Wrong(text) => Outcome::Failure(text.clone()),
        }
    }
}

/// A port by number or by its name in the container.
pub(crate) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = || ports.find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port);
            name.parse().ok().or_else(named)
        }
    };
    let valid = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    valid.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => {
            format!("couldn't find port: \"{name}\" in container {}", container.name)
        }
    })
}

async fn exec(runtime: &Arc<dyn Runtime>, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match runtime.exec_sync(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(output) => {
            let mut bytes = output.stdout;
            bytes.extend(output.stderr);
            Outcome::Failure(String::from_utf8_lossy(&bytes).chars().take(MAX_OUTPUT).collect())
        }
        Err(RuntimeError::Timeout(_)) => {
            let command = command.join(" ");
            Outcome::Failure(format!(
                "command timed out: \"{command}\" timed out after {}s",
                timeout.as_secs()
            ))
        }
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

async fn http(get: &http::Get, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, get.send()).await {
        Ok(Ok(200..=399)) => Outcome::Success,
        Ok(Ok(code)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
        Ok(Err(error)) => Outcome::Failure(format!("Get \"{get}\": {error}")),
        Err(_) => Outcome::Failure(format!(
            "Get \"{get}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(dial_error(host, port, &error)),
        Err(_) => Outcome::Failure(format!("dial tcp {}: i/o timeout", authority(host, port))),
    }
}

/// A failed connection in the words that users know.
pub(super) fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let what = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        io::ErrorKind::HostUnreachable => "no route to host".to_string(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_string(),
        _ => error.to_string(),
    };
    format!("dial tcp {}: connect: {what}", authority(host, port))
}

/// Host and port, an IPv6 address in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports() {
        let container: Container = serde_json::from_value(
            json!({ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }] }),
        )
        .unwrap();
        let cases = [
            (json!(80), Ok(80)),
            (json!("81"), Ok(81)),
            (json!("web"), Ok(8080)),
            (json!("none"), Err("couldn't find port: \"none\" in container c")),
            (json!(0), Err("invalid port number: 0")),
            (json!(70000), Err("invalid port number: 70000")),
        ];
        for (text, expected) in cases {
            let wanted: IntOrString = serde_json::from_value(text).unwrap();
            assert_eq!(port(&container, &wanted), expected.map_err(str::to_string));
        }
    }

    #[tokio::test]
    async fn tcp_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(5)).await, Outcome::Success);
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(5)).await, Outcome::Failure(refused));
    }
}
