//! Service-account tokens for pods: bound to the pod, and asked for anew before they end.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// A token that has lived for this share of its time is replaced.
const WORN: f64 = 0.8;

/// The token that lies in the volume, as long as it is fresh, or a new one.
pub(super) async fn token(
    client: &Client,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    volume: &Path,
) -> Result<String, String> {
    let now = jiff::Timestamp::now().as_second();
    if let Ok(there) = fs::read_to_string(volume.join(&source.path))
        && is_fresh(&there, now)
    {
        return Ok(there);
    }
    let account = pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.clone())
        .unwrap_or_else(|| "default".to_owned());
    let bound = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
    };
    let spec = TokenRequestSpec {
        audiences: Some(source.audience.iter().cloned().collect()),
        expiration_seconds: source.expiration_seconds,
        bound_object_ref: Some(bound),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
    let answer = answer.map_err(|e| format!("failed to fetch token: {}", super::sources::message(&e)))?;
    answer.status.and_then(|status| status.token).ok_or_else(|| "the API server gave no token".to_owned())
}

/// Read off the token itself, so that nothing has to be remembered. It is ours: nobody needs to verify it here.
fn is_fresh(token: &str, now: i64) -> bool {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<Value> = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let number = |name: &str| claims.as_ref().and_then(|c| c[name].as_i64());
    let (Some(begin), Some(end)) = (number("iat"), number("exp")) else { return false };
    (now - begin) as f64 <= (end - begin) as f64 * WORN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_fresh_for_most_of_its_life() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":2000}"#);
        let token = format!("h.{claims}.s");
        assert!(is_fresh(&token, 1000) && is_fresh(&token, 1800) && !is_fresh(&token, 1801));
        assert!(!is_fresh("nonsense", 0) && !is_fresh("", 0));
    }
}
