//! `/healthz`, `/livez`, `/readyz`, `/version` and `/metrics`: what probes and scrapers ask.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;

use crate::registry::Registry;

/// The API level that is served, as clients parse it.
const MINOR: &str = "37";

/// The answer for one of these paths; none for others.
pub fn answer(path: &str, registry: &Registry) -> Option<Response> {
    match path {
        "/healthz" | "/livez" | "/readyz" => Some(text("text/plain; charset=utf-8", "ok".to_owned())),
        "/version" => Some(text("application/json", version().to_string())),
        "/metrics" => Some(text("text/plain; version=0.0.4", metrics(registry))),
        _ => None,
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+kubelite-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none: rustc",
        "compiler": "rustc", "platform": format!("linux/{}", std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64")),
    })
}

/// Objects by resource, in Prometheus' text format.
fn metrics(registry: &Registry) -> String {
    let mut text = String::from(
        "# HELP apiserver_storage_objects Number of stored objects by resource.\n# TYPE apiserver_storage_objects gauge\n",
    );
    for resource in registry.caches.rows().all().filter(|r| std::ptr::eq(*r, r.stored())) {
        let count = registry.caches.of(resource).len();
        text.push_str(&format!(
            "apiserver_storage_objects{{resource=\"{}\"}} {count}\n",
            resource.qualified()
        ));
    }
    let revision = registry.caches.revision();
    text.push_str(&format!("# TYPE apiserver_cache_revision gauge\napiserver_cache_revision {revision}\n"));
    text
}

fn text(media: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
