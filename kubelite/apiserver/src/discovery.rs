//! What there is: `/api`, `/apis` and below, group by group or in one document. All of it is read off the resource table.

use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use crate::custom::rows::Rows;
use crate::http::{Format, respond_value};
use crate::resources::{Resource, VIRTUAL};

const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The answer for a path of discovery; none for others. `aggregated` is the version of the one document, if that is wanted.
pub fn answer(rows: &Rows, path: &str, aggregated: Option<&str>) -> Option<Response> {
    let document = match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        ["api"] if aggregated.is_some() => return Some(in_one(rows, aggregated?, true)),
        ["apis"] if aggregated.is_some() => return Some(in_one(rows, aggregated?, false)),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["apis"] => {
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named_groups(rows).map(|(g, v)| group(g, &v)).collect::<Vec<_>>()})
        }
        ["apis", name] => {
            let (name, versions) = named_groups(rows).find(|(g, _)| g == name)?;
            let mut document = group(name, &versions);
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        ["api", "v1"] => resource_list(rows, "", "v1"),
        ["apis", name, wanted] => {
            let (name, versions) = named_groups(rows).find(|(g, _)| g == name)?;
            resource_list(rows, name, versions.into_iter().find(|v| v == wanted)?)
        }
        [""] | [] => {
            json!({"paths": ["/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"]})
        }
        _ => return None,
    };
    Some(respond_value(StatusCode::OK, &document, Format::Json))
}

fn named_groups(rows: &Rows) -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    rows.groups().into_iter().filter(|(group, _)| !group.is_empty())
}

fn group(name: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// `APIResourceList`.
fn resource_list(rows: &Rows, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for r in rows.all().filter(|r| r.group == group && r.version == version) {
        resources.push(json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": ALL_VERBS,
            "shortNames": r.short, "categories": r.categories,
        }));
        for sub in subresources(r) {
            let mut entry = json!({"name": format!("{}/{}", r.plural, sub.name), "singularName": "", "namespaced": r.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if !sub.group_version.0.is_empty() {
                entry["group"] = json!(sub.group_version.0);
                entry["version"] = json!(sub.group_version.1);
            }
            resources.push(entry);
        }
    }
    for r in VIRTUAL.iter().filter(|r| r.group == group && r.version == version) {
        resources.push(json!({"name": r.plural, "singularName": r.kind.to_lowercase(), "namespaced": r.namespaced, "kind": r.kind, "verbs": ["create"]}));
    }
    if group.is_empty() {
        resources.push(json!({"name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"]}));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

struct Subresource {
    name: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
    /// Where its kind is from, if not from the resource's own group.
    group_version: (&'static str, &'static str),
}

fn subresources(resource: &Resource) -> Vec<Subresource> {
    let own = resource.subresources.iter().map(|name| match *name {
        "scale" => Subresource {
            name,
            kind: "Scale",
            verbs: &["get", "patch", "update"],
            group_version: ("autoscaling", "v1"),
        },
        "binding" => Subresource { name, kind: "Binding", verbs: &["create"], group_version: ("", "") },
        "eviction" => {
            Subresource { name, kind: "Eviction", verbs: &["create"], group_version: ("policy", "v1") }
        }
        "finalize" => Subresource { name, kind: resource.kind, verbs: &["update"], group_version: ("", "") },
        _ => Subresource {
            name,
            kind: resource.kind,
            verbs: &["get", "patch", "update"],
            group_version: ("", ""),
        },
    });
    let connections = resource.connections.iter().map(|(name, kind)| match *name {
        "log" => Subresource { name, kind, verbs: &["get"], group_version: ("", "") },
        "token" => {
            Subresource { name, kind, verbs: &["create"], group_version: ("authentication.k8s.io", "v1") }
        }
        "proxy" => Subresource {
            name,
            kind,
            verbs: &["create", "delete", "get", "patch", "update"],
            group_version: ("", ""),
        },
        _ => Subresource { name, kind, verbs: &["create", "get"], group_version: ("", "") },
    });
    own.chain(connections).collect()
}

/// `APIGroupDiscoveryList` (KEP-3352).
fn in_one(rows: &Rows, version: &str, core: bool) -> Response {
    let wanted = rows.groups().into_iter().filter(|(group, _)| group.is_empty() == core);
    let items: Vec<Value> = wanted
        .map(|(group, versions)| {
            let version = |v: &str| json!({"version": v, "freshness": "Current", "resources": in_one_resources(rows, group, v)});
            let versions: Vec<Value> = versions.into_iter().map(version).collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    let document = json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items});
    let mut response = respond_value(StatusCode::OK, &document, Format::Json);
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    if let Ok(media) = HeaderValue::from_str(&media) {
        response.headers_mut().insert(CONTENT_TYPE, media);
    }
    response
}

fn in_one_resources(rows: &Rows, group: &str, version: &str) -> Vec<Value> {
    let kind = |kind: &str, (g, v): (&str, &str)| json!({"group": g, "version": v, "kind": kind});
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let stored = rows.all().filter(|r| r.group == group && r.version == version).map(|r| {
        let subresources: Vec<Value> = subresources(r).iter().map(|s| {
            let gv = if s.group_version.1.is_empty() { (r.group, r.version) } else { s.group_version };
            json!({"subresource": s.name, "responseKind": kind(s.kind, gv), "verbs": s.verbs})
        }).collect();
        json!({
            "resource": r.plural, "responseKind": kind(r.kind, (r.group, r.version)), "scope": scope(r.namespaced),
            "singularResource": r.singular, "verbs": ALL_VERBS, "shortNames": r.short, "categories": r.categories, "subresources": subresources,
        })
    });
    let asked = VIRTUAL.iter().filter(|r| r.group == group && r.version == version).map(|r| {
        json!({"resource": r.plural, "responseKind": kind(r.kind, (r.group, r.version)), "scope": scope(r.namespaced), "singularResource": r.kind.to_lowercase(), "verbs": ["create"]})
    });
    stored.chain(asked).collect()
}
