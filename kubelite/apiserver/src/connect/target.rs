//! Where a connection goes: from request and cached objects to address and path. Pure.

use std::net::{IpAddr, SocketAddr};

use kubelite_api::status::ApiError;
use serde_json::Value;

use crate::auth::Objects;
use crate::auth::rbac::array;
use crate::request::RequestInfo;

/// The kubelet's port where a node doesn't say another.
const KUBELET_PORT: u16 = 10250;
/// Paths of a kubelet that act on pods: they have subresources of their own and no way through `nodes/proxy`.
const POD_PATHS: &[&str] = &["exec", "attach", "portForward", "run", "cri", "containerLogs"];

/// Whether a connection may, must or must not change its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// exec, attach, portforward.
    Required,
    /// Proxies of pods and services.
    Allowed,
    /// Logs; the proxy of a node.
    Refused,
}

/// Whom to connect to, and what to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// The name that the server's certificate must have; none: plain HTTP.
    pub tls_name: Option<String>,
    /// Path and query as the target knows them.
    pub path: String,
    /// Whether it is an upgrade.
    pub upgrade: Upgrade,
    /// Whether errors are texts of a kubelet that become a Status (logs).
    pub plain_errors: bool,
}

/// A target, or the word that there is nothing to ask yet.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination {
    /// There.
    At(Target),
    /// The pod has no node: its log is empty.
    Nowhere,
}

/// Finds the destination; `query` is the raw query of the request.
pub fn find(objects: &dyn Objects, request: &RequestInfo, query: &str) -> Result<Destination, ApiError> {
    let target = match (request.resource.as_str(), request.subresource.as_str()) {
        ("nodes", _) => node_proxy(objects, request, query)?,
        ("pods", "proxy") => pod_proxy(objects, request, query)?,
        ("services", _) => service_proxy(objects, request, query)?,
        _ => return pod_stream(objects, request, query),
    };
    Ok(Destination::At(target))
}

fn pod_stream(objects: &dyn Objects, request: &RequestInfo, query: &str) -> Result<Destination, ApiError> {
    let pod = get(objects, "pods", &request.namespace, &request.name)?;
    let sub = request.subresource.as_str();
    let place = format!("{}/{}", request.namespace, request.name);
    let path = if sub == "portforward" {
        with_query(format!("/portForward/{place}"), &port_query(query))
    } else {
        let asked = pairs(query).find(|(k, _)| *k == "container").map_or("", |(_, v)| v);
        let container = container(&pod, asked)?;
        match sub {
            "log" => with_query(format!("/containerLogs/{place}/{container}"), &log_query(query)),
            _ => with_query(format!("/{sub}/{place}/{container}"), &stream_query(query)?),
        }
    };
    let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) else {
        return match sub {
            "log" => Ok(Destination::Nowhere),
            _ => Err(ApiError::bad_request(format!("pod {} does not have a host assigned", request.name))),
        };
    };
    let upgrade = if sub == "log" { Upgrade::Refused } else { Upgrade::Required };
    let target = kubelet(objects, node, path, upgrade)?;
    Ok(Destination::At(Target { plain_errors: sub == "log", ..target }))
}

/// The container that is meant; upstream's rules and words.
fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        array(&pod["spec"][list]).iter().filter_map(|c| c["name"].as_str()).map(str::to_owned).collect()
    };
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (main, init) = (names("containers"), names("initContainers"));
    if asked.is_empty() {
        if let [one] = main.as_slice() {
            return Ok(one.clone());
        }
        let mut text = format!("a container name must be specified for pod {pod_name}");
        if !main.is_empty() {
            text = format!("{text}, choose one of: [{}]", main.join(" "));
        }
        if !init.is_empty() {
            text = format!("{text} or one of the init containers: [{}]", init.join(" "));
        }
        return Err(ApiError::bad_request(text));
    }
    let known = [main, init, names("ephemeralContainers")].concat();
    known
        .into_iter()
        .find(|name| name == asked)
        .ok_or_else(|| ApiError::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
}

