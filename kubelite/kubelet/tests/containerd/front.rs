//! A front door like the API server's, for kubectl: it names the one kind that kubectl asks for, and passes logs and
//! streams on to a kubelet, in the kubelet's own words.

use crate::api::Api;
use crate::tls::{API_SERVER, Authority};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

pub(crate) struct Front {
    pub(crate) address: SocketAddr,
}

impl Front {
    pub(crate) async fn start(api: &Api, authority: &Authority, kubelet: SocketAddr) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (api, authority) = (api.clone(), authority.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, api.clone(), authority.clone(), kubelet));
            }
        });
        Front { address }
    }

    /// kubectl, talking to this front; killed when dropped.
    pub(crate) fn kubectl(&self, home: &Path, arguments: &[&str]) -> Child {
        self.kubectl_with(home, arguments, ("LANG", "C"))
    }

    /// The same with a variable set.
    pub(crate) fn kubectl_with(&self, home: &Path, arguments: &[&str], (name, value): (&str, &str)) -> Child {
        Command::new("kubectl")
            .env_clear()
            .env(name, value)
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .arg(format!("--server=http://{}", self.address))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl is missing")
    }
}

/// One request a connection, so that a tunnel is the rest of it.
async fn serve(mut client: TcpStream, api: Api, authority: Authority, kubelet: SocketAddr) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut words = line.split(' ');
    let (method, uri) = (words.next().unwrap(), words.next().unwrap());
    if let Some(uri) = at_kubelet(uri) {
        let mut stream = authority.connect(kubelet, Some((API_SERVER, ""))).await;
        stream.write_all(format!("{method} {uri} HTTP/1.1\r\n{headers}").as_bytes()).await.unwrap();
        // kubectl may end a connection as it likes.
        let _ = copy_bidirectional(&mut client, &mut stream).await;
        return;
    }
    let object = match uri.split('?').next().unwrap() {
        "/api" => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/apis" => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })),
        "/api/v1" => Some(json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [
            { "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get"] }] })),
        path => api.get(path),
    };
    let (code, text) = object.map_or(("404 Not Found", String::new()), |o| ("200 OK", o.to_string()));
    let answer = format!(
        "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    let _ = client.write_all(answer.as_bytes()).await;
}

/// A pod's subresource as the kubelet calls it.
fn at_kubelet(uri: &str) -> Option<String> {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let rest = path.strip_prefix("/api/v1/namespaces/")?;
    let [namespace, "pods", pod, subresource] = rest.split('/').collect::<Vec<_>>()[..] else { return None };
    let pairs: Vec<(&str, &str)> = query.split('&').filter_map(|p| p.split_once('=')).collect();
    let container = pairs.iter().find(|(k, _)| *k == "container").map_or("c", |(_, v)| v);
    let renamed = pairs.iter().map(|(k, v)| match (*k, *v) {
        ("stdin", "true") => "input=1".to_string(),
        ("stdout", "true") => "output=1".to_string(),
        ("stderr", "true") => "error=1".to_string(),
        (k, v) => format!("{k}={v}"),
    });
    let query = renamed.collect::<Vec<_>>().join("&");
    match subresource {
        "exec" | "attach" => Some(format!("/{subresource}/{namespace}/{pod}/{container}?{query}")),
        "log" => Some(format!("/containerLogs/{namespace}/{pod}/{container}?{query}")),
        "portforward" => Some(format!("/portForward/{namespace}/{pod}?{query}")),
        _ => None,
    }
}
