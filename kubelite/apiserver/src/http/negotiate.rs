//! In which form a client wants its answer: the object, a table for printing, or the metadata alone; as JSON or YAML.

use http::HeaderMap;
use http::header::ACCEPT;
use kubelite_api::status::ApiError;

/// How an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As it is.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata(List)`.
    Metadata,
}

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The default.
    Json,
    /// Where nothing else is accepted.
    Yaml,
}

/// What the client accepts, first come first served among what we can do.
pub fn accept(headers: &HeaderMap) -> Result<(View, Format), ApiError> {
    let text = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
    for wanted in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let mut parts = wanted.split(';').map(str::trim);
        let format = match parts.next() {
            Some("application/json" | "application/*" | "*/*") => Format::Json,
            Some("application/yaml") => Format::Yaml,
            _ => continue,
        };
        let parameter =
            |name: &str| wanted.split(';').find_map(|p| p.trim().strip_prefix(name)).unwrap_or_default();
        let view = match (parameter("as="), parameter("g="), parameter("v=")) {
            ("", ..) => View::Object,
            ("Table", "meta.k8s.io", "v1") => View::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => View::Metadata,
            _ => continue,
        };
        return Ok((view, format));
    }
    let message = "only the following media types are accepted: application/json, application/yaml";
    Err(ApiError::new(406, "NotAcceptable", message))
}

/// Whether a client asks for discovery in one document, and in which version of it.
pub fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let text = headers.get(ACCEPT)?.to_str().ok()?;
    let first = text.split(',').find(|w| w.trim_start().starts_with("application/json"))?;
    if !first.contains("as=APIGroupDiscoveryList") {
        return None;
    }
    ["v2", "v2beta1"].into_iter().find(|version| first.split(';').any(|p| p.trim() == format!("v={version}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, text.parse().unwrap())])
    }

    #[test]
    fn the_first_possible_form_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(&headers(kubectl)).unwrap(), (View::Table, Format::Json));
        let typed = "application/vnd.kubernetes.protobuf, */*";
        assert_eq!(accept(&headers(typed)).unwrap(), (View::Object, Format::Json));
        assert_eq!(accept(&headers("text/html")).unwrap_err().code, 406);
        assert_eq!(accept(&HeaderMap::new()).unwrap(), (View::Object, Format::Json));
    }

    #[test]
    fn aggregated_discovery_is_asked_for_by_version() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(&headers(kubectl)), Some("v2"));
        assert_eq!(aggregated(&headers("application/json")), None);
    }
}
