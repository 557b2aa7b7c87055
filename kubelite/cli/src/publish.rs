//! Objects that the server itself keeps in the API, for parts of the cluster that read them there.

use std::fmt::Debug;

use anyhow::{Context, Result};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Creates the object, or brings the one that is there to the same state.
pub async fn put<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    match api.create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            api.patch(&name, &PatchParams::default(), &Patch::Merge(object)).await
        }
        other => other,
    }
    .with_context(|| format!("cannot publish {} {name}", K::kind(&())))?;
    Ok(())
}
