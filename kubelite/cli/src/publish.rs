//! Objects that the server itself keeps in the API, for parts of the cluster that read them there.

use std::fmt::Debug;

use anyhow::{Context, Result};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Brings the object that is there to this state, or creates it.
pub async fn put<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    // Changed first: a service that is made again is refused for its address, which it has itself.
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(object)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            api.create(&PostParams::default(), object).await
        }
        other => other,
    }
    .with_context(|| format!("cannot publish {} {name}", K::kind(&())))?;
    Ok(())
}
