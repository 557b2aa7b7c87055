//! From method, path and query to [`RequestInfo`], with everything odd refused before it can mean something.

use http::Method;
use kubelite_api::status::ApiError;

use crate::request::RequestInfo;

/// The parameters of a query, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c=d` with its escapes.
    pub fn parse(uri: &http::Uri) -> Result<Query, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        pairs.map(|q| Query(q.0)).map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))
    }

    /// The first value of a parameter; empty if it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Whether a parameter says yes.
    pub fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1")
    }

    /// A number, or none; anything else is an error.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| ApiError::bad_request(format!("{name}: \"{text}\" is no number")))
    }
}

/// What a request is about.
pub fn request_info(method: &Method, path: &str, query: &Query) -> Result<RequestInfo, ApiError> {
    let segments = segments(path)?;
    let mut info =
        RequestInfo { verb: method.as_str().to_lowercase(), path: path.to_owned(), ..RequestInfo::default() };
    let mut rest = match segments.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => {
            info.version = (*version).to_owned();
            rest
        }
        ["apis", group, version, rest @ ..] if !rest.is_empty() => {
            info.group = (*group).to_owned();
            info.version = (*version).to_owned();
            rest
        }
        _ => return Ok(info),
    };
    info.is_resource = true;
    if let ["namespaces", namespace, resource, ..] = rest
        && !(info.group.is_empty() && matches!(*resource, "status" | "finalize"))
    {
        info.namespace = (*namespace).to_owned();
        rest = &rest[2..];
    }
    let [resource, rest @ ..] = rest else { return Ok(info) };
    info.resource = (*resource).to_owned();
    if let [name, rest @ ..] = rest {
        info.name = (*name).to_owned();
        info.subresource = rest.first().map(ToString::to_string).unwrap_or_default();
        let carried = info.subresource == "proxy";
        if rest.len() > 1 && !carried {
            return Err(ApiError::new(404, "NotFound", "the server could not find the requested resource"));
        }
    }
    // For a namespace itself the namespace of the request is its own name: a role there may speak of it.
    if info.resource == "namespaces" && info.group.is_empty() {
        info.namespace.clone_from(&info.name);
    }
    info.verb = verb(method, &info, query).to_owned();
    Ok(info)
}

fn verb(method: &Method, info: &RequestInfo, query: &Query) -> &'static str {
    let named = !info.name.is_empty();
    match method.as_str() {
        "GET" | "HEAD" if query.is_true("watch") && info.subresource.is_empty() => "watch",
        "GET" | "HEAD" if named => "get",
        "GET" | "HEAD" => "list",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" if named => "delete",
        "DELETE" => "deletecollection",
        _ => "unknown",
    }
}

/// The parts of a path. Escapes, empty parts and the parts `.` and `..` belong to no name that exists here.
fn segments(path: &str) -> Result<Vec<&str>, ApiError> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = trimmed.split('/').collect();
    // What follows `proxy` is the path of another server.
    let own = parts.iter().position(|p| *p == "proxy").unwrap_or(parts.len());
    let odd = |part: &&str| {
        let name = part.replace("%3A", ":").replace("%3a", ":");
        part.is_empty() || *part == "." || *part == ".." || name.contains(['%', '\\', '\0'])
    };
    if parts.iter().take(own).any(odd) {
        return Err(ApiError::bad_request("the path has empty, relative or escaped parts"));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &Method, uri: &str) -> Result<RequestInfo, ApiError> {
        let uri: http::Uri = uri.parse().unwrap();
        request_info(method, uri.path(), &Query::parse(&uri)?)
    }

    #[test]
    fn paths_are_understood() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/pods", ["list", "", "pods", "", "", ""]),
            (Method::GET, "/api/v1/pods?watch=true", ["watch", "", "pods", "", "", ""]),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", ["get", "", "pods", "log", "a", "b"]),
            (
                Method::PUT,
                "/api/v1/namespaces/a/finalize",
                ["update", "", "namespaces", "finalize", "a", "a"],
            ),
            (Method::GET, "/api/v1/namespaces/a", ["get", "", "namespaces", "", "a", "a"]),
            (
                Method::DELETE,
                "/apis/apps/v1/namespaces/a/deployments",
                ["deletecollection", "apps", "deployments", "", "a", ""],
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/d/scale",
                ["patch", "apps", "deployments", "scale", "a", "d"],
            ),
            (Method::GET, "/api/v1/nodes/n/proxy/logs/x", ["get", "", "nodes", "proxy", "", "n"]),
        ] {
            let info = info(&method, uri).unwrap();
            let got =
                [&info.verb, &info.group, &info.resource, &info.subresource, &info.namespace, &info.name];
            assert_eq!(got, expected, "{uri}");
        }
        assert!(!info(&Method::GET, "/healthz").unwrap().is_resource);
    }

    #[test]
    fn odd_paths_are_refused() {
        for uri in [
            "/api/v1/namespaces/../pods",
            "/api/v1//pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/api/v1/namespaces/a%2fb/pods",
            "/api/v1/./pods",
        ] {
            assert!(info(&Method::GET, uri).is_err(), "{uri}");
        }
    }
}
