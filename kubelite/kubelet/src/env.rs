//! A container's environment.

use k8s_openapi::api::core::v1::{Container, EnvVar, ObjectFieldSelector, Pod};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Why an environment can't be made. Shown to users as the reason CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    /// A field that the downward API doesn't offer.
    #[error("field path \"{0}\" is not supported in an environment variable")]
    FieldPath(String),
    /// A source that this kubelet doesn't read.
    #[error("environment variable {0}: its source is not supported")]
    Source(String),
}

/// The environment of `container`, in order, a later entry of one name replacing an earlier one's value.
///
/// `pod_ips` are the pod's addresses (the node's in the host's network); `client` reads config maps, secrets and services.
pub(crate) async fn environment(
    _client: &kube::Client,
    pod: &Pod,
    container: &Container,
    pod_ips: &[IpAddr],
    host_ip: IpAddr,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut order = vec![];
    for variable in container.env.iter().flatten() {
        let value = value_of(variable, pod, pod_ips, host_ip, &values)?;
        if values.insert(variable.name.clone(), value).is_none() {
            order.push(variable.name.clone());
        }
    }
    let pair = |name: String| values.get(&name).cloned().map(|value| (name, value));
    Ok(order.into_iter().filter_map(pair).collect())
}

fn value_of(
    variable: &EnvVar,
    pod: &Pod,
    pod_ips: &[IpAddr],
    host_ip: IpAddr,
    earlier: &BTreeMap<String, String>,
) -> Result<String, EnvError> {
    let Some(from) = &variable.value_from else {
        return Ok(expand(variable.value.as_deref().unwrap_or_default(), earlier));
    };
    match &from.field_ref {
        Some(field) => field_value(field, pod, pod_ips, host_ip),
        None => Err(EnvError::Source(variable.name.clone())),
    }
}

fn field_value(
    field: &ObjectFieldSelector,
    pod: &Pod,
    pod_ips: &[IpAddr],
    host_ip: IpAddr,
) -> Result<String, EnvError> {
    let spec = pod.spec.as_ref();
    Ok(match field.field_path.as_str() {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "status.hostIP" => host_ip.to_string(),
        "status.podIP" => pod_ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        other => return Err(EnvError::FieldPath(other.to_string())),
    })
}

/// Replaces `$(NAME)` by the value of NAME where there is one; `$$` stands for one dollar sign.
pub(crate) fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = &from[1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match values.get(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let values = BTreeMap::from([("A".to_string(), "1".to_string())]);
        let cases =
            [("$(A)", "1"), ("x$(A)y$(B)", "x1y$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")];
        for (text, expected) in cases {
            assert_eq!(expand(text, &values), expected, "{text}");
        }
    }
}
