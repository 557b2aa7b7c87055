//! Volumes whose files come from the API: config maps, secrets, the downward API, tokens, and several of them projected
//! into one. Each source becomes [`Files`]; the atomic writer does the rest.

use super::atomic::{File, Files};
use super::token;
use crate::downward::{self, Allocatable};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, VolumeProjection,
};
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::path::Path;

/// Mode of files whose volume says nothing.
const DEFAULT_MODE: u32 = 0o644;

/// What a source reads from and for whom.
pub(super) struct Reader<'a> {
    pub(super) client: &'a kube::Client,
    pub(super) pod: &'a Pod,
    /// The volume's directory: where an earlier token lies.
    pub(super) volume: &'a Path,
}

/// Which entries of a map become which files.
pub(super) struct Selection<'a> {
    /// `configmap` or `secret`, as in messages.
    pub(super) kind: &'static str,
    pub(super) name: &'a str,
    pub(super) items: Option<&'a [KeyToPath]>,
    /// What is missing is no error.
    pub(super) optional: bool,
    pub(super) mode: Option<i32>,
}

/// A mode of the API as permission bits.
fn bits(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).map_or(DEFAULT_MODE, |mode| mode & 0o7777)
}

impl Reader<'_> {
    fn namespace(&self) -> String {
        self.pod.namespace().unwrap_or_default()
    }

    /// The files of a config map or secret.
    pub(super) async fn map(&self, selection: &Selection<'_>) -> Result<Files, String> {
        let entries = match selection.kind {
            "secret" => secret(self.client, &self.namespace(), selection.name).await,
            _ => config_map(self.client, &self.namespace(), selection.name).await,
        };
        select(selection, entries?)
    }

    /// The files of the downward API.
    pub(super) fn downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: Option<i32>,
    ) -> Result<Files, String> {
        let one = |item: &DownwardAPIVolumeFile| {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::file(self.pod, &field.field_path)
                    .ok_or_else(|| format!("unsupported fieldPath: {}", field.field_path)),
                (None, Some(resource)) => {
                    downward::resource(self.pod, None, resource, Allocatable::measure())
                }
                (None, None) => Err(format!("file {} has no source", item.path)),
            };
            let file = File { data: text?.into_bytes(), mode: bits(item.mode.or(mode)), uid: None };
            Ok((item.path.clone(), file))
        };
        items.unwrap_or_default().iter().map(one).collect()
    }

    /// The files of one source of a projected volume.
    pub(super) async fn projection(
        &self,
        source: &VolumeProjection,
        mode: Option<i32>,
    ) -> Result<Files, String> {
        if let Some(map) = &source.config_map {
            let (items, optional) = (map.items.as_deref(), map.optional.unwrap_or(false));
            let selection = Selection { kind: "configmap", name: &map.name, items, optional, mode };
            return self.map(&selection).await;
        }
        if let Some(secret) = &source.secret {
            let (items, optional) = (secret.items.as_deref(), secret.optional.unwrap_or(false));
            let selection = Selection { kind: "secret", name: &secret.name, items, optional, mode };
            return self.map(&selection).await;
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.as_deref(), mode);
        }
        if let Some(wanted) = &source.service_account_token {
            let data = token::token(self.client, self.pod, self.volume, wanted).await?;
            let file = token::file(self.pod, data, bits(mode));
            return Ok(Files::from([(wanted.path.clone(), file)]));
        }
        Err("a source of this projected volume is of a kind that this kubelet does not support".into())
    }
}

/// The entries of a config map; None if there is no such map.
pub(crate) async fn config_map(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    let map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(name).await;
    Ok(map.map_err(|e| format!("reading configmap \"{name}\": {e}"))?.map(|map| {
        let text = map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes()));
        text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0))).collect()
    }))
}

/// The entries of a secret; None if there is no such secret.
pub(crate) async fn secret(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    let secret = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await;
    let data = secret.map_err(|e| format!("reading secret \"{name}\": {e}"))?.map(|s| s.data);
    Ok(data.map(|data| data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect()))
}

/// Pure: the selected entries as files.
fn select(selection: &Selection<'_>, entries: Option<BTreeMap<String, Vec<u8>>>) -> Result<Files, String> {
    let Selection { kind, name, items, optional, mode } = *selection;
    let Some(mut entries) = entries else {
        let missing = || format!("{kind} \"{name}\" not found");
        return optional.then(Files::new).ok_or_else(missing);
    };
    let file = |data, mode| File { data, mode: bits(mode), uid: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(entries.into_iter().map(|(key, data)| (key, file(data, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match entries.remove(&item.key).or_else(|| again(items, item, &files)) {
            Some(data) => _ = files.insert(item.path.clone(), file(data, item.mode.or(mode))),
            None if optional => {}
            None => return Err(format!("{kind} references non-existent config key: {}", item.key)),
        }
    }
    Ok(files)
}

/// The data of a key that an earlier item took already.
fn again(items: &[KeyToPath], item: &KeyToPath, files: &Files) -> Option<Vec<u8>> {
    let earlier = items.iter().find(|other| other.key == item.key)?;
    Some(files.get(&earlier.path)?.data.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath { key: key.into(), path: path.into(), mode, ..KeyToPath::default() }
    }

    #[test]
    fn selection_of_keys() {
        let all = || Some(BTreeMap::from([("a".to_string(), b"1".to_vec()), ("b".into(), b"2".to_vec())]));
        let twice = [item("a", "x/y", Some(0o400)), item("a", "z", None)];
        let missing = [item("c", "z", None), item("b", "b", None)];
        let text = |files: Files| {
            let one = |(path, f): (&String, &File)| {
                format!("{path}={}:{:o}", String::from_utf8_lossy(&f.data), f.mode)
            };
            files.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let cases = [
            (None, false, all(), Ok("a=1:600 b=2:600")),
            (Some(&twice[..]), false, all(), Ok("x/y=1:400 z=1:600")),
            (Some(&missing[..]), false, all(), Err("configmap references non-existent config key: c")),
            (Some(&missing[..]), true, all(), Ok("b=2:600")),
            (None, false, None, Err("configmap \"m\" not found")),
            (None, true, None, Ok("")),
        ];
        for (items, optional, entries, expected) in cases {
            let selection = Selection { kind: "configmap", name: "m", items, optional, mode: Some(0o600) };
            let result = select(&selection, entries).map(text);
            assert_eq!(result, expected.map(str::to_string).map_err(str::to_string));
        }
    }
}
