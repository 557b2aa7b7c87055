//! What stands in volumes that the API fills: config maps, secrets, the pod's own fields, tokens, and mixtures of them.

use super::atomic::{Files, Payload};
use super::token;
use crate::env;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, Pod,
    ProjectedVolumeSource, Secret, SecretVolumeSource, VolumeProjection,
};
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;
use std::path::Path;

const DEFAULT_MODE: i32 = 0o644;

/// Reads sources in a pod's name.
pub(super) struct Reader<'a> {
    client: &'a Client,
    pod: &'a Pod,
    namespace: String,
}

/// Keys to bytes; none if the object is not there.
type Data = Option<BTreeMap<String, Vec<u8>>>;

/// What is taken of an object, and how it is laid out.
struct Selection<'a> {
    /// E.g. `configmap "x"`.
    what: String,
    items: &'a [KeyToPath],
    optional: bool,
    mode: i32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(client: &'a Client, pod: &'a Pod) -> Self {
        Reader { client, pod, namespace: pod.namespace().unwrap_or_default() }
    }

    pub(super) async fn config_map_volume(&self, source: &ConfigMapVolumeSource) -> Result<Files, String> {
        let selection = Selection {
            what: format!("configmap \"{}\"", source.name),
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional.unwrap_or(false),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        };
        select(self.config_map(&source.name).await?, &selection)
    }

    pub(super) async fn secret_volume(&self, source: &SecretVolumeSource) -> Result<Files, String> {
        let name = source.secret_name.clone().unwrap_or_default();
        let selection = Selection {
            what: format!("secret \"{name}\""),
            items: source.items.as_deref().unwrap_or_default(),
            optional: source.optional.unwrap_or(false),
            mode: source.default_mode.unwrap_or(DEFAULT_MODE),
        };
        select(self.secret(&name).await?, &selection)
    }

    pub(super) fn downward_volume(&self, source: &DownwardAPIVolumeSource) -> Result<Files, String> {
        self.downward(
            source.items.as_deref().unwrap_or_default(),
            source.default_mode.unwrap_or(DEFAULT_MODE),
        )
    }

    /// `volume` is where it lies: a token that is there and fresh stays.
    pub(super) async fn projected_volume(
        &self,
        source: &ProjectedVolumeSource,
        volume: &Path,
    ) -> Result<Files, String> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Files::new();
        for projection in source.sources.iter().flatten() {
            files.extend(self.project(projection, mode, volume).await?);
        }
        Ok(files)
    }

    async fn project(&self, source: &VolumeProjection, mode: i32, volume: &Path) -> Result<Files, String> {
        if let Some(map) = &source.config_map {
            let items = map.items.as_deref().unwrap_or_default();
            let what = format!("configmap \"{}\"", map.name);
            let selection = Selection { what, items, optional: map.optional.unwrap_or(false), mode };
            return select(self.config_map(&map.name).await?, &selection);
        }
        if let Some(secret) = &source.secret {
            let items = secret.items.as_deref().unwrap_or_default();
            let what = format!("secret \"{}\"", secret.name);
            let selection = Selection { what, items, optional: secret.optional.unwrap_or(false), mode };
            return select(self.secret(&secret.name).await?, &selection);
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(account) = &source.service_account_token {
            let token = token::token(self.client, self.pod, account, volume).await?;
            return Ok(Files::from([(account.path.clone(), payload(token.into_bytes(), mode))]));
        }
        Err("this kind of projected source is not supported by this kubelet".to_owned())
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], default_mode: i32) -> Result<Files, String> {
        let file = |item: &DownwardAPIVolumeFile| {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => {
                    env::volume_field(&field.field_path, self.pod).map_err(|e| e.to_string())?
                }
                (None, Some(resource)) => {
                    env::resource_value(self.pod, resource.container_name.as_deref(), resource, None)
                        .ok_or_else(|| format!("the resource {} of this pod is not set", resource.resource))?
                }
                (None, None) => return Err(format!("{}: neither fieldRef nor resourceFieldRef", item.path)),
            };
            Ok((item.path.clone(), payload(text.into_bytes(), item.mode.unwrap_or(default_mode))))
        };
        items.iter().map(file).collect()
    }

    async fn config_map(&self, name: &str) -> Result<Data, String> {
        let found = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await;
        let found = found.map_err(|e| message(&e))?;
        Ok(found.map(|map| {
            let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
            let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
            text.chain(binary).collect()
        }))
    }

    async fn secret(&self, name: &str) -> Result<Data, String> {
        let found = Api::<Secret>::namespaced(self.client.clone(), &self.namespace).get_opt(name).await;
        let found = found.map_err(|e| message(&e))?;
        Ok(found.map(|secret| {
            secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect()
        }))
    }
}

/// Lays out an object's data: all keys, or the items with their paths and modes.
fn select(data: Data, selection: &Selection<'_>) -> Result<Files, String> {
    let Some(data) = data else {
        return if selection.optional {
            Ok(Files::new())
        } else {
            Err(format!("{} not found", selection.what))
        };
    };
    if selection.items.is_empty() {
        return Ok(data.into_iter().map(|(key, bytes)| (key, payload(bytes, selection.mode))).collect());
    }
    let mut files = Files::new();
    for item in selection.items {
        match data.get(&item.key) {
            Some(bytes) => drop(
                files.insert(item.path.clone(), payload(bytes.clone(), item.mode.unwrap_or(selection.mode))),
            ),
            None if selection.optional => {}
            None => return Err(format!("{} references non-existent key: {}", selection.what, item.key)),
        }
    }
    Ok(files)
}

fn payload(content: Vec<u8>, mode: i32) -> Payload {
    Payload { content, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777 }
}

/// What the API server said, without the client's own words around it.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(
        data: &[(&str, &str)],
        items: &[(&str, &str)],
        optional: bool,
    ) -> Result<Vec<String>, String> {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect();
        let item = |(key, path): &(&str, &str)| KeyToPath {
            key: (*key).into(),
            path: (*path).into(),
            ..KeyToPath::default()
        };
        let items: Vec<_> = items.iter().map(item).collect();
        let selection = Selection { what: "configmap \"m\"".into(), items: &items, optional, mode: 0o600 };
        select(Some(data), &selection).map(|files| files.into_keys().collect())
    }

    #[test]
    fn keys_become_files() {
        let data = [("a", "1"), ("b", "2")];
        assert_eq!(laid_out(&data, &[], false).unwrap(), ["a", "b"]);
        assert_eq!(laid_out(&data, &[("b", "x/y")], false).unwrap(), ["x/y"]);
        assert_eq!(
            laid_out(&data, &[("c", "x")], false).unwrap_err(),
            "configmap \"m\" references non-existent key: c"
        );
        assert!(laid_out(&data, &[("c", "x")], true).unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        let selection = |optional| Selection { what: "secret \"s\"".into(), items: &[], optional, mode: 0 };
        assert_eq!(select(None, &selection(false)).unwrap_err(), "secret \"s\" not found");
        assert!(select(None, &selection(true)).unwrap().is_empty());
    }
}