/// The pairs of a query, still percent-encoded: they are passed on as they came.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn with_query(path: String, pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return path;
    }
    let query: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{path}?{}", query.join("&"))
}

fn log_query(query: &str) -> Vec<(&str, &str)> {
    const OWN: &[&str] = &["container", "insecureSkipTLSVerifyBackend", "pretty"];
    pairs(query).filter(|(k, _)| !OWN.contains(k)).collect()
}

/// `ports=80,81` of the API is `port=80,81` at the kubelet.
fn port_query(query: &str) -> Vec<(&str, &str)> {
    pairs(query).filter(|(k, _)| *k == "ports").map(|(_, v)| ("port", v)).collect()
}

/// `stdin=true` of the API is `input=1` at the kubelet.
fn stream_query(query: &str) -> Result<Vec<(&str, &str)>, ApiError> {
    const NAMES: &[(&str, &str)] =
        &[("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let on = |v: &str| v == "true" || v == "1";
    let mut out: Vec<(&str, &str)> = pairs(query).filter(|(k, _)| *k == "command").collect();
    for (api, kubelet) in NAMES {
        if pairs(query).any(|(k, v)| k == *api && on(v)) {
            out.push((kubelet, "1"));
        }
    }
    if !out.iter().any(|(k, _)| matches!(*k, "input" | "output" | "error")) {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(out)
}

fn kubelet(objects: &dyn Objects, node: &str, path: String, upgrade: Upgrade) -> Result<Target, ApiError> {
    let object = get(objects, "nodes", "", node)?;
    let status = &object["status"];
    let find = |kind: &str| {
        array(&status["addresses"])
            .iter()
            .filter(|a| a["type"] == kind)
            .find_map(|a| a["address"].as_str()?.parse::<IpAddr>().ok())
    };
    let ip = find("InternalIP").or_else(|| find("ExternalIP")).ok_or_else(|| {
        ApiError::internal(format!("node {node} has no address yet: its kubelet has not reported one"))
    })?;
    let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
    // The certificate must name the node: whoever writes a foreign address into a Node gains nothing by it.
    let tls_name = Some(node.to_owned());
    let address = SocketAddr::new(routable(ip, node)?, port);
    Ok(Target { address, tls_name, path, upgrade, plain_errors: false })
}

/// Addresses that mean this machine or no machine are not connected to, whatever an object says.
fn routable(ip: IpAddr, whose: &str) -> Result<IpAddr, ApiError> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        return Err(ApiError::bad_request(format!("address not allowed: {ip} of {whose}")));
    }
    Ok(ip)
}

fn node_proxy(objects: &dyn Objects, request: &RequestInfo, query: &str) -> Result<Target, ApiError> {
    let rest = rest(request)?;
    let first = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
    // An encoded first segment could mean one of them too.
    if POD_PATHS.contains(&first) || first.contains('%') {
        let text = format!("/{first} is not reached through nodes/proxy: use the subresources of pods");
        return Err(ApiError::forbidden("nodes", &request.name, &text));
    }
    kubelet(objects, &request.name, join(&rest, query), Upgrade::Refused)
}

fn join(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// What stands behind `/proxy` in the path; never empty.
fn rest(request: &RequestInfo) -> Result<String, ApiError> {
    let marker = format!("/{}/{}/proxy", request.resource, request.name);
    let (_, rest) = request.path.split_once(&marker).unwrap_or(("", ""));
    let dots = |s: &str| {
        let plain = s.to_ascii_lowercase().replace("%2e", ".");
        plain == ".." || plain == "." || plain.contains("%2f")
    };
    if rest.split('/').any(dots) {
        return Err(ApiError::bad_request("the proxied path must not hold dot segments or encoded slashes"));
    }
    Ok(if rest.is_empty() { "/".to_owned() } else { rest.to_owned() })
}

/// `[http:]name[:port]`, as upstream writes the name of a proxied pod or service.
fn proxy_name(full: &str) -> Result<(&str, &str), ApiError> {
    let parts: Vec<&str> = full.split(':').collect();
    match parts.as_slice() {
        [name] => Ok((name, "")),
        [name, port] => Ok((name, port)),
        ["http" | "", name, port] => Ok((name, port)),
        ["https", ..] => {
            Err(ApiError::bad_request("proxying to https endpoints is not supported: use http:name:port"))
        }
        _ => Err(ApiError::bad_request(format!("invalid proxy name \"{full}\": use [http:]name[:port]"))),
    }
}

fn pod_proxy(objects: &dyn Objects, request: &RequestInfo, query: &str) -> Result<Target, ApiError> {
    let (name, port) = proxy_name(&request.name)?;
    let pod = get(objects, "pods", &request.namespace, name)?;
    let first = || {
        array(&pod["spec"]["containers"])
            .iter()
            .find_map(|c| array(&c["ports"]).first()?["containerPort"].as_u64())
    };
    let named = |wanted: &str| {
        array(&pod["spec"]["containers"])
            .iter()
            .flat_map(|c| array(&c["ports"]))
            .find(|p| p["name"] == wanted)
            .and_then(|p| p["containerPort"].as_u64())
    };
    let port = match port {
        "" => first().unwrap_or(80),
        text => text.parse().ok().or_else(|| named(text)).unwrap_or(0),
    };
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    plain(ip, port, &format!("pod {name}"), join(&rest(request)?, query))
}

fn service_proxy(objects: &dyn Objects, request: &RequestInfo, query: &str) -> Result<Target, ApiError> {
    let (name, port) = proxy_name(&request.name)?;
    let service = get(objects, "services", &request.namespace, name)?;
    let ports = array(&service["spec"]["ports"]);
    let wanted = match port {
        "" if ports.len() == 1 => ports.first(),
        text => ports.iter().find(|p| p["name"] == text || p["port"].as_u64() == text.parse().ok()),
    };
    let missing = || {
        let text = format!("no endpoints available for service \"{}\"", request.name);
        ApiError::new(503, "ServiceUnavailable", text)
    };
    let port_name = wanted.ok_or_else(missing)?["name"].as_str().unwrap_or_default();
    let slices = objects.list("endpointslices", &request.namespace);
    let endpoint = slices
        .iter()
        .filter(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == name)
        .find_map(|slice| ready_endpoint(slice, port_name));
    let (ip, port) = endpoint.ok_or_else(missing)?;
    plain(&ip, port, &format!("service {name}"), join(&rest(request)?, query))
}

fn ready_endpoint(slice: &Value, port_name: &str) -> Option<(String, u64)> {
    let port = array(&slice["ports"]).iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name)?;
    let ready = |e: &&Value| e["conditions"]["ready"].as_bool().unwrap_or(true);
    let endpoint = array(&slice["endpoints"]).iter().find(ready)?;
    Some((array(&endpoint["addresses"]).first()?.as_str()?.to_owned(), port["port"].as_u64()?))
}

fn plain(ip: &str, port: u64, whose: &str, path: String) -> Result<Target, ApiError> {
    let ip = ip.parse().map_err(|_| ApiError::internal(format!("{whose} has no IP address yet")))?;
    let port = u16::try_from(port).ok().filter(|p| *p != 0);
    let port = port.ok_or_else(|| ApiError::bad_request(format!("{whose} has no such port")))?;
    let address = SocketAddr::new(routable(ip, whose)?, port);
    Ok(Target { address, tls_name: None, path, upgrade: Upgrade::Allowed, plain_errors: false })
}

fn get(
    objects: &dyn Objects,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<std::sync::Arc<Value>, ApiError> {
    objects.get(resource, namespace, name).ok_or_else(|| ApiError::not_found(resource, name))
}
