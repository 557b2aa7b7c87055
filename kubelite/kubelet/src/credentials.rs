//! Credentials for registries, out of the pod's imagePullSecrets.

use crate::runtime::ImageAuth;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use std::collections::BTreeMap;

/// One registry's entry of a Docker configuration.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerConfig {
    auths: BTreeMap<String, Login>,
}

/// The registry of an image name; names without one belong to Docker's.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Whether a key of a Docker configuration (`https://host/v1/`, `host/path`, `host`) stands for this image.
fn fits(key: &str, image: &str) -> bool {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let host = registry(image);
    match key.split_once('/') {
        Some((key_host, path)) => {
            key_host == host && image.split_once('/').is_some_and(|(_, rest)| rest.starts_with(path))
        }
        None => key == host || (host == "docker.io" && key == "index.docker.io"),
    }
}

/// The credentials of `pod` for the registry of `image`, in the order of its secrets. What can't be read is left out, as
/// upstream does: the pull then says what is missing.
pub(crate) async fn for_image(client: &kube::Client, pod: &Pod, image: &str) -> Vec<ImageAuth> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let references = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
    let mut found = vec![];
    for reference in references {
        match secrets.get(&reference.name).await {
            Ok(secret) => found.extend(logins(&secret, image)),
            Err(error) => tracing::warn!(%error, secret = %reference.name, "image pull secret can't be read"),
        }
    }
    found
}

fn logins(secret: &Secret, image: &str) -> Vec<ImageAuth> {
    let data = secret.data.as_ref();
    let config: DockerConfig = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data
            .and_then(|d| d.get(".dockerconfigjson"))
            .and_then(|bytes| serde_json::from_slice(&bytes.0).ok())
            .unwrap_or_default(),
        Some("kubernetes.io/dockercfg") => DockerConfig {
            auths: data
                .and_then(|d| d.get(".dockercfg"))
                .and_then(|bytes| serde_json::from_slice(&bytes.0).ok())
                .unwrap_or_default(),
        },
        _ => DockerConfig::default(),
    };
    let auth = |(server, login): (String, Login)| ImageAuth {
        username: login.username,
        password: login.password,
        auth: login.auth,
        server_address: server,
        identity_token: login.identitytoken,
    };
    config.auths.into_iter().filter(|(key, _)| fits(key, image)).map(auth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_for_registries() {
        let cases = [
            ("https://index.docker.io/v1/", "busybox:1", true),
            ("docker.io", "library/busybox", true),
            ("host:5000", "host:5000/a/b", true),
            ("host:5000/a", "host:5000/a/b", true),
            ("host:5000/c", "host:5000/a/b", false),
            ("other", "host:5000/a/b", false),
        ];
        for (key, image, expected) in cases {
            assert_eq!(fits(key, image), expected, "{key} {image}");
        }
    }
}
